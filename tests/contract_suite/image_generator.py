"""The contract of `ImageGenerator`, for any provider.

Inherit from `ImageGeneratorContract` in a test module and override the fixture `generator`. `small`
is a config whose picture is quick; `long` one that runs long enough to be cancelled in the middle.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import threading

import pytest
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    AIError,
    GenerationCancelledError,
    InvalidInputError,
    UnsupportedModelError,
)
from swiftai_nb.core.generator import ImageGenerator, PlanningGenerator
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.jobs.job import JobState
from swiftai_nb.jobs.queue import JobQueue

TIMEOUT_S = 240


class ImageGeneratorContract:
    small = ImageGenerationConfig(steps=2, seed=7)
    long = ImageGenerationConfig(steps=1000, seed=7)
    is_deterministic = True
    has_steps = True

    @pytest.fixture
    def generator(self):
        raise NotImplementedError

    def run(self, coroutine):
        async def limited():
            return await asyncio.wait_for(coroutine, TIMEOUT_S)

        return asyncio.run(limited())

    def test_it_is_an_image_generator(self, generator):
        assert isinstance(generator, ImageGenerator)
        assert generator.is_available is True
        assert inspect.iscoroutinefunction(generator.generate_image)
        assert inspect.iscoroutinefunction(generator.cancel_generation)

    def test_it_makes_a_png_with_its_recipe(self, generator, tmp_path):
        image = self.run(generator.generate_image("a red apple", config=self.small))
        assert isinstance(image, GeneratedImage)
        assert image.data.startswith(b"\x89PNG")
        assert image.pil.size == (image.width, image.height)
        assert image.recipe.prompt == "a red apple"
        assert image.recipe.engine
        assert Recipe.from_image(image.save(tmp_path / "a.png")) == image.recipe

    def test_every_seed_is_concrete(self, generator):
        config = self.small.replace(seed=None)
        assert isinstance(self.run(generator.generate_image("a cat", config=config)).seed, int)
        assert self.run(generator.generate_image("a cat", config=self.small)).seed == 7

    def test_the_same_seed_gives_the_same_bytes(self, generator):
        if not self.is_deterministic:
            pytest.skip("this provider does not promise it")
        first, second = (self.run(generator.generate_image("a cat", config=self.small)) for _ in range(2))
        other = self.run(generator.generate_image("a cat", config=self.small.replace(seed=8)))
        assert first.data == second.data
        assert first.data != other.data

    def test_a_plan_serves_several_pictures(self, generator):
        if not isinstance(generator, PlanningGenerator):
            pytest.skip("this provider makes no plans")
        plan = generator.plan(GenerationRequest.of("a cat", self.small, count=2))
        assert isinstance(plan, GenerationPlan)
        images = [self.run(generator.generate(plan, index=index)) for index in range(2)]
        assert [image.seed for image in images] == list(plan.request.seeds) == [7, 8]
        if self.is_deterministic:
            alone = self.run(generator.generate_image("a cat", config=self.small.replace(seed=8)))
            assert images[1].data == alone.data

    def test_progress_grows_and_a_failing_callback_is_not_required(self, generator):
        seen = []
        self.run(generator.generate_image("a cat", config=self.small, on_progress=seen.append))
        assert all(isinstance(progress, ImageGenerationProgress) for progress in seen)
        steps = [progress.current_step for progress in seen]
        assert steps == sorted(steps)
        if self.has_steps:
            assert (steps[-1], seen[-1].total_steps) == (2, 2)
            assert any(progress.preview for progress in seen)

    @pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
    def test_an_empty_prompt_is_refused(self, generator, prompt):
        with pytest.raises(InvalidInputError, match="prompt"):
            self.run(generator.generate_image(prompt, config=self.small))

    def test_any_text_is_a_prompt(self, generator):
        prompt = "quotes \" ' {braces} | \\ \x00 😺 اُردُو 中文\n# heading"
        image = self.run(generator.generate_image(prompt, config=self.small, negative_prompt="low"))
        assert image.recipe.prompt == prompt
        assert image.recipe.negative_prompt == "low"

    @pytest.mark.parametrize("given", ["image", "references"])
    def test_pictures_are_used_or_refused_before_any_work(self, generator, given):
        picture = _png()
        config = self.small.replace(**{given: picture if given == "image" else (picture,)})
        seen = []
        try:
            image = self.run(generator.generate_image("a cat", config=config, on_progress=seen.append))
        except (InvalidInputError, UnsupportedModelError) as error:
            assert error.hint, "the hint names what takes pictures"
            assert not [progress for progress in seen if progress.current_step]
        else:
            recipe = image.recipe
            assert recipe.image_sha256 if given == "image" else recipe.references_sha256

    def test_cancel_generation_ends_the_running_call(self, generator):
        async def use():
            started = asyncio.Event()
            task = asyncio.create_task(generator.generate_image("a cat", config=self.long, **_tell(started)))
            await started.wait()
            await generator.cancel_generation()
            with pytest.raises(GenerationCancelledError):
                await task

        self.run(use())
        assert self.run(generator.generate_image("a cat", config=self.small)).width > 0

    def test_cancelling_the_task_raises_cancelled_error_and_leaves_other_calls_alone(self, generator):
        async def use():
            started = asyncio.Event()
            task = asyncio.create_task(generator.generate_image("a cat", config=self.long, **_tell(started)))
            await started.wait()
            other = asyncio.create_task(generator.generate_image("a dog", config=self.small))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await other

        assert self.run(use()).prompt == "a dog"

    def test_cancel_without_a_running_call_does_nothing(self, generator):
        self.run(generator.cancel_generation())
        assert self.run(generator.generate_image("a cat", config=self.small)).width > 0

    def test_it_works_from_several_loops_at_once(self, generator):
        images, errors = [], []

        def work(seed):
            try:
                config = self.small.replace(seed=seed)
                images.append(self.run(generator.generate_image("a cat", config=config)))
            except AIError as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert not errors
        assert {image.seed for image in images} == {0, 1, 2}

    def test_a_job_of_it_can_be_cancelled(self, generator):
        queue, started = JobQueue(), threading.Event()
        job = queue.submit(GenerationRequest("a cat", None, self.long, (1, 2)), generator)
        job.subscribe(lambda j: started.set() if j.progress is not None else None)
        assert started.wait(TIMEOUT_S)
        job.cancel()
        assert job.wait(TIMEOUT_S)
        assert job.state is JobState.CANCELLED
        queue.close()


def _tell(started):
    loop = asyncio.get_running_loop()

    def on_progress(progress):
        if progress.current_step > 0 or progress.total_steps == 0:
            loop.call_soon_threadsafe(started.set)

    return {"on_progress": on_progress}


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), "red").save(file, "PNG")
    return file.getvalue()
