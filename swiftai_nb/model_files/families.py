"""The model families: how each is recognized in a folder's configs or in a file's tensor names.

To add a family, add a row to `FAMILIES` (and, when it gets defaults of its own, to `variants.py`). A row
without `is_supported` only gives a name to what is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import (
    AIError,
    InvalidInputError,
    InvalidModelFilesError,
    UnsupportedModelError,
)
from swiftai_nb.model_files.references import ReferenceLimits
from swiftai_nb.model_files.safetensors_headers import read_header

CHOOSE_SUPPORTED = "use a Stable Diffusion 1.x/2.x, SDXL, FLUX.1, FLUX.2 klein or Z-Image model"
PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
MODEL_FILE_SUFFIXES = PICKLE_SUFFIXES | {".safetensors", ".gguf"}


@dataclass(frozen=True)
class Family:
    """Models with the same networks and the same pipeline.

    Attributes:
        name: as its publisher writes it.
        pipeline_classes: diffusers' `_class_name` in `model_index.json`; the first makes images from text.
        denoiser_classes: diffusers' `_class_name` in the `config.json` of `unet/` or `transformer/`.
        marks: pieces of tensor names; a file is of this family if it has all pieces of one of the groups.
        components: folders of the networks it needs.
        is_flow: trained by flow matching; else it predicts noise or velocity.
        guidance_above: classifier-free guidance is on for larger scales; None for families without it.
        sensitive_layers: pieces of the names of layers that are not quantized on load: small ones, whose
            errors every token and every step has.
        is_supported: whether the local engine runs it.
        text_layers: numbers of the text encoder's hidden states that are read, -1 being the last; the layers
            above are not loaded. Empty: all layers are.
        references: the pictures that it can change or take up by the prompt; None for text to image alone.
    """

    name: str
    pipeline_classes: tuple[str, ...] = ()
    denoiser_classes: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()
    components: tuple[str, ...] = ()
    is_flow: bool = False
    guidance_above: float | None = 1.0
    sensitive_layers: tuple[str, ...] = ()
    is_supported: bool = False
    text_layers: tuple[int, ...] = ()
    references: ReferenceLimits | None = None

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether classifier-free guidance is on: the network sees two images at a time."""
        return self.guidance_above is not None and guidance_scale > self.guidance_above


STABLE_DIFFUSION = Family(
    "Stable Diffusion",
    (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
    marks=(("input_blocks.0.0.",), ("down_blocks.0.resnets.0.time_emb_proj.",)),
    components=("text_encoder", "unet", "vae"),
    is_supported=True,
)
STABLE_DIFFUSION_XL = Family(
    "Stable Diffusion XL",
    ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    marks=(
        ("conditioner.embedders.1.",),
        ("input_blocks.0.0.", "label_emb.0.0."),
        ("down_blocks.0.resnets.0.time_emb_proj.", "add_embedding.linear_1."),
    ),
    components=("text_encoder", "text_encoder_2", "unet", "vae"),
    is_supported=True,
)
FLUX_1 = Family(
    "FLUX.1",
    ("FluxPipeline", "FluxImg2ImgPipeline"),
    ("FluxTransformer2DModel",),
    marks=(
        ("double_blocks.0.img_attn.qkv.",),
        ("multimodal_transformer_blocks.0.", "unified_transformer_blocks.0."),
        ("single_transformer_blocks.0.", "transformer_blocks.0.norm1.linear."),
        ("transformer_blocks.0.ff.linear1.",),
        ("transformer_blocks.0.ff.net.",),
    ),
    components=("transformer", "text_encoder", "text_encoder_2", "vae"),
    is_flow=True,
    guidance_above=None,
    is_supported=True,
)
Z_IMAGE = Family(
    "Z-Image",
    ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    ("ZImageTransformer2DModel",),
    marks=(("all_x_embedder.", "noise_refiner.0."), ("cap_pad_token", "noise_refiner.0.")),
    components=("transformer", "text_encoder", "vae"),
    is_flow=True,
    guidance_above=0.0,  # as in diffusers: positive + scale * (positive - negative)
    sensitive_layers=("adaLN_modulation.", "t_embedder.", "cap_embedder.", "x_embedder.", "final_layer."),
    is_supported=True,
    text_layers=(-2,),
)
FLUX_2_KLEIN = Family(
    "FLUX.2 klein",
    ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    ("Flux2Transformer2DModel",),
    marks=(("double_stream_modulation_img.",),),
    components=("transformer", "text_encoder", "vae"),
    is_flow=True,
    sensitive_layers=("x_embedder.", "time_guidance_embed.", "norm_out.", "proj_out."),
    is_supported=True,
    text_layers=(9, 18, 27),
    references=ReferenceLimits(),
)
FLUX_2_DEV = Family("FLUX.2 dev", ("Flux2Pipeline",))  # the same transformer with guidance as an input
STABLE_DIFFUSION_3 = Family(
    "Stable Diffusion 3",
    ("StableDiffusion3Pipeline",),
    ("SD3Transformer2DModel",),
    marks=(
        ("joint_blocks.0.",),
        ("transformer_blocks.0.norm1_context.", "pos_embed.proj."),
    ),
    is_flow=True,
)
# The first that matches wins: families whose tensor names include another's stand before it.
FAMILIES: tuple[Family, ...] = (
    FLUX_2_KLEIN,
    FLUX_2_DEV,
    Family("Chroma", ("ChromaPipeline",), ("ChromaTransformer2DModel",), (("distilled_guidance_layer.",),)),
    Family("AuraFlow", ("AuraFlowPipeline",), ("AuraFlowTransformer2DModel",),
           marks=(("joint_transformer_blocks.0.",),)),
    Family("Z-Image Omni", ("ZImageOmniPipeline",), marks=(("siglip_refiner.0.", "noise_refiner.0."),)),
    Z_IMAGE,
    Family("Lumina 2", ("Lumina2Pipeline", "Lumina2Text2ImgPipeline"),
           ("Lumina2Transformer2DModel",), (("noise_refiner.0.", "cap_embedder."),)),
    Family("Qwen-Image", ("QwenImagePipeline",), ("QwenImageTransformer2DModel",),
           (("transformer_blocks.0.img_mod.",),)),
    Family("HiDream", ("HiDreamImagePipeline",), ("HiDreamImageTransformer2DModel",),
           (("double_stream_blocks.0.block.",),)),
    Family("HunyuanDiT", ("HunyuanDiTPipeline",), ("HunyuanDiT2DModel",),
           (("text_embedding_padding", "blocks.0.attn2."),)),
    STABLE_DIFFUSION_XL,
    Family("the Stable Diffusion XL refiner", marks=(("conditioner.embedders.0.model.",),)),
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_3,
    FLUX_1,
    Family(STABLE_DIFFUSION_3.name, marks=(("multimodal_transformer_blocks.0.",),)),  # as Argmax names it
)  # fmt: skip
_LORA_MARKS = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "lora.down.", "lora.up.")
_PART_MARKS: tuple[tuple[str, str], ...] = (
    ("an autoencoder", "decoder.mid.block_1."),
    ("an autoencoder", "decoder.mid_block."),
    ("a CLIP text encoder", "text_model.encoder.layers.0."),
    ("a T5 text encoder", "encoder.block.0.layer.0."),
    ("a T5 text encoder", "enc.blk.0.attn_q."),
    ("a Qwen3 text encoder", "layers.0.self_attn.q_norm."),
    ("a Qwen3 text encoder", "blk.0.attn_q_norm."),
    ("a textual inversion embedding", "emb_params"),
    ("a textual inversion embedding", "clip_g"),
)


def editing_families() -> tuple[str, ...]:
    """Names of the supported families that take reference pictures."""
    return tuple(family.name for family in FAMILIES if family.references is not None)


def supported_pipeline(class_name: str) -> Family | None:
    """The supported family with this pipeline class, or None."""
    return next((f for f in FAMILIES if f.is_supported and class_name in f.pipeline_classes), None)


def family_of_denoiser(class_name: str) -> Family | None:
    """The family whose denoiser has this `_class_name`, or None."""
    return next((family for family in FAMILIES if class_name in family.denoiser_classes), None)


def family_of_tensors(names: Iterable[str]) -> Family | None:
    """The family with these tensor names; None when they are of none, or of a LoRA."""
    names = tuple(names)
    if _has(names, *_LORA_MARKS):
        return None
    return next(
        (family for family in FAMILIES if any(_has_all(names, group) for group in family.marks)), None
    )


def refuse_unsupported(family: Family, path: Path) -> None:
    """Raises UnsupportedModelError, with the family's name, for one that the local engine does not run."""
    if not family.is_supported:
        raise UnsupportedModelError(
            f"{path} holds {family.name}, which the local engine cannot run", hint=CHOOSE_SUPPORTED
        )


def single_file_error(path: Path) -> AIError:
    """The error for a single file given as a model: names what it holds and what to use instead.

    Args:
        path: an existing file with one of `MODEL_FILE_SUFFIXES`.

    Raises:
        InvalidModelFilesError: its header is corrupt.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        return InvalidModelFilesError(
            f"{path} is a pickle file, which can run code and is never loaded",
            hint="use the safetensors files of this model",
        )
    names = tuple(read_header(path)[0])
    if _has(names, *_LORA_MARKS):
        return InvalidInputError(f"{path} is a LoRA, not a model", hint=f"--lora {path}")
    message, hint = _describe(path, names)
    return UnsupportedModelError(message, hint=hint)


def _describe(path: Path, names: tuple[str, ...]) -> tuple[str, str]:
    """(message, hint) for a safetensors file that is not a LoRA."""
    family = family_of_tensors(names)
    if family is None:
        part = next((label for label, mark in _PART_MARKS if _has(names, mark)), None)
        what = "holds no model that is known" if part is None else f"is {part}, not a whole model"
        return f"{path} {what}", CHOOSE_SUPPORTED
    if family in (FLUX_1, Z_IMAGE):
        return (
            f"{path} is a transformer of {family.name}, which needs its other parts",
            "give the folder that holds it with ae.safetensors, the text encoders and the tokenizers",
        )
    if family in (STABLE_DIFFUSION, STABLE_DIFFUSION_XL):
        return (
            f"{path} is a {family.name} checkpoint in a single file",
            "give the file itself as the model",
        )
    if family.is_supported:
        return (
            f"{path} is a transformer of {family.name}, which needs its other parts",
            "give the folder of the whole model in diffusers layout",
        )
    return f"{path} holds {family.name}, which the local engine cannot run", CHOOSE_SUPPORTED


def _has(names: Iterable[str], *pieces: str) -> bool:
    return any(piece in name for name in names for piece in pieces)


def _has_all(names: tuple[str, ...], pieces: Iterable[str]) -> bool:
    return all(_has(names, piece) for piece in pieces)
