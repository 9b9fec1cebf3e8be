"""The compiled kernels against NumPy, for every library this processor can run."""

from __future__ import annotations

import ctypes
import math
import platform
import shutil
import sys

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftai_nb.core import cpu_kernels
from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import cpu, ops
from swiftai_nb.diffusion.cpu import native, workers
from swiftai_nb.diffusion.cpu.native import convolution, loader, products, self_test
from swiftai_nb.diffusion.cpu.normalization import Norm

EXACT, ROUNDED = 1e-5, 2e-2
STATUS = loader.status.__wrapped__  # not remembered
RUNNABLE = [target.path.name for target in cpu_kernels.fitting_targets()]
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """The folder of up-to-date libraries: this checkout's, or compiled for the tests."""
    try:
        for name in RUNNABLE:
            loader.open_library(cpu_kernels.FOLDER / name)
        return cpu_kernels.FOLDER
    except OSError:
        if shutil.which("cc") is None:
            pytest.skip("no C compiler")
        folder = tmp_path_factory.mktemp("kernels")
        cpu_kernels.build(folder)
        return folder


@pytest.fixture(scope="module")
def generic(tmp_path_factory):
    """Vectors of four, as NEON's, in the instructions that every processor of this kind has."""
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler")
    target = cpu_kernels.Target("generic", platform.machine(), ())
    return cpu_kernels.build(tmp_path_factory.mktemp("generic"), targets=(target,))[0].parent


@pytest.fixture(scope="module", params=[*RUNNABLE, "kernels_generic.so"])
def kernels(request):
    libraries = request.getfixturevalue("generic" if "generic" in request.param else "libraries")
    if not (libraries / request.param).exists():
        pytest.skip("this compiler does not know the processor's instructions")
    opened = loader.open_library(libraries / request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "status", lambda: loader.Status(opened, ""))
        yield opened


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def half(request, kernels):
    if request.param and not kernels.half:
        pytest.skip("a library without products of bfloat16")
    token = products.half_products.set(request.param)
    yield request.param
    products.half_products.reset(token)


def random(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def rounded(x, half):
    values = np.array(x.astype(mx.float32))
    return loader.rounded_to_bfloat16(values) if half else values


def assert_close(found, expected, tolerance=EXACT):
    """Errors in terms of the largest value, or of 1: sums whose terms, of about that size, cancel are no more exact."""
    found = np.array(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1.0)


@given(
    rows=st.integers(1, 40),
    inner=st.integers(1, 100),
    outputs=st.integers(1, 150),
    dtype=st.sampled_from(sorted(DTYPES)),
    with_bias=st.booleans(),
)
@some
def test_a_dense_layer(half, rows, inner, outputs, dtype, with_bias):  # noqa: PLR0917 - drawn
    x, weight = random(rows, inner), random(outputs, inner, seed=1).astype(DTYPES[dtype])
    bias = random(outputs, seed=2) if with_bias else None
    exact = half and rows > products._FEW_ROWS  # few rows are limited by reading the weight: float32
    expected = rounded(x, exact) @ rounded(weight, exact).T
    if bias is not None:
        expected = expected + np.array(bias)
    assert_close(native.linear(x, weight, bias), expected)


@pytest.mark.parametrize(("rows", "outputs"), [(700, 330), (1500, 70), (5, 3000)])
def test_a_large_dense_layer_in_parts(half, rows, outputs):
    x, weight, bias = random(rows, 96), random(outputs, 96, seed=1), random(outputs, seed=2)
    assert_close(native.linear(x, weight, bias), rounded(x, half) @ rounded(weight, half).T + np.array(bias))


@given(rows=st.integers(1, 30), inner=st.integers(1, 70), width=st.integers(1, 90))
@some
def test_a_gated_layer_with_an_addend(half, rows, inner, width):
    x, weight, bias = random(rows, inner), random(2 * width, inner, seed=1), random(2 * width, seed=2)
    addend = random(rows, width, seed=3)
    both = rounded(x, half) @ rounded(weight, half).T + np.array(bias)
    value, gate = both[:, :width], both[:, width:]
    expected = value * np.array(cpu.gelu(mx.array(gate))) + np.array(addend)
    assert_close(native.linear(x, weight, bias, addend=addend, gated=True), expected)


def convolve(x, weight, stride, padding):
    """In float64."""
    x = np.pad(x.astype(np.float64), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    kernel = weight.shape[1]
    down, across = ((length - kernel) // stride + 1 for length in x.shape[1:3])
    taps = [(i, j) for i in range(kernel) for j in range(kernel)]
    return sum(
        x[:, i : i + stride * down : stride, j : j + stride * across : stride][:, :down, :across]
        @ weight[:, i, j].T.astype(np.float64)
        for i, j in taps
    )


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(3, 20), st.integers(3, 20)),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 80),
    geometry=st.sampled_from([(1, 1, 0), (3, 2, 1), (3, 2, 0), (5, 1, 2), (3, 1, 1)]),
    dtype=st.sampled_from(sorted(DTYPES)),
)
@some
def test_a_convolution(half, shape, channels, outputs, geometry, dtype):  # noqa: PLR0917 - drawn
    kernel, stride, padding = geometry
    x, bias = random(*shape, channels), random(outputs, seed=2)
    weight = random(outputs, kernel, kernel, channels, seed=1).astype(DTYPES[dtype])
    expected = convolve(rounded(x, False), rounded(weight, False), stride, padding) + np.array(bias)
    found = native.conv2d(x, weight, bias, stride=stride, padding=padding)
    assert_close(found, expected, ROUNDED if half else EXACT)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 40], ids=["by outputs", "by tiles"])
@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 13, 9), (3, 40, 33)], ids=str)
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_convolutions_by_winograd_in_both_orders(half, kept_bytes, shape, shift, monkeypatch):
    monkeypatch.setattr(convolution, "_KERNEL_BYTES", kept_bytes)
    monkeypatch.setattr(convolution, "_INPUT_BYTES", 1 << 16)
    monkeypatch.setattr(convolution, "worker_count", lambda: 0)  # so that there are enough tiles
    x, weight = random(*shape, 50) + shift, random(100, 3, 3, 50, seed=1)
    expected = convolve(np.array(x), np.array(weight), 1, 1)
    assert_close(native.conv2d(x, weight, None, stride=1, padding=1), expected, ROUNDED if half else EXACT)


def normalize_and_activate(x, norm):
    """In float64."""
    x = x.astype(np.float64)
    groups = x.reshape(len(x), -1, norm.groups, x.shape[3] // norm.groups)
    mean, variance = groups.mean(axis=(1, 3), keepdims=True), groups.var(axis=(1, 3), keepdims=True)
    y = ((groups - mean) / np.sqrt(variance + norm.eps)).reshape(x.shape)
    y = y * np.array(norm.weight) + np.array(norm.bias)
    return y / (1 + np.exp(-y))


@given(
    batch=st.integers(1, 2),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([8, 16, 36, 64]),
    outputs=st.sampled_from([3, 16, 70]),
    kernel=st.sampled_from([1, 3]),
    parts=st.sets(st.sampled_from(["norm", "doubled", "offsets", "residual", "reuse", "slice"])),
)
@some
def test_a_convolution_with_what_stands_around_it(  # noqa: PLR0917 - drawn
    half, batch, sides, channels, outputs, kernel, parts
):
    x = random(batch, *sides, channels)
    if "slice" in parts:  # pixels that lie further apart
        x = random(batch, *sides, 2 * channels)[..., :channels]
    weight, bias = random(outputs, kernel, kernel, channels, seed=1), random(outputs, seed=2)
    norm = Norm(random(channels, seed=3), random(channels, seed=4), 4, 1e-5) if "norm" in parts else None
    sides = [2 * side for side in sides] if "doubled" in parts else sides
    offsets = random(batch, outputs, seed=5) if "offsets" in parts else None
    residual = random(batch, *sides, outputs, seed=6) if "residual" in parts else None
    inputs = np.array(x)
    if "doubled" in parts:
        inputs = inputs.repeat(2, axis=1).repeat(2, axis=2)
    inputs = inputs if norm is None else normalize_and_activate(inputs, norm)
    expected = convolve(inputs, np.array(weight), 1, kernel // 2) + np.array(bias)
    expected += 0 if offsets is None else np.array(offsets)[:, None, None]
    expected += 0 if residual is None else np.array(residual)
    found = native.conv2d(
        x, weight, bias, stride=1, padding=kernel // 2, norm=norm, doubled="doubled" in parts, offsets=offsets,
        residual=residual, reuse="reuse" in parts,
    )  # fmt: skip
    assert_close(found, expected, ROUNDED if half else EXACT)


def test_a_residual_block_of_the_decoder_makes_one_new_array(kernels, monkeypatch):
    x, h = random(1, 16, 16, 64), random(1, 16, 16, 32, seed=1)
    weights = random(32, 1, 1, 64, seed=2), random(32, 3, 3, 32, seed=3)
    expected = convolve(np.array(x), np.array(weights[0]), 1, 0) + convolve(
        np.array(h), np.array(weights[1]), 1, 1
    )
    for module in (convolution, cpu.arrays):
        monkeypatch.setattr(module, "new_array", lambda shape: pytest.fail(f"made {shape}"))
    narrower = native.conv2d(x, weights[0], None, stride=1, padding=0, reuse=True)
    found = native.conv2d(h, weights[1], None, stride=1, padding=1, residual=narrower, reuse=True)
    assert np.shares_memory(np.asarray(found), np.asarray(x))
    assert_close(found, expected)


@given(
    batch=st.integers(1, 2),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2)]),
    lengths=st.tuples(st.integers(1, 120), st.integers(1, 700)),
    width=st.integers(1, 90),
    masked=st.sampled_from(["no", "half", "all", "added"]),
)
@some
def test_attention(half, batch, heads, lengths, width, masked):  # noqa: PLR0917 - drawn
    (queries, keys), (many, fewer) = lengths, heads
    q, k = random(batch, many, queries, width), random(batch, fewer, keys, width, seed=1)
    v = random(batch, fewer, keys, width, seed=2)
    masks = {
        "no": None,
        "half": mx.array(np.random.default_rng(3).random((queries, keys)) < 0.5),
        "all": mx.zeros((batch, 1, queries, keys), dtype=mx.bool_),
        "added": random(many, queries, keys, seed=3),
    }
    options = {"scale": width**-0.5, "mask": masks[masked]}
    expected = np.array(cpu.attention(q, k, v, **options))
    assert_close(native.attention(q, k, v, **options), expected, 3 * ROUNDED if half else EXACT)


@pytest.mark.parametrize("width", [40, 64, 80, 128, 160, 512])
def test_attention_of_every_head_width_of_the_models(half, width):
    q, k, v = random(2, 300, 2 * width), random(2, 77, 2 * width, seed=1), random(2, 77, 2 * width, seed=2)
    expected = np.array(cpu.multi_head_attention(q, k, v, heads=2, mask=None))
    found = native.multi_head_attention(q, k, v, heads=2, mask=None)
    assert_close(found, expected, ROUNDED if half else EXACT)


def test_attention_of_scores_that_overflow_an_exponential(half):
    q = k = mx.full((1, 1, 100, 64), 30.0)
    v = random(1, 1, 100, 64)
    found = np.array(native.attention(q, k, v, scale=1.0, mask=None))
    assert_close(found, np.broadcast_to(np.array(v).mean(axis=2, keepdims=True), v.shape), ROUNDED)


def test_attention_to_many_equal_keys_as_of_a_padded_prompt(kernels):
    q, k = random(1, 1, 64, 2), random(1, 1, 512, 2, seed=1)
    k = mx.where((mx.arange(512) < 8)[None, None, :, None], k, k[:, :, 500:501])
    v = mx.where((mx.arange(512) < 8)[None, None, :, None], random(1, 1, 512, 2, seed=2), 0.7)
    scores = np.array(q).astype(np.float64) @ np.array(k).astype(np.float64).transpose(0, 1, 3, 2)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ np.array(v).astype(np.float64)
    assert_close(native.attention(q, k, v, scale=1.0, mask=None), expected, 5e-6)


@given(count=st.integers(1, 200), scale=st.sampled_from([0.1, 5.0, 200.0]))
@some
def test_activations(kernels, count, scale):
    x = random(count) * scale
    for name in ("silu", "gelu", "gelu_tanh", "quick_gelu"):
        found, expected = getattr(native, name)(x), np.array(getattr(cpu, name)(x))
        assert np.abs(np.array(found) - expected).max() <= 1e-6 * max(1.0, scale), name


def test_activations_keep_what_is_not_a_number(kernels):
    for name in ("silu", "gelu", "gelu_tanh", "quick_gelu"):
        assert np.isnan(np.array(getattr(native, name)(mx.array([math.nan] * 20)))).all(), name


@given(rows=st.integers(1, 20), channels=st.integers(2, 100), shift=st.sampled_from([0.0, 100.0]))
@some
def test_norms_of_rows(kernels, rows, channels, shift):
    x, weight, bias = random(rows, channels) + shift, random(channels, seed=1), random(channels, seed=2)
    tolerance = EXACT * (1 + 10 * shift)
    expected = np.array(cpu.layer_norm(x, weight, bias, eps=1e-5))
    assert_close(native.layer_norm(x, weight, bias, eps=1e-5), expected, tolerance)
    assert_close(native.rms_norm(x, weight, eps=1e-6), np.array(mx.fast.rms_norm(x, weight, 1e-6)))


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 90)),
    groups=st.integers(1, 8),
    size=st.integers(1, 12),
    silu=st.booleans(),
)
@some
def test_group_norm(kernels, shape, groups, size, silu):
    channels = groups * size
    x, weight, bias = random(*shape, channels), random(channels, seed=1), random(channels, seed=2)
    values = np.array(x).astype(np.float64).reshape(shape[0], -1, groups, size)
    deviation = np.sqrt(values.var(axis=(1, 3), keepdims=True) + 1e-5)
    values = ((values - values.mean(axis=(1, 3), keepdims=True)) / deviation).reshape(x.shape)
    values = values * np.array(weight) + np.array(bias)
    expected = values / (1 + np.exp(-values)) if silu else values
    assert_close(native.group_norm(x, weight, bias, groups=groups, eps=1e-5, silu=silu), expected)


def test_group_norm_far_from_zero(kernels):
    x = random(1, 64, 64, 32) + 1e4
    values = np.array(x).astype(np.float64).reshape(-1, 8, 4)
    expected = (values - values.mean(axis=(0, 2), keepdims=True)) / values.std(axis=(0, 2), keepdims=True)
    found = native.group_norm(x, None, None, groups=8, eps=1e-12, silu=False)
    assert_close(found, expected.reshape(x.shape), 1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_passed_on_by_attention(kernels, value):
    inputs = {name: np.array(random(1, 2, 70, 40, seed=i)) for i, name in enumerate("qkv")}
    for name, values in inputs.items():
        broken = {**inputs, name: values.copy()}
        broken[name][0, 1, 13, 5] = value
        q, k, v = (mx.array(x) for x in broken.values())
        found = np.isfinite(np.array(native.attention(q, k, v, scale=0.2, mask=None)))
        plain = np.isfinite(np.array(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2)))
        assert np.array_equal(found, plain)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_weight_breaks_its_output(kernels, value, dtype):
    if kernels.name == "generic" and dtype == "float16":
        pytest.skip("converts finite values only")
    weight = np.array(random(96, 64))
    weight[7, 3] = value
    found = np.isfinite(np.array(native.linear(random(20, 64), mx.array(weight).astype(DTYPES[dtype]), None)))
    assert not found[:, 7].any()
    assert np.delete(found, 7, axis=1).all()


def test_a_cancel_is_heard_between_parts_of_one_operation(kernels):
    def stop():
        raise GenerationCancelledError("cancelled")

    token = workers.checkpoint.set(stop)
    try:
        with pytest.raises(GenerationCancelledError):
            native.linear(random(2000, 512), random(512, 512), None)
    finally:
        workers.checkpoint.reset(token)


STOPPED = {
    "linear": lambda: native.linear(random(100, 30), random(90, 30), None),
    "conv": lambda: native.conv2d(
        random(1, 20, 20, 20), random(20, 3, 3, 20), None, stride=2, padding=1
    ),
    "winograd_product": lambda: native.conv2d(
        random(1, 20, 20, 20), random(20, 3, 3, 20), None, stride=1, padding=1
    ),
    "attend": lambda: native.attention(
        random(1, 2, 200, 40), random(1, 2, 200, 40), random(1, 2, 200, 40), scale=1.0, mask=None
    ),
    "attend at once": lambda: native.attention(
        random(1, 1, 9, 8), random(1, 1, 9, 8), random(1, 1, 9, 8), scale=1.0, mask=None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPPED)
def test_a_cancel_ends_a_compiled_loop_and_its_result_is_not_used(half, name):
    flag = ctypes.c_int(0)
    token = workers.stop_flag.set(flag)
    try:
        whole = np.array(STOPPED[name]())
        flag.value = 1
        with pytest.raises(GenerationCancelledError):
            STOPPED[name]()
        flag.value = 0
        np.testing.assert_array_equal(np.array(STOPPED[name]()), whole)
    finally:
        workers.stop_flag.reset(token)


def test_a_compiled_loop_stops_at_its_next_tile(kernels):
    rows, inner, outputs = 60, 8, 2 * kernels.width
    x, weight = np.ones((rows, inner), np.float32), np.ones((outputs, inner), np.float32)
    out, flag = np.zeros((rows, outputs), np.float32), ctypes.c_int(1)
    space = workers.aligned_scratch("product", 4 * inner * (kernels.width + rows))
    fixed = (x.ctypes.data, weight.ctypes.data, 0, None, None, out.ctypes.data, inner, outputs)
    fixed += (outputs, 0, rows, 0, 2)
    kernels.functions.linear(*fixed, False, False, space, ctypes.addressof(flag))
    assert not out.any()
    kernels.functions.linear(*fixed, False, False, space, None)
    assert (out == inner).all()


class TestChoice:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(loader, "status", STATUS)

    def test_kernels_can_be_turned_off(self, monkeypatch):
        monkeypatch.setenv("SWIFTAI_CPU_KERNELS", "off")
        assert loader.library() is None
        assert "SWIFTAI_CPU_KERNELS" in loader.status().reason
        x = random(40, 33)
        assert_close(ops.silu(x), np.array(cpu.silu(x)))

    @pytest.mark.cpu
    def test_a_library_that_computes_wrongly_is_not_used(self, libraries, monkeypatch):
        digest = cpu_kernels.source_digest()
        monkeypatch.setattr(cpu_kernels, "FOLDER", libraries)
        monkeypatch.setattr(loader, "source_digest", lambda: digest)  # libraries may lie without the sources
        monkeypatch.setattr(self_test, "_activation", lambda _: math.nan)
        status = loader.status()
        assert status.kernels is None
        assert status.reason == "activation differ from NumPy on this processor"

    def test_a_broken_library_is_not_used(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cpu_kernels, "FOLDER", tmp_path)
        assert loader.status().reason.startswith("not compiled")
        for name in RUNNABLE:
            (tmp_path / name).write_bytes(b"\x7fELF but not really")
        assert "cannot be loaded" in loader.status().reason

    def test_a_library_of_other_sources_is_not_used(self, libraries, monkeypatch):
        monkeypatch.setattr(cpu_kernels, "FOLDER", libraries)
        monkeypatch.setattr(loader, "source_digest", lambda: "another")
        assert "other sources" in loader.status().reason
