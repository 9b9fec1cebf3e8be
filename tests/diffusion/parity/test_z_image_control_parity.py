"""Z-Image's ControlNets against what diffusers made of them (`record_z_image_control.py`)."""

import os
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from tests.diffusion.control_folders import (
    write_controlnet,
    write_z_image,
    write_z_image_controlnet,
    z_image_controlnet,
)
from tests.diffusion.parity import tiny_z_image, tiny_z_image_control
from tests.diffusion.sd_folders import write_json, write_safetensors

FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", tiny_z_image.REFERENCES))
RUNS = tiny_z_image_control.RUNS


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(write_z_image(tmp_path_factory.mktemp("z_image")), dtype="float32")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("nets")
    return {v: write_z_image_controlnet(root / v, v) for v in tiny_z_image_control.CONTROLNETS}


def denoise(pipeline, run, controls):
    width, height = run["size"]
    conditioning = pipeline.encode_prompt(
        run["prompt"], run.get("negative_prompt"), guidance_scale=run.get("guidance_scale", 0.0)
    )
    steps = pipeline.denoise(
        conditioning,
        width=width,
        height=height,
        steps=run["steps"],
        latents=tiny_z_image.start_noise(run),
        controls=controls,
    )
    return np.stack([step.latents for step in steps])


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_the_trajectory_agrees(name, pipeline, nets):
    run = RUNS[name]
    with np.load(FOLDER / "z_image_control.npz") as recorded:
        expected = recorded[name]
    control = (nets[run["net"]], tiny_z_image_control.control_pixels(run), run["scale"])
    latents = denoise(pipeline, run, [control])
    assert latents.shape == expected.shape
    np.testing.assert_allclose(latents, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("version", tiny_z_image_control.CONTROLNETS)
def test_a_single_file_is_read_as_its_version(version, pipeline, nets, tmp_path):
    run = RUNS[version]
    weights = z_image_controlnet(version)
    if version == "v2.0":  # the published file carries blocks along that were not trained
        others = z_image_controlnet("v2.1")
        weights |= {n: v * 0 for n, v in others.items() if n.startswith("control_noise_refiner.")}
    write_safetensors(tmp_path / "union.safetensors", weights)
    pixels = tiny_z_image_control.control_pixels(run)
    expected = denoise(pipeline, run, [(nets[version], pixels, 0.5)])
    actual = denoise(pipeline, run, [(tmp_path / "union.safetensors", pixels, 0.5)])
    np.testing.assert_array_equal(actual, expected)


def test_ranges_and_several_controls_add_up(pipeline, nets):
    run = RUNS["v1"]
    pixels = tiny_z_image_control.control_pixels(run)
    plain = denoise(pipeline, run, [])
    late = denoise(pipeline, run, [(nets["v1"], pixels, 1.0, 0.5, 1.0)])
    np.testing.assert_array_equal(late[0], plain[0])
    assert np.abs(late[-1] - plain[-1]).max() > 1e-3
    both = denoise(pipeline, run, [(nets["v1"], pixels, 0.25), (nets["v1"], pixels, 0.25)])
    one = denoise(pipeline, run, [(nets["v1"], pixels, 0.5)])
    np.testing.assert_allclose(both, one, atol=1e-4)
    assert pipeline.components["controlnet"] > 0
    pipeline.release_denoiser()
    assert "controlnet" not in pipeline.components


def test_what_does_not_fit_is_refused_before_any_work(pipeline, nets, tmp_path):
    run = RUNS["v1"]
    pixels = tiny_z_image_control.control_pixels(run)
    with pytest.raises(InvalidInputError, match="use a ControlNet of Z-Image"):
        denoise(pipeline, run, [(write_controlnet(tmp_path / "sd", "sd15_canny"), pixels, 1.0)])
    with pytest.raises(InvalidInputError, match="guess"):
        denoise(pipeline, run, [(nets["v1"], pixels, 1.0, 0.0, 1.0, True)])
    changes = (
        {"control_layers_places": [0, 9]},
        {"dim": 64},
        {"control_in_dim": 3},
        {"control_layers_places": None},
    )
    for change in changes:
        folder = write_z_image_controlnet(tmp_path / "net", "v1")
        config = tiny_z_image_control.CONTROLNETS["v1"] | change
        write_json(folder / "config.json", config)
        with pytest.raises(UnsupportedModelError):
            denoise(pipeline, run, [(folder, pixels, 1.0)])
