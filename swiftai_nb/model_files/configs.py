"""The configuration files of a model folder, with the values that decide its family and sizes checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import AIError, InvalidModelFilesError
from swiftai_nb.core.format import shorten
from swiftai_nb.model_files.json_file import read_json_object

_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
_MAX_LEVELS = 8
_MAX_CHANNELS = 2**16
_MAX_LAYERS = 1024
_MAX_TIMESTEPS = 100_000
_MAX_COUNT = 2**24
_MAX_NUMBER = 1e9
_MAX_ITEMS = 256
# Absent and null are the same for these; for others, such as mid_block_type, null is a value.
_LISTS = frozenset(
    {"architectures", "axes_dims_rope", "block_out_channels", "down_block_types", "up_block_types"}
)
_TIMESTEPS = frozenset({"num_train_timesteps", "original_inference_steps", "steps_offset"})
_LAYER_COUNTS = re.compile(r"(^|_)(layers|blocks)(_|$)")
_COUNTS = frozenset({"width", "height", "steps", "display_scale"})


@dataclass(frozen=True)
class FolderConfigs:
    """What the JSON files of a model folder hold; empty where one is missing.

    Attributes:
        folder: the model.
        index: of `model_index.json`.
        unet, transformer, vae: of the `config.json` of these subfolders.
        scheduler: of `scheduler/scheduler_config.json`.
        given: the values of `generation_defaults.json` that are not null.
    """

    folder: Path
    index: Mapping[str, Any]
    unet: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    given: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> FolderConfigs:
        """Reads them all.

        Raises:
            InvalidModelFilesError: one is not a JSON object, or has a value that makes no sense. Numbers of
                layers and timesteps are bounded: networks are built before their tensors are compared.
        """
        networks = {name: read_checked_config(folder / name / "config.json") for name in _NETWORKS}
        return cls(
            folder,
            index=read_json_object(folder / "model_index.json"),
            unet=networks["unet"],
            transformer=networks["transformer"],
            vae=networks["vae"],
            scheduler=read_checked_config(folder / "scheduler" / "scheduler_config.json"),
            given=read_generation_defaults(folder),
        )

    @property
    def pipeline_class(self) -> str:
        """Diffusers' class name in `model_index.json`; "" without one."""
        return str(self.index.get("_class_name") or "")

    @property
    def denoiser_class(self) -> str:
        """Diffusers' class name of the transformer; "" without one."""
        return str(self.transformer.get("_class_name") or "")

    @property
    def unet_channels(self) -> tuple[int, ...]:
        """Of the UNet's levels."""
        return _channels(self.unet, (320,), self.folder / "unet" / "config.json")

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the autoencoder's levels; each but the last halves the size."""
        return _channels(self.vae, (128, 256, 512, 512), self.folder / "vae" / "config.json")


def read_checked_config(path: Path) -> dict[str, Any]:
    """A configuration file of a network or a scheduler; an empty one when there is no such file.

    Fields that shape a network are checked: networks are built before their tensors are compared, so a
    million layers must be refused here. Other fields are as they are.

    Raises:
        InvalidModelFilesError: it cannot be read, or a field is of the wrong type or out of range.
    """
    config = read_json_object(path)
    for name, value in config.items():
        is_right = _FIELD_CHECKS.get(name, _is_anything)
        if value is not None and not is_right(value):
            raise _wrong_value(path, name, value)
        limit = _MAX_TIMESTEPS if name in _TIMESTEPS else _MAX_LAYERS if _LAYER_COUNTS.search(name) else None
        if limit is not None and any(_is_above(number, limit) for number in _flat(value)):
            raise _wrong_value(path, name, value)
    return {name: value for name, value in config.items() if value is not None or name not in _LISTS}


@contextmanager
def sensible_config(path: Path) -> Iterator[None]:
    """Makes one error of whatever first fails on values that are of the right type and fit no network.

    Args:
        path: what the values were read from.

    Raises:
        InvalidModelFilesError: something failed in the block.
    """
    try:
        yield
    except AIError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidModelFilesError(
            f"the configuration of {path} makes no sense: {shorten(str(error))}",
            hint="download the model again",
        ) from error


def _flat(value: object) -> Iterator[object]:
    """The items of a list of lists, or the value itself."""
    if isinstance(value, list):
        for item in value:
            yield from item if isinstance(item, list) else (item,)
    else:
        yield value


def _is_above(value: object, limit: int) -> bool:
    return isinstance(value, (int, float)) and not value <= limit


def _is_anything(_value: object) -> bool:
    return True


def _is_count(value: object) -> bool:
    """A whole number, or a list of them or of such lists, one for each level of a network."""
    items = list(_flat(value))
    return len(items) <= _MAX_ITEMS and all(type(n) is int and 0 <= n <= _MAX_COUNT for n in items)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER  # type: ignore[arg-type]


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_ITEMS and all(isinstance(v, str) for v in value)


def _is_number_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_TIMESTEPS and all(map(_is_number, value))


def _fields(check: Callable[[object], bool], names: str) -> dict[str, Callable[[object], bool]]:
    return dict.fromkeys(names.split(), check)


_FIELD_CHECKS = {
    **_fields(
        _is_count,
        "addition_embed_type_num_heads addition_time_embed_dim attention_head_dim axes_dims_rope "
        "base_image_seq_len block_out_channels cross_attention_dim d_ff d_kv d_model head_dim hidden_size "
        "in_channels intermediate_size joint_attention_dim latent_channels layers_per_block "
        "max_image_seq_len max_position_embeddings norm_num_groups num_attention_heads num_heads "
        "num_hidden_layers num_key_value_heads num_layers num_single_layers num_train_timesteps "
        "original_inference_steps out_channels pooled_projection_dim "
        "projection_class_embeddings_input_dim projection_dim relative_attention_max_distance "
        "relative_attention_num_buckets reverse_transformer_layers_per_block solver_order steps_offset "
        "time_cond_proj_dim time_embedding_dim transformer_layers_per_block vocab_size",
    ),
    **_fields(
        _is_number,
        "base_shift beta_end beta_start clip_sample_range freq_shift layer_norm_eps layer_norm_epsilon "
        "max_shift norm_eps rms_norm_eps scaling_factor shift shift_factor shift_terminal timestep_scaling",
    ),
    **_fields(
        _is_flag,
        "clip_sample euler_at_final flip_sin_to_cos force_upcast guidance_embeds lower_order_final "
        "mid_block_add_attention rescale_betas_zero_snr set_alpha_to_one skip_prk_steps upcast_attention "
        "use_dynamic_shifting use_karras_sigmas use_linear_projection use_lu_lambdas use_post_quant_conv "
        "use_quant_conv",
    ),
    **_fields(
        _is_text,
        "_class_name act_fn addition_embed_type algorithm_type beta_schedule feed_forward_proj "
        "final_sigmas_type hidden_act interpolation_type mid_block_type prediction_type solver_type "
        "time_shift_type timestep_spacing",
    ),
    **_fields(_is_text_list, "architectures down_block_types up_block_types"),
    **_fields(_is_number_list, "trained_betas"),
}


def _wrong_value(path: Path, name: str, value: object) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path}: {name} cannot be {value!r:.80}", hint="download the model again")


def read_generation_defaults(folder: Path) -> Mapping[str, Any]:
    """The values of a folder's `generation_defaults.json` that are not null; empty without such a file.

    Raises:
        InvalidModelFilesError: not a JSON object, or a value of the wrong type or out of range.
    """
    path = folder / "generation_defaults.json"
    given = {name: value for name, value in read_json_object(path).items() if value is not None}
    for name, value in given.items():
        if not _is_default(name, value):
            raise InvalidModelFilesError(
                f"{path}: {name} cannot be {value!r:.80}", hint="correct it, or remove it from the file"
            )
    return given


def _is_default(name: str, value: object) -> bool:
    if name in _COUNTS:
        return type(value) is int and 0 < value <= 2**16
    if name == "former_sizes":
        return _is_list_of_sizes(value)
    if name == "guidance_scale":
        return isinstance(value, (int, float)) and 0 <= value <= _MAX_NUMBER
    return name != "scheduler" or isinstance(value, str)


def _is_list_of_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(size, list) and len(size) == 2 for size in value)
        and all(type(side) is int and 0 < side <= 2**16 for side in _flat(value))
    )


def _channels(config: Mapping[str, Any], default: tuple[int, ...], path: Path) -> tuple[int, ...]:
    value = config.get("block_out_channels") or default
    is_list = isinstance(value, (list, tuple)) and len(value) <= _MAX_LEVELS
    if not is_list or not all(type(n) is int and 0 < n <= _MAX_CHANNELS for n in value):
        raise _wrong_value(path, "block_out_channels", value)
    return tuple(value)
