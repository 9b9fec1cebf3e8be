"""The wheel alone, in a fresh environment: small, complete, and it draws."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_PACKAGES = 60
MOST_WHEEL_BYTES = 18_000_000
# Unpacked; what is downloaded is about half. JupyterLab is not part of it.
MOST_INSTALLED_BYTES = {"linux": 330_000_000, "darwin": 330_000_000}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([*pip_of(python), "install", "--quiet", str(wheel)], check=True)
    return python


def pip_of(python: Path) -> list[str]:
    """Our pip, for that environment: one that has none of its own is made in a moment."""
    return [sys.executable, "-m", "pip", "--python", str(python)]


def test_wheel_holds_the_model_the_widget_and_the_notices(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "swiftai_nb/py.typed",
        "swiftai_nb/assets/emoji-mini/model_index.json",
        "swiftai_nb/assets/emoji-mini/README.md",
        "swiftai_nb/static/widget.js",
    ):
        assert needed in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [name for name in names if name.split("/")[0] in ("tests", "training", "js", "docs")]


def test_wheel_brings_no_front_end_extension_of_its_own(wheel: Path) -> None:
    """The card travels through the widget's own state: nothing to build, nothing to enable."""
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if ".data/" in name or "labextension" in name]


def test_widgets_have_their_prebuilt_extensions_after_the_install(fresh_python: Path) -> None:
    extensions = fresh_python.parent.parent / "share" / "jupyter" / "labextensions"
    assert (extensions / "anywidget" / "package.json").is_file()
    assert (extensions / "@jupyter-widgets" / "jupyterlab-manager" / "package.json").is_file()


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_WHEEL_BYTES


def test_wheel_alone_draws_a_picture_offline(fresh_python: Path, tmp_path: Path) -> None:
    command = [fresh_python, "-m", "swiftai_nb", "imagine", "a red heart", "--steps", "2", "-o", "heart.png"]
    subprocess.run(
        command, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}, check=True, timeout=240
    )
    assert (tmp_path / "heart.png").read_bytes().startswith(b"\x89PNG")


def test_base_install_stays_small_and_free_of_giants(fresh_python: Path) -> None:
    listed = subprocess.run(
        [*pip_of(fresh_python), "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert len(names) <= MOST_PACKAGES
    assert not names & {"torch", "transformers", "diffusers", "opencv-python", "scipy", "jupyterlab"}
    site = next((fresh_python.parent.parent / "lib").glob("python*/site-packages"))
    installed = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
    assert installed <= MOST_INSTALLED_BYTES.get(sys.platform, 330_000_000), f"{installed / 1e6:.0f} MB"
