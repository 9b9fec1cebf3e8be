"""Callbacks that come and go."""

from __future__ import annotations

from typing import Any

from swiftai_nb.core.listeners import Listeners


def test_all_are_told_in_the_order_they_came():
    listeners, told = Listeners[Any](), []
    for name in "abc":
        listeners.add(lambda value, name=name: told.append((name, value)))
    listeners.tell(7)
    assert told == [("a", 7), ("b", 7), ("c", 7)]


def test_a_removed_one_hears_no_more_and_may_be_removed_twice():
    listeners, told = Listeners[Any](), []
    remove = listeners.add(told.append)
    listeners.add(told.append)
    remove()
    remove()
    listeners.tell(1)
    assert told == [1], "the same callback, added twice, is two listeners"


def test_one_that_leaves_while_all_are_told_disturbs_nobody():
    listeners, told = Listeners[Any](), []

    def leave(value: int) -> None:
        told.append(value)
        remove()

    remove = listeners.add(leave)
    listeners.add(told.append)
    listeners.tell(1)
    listeners.tell(2)
    assert told == [1, 1, 2]
