"""The checks of `doctor --report`, in a process of their own: is the device right, and how fast?

Every network family computes one step with small random weights, in each precision, beside the CPU in
float32; the bundled model draws a picture. Each line of the output is a row of a Markdown table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_map

from swiftai_nb.core.child import claim_standard_streams, exit_with_parent
from swiftai_nb.diffusion import gpu, load_pipeline, ops
from swiftai_nb.diffusion.models.flux2_transformer import Flux2Config, Flux2Transformer, make_rotary
from swiftai_nb.diffusion.models.flux_transformer import (
    FluxConfig,
    FluxTransformer,
    rotary_embedding,
    token_positions,
)
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from swiftai_nb.diffusion.models.z_image import ZImageConfig, ZImageTransformer, make_layout

# The largest difference from float32 on the CPU, of its largest value. TensorFloat-32 keeps 10 bits.
_LIMITS = {"float32": 5e-3, "float16": 2e-2, "bfloat16": 1e-1}
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_PICTURE_LIMITS = {"float32": 2, "float16": 6, "bfloat16": 40}  # of 255
Forward = Callable[[Any, mx.Dtype], mx.array]


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        check: what was compared.
        result: figures.
        is_fine: None for figures without a verdict.
    """

    check: str
    result: str
    is_fine: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "ok", False: "**not as expected**", None: ""}[self.is_fine]
        return f"| {self.check} | {self.result} | {verdict} |"


def main() -> None:
    """Writes the rows to standard output, which nothing else of this process reaches."""
    _, writer = claim_standard_streams()
    exit_with_parent()
    with open(writer, "w", encoding="utf-8") as out:  # noqa: PTH123 - a file descriptor
        for check in (_device, _networks, _attention, _convolution, _picture):
            try:
                for row in check():
                    print(row, file=out, flush=True)
            except Exception as error:  # noqa: BLE001 - one failed check must not hide the others
                text = str(error).splitlines()[0][:200] if str(error) else ""
                print(Row(check.__name__.strip("_"), f"{type(error).__name__}: {text}", False), file=out)


def _device() -> Iterator[Row]:
    yield Row("MLX", f"{vars(mx)['__version__']}, Python {sys.version.split()[0]}, {gpu.device()}")
    yield Row("device", ", ".join(f"{name} {value}" for name, value in sorted(mx.device_info().items())))
    policy = gpu.memory_policy()
    cache_mib = policy.cache_limit_bytes >> 20
    yield Row("memory policy", f"cache {cache_mib} MiB, tiles of {policy.decode_side} pixels")


def _networks() -> Iterator[Row]:
    default = mx.default_device()
    for name, (build, forward) in _FAMILIES.items():
        mx.set_default_device(mx.cpu)
        try:
            reference = _output(build, forward, mx.float32)
        finally:
            mx.set_default_device(default)
        for dtype_name, dtype in _DTYPES.items():
            started_s = time.perf_counter()
            error = np.abs(_output(build, forward, dtype) - reference).max() / np.abs(reference).max()
            elapsed_s = time.perf_counter() - started_s
            result = f"off by {error:.1e} of the maximum, {elapsed_s:.2f} s"
            yield Row(f"{name}, {dtype_name}", result, bool(error <= _LIMITS[dtype_name]))


def _output(build: Callable[[], nn.Module], forward: Forward, dtype: mx.Dtype) -> np.ndarray:
    rng = np.random.default_rng(0)

    def filled(parameter: mx.array) -> mx.array:
        scale = 1 / max(1, int(np.prod(parameter.shape[1:]))) ** 0.5
        return mx.array((rng.standard_normal(parameter.shape) * scale).astype(np.float32)).astype(dtype)

    network = build()
    network.update(tree_map(filled, network.parameters()))
    out = forward(network, dtype).astype(mx.float32)
    mx.eval(out)
    return np.array(out)


def _noise(*shape: int, dtype: mx.Dtype) -> mx.array:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return mx.array(values).astype(dtype)


_UNET = {
    "block_out_channels": [80, 160],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 2,  # heads of 40, as Stable Diffusion 1 has
    "norm_num_groups": 16,
}
_FLUX = FluxConfig(num_layers=1, num_single_layers=1, num_attention_heads=2, joint_attention_dim=64,
                   pooled_projection_dim=32)  # fmt: skip
_FLUX2 = Flux2Config(num_layers=1, num_single_layers=1, num_attention_heads=2, joint_attention_dim=64)
_Z_IMAGE = ZImageConfig(dim=256, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=64)


def _flux(network: FluxTransformer, dtype: mx.Dtype) -> mx.array:
    return network(
        _noise(1, 16, 64, dtype=dtype),
        encoder_hidden_states=_noise(1, 7, 64, dtype=dtype),
        pooled_projections=_noise(1, 32, dtype=dtype),
        timestep=mx.array([0.7]),
        rotary=rotary_embedding(token_positions(7, 4, 4), _FLUX.axes_dims_rope),
    )


def _flux2(network: Flux2Transformer, dtype: mx.Dtype) -> mx.array:
    return network(
        _noise(1, 16, 128, dtype=dtype),
        encoder_hidden_states=_noise(1, 7, 64, dtype=dtype),
        timestep=mx.array([0.7]),
        rotary=make_rotary(_FLUX2, text_length=7, size=(4, 4)),
        guidance=mx.array([4.0]),
    )


def _z_image(network: ZImageTransformer, dtype: mx.Dtype) -> mx.array:
    layout = make_layout(_Z_IMAGE, rows=4, columns=4, caption_lengths=[7])
    captions = network.refine_captions(_noise(1, 32, 64, dtype=dtype), layout)
    return network(
        _noise(1, 8, 8, 16, dtype=dtype), captions=captions, timestep=mx.array([0.3]), layout=layout
    )


_FAMILIES: dict[str, tuple[Callable[[], nn.Module], Forward]] = {
    "Stable Diffusion": (
        lambda: UNet(UNetConfig.from_dict(_UNET)),
        lambda unet, dtype: unet(
            _noise(2, 16, 16, 4, dtype=dtype), mx.array([500.0, 500.0]), _noise(2, 7, 64, dtype=dtype)
        ),
    ),
    "autoencoder": (
        lambda: Autoencoder(VAEConfig(block_out_channels=(32, 64), layers_per_block=1)),
        lambda vae, dtype: vae.decode(_noise(1, 16, 16, 4, dtype=dtype)),
    ),
    "FLUX.1": (lambda: FluxTransformer(_FLUX), _flux),
    "FLUX.2": (lambda: Flux2Transformer(_FLUX2), _flux2),
    "Z-Image": (lambda: ZImageTransformer(_Z_IMAGE), _z_image),
}


def _attention() -> Iterator[Row]:
    if gpu.on_cpu():
        return  # MLX's CPU kernels take seconds in float16, which the engine does not use there
    for width in (40, 64, 128, 160):
        q, k, v = (_noise(2, 8, 1024, width, dtype=mx.float16) for _ in range(3))
        mx.reset_peak_memory()
        started_s = time.perf_counter()
        for _ in range(4):
            mx.eval(ops.attention(q, k, v, scale=width**-0.5))
        each_ms = (time.perf_counter() - started_s) / 4 * 1000
        peak = (mx.get_peak_memory() - mx.get_active_memory()) / 2**20
        name = f"attention, heads of {width}, 1,024 tokens, float16"
        yield Row(name, f"{each_ms:.2f} ms, {peak:.0f} MiB more")


def _convolution() -> Iterator[Row]:
    x = _noise(1, 64, 64, 512, dtype=mx.float32) * 1000
    weight = _noise(512, 3, 3, 512, dtype=mx.float32) / 68
    for name, dtype in _DTYPES.items():
        finite = bool(mx.isfinite(ops.conv2d(x.astype(dtype), weight.astype(dtype))).all())
        # Metal's Winograd kernel overflows float16 here: the reason for decoders in float32.
        is_fine = finite if name != "float16" else None
        yield Row(f"convolution of large values, {name}", "finite" if finite else "not finite", is_fine)


def _picture() -> Iterator[Row]:
    import swiftai_nb

    folder = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"
    default = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        reference, _ = _draw(folder, "float32")
    finally:
        mx.set_default_device(default)
    limits = {"float32": _PICTURE_LIMITS["float32"]} if gpu.on_cpu() else _PICTURE_LIMITS
    for name, limit in limits.items():
        _draw(folder, name)  # kernels are compiled on first use
        picture, elapsed_s = _draw(folder, name)
        worst = int(np.abs(picture - reference).max())
        mean = float(np.abs(picture - reference).mean())
        result = f"off by {mean:.2f} of 255 on average, {worst} at most; {elapsed_s:.2f} s"
        yield Row(f"bundled model, {name}", result, worst <= limit)


def _draw(folder: Path, dtype: str) -> tuple[np.ndarray, float]:
    pipeline = load_pipeline(folder, dtype=dtype)
    conditioning = pipeline.encode_prompt("a red apple", guidance_scale=1.7)
    started_s = time.perf_counter()
    latents = None
    for step in pipeline.denoise(conditioning, steps=8, seed=1):
        latents = step.latents
    if latents is None:
        raise RuntimeError("no step was made")
    return pipeline.decode(latents).astype(int), time.perf_counter() - started_s
