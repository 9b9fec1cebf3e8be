"""The real DiffusionKit 0.5.2 on tiny random weights in its own key layouts, from a prompt to a picture.

Needs an environment with DiffusionKit, named by SWIFTAI_DIFFUSIONKIT_PYTHON (`make diffusionkit` makes one).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    EngineDiedError,
    GenerationCancelledError,
    InvalidModelFilesError,
    ProviderUnavailableError,
)
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.guests.diffusionkit import DiffusionKitImageProvider
from swiftai_nb.guests.diffusionkit.environment import (
    PYTHON_VARIABLE,
    diffusionkit_client,
    inspect_environment,
)
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.contract_suite.image_generator import ImageGeneratorContract

PYTHON = os.environ.get(PYTHON_VARIABLE, "")
pytestmark = [
    pytest.mark.diffusionkit,
    pytest.mark.skipif(
        not PYTHON, reason=f"{PYTHON_VARIABLE} names no environment with DiffusionKit: make diffusionkit"
    ),
    pytest.mark.timeout(900),
]
MODELS = ("sd3-medium", "sd3.5-large-4bit", "flux-schnell-4bit")
WRITER = Path(__file__).with_name("folders.py")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([PYTHON, str(WRITER), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    made = DiffusionKitImageProvider(DiffusionModelRegistry(home=tmp_path_factory.mktemp("home")))
    yield made
    made.close()


def small(models: Path, name: str = "flux-schnell-4bit", **settings) -> ImageGenerationConfig:
    base = ImageGenerationConfig(model=str(models / name), width=48, height=32, steps=2, seed=7)
    return base.replace(**settings)


def draw(provider, config, prompt="a cat", **options):
    return asyncio.run(asyncio.wait_for(provider.generate_image(prompt, config=config, **options), 600))


class TestDiffusionKitImageProvider(ImageGeneratorContract):
    @pytest.fixture(autouse=True)
    def _configs(self, models):
        self.small = small(models)
        self.long = small(models, steps=1000)

    @pytest.fixture
    def generator(self, provider):
        return provider


@pytest.mark.parametrize("name", MODELS)
def test_every_model_draws_with_stages_steps_and_previews(provider, models, name):
    seen = []
    config = small(models, name, steps=3, guidance_scale=4.0 if name.startswith("sd3") else None)
    image = draw(provider, config, negative_prompt="dogs", on_progress=seen.append)
    assert image.pil.size == (48, 32)
    assert np.asarray(image.pil).std() > 0
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    order = [GenerationStage.LOADING_MODEL, GenerationStage.ENCODING_PROMPT, GenerationStage.DENOISING,
             GenerationStage.DECODING]  # fmt: skip
    assert [stage for stage in stages if stage is not GenerationStage.STARTING_ENGINE] == order
    steps = [p for p in seen if p.stage is GenerationStage.DENOISING and p.current_step > 0]
    assert [(p.current_step, p.total_steps) for p in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].preview is not None
    assert steps[-1].preview is not None
    recipe = image.recipe
    assert (recipe.engine, recipe.seed, recipe.scheduler) == ("diffusionkit", 7, "flow-match-euler")
    assert recipe.versions["diffusionkit"] == "0.5.2"
    assert recipe.quantization_bits == (4 if "4bit" in name else None)


def pixels(provider, config, **options):
    return np.asarray(draw(provider, config, **options).pil)


def test_prompt_negative_prompt_guidance_and_seed_all_matter(provider, models):
    config = small(models, "sd3-medium", guidance_scale=4.0)
    first = pixels(provider, config)
    others = [
        pixels(provider, config, prompt="a dog"),
        pixels(provider, config, negative_prompt="dogs"),
        pixels(provider, config.replace(guidance_scale=6.0)),
        pixels(provider, config.replace(seed=8)),
    ]
    assert len({picture.tobytes() for picture in (first, *others)}) == 5
    unguided = config.replace(guidance_scale=0.0)
    assert np.array_equal(pixels(provider, unguided, negative_prompt="dogs"), pixels(provider, unguided))


def test_low_memory_mode_draws_the_same_picture_again_and_again(provider, models):
    """It drops every network on its way and reads them again for the next picture."""
    whole = draw(provider, small(models, "sd3-medium"))
    plan = provider.plan("a cat", small(models, "sd3-medium"))
    staged = DiffusionKitImageProvider(
        provider.registry, memory_limit_bytes=plan.memory_plan_bytes.peak_bytes - 1
    )
    try:
        assert staged.plan("a cat", small(models, "sd3-medium")).memory_plan_bytes.is_staged
        for _ in range(2):
            assert np.array_equal(
                np.asarray(draw(staged, small(models, "sd3-medium")).pil), np.asarray(whole.pil)
            )
    finally:
        staged.close()


@pytest.mark.parametrize("name", ["flux-schnell-4bit", "sd3-medium"])
def test_cancel_in_mid_loop_keeps_the_worker_and_the_next_picture_is_right(provider, models, name):
    expected = draw(provider, small(models, name))
    pid = provider.engine_pid

    async def cancelled():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell(progress):
            if progress.current_step >= 2:
                loop.call_soon_threadsafe(started.set)

        config = small(models, name, steps=200)
        task = asyncio.create_task(provider.generate_image("a cat", config=config, on_progress=tell))
        await asyncio.wait_for(started.wait(), 600)
        await provider.cancel_generation()
        with pytest.raises(GenerationCancelledError) as caught:
            await task
        return caught.value

    error = asyncio.run(cancelled())
    if provider.engine_pid == pid:  # it obeyed in time; else it was ended and a fresh one draws
        assert 2 <= error.completed_steps < 200
        assert error.total_steps == 200
    assert draw(provider, small(models, name)).data == expected.data


def test_killed_worker_costs_one_picture_and_says_so(provider, models):
    expected = draw(provider, small(models))

    def kill(progress):
        if progress.current_step == 1:
            os.kill(provider.engine_pid, signal.SIGKILL)

    with pytest.raises(EngineDiedError, match="DiffusionKit worker was ended by SIGKILL") as caught:
        draw(provider, small(models, steps=200), on_progress=kill)
    assert "fresh worker" in caught.value.hint
    assert draw(provider, small(models)).data == expected.data


def test_damaged_weights_are_one_line_and_the_next_picture_works(provider, models, tmp_path):
    broken = tmp_path / "flux"
    broken.mkdir()
    for path in (models / "flux-schnell-4bit").iterdir():
        (broken / path.name).symlink_to(path)
    (broken / "ae.safetensors").unlink()
    (broken / "ae.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(InvalidModelFilesError) as caught:
        draw(provider, small(models).replace(model=str(broken)))
    assert "\n" not in caught.value.message
    assert draw(provider, small(models)).width == 48


def test_users_generators_and_modules_are_left_alone(provider, models):
    np.random.seed(3)
    expected = np.random.RandomState(3).rand(2)
    draw(provider, small(models))
    assert np.array_equal(np.random.rand(2), expected)
    assert not {"diffusionkit", "transformers"} & set(sys.modules)


def test_worker_that_cannot_import_says_what(tmp_path, models):
    """Present and of the right version, yet broken: only trying tells."""
    facts = inspect_environment(Path(PYTHON))
    assert facts.versions["diffusionkit"] == "0.5.2"
    (tmp_path / "beartype.py").write_text("raise ImportError('beartype is damaged')", encoding="utf-8")
    # The engine calls: python -E -u -c CODE FOLDER MODULE.
    start = f"import sys; sys.path.insert(1, '{tmp_path}'); code = sys.argv.pop(1); exec(code)"
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nshift 3\nexec "{PYTHON}" -E -u -c "{start}" "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    from swiftai_nb.engine.messages import AskStatus

    client = diffusionkit_client(wrapper)
    try:
        with pytest.raises(ProviderUnavailableError, match="beartype") as caught:
            client.submit(AskStatus()).result(300)
        assert "install" in caught.value.hint
    finally:
        client.close()


def test_imagine_cell_draws_with_diffusionkit(models, tmp_path, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    from swiftai_nb.notebook.session import close_session

    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "swiftai_nb")
    try:
        line = (
            f"--engine diffusionkit --model {models / 'sd3-medium'} --size 48x32 --steps 2 --seed 7 --out fox"
        )
        shell.run_cell_magic("imagine", line, "a red fox")
        image = shell.user_ns["fox"]
        recipe = getattr(image, "only", image).recipe
        assert (recipe.engine, recipe.prompt, recipe.steps) == ("diffusionkit", "a red fox", 2)
    finally:
        shell.run_line_magic("unload_ext", "swiftai_nb")
        close_session()
        InteractiveShell.clear_instance()
