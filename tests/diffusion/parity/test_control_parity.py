"""Inpainting, InstructPix2Pix and ControlNets against what diffusers made of them (`record_control.py`)."""

import os
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.control_folders import write_controlnet, write_task_folder
from tests.diffusion.parity import tiny_control, tiny_sd
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import write_json

FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", REFERENCES))
RUNS = tiny_control.RUNS


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "control.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("control")


def folder_of(root, unet):
    folder = root / unet
    return folder if folder.exists() else write_task_folder(folder, unet)


def controlnet_of(root, name):
    folder = root / "controlnets" / name
    return folder if folder.exists() else write_controlnet(folder, name)


def picture_inputs(pipeline, run, root):
    shape = tiny_sd.latent_shape(run)
    inputs = {}
    if run["unet"].endswith("_edit"):
        inputs["reference_latents"] = [pipeline.encode_image(tiny_sd.picture(run["size"]))]
        inputs["image_guidance_scale"] = run["image_guidance"]
    if run["strength"] is not None:
        inputs |= {"image_latents": tiny_sd.unit_noise("image", shape), "strength": run["strength"]}
    if run["mask"]:
        inputs |= {
            "mask": tiny_sd.mask_latents(run),
            "masked_image_latents": tiny_sd.unit_noise("masked", shape)[:1],
        }
    if run["controls"]:
        inputs["controls"] = [
            (
                controlnet_of(root, name),
                tiny_control.control_picture(run, i),
                scale,
                start,
                end,
                run["guess"],
            )
            for i, (name, scale, start, end) in enumerate(run["controls"])
        ]
    return inputs


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_the_trajectory_agrees(name, root, recorded):
    run, expected = RUNS[name], recorded[name]
    folder = folder_of(root, run["unet"])
    write_json(folder / "scheduler" / "scheduler_config.json", tiny_sd.scheduler_config(run))
    pipeline = load_pipeline(folder, dtype="float32")
    conditioning = pipeline.encode_prompt(run["prompt"], run["negative"], guidance_scale=run["guidance"])
    width, height = run["size"]
    steps = list(
        pipeline.denoise(
            conditioning,
            width=width,
            height=height,
            steps=run["steps"],
            latents=tiny_sd.unit_noise("start", tiny_sd.latent_shape(run)),
            noise=tiny_sd.step_noise,
            guidance_rescale=run["rescale"],
            **picture_inputs(pipeline, run, root),
        )
    )
    latents = np.stack([step.latents for step in steps])
    assert latents.shape == expected.shape
    np.testing.assert_allclose(latents, expected, atol=1e-3 * np.abs(expected).max())
