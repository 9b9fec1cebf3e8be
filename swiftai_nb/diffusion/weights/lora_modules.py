"""What LoRA files do to one weight: low-rank sums, products, rotations, differences, each a `AdapterModule`.

Weights and changes are in the layout of files: [out, in], [out, in, kh, kw], or [channels] of a norm. The
formulas are those of the trainers: Hu et al. 2021 (LoRA), Yeh et al. 2023 (LoCon, LoHa, LoKr), Qiu et al.
2023 (OFT) and Liu et al. 2024 (DoRA).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from swiftai_nb.diffusion import ops

Size = tuple[int, ...]


@dataclass(frozen=True)
class AdapterModule(ABC):
    """One module's change.

    Attributes:
        name: as in the file, without the tensor's role.
        magnitude: DoRA's norms of the changed weight, [out] or [out, 1, ...], or [1, in, ...]; None without.
        bias: what is added to the layer's bias, [out]; None for nothing.
    """

    name: str
    magnitude: mx.array | None = field(default=None, kw_only=True)
    bias: mx.array | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def size(self) -> Size:
        """The size of its change, or (out, in * kh * kw) where the file does not tell the kernel."""

    @abstractmethod
    def change(self, weight: mx.array) -> mx.array:
        """What is added to a weight at scale 1, float32; of the weight's shape after a reshape."""

    def fits(self, size: Size) -> bool:
        """Whether a weight of this size can be changed."""
        return self.size in (size, (size[0], math.prod(size[1:])))

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(int(value.nbytes) for value in vars(self).values() if isinstance(value, mx.array))

    def merged(
        self, weight: mx.array, scale: float, own_outputs: Callable[[mx.array], mx.array] | None = None
    ) -> mx.array:
        """The changed weight.

        Args:
            weight: float32, in the layout of files.
            scale: 1.0 is as trained. With DoRA it is inside the norm, as in PEFT; 0.0 is off all the same.
            own_outputs: picks the weight's rows of the change; None is all.
        """
        if scale == 0.0:
            return weight
        change = self.change(weight)
        change = change if own_outputs is None else own_outputs(change)
        merged = weight + scale * change.reshape(weight.shape)
        if self.magnitude is None:
            return merged
        is_input = self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1 < weight.shape[0]
        axes = [axis for axis in range(weight.ndim) if axis != int(is_input)]
        norm = mx.sqrt(mx.sum(mx.square(merged), axis=axes, keepdims=True))
        magnitude = self.magnitude.astype(mx.float32).reshape(norm.shape)
        return merged * (magnitude / mx.maximum(norm, 1e-12))


@dataclass(frozen=True)
class LoraModule(AdapterModule):
    """factor * up @ down.

    Attributes:
        down: [rank, in] or [rank, in, kh, kw].
        up: [out, rank] or [out, rank, 1, 1].
        factor: alpha / rank (alpha / sqrt(rank) for rank-stabilised LoRAs).
    """

    down: mx.array
    up: mx.array
    factor: float

    @property
    def size(self) -> Size:
        """Outputs, inputs, and height and width of the kernel."""
        return self.up.shape[0], *self.down.shape[1:], *((1, 1) if self.down.ndim == 2 else ())

    def change(self, weight: mx.array) -> mx.array:
        """See `AdapterModule`."""
        rank = self.down.shape[0]
        up, down = (x.astype(mx.float32) for x in (self.up.reshape(-1, rank), self.down.reshape(rank, -1)))
        return self.factor * ops.matmul(up, down)


@dataclass(frozen=True)
class KroneckerModule(AdapterModule):
    """LoKr: factor * first ⊗ second.

    Attributes:
        first: [m, n].
        second: [p, q] or [p, q, kh, kw]; the change is [m p, n q] or [m p, n q, kh, kw].
        factor: alpha / rank; 1 where neither matrix is divided into two.
    """

    first: mx.array
    second: mx.array
    factor: float

    @property
    def size(self) -> Size:
        """Outputs, inputs, and height and width of the kernel."""
        (m, n), (p, q, *kernel) = self.first.shape, self.second.shape
        return (m * p, n * q, *kernel) if kernel else (m * p, n * q)

    def change(self, weight: mx.array) -> mx.array:
        """See `AdapterModule`."""
        first, second = self.first.astype(mx.float32), self.second.astype(mx.float32)
        return self.factor * mx.kron(first, second.reshape(second.shape[0], -1))


@dataclass(frozen=True)
class FactoredMatrix:
    """a @ b, or with a kernel between them the Tucker product of `tucker_product`.

    Attributes:
        a: [out, rank]; [rank, out] with a core.
        b: [rank, in]; of a convolution [rank, in * kh * kw].
        core: [rank, rank, kh, kw] or None.
    """

    a: mx.array
    b: mx.array
    core: mx.array | None = None

    @property
    def is_consistent(self) -> bool:
        """Whether its parts can be multiplied."""
        if self.a.ndim != 2 or self.b.ndim != 2:
            return False
        if self.core is None:
            return bool(self.a.shape[1] == self.b.shape[0])
        return self.core.ndim == 4 and self.core.shape[:2] == (self.a.shape[0], self.b.shape[0])

    @property
    def size(self) -> Size:
        """Of the product."""
        if self.core is None:
            return self.a.shape[0], self.b.shape[1]
        return self.a.shape[1], self.b.shape[1], *self.core.shape[2:]

    def product(self) -> mx.array:
        """The matrix or kernel, float32."""
        if self.core is None:
            return ops.matmul(self.a.astype(mx.float32), self.b.astype(mx.float32))
        return tucker_product(self.core, self.a.swapaxes(0, 1), self.b)


@dataclass(frozen=True)
class HadamardModule(AdapterModule):
    """LoHa: factor * first * second, element by element."""

    first: FactoredMatrix
    second: FactoredMatrix
    factor: float

    @property
    def size(self) -> Size:
        """See `AdapterModule`."""
        return self.first.size

    @property
    def size_bytes(self) -> int:
        """See `AdapterModule`."""
        parts = (self.first.a, self.first.b, self.second.a, self.second.b)
        return super().size_bytes + sum(int(part.nbytes) for part in parts)

    def change(self, weight: mx.array) -> mx.array:
        """See `AdapterModule`."""
        return self.factor * self.first.product() * self.second.product()


@dataclass(frozen=True)
class OrthogonalModule(AdapterModule):
    """OFT: groups of outputs are rotated by the Cayley transform of skew matrices.

    Attributes:
        blocks: [n, b, b], where n b is out.
        constraint: the largest norm of the skew matrices; None is no limit.
        rescale: [out] or [out, 1, ...]: factors of the outputs, or None.
    """

    blocks: mx.array
    constraint: float | None
    rescale: mx.array | None = None

    @property
    def size(self) -> Size:
        """Outputs alone: any inputs fit."""
        return (self.blocks.shape[0] * self.blocks.shape[1],)

    def fits(self, size: Size) -> bool:
        """See `AdapterModule`."""
        return size[0] == self.size[0] and (self.rescale is None or self.rescale.size == size[0])

    def change(self, weight: mx.array) -> mx.array:
        """See `AdapterModule`."""
        blocks = self.blocks.astype(mx.float32)
        skew, unit = blocks - blocks.swapaxes(1, 2), mx.eye(blocks.shape[1])
        if self.constraint is not None:
            norm = mx.sqrt(mx.sum(mx.square(skew)))
            skew = skew * mx.minimum(1.0, self.constraint / mx.maximum(norm, 1e-8))
        rotation = (unit + skew) @ mx.linalg.inv(unit - skew, stream=mx.cpu)
        rows = weight.reshape(*blocks.shape[:2], -1)
        rotated = (rotation.swapaxes(1, 2) @ rows).reshape(weight.shape)
        if self.rescale is not None:
            rotated = rotated * self.rescale.astype(mx.float32).reshape(-1, *[1] * (weight.ndim - 1))
        return rotated - weight


@dataclass(frozen=True)
class DifferenceModule(AdapterModule):
    """A whole weight's difference, also of a norm.

    Attributes:
        difference: of the weight's shape; None where only the bias changes.
    """

    difference: mx.array | None

    @property
    def size(self) -> Size:
        """See `AdapterModule`."""
        if self.difference is None:
            return () if self.bias is None else (self.bias.shape[0],)
        shape = tuple(self.difference.shape)
        return (*shape, 1, 1) if len(shape) == 2 else shape

    def fits(self, size: Size) -> bool:
        """See `AdapterModule`."""
        return self.size == size if self.difference is not None else True

    def change(self, weight: mx.array) -> mx.array:
        """See `AdapterModule`."""
        return mx.zeros_like(weight) if self.difference is None else self.difference.astype(mx.float32)


def tucker_product(core: mx.array, up: mx.array, down: mx.array) -> mx.array:
    """[out, in, kh, kw] of a core [r, s, kh, kw], up [out, r] and down [s, in]; float32."""
    core, up, down = (value.astype(mx.float32) for value in (core, up, down))
    return mx.einsum("rskl,or,si->oikl", core, up, down)
