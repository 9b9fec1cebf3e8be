"""The committed bundle is what the TypeScript source builds, small, and self-contained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STATIC = PROJECT / "swiftai_nb" / "static"
NAMES = ("cell.css", "cell.js", "widget.css", "widget.js")


def test_bundle_is_small() -> None:
    assert sum((STATIC / name).stat().st_size for name in NAMES) <= 120_000


def test_static_folder_holds_the_bundle_alone() -> None:
    assert sorted(path.name for path in STATIC.iterdir()) == list(NAMES)


def test_lock_file_names_no_download_address() -> None:
    lock_file = PROJECT / "js" / "package-lock.json"
    if not lock_file.is_file():
        pytest.skip("the TypeScript source is not part of this installation")
    packages = json.loads(lock_file.read_text(encoding="utf-8"))["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name != "")


def test_bundle_loads_nothing_from_elsewhere() -> None:
    for name in NAMES:
        text = (STATIC / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|@import|\bimport\s*[({*\"']", text) == []


def test_bundle_is_what_the_source_builds(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (PROJECT / "js" / "node_modules" / "esbuild").is_dir():
        pytest.skip("needs node and `npm ci` in js/")
    subprocess.run([node, "build.mjs", str(tmp_path)], cwd=PROJECT / "js", check=True, timeout=120)
    for name in NAMES:
        built = (tmp_path / name).read_text(encoding="utf-8")
        assert built == (STATIC / name).read_text(encoding="utf-8"), f"run `npm run build` in js/: {name}"
