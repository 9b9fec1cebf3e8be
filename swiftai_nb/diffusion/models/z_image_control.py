"""The ControlNet of Z-Image (Alibaba PAI's "Union"): blocks that add to the outputs of the transformer's.

It reads a picture as latents. Embedders, refiners and pad tokens are those of the transformer it steers.
Parameter paths are those of diffusers' `ZImageControlNetModel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.models.flux_transformer import Rotary
from swiftai_nb.diffusion.models.layers import Linear
from swiftai_nb.diffusion.models.z_image import (
    ZImageBlock,
    ZImageConfig,
    ZImageLayout,
    ZImageTransformer,
    fill_tokens,
    to_patches,
)

_REFINERS = (None, "control_layers", "control_noise_refiner")


@dataclass(frozen=True)
class ZImageControlConfig:
    """The fields of a ControlNet's `config.json` that shape it.

    Attributes:
        transformer: of the model it steers.
        places: of the transformer's layers, those it adds to.
        refiner_places: of the noise refiner's layers, those it adds to.
        control_in_dim: channels it takes: the latents of a picture, the rest zeros.
        refiner: None: plain blocks refine the picture by itself (version 1); "control_layers": the blocks of
            the joint layers do (2.0); "control_noise_refiner": it has blocks for that (2.1).
    """

    transformer: ZImageConfig
    places: tuple[int, ...]
    refiner_places: tuple[int, ...] = ()
    control_in_dim: int = 16
    refiner: str | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], transformer: ZImageConfig) -> ZImageControlConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: it was made for another transformer, or fields contradict each other.
        """
        places, refined = (
            _places(config.get(f"control_{name}"), count, name=name)
            for name, count in (
                ("layers_places", transformer.n_layers),
                ("refiner_layers_places", transformer.n_refiner_layers),
            )
        )
        refiner = config.get("add_control_noise_refiner")
        channels = config.get("control_in_dim", transformer.in_channels)
        if refiner not in _REFINERS or not places or places[0] != 0:
            raise UnsupportedModelError("this kind of Z-Image ControlNet is not supported")
        if type(channels) is not int or not transformer.in_channels <= channels <= 4096:
            raise UnsupportedModelError(f"a Z-Image ControlNet of {channels} channels is not supported")
        for name, own, default in (
            ("dim", transformer.dim, ZImageConfig.dim),
            ("n_heads", transformer.n_heads, ZImageConfig.n_heads),
            ("n_refiner_layers", transformer.n_refiner_layers, ZImageConfig.n_refiner_layers),
        ):
            if config.get(name, default) != own:
                raise UnsupportedModelError(
                    f"the ControlNet has a {name} of {config.get(name, default)}, this model {own}",
                    hint="use a ControlNet that was made for this model",
                )
        return cls(transformer, places, refined, channels, refiner)


def _places(value: object, count: int, *, name: str) -> tuple[int, ...]:
    """Checked numbers of layers, in order."""
    items = tuple(value) if isinstance(value, (list, tuple)) else ()
    if any(type(place) is not int or not 0 <= place < count for place in items) or list(items) != sorted(
        set(items)
    ):
        raise UnsupportedModelError(f"control_{name} {value!r:.80} does not fit a transformer of {count}")
    return items


class ZImageControlBlock(ZImageBlock):
    """A block, and what it adds to the transformer; the first one begins with the transformer's tokens."""

    def __init__(self, config: ZImageConfig, *, is_first: bool) -> None:
        super().__init__(config, modulated=True)
        if is_first:
            self.before_proj = Linear(config.dim, config.dim)
        self.after_proj = Linear(config.dim, config.dim)


class ZImageControlNet(nn.Module):  # type: ignore[misc]
    """What to add to the outputs of a transformer's layers so that its picture follows another one."""

    def __init__(self, config: ZImageControlConfig) -> None:
        super().__init__()
        self.config = config
        own, width = config.transformer, config.transformer.dim
        self.control_all_x_embedder = {"2-1": Linear(own.patch_size**2 * config.control_in_dim, width)}
        self.control_layers = [ZImageControlBlock(own, is_first=place == 0) for place in config.places]
        if config.refiner == "control_noise_refiner":
            self.control_noise_refiner = [
                ZImageControlBlock(own, is_first=index == 0) for index in range(own.n_refiner_layers)
            ]
        elif config.refiner is None:
            self.control_noise_refiner = [
                ZImageBlock(own, modulated=True) for _ in range(own.n_refiner_layers)
            ]

    def __call__(
        self,
        transformer: ZImageTransformer,
        x: mx.array,
        condition: mx.array,
        *,
        picture: mx.array,
        scale: float,
        captions: mx.array,
        layout: ZImageLayout,
    ) -> dict[int, mx.array]:
        """One network call.

        Args:
            transformer: that is steered.
            x: [B, L, dim], its embedded image tokens, before the noise refiner.
            condition: [B, 256], of the timestep.
            picture: [1, h, w, C], latents; C at most `control_in_dim`.
            scale: what is added is multiplied by it.
            captions: [B, C, dim], refined.
            layout: of this size and these captions.

        Returns:
            number of a layer -> what is added behind it, [B, L + C, dim].
        """
        control = self._embed(transformer, picture, x.shape)
        refined: dict[int, mx.array] = {}
        rotary = layout.image_rotary
        if self.config.refiner is not None:
            own = self.config.refiner == "control_layers"
            blocks = self.control_layers if own else self.control_noise_refiner
            hints, control = _run(blocks, control, x, attend=(rotary, None, condition))
            places = zip(self.config.refiner_places, hints, strict=False)
            refined = {place: hint * scale for place, hint in places}
        for index, block in enumerate(transformer.noise_refiner):
            x = block(x, rotary, None, condition)
            x = x + refined[index] if index in refined else x
        if self.config.refiner is None:
            for block in self.control_noise_refiner:
                control = block(control, rotary, None, condition)
        hints, _ = _run(
            self.control_layers,
            mx.concatenate([control, captions], axis=1),
            mx.concatenate([x, captions], axis=1),
            attend=(layout.joint_rotary, layout.joint_mask, condition),
        )
        return {place: hint * scale for place, hint in zip(self.config.places, hints, strict=True)}

    def _embed(self, transformer: ZImageTransformer, picture: mx.array, shape: tuple[int, ...]) -> mx.array:
        """The picture as tokens [B, L, dim]."""
        missing = self.config.control_in_dim - picture.shape[-1]
        full = mx.pad(picture, [(0, 0), (0, 0), (0, 0), (0, missing)])
        embedder = self.control_all_x_embedder["2-1"]
        tokens = embedder(to_patches(full).astype(transformer.x_pad_token.dtype))
        return mx.broadcast_to(fill_tokens(tokens, transformer.x_pad_token), shape)


def _run(
    blocks: Iterable[ZImageControlBlock],
    control: mx.array,
    x: mx.array,
    *,
    attend: tuple[Rotary, mx.array | None, mx.array],
) -> tuple[list[mx.array], mx.array]:
    """What each block adds, and the last one's own output; `attend` is rotary, mask and condition."""
    hints = []
    for block in blocks:
        if "before_proj" in block:
            control = block.before_proj(control) + x
        control = block(control, *attend)
        hints.append(block.after_proj(control))
    return hints, control
