"""Whole models of random weights at real sizes, in the layout the catalog downloads, streamed to disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

import swiftai_nb
from benchmarks import models as small
from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.flux2_transformer import Flux2Config, Flux2Transformer
from swiftai_nb.diffusion.models.flux_transformer import FluxConfig, FluxTransformer
from swiftai_nb.diffusion.models.qwen3 import Qwen3Config, Qwen3Encoder
from swiftai_nb.diffusion.models.t5 import T5Config, T5Encoder
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from swiftai_nb.diffusion.models.z_image import ZImageConfig, ZImageTransformer
from swiftai_nb.registry.catalog import find

COMMIT = "0" * 40
_SHARD_BYTES = 2 << 30
_POOL = 1 << 24  # values at a time
_GROUP = 64

CLIP_BIG = {
    **small.CLIP,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
SDXL_VAE = {**small.VAE, "scaling_factor": 0.13025, "force_upcast": True, "sample_size": 1024}
PNDM = {**small.SCHEDULER, "_class_name": "PNDMScheduler", "skip_prk_steps": True}
EULER_ANCESTRAL = {
    **small.SCHEDULER,
    "_class_name": "EulerAncestralDiscreteScheduler",
    "timestep_spacing": "trailing",
}
SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
FLUX_VAE = {
    **small.VAE,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
QWEN3_4B = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
FLUX2_VAE = {
    **small.VAE,
    "_class_name": "AutoencoderKLFlux2",
    "latent_channels": 32,
    "patch_size": (2, 2),
    "batch_norm_eps": 1e-4,
    "sample_size": 1024,
}
KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
T5 = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: safetensors' dtype, shape, and what fills it."""

    dtype: str
    shape: tuple[int, ...]
    fill: Callable[[np.random.Generator, int], Iterator[bytes]]

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return math.prod(self.shape) * {"F16": 2, "BF16": 2, "U32": 4}[self.dtype]


def snapshot(cache_dir: Path, model_id: str) -> Path:
    """The folder in which the Hugging Face cache holds a catalog model; made, and marked as main."""
    repository = find(model_id).repository
    assert repository is not None
    folder = cache_dir / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


def write_sd15(folder: Path) -> None:
    """Stable Diffusion 1.5 as published: `.fp16.` files, PNDM; 2.1 GB."""
    _write_unet(folder, small.SD15_UNET)
    _write_half(folder / "vae", small.VAE, Autoencoder(VAEConfig.from_dict(small.VAE)))
    _write_text_encoder(folder, "", small.CLIP)
    _write_json(folder / "scheduler" / "scheduler_config.json", PNDM)
    index = {**small.MODEL_INDEX, "scheduler": ["diffusers", "PNDMScheduler"]}
    _write_json(folder / "model_index.json", index)


def write_sdxl_turbo(folder: Path) -> None:
    """SDXL Turbo as published: two text encoders, Euler ancestral with trailing steps; 6.9 GB."""
    _write_unet(folder, {**small.SDXL_UNET, "sample_size": 64})
    _write_half(folder / "vae", SDXL_VAE, Autoencoder(VAEConfig.from_dict(SDXL_VAE)))
    _write_text_encoder(folder, "", small.CLIP)
    _write_text_encoder(folder, "_2", CLIP_BIG)
    _write_json(folder / "scheduler" / "scheduler_config.json", EULER_ANCESTRAL)
    _write_json(folder / "model_index.json", SDXL_INDEX)


def write_flux_schnell(folder: Path) -> None:
    """FLUX.1-schnell in 4 bits as mflux saves it; 9.9 GB."""
    # The tests spell out mflux's names by hand and bring a tokenizer.
    from tests.diffusion import flux_folders

    flux_folders.write_tokenizers(folder)
    _write_clip_tokenizer(folder / "tokenizer")
    clip = CLIPTextConfig.from_dict({k: v for k, v in small.CLIP.items() if k != "projection_dim"})
    networks: dict[str, nn.Module] = {
        "transformer": FluxTransformer(FluxConfig()),
        "text_encoder": CLIPTextModel(clip),
        "text_encoder_2": T5Encoder(T5Config.from_dict(T5)),
        "vae": Autoencoder(VAEConfig.from_dict(FLUX_VAE)),
    }
    for name, network in networks.items():
        renamed = dict(flux_folders.mflux_names(name, _placeholders(network)))
        if name == "text_encoder_2":
            table = "t5_blocks.{}.attention.SelfAttention.relative_attention_bias.weight"
            renamed |= {table.format(i): renamed[table.format(0)] for i in range(T5["num_layers"])}
        _write_packed(folder, {name: renamed})


def write_z_image(folder: Path) -> None:
    """Z-Image-Turbo in 4 bits as mflux saves it; 5.9 GB."""
    # The tests spell out mflux's names by hand and bring a tokenizer.
    from tests.diffusion import z_image_folders
    from tests.diffusion.parity import tiny_z_image

    tiny_z_image.write_tokenizer(folder / "tokenizer")
    names = {"transformer": z_image_folders.mflux_transformer, "vae": z_image_folders.mflux_vae}
    networks = {
        "transformer": _placeholders(ZImageTransformer(ZImageConfig())),
        "text_encoder": _qwen3_4b(),
        "vae": _placeholders(Autoencoder(VAEConfig.from_dict(FLUX_VAE))),
    }
    _write_packed(folder, {name: names.get(name, dict)(arrays) for name, arrays in networks.items()})


def write_klein(folder: Path) -> None:
    """FLUX.2 klein 4B in 4 bits as mflux saves it; 4.6 GB."""
    from tests.diffusion import flux2_folders
    from tests.diffusion.parity import tiny_flux2

    tiny_flux2.write_tokenizer(folder / "tokenizer")
    networks = {
        "transformer": _placeholders(Flux2Transformer(Flux2Config(**KLEIN_4B))),  # type: ignore[arg-type]
        "text_encoder": _qwen3_4b(),
        "vae": _placeholders(Autoencoder(VAEConfig.from_dict(FLUX2_VAE))),
    }
    _write_packed(folder, flux2_folders.mflux_names(networks))


def _qwen3_4b() -> dict[str, np.ndarray]:
    encoder = Qwen3Encoder(Qwen3Config.from_dict(QWEN3_4B, used_layers=QWEN3_4B["num_hidden_layers"]))
    return _placeholders(encoder) | {"norm.weight": np.zeros(QWEN3_4B["hidden_size"], np.float32)}


def _placeholders(network: nn.Module) -> dict[str, np.ndarray]:
    """Arrays of a network's shapes in files, without memory."""
    return {n: np.broadcast_to(np.float32(0), shape) for n, shape in _file_shapes(network).items()}


def _write_packed(folder: Path, networks: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Numbered shards by component, maps and tables in 4 bits."""
    for name, arrays in networks.items():
        packed = {k: t for n, a in arrays.items() for k, t in _packed(n, a.shape).items()}
        for number, shard in enumerate(_shards(packed)):
            write_safetensors(folder / name / f"{number}.safetensors", shard, {"quantization_level": "4"})


WRITERS = {
    "sd-1.5": write_sd15,
    "sdxl-turbo": write_sdxl_turbo,
    "flux-schnell-4bit": write_flux_schnell,
    "z-image": write_z_image,
    "flux.2-klein-4bit": write_klein,
}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Streams tensors into a file; whole or not at all."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.size_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    random = np.random.default_rng(0)
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for piece in tensor.fill(random, math.prod(tensor.shape)):
                file.write(piece)
    unfinished.rename(path)


def _write_unet(folder: Path, config: dict[str, Any]) -> None:
    _write_half(folder / "unet", config, UNet(UNetConfig.from_dict(config)))


def _write_text_encoder(folder: Path, suffix: str, config: dict[str, Any]) -> None:
    own = config if suffix else {k: v for k, v in config.items() if k != "projection_dim"}
    network = CLIPTextModel(CLIPTextConfig.from_dict(own))
    _write_half(folder / f"text_encoder{suffix}", own, network, stem="model")
    _write_clip_tokenizer(folder / f"tokenizer{suffix}")


def _write_clip_tokenizer(folder: Path) -> None:
    bundled = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini" / "tokenizer"
    shutil.copytree(bundled, folder, dirs_exist_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    _write_json(folder / "tokenizer_config.json", {**config, "model_max_length": 77})


def _write_half(
    folder: Path,
    config: dict[str, Any],
    network: nn.Module,
    *,
    stem: str = "diffusion_pytorch_model",
) -> None:
    _write_json(folder / "config.json", config)
    tensors = {}
    for name, shape in _file_shapes(network).items():
        is_map = name.endswith(("proj_in.weight", "proj_out.weight")) and len(shape) == 2
        as_kernel = is_map and "cross_attention_dim" in config and not config.get("use_linear_projection")
        tensors[name] = _half(name, (*shape, 1, 1) if as_kernel else shape, "F16")
    write_safetensors(folder / f"{stem}.fp16.safetensors", tensors, {"format": "pt"})


def _file_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(p.shape) for name, p in tree_flatten(network.parameters())}
    return {n: (s[0], s[3], s[1], s[2]) if len(s) == 4 else s for n, s in shapes.items()}


def _half(name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Norms one, biases zero, maps that keep the size of their input."""
    if len(shape) == 1:
        return Tensor(dtype, shape, _constant(float(name.endswith("weight")), dtype))
    inputs = math.prod(shape[1:]) if "embedding" not in name and "shared" not in name else 2500
    return Tensor(dtype, shape, _normal(inputs**-0.5, dtype))


def _packed(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What packing in 4 bits makes of a map: words, scales and biases around zero."""
    if len(shape) != 2 or not name.endswith(".weight"):
        return {name: _half(name, shape, "BF16")}
    rows, inputs = shape
    is_table = "shared" in name or "embedding" in name or "embed_tokens" in name
    scale = 0.2 if is_table else 1 / (4.6 * math.sqrt(inputs))
    groups = (rows, inputs // _GROUP)
    base = name.removesuffix("weight")
    return {
        name: Tensor("U32", (rows, inputs // 8), _words),
        f"{base}scales": Tensor("BF16", groups, _constant(scale, "BF16")),
        f"{base}biases": Tensor("BF16", groups, _constant(-7.5 * scale, "BF16")),
    }


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.size_bytes for t in shard.values()) + tensor.size_bytes > _SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _to_bytes(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _constant(value: float, dtype: str) -> Callable[[np.random.Generator, int], Iterator[bytes]]:
    def fill(_random: np.random.Generator, count: int) -> Iterator[bytes]:
        yield _to_bytes(np.full(1, value, np.float32), dtype) * count

    return fill


def _normal(scale: float, dtype: str) -> Callable[[np.random.Generator, int], Iterator[bytes]]:
    def fill(random: np.random.Generator, count: int) -> Iterator[bytes]:
        while count > 0:
            values = random.standard_normal(min(count, _POOL), dtype=np.float32) * np.float32(scale)
            yield _to_bytes(values, dtype)
            count -= len(values)

    return fill


def _words(random: np.random.Generator, count: int) -> Iterator[bytes]:
    while count > 0:
        part = min(count, _POOL)
        yield random.bytes(4 * part)
        count -= part


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2))
