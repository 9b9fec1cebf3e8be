"""What every sampler is: a frozen plan of one run, made from a config and a number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray


@dataclass(frozen=True)
class SchedulerStep:
    """One step's result.

    Attributes:
        latents: [B, h, w, C], float32: the sample at the next noise level.
        denoised: [B, h, w, C], float32: the predicted x0.
        history: what the next step needs of this one; opaque to the caller.
    """

    latents: mx.array
    denoised: mx.array
    history: Any = None


class Scheduler(Protocol):
    """A sampler planned for one run; `index` counts its network calls from 0.

    Attributes:
        timesteps: [N]: the timestep the network is given at each call.
        init_noise_sigma: what unit-normal start noise is multiplied by.
        needs_noise: whether `step` draws fresh noise (at every index but those it ignores it in).
    """

    @property
    def timesteps(self) -> FloatArray:
        """See above."""
        ...

    @property
    def init_noise_sigma(self) -> float:
        """See above."""
        ...

    @property
    def needs_noise(self) -> bool:
        """See above."""
        ...

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """The sample as the network wants it at this noise level."""
        ...

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: Any = None,
    ) -> SchedulerStep:
        """Goes from the noise level of `index` to the next.

        Args:
            model_output: [B, h, w, C], float32, after guidance.
            latents: [B, h, w, C], float32.
            index: of the network call.
            noise: unit-normal, same shape; needed where `needs_noise`.
            history: what the previous step returned; None at the first.
        """
        ...

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """Clean latents brought to the noise level of `index`; `index` N gives the end of the run."""
        ...
