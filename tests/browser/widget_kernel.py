"""Runs inside the kernel of a test notebook: a generator whose previews sharpen step by step."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from typing import Any

from PIL import Image, ImageFilter

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InsufficientMemoryError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.notebook.session import Session, get_session
from swiftai_nb.testing import FakeGenerator


class SharpeningGenerator(FakeGenerator):
    """`FakeGenerator` with the stages of a real engine and a different preview at every step."""

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        if "too large" in prompt:
            raise InsufficientMemoryError(
                "needs about 9.1 GB, 4.2 GB are free", hint="choose a smaller model"
            )
        config = ImageGenerationConfig() if config is None else config
        steps = config.resolved_steps(self.default_steps)
        still = await FakeGenerator(default_steps=steps).generate_image(
            prompt, negative_prompt=negative_prompt, config=config
        )
        started = time.monotonic()

        def report(step: int, stage: GenerationStage, detail: str = "", preview: bytes | None = None) -> None:
            if on_progress is not None:
                elapsed_s = time.monotonic() - started
                on_progress(
                    ImageGenerationProgress(
                        step, steps, elapsed_s, stage=stage, detail=detail, preview=preview
                    )
                )

        report(0, GenerationStage.LOADING_MODEL, "2.1 of 6.9 GB")
        await asyncio.sleep(self.step_duration_s)  # sleep: how long a step takes
        picture = still.pil
        for step in range(1, steps + 1):
            await asyncio.sleep(self.step_duration_s)  # sleep: how long a step takes
            report(step, GenerationStage.DENOISING, preview=_jpeg(picture, radius=12 * (1 - step / steps)))
        recipe = dataclasses.replace(still.recipe, model="emoji-mini") if still.recipe else None
        return GeneratedImage.from_pil(picture, recipe=recipe, elapsed_s=time.monotonic() - started)


def _jpeg(picture: Image.Image, *, radius: float) -> bytes:
    buffer = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(radius)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def prepare(*, step_duration_s: float = 0.25, default_steps: int = 8) -> Session:
    """The kernel's session, with this generator in the place of the local engine."""
    session = get_session()
    generator = SharpeningGenerator(step_duration_s=step_duration_s, default_steps=default_steps)
    session.add_generator("mlx", generator)
    return session


def prepare_hub(folder: str) -> Any:
    """A Hub in this kernel with one slow model, "tiny"; returns it."""
    from swiftai_nb.downloads.downloader import DiffusionModelDownloader, DownloadOptions
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.registry.registry import DiffusionModelRegistry
    from tests.downloads.fake_hub import FakeHub, tiny_repository

    hub = FakeHub({"org/tiny": tiny_repository()})
    hub.__enter__()
    hub.faults.throttle_bps = 60_000.0
    session = get_session()
    session.registry = DiffusionModelRegistry(home=f"{folder}/home", cache_dir=f"{folder}/cache")
    session.registry.add_repository("org/tiny", variant=DiffusionVariant.SD_15, id="tiny")
    options = DownloadOptions(timeout_s=10.0, max_attempts=3, backoff_s=0.05, connections=2)
    session.downloader = DiffusionModelDownloader(
        registry=session.registry, endpoint=hub.url, options=options
    )
    return hub
