"""A generator without a model, for tests, documentation and authors of providers."""

from __future__ import annotations

import asyncio
import hashlib
import time

import numpy as np
import numpy.typing as npt

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError
from swiftai_nb.core.format import encode_jpeg
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe


class FakeGenerator:
    """A deterministic ImageGenerator: colors follow from prompt, seed and size.

    Args:
        step_duration_s: seconds that each step takes.
        default_steps: steps when the config names none.
        fail_at_step: raise `error` when this step (1-based) is reached.
        error: what to raise; an AIError.
    """

    def __init__(
        self,
        *,
        step_duration_s: float = 0.0,
        default_steps: int = 4,
        fail_at_step: int | None = None,
        error: AIError | None = None,
    ) -> None:
        self.step_duration_s = step_duration_s
        self.default_steps = default_steps
        self.fail_at_step = fail_at_step
        self.error = AIError("made to fail") if error is None else error
        self._generation = 0
        self._running = 0

    @property
    def is_available(self) -> bool:
        """Always True."""
        return True

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Makes a picture of colored squares; see `ImageGenerator.generate_image`."""
        if not prompt.strip():
            raise InvalidInputError(
                "the prompt is empty", hint="describe the picture, as in %imagine a red fox"
            )
        config = ImageGenerationConfig() if config is None else config
        recipe = self._recipe(prompt, negative_prompt, config)
        started, generation = time.monotonic(), self._generation
        pixels = _pixels(recipe)
        steps = recipe.steps or 0
        for step in range(steps):
            await asyncio.sleep(self.step_duration_s)
            if self._generation != generation:
                raise GenerationCancelledError(
                    f"Cancelled at step {step} of {steps}", completed_steps=step, total_steps=steps
                )
            if self.fail_at_step == step + 1:
                raise self.error
            if on_progress is not None:
                preview = encode_jpeg(pixels, quality=75)
                elapsed_s = time.monotonic() - started
                on_progress(
                    ImageGenerationProgress(
                        step + 1, steps, elapsed_s, stage=GenerationStage.DENOISING, preview=preview
                    )
                )
        return GeneratedImage.from_pixels(pixels, recipe=recipe, elapsed_s=time.monotonic() - started)

    async def cancel_generation(self) -> None:
        """Ends every running call at its next step."""
        self._generation += 1

    def _recipe(self, prompt: str, negative_prompt: str | None, config: ImageGenerationConfig) -> Recipe:
        return Recipe(
            prompt=prompt,
            negative_prompt=negative_prompt,
            model=config.model or "fake",
            width=64 if config.width is None else config.width,
            height=64 if config.height is None else config.height,
            steps=config.resolved_steps(self.default_steps),
            guidance_scale=1.0 if config.guidance_scale is None else config.guidance_scale,
            seed=0 if config.seed is None else config.seed,
            scheduler=config.scheduler,
            engine="fake",
            image_sha256=None if config.image is None else hashlib.sha256(config.image).hexdigest(),
            references_sha256=tuple(hashlib.sha256(one).hexdigest() for one in config.references),
        )


def _pixels(recipe: Recipe) -> npt.NDArray[np.uint8]:
    digest = hashlib.sha256(recipe.to_json().encode()).digest()
    colors = np.frombuffer(digest[:27], np.uint8).reshape(3, 3, 3)
    rows = np.arange(recipe.height or 64) * 3 // (recipe.height or 64)
    columns = np.arange(recipe.width or 64) * 3 // (recipe.width or 64)
    return np.ascontiguousarray(colors[rows][:, columns])
