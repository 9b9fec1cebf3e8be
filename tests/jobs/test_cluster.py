"""Batches over executors: threads and processes always; Dask and ipyparallel where they are installed."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import EngineDiedError, GenerationFailedError, InvalidInputError
from swiftai_nb.jobs import cluster
from swiftai_nb.jobs.cluster import BatchRequest, ClusterBatch, GeneratorFactory
from swiftai_nb.providers.batch import imagine_batch
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
MAKE = "tests.jobs.batch_generator:TracingGenerator"


@pytest.fixture(autouse=True)
def no_generator_stays():
    yield
    cluster.close_generators()


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def requests(*prompts):
    return [BatchRequest(p, None, ImageGenerationConfig(seed=n)) for n, p in enumerate(prompts)]


def batch(folder, executor, *prompts, step_duration_s=0.0, **options):
    factory = GeneratorFactory.of(MAKE, str(folder), step_duration_s=step_duration_s)
    return ClusterBatch(requests(*prompts), executor, factory, **options)


def traces(folder, word):
    return sorted(path.name for path in folder.glob(f"{word}-*"))


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        yield executor


def test_pictures_come_in_order_and_once(folder, threads):
    prompts = [f"number {n}" for n in range(20)]
    items = list(batch(folder, threads, *prompts))
    assert [item.index for item in items] == list(range(20))
    assert [item.image.prompt for item in items] == prompts
    assert [item.image.seed for item in items] == list(range(20))
    assert len(traces(folder, "made")) == 1, "one generator per process"


def test_unordered_pictures_come_as_they_are_finished(folder):
    held = []

    def work_backwards():
        for future, fn, args in reversed(held):
            future.set_result(fn(*args))

    class Backwards(concurrent.futures.Executor):
        def submit(self, fn, /, *args, **kwargs):
            held.append((concurrent.futures.Future(), fn, args))
            if len(held) == 3:
                threading.Timer(0.2, work_backwards).start()
            return held[-1][0]

    items = list(batch(folder, Backwards(), "a", "b", "c", is_ordered=False))
    assert [item.index for item in items] == [2, 1, 0]


def test_what_a_dying_engine_cost_is_made_again(folder, threads):
    items = list(batch(folder, threads, "a", "engine dies", "c"))
    assert [item.image.prompt for item in items] == ["a", "engine dies", "c"]
    assert [item.attempts for item in items] == [1, 2, 1]


def test_a_picture_that_always_fails_is_given_up_and_the_others_are_kept(folder, threads):
    items = list(batch(folder, threads, "a", "always dies", "bad", "d", attempts=3))
    assert [item.error is None for item in items] == [True, False, False, True]
    with pytest.raises(EngineDiedError):
        _ = items[1].image
    assert isinstance(items[2].error, InvalidInputError)
    assert (items[1].attempts, items[2].attempts) == (3, 1)
    assert len(traces(folder, "tried")) == 4


def test_leaving_early_cancels_what_has_not_begun(folder):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        iterator = iter(batch(folder, executor, *["slow"] * 50, step_duration_s=0.01))
        next(iterator)
        iterator.close()
        started = time.monotonic()
    assert time.monotonic() - started < 5


def test_an_executor_that_is_shut_down_is_an_error_per_picture(folder):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    items = list(batch(folder, executor, "a", "b"))
    assert all(isinstance(item.error, GenerationFailedError) for item in items)


def test_a_late_result_of_an_attempt_given_up_is_not_a_second_picture(folder, threads):
    run = batch(folder, threads, "a", "b")
    run._ended.put((0, concurrent.futures.Future()))
    assert [item.index for item in run] == [0, 1]


def test_a_worker_inside_an_event_loop_makes_pictures_too(folder):
    async def inside():
        return cluster.make_picture(GeneratorFactory.of(MAKE, str(folder)), BatchRequest("a"))

    assert asyncio.run(inside()).prompt == "a"


def test_process_pool_workers_make_one_generator_each(folder):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        items = list(batch(folder, executor, *[f"n {n}" for n in range(8)], step_duration_s=0.01))
    assert [item.image.prompt for item in items] == [f"n {n}" for n in range(8)]
    makers = {name.split("-")[1] for name in traces(folder, "made")}
    assert len(traces(folder, "made")) == len(makers) <= 2


def test_a_broken_process_pool_ends_the_rest_with_an_error_and_keeps_what_was_made(folder):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        items = list(batch(folder, executor, "a", "kill", "c"))
    assert items[0].image.prompt == "a"
    assert "worker failed: BrokenProcessPool" in items[1].error.message


def test_imagine_batch_takes_texts_recipes_and_pictures_and_counts_seeds(folder, threads):
    config = ImageGenerationConfig(seed=5, steps=2)
    options = {"executor": threads, "provider": "tracing", "folder": str(folder)}
    with _provider_named("tracing"):
        made = [item.image for item in imagine_batch(["a", "b"], config=config, **options)]
        again = [item.image for item in imagine_batch([made[1], made[0].recipe], **options)]
        mine = [item.image for item in imagine_batch([BatchRequest("c")], config=config, **options)]
        with pytest.raises(InvalidInputError, match="is not a prompt"):
            imagine_batch(["a", " "], **options)
    assert [image.seed for image in made] == [5, 6]
    assert [image.data for image in again] == [made[1].data, made[0].data]
    assert mine[0].seed == 5


def test_imagine_batch_on_this_machine_with_the_real_engine():
    config = ImageGenerationConfig(model="emoji-mini", steps=1, seed=3)
    items = list(imagine_batch(["a red apple", "", "a cat"][::2], config=config))
    assert [item.image.seed for item in items] == [3, 4]
    assert not cluster._generators, "no engine stays behind"


class _provider_named:  # noqa: N801 - reads as a sentence
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        from swiftai_nb.providers import discovery

        discovery.BUILT_IN[self.name] = MAKE

    def __exit__(self, *_):
        from swiftai_nb.providers import discovery

        del discovery.BUILT_IN[self.name]


# --- real clusters; each is run with a worker killed in the middle ---


@pytest.fixture
def importable(monkeypatch):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


def kill_a_maker_soon(folder, after=3):
    """Kills a worker as soon as it has begun `after` pictures."""

    def busy_workers():
        began = collections.Counter(trace.split("-")[1] for trace in traces(folder, "began"))
        return [int(pid) for pid, count in began.items() if count >= after]

    def work():
        wait_until(busy_workers, 120, message="a worker with pictures")
        os.kill(busy_workers()[0], signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_with_a_killed_worker_loses_and_doubles_nothing(folder, importable):
    distributed = pytest.importorskip("distributed", reason="install the extra: swiftai-nb[cluster]")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local,
        distributed.Client(local) as client,
    ):
        prompts = [f"number {n}" for n in range(30)]
        killer = kill_a_maker_soon(folder)
        items = list(batch(folder, client.get_executor(), *prompts, step_duration_s=0.03))
        killer.join()
    assert [item.image.prompt for item in items] == prompts
    assert [item.image.seed for item in items] == list(range(30))
    assert len(traces(folder, "made")) >= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ipyparallel_with_a_killed_engine_loses_and_doubles_nothing(folder, importable):
    ipyparallel = pytest.importorskip("ipyparallel", reason="install the extra: swiftai-nb[cluster]")
    with ipyparallel.Cluster(n=2, log_level=40) as client:
        client.wait_for_engines(2, timeout=60)
        prompts = [f"number {n}" for n in range(30)]
        killer = kill_a_maker_soon(folder)
        executor = client.executor()
        items = list(batch(folder, executor, *prompts, step_duration_s=0.03))
        killer.join()
    assert [item.image.prompt for item in items] == prompts
    assert [item.image.seed for item in items] == list(range(30))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_with_real_engines_makes_what_this_machine_makes(importable):
    distributed = pytest.importorskip("distributed", reason="install the extra: swiftai-nb[cluster]")
    config = ImageGenerationConfig(model="emoji-mini", steps=2, seed=1)
    prompts = ["a red apple", "a cat", "a tree", "a car"]
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local,
        distributed.Client(local) as client,
    ):
        far = [
            item.image.data for item in imagine_batch(prompts, config=config, executor=client.get_executor())
        ]
    near = [item.image.data for item in imagine_batch(prompts, config=config)]
    assert far == near
