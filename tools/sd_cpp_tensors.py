"""Records the tensor names and shapes of the smallest model that stable-diffusion.cpp knows.

It is the distilled Stable Diffusion 1 ("tiny-sd") with its autoencoder and text encoder. The test of
`--engine openai` with that server makes a file of zeros from them. Needs diffusers and transformers: run
it in the environment of `make parity`.

    python tools/sd_cpp_tensors.py tests/providers/openai/tiny_sd_tensors.json.gz
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any


def tensors() -> dict[str, list[int]]:
    """Shapes by name, in the layout of diffusers with the prefixes of one file."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        modules: dict[str, Any] = {
            "unet.": UNet2DConditionModel(
                cross_attention_dim=768,
                block_out_channels=(320, 640, 1280),
                down_block_types=("CrossAttnDownBlock2D",) * 3,
                up_block_types=("CrossAttnUpBlock2D",) * 3,
                mid_block_type=None,
                layers_per_block=1,
            ),
            "vae.": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
            "te.text_model.": CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
            ),
        }
    return {
        prefix + name.removeprefix("text_model."): list(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
        if not name.endswith("position_ids")
    }


if __name__ == "__main__":
    text = json.dumps(tensors(), separators=(",", ":")).encode()
    Path(sys.argv[1]).write_bytes(gzip.compress(text, mtime=0))
