"""The compiled library for this processor: found, tested once against NumPy, or left out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from swiftai_nb.core.cpu_kernels import choose_library, source_digest
from swiftai_nb.diffusion.cpu.native.self_test import failed_functions
from swiftai_nb.diffusion.cpu.workers import Float32

_P, _I, _L, _F, _D = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_double
_SIGNATURES = {
    "linear": [_P, _P, _I, _P, _P, _P, *[_L] * 7, _I, _I, _P, _P],
    "linear_few": [_P, _P, _I, _P, _P, *[_L] * 5],
    "conv": [_P, _P, _I, _P, _P, _P, _P, *[_L] * 12, _I, _P, _P],
    "winograd_input": [_P, _P, _P, *[_L] * 4, _I, _L, _L, _I, _I],
    "winograd_kernel": [_P, _I, _P, *[_L] * 4, _I, _I],
    "winograd_product": [*[_P] * 6, *[_L] * 9, _I, _I, _P, _P],
    "attention_pack": [_P, _P, *[_L] * 5, _P, _P, _I],
    "attend": [*[_P] * 5, *[_L] * 8, _F, _I, _P, _P],
    "activation": [_P, _P, _L, _I],
    "geglu": [_P, _P, _L, _L],
    "layer_norm": [*[_P] * 4, _L, _L, _F, _I],
    "group_moments": [_P, _P, *[_L] * 4, _P],
    "group_norm_map": [*[_P] * 4, *[_L] * 5, _D],
    "group_apply": [_P, _P, _P, *[_L] * 3, _I],
}


@dataclass(frozen=True)
class Kernels:
    """A loaded library.

    Attributes:
        name: the target it was compiled for.
        functions: its C functions.
        width: columns of a panel.
        half: whether it has products of bfloat16.
    """

    name: str
    functions: Any
    width: int
    half: bool


@dataclass(frozen=True)
class Status:
    """Whether there is a library that computes rightly.

    Attributes:
        kernels: the loaded library, or None.
        reason: why there is none, empty otherwise.
    """

    kernels: Kernels | None
    reason: str


def open_library(path: Path) -> Kernels:
    """Loads a library.

    Raises:
        OSError: not a library, or one of another machine or version.
    """
    loaded = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise OSError(f"{path.name} is of another version: {error}") from error
        function.argtypes, function.restype = arguments, None
    loaded.source_digest.restype = ctypes.c_char_p
    if loaded.source_digest().decode() != source_digest():
        raise OSError("it was compiled from other sources")
    if not loaded.permitted():
        raise OSError("the system does not permit it the processor's tiles")
    name = path.stem.removeprefix("kernels_")
    return Kernels(name, loaded, int(loaded.tile_width()), bool(loaded.half_products()))


@cache
def status() -> Status:
    """The library of this process, opened and tested at the first call."""
    choice = choose_library()
    if choice.target is None:
        return Status(None, choice.reason)
    try:
        kernels = open_library(choice.target.path)
    except OSError as error:
        return Status(None, f"{choice.target.path.name} cannot be loaded ({error})")
    failed = failed_functions(kernels.functions, width=kernels.width, half=kernels.half)
    if failed:
        return Status(None, f"{', '.join(failed)} differ from NumPy on this processor")
    return Status(kernels, "")


def library() -> Kernels | None:
    """The library of this process; None where NumPy does the work."""
    return status().kernels


def loaded() -> Kernels:
    """The library of this process, where the caller knows that there is one."""
    kernels = library()
    assert kernels is not None, "called without compiled kernels"
    return kernels


def address(array: Float32 | None) -> int | None:
    """Of an array's first element; None for None."""
    return None if array is None else array.ctypes.data


def rounded_to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Float32 values rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    values: np.ndarray = rounded.astype(np.uint32).view(np.float32)
    return values
