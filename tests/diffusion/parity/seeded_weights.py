"""Random weights from a recipe instead of files: the same on every machine, for every framework."""

import zlib
from collections.abc import Mapping

import numpy as np

_TABLES = ("embedding.weight", "shared.weight", "embed_tokens", "attention_bias")


def seeded_tensor(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """One float32 tensor; depends on its name, shape and seed alone.

    Matrices and kernels get a variance of 1 / inputs, tables of 1, gains spread around 1, offsets around 0.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    is_table = any(part in name for part in _TABLES)
    if len(shape) > 1 and not is_table:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if len(shape) > 1:
        return values
    gain = np.float32(0.0 if name.endswith("bias") else 1.0)
    return gain + np.float32(0.1) * values


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, np.ndarray]:
    """`seeded_tensor` for every entry of a state dict's shapes."""
    return {name: seeded_tensor(name, tuple(shape), seed=seed) for name, shape in shapes.items()}
