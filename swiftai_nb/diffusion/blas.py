"""Gives MLX's Linux CPU wheel a fast BLAS, in this process only.

That wheel calls the reference BLAS (about 4 GFLOP/s). OpenBLAS from the `scipy-openblas32` wheel does the
same sums 30 to 90 times faster. Three pointers of libmlx's procedure linkage table are made to point at it
(System V ABI, "Dynamic Linking"); nobody else in the process sees a difference. A product checked against
NumPy decides whether the pointers stay.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import platform
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from swiftai_nb.diffusion import elf

_ROUTINES = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS multiplies MLX's matrices on the CPU.

    Attributes:
        active: whether the fast library is in place.
        library: its name and version, or None.
        reason: one line on why it is, or is not, in place.
    """

    active: bool
    library: str | None
    reason: str


_lock = threading.RLock()
_status: BlasStatus | None = None
_openblas: ctypes.CDLL | None = None  # kept for ever: libmlx holds pointers into it
_original: dict[int, int] = {}


def install_fast_blas(*, enabled: bool = True) -> BlasStatus:
    """Points MLX's matrix products at OpenBLAS when that is possible and right.

    Safe to call more than once and from any thread. It never raises: whatever stands in the way is the
    `reason` of an inactive status, and MLX goes on with its own BLAS. With `enabled=False` an earlier
    installation is undone.
    """
    global _status  # noqa: PLW0603 - the process has one libmlx
    with _lock:
        if not enabled:
            _restore()
            _status = None
            return BlasStatus(active=False, library=None, reason="switched off")
        if _status is None or not _status.active:
            _status = _install()
        return _status


def _install() -> BlasStatus:
    obstacle = _obstacle()
    if obstacle is not None:
        return BlasStatus(active=False, library=None, reason=obstacle)
    try:
        library = _load_openblas()
        addresses = {name: _address(library, f"scipy_{name}") for name in _ROUTINES}
        slots = elf.jump_slots("libmlx.so", _ROUTINES)
        if "cblas_sgemm" not in slots:
            return BlasStatus(active=False, library=None, reason="libmlx.so brings its own products")
        for name, slot in slots.items():
            _original.setdefault(slot, elf.write_pointer(slot, addresses[name]))
        if not _products_are_right():
            _restore()
            return BlasStatus(active=False, library=None, reason="the self-test differed from NumPy")
    except (OSError, AttributeError, ValueError, elf.ElfError) as error:
        _restore()
        return BlasStatus(active=False, library=None, reason=f"could not be installed: {error}")
    _call(library, "scipy_openblas_set_num_threads", usable_cpus())
    return BlasStatus(active=True, library=_describe(library), reason="the self-test agreed with NumPy")


def _obstacle() -> str | None:
    import mlx.core as mx

    if not sys.platform.startswith("linux"):
        return "only MLX's Linux wheels need it"
    if platform.machine() not in _MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"not tried on {platform.machine()}"
    if mx.default_device() != mx.cpu:
        return "MLX computes on a GPU"
    if importlib.util.find_spec("scipy_openblas32") is None:
        return "the scipy-openblas32 package is not installed"
    return None


def _load_openblas() -> ctypes.CDLL:
    global _openblas  # noqa: PLW0603 - see its definition
    if _openblas is None:
        spec = importlib.util.find_spec("scipy_openblas32")
        if spec is None or spec.origin is None:
            raise OSError("scipy_openblas32 has no files")
        files = sorted((Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so*"))
        if not files:
            raise OSError("scipy_openblas32 holds no library")
        _openblas = ctypes.CDLL(str(files[0]))
    return _openblas


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    if address is None:
        raise OSError(f"{name} has no address")
    return address


def _restore() -> None:
    for slot, pointer in _original.items():
        elf.write_pointer(slot, pointer)
    _original.clear()


def _describe(library: ctypes.CDLL) -> str:
    config = library.scipy_openblas_get_config
    config.restype = ctypes.c_char_p
    words = (config() or b"").decode("ascii", "replace").split()
    return " ".join(words[:2]) if words else "OpenBLAS"


def _products_are_right() -> bool:
    """Multiplies matrices of every layout MLX hands to BLAS and compares with NumPy in float64."""
    import mlx.core as mx

    random = np.random.default_rng(0)
    for rows, inner, columns in ((64, 64, 64), (33, 7, 65), (1, 130, 3)):
        a = random.standard_normal((rows, inner)).astype(np.float32)
        b = random.standard_normal((inner, columns)).astype(np.float32)
        c = random.standard_normal((rows, columns)).astype(np.float32)
        expected = a.astype(np.float64) @ b
        ma, mb, mc = mx.array(a), mx.array(b), mx.array(c)
        mbt, mat = mx.array(np.ascontiguousarray(b.T)), mx.array(np.ascontiguousarray(a.T))
        complex_a = ma.astype(mx.complex64) * mx.array(1 + 2j)
        cases = (
            (ma @ mb, expected),
            (ma @ mbt.T, expected),
            (mat.T @ mb, expected),
            (mx.addmm(mc, ma, mb), expected + c),
            (complex_a @ mb.astype(mx.complex64), expected * (1 + 2j)),
        )
        for got, want in cases:
            if not np.allclose(np.asarray(got), want, rtol=1e-4, atol=1e-4):
                return False
    return True


def set_threads(count: int) -> None:
    """Sets how many threads one matrix product of MLX uses; nothing happens when OpenBLAS is not active."""
    if _status is not None and _status.active and _openblas is not None:
        _call(_openblas, "scipy_openblas_set_num_threads", count)


def threads() -> int:
    """How many threads one matrix product of MLX uses."""
    if _status is None or not _status.active or _openblas is None:
        return 1
    return _call(_openblas, "scipy_openblas_get_num_threads")


def limit_numpy_threads(count: int = 1) -> bool:
    """Limits the BLAS inside NumPy's own wheel, so that two pools of threads do not fight for the cores.

    Meant for the engine's process, where NumPy's products are called from our own threads. Returns False
    when NumPy carries no OpenBLAS (macOS Accelerate, a distribution's build).
    """
    np.linalg.inv(np.eye(1))  # the library is loaded by now
    for path in elf.loaded_libraries():
        if "openblas" in Path(path).name and "numpy" in path:
            library = ctypes.CDLL(path)
            for suffix in ("64_", ""):
                name = f"scipy_openblas_set_num_threads{suffix}"
                if hasattr(library, name):
                    _call(library, name, count)
                    return True
    return False


def _call(library: ctypes.CDLL, name: str, *numbers: int) -> int:
    function: Any = getattr(library, name)
    function.restype = ctypes.c_int
    return int(function(*(ctypes.c_int(n) for n in numbers)))


def usable_cpus() -> int:
    """Processors this process may use: its affinity, and the CPU quota of its container if there is one."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count()
    return max(1, min(count if count is not None else 1, _cgroup_cpus()))


@cache
def _cgroup_cpus() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no quota
        return sys.maxsize
