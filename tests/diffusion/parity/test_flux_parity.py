"""The tiny FLUX.1 against what diffusers and transformers made of it (`record_flux.py`)."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.preview_decoder import TinyDecoder, load_preview_decoder
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from tests.conftest import IS_GPU_SIMULATED
from tests.diffusion.flux_folders import _seeded, save, write_diffusers
from tests.diffusion.parity import tiny_flux

pytestmark = pytest.mark.usefixtures("paths")
FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", tiny_flux.REFERENCES))


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "flux.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    return {
        dev: load_pipeline(write_diffusers(tmp_path_factory.mktemp("flux"), dev=dev), dtype="float32")
        for dev in (False, True)
    }


def start_noise(run):
    width, height = run["size"]
    rng = np.random.default_rng(tiny_flux.NOISE_SEED)
    return rng.standard_normal((len(run["prompt"]), height // 8, width // 8, 16), dtype=np.float32)


@pytest.mark.parametrize("name", tiny_flux.RUNS)
class TestRun:
    @pytest.fixture
    def run(self, name):
        return tiny_flux.RUNS[name]

    @pytest.fixture
    def pipeline(self, run, pipelines):
        return pipelines[run["dev"]]

    @pytest.fixture
    def expected(self, name, recorded):
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}

    def encode(self, pipeline, run):
        return pipeline.encode_prompt(
            run["prompt"],
            guidance_scale=run.get("guidance_scale", 0.0),
            max_sequence_length=run["length"],
        )

    def test_token_ids_are_sentencepieces(self, run, expected, tmp_path):
        tiny_flux.write_t5_tokenizer(tmp_path)
        ids = T5Tokenizer.from_folder(tmp_path)(run["prompt"], max_length=run["length"])
        np.testing.assert_array_equal(ids, expected["ids"])

    def test_text_embeddings(self, run, pipeline, expected, paths):
        conditioning = self.encode(pipeline, run)
        # MLX's own tanh on a CPU is coarser.
        atol = 1e-5 if paths == "fast" and not IS_GPU_SIMULATED else 3e-5
        np.testing.assert_allclose(np.array(conditioning.prompt_embeds), expected["prompt_embeds"], atol=atol)
        np.testing.assert_allclose(np.array(conditioning.pooled_prompt_embeds), expected["pooled"], atol=atol)

    def test_trajectory_and_picture(self, run, pipeline, expected):
        width, height = run["size"]
        noise = start_noise(run)
        steps = list(
            pipeline.denoise(
                self.encode(pipeline, run), width=width, height=height, steps=run["steps"], latents=noise
            )
        )
        latents = np.stack([step.latents for step in steps])
        assert [step.index for step in steps] == list(range(run["steps"]))
        assert all(step.total == run["steps"] for step in steps)
        np.testing.assert_allclose(latents, expected["latents"], atol=1e-3)
        np.testing.assert_allclose(steps[-1].denoised, steps[-1].latents, atol=1e-5)
        first_velocity = noise - steps[0].denoised
        np.testing.assert_allclose(first_velocity, expected["first_output"], atol=1e-3)
        pixels = pipeline.decode(steps[-1].latents)
        assert pixels.shape == (len(run["prompt"]), height, width, 3)
        assert np.abs(pixels.astype(int) - expected["image"]).max() <= 1


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("layout", ["diffusers", "numbered"])
def test_tiny_decoders(channels, layout, recorded, tmp_path):
    weights = {f"decoder.{k}": v for k, v in _seeded_decoder(channels).items()}
    if layout == "numbered":
        weights = {_numbered(name): value for name, value in weights.items()}
        save(tmp_path / "taesd_decoder.safetensors", weights)
    else:
        weights["encoder.layers.0.weight"] = np.zeros((64, 3, 3, 3), np.float32)
        save(tmp_path / "diffusion_pytorch_model.safetensors", weights)
    expected = recorded[f"taesd.{channels}"]
    rng = np.random.default_rng(tiny_flux.NOISE_SEED)
    latents = 2 * rng.standard_normal((2, 5, 7, channels), dtype=np.float32)
    pixels = load_preview_decoder(tmp_path)(mx.array(latents))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 40, 56, 3)
    assert np.abs(pixels / 255 - np.clip(expected, 0, 1)).max() <= 0.51 / 255


def _seeded_decoder(channels):
    wrapper = {"decoder": TinyDecoder(channels)}
    return {k.removeprefix("decoder."): v for k, v in _seeded(_Wrapped(wrapper)).items()}


class _Wrapped:
    """Names as in the whole AutoencoderTiny, on which the seeded values depend."""

    def __init__(self, modules):
        self.modules = modules

    def parameters(self):
        return {name: module.parameters() for name, module in self.modules.items()}


def _numbered(name):
    number, _, rest = name.removeprefix("decoder.layers.").partition(".")
    return f"{int(number) + 1}.{rest}"
