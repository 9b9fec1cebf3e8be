"""Compares a library with NumPy on small inputs, before anything is computed with it: some milliseconds.

What this finds is a compiler or an emulated processor that computes wrongly; the tests compare more shapes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

Float32 = np.ndarray[Any, np.dtype[np.float32]]

_EXACT, _ROUNDED = 1e-5, 2e-2  # of the largest value; inputs rounded to bfloat16


class _Inputs:
    """Random arrays, and addresses of what is made from them, which it keeps alive."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._kept: list[Any] = []

    def normal(self, *shape: int) -> Float32:
        return self._random.standard_normal(shape, dtype=np.float32)

    def at(self, array: np.ndarray) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def blank(self, count: int) -> int:
        """The address of `count` floats, on a cache line."""
        array = np.zeros(count + 16, np.float32)
        return self.at(array) + -array.ctypes.data % 64


def failed_functions(functions: ctypes.CDLL, *, width: int, half: bool) -> list[str]:
    """Names of the functions whose results differ.

    Args:
        functions: the library.
        width: columns of a panel.
        half: whether it has products of bfloat16, to be tested as well.
    """
    checks: dict[str, Callable[[bool], float]] = {
        "linear": lambda rounds: _linear(functions, width, rounds),
        "convolution": lambda rounds: _winograd(functions, width, rounds),
        "attention": lambda rounds: _attention(functions, width, rounds),
        "activation": lambda _: _activation(functions),
        "normalization": lambda _: _normalization(functions),
        "group normalization": lambda _: _group_normalization(functions),
    }
    kinds = (False, True) if half else (False,)
    return [
        name
        for name, check in checks.items()
        if not all(check(rounds) <= (_ROUNDED if rounds else _EXACT) for rounds in kinds)
    ]


def _error(found: Float32, expected: np.ndarray) -> float:
    """Relative to the largest value; NaN for NaN."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _linear(functions: Any, width: int, half: bool) -> float:
    inputs, (rows, inner, outputs) = _Inputs(), (13, 37, width + 5)
    x, weight, bias = inputs.normal(rows, inner), inputs.normal(outputs, inner), inputs.normal(outputs)
    stored = weight.astype(np.float16)
    out = np.empty((rows, outputs), np.float32)
    functions.linear(
        inputs.at(x), inputs.at(stored), 1, inputs.at(bias), None, inputs.at(out), inner, outputs, outputs,
        0, rows, 0, 2, half, False, inputs.blank((width + rows) * (inner + 1)), None,
    )  # fmt: skip
    return _error(out, x @ stored.astype(np.float32).T + bias)


def _winograd(functions: Any, width: int, half: bool) -> float:
    inputs, (height, channels, outputs) = _Inputs(), (9, 18, 20)
    m = 2 if half else 4
    x, weight = inputs.normal(1, height, height, channels), inputs.normal(outputs, 3, 3, channels)
    out, tiles = np.empty((height, height, outputs), np.float32), (-(-height // m)) ** 2
    block, panel, products = (
        inputs.blank(36 * 48 * length) for length in (channels, width * channels, width)
    )
    functions.winograd_input(
        inputs.at(x), None, block, height, height, channels, channels, False, 0, tiles, m, half
    )
    functions.winograd_kernel(
        inputs.at(weight), 0, panel, channels, outputs, 0, -(-outputs // width), m, half
    )
    functions.winograd_product(
        block, panel, None, None, None, inputs.at(out), height, height, channels, outputs,
        outputs, 0, tiles, 0, -(-outputs // width), m, half, products, None,
    )  # fmt: skip
    padded = np.pad(x[0], [(1, 1), (1, 1), (0, 0)])
    taps = [(i, j) for i in range(3) for j in range(3)]
    expected = sum(padded[i : i + height, j : j + height] @ weight[:, i, j].T for i, j in taps)
    return _error(out, np.asarray(expected))


def _attention(functions: Any, width: int, half: bool) -> float:
    inputs, (rows, keys, size) = _Inputs(), (7, 70, 10)
    q, k, v = inputs.normal(rows, size), inputs.normal(keys, size), inputs.normal(keys, size)
    out, whole = np.empty((rows, size), np.float32), -(-keys // width) * width
    packed_keys, packed_values = inputs.blank(whole * size), inputs.blank(whole * width)
    functions.attention_pack(
        inputs.at(k), inputs.at(v), size, size, keys, size, size, packed_keys, packed_values, half
    )
    functions.attend(
        inputs.at(q), packed_keys, packed_values, None, inputs.at(out), size, 0, size, 0, rows, keys,
        size, size, 0.5, half, inputs.blank(96 * (1024 + 2 * width)), None,
    )  # fmt: skip
    weights = np.exp(0.5 * (q @ k.T))
    return _error(out, weights @ v / weights.sum(axis=1, keepdims=True))


def _activation(functions: Any) -> float:
    inputs = _Inputs()
    x = inputs.normal(37) * np.float32(4)
    out = np.empty_like(x)
    functions.activation(inputs.at(x), inputs.at(out), x.size, 0)
    return _error(out, x / (1 + np.exp(-x)))


def _normalization(functions: Any) -> float:
    inputs = _Inputs()
    x, weight, bias = inputs.normal(5, 37) + np.float32(3), inputs.normal(37), inputs.normal(37)
    out = np.empty_like(x)
    functions.layer_norm(inputs.at(x), inputs.at(weight), inputs.at(bias), inputs.at(out), 5, 37, 1e-5, False)
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return _error(out, (x - x.mean(axis=1, keepdims=True)) / deviation * weight + bias)


def _group_normalization(functions: Any) -> float:
    inputs, (pixels, channels, groups) = _Inputs(), (10, 36, 4)
    x, weight, bias = inputs.normal(pixels, channels), inputs.normal(channels), inputs.normal(channels)
    out, norm, moments = np.empty_like(x), np.empty((3, channels), np.float32), np.empty((2, groups))
    functions.group_moments(
        inputs.at(x), inputs.at(moments), pixels, channels, channels, groups, inputs.blank(channels + 16)
    )
    functions.group_norm_map(
        inputs.at(moments), inputs.at(weight), inputs.at(bias), inputs.at(norm), 1, pixels, pixels, channels,
        groups, 1e-5,
    )  # fmt: skip
    functions.group_apply(inputs.at(x), inputs.at(norm), inputs.at(out), pixels, channels, channels, False)
    values = x.reshape(pixels, groups, -1)
    deviation = np.sqrt(values.var(axis=(0, 2), keepdims=True) + 1e-5)
    expected = ((values - values.mean(axis=(0, 2), keepdims=True)) / deviation).reshape(x.shape)
    return _error(out, expected * weight + bias)
