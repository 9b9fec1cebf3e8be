"""Which MLX each platform gets: `python tools/requirements_table.py` (needs uv, Python 3.11 and an index).

Resolves the package's requirements for each platform, and those of `swiftai_nb cuda install`, to wheels, and
writes a Markdown table: packages, bytes to download, back ends of MLX. Exits with 1 unless every row that
computes with MLX has exactly one back end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).parents[1]
PYTHON = "3.12"
LINUX, LINUX_ARM = "x86_64-manylinux_2_35", "aarch64-manylinux_2_35"
MAC, WINDOWS = "aarch64-apple-darwin", "x86_64-pc-windows-msvc"
# Name, platform, back end of an own folder, whether MLX is expected.
ROWS = [
    ("Linux x86-64", LINUX, None, True),
    ("Linux arm64", LINUX_ARM, None, True),
    ("macOS 14, Apple silicon", MAC, None, True),
    ("macOS, Intel", "x86_64-apple-darwin", None, False),
    ("Windows x86-64", WINDOWS, None, True),
    ("Windows on Arm", "aarch64-pc-windows-msvc", None, True),
    ("Linux x86-64, CUDA 12, own folder", LINUX, "mlx-cuda-12", True),
    ("Linux x86-64, CUDA 13, own folder", LINUX, "mlx-cuda-13", True),
    ("Windows x86-64, CUDA 13, own folder", WINDOWS, "mlx-cuda-13", True),
]


def resolve(requirements: Path, platform: str) -> list[dict[str, Any]]:
    """The packages that uv chooses for a platform, from wheels only."""
    command = [
        "uv", "pip", "compile", "--quiet", requirements, "--python-platform", platform,
        "--python-version", PYTHON, "--only-binary", ":all:", "--format", "pylock.toml",
    ]  # fmt: skip
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0:
        sys.exit(result.stderr)
    packages: list[dict[str, Any]] = tomllib.loads(result.stdout)["packages"]
    return packages


def main() -> int:
    """Writes the table."""
    is_fine = True
    version = next(p["version"] for p in resolve(ROOT / "pyproject.toml", LINUX) if p["name"] == "mlx")
    print("| Platform | Packages | Download | MLX and its back ends |\n|---|---|---|---|")
    for name, platform, own_folder, has_mlx in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            requirements = ROOT / "pyproject.toml"
            if own_folder is not None:
                requirements = Path(folder) / "requirements.in"
                requirements.write_text(f"mlx=={version}\n{own_folder}=={version}\n")
            packages = resolve(requirements, platform)
        wheels = [max(p.get("wheels", []), key=lambda w: w.get("size", 0), default={}) for p in packages]
        size_mb = sum(wheel.get("size", 0) for wheel in wheels) / 1e6
        mlx = [f"{p['name']} {p['version']}" for p in packages if p["name"].split("-")[0] == "mlx"]
        back_ends = [text for text in mlx if text.startswith("mlx-")]
        is_fine = is_fine and len(back_ends) == (1 if has_mlx else 0)
        print(f"| {name} | {len(packages)} | {size_mb:,.0f} MB | {', '.join(mlx) or 'none'} |")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
