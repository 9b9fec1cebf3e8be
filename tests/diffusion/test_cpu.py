"""The parts of the CPU's own arithmetic that `ops` does not show."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import threading
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.cpu import weights, winograd, workers
from swiftai_nb.diffusion.cpu.weights import TransposedWeightCache
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def without_compiled_kernels(monkeypatch):
    monkeypatch.setattr(ops.native, "library", lambda: None)


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
@pytest.mark.parametrize("limit", [0, 1 << 25], ids=["by tiles", "by outputs"])
def test_winograd_is_within_1e_5_of_float64(m, shape, shift, limit, monkeypatch):
    monkeypatch.setattr(winograd, "_INPUT_ELEMENTS", limit)
    monkeypatch.setattr(winograd, "_KERNEL_ELEMENTS", 1 << 13)
    x = np.array(random(*shape, 48)) + np.float32(shift)
    weight = np.array(random(33, 3, 3, 48, seed=1))
    out = np.empty((*shape, 33), np.float32)
    winograd.winograd_conv(x, lambda part: weight[part].reshape(-1, 9, 48), None, out, m=m)
    exact = exact_conv(x, weight)
    assert np.abs(out - exact).max() <= 1e-5 * np.abs(exact).max()


def test_a_new_weight_in_the_place_of_an_old_one_is_seen():
    x = random(1, 40, 40, 16)
    for seed in range(6):
        weight = random(16, 3, 3, 16, seed=seed)
        expected = exact_conv(np.array(x), np.array(weight))
        for _ in range(3):
            assert np.abs(np.array(ops.conv2d(x, weight)) - expected).max() <= 1e-4
        del weight


@pytest.mark.parametrize("limit", [1, 3000])
@pytest.mark.parametrize(
    ("shape", "kernel", "geometry"),
    [
        ((2, 17, 13, 20), (7, 3, 3, 20), {"stride": 2, "padding": 1}),
        ((1, 33, 33, 24), (24, 3, 3, 24), {"stride": 2, "padding": 0}),
        ((3, 20, 21, 3), (24, 3, 3, 3), {"stride": 1, "padding": 1}),
        ((2, 9, 9, 8), (4, 5, 5, 8), {"stride": 1, "padding": 2}),
    ],
    ids=str,
)
def test_convolutions_of_large_pictures_in_strips_are_the_same(shape, kernel, geometry, limit, monkeypatch):
    module = importlib.import_module("swiftai_nb.diffusion.cpu.convolution")
    x, weight, bias = random(*shape), random(*kernel, seed=1), random(kernel[0], seed=2)
    whole = np.array(ops.conv2d(x, weight, bias, **geometry))
    monkeypatch.setattr(module, "_MAX_PATCH_ELEMENTS", limit)
    strips = np.array(ops.conv2d(x, weight, bias, **geometry))
    assert np.abs(strips - whole).max() <= 1e-5 * np.abs(whole).max()


def test_numpys_own_threads_can_be_limited():
    package = Path(np.__file__).parent
    bundled = [*package.with_name("numpy.libs").glob("*openblas*"), *package.glob(".dylibs/*openblas*")]
    assert workers.limit_numpy_threads(1) == bool(bundled)


def test_numpy_computes_with_one_thread_during_a_picture_and_as_before_afterwards():
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    threads = getattr(library, "scipy_openblas_get_num_threads64_", None)
    if threads is None:
        pytest.skip("NumPy without the OpenBLAS of its wheel")
    _, default = workers._numpy_threads()
    try:
        with workers.single_threaded_numpy():
            assert threads() == 1
        with pytest.raises(ZeroDivisionError), workers.single_threaded_numpy():
            raise ZeroDivisionError
        assert threads() == default
    finally:
        workers.limit_numpy_threads(1)


@pytest.fixture
def copies(monkeypatch):
    fresh = TransposedWeightCache(limit_bytes=4 * 32 * 48 + 8)
    module = importlib.import_module("swiftai_nb.diffusion.cpu.linear")  # the package shows the function
    monkeypatch.setattr(module, "_transposed", fresh)
    return fresh


@pytest.mark.cpu
def test_a_dense_weight_is_brought_into_order_once_and_its_copy_dies_with_it(copies):
    x, weight = random(4, 48), random(32, 48, seed=1)
    mx.eval(ops.linear(x, weight))
    first = copies.get(weight, lambda: None, size_bytes=0)
    mx.eval(ops.linear(x, weight))
    assert copies.get(weight, lambda: None, size_bytes=0) is first
    assert (len(copies), copies.size_bytes) == (1, weight.nbytes)
    del weight
    gc.collect()
    assert (len(copies), copies.size_bytes) == (0, 0)


@pytest.mark.cpu
def test_ordered_copies_keep_to_their_limit(copies):
    x, weights = random(4, 48), [random(32, 48, seed=seed) for seed in range(3)]
    for weight in weights * 2:
        expected = np.array(x) @ np.array(weight).T
        assert np.abs(np.array(ops.linear(x, weight)) - expected).max() <= 1e-4
    assert copies.size_bytes <= copies.limit_bytes
    assert len(copies) == 1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_widening_is_exact_for_every_finite_half(dtype):
    bits = np.arange(-(2**15), 2**15, dtype=np.int16)
    expected = np.array(mx.array(bits).view(dtype).astype(mx.float32))
    out = np.empty(bits.shape, np.float32)
    weights.widen(bits, dtype, out)
    finite = np.isfinite(expected)
    assert np.array_equal(out[finite], expected[finite])
    assert np.array_equal(np.signbit(out[finite]), np.signbit(expected[finite]))


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 40, 700])
def test_products_of_halves_are_the_same_for_every_number_of_workers(cpus, rows, monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: cpus)
    x, weight = random(rows, 160), random(200, 160, seed=1).astype(mx.float16)
    bias = random(200, seed=2)
    expected = np.array(x) @ np.array(weight.astype(mx.float32)).T + np.array(bias)
    assert np.abs(np.array(ops.linear(x, weight, bias)) - expected).max() <= 1e-4


def test_shares_busy_all_workers_alike(monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: 3)
    for length, step in ((100, 7), (2, 50), (1280, 204), (1, 1)):
        parts = workers.shares(length, step)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(length))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= max(3, lengths[0] // 4) or len(parts) % 3 == 0


def test_scratch_of_all_threads_is_forgotten_and_made_again():
    workers.for_each(lambda _: workers.scratch("test", (1000,)).fill(1), range(50))
    first = workers.scratch("test", (10, 10))
    assert np.shares_memory(first, workers.scratch("test", (7,)))
    workers.clear_scratch()
    assert not np.shares_memory(first, workers.scratch("test", (7,)))
    assert all(len(buffers) <= 1 for buffers in workers._all_buffers)


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


@pytest.mark.cpu
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


def test_what_a_failed_operation_used_is_freed_at_once():
    class Input:
        pass

    used = Input()
    freed = weakref.ref(used)

    def fail(_, used=used):
        raise ValueError

    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            workers.for_each(fail, range(20))
        del used, fail
        wait_until(lambda: freed() is None)  # the helper may be about to leave
    finally:
        gc.enable()


def test_for_each_does_not_wait_for_a_helper_that_comes_too_late(monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: 2)
    monkeypatch.setattr(workers._helpers, "call", lambda job, count: None)
    seen = []
    workers.for_each(seen.append, range(20))
    assert seen == list(range(20))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # fork with threads, from Python 3.12 on
def test_a_fork_computes_with_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: 3)
    work = lambda: workers.for_each(lambda i: seen.add(threading.get_ident()), range(5000))  # noqa: E731
    seen = set()
    work()
    child = os.fork()
    if child == 0:
        threads = sum(thread.name == "cpu_math" for thread in threading.enumerate())
        work()
        grown = sum(thread.name == "cpu_math" for thread in threading.enumerate())
        os._exit(0 if (threads, grown) == (0, 2) else 1)
    assert os.waitpid(child, 0)[1] == 0


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
