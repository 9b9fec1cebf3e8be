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

_UNSUPPORTED_SWITCHES = ("thresholding", "use_flow_sigmas")
_SCHEDULE_FLAGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
_BETA_SHAPE = 0.6  # both parameters of the beta distribution (Lee et al. 2024)
# "Align Your Steps" (Sabour et al. 2024): optimized for 10 steps, interpolated for other numbers.
_AYS_SIGMAS = {
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays-sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}


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


def exponential_sigmas(sigma_min: float, sigma_max: float, steps: int) -> FloatArray:
    """Sigmas evenly spaced in log sigma, from max to min. [steps]."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))


def beta_sigmas(sigma_min: float, sigma_max: float, steps: int) -> FloatArray:
    """Sigmas at the quantiles of a beta distribution: dense at both ends (Lee et al. 2024). [steps]."""
    return sigma_min + beta_quantiles(1 - np.linspace(0, 1, steps)) * (sigma_max - sigma_min)


def beta_quantiles(probabilities: FloatArray, *, shape: float = _BETA_SHAPE) -> FloatArray:
    """Inverse distribution function of the symmetric beta distribution, elementwise.

    Args:
        probabilities: in 0..1.
        shape: both of its parameters, above 0.
    """
    lower = np.minimum(probabilities, 1 - probabilities)
    # Incomplete beta function as its power series in x <= 1/2: sum of (1 - a)_n / (n! (a + n)) x^(a + n).
    n = np.arange(80)
    factors = np.cumprod(np.concatenate([[1.0], (n[1:] - shape) / n[1:]])) / (shape + n)
    total = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    low, high = np.zeros_like(lower), np.full_like(lower, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        area = (factors * middle[:, None] ** (shape + n)).sum(axis=1) / total
        low, high = np.where(area < lower, middle, low), np.where(area < lower, high, middle)
    return np.where(probabilities > 0.5, 1 - high, high)


def ays_sigmas(steps: int, *, table: str) -> FloatArray:
    """Sigmas of "Align Your Steps", interpolated in log sigma. [steps].

    Args:
        steps: how many; 10 gives the published ones.
        table: "ays" of Stable Diffusion or "ays-sdxl".
    """
    logs = np.log(_AYS_SIGMAS[table])
    return np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(logs)), logs))[:-1]


def timesteps_from_sigmas(sigmas: FloatArray, train_sigmas: FloatArray) -> FloatArray:
    """The (fractional) timesteps at which training had these sigmas, interpolated in log sigma.

    In single precision, as in diffusers: some samplers cut the fraction off, and the largest sigma is then
    at timestep 998 instead of 999.
    """
    logs = np.log(np.maximum(train_sigmas.astype(np.float32), np.float32(1e-10)))
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
    """Fields of a scheduler's config; absent ones take the named sampler's defaults, as in diffusers.

    `sigma_schedule` is diffusers' `use_..._sigmas` in one field: "karras", "exponential", "beta", "ays" or
    "ays-sdxl"; None spaces the timesteps instead. `sigma_min` to `rho` are those of EDM.
    """

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
    sigma_schedule: str | None = None
    interpolation_type: str = "linear"
    final_sigmas_type: str = "zero"
    skip_prk_steps: bool = False
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    predict_x0: bool = True
    disable_corrector: tuple[int, ...] = ()
    variance_type: str = "fixed_small"
    eta: float | None = None
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
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
        for name in ("trained_betas", "disable_corrector"):
            if name in taken:
                taken[name] = tuple(taken[name])
        flagged = next((schedule for flag, schedule in _SCHEDULE_FLAGS.items() if config.get(flag)), None)
        if flagged is not None:
            taken.setdefault("sigma_schedule", flagged)
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

    def make_scheduled_sigmas(self, steps: int, *, sigma_min: float, sigma_max: float) -> FloatArray:
        """The sigmas of `sigma_schedule`, which is not None; [steps], decreasing.

        Raises:
            UnsupportedModelError: another schedule.
        """
        if self.sigma_schedule == "karras":
            return karras_sigmas(sigma_min, sigma_max, steps, rho=self.rho)
        if self.sigma_schedule == "exponential":
            return exponential_sigmas(sigma_min, sigma_max, steps)
        if self.sigma_schedule == "beta":
            return beta_sigmas(sigma_min, sigma_max, steps)
        if self.sigma_schedule in _AYS_SIGMAS:
            return ays_sigmas(steps, table=self.sigma_schedule)
        raise UnsupportedModelError(f"sigma_schedule {self.sigma_schedule!r} is not supported")

    def make_train_sigmas(self) -> FloatArray:
        """Noise-to-signal ratios at the training timesteps, [T], increasing and finite."""
        alphas_cumprod = self.make_alphas_cumprod()
        if self.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2.0**-24  # it is zero
        return sigmas_from_alphas(alphas_cumprod)
