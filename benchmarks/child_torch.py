"""Runs one task of diffusers in its own process, under an interpreter with torch and without the package."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path

from child import peak_bytes, quiet


def unet_step(torch, folder, size, dtype):
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).eval()
    network = network.to(memory_format=torch.channels_last)
    sample = torch.randn(2, 4, size // 8, size // 8).to(dtype).contiguous(memory_format=torch.channels_last)
    context = torch.randn(2, 77, network.config.cross_attention_dim).to(dtype)
    added = {"text_embeds": torch.randn(2, 1280).to(dtype), "time_ids": torch.ones(2, 6).to(dtype) * size}
    return lambda: network(sample, 500, context, added_cond_kwargs=added)


def vae_decode(torch, folder, size, dtype):
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype).eval()
    network = network.to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, size // 8, size // 8).to(dtype)
    return lambda: network.decode(latents)


def whole_picture(torch, folder, size, dtype, steps=2):
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    loaded.set_progress_bar_config(disable=True)

    def run():
        made = loaded("a fox", width=size, height=size, num_inference_steps=steps)
        made.images[0].save(io.BytesIO(), "PNG")

    return run


TASKS = {"unet": unet_step, "vae": vae_decode, "picture": whole_picture}


def main() -> None:
    task, _, steps = sys.argv[1].partition("-")  # picture-20: of so many steps
    folder, size, mode = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    quiet()
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[mode]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = TASKS[task](torch, folder, size, dtype, *([int(steps)] if steps else []))
    a, b = torch.randn(4096, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    print(json.dumps({"ready": True}), flush=True)
    with torch.inference_mode():
        for _ in sys.stdin:
            products = []
            for _ in range(3 if task != "picture" else 0):
                start = time.perf_counter()
                a @ b
                products.append(time.perf_counter() - start)
            start, cpu_before = time.perf_counter(), time.process_time()
            run()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_before
            limit = 2 * 4096 * 2048 * 2048 / min(products) / 1e9 if products else 0.0
            print(
                json.dumps({"seconds": seconds, "sgemm": limit, "peak_bytes": peak_bytes(), "cpu_s": cpu}),
                flush=True,
            )


if __name__ == "__main__":
    main()
