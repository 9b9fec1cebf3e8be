"""A stand-in for the package `diffusionkit`, with its names and its manners but no networks.

It keeps to what the worker relies on: the loop that looks up CFGDenoiser, the modulation that is lost when
the loop is left by an exception, a download it would make by itself. The prompt "hang" never ends.
`write_environment` puts it where a wrapped interpreter finds it.
"""

from __future__ import annotations

import sys
from pathlib import Path

INIT = """
import time
import mlx.core as mx, mlx.nn as nn, numpy as np
from argmaxtools.utils import get_logger
from diffusionkit.utils import bytes2gigabytes
from PIL import Image
from . import config, mmdit, model_io, tokenizer, vae

class Network(nn.Module):
    is_whole = True

class DiffusionPipeline:
    def __init__(self, w16, a16, shift, model_version, low_memory_mode):
        self.model_version, self.low_memory_mode = model_version, low_memory_mode
        self.activation_dtype = mx.float16 if a16 else mx.float32
        self.check_and_load_models()
    def check_and_load_models(self):
        model_io.hf_hub_download(self.model_version, "clip_l/config.json")
        for name in ("mmdit", "decoder", "clip_l"):
            if not hasattr(self, name):
                setattr(self, name, Network())
    def set_up_t5(self):
        self.t5_encoder = Network()
    def decode_latents_to_image(self, latents):
        return np.repeat(np.repeat(np.array(latents[0, :, :, :3]), 8, 0), 8, 1)
    def generate_image(self, text, num_steps, cfg_weight, negative_text, latent_size, seed, verbose):
        assert not verbose
        while text == "hang":
            time.sleep(0.1)
        assert self.mmdit.is_whole, "the modulation is gone"
        np.random.seed(seed)
        x = mx.array(np.random.rand(1, *latent_size, 16))
        denoiser = CFGDenoiser(self)
        denoiser.cache_modulation_params(None, mx.arange(num_steps + 1))
        self.mmdit.is_whole = False
        for _ in range(num_steps):
            x = denoiser(x, None, None)
        denoiser.clear_cache()
        pixels = (np.clip(self.decode_latents_to_image(x), 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(pixels), {"peak_memory": 0.1}

class FluxPipeline(DiffusionPipeline):
    pass

class CFGDenoiser:
    def __init__(self, model):
        self.model = model
    def cache_modulation_params(self, pooled, timesteps):
        pass
    def clear_cache(self):
        self.model.mmdit.is_whole = True
    def __call__(self, x, timestep, sigma):
        time.sleep(0.02)
        return x * 0.9 + 0.05
"""
CONFIG = """
from dataclasses import dataclass
@dataclass
class Sizes: depth: int = 1
@dataclass
class VAEDecoderConfig: depth: int = 1
@dataclass
class VAEEncoderConfig: depth: int = 1
"""
MODEL_IO = """
from .config import Sizes, VAEDecoderConfig, VAEEncoderConfig
_CONFIG = {"argmaxinc/mlx-stable-diffusion-3-medium": Sizes()}
T5Config = object
def hf_hub_download(repository, path): raise OSError("the stand-in must not download")
"""
TOKENIZER = """
AutoTokenizer = object
class Tokenizer:
    def bpe(self, text): return [text]
"""
MODULES = {
    "diffusionkit/__init__.py": "",
    "diffusionkit/mlx/__init__.py": INIT,
    "diffusionkit/mlx/config.py": CONFIG,
    "diffusionkit/mlx/model_io.py": MODEL_IO,
    "diffusionkit/mlx/tokenizer.py": TOKENIZER,
    "diffusionkit/mlx/mmdit.py": "class TimestepAdapter:\n    def __call__(self, t): return t\n",
    "diffusionkit/mlx/vae.py": "class EncoderDecoderBlock2D:\n    def __call__(self, x): return x\n",
    "diffusionkit-0.5.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: diffusionkit\nVersion: 0.5.2\n",
    **{f"{name}.py": "" for name in ("transformers", "regex", "beartype", "sentencepiece")},
}


def write_environment(folder: Path, *, broken: str | None = None) -> Path:
    """An interpreter that has the stand-in; `broken` names a module whose import fails."""
    for path, code in MODULES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code, encoding="utf-8")
    if broken is not None:
        (folder / "diffusionkit" / "mlx" / "__init__.py").write_text(f"import {broken}", encoding="utf-8")
    # The engine calls: python -E -u -c CODE FOLDER MODULE.
    start = f"import sys; sys.path.insert(1, '{folder}'); code = sys.argv.pop(1); exec(code)"
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nshift 3\nexec "{sys.executable}" -E -u -c "{start}" "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    return python
