"""The compiled kernels against naive C: under sanitizers on this processor, and NEON's under an emulator."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swiftai_nb.core import cpu_kernels

DRIVER = Path(__file__).with_name("kernels_driver.c")
SOURCE = cpu_kernels.FOLDER / "source"
OPTIONS = ("-g", "-std=gnu11", "-Wall", "-Wextra", "-fno-math-errno", "-fno-trapping-math", f"-I{SOURCE}")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
TARGETS = {target.name: target.options for target in cpu_kernels.fitting_targets()[:1]} | {
    "vectors of four": ()
}
# AMX's tiles, in C, where the rest of its library can run.
if "avx512_bf16" in TARGETS:
    TARGETS["tiles"] = (*TARGETS["avx512_bf16"], "-DEMULATED_TILES")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernels are for Linux")


def compile_driver(compiler, program, *options):
    """Warnings are printed, not errors: compilers have different ones."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    sources = [DRIVER, *sorted(SOURCE.glob("*.c"))]
    command = [compiler, *OPTIONS, '-DSOURCE_DIGEST=""', *options, *sources, "-o", program, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized" in done.stderr or "cannot find" in done.stderr:
        pytest.skip(f"{compiler} lacks something: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith(" comparisons, 0 differ\n")


@pytest.mark.parametrize("name", TARGETS)
def test_kernels_compute_rightly_and_touch_only_their_own_memory(tmp_path, name):
    compile_driver("cc", tmp_path / "driver", *SANITIZED, *TARGETS[name])
    run(tmp_path / "driver", "20")


@pytest.mark.skipif(platform.machine() == "aarch64", reason="tested without an emulator")
def test_kernels_for_neon_under_an_emulator(tmp_path):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64")
    compile_driver("aarch64-linux-gnu-gcc", tmp_path / "driver", "-O3", "-static")
    run("qemu-aarch64", tmp_path / "driver", "20")
