"""Activations in blocks of NumPy, on all workers.

Blocks that fit the innermost cache would be faster alone, but threads that call NumPy for a few microseconds
at a time spend longer waiting for the interpreter's lock: two of them took twice as long as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import new_array, view
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, spans

_BLOCK_ELEMENTS = 1 << 17

# 2 atanh(erf(x / sqrt 2)) = logit(Phi(x)) = x P(x^2): least squares on [0, 5.5], weighted by the effect on
# x Phi(x) and reweighted towards equal errors. x Phi(x) is then within 6e-7 absolute, 2e-7 of |x|.
_LOGIT_RANGE = 5.5
_LOGIT = (
    1.595769515e00, 7.266400359e-02, -6.093269328e-05, -1.130003734e-04,
    8.495665397e-06, -3.270013665e-07, 6.622691734e-09, -5.535666241e-11,
)  # fmt: skip


def _apply(block: Callable[[Float32, Float32], None], x: mx.array) -> mx.array:
    values = np.ascontiguousarray(view(x)).reshape(-1)
    result, out = new_array(x.shape)
    flat = out.reshape(-1)

    def run(part: slice) -> None:
        with np.errstate(over="ignore", under="ignore"):  # exp of what ends as 0 or 1
            block(values[part], flat[part])

    for_each(run, spans(values.size, _BLOCK_ELEMENTS))
    return result


def geglu(x: mx.array) -> mx.array:
    """Value gelu(gate) of float32 [..., 2 C], the value being the first half: [..., C]."""
    width = x.shape[-1] // 2
    pairs = np.ascontiguousarray(view(x)).reshape(-1, 2 * width)
    result, out = new_array((*x.shape[:-1], width))
    rows = out.reshape(-1, width)

    def run(part: slice) -> None:
        with np.errstate(over="ignore", under="ignore"):
            _gelu(pairs[part, width:], rows[part])
            rows[part] *= pairs[part, :width]

    for_each(run, spans(len(pairs), max(1, _BLOCK_ELEMENTS // width)))
    return result


def silu_in_place(x: Float32) -> None:
    """X sigmoid(x) over a block of x that fits a cache."""
    denominator = scratch("denominator", x.shape)
    np.negative(x, out=denominator)
    np.exp(denominator, out=denominator)
    denominator += 1
    x /= denominator


def _times_sigmoid(x: Float32, negative_logit: Float32) -> None:
    """Out = x / (1 + exp(negative_logit)), over negative_logit."""
    np.exp(negative_logit, out=negative_logit)
    negative_logit += 1
    np.divide(x, negative_logit, out=negative_logit)


def _silu(x: Float32, out: Float32) -> None:
    np.negative(x, out=out)
    _times_sigmoid(x, out)


def _quick_gelu(x: Float32, out: Float32) -> None:
    np.multiply(x, np.float32(-1.702), out=out)
    _times_sigmoid(x, out)


def _gelu_tanh(x: Float32, out: Float32) -> None:
    # 0.5 (1 + tanh(y)) = sigmoid(2 y)
    factor = 2 * math.sqrt(2 / math.pi)
    np.multiply(x, x, out=out)
    out *= np.float32(-0.044715 * factor)
    out -= np.float32(factor)
    out *= x
    _times_sigmoid(x, out)


def _gelu(x: Float32, out: Float32) -> None:
    square = scratch("gelu", x.shape)
    np.multiply(x, x, out=square)
    np.minimum(square, np.float32(_LOGIT_RANGE**2), out=square)
    np.multiply(square, np.float32(-_LOGIT[-1]), out=out)
    for coefficient in _LOGIT[-2:0:-1]:
        out -= np.float32(coefficient)
        out *= square
    out -= np.float32(_LOGIT[0])
    out *= x
    _times_sigmoid(x, out)


def silu(x: mx.array) -> mx.array:
    """Sigmoid linear unit of a float32 array."""
    return _apply(_silu, x)


def gelu(x: mx.array) -> mx.array:
    """Exact Gaussian error linear unit of a float32 array."""
    return _apply(_gelu, x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU by tanh of a float32 array."""
    return _apply(_gelu_tanh, x)


def quick_gelu(x: mx.array) -> mx.array:
    """GELU by a sigmoid of a float32 array."""
    return _apply(_quick_gelu, x)
