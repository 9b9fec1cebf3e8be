"""The run of one Generate command: its clock, progress events, previews and cancel checks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.format import encode_jpeg
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.engine.child.serve import Report
from swiftai_nb.engine.messages import Done, Message, Stage, Step

Pixels = npt.NDArray[np.uint8]

_PREVIEW_SIDE = 256
_PREVIEW_INTERVAL_S = 1 / 8
_PREVIEW_QUALITY = 80


class GenerationRun:
    """Reports a host's progress on a command that makes a picture; for any model family and library.

    Args:
        command: the command.
        report: sends an event to the kernel.
        token: set when the kernel cancels the command.
    """

    def __init__(self, command: Message, report: Report, token: CancellationToken) -> None:
        self._command, self._report, self._token = command, report, token
        self._started_s = time.monotonic()
        self._load_s = 0.0
        self._denoising_started_s: float | None = None
        self._denoising_s = 0.0
        self._steps = self._total_steps = 0
        self._earlier_steps = self._later_steps = 0
        self._previews = PreviewThrottle()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._started_s

    def model_loaded(self) -> None:
        """Records the time that loading took."""
        self._load_s = self.elapsed_s

    def expect_pass(self, steps: int) -> None:
        """Counts a further pass of about so many steps, which follows this one."""
        self._later_steps = steps

    def next_pass(self) -> None:
        """The steps that follow are those of the pass expected."""
        self._earlier_steps, self._later_steps = self._steps, 0

    def enter_stage(self, stage: GenerationStage, *, total_steps: int = 0, detail: str = "") -> None:
        """Reports a stage.

        Args:
            stage: the one that begins.
            total_steps: of denoising, where that is known before the first step.
            detail: more about it.

        Raises:
            GenerationCancelledError: the kernel has cancelled.
        """
        self.raise_if_cancelled()
        if stage is GenerationStage.DENOISING:
            self._denoising_started_s = self.elapsed_s
            self._total_steps = max(total_steps, self._total_steps)
        elif self._denoising_started_s is not None:
            self._denoising_s += self.elapsed_s - self._denoising_started_s
            self._denoising_started_s = None
        self._report(Stage(self._command.job_id, stage.value, detail))

    def step_done(self, index: int, total: int, preview: Callable[[], Pixels] | None = None) -> None:
        """Reports a computed step.

        Args:
            index: 0-based.
            total: steps of this run.
            preview: makes the predicted image, [H, W, 3], uint8; called only when a preview is due.

        Raises:
            GenerationCancelledError: the kernel has cancelled.
        """
        index, total = self._earlier_steps + index, self._earlier_steps + total + self._later_steps
        self._steps, self._total_steps = index + 1, total
        is_due = preview is not None and self._previews.is_due(index, total)
        jpeg = encode_preview(preview()) if preview is not None and is_due else None
        self._report(Step(self._command.job_id, index, total, self.elapsed_s, jpeg))
        self.raise_if_cancelled()

    def raise_if_cancelled(self) -> None:
        """Raises GenerationCancelledError, with the step reached, when the kernel has cancelled."""
        if self._token.is_cancelled:
            at = f" at step {self._steps} of {self._total_steps}" if self._total_steps else ""
            raise GenerationCancelledError(
                f"Cancelled{at}", completed_steps=self._steps, total_steps=self._total_steps
            )

    def done(
        self,
        pixels: Pixels,
        *,
        scheduler: str,
        dtype: str,
        peak_memory_bytes: int,
        notes: tuple[str, ...] = (),
    ) -> Done:
        """The answer to the command, with the times measured.

        Args:
            pixels: the image, [H, W, 3], uint8.
            scheduler: the sampler used.
            dtype: of the network's computations.
            peak_memory_bytes: peak memory of the arrays during the run.
            notes: shown to the user.
        """
        height, width, _ = pixels.shape
        return Done(
            self._command.job_id,
            pixels=np.ascontiguousarray(pixels).tobytes(),
            width=width,
            height=height,
            scheduler=scheduler,
            dtype=dtype,
            notes=notes,
            load_s=self._load_s,
            denoising_s=self._denoising_s,
            total_s=self.elapsed_s,
            steps=self._steps,
            peak_memory_bytes=peak_memory_bytes,
        )


class PreviewThrottle:
    """Limits previews to eight a second; the first and the last step always have one."""

    def __init__(self) -> None:
        self._last_s: float | None = None

    def is_due(self, index: int, total: int) -> bool:
        """Whether step `index` of `total` should carry one; counts it as sent when it should."""
        now_s = time.monotonic()
        is_early = self._last_s is not None and now_s - self._last_s < _PREVIEW_INTERVAL_S
        if is_early and index != total - 1:
            return False
        self._last_s = now_s
        return True


def encode_preview(pixels: Pixels) -> bytes:
    """Pixels [H, W, 3], uint8 -> JPEG whose longest side is 256 pixels."""
    return encode_jpeg(pixels, max_side=_PREVIEW_SIDE, enlarge=True, quality=_PREVIEW_QUALITY)
