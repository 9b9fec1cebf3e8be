"""A token is set once, from any thread."""

from __future__ import annotations

import threading

import pytest

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import GenerationCancelledError


def test_cancel_from_another_thread_wakes_the_waiter() -> None:
    token = CancellationToken()
    thread = threading.Timer(0.02, token.cancel)
    thread.start()
    assert token.wait(30)
    thread.join()
    with pytest.raises(GenerationCancelledError):
        token.raise_if_cancelled()


def test_callbacks_run_once_whether_early_or_late() -> None:
    token, calls = CancellationToken(), []
    token.on_cancel(lambda: calls.append("early"))
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: calls.append("late"))
    assert calls == ["early", "late"]


def test_fresh_token_does_nothing() -> None:
    token = CancellationToken()
    token.raise_if_cancelled()
    assert not token.is_cancelled
    assert not token.wait(0)
