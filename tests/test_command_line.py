"""The command line: what the magics do, in a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swiftai_nb.core.image import GeneratedImage


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swiftai_nb", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=240, check=False)


def test_imagine_writes_the_picture_with_its_recipe(tmp_path: Path) -> None:
    done = run("imagine", "a cat's hat", "--steps", "2", "--seed", "7", "-o", "cat.png", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cat.png\n", "")
    image = GeneratedImage.open(tmp_path / "cat.png")
    assert image.recipe is not None
    assert (image.prompt, image.seed, image.recipe.steps) == ("a cat's hat", 7, 2)


def test_same_seed_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        run("imagine", "a red heart", "--steps", "2", "--seed", "3", "-o", name, folder=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_several_pictures_get_names_of_their_own(tmp_path: Path) -> None:
    done = run("imagine", "two", "dogs", "--count", "2", "--seed", "1", "--steps", "1", folder=tmp_path)
    assert done.stdout.split() == ["two-dogs-1.png", "two-dogs-2.png"]
    assert {p.name for p in tmp_path.iterdir()} == {"two-dogs-1.png", "two-dogs-2.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("imagine",), "the prompt is empty"),
        (("imagine", "a", "cat", "--step", "4"), "--steps"),
        (("imagine", "a cat", "--steps", "0"), "steps must be between 1 and 1000"),
        (("imagine", "a cat", "-o"), "needs a file"),
        (("imagine", "a cat", "-o", "cat.gif"), ".gif"),
        (("imagine", "a cat", "--model", "nobody"), "nobody"),
    ],
)
def test_bad_input_is_told_in_two_lines_and_leaves_nothing(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = run(*words, folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_unknown_command_shows_the_usage(tmp_path: Path) -> None:
    done = run("paint", folder=tmp_path)
    assert done.returncode == 2
    assert "unknown command 'paint'" in done.stderr
    assert "usage:" in done.stderr


def test_a_command_of_another_package_is_listed_and_runs(tmp_path: Path) -> None:
    info = tmp_path / "waves-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waves\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[swiftai_nb.commands]\nwaves = waves_commands:run\nbroken = nowhere:run\n"
    )
    (tmp_path / "waves_commands.py").write_text(
        'def run(arguments, out):\n    """Makes waves."""\n    out.write(f"{arguments}\\n")\n    return 3\n'
    )
    assert "Makes waves." in run("help", folder=tmp_path).stdout
    done = run("waves", "high", folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "['high']\n")


def test_models_and_doctor_answer(tmp_path: Path) -> None:
    assert "emoji-mini" in run("models", "list", folder=tmp_path).stdout
    assert "emoji-mini" in run("doctor", folder=tmp_path).stdout
