"""Records what diffusers' schedulers make of the runs in `tiny_samplers`: `python record_samplers.py [folder]`.

Needs torch, diffusers and SciPy, which nothing else here does.
"""

import importlib
import inspect
import itertools
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers
from diffusers.utils import logging

from tests.diffusion.parity import tiny_samplers

# Only the Brownian tree of DPMSolverSDEScheduler needs it, and draws come from NumPy instead.
sys.modules.setdefault("torchsde", types.SimpleNamespace(BrownianInterval=None))
logging.set_verbosity_error()
warnings.simplefilter("ignore")
SDE = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler


def make_scheduler(config):
    name = config["_class_name"]
    cls = SDE if name == "DPMSolverSDEScheduler" else getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    return cls(**{key: value for key, value in config.items() if key in known})


@torch.no_grad()
def record(run):
    scheduler, draws = make_scheduler(run.config), itertools.count()

    def draw(*_, **__):
        return torch.from_numpy(tiny_samplers.draw(next(draws)))

    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = draw
    scheduler.set_timesteps(run.steps)
    first = run.skipped * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    if isinstance(scheduler, SDE):
        scheduler.noise_sampler = draw
    extra = {} if run.eta is None else {"eta": run.eta}
    sample = torch.from_numpy(tiny_samplers.start(run))
    sample = sample * (1.0 if run.skipped else scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps[first:]:
        scaled = scheduler.scale_model_input(sample, timestep)
        output = tiny_samplers.network(scaled, float(timestep), torch)
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample
    return sample.numpy(), next(draws)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    latents, draws = zip(*(record(run) for run in tiny_samplers.RUNS), strict=True)
    np.savez_compressed(
        folder / "samplers.npz", latents=np.stack(latents).astype(np.float32), draws=np.array(draws)
    )


if __name__ == "__main__":
    main()
