"""Tab on an `%imagine` line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from PIL import Image

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
    ("  x = %imagine a fox --st", {"--steps", "--strength", "--style"}),
    ("%imagine a fox -- --st", set()),
    ("%imagine --quantize ", {"4", "5", "6", "8"}),
    ("%imagine --outpaint left=64,t", {"left=64,top="}),
    ("%imagine --provider fal", {"fal-ai"}),
    ("%imagine --grid steps=1,2 style=pix", {"style=pixel"}),
    ("%imagine --grid scheduler=ddim,heu", {"scheduler=ddim,heun", "scheduler=ddim,heun-karras"}),
    ("%imagine --grid see", {"seed="}),
    ("%imagine_models quantize emoji-mini --", {"--bits", "--id"}),
    ("%imagine_models add org/name --variant flux.2-k", {"flux.2-klein"}),
    ("%imagine_models default no", {"none"}),
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


@pytest.mark.parametrize("cell", [
    "%imagine ", "%imagine a fo", "%imagine a fox --steps ", "%imagine a fox --steps=", "%imagine --seed 1",
    "%imagine a fox --save=", "%imagine --nonsense ", "%imagine is this a cat?", "    %imagine a pr",
    "%imagine_models ", "%imagine_models nons", "%imagine_models delete ", "%imagine_models verify --",
    "%imagine_jobs cancel ", "%imagine_history pri", "%imagine_doctor ", "%imagine_doctor --",
    "%%imagine\npri", "%%imagine --steps 2\na fox\nin pri", "%%imagine\n--steps ", "%%imagine --\n",
])  # fmt: skip
def test_where_the_magic_has_nothing_to_offer_python_is_silent_too(shell: Any, cell: str) -> None:
    shell.user_ns.update(pri_mine=1)
    found = complete(shell, cell)
    assert not found & {"print", "pri_mine", "%cd", "%%capture", "and", "if"}
    own = set(Completer(shell).complete(cell.rpartition("\n")[2]))
    assert found - own <= {f"--{option.name}" for option in OPTIONS}, "no matcher but the magic's own"


def test_every_option_and_value_is_completed_by_the_magic_alone(shell: Any) -> None:
    shell.user_ns.update(mine=1)
    for option in OPTIONS:
        assert f"--{option.name}" in complete(shell, f"%imagine a cat --{option.name[:3]}")
        if option.takes_value:
            offered = complete(shell, f"%imagine a cat --{option.name} ")
            assert offered == set(Completer(shell).complete(f"%imagine a cat --{option.name} ")), option.name
            assert not offered & {"mine", "and", "%cd"}, option.name


def test_paths_are_offered_by_what_the_option_reads(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    (folder / "pics").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("fox.png", "notes.txt", "style.safetensors", ".hidden.png", "pics/a red fox.webp"):
        (folder / name).touch()
    for line, expected in {
        "%imagine a cat --image ": {"fox.png", "pics/"},
        "%imagine a cat --image .h": {".hidden.png"},
        "%imagine a cat --mask=f": {"--mask=fox.png"},
        "%imagine a cat --image pics/": {'"pics/a red fox.webp"'},
        "%imagine a cat --image 'pics/a r": {"'pics/a red fox.webp'"},
        '%imagine a cat --image="pi': {'--image="pics/'},
        "%imagine a cat --control canny=fo": {"canny=fox.png"},
        "%imagine a cat --lora st": {"style.safetensors"},
        "%imagine a cat --model ./": {"./style.safetensors", "./pics/"},
        "%imagine a cat --save p": {"pics/"},
        "%imagine a cat --image nowhere/": set(),
        "%imagine a cat --image \0": set(),
        "%imagine_models add ": {"pics/", "style.safetensors"},
    }.items():
        assert complete(shell, line) == expected, line


def test_in_braces_are_variables_and_their_attributes(shell: Any) -> None:
    shell.user_ns.update(color_name="red", color_image=Image.new("RGB", (8, 8)), _color_hidden=1)
    both = {"{color_name", "{color_image"}
    assert complete(shell, "%imagine a {colo") == both
    assert complete(shell, "%%imagine\na cat and\na {colo") == both
    assert complete(shell, "%imagine a cat --save out/{se") == {"out/{seed"}
    assert "size" in complete(shell, "%imagine a {color_image.si")


def test_numbers_of_the_history_are_offered(shell: Any) -> None:
    shell.run_line_magic("imagine", "a fox --steps 1")
    (number,) = complete(shell, "%imagine_history --recall ")
    assert number == str(shell.run_line_magic("imagine_history", "")[0].id)


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
