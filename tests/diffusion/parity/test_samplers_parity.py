"""Every sampler against what diffusers makes of the same runs (`record_samplers.py`)."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.pipelines.denoising import run_denoising
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.model_files.samplers import scheduler_name
from tests.diffusion.parity import tiny_samplers
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.parity.tiny_samplers import RUNS, SAMPLERS

FOLDER = Path(os.environ.get("SWIFTAI_PARITY_REFERENCES", REFERENCES))
TOLERANCE = 1e-3  # of the reference's maximum


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "samplers.npz") as file:
        return dict(file)


def result(run, scheduler):
    """(latents, indices of the draws that the noise source was asked for)."""
    asked = []

    def noise(index, shape):
        asked.append(index)
        assert shape == tiny_samplers.SHAPE
        return tiny_samplers.draw(index)

    start = mx.array(tiny_samplers.start(run)) * (1.0 if run.skipped else scheduler.init_noise_sigma)
    steps = run_denoising(
        lambda sample, timestep: tiny_samplers.network(sample, timestep, mx),
        scheduler,
        start,
        noise=noise,
        start_index=run.skipped * scheduler.calls_per_step,
    )
    return list(steps)[-1].latents, asked


@pytest.mark.parametrize("index", range(len(RUNS)), ids=lambda index: RUNS[index].label)
def test_latents_and_draws_are_those_of_diffusers(index, recorded):
    run = RUNS[index]
    expected = recorded["latents"][index]
    latents, asked = result(run, make_scheduler(run.config, run.steps, eta=run.eta))
    assert np.isfinite(expected).all()
    assert np.abs(latents - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())
    assert asked == list(range(recorded["draws"][index]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_name_means_the_same_as_its_class_and_fields(name):
    config = {**tiny_samplers.SD, "_class_name": "DDIMScheduler"}
    run = next(r for r in RUNS if r.sampler == name and r.steps == 7)
    own = {**config, **SAMPLERS[name][1], "_class_name": SAMPLERS[name][0]}
    assert scheduler_name(own) == name
    by_name, _ = result(run, make_scheduler({**config, **_shared(own)}, 7, name=name))
    by_class, _ = result(run, make_scheduler(own, 7))
    assert np.array_equal(by_name, by_class)


def _shared(config):
    """The fields that no name sets."""
    return {k: v for k, v in config.items() if k not in ("_class_name", "algorithm_type", "solver_order")}
