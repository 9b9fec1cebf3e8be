"""Tab on an `%imagine` line."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter

from swiftai_nb.notebook.magic.completion import Completer
from swiftai_nb.notebook.magic.options import OPTIONS
from swiftai_nb.notebook.magic.prompt import STYLES


def complete(shell: Any, line: str) -> set[str]:
    """What IPython offers at the end of `line`."""
    with provisionalcompleter():
        return {completion.text for completion in shell.Completer.completions(line, len(line))}


@pytest.mark.parametrize(("line", "expected"), [
    ("%imagine a fox --st", {"--steps", "--strength", "--style"}),
    ("%%imagine --see", {"--seed", "--seeds"}),
    ("img = %imagine a fox --gui", {"--guidance", "--guidance-rescale"}),
    ("%imagine --style pix", {"pixel"}),
    ("%imagine --model emoji", {"emoji-mini"}),
    ("%imagine --scheduler euler-", {"euler-karras", "euler-a", "euler-a-karras"}),
    ("%imagine --size port", {"portrait"}),
    ("%imagine --preview t", {"taesd"}),
    ("%imagine a fox --engine diff", {"diffusionkit"}),
    ("%imagine a fox --size=port", {"--size=portrait"}),
    ("%imagine --model=emoji", {"--model=emoji-mini"}),
    ("%imagine --style ", set(STYLES)),
    ("%imagine_models d", {"download", "delete", "default"}),
    ("%imagine_models download sdxl-tu", {"sdxl-turbo"}),
    ("%imagine_models info emoji", {"emoji-mini"}),
    ("%imagine_models delete sdxl-t", set()),
    ("%imagine_jobs c", {"cancel"}),
    ("%imagine_history --r", {"--recall"}),
    ("%imagine_doctor --", set()),
    ("%imagine a fox", set()),
    ("imagine --st", set()),
])  # fmt: skip
def test_completions(shell: Any, line: str, expected: set[str]) -> None:
    assert set(Completer(shell).complete(line)) == expected


@pytest.mark.parametrize(("line", "expected"), [
    ("%imagine a fox --st", {"--steps", "--strength", "--style"}),
    ("%imagine a fox --size ", {"square", "portrait", "landscape", "wide"}),
    ("%imagine --scheduler dpm++2m-", {"dpm++2m-karras", "dpm++2m-sde", "dpm++2m-sde-karras", "dpm++2m-sde-heun",
                                       "dpm++2m-sde-heun-karras"}),
    ("%%imagine --see", {"--seed", "--seeds"}),
    ("%%imagine\n--see", {"--seed", "--seeds"}),
    ("%imagine_models d", {"download", "delete", "default"}),
    ("%imagine_models download sdxl-tu", {"sdxl-turbo"}),
])  # fmt: skip
def test_on_the_magics_lines_ipython_offers_nothing_else(shell: Any, line: str, expected: set[str]) -> None:
    assert complete(shell, line) == expected


def test_all_options_and_nothing_else_are_offered_with_their_help(shell: Any) -> None:
    line = "%imagine a cat --"
    with provisionalcompleter():
        found = {c.text: c.type for c in shell.Completer.completions(line, len(line))}
    assert found == {f"--{option.name}": option.help for option in OPTIONS}


def test_python_lines_are_completed_as_before(shell: Any) -> None:
    shell.user_ns["my_long_variable"] = 1
    assert "my_long_variable" in complete(shell, "print(my_long_va")


def test_after_unloading_python_completes_these_lines_again(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "swiftai_nb")
    assert not [m for m in shell.Completer.custom_matchers if isinstance(m, Completer)]


def test_pictures_in_variables_are_offered(shell: Any) -> None:
    shell.run_line_magic("imagine", "a fox --out my_fox")
    shell.user_ns["my_number"] = 3
    assert set(Completer(shell).complete("%imagine a cat --image my")) == {"my_fox"}


def test_executors_in_variables_are_offered(shell: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        shell.user_ns.update(my_pool=executor, my_number=3)
        assert set(Completer(shell).complete("%imagine a cat --executor my")) == {"my_pool"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_kernel_answers_the_front_end_with_the_magics_own_options() -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive("%load_ext swiftai_nb", timeout=60)
        for line, start, expected in [
            ("%imagine a cat --", 15, {f"--{option.name}" for option in OPTIONS}),
            ("%imagine_models download sdxl-tu", 25, {"sdxl-turbo"}),
        ]:
            answer = client.complete(line, len(line), reply=True, timeout=60)["content"]
            assert set(answer["matches"]) == expected
            assert (answer["cursor_start"], answer["cursor_end"]) == (start, len(line))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
