"""The parts of the CPU's own arithmetic that `ops` does not show."""

from __future__ import annotations

import gc
import importlib
import threading

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.cpu_math import convolution, halves, winograd, workers
from swiftai_nb.diffusion.cpu_math.transform_cache import TransformCache


@pytest.fixture
def cache(monkeypatch):
    fresh = TransformCache()
    monkeypatch.setattr(convolution, "_transforms", fresh)
    return fresh


def random(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def exact_conv(x, weight):
    padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ weight[:, i, j].T.astype(np.float64)
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (1, 16, 16), (1, 130, 3), (3, 41, 40)], ids=str)
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_winograd_is_within_1e_5_of_float64(m, shape, shift):
    x = np.array(random(*shape, 48)) + np.float32(shift)
    weight = np.array(random(33, 3, 3, 48, seed=1))
    out = np.empty((*shape, 33), np.float32)
    winograd.winograd_conv(x, winograd.transform_weight(weight, m), None, out, m=m)
    exact = exact_conv(x, weight)
    assert np.abs(out - exact).max() <= 1e-5 * np.abs(exact).max()


def test_transformed_kernels_are_kept_from_the_second_use_and_die_with_the_weight(cache):
    x, weight = random(1, 70, 70, 16), random(16, 3, 3, 16, seed=1)
    for kept in (0, 1, 1):
        mx.eval(ops.conv2d(x, weight))
        assert len(cache) == kept
    assert cache.size_bytes == winograd.transformed_bytes(weight.shape, 4)
    del weight
    gc.collect()
    assert len(cache) == 0
    assert cache.size_bytes == 0


def test_a_new_weight_in_the_place_of_an_old_one_is_seen(cache):
    x = random(1, 40, 40, 16)
    for seed in range(6):
        weight = random(16, 3, 3, 16, seed=seed)
        expected = exact_conv(np.array(x), np.array(weight))
        for _ in range(3):
            assert np.abs(np.array(ops.conv2d(x, weight)) - expected).max() <= 1e-4
        del weight


def test_the_limit_of_kept_kernels_is_kept(monkeypatch):
    size = winograd.transformed_bytes((16, 3, 3, 16), 2)
    cache = TransformCache(limit_bytes=2 * size)
    monkeypatch.setattr(convolution, "_transforms", cache)
    x = random(1, 40, 40, 16)
    weights = [random(16, 3, 3, 16, seed=i) for i in range(5)]
    results = [[np.array(ops.conv2d(x, w)) for w in weights] for _ in range(3)]
    assert cache.size_bytes <= cache.limit_bytes
    assert len(cache) == 2
    for weight, *got in zip(weights, *results, strict=True):
        for result in got:
            assert np.abs(result - exact_conv(np.array(x), np.array(weight))).max() <= 1e-4


def test_sparing_memory_drops_what_is_kept_and_keeps_nothing_large(cache):
    x, weight = random(1, 70, 70, 16), random(16, 3, 3, 16, seed=1)
    results = [np.array(ops.conv2d(x, weight)) for _ in range(2)]
    assert len(cache) == 1
    with ops.sparing_memory():
        assert len(cache) == 0
        results.append(np.array(ops.conv2d(x, weight)))
        assert len(cache) == 0
    results.append(np.array(ops.conv2d(x, weight)))
    assert len(cache) == 1
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_dense_weight_is_brought_into_order_once(monkeypatch):
    kept = TransformCache()
    module = importlib.import_module("swiftai_nb.diffusion.cpu_math.linear")  # the package shows the function
    monkeypatch.setattr(module, "_copies", kept)
    x, weight = random(4, 48), random(32, 48, seed=1)
    mx.eval(ops.linear(x, weight))
    first = list(kept._entries.values())
    mx.eval(ops.linear(x, weight))
    assert [id(entry) for entry in kept._entries.values()] == [id(entry) for entry in first]
    assert len(first) == 1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_widening_is_exact_for_every_finite_half(dtype):
    bits = np.arange(-(2**15), 2**15, dtype=np.int16)
    expected = np.array(mx.array(bits).view(dtype).astype(mx.float32))
    out = np.empty(bits.shape, np.float32)
    halves.widen(bits, dtype, out)
    finite = np.isfinite(expected)
    assert np.array_equal(out[finite], expected[finite])
    assert np.array_equal(np.signbit(out[finite]), np.signbit(expected[finite]))


def test_for_each_covers_all_items_once():
    seen = []
    workers.for_each(seen.append, range(1000))
    assert sorted(seen) == list(range(1000))


def test_for_each_raises_an_error_of_any_item():
    def fail(item):
        if item == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        workers.for_each(fail, range(20))


def test_the_callback_stops_a_long_operation_between_its_pieces():
    x, weight = random(1, 200, 200, 16), random(16, 3, 3, 16, seed=1)
    mx.eval(x, weight)
    calls = []

    def cancel():
        calls.append(1)
        if len(calls) == 2:
            raise GenerationCancelledError

    ops.set_block_callback(cancel)
    try:
        with pytest.raises(GenerationCancelledError):
            ops.conv2d(x, weight)
    finally:
        ops.set_block_callback(None)
    assert len(calls) == 2
    assert np.array(ops.conv2d(x, weight)).shape == (1, 200, 200, 16)


def test_for_each_inside_for_each_stays_in_its_thread():
    strangers = []

    def inner(outer):
        if threading.current_thread() is not outer:
            strangers.append(outer)

    def outer(_):
        assert workers.worker_count() == 1
        workers.for_each(inner, [threading.current_thread()] * 50)

    workers.for_each(outer, range(8))
    assert not strangers
    assert workers.worker_count() == workers.usable_cpus()


def test_operations_may_run_in_several_threads_at_once():
    x, weight = random(1, 48, 48, 16), random(16, 3, 3, 16, seed=1)
    mx.eval(x, weight)
    expected = np.array(ops.conv2d(ops.silu(x), weight))
    wrong = []

    def work():
        for _ in range(20):
            if not np.array_equal(np.array(ops.conv2d(ops.silu(x), weight)), expected):
                wrong.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_do_not_share_memory_with_each_other_or_their_input():
    x = random(1, 4, 4, 32)
    before = np.array(x)
    first, second = ops.silu(x), ops.silu(x)
    mx.eval(first, second)
    np.asarray(first)[...] = 0
    assert np.array_equal(np.array(x), before)
    assert np.abs(np.array(second)).max() > 0
