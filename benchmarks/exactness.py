"""`python -m benchmarks.exactness`: pictures in bfloat16 beside the same in float32, ours and diffusers'.

    python -m benchmarks.exactness --torch-python PYTHON                 # 20 prompts, the bundled model
    python -m benchmarks.exactness --torch-python PYTHON --random 512    # a random network of SD 1.5's size

Each program is compared with itself in float32: same prompts, same noise, the whole pipeline. No times are
taken, so that it may run beside other work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = (
    "a cat", "a red car", "a rocket in space", "two apples", "a fox in the snow", "a blue guitar",
    "a robot", "a castle at night", "a red heart", "a cat face", "a sailboat on the sea", "three bananas",
    "a dog and a cat", "a green frog", "a slice of pizza, blue background", "an owl",
    "a penguin in the snow", "a yellow umbrella", "a butterfly", "a house in a field",
)  # fmt: skip


def ours(job: dict[str, Any]) -> None:
    """Draws all prompts in both precisions and saves them."""
    from swiftai_nb.diffusion import load_pipeline, ops
    from swiftai_nb.diffusion.cpu.workers import limit_numpy_threads

    ops.configure(fast=True)
    limit_numpy_threads(1)
    pipeline = load_pipeline(Path(job["folder"]))
    size = {"width": job["side"], "height": job["side"]}
    for mode in ("fp32", "bf16"):
        ops.set_half_products(mode == "bf16")
        pictures = []
        for seed, prompt in enumerate(job["prompts"]):
            known = pipeline.encode_prompt(prompt, "", job["guidance_scale"])
            for step in pipeline.denoise(known, steps=job["steps"], seed=seed, **size):
                latents = step.latents
            pictures.append(pipeline.decode(latents)[0])
        np.save(Path(job["output"]) / f"ours_{mode}.npy", np.stack(pictures))


def diffusers(job: dict[str, Any]) -> None:
    """As `ours`, under an interpreter with torch and without the package."""
    import torch
    from diffusers import StableDiffusionPipeline

    for mode, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        loaded = StableDiffusionPipeline.from_pretrained(
            job["folder"], torch_dtype=dtype, safety_checker=None
        )
        loaded.set_progress_bar_config(disable=True)
        side = job["side"] // loaded.vae_scale_factor
        pictures = []
        for seed, prompt in enumerate(job["prompts"]):
            shape = (1, loaded.unet.config.in_channels, side, side)
            made = loaded(
                prompt,
                width=job["side"],
                height=job["side"],
                num_inference_steps=job["steps"],
                guidance_scale=job["guidance_scale"],
                latents=torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype),
                output_type="np",
            )
            pictures.append((made.images[0] * 255).round())
        np.save(Path(job["output"]) / f"diffusers_{mode}.npy", np.stack(pictures).astype(np.uint8))


PROGRAMS = {"ours": ours, "diffusers": diffusers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--torch-python", type=Path, required=True, help="with torch and diffusers")
    parser.add_argument("--random", type=int, metavar="SIDE", help="pixels of a picture of a random network")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="for random weights")
    options = parser.parse_args()
    pythons = {"ours": sys.executable, "diffusers": options.torch_python}
    with tempfile.TemporaryDirectory() as output:
        job: dict[str, object] = {"output": output, "steps": options.steps}
        if options.random is None:
            folder, side = bundled(options.torch_python, Path(output))
            job |= {"folder": str(folder), "prompts": PROMPTS, "side": side, "guidance_scale": 1.7}
        else:
            from benchmarks.models import write_sd15

            options.work.mkdir(parents=True, exist_ok=True)
            folder = write_sd15(options.work)
            job |= {
                "folder": str(folder),
                "prompts": ["a fox"],
                "side": options.random,
                "guidance_scale": 7.5,
            }
        print("| bfloat16 beside float32, of 255 | largest | mean | mean of the worst picture |")
        print("|---|---|---|---|")
        for name, python in pythons.items():
            subprocess.run([python, __file__, "--draw", name, json.dumps(job)], check=True)
            exact, rounded = (np.load(f"{output}/{name}_{mode}.npy").astype(int) for mode in ("fp32", "bf16"))
            off = np.abs(exact - rounded)
            worst = off.mean((1, 2, 3)).max()
            print(f"| {name} | {off.max()} | {off.mean():.3f} | {worst:.3f} |", flush=True)


def bundled(torch_python: Path, output: Path) -> tuple[Path, int]:
    """The bundled model with float32 weights, which both programs read, and the side of its pictures."""
    root = Path(__file__).parents[1]
    asset, folder = root / "swiftai_nb" / "assets" / "emoji-mini", output / "emoji-mini"
    subprocess.run([torch_python, root / "training" / "pack.py", "unpack", asset, folder], check=True)
    defaults = json.loads((asset / "generation_defaults.json").read_text(encoding="utf-8"))
    return folder, defaults["width"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--draw"]:  # in a process of its own, which may have no package but its program's
        PROGRAMS[sys.argv[2]](json.loads(sys.argv[3]))
    else:
        main()
