"""Weighted prompts against a computation written out with transformers and diffusers (`record_prompts.py`)."""

import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.parity import tiny_prompts, tiny_sd
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import write_folder


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd")
    return {
        model: load_pipeline(write_folder(root / model, model), dtype="float32")
        for model in ("sd15", "sd21_v", "sdxl")
    }


@pytest.fixture(scope="module")
def recorded():
    with np.load(REFERENCES / "prompts.npz") as file:
        return dict(file)


def close(actual, expected):
    assert np.abs(np.array(actual) - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", tiny_prompts.CASES)
def test_embeddings_are_those_of_the_reference(name, pipelines, recorded):
    model, prompt, negative = tiny_prompts.CASES[name]
    made = pipelines[model].encode_prompt(prompt, negative, prompt_syntax="weighted")
    close(made.prompt_embeds[:, :: tiny_prompts.STRIDE], recorded[f"{name}.prompt"])
    close(made.negative_prompt_embeds[:, :: tiny_prompts.STRIDE], recorded[f"{name}.negative"])
    if model == "sdxl":
        close(made.pooled_prompt_embeds, recorded[f"{name}.prompt.pooled"])
        close(made.negative_pooled_prompt_embeds, recorded[f"{name}.negative.pooled"])


@pytest.mark.parametrize("name", tiny_prompts.RUNS)
def test_latents_are_those_of_the_reference(name, pipelines, recorded):
    model, prompt, negative = tiny_prompts.RUNS[name]
    pipeline, side = pipelines[model], tiny_prompts.SIDE // tiny_sd.VAE_SCALE
    conditioning = pipeline.encode_prompt(
        prompt, negative, guidance_scale=tiny_prompts.GUIDANCE, prompt_syntax="weighted"
    )
    steps = pipeline.denoise(
        conditioning,
        width=tiny_prompts.SIDE,
        height=tiny_prompts.SIDE,
        steps=tiny_prompts.STEPS,
        scheduler="ddim",
        latents=tiny_sd.unit_noise("start", (1, side, side, 4)),
    )
    *_, last = steps
    expected = recorded[f"{name}.latents"]
    assert np.abs(last.latents - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())
