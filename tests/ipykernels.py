"""Kernels of other ipykernel versions, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

PROJECT = Path(__file__).parents[1]


def old_ipykernel_python(version: str) -> Path:
    """The Python of an environment that is this one, but with another ipykernel.

    It is made once, in build/: a bare venv that holds that one package and looks up all others here.

    Raises:
        subprocess.SubprocessError: it could not be installed.
    """
    folder = PROJECT / "build" / f"ipykernel-{version}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "complete"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):  # several processes of the suite want it at once
        if not (done.exists() and done.read_text() == sys.prefix):
            _install(folder, version)
            done.write_text(sys.prefix)
    return python


def _install(folder: Path, version: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = _site_packages(folder)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*install, f"ipykernel=={version}"], check=True, capture_output=True, timeout=300)
    others = [p for p in sys.path if p.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(others))


def _site_packages(folder: Path) -> Path:
    return (
        folder / "Lib/site-packages"
        if os.name == "nt"
        else next((folder / "lib").glob("python*/site-packages"))
    )


def kernel_command(python: Path) -> list[str]:
    """What a kernel specification starts."""
    return [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
