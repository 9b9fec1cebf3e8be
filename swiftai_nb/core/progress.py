"""Progress of a picture: stage, step, times, preview."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class GenerationStage(str, Enum):
    """What a job is doing; cloud jobs have stages without steps."""

    QUEUED = "queued"
    STARTING_ENGINE = "starting engine"
    LOADING_MODEL = "loading model"
    ENCODING_PROMPT = "reading the prompt"
    DENOISING = "drawing"
    DECODING = "finishing the picture"
    UPSCALING = "enlarging the picture"
    LOOKING_UP_PROVIDER = "looking up a provider"
    WAITING = "waiting for the provider"
    RECEIVING = "receiving the picture"
    DONE = "done"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ImageGenerationProgress:
    """Progress of one picture.

    Args:
        current_step: completed denoising steps, 0..total_steps.
        total_steps: denoising steps in all; 0 when the provider does not report any.
        elapsed_time: seconds since the job began.
        estimated_time_remaining: seconds; None estimates it from the completed steps.
        stage: the current stage.
        detail: more about the stage, such as "2.1 of 6.9 GB"; may be empty.
        preview: the current prediction of the picture (x0) as JPEG bytes, or None.
    """

    current_step: int
    total_steps: int
    elapsed_time: float
    estimated_time_remaining: float | None = None
    stage: GenerationStage = GenerationStage.DENOISING
    detail: str = ""
    preview: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.estimated_time_remaining is None and self.current_step > 0:
            per_step_s = self.elapsed_time / self.current_step
            remaining_s = per_step_s * (self.total_steps - self.current_step)
            object.__setattr__(self, "estimated_time_remaining", remaining_s)

    @property
    def fraction_complete(self) -> float:
        """0.0 to 1.0; 0.0 when the number of steps is unknown."""
        return self.current_step / self.total_steps if self.total_steps > 0 else 0.0

    @property
    def percent_complete(self) -> int:
        """0 to 100, rounded down."""
        return int(self.fraction_complete * 100)

    @property
    def formatted_eta(self) -> str:
        """As text: "~5s remaining", "~2m 5s remaining", or "Calculating..." while it is unknown."""
        eta = self.estimated_time_remaining
        if eta is None or not eta > 0:
            return "Calculating..."
        if eta < 60:
            return f"~{int(eta)}s remaining"
        return f"~{int(eta / 60)}m {int(eta % 60)}s remaining"
