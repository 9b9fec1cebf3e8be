"""Whole pipelines with the fast paths on and off: the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import swiftai_nb
from swiftai_nb.diffusion import load_pipeline, ops
from swiftai_nb.diffusion.cpu import workers

BUNDLED = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"


@pytest.fixture(autouse=True)
def _defaults():
    yield
    ops.configure(fast=True)


def picture(pipeline, *, fast, guidance_scale, steps=2):
    ops.configure(fast=fast)
    conditioning = pipeline.encode_prompt("a red apple", "blue", guidance_scale)
    *_, last = pipeline.denoise(conditioning, steps=steps, seed=5)
    return np.array(last.latents), pipeline.decode(last.latents)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0], ids=["alone", "guided"])
@pytest.mark.parametrize("folder", ["bundled", "sd15_folder", "sdxl_folder"])
def test_pictures_are_the_same_with_and_without_fast_paths(folder, guidance_scale, request):
    pipeline = load_pipeline(BUNDLED if folder == "bundled" else request.getfixturevalue(folder))
    latents, pixels = picture(pipeline, fast=True, guidance_scale=guidance_scale)
    plain_latents, plain_pixels = picture(pipeline, fast=False, guidance_scale=guidance_scale)
    assert np.abs(latents - plain_latents).max() <= 1e-3 * np.abs(plain_latents).max()
    assert np.abs(pixels.astype(int) - plain_pixels).max() <= 1


def test_many_threads_or_one_give_the_same_picture(monkeypatch):
    pipeline = load_pipeline(BUNDLED)
    latents = []
    for cpus in (5, 2, 1):
        monkeypatch.setattr(workers, "usable_cpus", lambda cpus=cpus: cpus)
        latents.append(picture(pipeline, fast=True, guidance_scale=4.0)[0])
    for other in latents[1:]:
        assert np.abs(latents[0] - other).max() <= 1e-4 * np.abs(other).max()
