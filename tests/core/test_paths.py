"""Names that no file can have are one error, wherever a path is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.paths import user_path, write_atomically
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.weights.lora_files import load_lora
from swiftai_nb.jobs.history import History
from swiftai_nb.registry.registry import DiffusionModelRegistry

IMPOSSIBLE = ["a" * 5000, "a/" * 3000, "é" * 200, "~nobody-of-that-name/x.png", "a\0b.png", "\ud83d.png"]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=map(str, range(len(IMPOSSIBLE))))
@pytest.mark.parametrize("use", [user_path, GeneratedImage.open, History, load_pipeline, load_lora])
def test_an_impossible_name_is_one_error(use, name):
    with pytest.raises(InvalidInputError, match="cannot be a path") as caught:
        use(name)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=map(str, range(len(IMPOSSIBLE))))
def test_an_impossible_name_of_a_model_is_one_error(name, tmp_path):
    registry = DiffusionModelRegistry(home=tmp_path)
    with pytest.raises(InvalidInputError, match="cannot be a path"):
        registry.resolve(name)


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a.png") == tmp_path / "a.png"
    assert user_path(Path("b") / ("ö" * 120)) == Path("b") / ("ö" * 120)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_atomically(tmp_path / "a", b"1")
    write_atomically(tmp_path / "a", b"2", is_synced=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"3")
    assert (tmp_path / "a").read_bytes() == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]
