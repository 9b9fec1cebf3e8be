"""The one seam for device operations: networks compute through these functions and nothing else.

On Metal and CUDA they are MLX's own fused kernels. On the CPU, where MLX's element-wise functions are
scalar and single-threaded, the same operations can take the measured-best route instead; values agree
within 1e-5 relative either way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import mlx.core as mx

from swiftai_nb.diffusion import cpu as cpu_math
from swiftai_nb.diffusion import gpu
from swiftai_nb.diffusion.cpu import native, workers
from swiftai_nb.diffusion.cpu.normalization import Norm
from swiftai_nb.diffusion.gpu import head_filling, on_cpu, work_pace

Function = TypeVar("Function", bound=Callable[..., mx.array])

# Below these, plain MLX is as fast.
_MIN_ATTENTION_ELEMENTS = 1 << 10
_MIN_DEQUANTIZED_ROWS = 2

_fast = True


def configure(*, fast: bool = True) -> None:
    """Turns the CPU fast paths on or off for this process; values stay within 1e-5 relative."""
    global _fast  # noqa: PLW0603 - one switch per process, set by the engine before its first job
    _fast = fast


def fast_paths_enabled() -> bool:
    """Whether operations on the CPU may leave plain MLX."""
    return _fast


def set_block_callback(callback: Callable[[], None] | None, *, stop_flag: ctypes.c_int | None = None) -> None:
    """Registers what `checkpoint` calls, for the calling context only.

    The CPU's fast paths also call it between the pieces of long operations.

    Args:
        callback: takes nothing; may raise to stop the computation. None removes it.
        stop_flag: 1, set by another thread, ends compiled loops at once; the callback is to raise then.
    """
    workers.checkpoint.set(callback)
    workers.stop_flag.set(stop_flag)
    work_pace.restart()


def set_half_products(half: bool) -> None:
    """Whether products on the CPU round their inputs to bfloat16, for the calling context only.

    Sums, norms, softmax and everything between products stay float32. Without effect where there is no
    compiled library with such products: see `swiftai_nb.diffusion.cpu.native`.
    """
    native.half_products.set(half)


def has_half_products() -> bool:
    """Whether `set_half_products` has an effect here."""
    kernels = native.library()
    return _fast and on_cpu() and kernels is not None and kernels.half


def clear_scratch() -> None:
    """Frees what the CPU's fast paths keep between operations; they make it anew."""
    cpu_math.clear_scratch()


def _use_cpu_math(x: mx.array) -> bool:
    return _fast and x.dtype == mx.float32 and x.size > 0 and on_cpu()


def _fastest(function: Function) -> Function:
    """The compiled function of the same name, where there is a library."""
    return function if native.library() is None else cast(Function, getattr(native, function.__name__))


def checkpoint(x: mx.array) -> mx.array:
    """Marks the end of a network block; returns `x` unchanged.

    On the CPU it evaluates `x` and calls the registered callback, so that a cancel takes effect within one
    block instead of one step. On a GPU it does so after every few blocks, about four times a second: a step
    of a large model takes longer than a user waits, and Metal ends command buffers of about ten seconds.
    Must not be called while `mx.compile` traces.
    """
    if on_cpu():
        mx.eval(x)
        workers.run_checkpoint()
    elif work_pace.is_due():
        with work_pace.measured():
            mx.eval(x)
        workers.run_checkpoint()
    return x


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None = None
) -> mx.array:
    """Scaled dot-product attention, softmax(scale q k^T + mask) v.

    Args:
        q: [B, heads, L, D].
        k: [B, kv_heads, S, D]; kv_heads divides heads (grouped-query attention).
        v: [B, kv_heads, S, D].
        scale: usually 1 / sqrt(D).
        mask: broadcastable to [B, heads, L, S]; boolean (True = attend) or added to the scores.

    Returns:
        [B, heads, L, D].
    """
    alike = q.dtype == k.dtype == v.dtype and q.shape[0] == k.shape[0]
    if alike and q.size >= _MIN_ATTENTION_ELEMENTS and _use_cpu_math(q):
        return _fastest(cpu_math.attention)(q, k, v, scale=scale, mask=mask)
    head_dim = q.shape[-1]
    filling = head_filling(head_dim)
    if filling:  # zeros change neither the scores nor the first features of the result
        q, k, v = (mx.pad(x, [(0, 0), (0, 0), (0, 0), (0, filling)]) for x in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return out[..., :head_dim] if filling else out


def multi_head_attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None = None
) -> mx.array:
    """Splits channels into heads, attends, and joins them again.

    Args:
        q: [B, ..., C]: L tokens in any arrangement.
        k: [B, ..., C]: S tokens.
        v: [B, ..., C]: S tokens.
        heads: divides C.
        mask: broadcastable to [B, heads, L, S]; boolean, True = attend.

    Returns:
        The shape of q.
    """
    if q.dtype == k.dtype == v.dtype and q.size >= _MIN_ATTENTION_ELEMENTS and _use_cpu_math(q):
        return _fastest(cpu_math.multi_head_attention)(q, k, v, heads=heads, mask=mask)

    def split(x: mx.array) -> mx.array:
        return x.reshape(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(0, 2, 1, 3)

    out = attention(split(q), split(k), split(v), scale=(q.shape[-1] // heads) ** -0.5, mask=mask)
    return out.transpose(0, 2, 1, 3).reshape(q.shape)


def silu(x: mx.array) -> mx.array:
    """Sigmoid linear unit, x sigmoid(x), any shape."""
    return _fastest(cpu_math.silu)(x) if _use_cpu_math(x) else gpu.silu(x)


def gelu(x: mx.array) -> mx.array:
    """Gaussian error linear unit, x Phi(x) with the exact error function, any shape."""
    return _fastest(cpu_math.gelu)(x) if _use_cpu_math(x) else gpu.gelu(x)


def geglu(x: mx.array) -> mx.array:
    """Value gelu(gate) of [..., 2 C], the value being the first half (Shazeer 2020): [..., C]."""
    if _use_cpu_math(x):
        return _fastest(cpu_math.geglu)(x)
    value, gate = mx.split(x, 2, axis=-1)
    return value * gelu(gate)


def geglu_linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """`geglu` of a dense layer: [..., in] -> [..., out / 2]; weight [out, in], bias [out]."""
    if native.library() is not None and _use_cpu_math(x):
        return native.linear(x, weight, bias, gated=True)
    return geglu(linear(x, weight, bias))


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016), any shape."""
    return _fastest(cpu_math.gelu_tanh)(x) if _use_cpu_math(x) else gpu.gelu_tanh(x)


def quick_gelu(x: mx.array) -> mx.array:
    """Sigmoid GELU, x sigmoid(1.702 x), the activation of OpenAI's CLIP, any shape."""
    return _fastest(cpu_math.quick_gelu)(x) if _use_cpu_math(x) else gpu.quick_gelu(x)


def conv2d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    norm: Norm | None = None,
    doubled: bool = False,
    offsets: mx.array | None = None,
    residual: mx.array | None = None,
    reuse: bool = False,
) -> mx.array:
    """2-D convolution, and what stands before and after it in residual blocks.

    Args:
        x: [B, H, W, C].
        weight: [O, kh, kw, C].
        bias: [O].
        stride: in both directions.
        padding: zeros on all four sides.
        norm: a `group_norm` and its silu before the convolution.
        doubled: whether x is enlarged by `double` first.
        offsets: added to every position: [B, O].
        residual: added: [B, H', W', O].
        reuse: whether the result may be made in the memory of the residual or, without one, of x; nothing
            else uses it then.

    Returns:
        [B, H', W', O].
    """
    if native.library() is not None and _use_cpu_math(x):
        return native.conv2d(
            x, weight, bias, stride=stride, padding=padding, norm=norm, doubled=doubled, offsets=offsets,
            residual=residual, reuse=reuse,
        )  # fmt: skip
    x = double(x) if doubled else x
    if norm is not None:
        x = group_norm(x, norm.weight, norm.bias, groups=norm.groups, eps=norm.eps, apply_silu=True)
    if _use_cpu_math(x):
        y = cpu_math.conv2d(x, weight, bias, stride=stride, padding=padding)
    else:
        y = mx.conv2d(x, weight, stride=stride, padding=padding)
        y = y if bias is None else y + bias
    y = y if offsets is None else add_into(y, offsets)
    return y if residual is None else add_into(y, residual)


def group_norm(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    *,
    groups: int,
    eps: float,
    apply_silu: bool = False,
) -> mx.array:
    """Group normalization as PyTorch defines it: groups of neighboring channels.

    Args:
        x: [B, ..., C].
        weight: [C].
        bias: [C].
        groups: divides C.
        eps: added to the variance.
        apply_silu: whether the result is the `silu` of that.

    Returns:
        [B, ..., C].
    """
    if _use_cpu_math(x):
        return _fastest(cpu_math.group_norm)(x, weight, bias, groups=groups, eps=eps, silu=apply_silu)
    batch, channels = x.shape[0], x.shape[-1]
    y = x.reshape(batch, -1, groups, channels // groups).transpose(0, 2, 1, 3)
    inner = y.shape
    y = mx.fast.layer_norm(y.reshape(batch, groups, -1), weight=None, bias=None, eps=eps)
    y = y.reshape(inner).transpose(0, 2, 1, 3).reshape(x.shape)
    if weight is not None:
        y = y * weight
    y = y if bias is None else y + bias
    return silu(y) if apply_silu else y


def add_into(target: mx.array, addend: mx.array) -> mx.array:
    """The sum of both; on the CPU it is computed in target's memory, which nothing else may use.

    Args:
        target: [B, ..., C], fresh from an operation.
        addend: the same shape, or [B, C] for all positions.
    """
    if target.dtype == addend.dtype and _use_cpu_math(target):
        return cpu_math.add_into(target, addend)
    if addend.ndim == 2 < target.ndim:
        addend = addend.reshape(addend.shape[0], *(1,) * (target.ndim - 2), -1)
    return target + addend


def concatenate_channels(arrays: Sequence[mx.array]) -> mx.array:
    """Joins float maps [B, ..., C_i] of one dtype along their last axis: [B, ..., sum of C_i]."""
    if arrays[0].ndim > 2 and all(_use_cpu_math(array) for array in arrays):
        return cpu_math.concatenate_channels(arrays)
    return mx.concatenate(list(arrays), axis=-1)


def double(x: mx.array) -> mx.array:
    """Nearest-neighbor enlargement by two: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    if _use_cpu_math(x):
        return cpu_math.double(x)
    return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, *, eps: float) -> mx.array:
    """Layer normalization over the last axis (Ba et al. 2016).

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C].
    """
    if _use_cpu_math(x):
        return _fastest(cpu_math.layer_norm)(x, weight, bias, eps=eps)
    return mx.fast.layer_norm(x, weight, bias, eps)


def rms_norm(x: mx.array, weight: mx.array, *, eps: float) -> mx.array:
    """Root mean square normalization over the last axis (Zhang and Sennrich 2019), computed in float32.

    Args:
        x: [..., C].
        weight: [C].
        eps: added to the mean square.

    Returns:
        [..., C].
    """
    if native.library() is not None and _use_cpu_math(x):
        return native.rms_norm(x, weight, eps=eps)
    return mx.fast.rms_norm(x, weight, eps)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """Dense layer, x weight^T + bias.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].

    Returns:
        [..., out].
    """
    if _use_cpu_math(x):
        return _fastest(cpu_math.linear)(x, weight, bias)
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def matmul(a: mx.array, b: mx.array) -> mx.array:
    """Product of two matrices, [n, k] and [k, m]: [n, m]."""
    return cpu_math.matmul(a, b) if a.dtype == b.dtype and _use_cpu_math(a) else a @ b


def quantized_linear(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    bias: mx.array | None = None,
    *,
    group_size: int,
    bits: int,
) -> mx.array:
    """`linear` with a weight quantized by `mx.quantize`.

    Args:
        x: [..., in].
        weight: [out, in * bits / 32], uint32.
        scales: [out, in / group_size].
        biases: [out, in / group_size], the affine offsets.
        bias: [out].
        group_size: weights that share a scale.
        bits: per weight.

    Returns:
        [..., out].
    """
    if _use_cpu_math(x) and x.size >= _MIN_DEQUANTIZED_ROWS * x.shape[-1]:
        return _fastest(cpu_math.quantized_linear)(
            x, weight, scales, biases, bias, group_size=group_size, bits=bits
        )
    y = mx.quantized_matmul(
        x, weight, scales=scales, biases=biases, transpose=True, group_size=group_size, bits=bits
    )
    return y if bias is None else y + bias
