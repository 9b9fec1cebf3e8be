"""What a running cell shows at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.progress import GenerationStage

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob


@dataclass(frozen=True)
class Snapshot:
    """One moment of a job or a grid.

    Args:
        stage: what is being done, in words.
        step: steps done of the current picture.
        steps: steps in all; 0 when unknown.
        picture: which picture, from 1.
        pictures: how many.
        elapsed_s: seconds since it began.
        remaining_s: estimated seconds to the end of all, or None.
        detail: a few words more.
        fraction_of_this: of the current picture, 0 to 1, where that is not step / steps.
        is_cancelling: whether the stop was asked for.
        preview: the picture so far as JPEG, or None.
    """

    stage: str = ""
    step: int = 0
    steps: int = 0
    picture: int = 1
    pictures: int = 1
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    detail: str = ""
    fraction_of_this: float | None = None
    is_cancelling: bool = False
    preview: bytes | None = field(default=None, repr=False)

    @property
    def fraction(self) -> float:
        """Of the whole work, 0 to 1."""
        of_this = self.fraction_of_this
        if of_this is None:
            of_this = self.step / self.steps if self.steps > 0 else 0.0
        return min(1.0, (self.picture - 1 + of_this) / max(1, self.pictures))

    def status(self) -> dict[str, Any]:
        """All but the preview, JSON-ready, as the page knows it."""
        return {
            "stage": self.stage,
            "step": self.step,
            "steps": self.steps,
            "picture": self.picture,
            "pictures": self.pictures,
            "fraction": round(self.fraction, 4),
            "elapsed_s": round(self.elapsed_s, 2),
            "remaining_s": None if self.remaining_s is None else round(self.remaining_s, 2),
            "detail": self.detail,
            "cancelling": self.is_cancelling,
        }

    def line(self) -> str:
        """In one line: "drawing, step 4 of 20, 3.2 s, ~12s remaining"."""
        parts = [self.stage]
        if self.detail:
            parts.append(self.detail)
        if self.pictures > 1:
            parts.append(f"picture {self.picture} of {self.pictures}")
        if self.steps:
            parts.append(f"step {self.step} of {self.steps}")
        parts.append(f"{self.elapsed_s:.1f} s")
        if self.remaining_s is not None and self.remaining_s >= 1:
            parts.append(f"~{duration(self.remaining_s)} remaining")
        return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Seconds in words: "8s", "2m 5s", "1h 3m"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    return f"{whole // 3600}h {whole % 3600 // 60}m"


def of_job(job: GenerationJob) -> Snapshot:
    """What to show of a job now."""
    progress, pictures = job.progress, len(job.request.seeds)
    stage, detail, step, steps, remaining_s = GenerationStage.STARTING_ENGINE, "", 0, 0, None
    if job.state.value == "queued":
        stage, ahead = GenerationStage.QUEUED, job.queue_position or 0
        detail = f"{ahead} before this one" if ahead else ""
    elif progress is not None:
        stage, detail = progress.stage, progress.detail
        step, steps = progress.current_step, progress.total_steps
        remaining_s = progress.estimated_time_remaining
        if remaining_s is not None:
            still = pictures - job.image_index - 1
            remaining_s += still * (progress.elapsed_time + remaining_s)
    return Snapshot(
        stage=str(stage),
        step=step,
        steps=steps,
        picture=job.image_index + 1,
        pictures=pictures,
        elapsed_s=job.elapsed_s,
        remaining_s=remaining_s,
        detail=detail,
        is_cancelling=job.token.is_cancelled,
        preview=job.last_preview,
    )
