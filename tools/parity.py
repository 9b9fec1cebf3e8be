"""Compares with torch and diffusers live: `make parity`.

Makes an environment of its own with torch, diffusers, transformers and peft, records afresh what they make
of the tiny models, and runs the parity tests against that instead of the recorded files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
ENVIRONMENT = BUILD / "parity-venv"
REFERENCES = BUILD / "parity-references"
PACKAGES = ("torch>=2.6", "diffusers>=0.38", "transformers>=4.57", "peft>=0.17", "sentencepiece", "numpy")
TORCH_CPU_ARGUMENT = "SWIFTAI_PARITY_PIP_ARGUMENTS"


def main() -> int:
    """Records and compares; the exit status is that of the tests."""
    python = _environment()
    REFERENCES.mkdir(parents=True, exist_ok=True)
    for script in sorted((ROOT / "tests" / "diffusion" / "parity").glob("record_*.py")):
        print(f"recording with {script.name}", flush=True)
        subprocess.run([python, script, REFERENCES], check=True)
    command = [_test_python(), "-m", "pytest", "tests/diffusion/parity", "-q", *sys.argv[1:]]
    environment = {**os.environ, "SWIFTAI_PARITY_REFERENCES": str(REFERENCES)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    marker = ENVIRONMENT / "installed"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    if not marker.exists():
        extra = os.environ.get(TORCH_CPU_ARGUMENT, "").split()
        subprocess.run([python, "-m", "pip", "install", "--quiet", *extra, *PACKAGES], check=True)
        marker.touch()
    return python


def _test_python() -> str:
    own = BUILD / "venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


if __name__ == "__main__":
    sys.exit(main())
