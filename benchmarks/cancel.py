"""How long a cancel takes at every stage of a picture by a real-size model, as a user meets it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

from swiftai_nb import ImageGenerationConfig, ImageGenerationProgress, MLXImageProvider
from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.progress import GenerationStage

# Seconds into each stage. Weights are read where they are first needed: in reading and drawing, too.
DELAYS_S = {
    GenerationStage.LOADING_MODEL: (0.0, 0.02, 0.05),
    GenerationStage.ENCODING_PROMPT: (0.0, 0.2, 0.5),
    GenerationStage.DENOISING: (0.1, 1.3, 3.7, 6.1),
    GenerationStage.DECODING: (0.1, 1.1, 2.9, 5.3),
}
TILED_DELAYS_S = (0.2, 5.3)


def cancel_seconds(folder: Path, *, side: int, stage: GenerationStage, delay_s: float) -> float | None:
    """From the cancel to its answer; None when the stage was over before.

    Args:
        folder: a model in diffusers' layout.
        side: of the picture, in pixels.
        stage: in which to cancel.
        delay_s: after the stage began.
    """
    provider = MLXImageProvider()
    config = ImageGenerationConfig(model=str(folder), width=side, height=side, steps=1, seed=1)

    async def run() -> float | None:
        reached, loop = asyncio.Event(), asyncio.get_running_loop()

        def watch(progress: ImageGenerationProgress) -> None:
            if progress.stage == stage:
                loop.call_soon_threadsafe(reached.set)

        job = asyncio.ensure_future(
            provider.generate_image("a red fox in the snow", config=config, on_progress=watch)
        )
        await reached.wait()
        await asyncio.sleep(delay_s)
        start = time.perf_counter()
        await provider.cancel_generation()
        try:
            await job
        except GenerationCancelledError:
            return time.perf_counter() - start
        return None

    try:
        return asyncio.run(run())
    finally:
        provider.close()


def report(folder: Path) -> list[str]:
    """A Markdown table: the longest of a few tries for each stage."""
    lines = ["", "### From a cancel to its answer, Stable Diffusion 1.5", ""]
    lines += ["| stage | picture | tries | longest |", "|---|---|---|---|"]
    lines += [_row(folder, 512, stage, delays, "whole") for stage, delays in DELAYS_S.items()]
    # where pictures of this size are decoded in tiles
    with patch.dict(os.environ, {"SWIFTAI_MEMORY_GB": "8"}):
        lines.append(_row(folder, 768, GenerationStage.DECODING, TILED_DELAYS_S, "in tiles"))
    return lines


def _row(folder: Path, side: int, stage: GenerationStage, delays: tuple[float, ...], how: str) -> str:
    found = []
    for delay_s in delays:
        found.append(cancel_seconds(folder, side=side, stage=stage, delay_s=delay_s))
        print(f"  {stage} {side}x{side} {how} +{delay_s} s: {found[-1]}", file=sys.stderr, flush=True)
    heard = [seconds for seconds in found if seconds is not None]
    name = f"{stage}, {how}" if stage == GenerationStage.DECODING else str(stage)
    longest = f"{max(heard):.2f} s" if heard else "over before"
    return f"| {name} | {side}x{side} | {len(heard)} of {len(delays)} | {longest} |"
