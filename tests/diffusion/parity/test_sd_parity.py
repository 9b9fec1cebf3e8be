"""The tiny Stable Diffusions against what diffusers and transformers made of them (`record_sd.py`)."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline, ops
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer
from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import write_folder, write_json

PLAIN_RUNS = ("sd15_ddim_unguided", "sd21_v_ddim", "sdxl_turbo_1")
FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", REFERENCES))


def recorded(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd")
    return {model: write_folder(root / model, model) for model in tiny_sd.MODELS}


def close(actual, expected, tolerance):
    actual = np.array(actual)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


# Plain MLX, which is slow on a CPU: one run of each family.
CASES = [*((name, "fast") for name in tiny_sd.RUNS), *((name, "plain") for name in PLAIN_RUNS)]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def result(request, folders):
    """One run of ours beside the recorded one, with the CPU's fast paths or without."""
    name, paths = request.param
    ops.configure(fast=paths == "fast")
    yield _run(name, folders)
    ops.configure(fast=True)


def _run(name, folders):
    run, expected = tiny_sd.RUNS[name], recorded(name)
    folder = folders[run["model"]]
    write_json(folder / "scheduler" / "scheduler_config.json", tiny_sd.scheduler_config(run))
    pipeline = load_pipeline(folder, dtype="float32")
    conditioning = pipeline.encode_prompt(
        run["prompt"], run["negative"], guidance_scale=run["guidance"], clip_skip=run["clip_skip"]
    )
    shape, (width, height) = tiny_sd.latent_shape(run), run["size"]
    outputs = []
    network = pipeline.networks["unet"].network
    pipeline.networks["unet"]._network = lambda *a, **k: outputs.append(network(*a, **k)) or outputs[-1]
    extra = {}
    if run["strength"] is not None:
        extra = {"image_latents": tiny_sd.unit_noise("image", shape), "strength": run["strength"]}
    if run["mask"]:
        extra["mask"] = tiny_sd.mask_latents(run)
    steps = list(
        pipeline.denoise(
            conditioning,
            width=width,
            height=height,
            steps=run["steps"],
            latents=tiny_sd.unit_noise("start", shape),
            noise=tiny_sd.step_noise,
            guidance_rescale=run["rescale"],
            **extra,
        )
    )
    return pipeline, conditioning, outputs, steps, expected


def first_output(outputs, expected):
    """Of the first step; on the CPU the two halves of guidance may be two calls, in either order."""
    if len(outputs[0]) == len(expected):
        return np.array(outputs[0])
    halves = [np.array(half) for half in outputs[:2]]
    is_first = np.abs(halves[0] - expected[: len(halves[0])]).max() < 1e-2
    return np.concatenate(halves if is_first else halves[::-1])


def test_text_embeddings_agree(result):
    _, conditioning, _, _, expected = result
    names = [name for name in expected if name.endswith("prompt_embeds")]
    assert names
    for name in names:
        close(getattr(conditioning, name), expected[name], 1e-5)
    assert (conditioning.negative_prompt_embeds is None) == ("negative_prompt_embeds" not in expected)


def test_one_unet_call_agrees(result):
    _, _, outputs, _, expected = result
    close(first_output(outputs, expected["first_output"]), expected["first_output"], 1e-4)


def test_every_step_of_the_trajectory_agrees(result):
    _, _, _, steps, expected = result
    assert [step.index for step in steps] == list(range(len(steps)))
    assert {step.total for step in steps} == {int(expected["calls"])}
    close([step.latents for step in steps], expected["latents"], 1e-3)
    close(steps[-1].latents, expected["final"], 1e-3)


def test_decoded_picture_agrees(result):
    pipeline, _, _, steps, expected = result
    pixels = pipeline.decode(steps[-1].latents)
    assert pixels.dtype == np.uint8
    close(pixels.astype(int), expected["image"].astype(int), 1)


def test_encoder_agrees(folders):
    expected = recorded("sd15_encoding")
    pipeline = load_pipeline(folders["sd15"], dtype="float32")
    pixels = tiny_sd.picture((48, 64))
    close(pipeline.encode_image(pixels), expected["mean"] * 0.18215, 1e-4)
    values = mx.array(pixels[None].astype(np.float32) / 127.5 - 1)
    _, std = pipeline.networks["vae"].network.encode_moments(values)
    close(std, expected["std"], 1e-4)


def test_tokens_of_odd_prompts_agree(folders):
    expected = recorded("clip_tokens")["ids"]
    tokenizer = CLIPTokenizer(folders["sd21_v"] / "tokenizer")
    for prompt, ids in zip(tiny_sd.ODD_PROMPTS, expected, strict=True):
        assert tokenizer(prompt).ids.tolist() == ids.tolist(), prompt
