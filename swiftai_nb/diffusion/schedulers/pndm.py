"""PNDM (Liu et al. 2022): linear multistep on epsilon, started by Runge-Kutta or, shorter, by PLMS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions, split_prediction
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep

_RUNGE_KUTTA_CALLS = 4


@dataclass(frozen=True)
class PNDMHistory:
    """What a run carries from call to call.

    Attributes:
        calls: how many were made.
        outputs: the last four model outputs, newest last.
        sample: the sample a started group of calls goes back to, or None.
        weighted_sum: of the model outputs within a Runge-Kutta group, or None.
    """

    calls: int = 0
    outputs: tuple[mx.array, ...] = ()
    sample: mx.array | None = None
    weighted_sum: mx.array | None = None


@dataclass(frozen=True)
class PNDMScheduler:
    """The sampler of Stable Diffusion 1.x. With PLMS, n steps make n + 1 network calls.

    Attributes:
        timesteps: [N], one entry per network call.
        runge_kutta_calls: how many of them are Runge-Kutta's (0 with skip_prk_steps).
        alphas_cumprod: [T].
        final_alpha: alphas_cumprod "before" timestep 0.
        stride: T // steps.
        prediction_type: "epsilon" or "v_prediction".
    """

    timesteps: FloatArray
    runge_kutta_calls: int
    alphas_cumprod: FloatArray
    final_alpha: float
    stride: int
    prediction_type: str
    init_noise_sigma: float = 1.0
    needs_noise: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> PNDMScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`.

        Raises:
            UnsupportedModelError: a prediction type the method does not define.
        """
        options = ScheduleOptions.from_config(config, set_alpha_to_one=False)
        if options.prediction_type not in ("epsilon", "v_prediction"):
            raise UnsupportedModelError(f"PNDM cannot sample prediction_type {options.prediction_type!r}")
        alphas_cumprod = options.make_alphas_cumprod()
        rising = np.round(options.make_timesteps(steps))[::-1]
        stride = options.num_train_timesteps // steps
        # Runge-Kutta needs four steps to start from.
        if options.skip_prk_steps or steps < _RUNGE_KUTTA_CALLS:
            start = np.empty(0)
            rest = np.concatenate([rising[:-1], rising[-2:-1], rising[-1:]])[::-1]
        else:
            start = _runge_kutta_timesteps(rising, stride)
            rest = rising[:-3][::-1]
        return cls(
            timesteps=np.concatenate([start, rest]),
            runge_kutta_calls=len(start),
            alphas_cumprod=alphas_cumprod,
            final_alpha=1.0 if options.set_alpha_to_one else float(alphas_cumprod[0]),
            stride=stride,
            prediction_type=options.prediction_type,
        )

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """The latents unchanged."""
        return latents

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: PNDMHistory | None = None,
    ) -> SchedulerStep:
        """One network call's worth: a Runge-Kutta stage or a multistep update."""
        past = PNDMHistory() if history is None else history
        timestep = int(self.timesteps[index])
        alpha = self._alpha(timestep)
        denoised, _ = split_prediction(
            self.prediction_type, model_output, latents, alpha=math.sqrt(alpha), sigma=math.sqrt(1 - alpha)
        )
        move = self._runge_kutta if past.calls < self.runge_kutta_calls else self._multistep
        moved, after = move(model_output, latents, timestep, past)
        return SchedulerStep(moved, denoised, after)

    def _runge_kutta(
        self, output: mx.array, latents: mx.array, timestep: int, past: PNDMHistory
    ) -> tuple[mx.array, PNDMHistory]:
        stage = past.calls % _RUNGE_KUTTA_CALLS
        target = timestep - (0 if past.calls % 2 else self.stride // 2)
        group_start = int(self.timesteps[past.calls - stage])
        weight = 1 / 6 if stage in (0, 3) else 1 / 3
        total = weight * output if past.weighted_sum is None else past.weighted_sum + weight * output
        sample = latents if stage == 0 or past.sample is None else past.sample
        used = total if stage == 3 else output
        after = PNDMHistory(
            past.calls + 1,
            (*past.outputs, output) if stage == 0 else past.outputs,
            sample,
            None if stage == 3 else total,
        )
        return self._transfer(sample, group_start, target, used), after

    def _multistep(
        self, output: mx.array, latents: mx.array, timestep: int, past: PNDMHistory
    ) -> tuple[mx.array, PNDMHistory]:
        target, outputs, sample = timestep - self.stride, past.outputs, latents
        # PLMS improves its first step by a second call at the step's end.
        is_second = past.calls == 1 and self.runge_kutta_calls == 0
        if is_second:
            timestep, target = timestep + self.stride, timestep
            sample = latents if past.sample is None else past.sample
            used = (output + outputs[-1]) / 2
        else:
            outputs = (*outputs[-3:], output)
            used = _adams_bashforth(outputs)
        after = PNDMHistory(past.calls + 1, outputs, latents if past.calls == 0 else None)
        return self._transfer(sample, timestep, target, used), after

    def _transfer(self, sample: mx.array, timestep: int, target: int, output: mx.array) -> mx.array:
        """Equation 9 of the paper."""
        alpha, alpha_prev = self._alpha(timestep), self._alpha(target)
        if self.prediction_type == "v_prediction":
            output = math.sqrt(alpha) * output + math.sqrt(1 - alpha) * sample
        denominator = alpha * math.sqrt(1 - alpha_prev) + math.sqrt(alpha * (1 - alpha) * alpha_prev)
        return math.sqrt(alpha_prev / alpha) * sample - ((alpha_prev - alpha) / denominator) * output

    def _alpha(self, timestep: int) -> float:
        if timestep < 0:
            return self.final_alpha
        return float(self.alphas_cumprod[min(timestep, len(self.alphas_cumprod) - 1)])

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """sqrt(a) x0 + sqrt(1 - a) noise; at the end x0 itself."""
        if index >= len(self.timesteps):
            return latents
        alpha = self._alpha(int(self.timesteps[index]))
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise


def _runge_kutta_timesteps(rising: FloatArray, stride: int) -> FloatArray:
    """Three groups of four calls: at a step, twice at its middle, at its end."""
    last = rising[-_RUNGE_KUTTA_CALLS:]
    pairs = last.repeat(2) + np.tile(np.array([0, stride // 2]), len(last))
    return np.asarray(pairs[:-1].repeat(2)[1:-1][::-1], dtype=np.float64)


def _adams_bashforth(outputs: tuple[mx.array, ...]) -> mx.array:
    """The multistep combination of up to four model outputs, newest last."""
    weights = {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[len(outputs)]
    terms = [w * o for w, o in zip(weights, reversed(outputs), strict=True)]
    return sum(terms[1:], start=terms[0])
