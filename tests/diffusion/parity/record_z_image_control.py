"""Records what diffusers makes of the tiny Z-Image with ControlNets: `record_z_image_control.py [folder]`.

Needs torch, diffusers and transformers, as `record_z_image.py`.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from diffusers import ZImageControlNetModel, ZImageControlNetPipeline, ZImageTransformer2DModel

from tests.diffusion.parity import tiny_z_image, tiny_z_image_control
from tests.diffusion.parity.record_z_image import fill, last, parts


@torch.no_grad()
def record_run(run, shared):
    controlnet = fill(ZImageControlNetModel(**tiny_z_image_control.CONTROLNETS[run["net"]]))
    with mock.patch.dict(shared):
        pipe = ZImageControlNetPipeline(**shared, controlnet=controlnet)
    pipe.set_progress_bar_config(disable=True)
    width, height = run["size"]
    steps, pixels = [], tiny_z_image_control.control_pixels(run)
    pipe(
        list(run["prompt"]),
        width=width,
        height=height,
        num_inference_steps=run["steps"],
        guidance_scale=run.get("guidance_scale", 0.0),
        negative_prompt=run.get("negative_prompt"),
        # A tensor is taken as it is: in -1..1, unlike a picture.
        control_image=torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1,
        controlnet_conditioning_scale=run["scale"],
        latents=torch.from_numpy(tiny_z_image.start_noise(run).transpose(0, 3, 1, 2).copy()),
        output_type="latent",
        callback_on_step_end=lambda _p, _i, _t, kw: steps.append(last(kw["latents"])) or {},
    )
    return np.stack(steps)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_z_image.REFERENCES
    folder.mkdir(parents=True, exist_ok=True)
    shared = {**parts(), "transformer": fill(ZImageTransformer2DModel(**tiny_z_image_control.TRANSFORMER))}
    runs = tiny_z_image_control.RUNS
    np.savez_compressed(
        folder / "z_image_control.npz", **{name: record_run(run, shared) for name, run in runs.items()}
    )


if __name__ == "__main__":
    main()
