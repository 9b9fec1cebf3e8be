"""The built-in models: a table. Sizes and licenses come from public pages; rounded sizes are marked.

No live Hub was reachable when this table was written: `python -m swiftai_nb models verify` compares it
with the Hub, and a maintainer with a connection should run it before a release. Revisions are therefore
not pinned; the commit that was downloaded is recorded with every download.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog_controls import CONTROLNETS
from swiftai_nb.registry.catalog_files import (
    mflux_files,
    mflux_qwen3_files,
    stable_diffusion_files,
    z_image_files,
)
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, ModelFile, family_settings
from swiftai_nb.registry.upscaler_entries import UPSCALERS

_NOT_LIVE = "sizes, license and gating come from public pages and were not checked against the live Hub"
_OPENRAIL = "free to use, also commercially, within the use restrictions of its annex A"
_STABILITY_NC = "free for non-commercial use; commercial use needs a license from Stability AI"


def _taesd(
    *, name: str, variant: DiffusionVariant, family: str, size_bytes: int = 9_793_292
) -> DiffusionModelInfo:
    repository = f"madebyollin/{name}"
    weights = ModelFile("diffusion_pytorch_model.safetensors", size_bytes, is_exact=name == "taesdxl")
    return DiffusionModelInfo(
        id=name,
        name=f"{name.upper()} preview decoder",
        **family_settings(variant, steps=1, guidance_scale=0.0),
        description=f"Small decoder that turns {family} latents into sharp previews",
        repository=repository,
        files=(ModelFile("config.json"), weights),
        size_bytes=size_bytes,
        license="mit",
        license_summary="free to use",
        min_memory_bytes=GB,
        aliases=(repository,),
        kind="preview-decoder",
        unconfirmed=_NOT_LIVE,
    )


def _part(
    info: DiffusionModelInfo, *, suffix: str, what: str, files: tuple[ModelFile, ...]
) -> DiffusionModelInfo:
    """Some files of a model, for checkpoints in one file, which lack them."""
    return replace(
        info,
        id=f"{info.variant.value.removesuffix('-turbo')}-{suffix}",
        name=f"{info.name}: {what}",
        description=f"The {what} of {info.name}, for models in a single file",
        files=files,
        size_bytes=sum(file.size_bytes or 0 for file in files),
        min_memory_bytes=GB,
        aliases=(),
        preview_decoder=None,
        kind="part",
    )


def _tokenizer_part(info: DiffusionModelInfo, *folders: str) -> DiffusionModelInfo:
    files = (
        replace(file, size_bytes=_TOKENIZER_BYTES.get(file.path.rpartition("/")[2]))
        for file in info.files
        if file.path.partition("/")[0] in folders
    )
    return _part(info, suffix="tokenizer", what="tokenizer", files=tuple(files))


def _networks_part(info: DiffusionModelInfo, *, suffix: str, what: str) -> DiffusionModelInfo:
    files = tuple(file for file in info.files if not file.path.startswith("transformer/"))
    return _part(info, suffix=suffix, what=what, files=files)


_TOKENIZER_BYTES = {"vocab.json": 1_060_000, "merges.txt": 525_000}
_SD_15 = DiffusionModelInfo(
    id="sd-1.5",
    name="Stable Diffusion 1.5",
    **family_settings(DiffusionVariant.SD_15),
    description="Thousands of fine-tunes and LoRAs fit it; 512x512",
    repository="stable-diffusion-v1-5/stable-diffusion-v1-5",
    files=stable_diffusion_files(unet_gb=1.7191, text_encoder_gb=0.2461),
    size_bytes=2_130_000_000,
    license="creativeml-openrail-m",
    license_url="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    license_summary=_OPENRAIL,
    min_memory_bytes=8 * GB,
    aliases=("stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5", "sd15", "sd1.5"),
    fallback_repositories=("vladmandic/sd15-diffusers",),
    preview_decoder="taesd",
    unconfirmed=_NOT_LIVE,
)

_KLEIN = DiffusionModelInfo(
    id="flux.2-klein-4bit",
    name="FLUX.2 klein 4B (4-bit)",
    **family_settings(DiffusionVariant.FLUX_2_KLEIN),
    description="Makes pictures and changes given ones by words (--with), in 4 steps",
    repository="mflux-community/flux2-klein-4b-mflux-q4",
    files=mflux_qwen3_files(2.14, 0.04),
    size_bytes=4_610_000_000,
    license="apache-2.0",
    license_url="https://www.apache.org/licenses/LICENSE-2.0",
    license_summary="free to use, also commercially",
    min_memory_bytes=8 * GB,
    aliases=("flux2-klein", "flux.2-klein-4b", "klein"),
    fallback_repositories=("Runpod/FLUX.2-klein-4B-mflux-4bit",),
    preview_decoder="taef2",
    unconfirmed=f"{_NOT_LIVE}; the split into shards follows from mflux's limit of 2 GiB",
)
_KLEIN_BASE: dict[str, Any] = {"default_steps": 50, "default_guidance_scale": 4.0}
_FLUX_NC: dict[str, Any] = {
    "license": "flux-non-commercial-license",
    "license_url": "https://huggingface.co/black-forest-labs/FLUX.2-klein-9B/blob/main/LICENSE.md",
    "license_summary": "free for non-commercial use; commercial use needs a license from Black Forest Labs",
}

_MODELS: tuple[DiffusionModelInfo, ...] = (
    DiffusionModelInfo(
        id="emoji-mini",
        name="Emoji mini",
        **family_settings(DiffusionVariant.SD_15, steps=10, guidance_scale=1.7, side=256),
        description="Ships with the package: small images of things and animals in seconds, on any CPU",
        license="mit",
        license_summary="free to use; trained on Fluent Emoji (MIT)",
        min_memory_bytes=GB,
        aliases=("bundled",),
        bundled=True,
    ),
    DiffusionModelInfo(
        id="sdxl-turbo",
        name="SDXL Turbo",
        **family_settings(DiffusionVariant.SDXL_TURBO),
        description="High quality at 512x512 in 1 to 4 steps; runs without guidance",
        repository="stabilityai/sdxl-turbo",
        files=stable_diffusion_files(unet_gb=5.1351, text_encoder_gb=0.2461, text_encoder_2_gb=1.3894),
        size_bytes=6_940_000_000,
        license="sai-nc-community",
        license_url="https://stability.ai/license",
        license_summary=_STABILITY_NC,
        min_memory_bytes=12 * GB,
        aliases=("mlx-community/sdxl-turbo",),
        preview_decoder="taesdxl",
        unconfirmed=_NOT_LIVE,
    ),
    _SD_15,
    replace(
        _SD_15,
        id="sd-1.5-8bit",
        name="Stable Diffusion 1.5 (8-bit)",
        description="sd-1.5 quantized to 8 bits at load time; nearly the same images in less memory",
        quantization_bits=8,
        aliases=(),
    ),
    replace(
        _SD_15,
        id="sd-1.5-4bit",
        name="Stable Diffusion 1.5 (4-bit)",
        description="sd-1.5 quantized to 4 bits at load time; saves little memory",
        quantization_bits=4,
        aliases=("mlx-community/stable-diffusion-v1-5-4bit",),
    ),
    replace(
        _SD_15,
        id="sd-1.5-inpainting",
        name="Stable Diffusion 1.5 Inpainting",
        description="Paints what a mask shows to match the rest: --image and --mask",
        repository="stable-diffusion-v1-5/stable-diffusion-inpainting",
        aliases=("runwayml/stable-diffusion-inpainting",),
        fallback_repositories=(),
    ),
    replace(
        _SD_15,
        id="instruct-pix2pix",
        name="InstructPix2Pix",
        description="Changes a picture by an instruction: --with, after Stable Diffusion 1.5",
        repository="timbrooks/instruct-pix2pix",
        license="mit",
        license_url=None,
        license_summary="free to use, also commercially",
        aliases=("pix2pix",),
        fallback_repositories=(),
    ),
    DiffusionModelInfo(
        id="sdxl-inpainting",
        name="SDXL Inpainting 0.1",
        **family_settings(DiffusionVariant.SDXL),
        description="Paints what a mask shows to match the rest, at 1024x1024: --image and --mask",
        repository="diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        files=stable_diffusion_files(unet_gb=5.1352, text_encoder_gb=0.2461, text_encoder_2_gb=1.3894),
        size_bytes=6_940_000_000,
        license="openrail++",
        license_summary=_OPENRAIL,
        min_memory_bytes=16 * GB,
        preview_decoder="taesdxl",
        unconfirmed=_NOT_LIVE,
    ),
    DiffusionModelInfo(
        id="sd-turbo",
        name="SD Turbo",
        **family_settings(DiffusionVariant.SD_21, steps=4, guidance_scale=0.0),
        description="Small and fast: 512x512 in 1 to 4 steps, distilled from Stable Diffusion 2.1",
        repository="stabilityai/sd-turbo",
        files=stable_diffusion_files(unet_gb=1.7320, text_encoder_gb=0.6809),
        size_bytes=2_580_000_000,
        license="sai-nc-community",
        license_url="https://stability.ai/license",
        license_summary=_STABILITY_NC,
        min_memory_bytes=8 * GB,
        preview_decoder="taesd",
        unconfirmed=_NOT_LIVE,
    ),
    DiffusionModelInfo(
        id="lcm-dreamshaper",
        name="LCM Dreamshaper v7",
        **family_settings(DiffusionVariant.SD_15, steps=4, guidance_scale=8.0, side=768),
        description="Free license and fast: 768x768 in 4 steps, a latent consistency model after SD 1.5",
        repository="SimianLuo/LCM_Dreamshaper_v7",
        files=stable_diffusion_files(unet_gb=3.44, text_encoder_gb=0.4923, suffix=""),
        size_bytes=4_270_000_000,
        license="mit",
        license_summary="free to use, also commercially",
        min_memory_bytes=8 * GB,
        aliases=("lcm",),
        preview_decoder="taesd",
        unconfirmed=_NOT_LIVE,
    ),
    DiffusionModelInfo(
        id="z-image",
        name="Z-Image-Turbo (4-bit)",
        **family_settings(DiffusionVariant.Z_IMAGE),
        description="Recommended with 16 GB of memory: photos and lettering, English and Chinese, in 8 steps",
        repository="filipstrand/Z-Image-Turbo-mflux-4bit",
        files=mflux_qwen3_files(2.14, 1.32),
        size_bytes=5_910_000_000,
        license="apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        license_summary="free to use, also commercially, as Tongyi-MAI publishes it; the page of these "
        "quantized files names tongyi-qianwen-license",
        min_memory_bytes=16 * GB,
        aliases=("z-image-turbo", "z-image-turbo-4bit", "zimage"),
        preview_decoder="taef1",
        unconfirmed=f"{_NOT_LIVE}; the split into shards follows from mflux's limit of 2 GiB",
    ),
    DiffusionModelInfo(
        id="z-image-base",
        name="Z-Image (8-bit)",
        **family_settings(DiffusionVariant.Z_IMAGE, steps=28, guidance_scale=4.0),
        description="Z-Image before distillation: guidance and negative prompts, 28 to 50 steps",
        repository="Tongyi-MAI/Z-Image",
        files=z_image_files(),
        size_bytes=20_530_000_000,
        license="apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        license_summary="free to use, also commercially",
        min_memory_bytes=16 * GB,
        quantization_bits=8,
        preview_decoder="taef1",
        unconfirmed=_NOT_LIVE,
    ),
    _KLEIN,
    replace(
        _KLEIN,
        id="flux.2-klein-base-8bit",
        name="FLUX.2 klein 4B base (8-bit)",
        description="klein 4B before distillation: guidance and negative prompts, 50 steps",
        repository="mflux-community/flux-2-klein-base-4b-mflux-q8",
        files=mflux_qwen3_files(2.14, 1.98, text_encoder_gb=(2.14, 2.13)),
        size_bytes=8_560_000_000,
        **_KLEIN_BASE,
        min_memory_bytes=16 * GB,
        aliases=("flux.2-klein-base-4b", "klein-base"),
        fallback_repositories=(),
    ),
    replace(
        _KLEIN,
        id="flux.2-klein-9b-4bit",
        name="FLUX.2 klein 9B (4-bit)",
        description="The larger klein, non-commercial: better pictures and edits in 4 steps",
        repository="mflux-community/flux2-klein-9b-mflux-q4",
        files=mflux_qwen3_files(2.14, 2.14, 0.83, text_encoder_gb=(2.14, 2.12)),
        size_bytes=9_540_000_000,
        **_FLUX_NC,
        min_memory_bytes=16 * GB,
        aliases=("flux.2-klein-9b", "klein-9b"),
        fallback_repositories=(),
    ),
    replace(
        _KLEIN,
        id="flux.2-klein-9b-base-8bit",
        name="FLUX.2 klein 9B base (8-bit)",
        description="klein 9B before distillation, non-commercial: guidance and negative prompts, 50 steps",
        repository="mflux-community/flux-2-klein-base-9b-mflux-q8",
        files=mflux_qwen3_files(2.14, 2.14, 2.14, 2.14, 1.09, text_encoder_gb=(2.14, 2.14, 2.14, 1.62)),
        size_bytes=17_860_000_000,
        **_KLEIN_BASE,
        **_FLUX_NC,
        min_memory_bytes=32 * GB,
        aliases=("flux.2-klein-base-9b",),
        fallback_repositories=(),
    ),
    DiffusionModelInfo(
        id="flux-schnell-4bit",
        name="FLUX.1 schnell (4-bit)",
        **family_settings(DiffusionVariant.FLUX),
        description="Good images in 4 steps; needs 16 GB of memory",
        repository="dhairyashil/FLUX.1-schnell-mflux-4bit",
        files=mflux_files(),
        size_bytes=9_850_000_000,
        license="apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        license_summary="free to use, also commercially",
        min_memory_bytes=16 * GB,
        aliases=(
            "mlx-community/flux-schnell-4bit",
            "mlx-community/FLUX.1-schnell-4bit",
            "flux-schnell",
            "flux",
        ),
        fallback_repositories=("madroid/flux.1-schnell-mflux-4bit",),
        preview_decoder="taef1",
        unconfirmed=f"{_NOT_LIVE}; the split into shards is that of a copy with the same layout",
    ),
    _taesd(name="taesd", variant=DiffusionVariant.SD_15, family="SD 1.x and 2.x"),
    _taesd(name="taesdxl", variant=DiffusionVariant.SDXL, family="SDXL"),
    _taesd(name="taef1", variant=DiffusionVariant.FLUX, family="FLUX.1 and Z-Image", size_bytes=9_850_000),
    _taesd(name="taef2", variant=DiffusionVariant.FLUX_2_KLEIN, family="FLUX.2", size_bytes=9_880_000),
)


def _parts() -> tuple[DiffusionModelInfo, ...]:
    """What single files lack, by itself: tokenizers, and for transformers alone the other networks."""
    models = {info.id: info for info in _MODELS}
    flux = models["flux-schnell-4bit"]
    return (
        _tokenizer_part(models["sd-1.5"], "tokenizer"),
        _tokenizer_part(models["sd-turbo"], "tokenizer"),
        _tokenizer_part(models["sdxl-turbo"], "tokenizer", "tokenizer_2"),
        _tokenizer_part(flux, "tokenizer", "tokenizer_2"),
        _networks_part(flux, suffix="text-encoders", what="text encoders and autoencoder"),
        *(
            part
            for info in (models["z-image"], models["flux.2-klein-4bit"])
            for part in (
                _tokenizer_part(info, "tokenizer"),
                _networks_part(info, suffix="text-encoder", what="text encoder and autoencoder"),
            )
        ),
        _networks_part(
            models["flux.2-klein-9b-4bit"], suffix="9b-text-encoder", what="text encoder and autoencoder"
        ),
    )


CATALOG: tuple[DiffusionModelInfo, ...] = (*_MODELS, *UPSCALERS, *CONTROLNETS, *_parts())
