"""Records what diffusers' AutoencoderTiny makes of latents and pixels: `python record_tiny_vae.py [folder]`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers

from tests.diffusion.parity.seeded_weights import seeded_weights
from tests.diffusion.parity.tiny_sd import picture, unit_noise


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    vae = diffusers.AutoencoderTiny(latent_channels=4).eval()
    shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
    vae.load_state_dict({name: torch.from_numpy(a) for name, a in seeded_weights(shapes).items()})
    latents = torch.from_numpy(unit_noise("latents", (1, 4, 6, 4))).movedim(-1, 1)
    pixels = torch.from_numpy(picture((32, 24)).astype(np.float32) / 127.5 - 1.0)[None].movedim(-1, 1)
    np.savez_compressed(
        folder / "tiny_vae.npz",
        shapes=np.frombuffer(json.dumps(shapes).encode(), np.uint8),
        decoded=vae.decode(latents).sample.movedim(1, -1).numpy(),
        encoded=vae.encode(pixels).latents.movedim(1, -1).numpy(),
    )


if __name__ == "__main__":
    main()
