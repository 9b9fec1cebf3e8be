"""The shape of a UNet, read from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError

# Fields that change the network in ways this engine does not implement, with the values it does.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text", "text_time"),
    "attention_type": ("default", None),
    "center_input_sample": (False, None),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False, None),
    "conv_in_kernel": (3, None),
    "conv_out_kernel": (3, None),
    "cross_attention_norm": (None,),
    "downsample_padding": (1, None),
    "dual_cross_attention": (False, None),
    "encoder_hid_dim_type": (None,),
    "encoder_hid_dim": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0, None),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
    "num_class_embeds": (None,),
    "only_cross_attention": (False, None),
    "resnet_out_scale_factor": (1, 1.0, None),
    "resnet_skip_time_act": (False, None),
    "resnet_time_scale_shift": ("default", None),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional", None),
    "timestep_post_act": (None,),
}
_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class UNetConfig:
    """The fields of a UNet's `config.json` that shape the network; per-block fields are tuples."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    layers_per_block: tuple[int, ...]
    cross_attention_dims: tuple[int, ...]
    heads: tuple[int, ...]
    transformer_layers: tuple[int, ...]
    up_transformer_layers: tuple[int, ...]
    in_channels: int = 4
    out_channels: int = 4
    sample_size: int | None = None
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    upcast_attention: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    time_embedding_dim: int | None = None
    time_cond_proj_dim: int | None = None
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 0
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def time_embedding_width(self) -> int:
        """Width of the time embedding inside the network."""
        return self.block_out_channels[0] * 4 if self.time_embedding_dim is None else self.time_embedding_dim

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> UNetConfig:
        """Reads `config.json` with diffusers' defaults for absent fields.

        Raises:
            UnsupportedModelError: a field asks for something this engine lacks; names them all.
            InvalidModelFilesError: lists of different lengths.
        """
        _refuse_unsupported(config)
        channels = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
        n = len(channels)
        # diffusers names it attention_head_dim for historical reasons; it is the number of heads.
        heads = config.get("num_attention_heads")
        heads = config.get("attention_head_dim", 8) if heads is None else heads
        layers = _per_block(config.get("transformer_layers_per_block", 1), n, "transformer_layers_per_block")
        reverse = config.get("reverse_transformer_layers_per_block")
        taken = {k: config[k] for k in _PLAIN_FIELDS if config.get(k) is not None}
        if config.get("mid_block_type", "") is None:
            taken["mid_block_type"] = None
        return cls(
            block_out_channels=channels,
            down_block_types=_types(config, "down_block_types", _DEFAULT_DOWN, n),
            up_block_types=_types(config, "up_block_types", _DEFAULT_UP, n),
            layers_per_block=_per_block(config.get("layers_per_block", 2), n, "layers_per_block"),
            cross_attention_dims=_per_block(
                config.get("cross_attention_dim", 1280), n, "cross_attention_dim"
            ),
            heads=_per_block(heads, n, "attention_head_dim"),
            transformer_layers=layers,
            up_transformer_layers=layers[::-1] if reverse is None else tuple(reverse),
            source=dict(config),
            **taken,
        )


_PLAIN_FIELDS = (
    "in_channels",
    "out_channels",
    "sample_size",
    "norm_num_groups",
    "norm_eps",
    "use_linear_projection",
    "upcast_attention",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_type",
    "time_embedding_dim",
    "time_cond_proj_dim",
    "addition_embed_type",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
_DEFAULT_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_DEFAULT_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    wrong = [
        f"{name}={config[name]!r}"
        for name, values in _SUPPORTED.items()
        if name in config and config[name] not in values
    ]
    for name in ("down_block_types", "up_block_types"):
        wrong += [f"{name} {kind!r}" for kind in config.get(name, ()) if kind not in _BLOCKS]
    if wrong:
        raise UnsupportedModelError(f"the UNet uses what this engine does not have: {', '.join(wrong)}")


def _per_block(value: int | Sequence[int], blocks: int, name: str) -> tuple[int, ...]:
    values = (value,) * blocks if isinstance(value, int) else tuple(value)
    if len(values) != blocks or not all(isinstance(v, int) for v in values):
        raise InvalidModelFilesError(f"unet/config.json: {name} {value!r} does not fit {blocks} blocks")
    return values


def _types(config: Mapping[str, Any], name: str, default: tuple[str, ...], blocks: int) -> tuple[str, ...]:
    types = tuple(config.get(name, default))
    if len(types) != blocks:
        raise InvalidModelFilesError(f"unet/config.json: {len(types)} {name} for {blocks} block_out_channels")
    return types
