"""Which dtype a network computes in."""

from __future__ import annotations

import mlx.core as mx

from swiftai_nb.core.errors import InvalidInputError

_NAMES = {
    "float32": mx.float32, "fp32": mx.float32,
    "float16": mx.float16, "fp16": mx.float16,
    "bfloat16": mx.bfloat16, "bf16": mx.bfloat16,
}  # fmt: skip


def resolve_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype:
    """The compute dtype: as asked, or float32 on the CPU and float16 on a GPU.

    On the CPU halves are about 50 times slower than float32.

    Args:
        dtype: "float32", "float16", "bfloat16" (or "fp32", "fp16", "bf16"), an mlx dtype, or None.

    Raises:
        InvalidInputError: another dtype.
    """
    if dtype is None:
        return mx.float32 if mx.default_device() == mx.cpu else mx.float16
    resolved = _NAMES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in (mx.float32, mx.float16, mx.bfloat16):
        raise InvalidInputError(f"dtype {dtype} is not supported", hint="Use float32, float16 or bfloat16.")
    return resolved


# Smaller weights save no memory worth the widening; input maps, by which networks tell their compute
# dtype, are among them.
_LARGE_WEIGHT = 1 << 17


def storage_dtype(stored: mx.Dtype, compute: mx.Dtype, *, size: int) -> mx.Dtype:
    """The dtype a dense or convolution weight is kept in.

    On the CPU large weights of 16-bit files stay as they are, and operations widen them exactly where they
    use them: half the memory, the same numbers. Elsewhere weights have the compute dtype.

    Args:
        stored: dtype in the file.
        compute: from `resolve_dtype`.
        size: number of elements.
    """
    halves = (mx.float16, mx.bfloat16)
    keeps = compute == mx.float32 and stored in halves and size >= _LARGE_WEIGHT
    return stored if keeps and mx.default_device() == mx.cpu else compute
