"""TypeScript and Python name the same things."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from swiftai_nb.notebook.widget import wire
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


@pytest.mark.parametrize("constant", ["SETTINGS", "SNAPSHOTS", "REQUESTS", "REPORTS"])
def test_names_are_equal(contract: str, constant: str) -> None:
    assert names_of(contract, constant) == getattr(wire, constant)


@pytest.mark.parametrize(
    ("interface", "shape"),
    [("Job", wire.JobSnapshot), ("Picture", wire.PictureSnapshot), ("Model", wire.ModelEntry)],
)
def test_snapshot_fields_are_equal(contract: str, interface: str, shape: type) -> None:
    assert fields_of(contract, interface) == tuple(shape.__annotations__)


def test_model_states_are_equal(contract: str) -> None:
    found = re.search(r"export type ModelState =(.*?);", contract, re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r'"(\w+)"', found[1])) == get_args(wire.ModelState)


def test_every_name_is_a_synced_trait_and_nothing_else_is(contract: str) -> None:
    own = {
        name
        for name, trait in ImagineWidget.class_traits(sync=True).items()
        if trait.this_class is ImagineWidget and not name.startswith("_")
    }
    assert own == {*wire.SETTINGS, *wire.SNAPSHOTS}
    assert set(fields_of(contract, "Settings")) == set(wire.SETTINGS)


def test_every_request_has_a_handler() -> None:
    widget = ImagineWidget()
    assert set(widget._handlers) == set(wire.REQUESTS)
    widget.close()


def test_every_report_that_python_sends_is_named() -> None:
    folder = Path(wire.__file__).parent
    sent = set()
    for path in folder.glob("widget*.py"):
        sent |= set(re.findall(r'"kind": "(\w+)"', path.read_text(encoding="utf-8")))
    assert sent == set(wire.REPORTS)
