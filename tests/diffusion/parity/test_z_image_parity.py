"""The tiny Z-Image against what diffusers and transformers made of it (`record_z_image.py`)."""

import os
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.tokenizers.qwen_tokenizer import QwenTokenizer
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.z_image_folders import write_diffusers

pytestmark = pytest.mark.usefixtures("paths")
FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", tiny_z_image.REFERENCES))
RUNS = tiny_z_image.RUNS


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "z_image.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(write_diffusers(tmp_path_factory.mktemp("z_image")), dtype="float32")


@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "not thinking"])
@pytest.mark.parametrize("name", ["SHORT", "FOREIGN", "LONG"])
def test_token_ids_are_those_of_the_chat_template(name, thinking, recorded, tmp_path):
    tiny_z_image.write_tokenizer(tmp_path)
    prompt = getattr(tiny_z_image, name)
    tokens = QwenTokenizer.from_folder(tmp_path)([prompt], max_length=512, thinking=thinking)
    np.testing.assert_array_equal(tokens.ids[0], recorded[f"ids.{name}.{thinking}"])


def encode(pipeline, run):
    return pipeline.encode_prompt(
        run["prompt"],
        run.get("negative_prompt"),
        guidance_scale=run.get("guidance_scale", 0.0),
        max_sequence_length=run.get("length"),
    )


def denoise(pipeline, run):
    width, height = run["size"]
    options = {}
    if run.get("image"):
        image = pipeline.encode_image(tiny_z_image.init_pixels(run))
        options = {"image_latents": image, "strength": run["strength"]}
    if run.get("mask"):
        options["mask"] = tiny_z_image.latent_mask(run)
    noise = tiny_z_image.start_noise(run)
    conditioning = encode(pipeline, run)
    return list(
        pipeline.denoise(
            conditioning, width=width, height=height, steps=run["steps"], latents=noise, **options
        )
    )


@pytest.mark.parametrize("name", RUNS)
def test_prompt_embeddings(name, pipeline, recorded):
    conditioning = encode(pipeline, RUNS[name])
    sides = {"prompt_embeds": conditioning.prompt_lengths}
    if RUNS[name].get("guidance_scale"):
        sides["negative_prompt_embeds"] = conditioning.negative_prompt_lengths
    else:
        assert conditioning.negative_prompt_embeds is None
    for side, lengths in sides.items():
        embeds = np.array(getattr(conditioning, side))
        for row, length in enumerate(lengths):
            expected = recorded[f"{name}.{side}.{row}"]
            assert length == len(expected)
            np.testing.assert_allclose(embeds[row, :length], expected, atol=3e-5)
            assert not embeds[row, length:].any()


@pytest.mark.parametrize("name", RUNS)
def test_trajectory_and_image(name, pipeline, recorded):
    run = RUNS[name]
    width, height = run["size"]
    steps = denoise(pipeline, run)
    expected = recorded[f"{name}.latents"]
    latents = np.stack([step.latents for step in steps])
    assert latents.shape == expected.shape
    assert [step.total for step in steps] == [len(expected)] * len(expected)
    np.testing.assert_allclose(latents, expected, atol=1e-3 * np.abs(expected).max())
    pixels = pipeline.decode(steps[-1].latents)
    assert pixels.shape == (len(run["prompt"]), height, width, 3)
    assert np.abs(pixels.astype(int) - recorded[f"{name}.image"]).max() <= 1


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.get("image")])
def test_an_image_is_encoded_as_its_mean(name, pipeline, recorded):
    latents = pipeline.encode_image(tiny_z_image.init_pixels(RUNS[name]))
    np.testing.assert_allclose(latents, recorded[f"{name}.image_latents"], atol=1e-4)
