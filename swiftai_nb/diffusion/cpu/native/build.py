"""Compiles the kernels: `python swiftai_nb/diffusion/cpu/native/build.py`; packaging calls `build` as well.

Standard library only, and no import of the package: it runs before that is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """A library for some processors.

    Attributes:
        name: of the library's file.
        machine: as `platform.machine` says it.
        cpu_flags: what /proc/cpuinfo must list.
        options: of the compiler.
    """

    name: str
    machine: str
    cpu_flags: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the library is built and found."""
        return HERE / f"kernels_{self.name}.so"


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")
# The best that a processor can run is used; the first is the best.
TARGETS = (
    Target(
        "avx512_bf16",
        "x86_64",
        (*_AVX512, "avx512_bf16"),
        ("-mavx512bf16", *(f"-m{flag}" for flag in _AVX512)),
    ),
    Target("avx512", "x86_64", _AVX512, tuple(f"-m{flag}" for flag in _AVX512)),
    Target("avx2", "x86_64", _AVX2, tuple(f"-m{flag}" for flag in _AVX2)),
    Target("neon", "aarch64", (), ()),
)
_OPTIONS = (
    "-O3",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)


class BuildError(Exception):
    """No compiler, or one that cannot compile the kernels; says which and why."""


def source_digest() -> str:
    """Of the C sources and the compiler's options."""
    digest = hashlib.sha256(repr((_OPTIONS, TARGETS)).encode())
    for source in sorted((HERE / "source").iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path | None = None, *, extra_options: tuple[str, ...] = ()) -> list[Path]:
    """Compiles the kernels for every target of this machine's kind that the compiler knows.

    Args:
        folder: for the libraries; None is beside this file.
        extra_options: of the compiler.

    Raises:
        BuildError: no compiler, or no target could be compiled.
    """
    targets = [target for target in TARGETS if target.machine == platform.machine()]
    if not sys.platform.startswith("linux") or not targets:
        raise BuildError(f"no kernels for {sys.platform} on {platform.machine()}")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BuildError("no C compiler (cc); CC names another")
    defined = f'-DSOURCE_DIGEST="{source_digest()}"'
    sources = [str(source) for source in sorted((HERE / "source").glob("*.c"))]
    built, complaints = [], []
    for target in targets:
        path = target.path if folder is None else folder / target.path.name
        partial = path.with_suffix(f".{os.getpid()}")
        options = (*_OPTIONS, *target.options, defined, *extra_options)
        command = [compiler, *options, *sources, "-o", str(partial), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            partial.replace(path)
            built.append(path)
        else:
            complaints.append(f"{target.name}: {done.stderr.strip()[-500:]}")
    if not built:
        raise BuildError(f"{compiler} failed: {' | '.join(complaints)}")
    return built


if __name__ == "__main__":
    try:
        print(*build(), sep="\n")  # noqa: T201 - a command
    except BuildError as error:
        sys.exit(f"error: {error}")
