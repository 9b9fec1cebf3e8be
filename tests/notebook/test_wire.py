"""What is sent between kernel and page: named alike in TypeScript and Python, and true to recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.control import RecordedControl
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.sources import SourcePicture
from swiftai_nb.notebook import wire
from swiftai_nb.notebook.cell.widget_view import CellWidget, WidgetView
from swiftai_nb.notebook.magic.cell_text import cell_text
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.notebook.progress import ProgressSnapshot
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget

CONTRACT = Path(__file__).parents[2] / "js" / "src" / "contract.ts"


@pytest.fixture(scope="module")
def contract() -> str:
    if not CONTRACT.is_file():
        pytest.skip("the TypeScript source is not part of this installation")
    return CONTRACT.read_text(encoding="utf-8")


def names_of(contract: str, constant: str) -> tuple[str, ...]:
    found = re.search(rf"export const {constant} = \[(.*?)\]", contract, re.DOTALL)
    assert found is not None, constant
    return tuple(re.findall(r'"(\w+)"', found[1]))


def fields_of(contract: str, interface: str) -> tuple[str, ...]:
    found = re.search(rf"export interface {interface}[^{{]*\{{(.*?)\n\}}", contract, re.DOTALL)
    assert found is not None, interface
    return tuple(re.findall(r"^  (\w+)\??:", found[1], re.MULTILINE))


@pytest.mark.parametrize(
    "constant",
    [
        "SETTINGS",
        "SNAPSHOTS",
        "REQUESTS",
        "REPORTS",
        "CONTROL_KINDS",
        "CELL_TRAITS",
        "CELL_REQUESTS",
        "CELL_REPORTS",
    ],
)
def test_names_are_equal(contract: str, constant: str) -> None:
    assert names_of(contract, constant) == getattr(wire, constant)


@pytest.mark.parametrize(
    ("interface", "shape"),
    [
        ("Progress", ProgressSnapshot),
        ("Picture", wire.PictureSnapshot),
        ("Model", wire.ModelEntry),
        ("InputPicture", wire.InputPicture),
        ("Control", wire.Control),
        ("Choices", wire.Choices),
    ],
)
def test_snapshot_fields_are_equal(contract: str, interface: str, shape: type) -> None:
    assert fields_of(contract, interface) == tuple(shape.__annotations__)


def test_a_job_is_progress_and_more(contract: str) -> None:
    assert "export interface Job extends Progress {" in contract
    expected = (*fields_of(contract, "Progress"), *fields_of(contract, "Job"))
    assert expected == tuple(wire.JobSnapshot.__annotations__)


def test_model_states_are_equal(contract: str) -> None:
    found = re.search(r"export type ModelState =(.*?);", contract, re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r'"(\w+)"', found[1])) == get_args(wire.ModelState)


def synced_traits(widget_class: type) -> set[str]:
    traits = widget_class.class_traits(sync=True)  # type: ignore[attr-defined]
    own = {name: t for name, t in traits.items() if t.this_class.__module__.startswith("swiftai_nb.")}
    return {name for name in own if not name.startswith("_")}


def test_every_name_is_a_synced_trait_and_nothing_else_is(contract: str) -> None:
    assert synced_traits(ImagineWidget) == {*wire.SETTINGS, *wire.SNAPSHOTS}
    assert set(fields_of(contract, "Settings")) == set(wire.SETTINGS)
    assert synced_traits(CellWidget) == set(wire.CELL_TRAITS)
    assert fields_of(contract, "CellTraits") == wire.CELL_TRAITS


def test_every_request_has_a_handler() -> None:
    widget = ImagineWidget()
    assert set(widget._handlers) == set(wire.REQUESTS)
    widget.close()
    view = WidgetView(job_id="1", prompt="", size=(1, 1), blocking=True, on_cancel=lambda: None)
    assert set(view._handlers) == set(wire.CELL_REQUESTS)
    view.finish(None)


def reports_of(*paths: str) -> set[str]:
    folder = Path(wire.__file__).parent
    sources = [(folder / path).read_text(encoding="utf-8") for path in paths]
    return {kind for source in sources for kind in re.findall(r'"kind": "(\w+)"', source)}


def test_every_report_that_python_sends_is_named() -> None:
    widget = ("widget/imagine_widget.py", "widget/page_reports.py", "widget/form.py")
    assert reports_of(*widget, "wire.py") == set(wire.REPORTS)
    assert reports_of("cell/widget_view.py", "wire.py") == set(wire.CELL_REPORTS)


RECIPES = [
    Recipe(prompt="a fox"),
    Recipe(
        prompt='a fox\'s den, "cosy" — émile',
        negative_prompt="blur, {text}",
        model="emoji-mini",
        width=64,
        height=96,
        steps=16,
        guidance_scale=2.5,
        seed=2**53 - 1,
        scheduler="ddim",
        engine="mlx",
    ),
    Recipe(prompt="a {brace} and a --dash", model="a folder/with blanks", seed=0, guidance_scale=0.0),
    Recipe(prompt="a fox", model="owner/name", engine="huggingface", device="cloud", seed=1),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_copied_cell_asks_for_the_same_picture(recipe: Recipe) -> None:
    line, _, body = cell_text(recipe).partition("\n")
    arguments = parse(line.removeprefix("%%imagine"), body, variables={"brace": "x", "text": "y"})
    assert arguments.prompt == recipe.prompt
    assert arguments.negative == recipe.negative_prompt
    config = arguments.config()
    for name in ("model", "width", "height", "steps", "guidance_scale", "seed", "scheduler"):
        assert getattr(config, name) == getattr(recipe, name), name
    assert arguments.engine == ("cloud" if recipe.device == "cloud" else None)


def test_copied_cell_names_what_a_picture_was_made_from() -> None:
    sources = (
        SourcePicture("a" * 64, 8, 8, "my fox.png"),
        SourcePicture("b" * 64, 8, 8, 'x" --save ../../evil'),
    )
    recipe = Recipe(
        prompt="a fox",
        model='owner/x" --out boom',
        width=64,
        height=64,
        image_sha256="a" * 64,
        mask_sha256="b" * 64,
        strength=0.5,
        mask_feather=8,
        outpaint=Outpaint(left=8),
        loras=(LoraReference("owner/pixel", 0.5),),
        controls=(RecordedControl("canny", "c" * 64, 0.8, 0.0, 0.6), RecordedControl("tile", "a" * 64)),
        upscale=2.0,
        upscaler="lanczos",
        sources=sources,
    )
    line, _, body = cell_text(recipe).partition("\n")
    arguments = parse(line.removeprefix("%%imagine"), body, variables={})
    assert (arguments.image, arguments.mask) == ("my fox.png", "PICTURE")
    assert (arguments.out, arguments.save, arguments.size) == (None, None, None)
    assert [(one.source, one.picture, one.scale, one.end) for one in arguments.controls] == [
        ("canny", "PICTURE", 0.8, 0.6),
        ("tile", "my fox.png", 1.0, 1.0),
    ]
    config = arguments.config()
    for name in ("strength", "mask_feather", "outpaint", "loras", "upscale", "upscaler"):
        assert getattr(config, name) == getattr(recipe, name), name


def test_copied_cell_has_a_hires_pass_and_the_size_before_it() -> None:
    recipe = Recipe(
        prompt="a fox", width=64, height=64, hires=1.5, hires_strength=0.3, hires_steps=4, upscaler="lanczos"
    )
    arguments = parse(cell_text(recipe).splitlines()[0].removeprefix("%%imagine"), "a fox", variables={})
    config = arguments.config()
    assert (config.hires, config.hires_strength, config.hires_steps) == (1.5, 0.3, 4)
    assert (config.width, config.upscaler) == (64, "lanczos")
