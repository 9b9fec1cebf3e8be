"""What a machine's size means for the engine: limits for MLX, staging, and how large a decoder may work."""

from __future__ import annotations

import os
from dataclasses import dataclass

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True)
class MemoryPolicy:
    """How memory is used on a machine of some size.

    Attributes:
        cache_limit_bytes: of freed arrays MLX may keep for reuse.
        memory_limit_bytes: what MLX tries to stay under; None leaves its own. Advisory: MLX goes over
            it rather than fail.
        releases_between_stages: drop text encoders before denoising, the denoiser before decoding.
        decode_side: a picture with more than decode_side x decode_side pixels is decoded in tiles of
            that size.
    """

    cache_limit_bytes: int
    memory_limit_bytes: int | None
    releases_between_stages: bool
    decode_side: int

    @classmethod
    def for_machine(cls, total_bytes: int | None = None) -> MemoryPolicy:
        """The policy for a machine with this much memory.

        Args:
            total_bytes: None asks the system; a system that does not say counts as middle-sized.
        """
        total = machine_memory_bytes() if total_bytes is None else total_bytes
        total = 16 * GIB if total is None else total
        return next(policy for limit, policy in POLICIES if limit is None or total <= limit)

    def apply(self) -> tuple[int, int | None]:
        """Sets the limits in this process's MLX.

        Returns:
            The previous cache limit and, if that was changed, memory limit, in bytes.
        """
        import mlx.core as mx

        cache = int(mx.set_cache_limit(self.cache_limit_bytes))
        if self.memory_limit_bytes is None:
            return cache, None
        return cache, int(mx.set_memory_limit(self.memory_limit_bytes))


# Up to this much memory -> policy; the last serves the rest.
POLICIES: tuple[tuple[int | None, MemoryPolicy], ...] = (
    (8 * GIB, MemoryPolicy(1 * MIB, 3 * GIB, releases_between_stages=True, decode_side=512)),
    (16 * GIB, MemoryPolicy(256 * MIB, None, releases_between_stages=True, decode_side=768)),
    (None, MemoryPolicy(256 * MIB, None, releases_between_stages=False, decode_side=1024)),
)


def machine_memory_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
