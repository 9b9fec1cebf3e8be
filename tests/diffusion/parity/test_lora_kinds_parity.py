"""Adapters of every kind against PEFT, and against merges by hand in torch (`record_lora_kinds.py`)."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora
from tests.diffusion.flux_folders import save
from tests.diffusion.parity import tiny_flux, tiny_lora, tiny_lora_kinds
from tests.diffusion.sd_folders import write_folder


@pytest.fixture(scope="module")
def recorded():
    with np.load(tiny_flux.REFERENCES / "lora_kinds.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "sd15", "sd15")


@pytest.mark.parametrize("case", tiny_lora_kinds.CASES)
def test_same_output_as_the_reference(case, recorded, folder, tmp_path):
    arrays = {name: np.asarray(value) for name, value in tiny_lora_kinds.CASES[case]().items()}
    save(tmp_path / "x.safetensors", arrays)
    pipeline = load_pipeline(folder, dtype="float32")
    given = {name: mx.array(value) for name, value in tiny_lora.inputs("sd15").items()}

    def output():
        network = pipeline.networks["unet"].network
        return np.array(network(given["sample"], mx.array([500.0]), given["context"]))

    plain = output()
    applied = apply_lora(pipeline, load_lora(tmp_path / "x.safetensors"), tiny_lora_kinds.SCALE)
    assert np.abs(output() - recorded[case]).max() <= 1e-3 * max(1.0, np.abs(recorded[case]).max())
    applied.remove()
    np.testing.assert_array_equal(output(), plain)
    off = apply_lora(pipeline, load_lora(tmp_path / "x.safetensors"), 0.0)
    np.testing.assert_array_equal(output(), plain)
    off.remove()
