"""Jobs: their states, their order, and every way of stopping them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    AIError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidInputError,
)
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.jobs.job import JobState, cancelled_error
from swiftai_nb.jobs.queue import JobQueue
from swiftai_nb.testing import FakeGenerator
from tests.waiting import wait_until, wait_until_async


@pytest.fixture
def queue():
    queue = JobQueue()
    yield queue
    queue.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("swiftai-jobs")]


def request_for(prompt="a cat", *, seeds=(7,), **settings):
    return GenerationRequest(prompt, None, ImageGenerationConfig(**settings), tuple(seeds))


def endless():
    return FakeGenerator(step_duration_s=0.02, default_steps=1000)


def test_a_job_makes_one_picture_per_seed_in_order(queue):
    job = queue.submit(request_for(seeds=(5, 6, 9)), FakeGenerator())
    images = job.result(60)
    assert [image.seed for image in images] == [5, 6, 9]
    assert job.state is JobState.DONE
    assert job.error is None
    assert job.images == images
    assert job.last_preview is not None
    assert job.queue_position is None


def test_picture_k_can_be_remade_alone_from_its_seed(queue):
    together = queue.submit(request_for(seeds=(5, 6)), FakeGenerator()).result(60)
    alone = queue.submit(request_for(seeds=(6,)), FakeGenerator()).result(60)
    assert together[1].data == alone[0].data


def test_subscribers_see_every_state_and_step(queue):
    seen = []
    gate = threading.Event()
    first = queue.submit(request_for(), _Gated(gate))
    job = queue.submit(request_for(steps=3), FakeGenerator())
    job.subscribe(lambda j: seen.append((j.state, None if j.progress is None else j.progress.current_step)))
    assert job.queue_position == 1
    gate.set()
    job.result(60)
    first.result(60)
    assert (JobState.QUEUED, None) in seen
    assert list(dict.fromkeys(step for _, step in seen if step)) == [1, 2, 3]
    wait_until(lambda: seen[-1][0] is JobState.DONE)


def test_a_failing_subscriber_hurts_neither_job_nor_other_subscribers(queue, caplog):
    gate, seen = threading.Event(), []
    job = queue.submit(request_for(), _Gated(gate))

    def broken(_):
        raise ValueError("subscriber fault")

    job.subscribe(broken)
    job.subscribe(lambda j: seen.append(j.state))
    gate.set()
    assert len(job.result(60)) == 1
    wait_until(lambda: seen[-1] is JobState.DONE)
    assert "subscriber fault" in caplog.text


def test_unsubscribing_ends_the_calls(queue):
    gate, seen = threading.Event(), []
    job = queue.submit(request_for(), _Gated(gate))
    unsubscribe = job.subscribe(lambda j: seen.append(j.state))
    unsubscribe()
    unsubscribe()
    gate.set()
    job.result(60)
    assert seen == []


def test_subscribing_to_an_ended_job_hears_of_its_end_once(queue):
    job = queue.submit(request_for(), FakeGenerator())
    job.result(60)
    seen = []
    job.subscribe(lambda j: seen.append((j.state, len(j.images))))
    assert seen == [(JobState.DONE, 1)]


def test_three_jobs_with_the_middle_one_cancelled_while_queued(queue):
    gate = threading.Event()
    first = queue.submit(request_for("first"), _Gated(gate))
    middle = queue.submit(request_for("middle"), FakeGenerator())
    last = queue.submit(request_for("last"), FakeGenerator())
    assert [job.queue_position for job in (first, middle, last)] == [0, 1, 2]
    middle.cancel()
    assert middle.wait(60), "a queued job ends at once, though the first still runs"
    assert middle.state is JobState.CANCELLED
    assert last.queue_position == 1
    gate.set()
    assert len(last.result(60)) == 1
    assert len(first.result(60)) == 1
    assert middle.images == ()
    assert [job.request.prompt for job in queue.jobs] == ["first", "middle", "last"]


def test_cancel_keeps_the_finished_pictures_and_the_last_preview(queue):
    generator = _EndlessSecondPicture()
    job = queue.submit(request_for(seeds=(1, 2, 3)), generator)
    wait_until(lambda: job.image_index == 1 and job.progress is not None)
    job.cancel()
    job.cancel()
    with pytest.raises(GenerationCancelledError, match="1 of 3 pictures") as caught:
        job.result(60)
    assert job.state is JobState.CANCELLED
    assert [image.seed for image in job.images] == [1]
    assert job.last_preview is not None
    assert caught.value.completed_steps >= 1
    assert queue.submit(request_for(), FakeGenerator()).result(60)


def test_cancel_from_a_subscriber_on_the_worker_thread(queue):
    job = queue.submit(request_for(), endless())
    job.subscribe(lambda j: j.cancel())
    assert job.wait(60)
    assert job.state is JobState.CANCELLED


def test_cancel_generation_of_the_generator_ends_as_cancelled(queue):
    generator = endless()
    job = queue.submit(request_for(), generator)
    wait_until(lambda: job.progress is not None)
    asyncio.run(generator.cancel_generation())
    assert job.wait(60)
    assert job.state is JobState.CANCELLED
    assert isinstance(job.error, GenerationCancelledError)


def test_cancel_after_the_end_changes_nothing(queue):
    job = queue.submit(request_for(), FakeGenerator())
    job.result(60)
    job.cancel()
    assert job.state is JobState.DONE
    assert not job.token.is_cancelled


def test_an_error_of_the_generator_fails_the_job_and_the_next_one_works(queue):
    job = queue.submit(request_for(), FakeGenerator(fail_at_step=2, error=AIError("no luck", hint="again")))
    with pytest.raises(AIError, match="no luck"):
        job.result(60)
    assert job.state is JobState.FAILED
    assert job.progress.current_step == 1
    assert queue.submit(request_for(), FakeGenerator()).result(60)


@pytest.mark.parametrize("fault", [ZeroDivisionError("oops"), KeyboardInterrupt(), SystemExit(3)])
def test_a_foreign_exception_becomes_a_failed_job(queue, fault):
    job = queue.submit(request_for(), _Raising(fault))
    assert job.wait(60)
    assert job.state is JobState.FAILED
    assert isinstance(job.error, GenerationFailedError)
    assert type(fault).__name__ in job.error.message
    assert queue.submit(request_for(), FakeGenerator()).result(60)


def test_wait_with_a_timeout_returns_false_and_result_says_so(queue):
    job = queue.submit(request_for(), endless())
    assert not job.wait(0.05)
    with pytest.raises(GenerationTimeoutError):
        job.result(0.05)
    job.cancel()
    assert job.wait(60)


def test_a_job_can_be_awaited_from_any_loop(queue):
    async def use():
        job = queue.submit(request_for(seeds=(1, 2)), FakeGenerator(step_duration_s=0.01))
        images, again = await asyncio.gather(_awaiting(job), _awaiting(job))
        assert images == again
        return images

    assert len(asyncio.run(use())) == 2


def test_awaiting_an_ended_job_returns_at_once_and_raises_its_error(queue):
    job = queue.submit(request_for(), FakeGenerator(fail_at_step=1))
    job.wait(60)
    with pytest.raises(AIError, match="made to fail"):
        asyncio.run(_awaiting(job))


def test_a_cancelled_awaiter_leaves_the_job_running(queue):
    gate = threading.Event()

    async def use():
        job = queue.submit(request_for(), _Gated(gate))
        waiter = asyncio.create_task(_awaiting(job))
        await asyncio.sleep(0)  # the waiter awaits now
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return job

    job = asyncio.run(use())
    assert not job.state.is_final
    gate.set()
    assert job.result(60)


def test_context_variables_of_the_submitter_reach_generator_and_subscribers(queue):
    variable = contextvars.ContextVar("cell", default="none")
    gate, seen = threading.Event(), []

    class Reading(_Gated):
        async def generate_image(self, prompt, **options):
            seen.append(variable.get())
            return await super().generate_image(prompt, **options)

    variable.set("cell 3")
    job = queue.submit(request_for(), Reading(gate))
    job.subscribe(lambda j: seen.append(variable.get()))
    variable.set("cell 4")
    gate.set()
    job.result(60)
    assert set(seen) == {"cell 3"}


def test_lanes_run_side_by_side_and_a_wide_lane_runs_several(queue):
    gate = threading.Event()
    local = queue.submit(request_for(), _Gated(gate))
    cloud = [queue.submit(request_for(), _Gated(gate), lane="cloud") for _ in range(4)]
    wait_until(lambda: all(job.state is JobState.RUNNING for job in (local, *cloud)))
    fifth = queue.submit(request_for(), FakeGenerator(), lane="cloud")
    assert fifth.state is JobState.QUEUED
    assert fifth.queue_position == 1
    gate.set()
    for job in (local, *cloud, fifth):
        job.result(60)


def test_a_foreground_job_does_not_wait_for_the_rest_of_a_background_one(queue):
    gate, order = threading.Event(), []
    noting = _Noting(gate, order)
    background = queue.submit(request_for("b", seeds=range(6)), noting, is_background=True)
    wait_until(lambda: background.state is JobState.RUNNING)
    foreground = queue.submit(request_for("f", seeds=range(5)), noting)
    gate.set()
    foreground.result(60)
    background.result(60)
    assert "".join(order) == "b" + "ff" + "b" + "ff" + "b" + "f" + "bbb"


def test_foreground_jobs_keep_their_order_and_finish_one_before_the_next(queue):
    gate, order = threading.Event(), []
    noting = _Noting(gate, order)
    jobs = [queue.submit(request_for(name, seeds=(1, 2)), noting) for name in "abc"]
    gate.set()
    for job in jobs:
        job.result(60)
    assert order == ["a", "a", "b", "b", "c", "c"]


def test_cancelling_a_background_job_that_waits_between_two_pictures(queue):
    gate, order = threading.Event(), []
    background = queue.submit(request_for("b", seeds=range(3)), _Noting(gate, order), is_background=True)
    wait_until(lambda: background.state is JobState.RUNNING)
    hold = threading.Event()
    foreground = queue.submit(request_for("f"), _Gated(hold))
    gate.set()
    wait_until(lambda: len(background.images) == 1)
    background.cancel()
    assert background.wait(60), "it ends though the foreground job still holds the turn"
    assert background.state is JobState.CANCELLED
    hold.set()
    foreground.result(60)
    assert queue.submit(request_for(), FakeGenerator()).result(60)


def test_close_cancels_all_jobs_and_refuses_new_ones():
    queue = JobQueue()
    jobs = [queue.submit(request_for(), endless()) for _ in range(3)]
    queue.close()
    assert [job.state for job in jobs] == [JobState.CANCELLED] * 3
    with pytest.raises(GenerationFailedError, match="closed"):
        queue.submit(request_for(), FakeGenerator())
    queue.close()


def test_only_the_newest_hundred_finished_jobs_are_kept(queue):
    for _ in range(130):
        queue.submit(request_for(), FakeGenerator(default_steps=1)).result(60)
    assert 100 <= len(queue.jobs) <= 101


def test_elapsed_time_stands_still_before_and_after_the_run(queue):
    gate = threading.Event()
    first = queue.submit(request_for(), _Gated(gate))
    waiting = queue.submit(request_for(), FakeGenerator())
    assert waiting.elapsed_s == 0.0
    gate.set()
    waiting.result(60)
    assert first.elapsed_s == first.elapsed_s > 0.0


def test_a_request_needs_valid_seeds():
    with pytest.raises(InvalidInputError, match="without seeds"):
        request_for(seeds=())
    with pytest.raises(InvalidInputError, match="got -1"):
        request_for(seeds=(1, -1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_uses_the_queue_with_workers_of_its_own(queue):
    inherited = queue.submit(request_for(), endless())
    pid = os.fork()
    if pid == 0:
        status = 4
        try:
            is_fresh = len(queue.submit(request_for(), FakeGenerator()).result(60)) == 1
            queue.close()
            status = 3 if is_fresh and not inherited.wait() else 5
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    inherited.cancel()
    assert inherited.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_closes_the_queue_without_waiting_for_its_parents_threads(queue):
    inherited = queue.submit(request_for(), endless())
    pid = os.fork()
    if pid == 0:
        began = time.monotonic()
        try:
            queue.close(timeout_s=30)
        finally:
            os._exit(3 if time.monotonic() - began < 10 else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert not inherited.done
    inherited.cancel()
    assert inherited.wait(60)


@pytest.mark.parametrize(
    ("finished", "wanted", "steps", "message"),
    [
        (0, 1, 20, "Cancelled at step 3 of 20"),
        (0, 1, 0, "Cancelled"),
        (0, 6, 20, "Cancelled at step 3 of 20. No pictures were finished."),
        (1, 6, 20, "Cancelled at step 3 of 20. Kept 1 of 6 pictures."),
        (2, 6, 0, "Cancelled. Kept 2 of 6 pictures."),
    ],
)
def test_a_cancellation_tells_what_is_kept(finished, wanted, steps, message):
    error = cancelled_error(finished=finished, wanted=wanted, step=3, steps=steps)
    assert error.message == message
    assert (error.completed_steps, error.total_steps) == (3, steps)


async def _awaiting(job):
    return await job


class _Gated(FakeGenerator):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    async def generate_image(self, prompt, **options):
        await wait_until_async(self.gate.is_set, 120, message="the gate")
        return await super().generate_image(prompt, **options)


class _Noting(_Gated):
    def __init__(self, gate, order):
        super().__init__(gate)
        self.order = order

    async def generate_image(self, prompt, **options):
        self.order.append(prompt)
        return await super().generate_image(prompt, **options)


class _EndlessSecondPicture(FakeGenerator):
    async def generate_image(self, prompt, *, config, **options):
        self.step_duration_s = 0.0 if config.seed == 1 else 0.05
        steps = 2 if config.seed == 1 else 1000
        return await super().generate_image(prompt, config=config.replace(steps=steps), **options)


class _Raising(FakeGenerator):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    async def generate_image(self, prompt, **options):
        raise self.fault


def test_jobs_that_end_together_are_told_of_their_positions_together(queue):
    running = queue.submit(request_for(), endless())
    jobs = [queue.submit(request_for(), FakeGenerator()) for _ in range(200)]
    told = []
    for job in jobs:
        job.subscribe(lambda job: told.append(job.id))
    for job in reversed(jobs):
        job.cancel()
    wait_until(lambda: all(job.done for job in jobs))
    assert len(told) < 20 * len(jobs)  # each told of each other's end: half of 200 * 200
    running.cancel()
