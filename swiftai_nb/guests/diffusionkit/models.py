"""The catalog's rows for DiffusionKit: Stable Diffusion 3 as Argmax publishes it.

Sizes and licenses as their pages showed them in 2024 and 2025, rounded to about 1 %.
"""

from __future__ import annotations

from swiftai_nb.guests.diffusionkit.checkpoint import CHECKPOINTS
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, ModelFile
from swiftai_nb.registry.model_sources import ModelSource

ENGINE = "diffusionkit"
_NOT_LIVE = "sizes, license and gating come from public pages and were not checked against the live Hub"
_PARTS = ("sd3-text-encoders", "t5-tokenizer")
_LICENSES = {
    "stabilityai-nc-research-community": (
        "https://huggingface.co/stabilityai/stable-diffusion-3-medium",
        "free for non-commercial use; commercial use needs a license from Stability AI",
    ),
    "stabilityai-ai-community": (
        "https://stability.ai/community-license-agreement",
        "free, also commercially below 1 million US dollars of yearly revenue",
    ),
}


def _sd3(
    name: str,
    *,
    model_id: str,
    original: str,
    repository: str,
    weights: ModelFile,
    license_id: str,
    min_memory_gb: int,
    guidance_scale: float,
    description: str,
    aliases: tuple[str, ...] = (),
) -> DiffusionModelInfo:
    url, summary = _LICENSES[license_id]
    return DiffusionModelInfo(
        id=model_id,
        name=name,
        variant=DiffusionVariant.SD_3,
        description=f"{description}; needs DiffusionKit and 11.4 GB of text encoders",
        repository=repository,
        files=(ModelFile("config.json"), weights),
        size_bytes=0 if weights.size_bytes is None else weights.size_bytes,
        license=license_id,
        license_url=url,
        license_summary=summary,
        gated=f"Stability AI asks you to accept its license at huggingface.co/{original}; "
        "the page of Argmax's copy showed no gate",
        min_memory_bytes=min_memory_gb * GB,
        default_steps=28,
        default_guidance_scale=guidance_scale,
        default_width=1024,
        default_height=1024,
        aliases=aliases,
        requires=_PARTS,
        unconfirmed=_NOT_LIVE,
        engine=ENGINE,
    )


def _file(path: str, gigabytes: float) -> ModelFile:
    return ModelFile(path, round(gigabytes * GB))


def _tokenizer(folder: str) -> tuple[ModelFile, ...]:
    return (ModelFile(f"{folder}/vocab.json"), ModelFile(f"{folder}/merges.txt"))


_ROWS: tuple[DiffusionModelInfo, ...] = (
    _sd3(
        "Stable Diffusion 3 medium",
        model_id="sd3-medium",
        original="stabilityai/stable-diffusion-3-medium",
        repository="argmaxinc/mlx-stable-diffusion-3-medium",
        weights=_file("sd3_medium.safetensors", 4.34),
        license_id="stabilityai-nc-research-community",
        min_memory_gb=16,
        guidance_scale=5.0,
        description="Good at words inside pictures; 1024x1024",
        aliases=("sd3", "stable-diffusion-3-medium"),
    ),
    _sd3(
        "Stable Diffusion 3.5 large",
        model_id="sd3.5-large",
        original="stabilityai/stable-diffusion-3.5-large",
        repository="argmaxinc/mlx-stable-diffusion-3.5-large",
        weights=_file("sd3.5_large.safetensors", 16.5),
        license_id="stabilityai-ai-community",
        min_memory_gb=32,
        guidance_scale=3.5,
        description="Stability AI's largest; 1024x1024",
        aliases=("stable-diffusion-3.5-large",),
    ),
    _sd3(
        "Stable Diffusion 3.5 large (4-bit)",
        model_id="sd3.5-large-4bit",
        original="stabilityai/stable-diffusion-3.5-large",
        repository="argmaxinc/mlx-stable-diffusion-3.5-large-4bit-quantized",
        weights=_file("sd3.5_large_4bit_quantized.safetensors", 4.95),
        license_id="stabilityai-ai-community",
        min_memory_gb=16,
        guidance_scale=3.5,
        description="sd3.5-large, quantized to 4 bits by Argmax",
    ),
    DiffusionModelInfo(
        id="sd3-text-encoders",
        name="Text encoders of Stable Diffusion 3",
        variant=DiffusionVariant.SD_3,
        description="CLIP-L, CLIP-G and T5-XXL in half precision; the sd3 models share them",
        repository="argmaxinc/stable-diffusion",
        files=(
            *(ModelFile(f"clip_{letter}/config.json") for letter in "lg"),
            _file("clip_l/model.fp16.safetensors", 0.246),
            _file("clip_g/model.fp16.safetensors", 1.39),
            _file("t5/t5xxl.safetensors", 9.79),
            *_tokenizer("tokenizer_l"),
            *_tokenizer("tokenizer_g"),
        ),
        size_bytes=11_430_000_000,
        license="not stated",
        license_summary="its page names none; CLIP was published under MIT, T5 under Apache-2.0",
        kind="part",
        unconfirmed=_NOT_LIVE,
        engine=ENGINE,
    ),
    DiffusionModelInfo(
        id="t5-tokenizer",
        name="Tokenizer of T5 v1.1",
        variant=DiffusionVariant.SD_3,
        description="T5's configuration and tokenizer; the sd3 models share them",
        repository="google/t5-v1_1-xxl",
        files=(
            ModelFile("config.json"),
            ModelFile("spiece.model", 791_656),
            ModelFile("tokenizer_config.json", is_required=False),
            ModelFile("special_tokens_map.json", is_required=False),
        ),
        size_bytes=795_000,
        license="apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        license_summary="free to use, also commercially",
        kind="part",
        unconfirmed=_NOT_LIVE,
        engine=ENGINE,
    ),
)

MODELS = ModelSource(
    engine=ENGINE,
    models=_ROWS,
    weight_files={c.weights: DiffusionVariant.SD_3 for c in CHECKPOINTS if not c.is_flux},
)
