"""Requests and plans: what is validated, and what is decided from what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swiftai_nb.core.config import MAX_SEED, ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.generator import PlanningGenerator, generate_planned, plan_request
from swiftai_nb.core.request import SEED_BOUND, GenerationPlan, GenerationRequest, make_seeds
from swiftai_nb.testing import FakeGenerator


@pytest.mark.parametrize("prompt", ["", " \n\t", None, 7])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidInputError, match="the prompt is empty"):
        GenerationRequest.of(prompt)


@pytest.mark.parametrize(
    ("seeds", "message"), [((), "without seeds"), ((1, MAX_SEED + 1), "seed"), ((-1,), "seed")]
)
def test_seeds_are_checked(seeds: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GenerationRequest("a fox", None, ImageGenerationConfig(), seeds)


def test_seeds_count_up_and_are_random_below_a_bound_every_provider_takes() -> None:
    assert make_seeds(5, count=3) == (5, 6, 7)
    assert len({make_seeds(None) for _ in range(20)}) > 1
    assert all(max(make_seeds(None, count=1000)) < SEED_BOUND for _ in range(100))
    assert GenerationRequest.of("a fox", ImageGenerationConfig(seed=4), count=2).seeds == (4, 5)


def test_picture_k_has_its_own_seed_and_the_common_settings() -> None:
    request = GenerationRequest.of("a fox", ImageGenerationConfig(steps=3, seed=4), count=2)
    assert request.config_of(1) == ImageGenerationConfig(steps=3, seed=5)
    assert request.with_seeds([9]).config_of(0).seed == 9
    assert request.count == 2


@pytest.mark.parametrize(
    ("ratio", "native", "size"),
    [
        ((1, 1), (512, 512), (512, 512)),
        ((16, 9), (512, 512), (704, 384)),
        ((3, 4), (1024, 1024), (896, 1152)),
        ((4, 3), (128, 128), (144, 112)),
    ],
)
def test_an_aspect_ratio_keeps_the_models_number_of_pixels(
    ratio: tuple[int, int], native: tuple[int, int], size: tuple[int, int]
) -> None:
    request = GenerationRequest("a fox", None, ImageGenerationConfig(), (1,), aspect_ratio=ratio)
    config = request.with_native_size(native).config
    assert (config.width, config.height) == size


@pytest.mark.parametrize(
    ("native", "multiple", "size"),
    [((256, 256), 32, (288, 224)), ((1024, 1024), 32, (1152, 896)), ((512, 512), 128, (640, 384))],
)
def test_an_aspect_ratio_gives_sides_that_the_model_can_draw(
    native: tuple[int, int], multiple: int, size: tuple[int, int]
) -> None:
    request = GenerationRequest("a fox", None, ImageGenerationConfig(), (1,), aspect_ratio=(4, 3))
    config = request.with_native_size(native, multiple=multiple).config
    assert (config.width, config.height) == size


def test_the_prompt_as_typed_is_kept_for_captions() -> None:
    config = ImageGenerationConfig()
    assert GenerationRequest("a fox", None, config, (1,)).display_prompt == "a fox"
    styled = GenerationRequest("pixel art of a fox", None, config, (1,), display_prompt="a fox")
    assert styled.display_prompt == "a fox"


def test_a_plan_without_a_planning_provider_says_what_the_request_says() -> None:
    request = GenerationRequest.of("a fox", ImageGenerationConfig(width=64, steps=3))
    plan = plan_request(FakeGenerator(), request)
    assert (plan.width, plan.height, plan.steps, plan.memory) == (64, None, 3, "")
    assert plan.size == (64, 512)
    assert GenerationPlan.of(request, native_size=(128, 96)).size == (64, 96)


@pytest.mark.parametrize(
    ("expected", "found", "noted"), [("a" * 40, "b" * 40, True), ("a", "a", False), (None, "b", False)]
)
def test_another_revision_than_the_recipes_is_noted(expected: str | None, found: str, noted: bool) -> None:
    request = GenerationRequest("a fox", None, ImageGenerationConfig(), (1,), expected_revision=expected)
    note = GenerationPlan(request=request, model_revision=found).revision_note
    assert (note is not None) is noted


def test_a_planning_provider_is_given_its_own_plan() -> None:
    class Planner(FakeGenerator):
        made: tuple[Any, ...] = ()

        def plan(self, request: GenerationRequest) -> GenerationPlan:
            return GenerationPlan(request=request, model="mine")

        async def generate(self, plan: GenerationPlan, *, index: int = 0, on_progress: Any = None) -> Any:
            self.made = (*self.made, (plan, index))
            return await self.generate_image(plan.request.prompt, config=plan.request.config_of(index))

    planner = Planner()
    assert isinstance(planner, PlanningGenerator)
    assert not isinstance(FakeGenerator(), PlanningGenerator)
    plan = plan_request(planner, GenerationRequest.of("a fox", count=2))
    image = asyncio.run(generate_planned(planner, plan, index=1))
    assert planner.made == ((plan, 1),)
    assert image.seed == plan.request.seeds[1]
