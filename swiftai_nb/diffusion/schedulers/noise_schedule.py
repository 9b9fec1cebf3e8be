"""Noise schedules on the host (NumPy), with the papers' names, and the fields of `scheduler_config.json`.

betas, alphas_cumprod: Ho et al. 2020 (DDPM). sigmas: Karras et al. 2022 (EDM), sigma = sqrt((1-a)/a).
Zero terminal SNR: Lin et al. 2024. Flow shift: Esser et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError

FloatArray = NDArray[np.float64]

_UNSUPPORTED_SWITCHES = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


def make_betas(
    schedule: str, *, beta_start: float, beta_end: float, num_train_timesteps: int = 1000
) -> FloatArray:
    """Noise variances of the forward process, [T].

    Args:
        schedule: "linear", "scaled_linear" or "squaredcos_cap_v2".
        beta_start: first value.
        beta_end: last value.
        num_train_timesteps: T.

    Raises:
        UnsupportedModelError: another schedule.
    """
    if schedule == "linear":
        return np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float32).astype(np.float64)
    if schedule == "scaled_linear":
        roots = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=np.float32)
        return np.asarray(roots**2, dtype=np.float64)
    if schedule == "squaredcos_cap_v2":
        t = np.arange(num_train_timesteps + 1) / num_train_timesteps
        alpha_bar = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        capped = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
        return np.asarray(capped.astype(np.float32), dtype=np.float64)
    raise UnsupportedModelError(f"beta_schedule {schedule!r} is not supported")


def rescale_zero_terminal_snr(betas: FloatArray) -> FloatArray:
    """Shifts and scales sqrt(alphas_cumprod) so that the last step is pure noise, [T] -> [T]."""
    roots = np.sqrt(make_alphas_cumprod(betas).astype(np.float32))
    first, last = roots[0], roots[-1]
    bars = ((roots - last) * (first / (first - last))) ** 2
    return np.asarray(1 - np.concatenate([bars[:1], bars[1:] / bars[:-1]]), dtype=np.float64)


def make_alphas_cumprod(betas: FloatArray) -> FloatArray:
    """Products of 1 - beta, [T], rounded to float32: what the models were trained with."""
    alphas = (1 - betas).astype(np.float32).astype(np.float64)
    return np.cumprod(alphas).astype(np.float32).astype(np.float64)


def sigmas_from_alphas(alphas_cumprod: FloatArray) -> FloatArray:
    """Noise-to-signal ratios, [T], increasing."""
    return np.asarray(np.sqrt((1 - alphas_cumprod) / alphas_cumprod), dtype=np.float64)


def leading_timesteps(steps: int, *, num_train_timesteps: int = 1000, steps_offset: int = 0) -> FloatArray:
    """0, r, 2r, ... reversed, plus an offset; r = T // steps. [steps]."""
    ratio = num_train_timesteps // steps
    return np.arange(steps, dtype=np.float64)[::-1] * ratio + steps_offset


def trailing_timesteps(steps: int, *, num_train_timesteps: int = 1000) -> FloatArray:
    """T, T - r, ... minus one, rounded; r = T / steps. [steps]."""
    points = np.arange(num_train_timesteps, 0, -num_train_timesteps / steps)
    return np.asarray(np.round(points)[:steps] - 1, dtype=np.float64)


def linspace_timesteps(steps: int, *, num_train_timesteps: int = 1000) -> FloatArray:
    """Evenly from T - 1 to 0, not rounded. [steps]."""
    return np.linspace(num_train_timesteps - 1, 0, steps)


def karras_sigmas(sigma_min: float, sigma_max: float, steps: int, *, rho: float = 7.0) -> FloatArray:
    """Sigmas evenly spaced in sigma^(1/rho), from max to min (Karras et al. 2022, eq. 5). [steps]."""
    ramp = np.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.asarray((high + ramp * (low - high)) ** rho, dtype=np.float64)


def timesteps_from_sigmas(sigmas: FloatArray, train_sigmas: FloatArray) -> FloatArray:
    """The (fractional) timesteps at which training had these sigmas, interpolated in log sigma."""
    logs = np.log(np.maximum(train_sigmas, 1e-10))
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(train_sigmas)))


def flow_sigmas(steps: int, *, shift: float = 1.0, mu: float | None = None) -> FloatArray:
    """Sigmas of rectified flow, from 1 down, without the final 0. [steps].

    Args:
        steps: how many.
        shift: s in s x / (1 + (s - 1) x), used when mu is None.
        mu: exp(mu) is the shift that grows with the picture (FLUX dev).
    """
    sigmas = np.linspace(1.0, 1.0 / steps, steps)
    factor = shift if mu is None else math.exp(mu)
    return np.asarray(factor * sigmas / (1 + (factor - 1) * sigmas), dtype=np.float64)


def dynamic_shift(
    sequence_length: int,
    *,
    base_seq_len: int = 256,
    max_seq_len: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """mu, linear in the number of latent tokens (FLUX dev)."""
    slope = (max_shift - base_shift) / (max_seq_len - base_seq_len)
    return base_shift + slope * (sequence_length - base_seq_len)


@dataclass(frozen=True)
class ScheduleOptions:
    """Fields of a scheduler's config; absent ones take the named sampler's defaults, as in diffusers."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    use_karras_sigmas: bool = False
    interpolation_type: str = "linear"
    final_sigmas_type: str = "zero"
    skip_prk_steps: bool = False
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: str = "exponential"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **sampler_defaults: Any) -> ScheduleOptions:
        """Reads a config over the defaults of one sampler.

        Raises:
            UnsupportedModelError: the config switches on something that is not supported.
        """
        lacking = [name for name in _UNSUPPORTED_SWITCHES if config.get(name)]
        if lacking:
            raise UnsupportedModelError(f"scheduler_config.json asks for {', '.join(lacking)}: not supported")
        names = {f.name for f in fields(cls)}
        taken = {k: v for k, v in config.items() if k in names and v is not None}
        if "trained_betas" in taken:
            taken["trained_betas"] = tuple(taken["trained_betas"])
        return cls(**{**sampler_defaults, **taken})

    def check_steps(self, steps: int) -> None:
        """Refuses a number of steps this schedule cannot be divided into.

        Raises:
            InvalidInputError: fewer than 1 or more than the training had.
        """
        if not 1 <= steps <= self.num_train_timesteps:
            raise InvalidInputError(f"steps is {steps}, must be in 1..{self.num_train_timesteps}")

    def make_alphas_cumprod(self) -> FloatArray:
        """Cumulative products of 1 - beta, [T], with zero terminal SNR where asked for."""
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, dtype=np.float32).astype(np.float64)
        else:
            betas = make_betas(
                self.beta_schedule,
                beta_start=self.beta_start,
                beta_end=self.beta_end,
                num_train_timesteps=self.num_train_timesteps,
            )
        return make_alphas_cumprod(rescale_zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas)

    def make_timesteps(self, steps: int) -> FloatArray:
        """[steps], decreasing, spaced as the config says.

        Raises:
            UnsupportedModelError: another spacing.
        """
        self.check_steps(steps)
        count = self.num_train_timesteps
        if self.timestep_spacing == "leading":
            return leading_timesteps(steps, num_train_timesteps=count, steps_offset=self.steps_offset)
        if self.timestep_spacing == "trailing":
            return trailing_timesteps(steps, num_train_timesteps=count)
        if self.timestep_spacing == "linspace":
            return linspace_timesteps(steps, num_train_timesteps=count)
        raise UnsupportedModelError(f"timestep_spacing {self.timestep_spacing!r} is not supported")

    def make_train_sigmas(self) -> FloatArray:
        """Noise-to-signal ratios at the training timesteps, [T], increasing and finite."""
        alphas_cumprod = self.make_alphas_cumprod()
        if self.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2.0**-24  # it is zero
        return sigmas_from_alphas(alphas_cumprod)
