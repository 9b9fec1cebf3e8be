"""The tiny FLUX.2 klein against what diffusers and transformers made of it (`record_flux2.py`)."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.preview_decoder import TinyDecoder, load_preview_decoder
from tests.diffusion.flux2_folders import VAE, write_klein
from tests.diffusion.flux_folders import _seeded, save
from tests.diffusion.parity import tiny_flux2

pytestmark = pytest.mark.usefixtures("paths")
FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", tiny_flux2.REFERENCES))


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "flux2.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    return {
        base: load_pipeline(write_klein(tmp_path_factory.mktemp("klein"), base=base), dtype="float32")
        for base in (False, True)
    }


def encode(pipeline, run):
    return pipeline.encode_prompt(
        run["prompt"],
        guidance_scale=run.get("guidance_scale", 0.0),
        max_sequence_length=run.get("length"),
    )


@pytest.mark.parametrize("name", tiny_flux2.RUNS)
class TestRun:
    @pytest.fixture
    def run(self, name):
        return tiny_flux2.RUNS[name]

    @pytest.fixture
    def pipeline(self, run, pipelines):
        return pipelines[tiny_flux2.is_base(run)]

    @pytest.fixture
    def expected(self, name, recorded):
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}

    def test_text_embeddings(self, run, pipeline, expected):
        embeds = np.array(encode(pipeline, run).prompt_embeds)
        np.testing.assert_allclose(embeds[:, ::16], expected["prompt_embeds"], atol=1e-4)

    def test_trajectory_and_picture(self, run, pipeline, expected):
        width, height = run["size"]
        given = {}
        if "strength" in run:
            given = {
                "image_latents": pipeline.encode_image(tiny_flux2.picture(run["size"], seed=9)),
                "mask": tiny_flux2.mask(run["size"]),
                "strength": run["strength"],
            }
        references = [
            pipeline.encode_image(tiny_flux2.picture(size, seed=seed))
            for seed, size in enumerate(run.get("references", ()))
        ]
        steps = list(
            pipeline.denoise(
                encode(pipeline, run),
                width=width,
                height=height,
                steps=run["steps"],
                latents=tiny_flux2.noise(run),
                reference_latents=references,
                **given,
            )
        )
        latents = np.stack([step.latents for step in steps])
        np.testing.assert_allclose(
            latents, expected["latents"], atol=1e-3 * np.abs(expected["latents"]).max()
        )
        pixels = pipeline.decode(steps[-1].latents)
        assert pixels.shape == (len(run["prompt"]), height, width, 3)
        assert np.abs(pixels.astype(int) - expected["image"]).max() <= 1


def test_the_small_decoder_is_built_by_its_config(recorded, tmp_path):
    config = VAE | tiny_flux2.SMALL_DECODER
    pipeline = load_pipeline(write_klein(tmp_path, vae=config), dtype="float32")
    rng = np.random.default_rng(tiny_flux2.NOISE_SEED)
    latents = rng.standard_normal((1, 128, 3, 5), dtype=np.float32).transpose(0, 2, 3, 1)
    pixels = pipeline.decode(latents)
    assert np.abs(pixels / 255 - recorded["small_decoder"]).max() <= 1.01 / 255


def test_taef2_previews_the_denoisers_latents(recorded, tmp_path):
    weights = {f"decoder.{k}": v for k, v in _seeded_decoder().items()}
    save(tmp_path / "diffusion_pytorch_model.safetensors", weights)
    rng = np.random.default_rng(tiny_flux2.NOISE_SEED)
    latents = rng.standard_normal((1, 128, 3, 5), dtype=np.float32).transpose(0, 2, 3, 1)
    pixels = load_preview_decoder(tmp_path)(mx.array(latents))
    assert pixels.shape == (1, 48, 80, 3)
    assert np.abs(pixels / 255 - np.clip(recorded["taef2"], 0, 1)).max() <= 0.51 / 255


def _seeded_decoder():
    class Whole:
        """Names as in the whole AutoencoderTiny, on which the seeded values depend."""

        def parameters(self):
            return {"decoder": TinyDecoder(32).parameters()}

    return {k.removeprefix("decoder."): v for k, v in _seeded(Whole()).items()}
