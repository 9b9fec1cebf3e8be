"""Executes a notebook headlessly and leaves it, with its pictures as files, in a folder."""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(source: str, folder: str) -> None:
    """Runs `source` and writes `folder`/<name>.ipynb and one PNG per picture."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    started = time.monotonic()
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(target)}}).execute()
    executed = target / Path(source).name
    nbformat.write(notebook, executed)
    pictures = _pictures(notebook)
    for number, data in enumerate(pictures, 1):
        (target / f"picture_{number}.png").write_bytes(data)
    print(f"{len(pictures)} pictures in {time.monotonic() - started:.1f} s")
    print(f"  notebook  {executed}")
    print(f"  pictures  {target}{os.sep}picture_*.png")
    print("Open it in JupyterLab:  make lab")


def _pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    bundles = [o["data"] for o in outputs if "data" in o]
    return [base64.b64decode(b["image/png"]) for b in bundles if "image/png" in b]


if __name__ == "__main__":
    main(*sys.argv[1:3])
