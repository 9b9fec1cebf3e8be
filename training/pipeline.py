"""The stages' results as one diffusers folder, and pictures from it."""

import json
import shutil

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

import networks
from runtime import work_dir
from tokenizer import load

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def save_pipeline(folder, *, unet):
    """Complete `folder`, where earlier stages have put the text encoder and the autoencoder."""
    unet.save_pretrained(folder / "unet")
    networks.scheduler().save_pretrained(folder / "scheduler")
    shutil.copytree(work_dir() / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def load_pipeline(folder):
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"), tokenizer=load(), scheduler=networks.scheduler(),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts, *, steps, guidance_scale, seeds, batch=10):
    """`[N, SIZE, SIZE, 3] uint8`, one picture per prompt and seed."""
    out = []
    for k in range(0, len(prompts), batch):
        generators = [torch.Generator().manual_seed(s) for s in seeds[k : k + batch]]
        part = pipe(
            prompts[k : k + batch], num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators,
            output_type="np",
        )  # fmt: skip
        out += list((part.images * 255).round().astype("uint8"))
    return out
