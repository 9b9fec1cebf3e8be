"""Records diffusers' own pictures from the bundled model: `python record_bundled.py`.

Needs torch, diffusers and transformers, which nothing else here does. The weights are unpacked
to an ordinary folder, which `StableDiffusionPipeline.from_pretrained` opens by itself. Run it
after every change of the model.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "training"))
from diffusers import StableDiffusionPipeline
from pack import unpack

from tests.diffusion.parity import bundled

ROOT = Path(__file__).parents[3]
ASSET = ROOT / "swiftai_nb/assets/emoji-mini"


def main():
    defaults = json.loads((ASSET / "generation_defaults.json").read_text())
    pictures = {}
    with tempfile.TemporaryDirectory() as folder:
        unpack(ASSET, Path(folder))
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        config = pipe.unet.config
        for name, (prompt, negative, steps, guidance) in bundled.RUNS.items():
            z = bundled.latents(name, config.in_channels, config.sample_size).transpose(0, 3, 1, 2)
            drawn = pipe(
                prompt,
                negative_prompt=negative,
                num_inference_steps=defaults["steps"] if steps is None else steps,
                guidance_scale=defaults["guidance_scale"] if guidance is None else guidance,
                latents=torch.from_numpy(z.copy()),
                output_type="np",
            )
            pictures[name] = np.round(drawn.images[0] * 255).astype(np.uint8)
    pictures["weights_sha256"] = np.array(bundled.weights_sha256(ASSET))
    np.savez_compressed(Path(__file__).with_name("references") / "bundled.npz", **pictures)


if __name__ == "__main__":
    main()
