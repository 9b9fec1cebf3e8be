"""Large pictures become files beside the notebook, or stay in it where there is no room for files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.output.pictures import Pictures, embed


@pytest.fixture
def pictures() -> Pictures:
    return Pictures([GeneratedImage.from_pil(Image.effect_noise((64, 64), 50))])


def test_a_large_picture_becomes_a_file(pictures: Pictures, tmp_path: Path) -> None:
    data, _ = embed(pictures, largest_bytes=10, folder=tmp_path / "imagine")
    assert "image/png" not in data
    assert [path.read_bytes() for path in (tmp_path / "imagine").iterdir()] == [pictures[0].data]


def test_where_no_file_can_be_written_the_picture_stays_in_the_notebook(
    pictures: Pictures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "imagine").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        data, metadata = embed(pictures, largest_bytes=10, folder=tmp_path / "imagine")
    assert (data, metadata) == embed(pictures)
    assert "stays in the notebook" in caplog.text
