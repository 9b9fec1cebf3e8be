"""Tasks: states, callbacks, waiting from threads and event loops, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from typing import Any

import pytest

from swiftai_nb.core.cancellation import CallbackList, CancellationToken
from swiftai_nb.core.errors import (
    AIError,
    DownloadCancelledError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationTimeoutError,
    ServerError,
)
from swiftai_nb.core.task import Task, TaskState, as_ai_error
from tests.waiting import wait_until


class TestTask:
    def test_a_task_goes_from_queued_over_running_to_done(self) -> None:
        task: Task[int, str] = Task()
        assert (task.state, task.done, task.elapsed_s) == (TaskState.QUEUED, False, 0.0)
        assert task.start()
        assert not task.start()
        task.report("half")
        assert (task.state, task.progress) == (TaskState.RUNNING, "half")
        assert task.set_result(7)
        assert (task.state, task.done, task.result(), task.progress) == (TaskState.DONE, True, 7, "half")
        assert task.elapsed_s == task.elapsed_s

    def test_the_first_end_counts(self) -> None:
        task: Task[int, None] = Task()
        assert task.set_error(ServerError("no"))
        assert not task.set_result(7)
        assert not task.set_error(GenerationCancelledError())
        task.report(None)
        assert task.state is TaskState.FAILED
        with pytest.raises(ServerError):
            task.result()

    @pytest.mark.parametrize(
        "error", [GenerationCancelledError(), DownloadCancelledError("x"), asyncio.CancelledError()]
    )
    def test_a_cancellation_is_a_state_of_its_own(self, error: BaseException) -> None:
        task: Task[int, None] = Task()
        task.set_error(error)
        assert task.state is TaskState.CANCELLED

    def test_an_unexpected_exception_becomes_the_cause_of_an_error_of_ours(self) -> None:
        task: Task[int, None] = Task()
        cause = OSError(13, "Permission denied")
        task.set_error(cause)
        assert isinstance(task.error, GenerationFailedError)
        assert task.error.__cause__ is cause
        assert "Permission denied" in task.error.message
        assert as_ai_error(task.error) is task.error

    def test_whatever_its_work_raises_ends_the_task(self) -> None:
        def work() -> int:
            raise PermissionError(13, "no")

        task: Task[int, None] = Task().run_in_thread(work, thread_name="test")
        with pytest.raises(AIError, match="PermissionError"):
            task.result(30)
        assert Task[int, None]().run_in_thread(lambda: 7, thread_name="test").result(30) == 7

    def test_subscribers_receive_every_change_and_the_end(self) -> None:
        task: Task[int, str] = Task()
        seen: list[tuple[str, str | None]] = []
        task.subscribe(lambda t: seen.append((str(t.state), t.progress)))
        task.start()
        task.report("half")
        task.set_result(1)
        assert seen == [("running", None), ("running", "half"), ("done", "half")]

    def test_an_ended_task_is_freed_at_once(self) -> None:
        task: Task[int, str] = Task()
        task.token.on_cancel(lambda task=task: task.notify())
        task.set_result(1)
        reference = weakref.ref(task)
        gc.disable()
        try:
            del task
            assert reference() is None
        finally:
            gc.enable()

    def test_late_callbacks_are_called_immediately(self) -> None:
        task: Task[int, None] = Task()
        task.set_result(1)
        seen: list[Any] = []
        task.subscribe(seen.append)()
        task.add_done_callback(seen.append)()
        assert seen == [task, task]

    def test_done_callbacks_run_once_after_the_end_unless_removed(self) -> None:
        task: Task[int, None] = Task()
        seen: list[bool] = []
        task.add_done_callback(lambda t: seen.append(t.done))
        remove = task.add_done_callback(lambda t: seen.append(False))
        remove()
        remove()
        task.report(None)
        task.set_result(1)
        assert seen == [True]

    def test_a_failing_callback_is_logged_and_hurts_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        task: Task[int, None] = Task()
        seen: list[Any] = []
        task.add_done_callback(lambda _: 1 / 0)
        task.add_done_callback(seen.append)
        task.set_result(1)
        assert seen == [task]
        assert "ZeroDivisionError" in caplog.text

    def test_callbacks_run_in_the_context_of_the_creator(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        variable.set("cell 3")
        task: Task[int, None] = Task()
        seen: list[str] = []
        task.add_done_callback(lambda _: seen.append(variable.get()))
        thread = threading.Thread(target=task.set_result, args=(1,))
        thread.start()
        thread.join()
        assert seen == ["cell 3"]

    def test_waiting_ends_with_the_task_or_the_timeout(self) -> None:
        task: Task[int, None] = Task(name="the download of x")
        assert not task.wait(0)
        with pytest.raises(GenerationTimeoutError, match="the download of x has not finished"):
            task.result(0.01)
        timer = threading.Timer(0.02, task.set_result, (5,))
        timer.start()
        assert task.result(30) == 5
        timer.join()

    def test_await_gives_the_result_in_any_loop(self) -> None:
        task: Task[int, None] = Task()
        timer = threading.Timer(0.02, task.set_result, (5,))
        timer.start()

        async def twice() -> tuple[int, int]:
            return await task, await task

        assert asyncio.run(twice()) == (5, 5)
        timer.join()

    def test_a_cancelled_awaiter_leaves_the_task_running(self) -> None:
        task: Task[int, None] = Task()

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_awaited(task), 0.02)

        asyncio.run(give_up())
        assert not task.token.is_cancelled
        assert not task.done

    def test_wait_or_cancel_passes_the_cancellation_on_and_waits_for_the_end(self) -> None:
        task: Task[int, None] = Task()
        task.token.on_cancel(
            lambda: threading.Timer(0.05, task.set_error, (GenerationCancelledError(),)).start()
        )

        async def main() -> None:
            waiting = asyncio.ensure_future(task.wait_or_cancel(grace_s=30))
            await asyncio.sleep(0)
            waiting.cancel()
            while not task.token.is_cancelled:
                await asyncio.sleep(0)
            waiting.cancel()  # an impatient second cancel does not end the wait
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert task.state is TaskState.CANCELLED

        asyncio.run(main())

    def test_cancel_is_a_request_and_nothing_after_the_end(self) -> None:
        task: Task[int, None] = Task()
        task.cancel()
        assert task.token.is_cancelled
        assert not task.done
        ended: Task[int, None] = Task()
        ended.set_result(1)
        ended.cancel()
        assert not ended.token.is_cancelled

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_process_does_not_wait_for_its_parents_task(self) -> None:
        self._assert_fork_fails(Task())

    def test_a_task_of_another_process_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._assert_result_fails(monkeypatch, Task())

    @staticmethod
    def _assert_result_fails(monkeypatch: pytest.MonkeyPatch, task: Task[int, None]) -> None:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert not task.wait()
        with pytest.raises(GenerationFailedError, match="forked"):
            task.result()
        with pytest.raises(GenerationFailedError, match="forked"):
            asyncio.run(_awaited(task))

    @staticmethod
    def _assert_fork_fails(task: Task[int, None]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                task.result()
            except GenerationFailedError:
                os._exit(3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


async def _awaited(task: Task[int, None]) -> int:
    return await task


class TestCallbackList:
    def test_all_are_called_in_the_order_they_were_added(self) -> None:
        callbacks, called = CallbackList[Any](), []
        for name in "abc":
            callbacks.add(lambda value, name=name: called.append((name, value)))
        callbacks.notify(7)
        assert called == [("a", 7), ("b", 7), ("c", 7)]

    def test_a_removed_one_is_called_no_more_and_may_be_removed_twice(self) -> None:
        callbacks, called = CallbackList[Any](), []
        remove = callbacks.add(called.append)
        callbacks.add(called.append)
        remove()
        remove()
        callbacks.notify(1)
        assert called == [1], "the same callback, added twice, is two callbacks"

    def test_one_that_removes_itself_while_all_are_called_disturbs_nobody(self) -> None:
        callbacks, called = CallbackList[Any](), []

        def leave(value: int) -> None:
            called.append(value)
            remove()

        remove = callbacks.add(leave)
        callbacks.add(called.append)
        callbacks.notify(1)
        callbacks.notify(2)
        assert called == [1, 1, 2]


class TestCancellationToken:
    def test_cancel_from_another_thread_wakes_the_waiter(self) -> None:
        token = CancellationToken()
        thread = threading.Timer(0.02, token.cancel)
        thread.start()
        assert token.wait(30)
        thread.join()
        with pytest.raises(GenerationCancelledError):
            token.raise_if_cancelled()

    def test_callbacks_run_once_whether_early_or_late(self) -> None:
        token, calls = CancellationToken(), []
        token.on_cancel(lambda: calls.append("early"))
        token.cancel()
        token.cancel()
        token.on_cancel(lambda: calls.append("late"))
        assert calls == ["early", "late"]

    def test_fresh_token_does_nothing(self) -> None:
        token = CancellationToken()
        token.raise_if_cancelled()
        assert not token.is_cancelled
        assert not token.wait(0)


def test_wait_until_fails_clearly() -> None:
    with pytest.raises(AssertionError, match="the engine was still false"):
        wait_until(lambda: False, 0.01, message="the engine")
