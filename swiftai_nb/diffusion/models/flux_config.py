"""The shape of a FLUX.1 transformer, read from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swiftai_nb.core.errors import UnsupportedModelError


@dataclass(frozen=True)
class FluxConfig:
    """The fields of a transformer's `config.json` that shape the network.

    Args:
        in_channels: features of a token: latent channels x 2 x 2.
        num_layers: blocks with separate weights for image and text.
        num_single_layers: blocks with shared weights.
        attention_head_dim: the sum of `axes_dims_rope`.
        joint_attention_dim: width of the T5 hidden states.
        pooled_projection_dim: width of CLIP's pooled vector.
        guidance_embeds: True for FLUX.1 dev, distilled to take the guidance scale as an input.
        axes_dims_rope: rotary widths of the axes (0, row, column); all even.
    """

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> FluxConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: a shape that is not FLUX.1's kind.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if config.get(name) is not None}
        fields["axes_dims_rope"] = tuple(fields.get("axes_dims_rope", cls.axes_dims_rope))
        result = cls(**fields)
        if config.get("patch_size", 1) != 1:
            raise UnsupportedModelError(f"FLUX patch_size {config['patch_size']} is not supported")
        if len(result.axes_dims_rope) != 3 or any(axis % 2 for axis in result.axes_dims_rope):
            raise UnsupportedModelError(f"FLUX axes_dims_rope {result.axes_dims_rope} is not supported")
        if sum(result.axes_dims_rope) != result.attention_head_dim:
            raise UnsupportedModelError(
                f"FLUX axes_dims_rope {result.axes_dims_rope} does not sum to "
                f"attention_head_dim {result.attention_head_dim}"
            )
        return result

    @property
    def width(self) -> int:
        """Features of a token inside the transformer."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def latent_channels(self) -> int:
        """Channels of the unpacked latents."""
        return self.in_channels // 4
