"""LoRAs in every naming convention against diffusers' own (`record_lora.py`)."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.models.flux_transformer import rotary_embedding, token_positions
from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora
from tests.diffusion.flux_folders import save, write_diffusers
from tests.diffusion.loading import load_pipeline
from tests.diffusion.parity import tiny_flux, tiny_lora
from tests.diffusion.sd_folders import write_folder

pytestmark = pytest.mark.usefixtures("paths")
FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", tiny_flux.REFERENCES))


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "lora.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {model: write_folder(root / model, model) for model in ("sd15", "sdxl")}
    return made | {"flux": write_diffusers(root / "flux")}


def denoise(pipeline, model):
    """One network call on the recorded inputs."""
    given = {k: mx.array(v) for k, v in tiny_lora.inputs(model).items()}
    if model == "flux":
        output = pipeline.networks["transformer"].network(
            given["tokens"],
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=mx.array([0.6]),
            rotary=rotary_embedding(token_positions(8, 3, 4), (8, 28, 28)),
        )
    else:
        added = {k: given[k] for k in ("text_embeds", "time_ids") if k in given}
        times = mx.array([500.0])
        output = pipeline.networks["unet"].network(given["sample"], times, given["context"], **added)
    return np.array(output)


@pytest.mark.parametrize("case", tiny_lora.CASES)
def test_same_output_as_diffusers(case, recorded, folders, tmp_path):
    model, arrays = tiny_lora.CASES[case]
    save(tmp_path / "lora.safetensors", {k: np.asarray(v) for k, v in arrays.items()})
    pipeline = load_pipeline(folders[model])
    plain = denoise(pipeline, model)
    applied = apply_lora(pipeline, load_lora(tmp_path / "lora.safetensors"), tiny_lora.SCALE)
    expected = recorded[f"{case}.output"]
    assert np.abs(plain - expected).max() > 0.05
    np.testing.assert_allclose(denoise(pipeline, model), expected, atol=1e-3 if model == "flux" else 1e-4)
    for encoder in ("text_encoder", "text_encoder_2"):
        if f"{case}.{encoder}" in recorded:
            ids = clip_ids(pipeline, folders[model], encoder)
            hidden = pipeline.networks[encoder].network(ids).hidden_states[-1]
            np.testing.assert_allclose(np.array(hidden), recorded[f"{case}.{encoder}"], atol=2e-5)
    applied.remove()
    np.testing.assert_array_equal(denoise(pipeline, model), plain)


def clip_ids(pipeline, folder, encoder):
    from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer

    tokenizer = CLIPTokenizer(folder / encoder.replace("text_encoder", "tokenizer"))
    return mx.array(tokenizer(tiny_flux.SHORT).ids[None])
