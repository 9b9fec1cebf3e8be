"""Runs of every sampler over a stand-in network, a fixed function of sample and timestep."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

SHAPE = (1, 2, 3, 4)
SD = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
# Name -> the sampler as diffusers is given it: class and fields.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2-a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++2m-sde-heun": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "dpm++3m-sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "dpm++sde": ("DPMSolverSDEScheduler", {}),
    "dpm++2s": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "edm-euler": ("EDMEulerScheduler", {}),
    "edm-dpm++2m": ("EDMDPMSolverMultistepScheduler", {}),
}
# Fields of the configurations that no name stands for.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dpm++2m", {"solver_order": 1}),
    ("dpm++2m", {"solver_type": "heun"}),
    ("dpm++2m", {"final_sigmas_type": "sigma_min"}),
    ("dpm++2m", {"euler_at_final": True, "lower_order_final": False}),
    ("dpm++2s", {"solver_order": 3}),
    ("dpm++2s", {"solver_order": 3, "solver_type": "heun"}),
    ("dpm++2s", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("dpm++2s", {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True}),
    ("unipc", {"solver_order": 3}),
    ("unipc", {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("unipc", {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    ("unipc", {"disable_corrector": [0, 3]}),
    ("unipc", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ("deis", {"solver_order": 3}),
    ("heun", {"clip_sample": True}),
    ("ddim", {"clip_sample": True, "set_alpha_to_one": True}),
    ("ddpm", {"variance_type": "fixed_large"}),
    ("ddpm", {"clip_sample": True, "steps_offset": 0}),
    ("euler", {"final_sigmas_type": "sigma_min"}),
    ("edm-euler", {"sigma_schedule": "exponential", "sigma_data": 1.0}),
    ("edm-dpm++2m", {"sigma_max": 20.0, "final_sigmas_type": "sigma_min"}),
)
FLAGS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}
SCHEDULED = ("euler", "heun", "dpm2", "dpm2-a", "lms", "dpm++2m", "dpm++3m-sde", "dpm++sde", "dpm++2s", "unipc",
             "deis")  # fmt: skip
STEPS = (1, 2, 7, 33)
SPACINGS = ("leading", "trailing", "linspace")
# Of these diffusers spaces one step at timestep 0; ours starts from noise.
EVEN_SPACED = ("ddim", "ddpm", "pndm", "euler", "euler-a", "heun", "dpm2", "dpm2-a", "lms", "dpm++sde")


class Run(NamedTuple):
    """One run: a sampler, fields over `SD`, the number of steps, how many are skipped, and eta."""

    sampler: str
    fields: dict[str, Any]
    steps: int
    skipped: int = 0
    eta: float | None = None

    @property
    def config(self) -> dict[str, Any]:
        class_name, own = SAMPLERS[self.sampler]
        return {**SD, **own, **self.fields, "_class_name": class_name}

    @property
    def label(self) -> str:
        fields = "-".join(f"{key}={value}" for key, value in self.fields.items())
        return f"{self.sampler}-{fields}-{self.steps}-{self.skipped}-{self.eta}"


def _make_runs() -> list[Run]:
    runs = []
    for name, steps, spacing, prediction in product(SAMPLERS, STEPS, SPACINGS, ("epsilon", "v_prediction")):
        ignores_spacing = name in ("dpm++2s", "lcm", "tcd", "edm-euler", "edm-dpm++2m")
        is_at_zero = steps == 1 and spacing == "linspace" and name in EVEN_SPACED
        if not is_at_zero and not (ignores_spacing and spacing != "leading"):
            runs.append(Run(name, {"timestep_spacing": spacing, "prediction_type": prediction}, steps))
    runs += [Run(name, fields, steps) for (name, fields), steps in product(VARIANTS, (2, 9, 20))]
    for name, flag, steps in product(SCHEDULED, FLAGS.values(), (1, 7, 16)):
        # diffusers' DEIS ends one step where it starts.
        if (name, steps) != ("deis", 1):
            runs.append(Run(name, {flag: True, "timestep_spacing": "leading"}, steps))
    runs += [Run(name, {"timestep_spacing": "leading"}, 7, skipped=3) for name in SAMPLERS if name != "pndm"]
    runs += [Run(name, {}, 7, eta=eta) for name, eta in product(("ddim", "tcd"), (0.0, 0.5, 1.0))]
    return runs


RUNS = _make_runs()


def start(run: Run) -> np.ndarray:
    """Unit-normal, before `init_noise_sigma`."""
    return np.random.default_rng(RUNS.index(run) % 7).standard_normal(SHAPE).astype(np.float32)


def draw(index: int) -> np.ndarray:
    """The unit-normal noise of a run's draw."""
    return np.random.default_rng([9, index]).standard_normal(SHAPE).astype(np.float32)


def network(sample: Any, timestep: float, xp: Any) -> Any:
    """The stand-in: smooth, bounded but for a small slope.

    Args:
        sample: [1, 2, 3, 4].
        timestep: as a sampler passes it.
        xp: numpy, torch or mlx.core.
    """
    return xp.tanh(0.7 * sample + 0.3 * float(np.sin(0.01 * timestep))) + 0.1 * sample
