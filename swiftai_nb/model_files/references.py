"""What reference pictures a model takes: how many, of which sizes, and how a larger one is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swiftai_nb.core.errors import InvalidInputError


@dataclass(frozen=True)
class ReferenceLimits:
    """The reference pictures of a family. Sizes are (width, height) in pixels.

    Attributes:
        max_count: how many.
        min_side: of width and height.
        max_aspect_ratio: of the longer side to the shorter one.
        max_pixels: larger ones are scaled down to it.
        multiple: of both sides, to which the picture is cropped around its center.
        is_canvas: whether the model sees the picture at the size that is made, and changes it in place.
    """

    max_count: int = 4
    min_side: int = 64
    max_aspect_ratio: float = 8.0
    max_pixels: int = 1024 * 1024
    multiple: int = 16
    is_canvas: bool = False

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuses what the model was not made for.

        Raises:
            InvalidInputError: too many pictures, or one that is too small or too long; names the nearest
                that fits.
        """
        if len(sizes) > self.max_count:
            raise InvalidInputError(
                f"{len(sizes)} reference pictures, but this model takes {self.max_count} at most",
                hint=f"leave out {len(sizes) - self.max_count} of them",
            )
        for number, (width, height) in enumerate(sizes, start=1):
            name = "the reference picture" if len(sizes) == 1 else f"reference picture {number}"
            if max(width, height) > self.max_aspect_ratio * min(width, height):
                longest = int(self.max_aspect_ratio * min(width, height))
                raise InvalidInputError(
                    f"{name} is {width}x{height}, more than {self.max_aspect_ratio:g} times as long as wide",
                    hint=f"crop it to {min(width, longest)}x{min(height, longest)} at most",
                )
            if min(width, height) < self.min_side:
                scale = self.min_side / min(width, height)
                raise InvalidInputError(
                    f"{name} is {width}x{height}, but both sides must be at least {self.min_side} pixels",
                    hint=f"enlarge it to {math.ceil(width * scale)}x{math.ceil(height * scale)}",
                )

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size to which a picture is scaled: its own, or with `max_pixels` where it has more."""
        width, height = size
        if width * height <= self.max_pixels:
            return size
        scale = math.sqrt(self.max_pixels / (width * height))
        return int(width * scale), int(height * scale)

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size that the model sees: scaled, then cropped to the multiple."""
        width, height = self.scaled(size)
        return width // self.multiple * self.multiple, height // self.multiple * self.multiple
