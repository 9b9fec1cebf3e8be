"""The compiled CPU kernels of `diffusion.cpu.native`: for which processors, how built, and which one fits.

`python -m swiftai_nb.core.cpu_kernels` compiles them; so does `hatch_build.py` while the package is built,
before anything of it can be imported: standard library only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "diffusion" / "cpu" / "native"
OFF_VARIABLE = "SWIFTAI_CPU_KERNELS"
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Target:
    """A library for some processors.

    Attributes:
        name: of the library's file.
        machine: as `platform.machine` says it.
        cpu_flags: what /proc/cpuinfo must list, and what the compiler may use.
        has_bfloat16: whether it multiplies in bfloat16 as well.
        on_request: whether it is used only where OFF_VARIABLE names it: it was never run on such a processor.
    """

    name: str
    machine: str
    cpu_flags: tuple[str, ...]
    has_bfloat16: bool = False
    on_request: bool = False

    @property
    def path(self) -> Path:
        """Where the library is built and found."""
        return FOLDER / f"kernels_{self.name}.so"

    @property
    def options(self) -> tuple[str, ...]:
        """Of the compiler."""
        names = {"avx512_bf16": "avx512bf16", "amx_tile": "amx-tile", "amx_bf16": "amx-bf16"}
        return tuple(f"-m{names.get(flag, flag)}" for flag in self.cpu_flags)


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")
# The best that a processor can run is used; the first is the best.
TARGETS = (
    Target("avx512_bf16", "x86_64", (*_AVX512, "avx512_bf16"), has_bfloat16=True),
    Target("avx512", "x86_64", _AVX512),
    Target("avx2", "x86_64", _AVX2),
    Target("neon", "aarch64", ()),
    Target(
        "amx", "x86_64", (*_AVX512, "avx512_bf16", "amx_tile", "amx_bf16"), has_bfloat16=True, on_request=True
    ),
)
_OPTIONS = (
    "-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The library for this processor.

    Attributes:
        target: None without one.
        reason: why there is none; empty otherwise.
        remedy: what to do about it; empty where nothing can be done.
    """

    target: Target | None
    reason: str = ""
    remedy: str = ""


def choose_library() -> Choice:
    """The best library that was built and that this processor can run."""
    asked = os.environ.get(OFF_VARIABLE, "").strip().lower()
    if asked in ("off", "0", "no", "false"):
        return Choice(None, f"turned off by {OFF_VARIABLE}", f"unset {OFF_VARIABLE}")
    fitting = [target for target in fitting_targets() if not target.on_request or target.name == asked]
    fitting.sort(key=lambda target: target.name != asked)
    if not fitting:
        return Choice(None, f"none for {sys.platform} on {platform.machine()} with this processor")
    built = [target for target in fitting if target.path.exists()]
    if not built:
        remedy = "install a C compiler, then: python -m swiftai_nb.core.cpu_kernels"
        return Choice(None, "not compiled: pictures take longer", remedy)
    return Choice(built[0])


def bfloat16_is_faster() -> bool:
    """Whether products of bfloat16 are the faster ones here.

    AMD's processors take as long for an instruction with 32 products of bfloat16 as for one with 16 of
    float32; Intel's with AVX512_BF16 four times as long. AMX, Intel's other unit, should be faster by far.
    """
    target = choose_library().target
    if target is None or not target.has_bfloat16:
        return False
    return target.on_request or _cpu_facts().get("vendor_id") == "AuthenticAMD"


def resolve_precision(precision: str | None) -> str:
    """What the CPU computes in when asked for one of `PRECISIONS` (None is "auto")."""
    if precision in (None, "auto"):
        return "bfloat16" if bfloat16_is_faster() else "float32"
    target = choose_library().target
    has_bfloat16 = target is not None and target.has_bfloat16
    return "bfloat16" if precision == "bfloat16" and has_bfloat16 else "float32"


def fitting_targets() -> list[Target]:
    """What this processor can run, the best first."""
    if not sys.platform.startswith("linux"):
        return []
    flags = set(_cpu_facts().get("flags", "").split())
    return [t for t in TARGETS if t.machine == platform.machine() and flags.issuperset(t.cpu_flags)]


@cache
def _cpu_facts() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


class BuildError(Exception):
    """No compiler, or one that cannot compile the kernels; says which and why."""


def source_digest() -> str:
    """Of the C sources and the compiler's options."""
    digest = hashlib.sha256(repr((_OPTIONS, TARGETS)).encode())
    for source in sorted((FOLDER / "source").iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def build(
    folder: Path | None = None, *, targets: tuple[Target, ...] = TARGETS, extra_options: tuple[str, ...] = ()
) -> list[Path]:
    """Compiles the kernels for every target of this machine's kind that the compiler knows.

    Args:
        folder: for the libraries; None is where they are looked for.
        targets: those of other machines are left out.
        extra_options: of the compiler.

    Raises:
        BuildError: no compiler, or no target could be compiled.
    """
    own = [target for target in targets if target.machine == platform.machine()]
    if not sys.platform.startswith("linux") or not own:
        raise BuildError(f"no kernels for {sys.platform} on {platform.machine()}")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BuildError("no C compiler (cc); CC names another")
    defined = f'-DSOURCE_DIGEST="{source_digest()}"'
    sources = [str(source) for source in sorted((FOLDER / "source").glob("*.c"))]
    built, complaints = [], []
    for target in own:
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
