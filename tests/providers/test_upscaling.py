"""Larger pictures with the bundled model and a real engine: hires pass, upscaler, recipes that make them again."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    GenerationCancelledError,
    InsufficientMemoryError,
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
)
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion import upscaler_files as files

QUICK = ImageGenerationConfig(steps=3, seed=7, preview="off", filled_in="")


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home, cache_dir=home / "hub"))
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    path = tmp_path_factory.mktemp("upscalers") / "twice.safetensors"
    return str(files.write_upscaler(path, files.compact_tensors(scale=2)))


def make(provider, config, prompt="a red apple", **options):
    return asyncio.run(provider.generate_image(prompt, config=config, **options))


def pixels(image):
    return np.asarray(image.pil).astype(int)


def test_upscale_is_the_plain_picture_enlarged_and_the_recipe_makes_it_again(provider, twice):
    plain = make(provider, QUICK)
    large = make(provider, QUICK.replace(upscale=2, upscaler=twice))
    assert (large.width, large.height) == (2 * plain.width, 2 * plain.height)
    expected = files.compact_reference(files.compact_tensors(scale=2), np.asarray(plain.pil), scale=2)
    assert np.abs(pixels(large) - expected).max() <= 1
    recipe = large.recipe
    assert (recipe.width, recipe.upscale, recipe.upscaler) == (plain.width, 2.0, twice)
    assert make(provider, recipe.to_config()).data == large.data


def test_without_an_upscaler_it_is_lanczos_and_a_note_says_so(provider):
    plain, large = make(provider, QUICK), make(provider, QUICK.replace(upscale=1.5))
    expected = plain.pil.resize((plain.width * 3 // 2,) * 2, Image.Resampling.LANCZOS)
    assert np.array_equal(pixels(large), np.asarray(expected))
    assert large.recipe.upscaler == "lanczos"
    shown = provider.plan("a red apple", QUICK.replace(upscale=1.5)).request.notes
    assert any("Lanczos" in note and "realesrgan-x4plus" in note for note in shown)
    assert make(provider, large.recipe.to_config()).data == large.data
    named = make(provider, QUICK.replace(upscale=1.5, upscaler="Lanczos"))
    assert named.recipe.notes == plain.recipe.notes


@pytest.mark.parametrize(("factor", "side"), [(1.0, 256), (1.3, 333), (2.5, 640), (3.0, 768), (4.0, 1024)])
def test_any_factor_gives_exactly_its_size(provider, twice, factor, side):
    large = make(provider, QUICK.replace(steps=1, upscale=factor, upscaler=twice))
    assert (large.width, large.height) == (side, side)


def test_a_hires_pass_is_image_to_image_of_the_enlarged_picture(provider):
    config = QUICK.replace(steps=4, hires=1.5, hires_strength=0.5, upscaler="lanczos")
    first, large = make(provider, QUICK.replace(steps=4)), make(provider, config)
    assert (large.width, large.height) == (384, 384)
    start = GeneratedImage.from_pil(first.pil.resize((384, 384), Image.Resampling.LANCZOS))
    by_hand = make(provider, QUICK.replace(steps=4, image=start.data, strength=0.5, width=384, height=384))
    assert np.array_equal(pixels(large), pixels(by_hand))
    recipe = large.recipe
    assert (recipe.width, recipe.hires, recipe.hires_strength, recipe.hires_steps) == (256, 1.5, 0.5, 4)
    assert make(provider, recipe.to_config()).data == large.data
    read = Recipe.from_parameters(recipe.to_parameters())
    assert (read.hires, read.hires_strength, read.hires_steps, read.upscaler) == (1.5, 0.5, 4, "lanczos")
    assert read.strength is None


def test_hires_and_upscale_in_one_job_count_all_steps_and_show_their_stages(provider, twice):
    seen = []
    config = QUICK.replace(steps=4, hires=2, hires_strength=0.5, hires_steps=6, upscale=2, upscaler=twice)
    large = make(provider, config, on_progress=seen.append)
    assert (large.width, large.height) == (1024, 1024)
    steps = [
        (p.current_step, p.total_steps)
        for p in seen
        if p.stage is GenerationStage.DENOISING and p.current_step
    ]
    assert [step for step, _ in dict.fromkeys(steps)] == sorted({step for step, _ in steps})
    assert steps[-1] == (7, 7)
    assert all(total == 7 for step, total in steps if step > 0)
    stages = [p.stage for p in seen]
    assert stages.count(GenerationStage.DECODING) == 2
    assert any(p.detail == "tile 1 of 1" for p in seen if p.stage is GenerationStage.UPSCALING)
    plan = provider.plan("a fox", config)
    assert plan.run_steps == 7
    assert "hires pass at 512x512, strength 0.5; 1024x1024" in plan.enlarged


def test_a_picture_of_several_seeds_is_enlarged_each(provider, twice):
    request = GenerationRequest.of("a cat", QUICK.replace(steps=1, upscale=2, upscaler=twice), count=2)
    plan = provider.plan(request)
    made = [asyncio.run(provider.generate(plan, index=i)) for i in (0, 1)]
    assert [image.seed for image in made] == [7, 8]
    assert {image.width for image in made} == {512}


def test_a_finished_picture_is_enlarged_by_the_engine(provider, twice):
    plain = make(provider, QUICK)
    seen = []
    large = asyncio.run(provider.upscale_image(plain, 2, upscaler=twice, on_progress=seen.append))
    assert large.data == make(provider, QUICK.replace(upscale=2, upscaler=twice)).data
    assert GenerationStage.UPSCALING in [p.stage for p in seen]
    photo = GeneratedImage.from_pixels(files.picture(33, 20))
    assert asyncio.run(provider.upscale_image(photo, 3, upscaler=twice)).recipe is None
    again = asyncio.run(provider.upscale_image(large, 2, upscaler="lanczos"))
    assert (again.width, again.recipe.upscale, again.recipe.upscaler) == (1024, 4.0, "lanczos")
    assert any("after it was enlarged" in note for note in again.recipe.notes)


def test_a_cancel_stops_within_a_tile_and_the_engine_stays(provider, tmp_path):
    slow = str(
        files.write_upscaler(tmp_path / "slow.safetensors", files.compact_tensors(scale=4, blocks=100))
    )
    photo = GeneratedImage.from_pixels(files.picture(400, 400))

    async def cancelled():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_progress(progress):
            if progress.detail.startswith("tile 1"):
                loop.call_soon_threadsafe(started.set)

        task = asyncio.create_task(provider.upscale_image(photo, 4, upscaler=slow, on_progress=on_progress))
        await started.wait()
        await provider.cancel_generation()
        await task

    make(provider, QUICK)
    pid = provider.engine_pid
    with pytest.raises(GenerationCancelledError):
        asyncio.run(cancelled())
    make(provider, QUICK)
    assert provider.engine_pid == pid


PHASES = [
    (GenerationStage.ENCODING_PROMPT, 1),
    (GenerationStage.DENOISING, 1),
    (GenerationStage.DECODING, 1),
    (GenerationStage.UPSCALING, 1),
    (GenerationStage.DENOISING, 2),
    (GenerationStage.DECODING, 2),
    (GenerationStage.UPSCALING, 2),
]


@pytest.mark.parametrize(("stage", "number"), PHASES, ids=lambda value: getattr(value, "value", value))
def test_a_cancel_is_heard_in_every_phase_of_both_passes(provider, twice, stage, number):
    config = QUICK.replace(hires=1.5, hires_strength=0.9, upscale=4, upscaler=twice, preview="rgb")
    entered, seen = [], []

    async def cancelled():
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()

        def on_progress(progress):
            seen.append(progress)
            if not entered or entered[-1] is not progress.stage:
                entered.append(progress.stage)
            if entered.count(stage) == number:
                loop.call_soon_threadsafe(reached.set)

        task = asyncio.create_task(
            provider.generate_image("a red apple", config=config, on_progress=on_progress)
        )
        await reached.wait()
        await provider.cancel_generation()
        await task

    make(provider, QUICK)
    pid = provider.engine_pid
    with pytest.raises(GenerationCancelledError):
        asyncio.run(cancelled())
    assert entered.count(stage) == number
    if (stage, number) == PHASES[-1]:
        for steps in ((1, 3), (4, 6)):  # of the first pass and of the second
            shown = [p for p in seen if p.preview is not None and steps[0] <= p.current_step <= steps[1]]
            assert shown, f"a preview of steps {steps}"
    assert make(provider, QUICK).width == 256
    assert provider.engine_pid == pid


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"upscaler": "no-such-upscaler"}, ModelNotFoundError, "no upscaler 'no-such-upscaler'"),
        ({"upscaler": "realesrgan-x4plus"}, ModelNotDownloadedError, "realesrgan-x4plus is not downloaded"),
        ({"upscaler": "R-ESRGAN 4x+"}, ModelNotDownloadedError, "realesrgan-x4plus is not downloaded"),
        ({"upscaler": "sdxl-turbo"}, InvalidInputError, "no upscaler"),
        ({"upscaler": "PTH"}, InvalidModelFilesError, "never opened"),
        ({"hires": 4, "width": 1056, "height": 64}, InvalidInputError, "4224x256 is too large; 4096 pixels"),
        ({"upscale": 8, "width": 2048, "height": 2048}, InvalidInputError, "megapixels"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(provider, tmp_path, changes, error, match):
    pth = tmp_path / "x.pth"
    pth.write_bytes(b"PK\x03\x04")
    changes = {k: str(pth) if v == "PTH" else v for k, v in changes.items()}
    with pytest.raises(error, match=match):
        provider.plan("a cat", QUICK.replace(**{"upscale": 2.0, **changes}))


def test_the_memory_of_the_largest_moment_is_planned(provider, twice):
    plain, large = provider.plan("a cat", QUICK), provider.plan("a cat", QUICK.replace(hires=4))
    assert large.memory_plan_bytes.denoising_bytes == 16 * plain.memory_plan_bytes.denoising_bytes
    upscaled = provider.plan("a cat", QUICK.replace(upscale=8, upscaler=twice))
    assert upscaled.memory_bytes > plain.memory_bytes
    small = MLXImageProvider(registry=provider.registry, memory_limit_bytes=10**8)
    with pytest.raises(InsufficientMemoryError):
        small.plan_upscale([GeneratedImage.from_pixels(files.picture(600, 600))], 8, upscaler=twice)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"hires_strength": 0.4}, "hires_strength without hires"),
        ({"hires_steps": 4}, "hires_steps without hires"),
        ({"hires": 0.5}, "hires must be between 1 and 4"),
        ({"hires": float("nan")}, "hires must be"),
        ({"upscale": 9}, "upscale must be between 1 and 8"),
        ({"upscale": "2"}, "upscale must be a number"),
        ({"hires": 2, "image": b"x", "mask": b"x"}, "hires pass"),
    ],
)
def test_settings_outside_their_limits(settings, match):
    with pytest.raises(InvalidInputError, match=match):
        ImageGenerationConfig(**settings)


def test_a_picture_is_enlarged_by_lanczos_without_a_notebook():
    picture = GeneratedImage.from_pil(
        Image.new("RGB", (30, 20)), recipe=Recipe("a fox", seed=1, width=30, height=20)
    )
    large = picture.upscale(2)
    assert (large.width, large.height, large.recipe.upscale) == (60, 40, 2.0)
    assert (large.recipe.width, large.recipe.upscaler) == (30, "lanczos")
    with pytest.raises(InvalidInputError, match="notebook"):
        picture.upscale(2, upscaler="realesrgan-x4plus")
    for factor in (0.5, 9, "2", None, float("nan")):
        with pytest.raises(InvalidInputError, match="upscale must be"):
            picture.upscale(factor)
