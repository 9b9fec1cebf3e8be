"""T2I-Adapters against what diffusers made of them (`record_t2i_adapter.py`)."""

import os
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.control_folders import write_t2i_adapter
from tests.diffusion.parity import tiny_sd, tiny_t2i_adapter
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import write_folder, write_json

FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", REFERENCES))
RUNS = tiny_t2i_adapter.RUNS


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "t2i_adapter.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_the_trajectory_agrees(name, root, recorded):
    run, expected = RUNS[name], recorded[name]
    folder = root / run["model"]
    if not folder.exists():
        write_folder(folder, run["model"])
    write_json(folder / "scheduler" / "scheduler_config.json", tiny_sd.scheduler_config(run))
    pipeline = load_pipeline(folder, dtype="float32")
    conditioning = pipeline.encode_prompt(run["prompt"], run["negative"], guidance_scale=run["guidance"])
    controls = [
        (
            write_t2i_adapter(root / adapter, adapter),
            tiny_t2i_adapter.adapter_picture(run, index),
            scale,
            0.0,
            run.get("until", 1.0),
        )
        for index, (adapter, scale) in enumerate(run["adapters"])
    ]
    steps = pipeline.denoise(
        conditioning,
        width=run["size"][0],
        height=run["size"][1],
        steps=run["steps"],
        latents=tiny_sd.unit_noise("start", tiny_sd.latent_shape(run)),
        noise=tiny_sd.step_noise,
        controls=controls,
    )
    latents = np.stack([step.latents for step in steps])
    assert latents.shape == expected.shape
    np.testing.assert_allclose(latents, expected, atol=1e-3 * np.abs(expected).max())
