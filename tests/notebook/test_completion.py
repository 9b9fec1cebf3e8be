"""Tab on an `%imagine` line."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter

from swiftai_nb.notebook.magic.completion import Completer


def complete(shell: Any, line: str) -> set[str]:
    """What IPython offers at the end of `line`."""
    with provisionalcompleter():
        return {completion.text for completion in shell.Completer.completions(line, len(line))}


@pytest.mark.parametrize(("line", "expected"), [
    ("%imagine a fox --st", {"--steps", "--strength", "--style"}),
    ("%%imagine --see", {"--seed", "--seeds"}),
    ("img = %imagine a fox --gui", {"--guidance"}),
    ("%imagine --style pix", {"pixel"}),
    ("%imagine --model emoji", {"emoji-mini"}),
    ("%imagine --scheduler euler-", {"euler-karras", "euler-a"}),
    ("%imagine --size port", {"portrait"}),
    ("%imagine --preview t", {"taesd"}),
    ("%imagine a fox", set()),
    ("imagine --st", set()),
])  # fmt: skip
def test_completions(shell: Any, line: str, expected: set[str]) -> None:
    words = line.split()
    completer = Completer(shell)
    shell.Completer.line_buffer = line
    assert set(completer.match(words[-1])) == expected


def test_completion_reaches_ipython(shell: Any) -> None:
    assert {"--steps", "--strength", "--style"} <= complete(shell, "%imagine a fox --st")


def test_pictures_in_variables_are_offered(shell: Any) -> None:
    shell.run_line_magic("imagine", "a fox --out my_fox")
    shell.user_ns["my_number"] = 3
    shell.Completer.line_buffer = "%imagine a cat --image my"
    assert Completer(shell).match("my") == ["my_fox"]


def test_executors_in_variables_are_offered(shell: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        shell.user_ns.update(my_pool=executor, my_number=3)
        shell.Completer.line_buffer = "%imagine a cat --executor my"
        assert Completer(shell).match("my") == ["my_pool"]
