"""Sizes other than the model's own: formats, small ones, and those of the bundled model's earlier version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return MLXImageProvider(registry=DiffusionModelRegistry(home=home, cache_dir=home / "hub"))


@pytest.mark.parametrize("ratio", [(1, 1), (4, 3), (3, 4), (3, 2), (16, 9), (9, 16), (21, 9), (5, 1)])
def test_every_format_is_a_size_that_the_model_draws(provider, ratio):
    plan = provider.plan(replace(GenerationRequest.of("a cat"), aspect_ratio=ratio))
    assert plan.width % 32 == plan.height % 32 == 0
    assert plan.width / plan.height == pytest.approx(ratio[0] / ratio[1], rel=0.25)
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("former", "present"),
    [((128, 128), (256, 256)), ((144, 112), (288, 224)), ((80, 192), (160, 384)), ((256, 64), (512, 128))],
)
def test_a_size_of_an_earlier_version_is_drawn_as_it_is_now_with_a_note(provider, former, present):
    plan = provider.plan("a cat", ImageGenerationConfig(width=former[0], height=former[1]))
    assert plan.size == (plan.request.config.width, plan.request.config.height) == present
    (note,) = plan.notes
    assert note == (
        f"{former[0]}x{former[1]} is of an earlier version of this model: drawn at {present[0]}x{present[1]}"
    )


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (160, 160), (256, 128), (256, 256), (512, 512)])
def test_other_sizes_are_drawn_as_asked(provider, size):
    plan = provider.plan("a cat", ImageGenerationConfig(width=size[0], height=size[1]))
    assert plan.size == size
    assert not any("earlier version" in note for note in plan.notes)


@pytest.mark.parametrize(("size", "is_noted"), [((64, 64), True), ((256, 128), True), ((288, 224), False)])
def test_a_size_with_too_few_latents_is_noted(provider, size, is_noted):
    plan = provider.plan("a cat", ImageGenerationConfig(width=size[0], height=size[1]))
    expected = f"{size[0]}x{size[1]} is small for this model, which was trained at 256x256"
    assert any(note.startswith(expected) for note in plan.notes) is is_noted


def test_one_side_alone_is_taken_as_it_is(provider):
    assert provider.plan("a cat", ImageGenerationConfig(width=128)).size == (128, 256)
