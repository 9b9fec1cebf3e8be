"""A model in one file: which networks its tensors are, their configuration, and what the file lacks.

Checkpoints of Stable Diffusion and SDXL use the names of the latent-diffusion code, those of FLUX.1 Black
Forest Labs'; the networks differ by a prefix. No such file holds a tokenizer, and many leave out text
encoders or the autoencoder: those come from the folder of another model of the family, the base. What no
tensor tells (heads, groups of normalization) is taken from the base's configuration where the networks
have the same widths, else it is the family's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.components import (
    PARTS,
    ComponentFiles,
    find_part,
    find_tokenizer,
    find_unet_component,
    parts_in_file,
)
from swiftai_nb.model_files.families import (
    FLUX_1,
    FLUX_2_DEV,
    FLUX_2_KLEIN,
    SDXL_FAMILIES,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    TEXT_TO_IMAGE,
    UNET_FAMILIES,
    Z_IMAGE,
    Family,
    family_of_tensors,
)
from swiftai_nb.model_files.json_file import read_json_object
from swiftai_nb.model_files.ldm_configs import (
    SD_2_CONTEXT,
    clip_config,
    open_clip_config,
    scheduler_facts,
    unet_config,
    vae_config,
    with_base,
)
from swiftai_nb.model_files.refusals import refuse_unsupported, single_file_error, unet_task
from swiftai_nb.model_files.safetensors_headers import read_header
from swiftai_nb.model_files.samplers import is_distilled_turbo, scheduler_name
from swiftai_nb.model_files.variants import DiffusionVariant

# Component -> (prefix, a tensor it then has, layout), the first that is there.
_PARTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "unet": (
        ("model.diffusion_model.", "input_blocks.0.0.weight", "LDM"),
        ("diffusion_model.", "input_blocks.0.0.weight", "LDM"),
        ("", "input_blocks.0.0.weight", "LDM"),
        ("unet.", "down_blocks.0.resnets.0.time_emb_proj.weight", "diffusers"),
        ("", "down_blocks.0.resnets.0.time_emb_proj.weight", "diffusers"),
    ),
    "transformer": (
        ("model.diffusion_model.", "double_blocks.0.img_attn.qkv.weight", "BFL"),
        ("diffusion_model.", "double_blocks.0.img_attn.qkv.weight", "BFL"),
        ("", "double_blocks.0.img_attn.qkv.weight", "BFL"),
        ("transformer.", "transformer_blocks.0.norm1.linear.weight", "diffusers"),
        ("", "transformer_blocks.0.norm1.linear.weight", "diffusers"),
    ),
    "vae": (
        ("first_stage_model.", "decoder.mid.block_1.norm1.weight", "BFL"),
        ("vae.", "decoder.mid.block_1.norm1.weight", "BFL"),
    ),
    "text_encoder": (
        ("cond_stage_model.transformer.", "text_model.final_layer_norm.weight", "transformers"),
        ("cond_stage_model.transformer.", "final_layer_norm.weight", "transformers"),
        ("cond_stage_model.model.", "ln_final.weight", "OpenCLIP"),
        ("conditioner.embedders.0.transformer.", "text_model.final_layer_norm.weight", "transformers"),
        ("text_encoders.clip_l.transformer.", "text_model.final_layer_norm.weight", "transformers"),
        ("text_encoders.clip_l.", "text_model.final_layer_norm.weight", "transformers"),
    ),
    "text_encoder_2": (
        ("conditioner.embedders.1.model.", "ln_final.weight", "OpenCLIP"),
        ("conditioner.embedders.0.model.", "ln_final.weight", "OpenCLIP"),
        ("text_encoders.t5xxl.transformer.", "encoder.final_layer_norm.weight", "transformers"),
        ("text_encoders.t5xxl.", "encoder.final_layer_norm.weight", "transformers"),
    ),
}  # fmt: skip
# Transformers that take more channels than the latents have: they edit pictures.
_FLUX_EDITORS = {384: "FLUX.1 Fill", 128: "FLUX.1 Depth or Canny"}
_TAKES_GUIDANCE = re.compile(r"guidance_in\.|guidance_embedder\.")
_BASE_IN_NAME = re.compile(r"(^|[-_. ])base([-_. ]|$)", re.IGNORECASE)
_REFINER_WIDTH = 384
_SD_2_LAYERS = 24  # Stable Diffusion 2 uses all but the last of OpenCLIP's
_V_SIDE, _SIDES = 768, {DiffusionVariant.SD_15: 512, DiffusionVariant.SD_21: 512, DiffusionVariant.SDXL: 1024}
_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_LCM_SCHEDULER = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
_SCHEDULERS: dict[DiffusionVariant, dict[str, Any]] = {
    DiffusionVariant.SD_15: {"_class_name": "PNDMScheduler", "skip_prk_steps": True,
                             "set_alpha_to_one": False},
    DiffusionVariant.SD_21: {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
    DiffusionVariant.SDXL: {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What one file and its base hold together.

    Attributes:
        path: the file.
        family: its networks and pipeline.
        variant: the family as users name it.
        components: the networks of the file, then those of the base, by name.
        tokenizers: folders of the base, by name.
        own: names of the components that are in the file.
        scheduler_config: the base's; the family's where that is distilled, or of another kind.
        native_side: pixels the network was trained at; None for FLUX.
        is_consistency: distilled for few steps (LCM).
        is_dev: FLUX.1 with guidance as an input.
        is_base: FLUX.2 klein before distillation. No tensor tells it: the file's name or title says "base".
        zeros_empty_negative: whether no negative prompt means zeros (SDXL).
        task: what its UNet is for.
    """

    path: Path
    family: Family
    variant: DiffusionVariant
    components: Mapping[str, ComponentFiles]
    tokenizers: Mapping[str, Path]
    own: tuple[str, ...]
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    native_side: int | None = None
    is_consistency: bool = False
    is_dev: bool = False
    is_base: bool = False
    zeros_empty_negative: bool = True
    task: str = TEXT_TO_IMAGE


def open_checkpoint(path: Path, base: Path | None = None, *, prefer_half: bool = False) -> Checkpoint:
    """Describes a model in one file.

    Args:
        path: a safetensors or GGUF file.
        base: the folder of a model of its family, for what the file lacks; None is the file's own folder
            where that has tokenizers.
        prefer_half: take 16-bit files of the base where there is a choice.

    Raises:
        InvalidModelFilesError: the file is corrupt, or a network in it is not whole.
        UnsupportedModelError: a family the local engine cannot run, or no model.
        InvalidInputError: a LoRA.
    """
    if base is None and any((path.parent / name).is_dir() for name in ("tokenizer", "tokenizer_2")):
        base = path.parent
    tensors, metadata = read_header(path)
    family = family_of_tensors(tensors)
    own = _own_parts(path, tensors, family)
    if family is FLUX_1 and "transformer" in own:
        return _open_flux(path, own, base, prefer_half=prefer_half)
    if family in (Z_IMAGE, FLUX_2_KLEIN):
        return _open_parts(path, family, base, metadata=metadata, prefer_half=prefer_half)
    if family in UNET_FAMILIES and "unet" in own:
        return _open_unet(path, family, own, base, metadata=metadata, prefer_half=prefer_half)
    if family in UNET_FAMILIES:
        raise InvalidModelFilesError(f"{path} has no whole UNet", hint="download the model again")
    raise single_file_error(path)


def _own_parts(path: Path, tensors: Iterable[str], family: Family | None) -> dict[str, ComponentFiles]:
    names, found = frozenset(tensors), {}
    for part in () if family is None else family.components:
        place = next(((p, layout) for p, mark, layout in _PARTS.get(part, ()) if p + mark in names), None)
        if place is not None:
            found[part] = ComponentFiles(place[1], (path,), prefix=place[0])
    return found


def _open_flux(
    path: Path, own: Mapping[str, ComponentFiles], base: Path | None, *, prefer_half: bool
) -> Checkpoint:
    shapes = _shapes(own["transformer"])
    layers = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    given = next((layers[n][1] for n in ("img_in.weight", "x_embedder.weight") if n in layers), None)
    made = next((layers[n][0] for n in ("final_layer.linear.weight", "proj_out.weight") if n in layers), None)
    if given is not None and made is not None and given != made:
        name = _FLUX_EDITORS.get(given, f"a FLUX.1 model with {given} input channels")
        raise UnsupportedModelError(
            f"{path} holds {name}, which the local engine cannot run",
            hint="use FLUX.1 schnell or dev; masks work with them",
        )
    components, tokenizers = _with_base_parts(own, base, FLUX_1, prefer_half=prefer_half)
    is_dev = any(name.startswith("guidance_in.") or ".guidance_embedder." in name for name in shapes)
    scheduler = {} if base is None else _base_scheduler(base)
    if bool(scheduler.get("use_dynamic_shifting")) != is_dev:
        scheduler = {}
    return Checkpoint(
        path,
        FLUX_1,
        DiffusionVariant.FLUX,
        components,
        tokenizers,
        tuple(own),
        scheduler_config=scheduler,
        is_dev=is_dev,
    )


def _open_parts(
    path: Path, family: Family, base: Path | None, *, metadata: Mapping[str, str], prefer_half: bool
) -> Checkpoint:
    own = parts_in_file(path, family)
    if family is FLUX_2_KLEIN and any(_TAKES_GUIDANCE.search(name) for name in read_header(path)[0]):
        refuse_unsupported(FLUX_2_DEV, path)
    components, tokenizers = _with_base_parts(own, base, family, prefer_half=prefer_half)
    titles = (metadata.get("modelspec.title", ""), metadata.get("general.name", ""))
    is_klein = family is FLUX_2_KLEIN
    return Checkpoint(
        path,
        family,
        DiffusionVariant.FLUX_2_KLEIN if is_klein else DiffusionVariant.Z_IMAGE,
        components,
        tokenizers,
        tuple(own),
        scheduler_config={} if base is None else _base_scheduler(base),
        is_base=is_klein and is_named_base(path, *titles),
    )


def is_named_base(path: Path, *titles: str) -> bool:
    """Whether "base" is a word of a title, or of the name of a file, folder or repository in the cache."""
    repository = path.parents[1].name if path.parent.name == "snapshots" else ""
    return any(_BASE_IN_NAME.search(name) for name in (path.stem, repository, *titles))


def _with_base_parts(
    own: Mapping[str, ComponentFiles], base: Path | None, family: Family, *, prefer_half: bool
) -> tuple[dict[str, ComponentFiles], dict[str, Path]]:
    """The networks and tokenizers of a file and its base, for a family in several layouts."""
    if base is None:
        return dict(own), {}
    parts = {
        part: own.get(part) or find_part(base, family, part, prefer_half=prefer_half)
        for part in family.components
    }
    names = [name for name in PARTS[family.name] if name.startswith("tokenizer")]
    tokenizers = {name: find_tokenizer(base, family, name) for name in names}
    return (
        {part: files for part, files in parts.items() if files is not None},
        {name: folder for name, folder in tokenizers.items() if folder is not None},
    )


def _open_unet(
    path: Path,
    named: Family,
    own: Mapping[str, ComponentFiles],
    base: Path | None,
    *,
    metadata: Mapping[str, str],
    prefer_half: bool,
) -> Checkpoint:
    family, unet = _checked_unet(path, own["unet"], named)
    is_xl = family in SDXL_FAMILIES
    is_2 = unet["cross_attention_dim"] == SD_2_CONTEXT
    variant = DiffusionVariant.SDXL if is_xl else DiffusionVariant.SD_21 if is_2 else DiffusionVariant.SD_15
    scheduler = {} if base is None else _base_scheduler(base)
    is_lcm = unet["time_cond_proj_dim"] is not None
    # A base distilled in another way lends neither its sampler nor its size.
    is_alike = not is_distilled_turbo(scheduler) and (scheduler_name(scheduler) == "lcm") == is_lcm
    if not is_alike or not scheduler:
        scheduler = _SCHEDULE | (_LCM_SCHEDULER if is_lcm else _SCHEDULERS[variant])
    facts = scheduler_facts(own["unet"], metadata)
    side = _V_SIDE if is_2 and facts.get("prediction_type") == "v_prediction" else _SIDES[variant]
    base_unet = {} if base is None else read_json_object(base / "unet" / "config.json")
    config = with_base(unet, base_unet, key="block_out_channels")
    sample_size = config.get("sample_size")
    if is_alike and type(sample_size) is int and not (is_2 and "prediction_type" in facts):
        side = sample_size * 8
    own_parts = {
        "unet": replace(own["unet"], values=config | {"sample_size": side // 8}),
        **{name: _with_config(name, files, base, family) for name, files in own.items() if name != "unet"},
    }
    names = family.components
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in names if "text" in name]
    others = {} if base is None else {name: _base_part(base, name, prefer_half) for name in names}
    index = {} if base is None else read_json_object(base / "model_index.json")
    return Checkpoint(
        path,
        family,
        variant,
        {name: files for name, files in (others | own_parts).items() if files is not None},
        {} if base is None else {n: base / n for n in tokenizers if (base / n).is_dir()},
        tuple(own),
        scheduler_config={**scheduler, **facts},
        native_side=side,
        is_consistency=is_lcm,
        # An SDXL base wants zeros, the refiner does not.
        zeros_empty_negative=family is not STABLE_DIFFUSION_XL_REFINER
        and bool(index.get("force_zeros_for_empty_prompt", True)),
        task=unet_task(unet["in_channels"], unet["out_channels"], family=family, path=path),
    )


def _base_part(base: Path, name: str, prefer_half: bool) -> ComponentFiles | None:
    has_weights = any((base / name).glob("*.safetensors"))
    return find_unet_component(base, name, prefer_half=prefer_half) if has_weights else None


def _base_scheduler(base: Path) -> dict[str, Any]:
    return read_json_object(base / "scheduler" / "scheduler_config.json")


def _checked_unet(path: Path, files: ComponentFiles, named: Family) -> tuple[Family, dict[str, Any]]:
    """The family by the UNet's own shapes, and its configuration, as far as shapes tell it.

    Raises:
        UnsupportedModelError: a UNet of another purpose; names it.
    """
    unet = unet_config(_shapes(files), layout=files.layout, path=path)
    is_xl = unet["addition_embed_type"] is not None
    if is_xl and unet["cross_attention_dim"] == SD_2_CONTEXT:
        raise UnsupportedModelError(
            f"{path} holds Stable unCLIP, which the local engine cannot run",
            hint="use the text-to-image model of this family; images and masks work with it",
        )
    if not is_xl:
        return STABLE_DIFFUSION, unet
    is_refiner = named is STABLE_DIFFUSION_XL_REFINER or unet["block_out_channels"][0] == _REFINER_WIDTH
    return STABLE_DIFFUSION_XL_REFINER if is_refiner else STABLE_DIFFUSION_XL, unet


def _shapes(files: ComponentFiles) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in files.tensors().items()}


def _with_config(name: str, files: ComponentFiles, base: Path | None, family: Family) -> ComponentFiles:
    """A text encoder or autoencoder of a file, with its configuration."""
    shapes = _shapes(files)
    path = files.paths[0]
    known = {} if base is None else read_json_object(base / name / "config.json")
    if name == "vae":
        config = with_base(
            vae_config(shapes, path, is_xl=family in SDXL_FAMILIES), known, key="block_out_channels"
        )
    else:
        own = open_clip_config(shapes, path) if files.layout == "OpenCLIP" else clip_config(shapes, path)
        config = with_base(own, known, key="hidden_size")
        layers = known.get("num_hidden_layers")
        if files.layout == "OpenCLIP" and name == "text_encoder":
            count = own["num_hidden_layers"]
            last = count - 1 if count == _SD_2_LAYERS else count
            config["num_hidden_layers"] = layers if layers in (count, count - 1) else last
        if name == "text_encoder_2":
            config |= {"architectures": ["CLIPTextModelWithProjection"]}
    return replace(files, values=config)
