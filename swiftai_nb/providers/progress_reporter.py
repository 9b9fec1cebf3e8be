"""From the engine's events to the progress a user sees."""

from __future__ import annotations

import time

from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.engine.protocol import Message, Stage, Step
from swiftai_nb.providers.planning import GenerationPlan


class ProgressReporter:
    """FairSlots the engine's events into progress; to be called with each.

    Args:
        on_progress: the user's callback, or None.
        plan: of the picture; its estimate serves until steps are measured.

    Attributes:
        load_s: seconds until the model was loaded; None when it was loaded already.
    """

    def __init__(self, on_progress: ProgressCallback | None, plan: GenerationPlan) -> None:
        self._on_progress, self._plan = on_progress, plan
        self._started_s = time.monotonic()
        self._stage_s = self._started_s
        self._step, self._total = 0, plan.steps
        self.load_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the picture was asked for."""
        return time.monotonic() - self._started_s

    def __call__(self, event: Message) -> None:
        """Takes an event of the engine."""
        if isinstance(event, Stage):
            stage = GenerationStage(event.stage)
            if stage is GenerationStage.ENCODING_PROMPT and self.load_s is not None:
                self.load_s = self.elapsed_s
            self.enter(stage, event.detail)
        elif isinstance(event, Step):
            self._step, self._total = event.index + 1, event.total
            self._tell(GenerationStage.DENOISING, preview=event.preview)

    def enter(self, stage: GenerationStage, detail: str = "") -> None:
        """Tells that a stage begins."""
        if stage is GenerationStage.LOADING_MODEL:
            self.load_s = 0.0
        self._stage_s = time.monotonic()
        self._tell(stage, detail=detail)

    def _tell(self, stage: GenerationStage, *, detail: str = "", preview: bytes | None = None) -> None:
        if self._on_progress is None:
            return
        self._on_progress(
            ImageGenerationProgress(
                self._step,
                self._total,
                self.elapsed_s,
                estimated_time_remaining=self._remaining_s(),
                stage=stage,
                detail=detail,
                preview=preview,
            )
        )

    def _remaining_s(self) -> float | None:
        if self._step == 0:
            estimate_s = self._plan.estimated_s
            return None if estimate_s is None else max(0.0, estimate_s - self.elapsed_s)
        per_step_s = (time.monotonic() - self._stage_s) / self._step
        return max(0.0, per_step_s * (self._total - self._step))
