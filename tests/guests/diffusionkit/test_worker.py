"""The worker under another interpreter, around a stand-in for DiffusionKit: start, steps, cancel, death."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import EngineDiedError, GenerationCancelledError, ProviderUnavailableError
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.engine.messages import AskStatus, Generate, ModelFiles, Stage
from swiftai_nb.guests.diffusionkit import DiffusionKitImageProvider
from swiftai_nb.guests.diffusionkit.environment import PYTHON_VARIABLE, diffusionkit_client
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.guests.diffusionkit.stand_in import write_environment
from tests.guests.diffusionkit.test_plan import write_layout

pytest.importorskip("mlx.core")
LIMIT_S = 200


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return write_environment(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="module")
def shared(python, tmp_path_factory):
    made = DiffusionKitImageProvider(DiffusionModelRegistry(home=tmp_path_factory.mktemp("home")))
    yield made
    made.close()


@pytest.fixture
def provider(shared, python, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    return shared


def config(model, **settings):
    base = ImageGenerationConfig(model=str(model), width=48, height=32, steps=3, seed=7)
    return base.replace(**settings)


def draw(provider, config, prompt="a cat", **options):
    return asyncio.run(asyncio.wait_for(provider.generate_image(prompt, config=config, **options), LIMIT_S))


def test_a_picture_with_its_steps_previews_and_recipe(provider, model):
    seen = []
    image = draw(provider, config(model), on_progress=seen.append)
    assert image.pil.size == (48, 32)
    steps = [p for p in seen if p.stage is GenerationStage.DENOISING and p.current_step > 0]
    assert [(p.current_step, p.total_steps) for p in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].preview.startswith(b"\xff\xd8")
    assert steps[-1].preview.startswith(b"\xff\xd8")
    assert image.recipe.versions["diffusionkit"] == "0.5.2"
    assert draw(provider, config(model)).data == image.data
    assert draw(provider, config(model, seed=8)).data != image.data


def test_cancel_in_mid_loop_repairs_and_keeps_the_worker(provider, model):
    expected = draw(provider, config(model))
    pid = provider.engine_pid

    async def use():
        started, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell(progress):
            if progress.current_step >= 2:
                loop.call_soon_threadsafe(started.set)

        task = asyncio.create_task(
            provider.generate_image("a cat", config=config(model, steps=1000), on_progress=tell)
        )
        await asyncio.wait_for(started.wait(), LIMIT_S)
        await provider.cancel_generation()
        with pytest.raises(GenerationCancelledError) as caught:
            await task
        return caught.value

    error = asyncio.run(use())
    assert 2 <= error.completed_steps < 1000
    assert error.total_steps == 1000
    assert provider.engine_pid == pid
    assert draw(provider, config(model)).data == expected.data


def test_a_killed_worker_costs_one_picture(provider, model):
    expected = draw(provider, config(model))

    def kill(progress):
        if progress.current_step == 1:
            os.kill(provider.engine_pid, signal.SIGKILL)

    with pytest.raises(EngineDiedError, match="the DiffusionKit worker was ended by SIGKILL") as caught:
        draw(provider, config(model, steps=1000), on_progress=kill)
    assert caught.value.is_retryable
    assert "fresh worker" in caught.value.hint
    assert draw(provider, config(model)).data == expected.data


def test_a_worker_that_does_not_hear_is_ended_and_the_next_one_serves(python, model):
    """As while a text encoder computes."""
    client = diffusionkit_client(python, cancel_grace_s=0.5)
    command = Generate(model=ModelFiles(str(model)), prompt="hang", width=48, height=32, steps=2, seed=7)
    try:
        is_reading = threading.Event()

        def tell(event):
            if isinstance(event, Stage) and event.stage == GenerationStage.ENCODING_PROMPT.value:
                is_reading.set()

        call = client.submit(command, tell)
        assert is_reading.wait(LIMIT_S)
        deaf = client.pid
        call.cancel()
        with pytest.raises(GenerationCancelledError):
            call.result(LIMIT_S)
        status = client.submit(AskStatus()).result(LIMIT_S)
        assert status.folder == ""
        assert client.pid != deaf
    finally:
        client.close()


def test_another_environment_is_used_from_the_next_picture_on(provider, model, tmp_path, monkeypatch):
    draw(provider, config(model))
    pid = provider.engine_pid
    monkeypatch.setenv(PYTHON_VARIABLE, str(write_environment(tmp_path / "other")))
    draw(provider, config(model))
    assert provider.engine_pid != pid


def test_an_environment_that_only_trying_shows_broken_is_one_line(model, tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, str(write_environment(tmp_path, broken="no_such_module")))
    provider = DiffusionKitImageProvider(DiffusionModelRegistry(home=tmp_path / "home"))
    try:
        with pytest.raises(ProviderUnavailableError, match="no_such_module") as caught:
            draw(provider, config(model))
        assert "\n" not in caught.value.message
        assert "diffusionkit install" in caught.value.hint
    finally:
        provider.close()


def test_seeds_leave_the_users_generators_alone(provider, model):
    np.random.seed(3)
    expected = np.random.RandomState(3).rand(2)
    draw(provider, config(model))
    assert np.array_equal(np.random.rand(2), expected)
