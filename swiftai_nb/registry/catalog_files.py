"""Which files a model of a published layout has: tables for the catalog's entries."""

from __future__ import annotations

from swiftai_nb.registry.model_info import GB, ModelFile


def _weights(path: str, gigabytes: float) -> ModelFile:
    return ModelFile(path, round(gigabytes * GB))


def _optional(*paths: str) -> tuple[ModelFile, ...]:
    return tuple(ModelFile(path, is_required=False) for path in paths)


def _configs(*paths: str) -> tuple[ModelFile, ...]:
    return tuple(ModelFile(path) for path in paths)


def _clip_tokenizer(folder: str) -> tuple[ModelFile, ...]:
    return (
        *_configs(f"{folder}/vocab.json", f"{folder}/merges.txt"),
        *_optional(f"{folder}/tokenizer_config.json", f"{folder}/special_tokens_map.json"),
    )


def stable_diffusion_files(
    *, unet_gb: float, text_encoder_gb: float, text_encoder_2_gb: float | None = None, suffix: str = ".fp16"
) -> tuple[ModelFile, ...]:
    """The diffusers layout of the SD and SDXL families, one precision only."""
    second: tuple[ModelFile, ...] = ()
    if text_encoder_2_gb is not None:
        second = (
            *_configs("text_encoder_2/config.json"),
            _weights(f"text_encoder_2/model{suffix}.safetensors", text_encoder_2_gb),
            *_clip_tokenizer("tokenizer_2"),
        )
    return (
        *_configs("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
        _weights(f"unet/diffusion_pytorch_model{suffix}.safetensors", unet_gb),
        *_configs("text_encoder/config.json"),
        _weights(f"text_encoder/model{suffix}.safetensors", text_encoder_gb),
        *_clip_tokenizer("tokenizer"),
        *second,
        *_configs("vae/config.json"),
        _weights(f"vae/diffusion_pytorch_model{suffix}.safetensors", 0.1673 if suffix else 0.3346),
    )


def mflux_files() -> tuple[ModelFile, ...]:
    """FLUX.1 as saved by mflux: numbered shards per component, weights already quantized to 4 bits."""
    transformer_gb, t5_gb = (2.14, 2.14, 2.14, 0.27), (2.14, 0.73)
    components = ("transformer", "text_encoder", "text_encoder_2", "vae")
    return (
        *(_weights(f"transformer/{i}.safetensors", gb) for i, gb in enumerate(transformer_gb)),
        _weights("text_encoder/0.safetensors", 0.124),
        *(_weights(f"text_encoder_2/{i}.safetensors", gb) for i, gb in enumerate(t5_gb)),
        _weights("vae/0.safetensors", 0.165),
        *_clip_tokenizer("tokenizer"),
        ModelFile("tokenizer_2/spiece.model", is_required=False, group="T5 tokenizer"),
        ModelFile("tokenizer_2/tokenizer.json", is_required=False, group="T5 tokenizer"),
        *_optional("tokenizer_2/tokenizer_config.json", "tokenizer_2/special_tokens_map.json"),
        *_optional(*(f"{c}/model.safetensors.index.json" for c in components)),
    )


def _qwen_tokenizer() -> tuple[ModelFile, ...]:
    return (
        ModelFile("tokenizer/tokenizer.json", is_required=False, group="Qwen tokenizer"),
        ModelFile("tokenizer/vocab.json", is_required=False, group="Qwen tokenizer"),
        *_optional("tokenizer/merges.txt", "tokenizer/tokenizer_config.json", "tokenizer/added_tokens.json"),
    )


def mflux_qwen3_files(
    *transformer_gb: float, text_encoder_gb: tuple[float, ...] = (2.14, 0.12)
) -> tuple[ModelFile, ...]:
    """Z-Image or FLUX.2 as saved by mflux: shards of at most 2 GiB, already quantized."""
    parts = {"transformer": transformer_gb, "text_encoder": text_encoder_gb, "vae": (0.168,)}
    shards = ((f"{name}/{i}.safetensors", gb) for name, sizes in parts.items() for i, gb in enumerate(sizes))
    return (
        *(_weights(path, gb) for path, gb in shards),
        *_qwen_tokenizer(),
        *_optional(*(f"{name}/model.safetensors.index.json" for name in parts)),
    )


def z_image_files() -> tuple[ModelFile, ...]:
    """Z-Image in diffusers layout, bfloat16."""
    folders = ("transformer", "text_encoder", "vae")
    shards = {
        "transformer/diffusion_pytorch_model-0000{}-of-00002": (9.97, 2.34),
        "text_encoder/model-0000{}-of-00003": (3.96, 3.99, 0.1),
    }
    return (
        *_configs("model_index.json", "scheduler/scheduler_config.json"),
        *_configs(*(f"{name}/config.json" for name in folders)),
        *_configs("transformer/diffusion_pytorch_model.safetensors.index.json"),
        *_configs("text_encoder/model.safetensors.index.json"),
        *(
            _weights(f"{stem.format(number)}.safetensors", gb)
            for stem, sizes in shards.items()
            for number, gb in enumerate(sizes, start=1)
        ),
        _weights("vae/diffusion_pytorch_model.safetensors", 0.168),
        *_qwen_tokenizer(),
    )
