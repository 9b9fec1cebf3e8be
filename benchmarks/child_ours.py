"""Runs one task of ours in its own process: a line in, a JSON line out."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.child import peak_bytes, quiet


def sgemm_gflops() -> float:
    """The machine's float32 matrix product on all processors: best of 4 of 2048^3."""
    import numpy as np

    from swiftai_nb.diffusion.cpu.workers import limit_numpy_threads, usable_cpus

    limit_numpy_threads(usable_cpus())
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    a @ a
    best = min(_seconds(lambda: a @ a) for _ in range(4))
    limit_numpy_threads(1)
    return 2 * 2048**3 / best / 1e9


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def unet_step(folder: Path, size: int) -> Callable[[], object]:
    import mlx.core as mx

    from swiftai_nb.diffusion import ops
    from swiftai_nb.diffusion.models.unet import UNet
    from swiftai_nb.diffusion.models.unet_config import UNetConfig
    from swiftai_nb.diffusion.weights.component import Component
    from swiftai_nb.diffusion.weights.tensors import UNET_RULES, TensorSource

    config = UNetConfig.from_dict(json.loads((folder / "unet" / "config.json").read_text()))
    source = TensorSource.in_folder(folder / "unet", UNET_RULES)
    network = Component(source, lambda: UNet(config), dtype=mx.float32).network
    side, width = size // 8, config.cross_attention_dims[0]
    sample, times = mx.random.normal((2, side, side, 4)), mx.array([500.0, 500.0])
    context = mx.random.normal((2, 77, width))
    added = {}
    if config.addition_embed_type == "text_time":
        added = {"text_embeds": mx.random.normal((2, 1280)), "time_ids": mx.ones((2, 6)) * size}
    mx.eval(sample, times, context, added)
    gaps, last = [], [0.0]

    def note_gap() -> None:
        now = time.perf_counter()
        gaps.append(now - last[0])
        last[0] = now

    ops.set_block_callback(note_gap)

    def run() -> dict[str, float]:
        gaps.clear()
        last[0] = time.perf_counter()
        mx.eval(network(sample, times, context, **added))
        return {"longest_deaf_s": max(gaps)}

    return run


def pipeline(folder: Path):
    from swiftai_nb.diffusion import load_pipeline

    return load_pipeline(folder)


def vae_decode(folder: Path, size: int) -> Callable[[], object]:
    import numpy as np

    latents = np.random.default_rng(0).standard_normal((1, size // 8, size // 8, 4), dtype=np.float32)
    loaded = pipeline(folder)

    def run() -> None:
        loaded.decode(latents)

    return run


def whole_picture(folder: Path, size: int, steps: int = 2) -> Callable[[], object]:
    """From a prompt to a PNG."""
    from PIL import Image

    loaded = pipeline(folder)

    def run() -> None:
        conditioning = loaded.encode_prompt("a fox", "", 7.5)
        for step in loaded.denoise(conditioning, width=size, height=size, steps=steps, seed=1):
            latents = step.latents
        Image.fromarray(loaded.decode(latents)[0]).save(io.BytesIO(), "PNG")

    return run


TASKS = {"unet": unet_step, "vae": vae_decode, "picture": whole_picture}


def main() -> None:
    task, _, steps = sys.argv[1].partition("-")  # picture-20: of so many steps
    folder, size, mode = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    quiet()
    if mode == "NumPy":
        os.environ["SWIFTAI_CPU_KERNELS"] = "off"
    from swiftai_nb.diffusion import ops
    from swiftai_nb.diffusion.cpu.workers import limit_numpy_threads
    from swiftai_nb.diffusion.memory import retain_freed_memory

    fast = mode != "plain"
    ops.configure(fast=fast)
    ops.set_half_products(mode == "bf16")
    if fast:
        # as the engine does
        retain_freed_memory()
        limit_numpy_threads(1)
    run = TASKS[task](folder, size, *([int(steps)] if steps else []))
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        limit = sgemm_gflops() if task != "picture" and fast else 0.0
        extra: dict[str, float] = {}
        cpu_before = time.process_time()
        seconds = _seconds(lambda extra=extra: extra.update(run() or {}))
        extra["cpu_s"] = time.process_time() - cpu_before
        print(
            json.dumps({"seconds": seconds, "sgemm": limit, "peak_bytes": peak_bytes(), **extra}), flush=True
        )


if __name__ == "__main__":
    main()
