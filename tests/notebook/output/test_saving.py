"""Names of saved pictures: what a template may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.output.saving import check_template


@pytest.mark.parametrize(
    "template",
    [
        "{seed:>300000000}.png",
        "{seed!r:>400000000}.png",
        "{n:.900f}.png",
        "{n:{seed}}.png",
        "{n!x}.png",
        "{n:q}.png",
    ],
)
def test_a_format_that_does_not_fit_is_one_error(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="cannot fill in"):
        check_template(template)
    assert not list(tmp_path.iterdir())


def test_numbers_may_have_a_width(tmp_path: Path) -> None:
    check_template(f"{tmp_path}/{{n:03d}}-{{seed:>12}}.png")
