"""Choices, wildcards, LoRA tags and weights in cells: what is drawn, recorded, left as text, and noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import swiftai_nb
from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.parser import parse
from tests.notebook.magic.test_lora_cells import lora_bytes

UNET = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini" / "unet"
QUICK = "--engine local --steps 1 --seed 7 --plain"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def lora_in(home: Path, name: str) -> None:
    width = json.loads((UNET / "config.json").read_text("utf-8"))["block_out_channels"][-1]
    (home / "loras").mkdir(parents=True, exist_ok=True)
    (home / "loras" / f"{name}.safetensors").write_bytes(lora_bytes(width))


def planned(shell: Any, line: str) -> str:
    return str(shell.run_line_magic("imagine", f"{line} --dry-run"))


def test_each_picture_draws_its_own_prompt_and_records_it(home: Path, shell: Any) -> None:
    pictures = shell.run_line_magic("imagine", f"a {{red|blue|green|yellow}} apple --count 4 {QUICK}")
    prompts = [one.recipe.prompt for one in pictures]
    assert len(set(prompts)) > 1
    assert all(prompt.startswith("a ") and "{" not in prompt for prompt in prompts)
    shell.user_ns["third"] = pictures[2]
    again = shell.run_line_magic("imagine", "--from third --engine local")
    assert again.only.data == pictures[2].data
    alone = shell.run_line_magic("imagine", f"a {{red|blue|green|yellow}} apple {QUICK} --seed 9")
    assert alone.only.recipe.prompt == prompts[2]


def test_wildcards_come_from_the_users_folder(home: Path, shell: Any) -> None:
    (home / "wildcards").mkdir(parents=True)
    (home / "wildcards" / "fruit.txt").write_text("red apple\n", encoding="utf-8")
    made = shell.run_line_magic("imagine", f"a __fruit__ and a __nut__ {QUICK}").only
    assert made.recipe.prompt == "a red apple and a __nut__"
    assert "__nut__ is read as text" in planned(shell, f"a __nut__ {QUICK}")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("a {red|blue} apple --raw", "a {red|blue} apple"),
        ("a {{red|blue}} apple", "a {red|blue} apple"),
        ("a {x}", "a {x}"),
    ],
)
def test_braces_that_are_text(line: str, prompt: str, home: Path, shell: Any) -> None:
    shell.user_ns["x"] = "{x}"
    assert shell.run_line_magic("imagine", f"{line} {QUICK}").only.recipe.prompt == prompt


def test_a_lora_tag_is_the_option(home: Path, shell: Any) -> None:
    lora_in(home, "style")
    tagged = shell.run_line_magic("imagine", f"a red <lora:style:0.5> apple {QUICK}").only
    given = shell.run_line_magic("imagine", f"a red apple --lora style:0.5 {QUICK}").only
    plain = shell.run_line_magic("imagine", f"a red apple {QUICK}").only
    assert tagged.data == given.data != plain.data
    assert tagged.recipe.prompt == "a red apple"
    assert tagged.recipe.loras == (LoraReference("style", 0.5),)


def test_tags_are_read_where_they_are_typed() -> None:
    arguments = parse("fox <lora:a> <lora:org/b:-0.5> <lora:c:1:0.5> <lyco:d:1> --lora e:2")
    expected = [("e", 2.0), ("a", 1.0), ("org/b", -0.5), ("c", 1.0)]
    assert [(lora.source, lora.scale) for lora in arguments.loras] == expected
    assert arguments.prompt == "fox <lyco:d:1>"
    assert parse("fox <lora:a:1> --raw").prompt == "fox <lora:a:1>"


PASTED = """a red <lora:style:0.5> <lora:../../x:1> <lora:org/name:1> apple
Negative prompt: blurry
Steps: 1, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 128x128"""


def test_loras_of_pasted_text_and_of_pictures_are_used_but_never_fetched(home: Path, shell: Any) -> None:
    lora_in(home, "style")
    pasted = shell.run_cell_magic("imagine", "--engine local", PASTED).only
    assert pasted.recipe.loras == (LoraReference("style", 0.5),)
    assert pasted.recipe.prompt == "a red apple"
    shell.user_ns["other"] = Recipe.from_parameters(PASTED)
    made = shell.run_line_magic("imagine", "--from other --engine local").only
    assert made.recipe.loras == (LoraReference("style", 0.5),)
    plan = planned(shell, "--from other --engine local")
    assert plan.count("is not on this disk; it was left out") == 2
