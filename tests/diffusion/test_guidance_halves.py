"""Guidance on two threads: the same numbers, the same errors, nothing left behind."""

from __future__ import annotations

import threading

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import blas, ops
from swiftai_nb.diffusion.cpu_math import workers
from swiftai_nb.diffusion.guidance_halves import run_halves, runs_halves_apart


@pytest.fixture(autouse=True)
def _defaults():
    blas.install_fast_blas()
    yield
    ops.configure(fast=True)
    ops.set_block_callback(None)


def random(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def small_network(x):
    weight = random(16, 3, 3, 16, seed=1) * 0.1
    for _ in range(3):
        x = ops.block_boundary(x + ops.conv2d(ops.silu(x), weight))
    q = x.reshape(x.shape[0], 1, -1, 16)
    return ops.attention(q, q, q, scale=0.25)


def test_halves_equal_the_batch():
    x = random(2, 40, 40, 16)
    mx.eval(x)
    whole = np.array(small_network(x))
    halves = run_halves(lambda rows: small_network(x[rows]), [slice(0, 1), slice(1, 2)])
    assert np.abs(np.concatenate([np.array(h) for h in halves]) - whole).max() <= 1e-5 * np.abs(whole).max()


def test_halves_run_in_two_threads_and_threads_are_restored():
    names, before = [], blas.threads()

    def note(half):
        names.append((half, threading.current_thread().name, workers.worker_count(), blas.threads()))
        return mx.array([float(half)])

    assert [h.item() for h in run_halves(note, [0, 1])] == [0.0, 1.0]
    assert len({name for _, name, _, _ in names}) == 2
    assert all(count == 1 and threads == 1 for _, _, count, threads in names)
    assert blas.threads() == before
    assert workers.worker_count() == blas.usable_cpus()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_half_is_raised(failing):
    def work(half):
        if half == failing:
            raise ValueError(f"half {half}")
        return mx.zeros(3)

    with pytest.raises(ValueError, match=f"half {failing}"):
        run_halves(work, [0, 1])
    assert run_halves(lambda half: mx.array([half]), [5])[0].item() == 5


def test_a_cancel_reaches_both_halves():
    heard = set()

    def cancel():
        heard.add(threading.current_thread().name)
        raise GenerationCancelledError

    ops.set_block_callback(cancel)
    with pytest.raises(GenerationCancelledError):
        run_halves(lambda seed: small_network(random(1, 40, 40, 16, seed=seed)), [0, 1])
    assert len(heard) == 2


def test_halves_stay_together_when_small_with_fast_paths_off_or_many_processors(monkeypatch):
    monkeypatch.setattr(blas, "usable_cpus", lambda: 2)
    assert runs_halves_apart(64 * 64) == ops.on_cpu()
    assert not runs_halves_apart(8 * 8)
    ops.configure(fast=False)
    assert not runs_halves_apart(64 * 64)
    ops.configure(fast=True)
    for cpus in (1, 16):
        monkeypatch.setattr(blas, "usable_cpus", lambda cpus=cpus: cpus)
        assert not runs_halves_apart(64 * 64)
