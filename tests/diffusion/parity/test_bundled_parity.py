"""The bundled model against diffusers' own `StableDiffusionPipeline` (`record_bundled.py`)."""

from pathlib import Path

import numpy as np
import pytest

import swiftai_nb
from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.parity import bundled

ASSET = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "references" / "bundled.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(ASSET, dtype="float32")


def test_references_are_of_these_weights(recorded):
    assert str(recorded.get("weights_sha256")) == bundled.weights_sha256(ASSET), "run record_bundled.py again"


@pytest.mark.parametrize("name", bundled.RUNS)
def test_pictures_are_those_of_diffusers_to_one_level_of_255(pipeline, recorded, name):
    prompt, negative, steps, guidance = bundled.RUNS[name]
    defaults = pipeline.defaults
    guidance = defaults.guidance_scale if guidance is None else guidance
    conditioning = pipeline.encode_prompt(prompt, negative, guidance_scale=guidance)
    side = defaults.width // pipeline.vae_scale
    *_, last = pipeline.denoise(
        conditioning,
        width=defaults.width,
        height=defaults.height,
        steps=defaults.steps if steps is None else steps,
        latents=bundled.latents(name, pipeline.latent_channels, side),
    )
    picture = np.asarray(pipeline.decode(last.latents))[0].astype(int)
    assert picture.shape == recorded[name].shape
    assert np.abs(picture - recorded[name]).max() <= 1
