"""The model families: how each is recognized in a folder's configs or in a file's tensor names.

To add a family, add a row to `FAMILIES` (and, when it gets defaults of its own, to `variants.py`). A row
without `is_supported` only gives a name to what is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swiftai_nb.model_files.references import ReferenceLimits


@dataclass(frozen=True)
class Family:
    """Models with the same networks and the same pipeline.

    Attributes:
        name: as its publisher writes it.
        pipeline_classes: diffusers' `_class_name` in `model_index.json`; the first makes images from text.
        denoiser_classes: diffusers' `_class_name` in the `config.json` of `unet/` or `transformer/`.
        class_prefixes: what names of diffusers' classes begin with; the longest one that fits wins.
        marks: pieces of tensor names; a file is of this family if it has all pieces of one of the groups.
        components: folders of the networks it needs.
        is_flow: trained by flow matching; else it predicts noise or velocity.
        guidance_above: classifier-free guidance is on for larger scales; None for families without it.
        rescales_guidance: whether `guidance_rescale` has an effect where that guidance is on.
        sensitive_layers: pieces of the names of layers that are not quantized on load: small ones, whose
            errors every token and every step has.
        is_supported: whether the local engine runs it.
        text_layers: numbers of the text encoder's hidden states that are read, -1 being the last; the layers
            above are not loaded. Empty: all layers are.
        bytes_per_token: memory of a flow model's step for each token in float32, measured on the CPU.
        references: the pictures that it can change or take up by the prompt; None for text to image alone.
        refining_strength: of families that only refine a given picture, how much of it they change where that
            is left open; None for those that begin from noise as well.
    """

    name: str
    pipeline_classes: tuple[str, ...] = ()
    denoiser_classes: tuple[str, ...] = ()
    class_prefixes: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()
    components: tuple[str, ...] = ()
    is_flow: bool = False
    guidance_above: float | None = 1.0
    rescales_guidance: bool = True
    sensitive_layers: tuple[str, ...] = ()
    is_supported: bool = False
    text_layers: tuple[int, ...] = ()
    bytes_per_token: int = 400_000
    references: ReferenceLimits | None = None
    refining_strength: float | None = None

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether classifier-free guidance is on: the network sees two images at a time."""
        return self.guidance_above is not None and guidance_scale > self.guidance_above


# What a UNet is for, by the channels it takes beside the noisy latents: a mask and a masked picture, or a
# picture to change.
TEXT_TO_IMAGE, INPAINTING, INSTRUCT_PIX2PIX = "text-to-image", "inpainting", "InstructPix2Pix"
PIX2PIX_REFERENCES = ReferenceLimits(max_count=1, multiple=8, is_canvas=True)

STABLE_DIFFUSION = Family(
    "Stable Diffusion",
    (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
    class_prefixes=("StableDiffusion", "LatentConsistency"),
    marks=(("input_blocks.0.0.",), ("down_blocks.0.resnets.0.time_emb_proj.",)),
    components=("text_encoder", "unet", "vae"),
    is_supported=True,
)
STABLE_DIFFUSION_XL = Family(
    "Stable Diffusion XL",
    (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    class_prefixes=("StableDiffusionXL",),
    marks=(
        ("conditioner.embedders.1.",),
        ("input_blocks.0.0.", "label_emb.0.0."),
        ("down_blocks.0.resnets.0.time_emb_proj.", "add_embedding.linear_1."),
    ),
    components=("text_encoder", "text_encoder_2", "unet", "vae"),
    is_supported=True,
)
# Its UNet was trained on the last fifth of the noise levels alone.
STABLE_DIFFUSION_XL_REFINER = Family(
    "Stable Diffusion XL refiner",
    ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    marks=(("conditioner.embedders.0.model.",),),
    components=("text_encoder_2", "unet", "vae"),
    is_supported=True,
    refining_strength=0.3,
)
SDXL_FAMILIES = (STABLE_DIFFUSION_XL, STABLE_DIFFUSION_XL_REFINER)
UNET_FAMILIES = (STABLE_DIFFUSION, *SDXL_FAMILIES)
FLUX_1 = Family(
    "FLUX.1",
    ("FluxPipeline", "FluxImg2ImgPipeline"),
    ("FluxTransformer2DModel",),
    class_prefixes=("Flux",),
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
    bytes_per_token=850_000,
)
Z_IMAGE = Family(
    "Z-Image",
    ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    ("ZImageTransformer2DModel",),
    class_prefixes=("ZImage",),
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
    class_prefixes=("Flux2Klein",),
    marks=(("double_stream_modulation_img.",),),
    components=("transformer", "text_encoder", "vae"),
    is_flow=True,
    sensitive_layers=("x_embedder.", "time_guidance_embed.", "norm_out.", "proj_out."),
    is_supported=True,
    text_layers=(9, 18, 27),
    bytes_per_token=680_000,
    rescales_guidance=False,
    references=ReferenceLimits(),
)
# The same transformer with guidance as an input.
FLUX_2_DEV = Family("FLUX.2 dev", ("Flux2Pipeline",), class_prefixes=("Flux2",))
STABLE_DIFFUSION_3 = Family(
    "Stable Diffusion 3",
    ("StableDiffusion3Pipeline",),
    ("SD3Transformer2DModel",),
    ("StableDiffusion3", "SD3"),
    marks=(
        ("joint_blocks.0.",),
        ("transformer_blocks.0.norm1_context.", "pos_embed.proj."),
    ),
    is_flow=True,
)


def _other(name: str, *class_prefixes: str, marks: tuple[tuple[str, ...], ...] = ()) -> Family:
    """A family that is only named when it is refused."""
    return Family(name, class_prefixes=class_prefixes, marks=marks)


# The first whose tensor names match wins: families whose names include another's stand before it.
FAMILIES: tuple[Family, ...] = (
    FLUX_2_KLEIN,
    FLUX_2_DEV,
    _other("FLUX.3", "Flux3", marks=(("early_stream_modulations.",),)),
    _other("Chroma", "Chroma", marks=(("distilled_guidance_layer.",),)),
    _other("AuraFlow", "AuraFlow",
           marks=(("joint_transformer_blocks.0.",), ("double_layers.0.attn.w1q.",))),
    _other("Z-Image Omni", "ZImageOmni", marks=(("siglip_refiner.0.", "noise_refiner.0."),)),
    Z_IMAGE,
    _other("Lumina 2", "Lumina", marks=(("noise_refiner.0.", "cap_embedder."),)),
    _other("OmniGen", "OmniGen", marks=(("time_caption_embed.",),)),
    _other("Qwen-Image", "QwenImage",
           marks=(("transformer_blocks.0.img_mod.",), ("txt_in.text_norm.",))),
    _other("HiDream", "HiDream",
           marks=(("double_stream_blocks.0.block.",), ("caption_projection.0.linear.",))),
    _other("HunyuanVideo", "HunyuanVideo", marks=(("individual_token_refiner.",),)),
    _other("HunyuanImage", "HunyuanImage"),
    _other("HunyuanDiT", "HunyuanDiT", marks=(("text_embedding_padding", "blocks.0.attn2."), ("mlp_t5.0.",))),
    _other("SANA", "Sana",
           marks=(("blocks.0.cross_attn.q_linear.", "blocks.0.mlp.inverted_conv."),
                  ("transformer_blocks.0.ff.conv_inverted.",))),
    _other("PixArt", "PixArt",
           marks=(("blocks.0.cross_attn.q_linear.", "t_block.1."),
                  ("adaln_single.", "caption_projection.", "pos_embed.proj.", "scale_shift_table"))),
    _other("Wan", "Wan", marks=(("head.modulation",), ("condition_embedder.time_proj.", "blocks.0.attn2."))),
    _other("LTX-Video", "LTX", marks=(("patchify_proj.",),)),
    _other("Mochi", "Mochi", marks=(("t5_yproj.",),)),
    _other("Cosmos or Anima", "Cosmos", "Anima", marks=(("x_embedder.proj.1.", "blocks.0.self_attn."),)),
    _other("Krea 2", "Krea2", marks=(("txtfusion.",),)),
    _other("CogView or CogVideo", "CogView", "CogVideo"),
    _other("Kolors", "Kolors"),
    _other("Kandinsky", "Kandinsky"),
    _other("DeepFloyd IF", "IF"),
    _other("ERNIE-Image", "ErnieImage"),
    _other("Bria", "Bria"),
    _other("GLM-Image", "GlmImage"),
    _other("Ideogram", "Ideogram"),
    _other("LongCat-Image", "LongCat"),
    _other("DreamLite", "DreamLite"),
    _other("Stable Cascade", "StableCascade", "Wuerstchen",
           marks=(("clip_txt_mapper.",), ("down_blocks.0.0.channelwise.0.",))),
    _other("Stable Video Diffusion", "StableVideoDiffusion", "UNetSpatioTemporal"),
    _other("Stable unCLIP", "StableUnCLIP"),
    _other("Playground v2.5", marks=(("edm_mean",),)),
    STABLE_DIFFUSION_XL_REFINER,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_3,
    FLUX_1,
    _other(STABLE_DIFFUSION_3.name, marks=(("multimodal_transformer_blocks.0.",),)),  # as Argmax names it
)  # fmt: skip
# Of LoRAs of all kinds, and of networks that steer a UNet and have its names.
ADAPTER_MARKS = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "lora.down.", "lora.up.", ".hada_w1", ".lokr_w1",
    ".oft_blocks", ".dora_scale",
)  # fmt: skip
CONTROL_MARKS = (
    "control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_blocks.",
    "control_all_x_embedder.", "control_layers.0.", "input_hint_block.",
)  # fmt: skip


def editing_families() -> tuple[str, ...]:
    """Names of the supported families that take reference pictures."""
    return (*(family.name for family in FAMILIES if family.references is not None), INSTRUCT_PIX2PIX)


def supported_pipeline(class_name: str) -> Family | None:
    """The supported family with this pipeline class, or None."""
    return next((f for f in FAMILIES if f.is_supported and class_name in f.pipeline_classes), None)


def family_of_class(class_name: str) -> Family | None:
    """The family that a class of diffusers belongs to, by its name; None for unknown ones."""
    prefixes = [
        (len(prefix), family)
        for family in FAMILIES
        for prefix in family.class_prefixes
        if class_name.startswith(prefix)
    ]
    exact = next((family for family in FAMILIES if class_name in family.denoiser_classes), None)
    return exact if exact is not None or not prefixes else max(prefixes, key=lambda found: found[0])[1]


def family_of_name(name: str) -> Family | None:
    """The family that a model's or repository's name begins with, if it is one that is not supported."""
    bare = _letters(name.rpartition("/")[2])
    for family in FAMILIES:
        key = _letters(family.name.partition(" or ")[0])
        is_whole_word = len(key) > 4 or not bare[len(key) : len(key) + 1].isalpha()
        if not family.is_supported and bare.startswith(key) and is_whole_word:
            return family
    return None


def family_of_tensors(names: Iterable[str]) -> Family | None:
    """The family with these tensor names; None when they are of none, of a LoRA or of a ControlNet."""
    names = tuple(names)
    if has_pieces(names, *ADAPTER_MARKS, *CONTROL_MARKS):
        return None
    return next(
        (family for family in FAMILIES if any(_has_all(names, group) for group in family.marks)), None
    )


def has_pieces(names: Iterable[str], *pieces: str) -> bool:
    """Whether any of these tensor names has one of the pieces."""
    return any(piece in name for name in names for piece in pieces)


def _has_all(names: tuple[str, ...], pieces: Iterable[str]) -> bool:
    return all(has_pieces(names, piece) for piece in pieces)


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
