"""Every operation against plain MLX, with the fast paths on and off, over many shapes."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import ops

RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def _defaults():
    yield
    ops.configure(fast=True)
    ops.set_block_callback(None)


def random(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return mx.array(values * np.float32(scale))


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def arithmetic(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(ops.native, "library", lambda: None)
    elif ops.native.library() is None:
        pytest.skip("no compiled kernels")


def both(function, *arguments, **options):
    """(fast, plain) results as NumPy arrays."""
    results = []
    for fast in (True, False):
        ops.configure(fast=fast)
        results.append(np.array(function(*arguments, **options)))
    return results


def assert_agree(fast, plain, relative=RELATIVE):
    assert fast.shape == plain.shape
    assert fast.dtype == plain.dtype
    largest = np.abs(plain).max(initial=0)
    assert np.abs(fast - plain).max(initial=0) <= relative * largest + 1e-30
    assert np.sqrt(np.mean((fast - plain) ** 2)) <= relative * np.sqrt(np.mean(plain**2)) + 1e-30


@pytest.mark.parametrize(("rows", "inner", "columns"), [(300, 16, 700), (1, 5, 3), (64, 1, 64)])
def test_matmul(rows, inner, columns):
    assert_agree(*both(ops.matmul, random(rows, inner), random(inner, columns, seed=1)))


ATTENTION = [
    # B, heads, L, S, D
    (1, 8, 300, 300, 40),
    (2, 5, 64, 77, 80),
    (3, 2, 257, 1030, 64),
    (1, 1, 100, 100, 160),
    (2, 3, 1, 5, 40),
    (1, 1, 1, 1, 64),
    (1, 12, 77, 77, 64),
    (1, 1, 1100, 1100, 32),
    (1, 2, 513, 2, 8),
]


@pytest.mark.parametrize("shape", ATTENTION, ids=str)
@pytest.mark.parametrize("magnitude", [1.0, 12.0], ids=["small", "large"])
def test_attention_agrees(shape, magnitude):
    batch, heads, length, count, width = shape
    q, k = random(batch, heads, length, width, scale=magnitude), random(batch, heads, count, width, seed=1)
    v = random(batch, heads, count, width, seed=2)
    # Large scores: float32 rounds them by 1e-6 of themselves, and exp makes that relative.
    assert_agree(*both(ops.attention, q, k, v, scale=width**-0.5), RELATIVE * max(1.0, magnitude / 4))


@pytest.mark.parametrize("length", [9, 300], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
def test_grouped_query_attention_agrees(length, masked):
    q, k, v = (random(2, heads, length, 32, seed=heads + i) for i, heads in enumerate((8, 2, 2)))
    mask = mx.tri(length) > 0 if masked else None
    assert_agree(*both(ops.attention, q, k, v, scale=0.2, mask=mask))


@pytest.mark.cpu
def test_grouped_query_attention_of_mlx_is_not_called_on_the_cpu(monkeypatch):
    q, k, v = (random(1, heads, 40, 32) for heads in (8, 2, 2))
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", None)
    assert ops.attention(q, k, v, scale=0.2).shape == q.shape


def test_attention_with_huge_scores_stays_finite():
    q, k, v = (random(1, 2, 70, 40, seed=i, scale=s) for i, s in enumerate((300, 300, 1)))
    fast, plain = both(ops.attention, q, k, v, scale=40**-0.5)
    assert np.isfinite(fast).all()
    assert np.abs(fast - plain).max() < 2e-2  # scores of 1e5: their own rounding is 1e-2


@pytest.mark.parametrize("shape", [(77, 77), (1, 1, 77, 77), (2, 1, 77, 77), (2, 4, 77, 77)], ids=str)
def test_attention_with_masks_agrees(shape):
    q, k, v = (random(2, 4, 77, 64, seed=i) for i in range(3))
    boolean = mx.broadcast_to(mx.tri(77) > 0, shape)
    added = mx.where(boolean, 0.0, -1e9) + random(*shape, seed=5)
    for mask in (boolean, added):
        assert_agree(*both(ops.attention, q, k, v, scale=0.125, mask=mask))


def test_attention_where_a_row_may_see_nothing_agrees():
    q, k, v = (random(1, 2, 40, 32, seed=i) for i in range(3))
    mask = mx.array(np.arange(40)[:, None] > np.arange(40)[None])
    fast, plain = both(ops.attention, q, k, v, scale=0.2, mask=mask)
    assert_agree(fast[:, :, 1:], plain[:, :, 1:])
    assert_agree(np.nan_to_num(fast), np.nan_to_num(plain))


def test_attention_reads_transposed_views():
    x = [random(2, 50, 3 * 64, seed=i).reshape(2, 50, 3, 64).transpose(0, 2, 1, 3) for i in range(3)]
    assert_agree(*both(ops.attention, *x, scale=0.125))


TOKENS = [((2, 7, 9), (2, 24)), ((1, 64), (1, 64)), ((2, 20, 20), (2, 20, 20)), ((1, 1), (1, 5))]


@pytest.mark.parametrize("shapes", TOKENS, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
def test_multi_head_attention_agrees(shapes, masked):
    tokens, context = shapes
    q, k, v = random(*tokens, 96), random(*context, 96, seed=1), random(*context, 96, seed=2)
    mask = random(math.prod(tokens[1:]), math.prod(context[1:]), seed=3) > -1 if masked else None
    assert_agree(*both(ops.multi_head_attention, q, k, v, heads=3, mask=mask))


ACTIVATIONS = [ops.silu, ops.gelu, ops.gelu_tanh, ops.quick_gelu]


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 33, 129), (1, 200_003)], ids=str)
def test_activations_agree(function, shape):
    assert_agree(*both(function, random(*shape, scale=3)))


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_activations_agree_element_by_element(function):
    values = np.concatenate([np.linspace(-6, 6, 200_001), [-1e4, -100, -30, 30, 100, 1e4]])
    fast, plain = both(function, mx.array(values.astype(np.float32)))
    np.testing.assert_allclose(fast, plain, rtol=RELATIVE, atol=2e-6)


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 4001)
    exact = np.array([0.5 * t * math.erfc(-t / math.sqrt(2)) for t in x])
    fast = np.array(ops.gelu(mx.array(x.astype(np.float32))))
    assert np.abs(fast - exact).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 64), (3, 50, 128), (2, 33, 17, 640)], ids=str)
def test_geglu_agrees(shape):
    assert_agree(*both(ops.geglu, random(*shape, scale=2)))
    value, gate = np.split(np.array(random(*shape, scale=2)), 2, axis=-1)
    expected = value * np.array(ops.gelu(mx.array(gate)))
    np.testing.assert_allclose(np.array(ops.geglu(random(*shape, scale=2))), expected, rtol=1e-6)


def test_activations_pass_nan_and_infinity_on():
    for function in ACTIVATIONS:
        fast = np.array(function(mx.array([math.nan, math.inf, 0.0, 1.0])))
        assert np.isnan(fast[0])
        assert fast[1] == math.inf
        assert fast[2] == 0


def test_activations_read_transposed_views():
    x = random(7, 9, 11).transpose(2, 0, 1)
    for function in ACTIVATIONS:
        assert_agree(*both(function, x))


CONVOLUTIONS = [
    # B, H, W, C, O, kernel, stride, padding
    (1, 32, 32, 32, 48, 3, 1, 1),
    (2, 33, 35, 16, 16, 3, 1, 1),
    (1, 64, 64, 32, 32, 3, 1, 1),
    (1, 65, 67, 24, 40, 3, 1, 1),
    (3, 71, 64, 17, 19, 3, 1, 1),
    (1, 200, 30, 16, 33, 3, 1, 1),
    (1, 1, 2000, 16, 16, 3, 1, 1),
    (1, 8, 700, 20, 20, 3, 1, 1),
    (2, 40, 37, 32, 4, 3, 1, 1),
    (1, 64, 64, 4, 32, 3, 1, 1),
    (1, 130, 90, 64, 3, 3, 1, 1),
    (1, 5, 7, 32, 32, 3, 1, 1),
    (2, 16, 16, 96, 64, 3, 1, 1),
    (1, 9, 8, 30, 20, 3, 2, 1),
    (2, 11, 12, 8, 9, 3, 2, 0),
    (1, 256, 256, 130, 8, 3, 2, 0),
    (1, 1, 1, 8, 8, 3, 1, 1),
    (2, 40, 40, 32, 32, 3, 2, 1),
    (1, 41, 41, 32, 32, 3, 2, 0),
    (1, 9, 9, 4, 8, 1, 1, 0),
    (2, 40, 40, 64, 32, 1, 1, 0),
    (1, 34, 34, 32, 32, 3, 1, 0),
    (1, 34, 34, 32, 32, 5, 1, 2),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "plain"])
def test_convolutions_agree(case, with_bias):
    batch, height, width, inner, outer, kernel, stride, padding = case
    x = random(batch, height, width, inner)
    weight = random(outer, kernel, kernel, inner, seed=1, scale=(kernel * kernel * inner) ** -0.5)
    bias = random(outer, seed=2) if with_bias else None
    assert_agree(*both(ops.conv2d, x, weight, bias, stride=stride, padding=padding))
    # kernels are transformed again, then kept: the second and third use must not differ
    ops.configure(fast=True)
    first, *later = (np.array(ops.conv2d(x, weight, bias, stride=stride, padding=padding)) for _ in range(3))
    assert all(np.array_equal(first, result) for result in later)


def test_convolution_of_a_view_agrees():
    x = random(1, 80, 80, 32)[:, 3:70, 5:77]
    assert_agree(*both(ops.conv2d, x, random(32, 3, 3, 32, seed=1), None))


NORMS = [(1, 7, 5, 32), (2, 64, 64, 320), (3, 1, 1, 64), (1, 60, 70, 128), (2, 77, 96)]


@pytest.mark.parametrize("shape", NORMS, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_agrees(shape, affine):
    x = random(*shape) * 3 + 1.5
    weight, bias = (random(shape[-1], seed=1), random(shape[-1], seed=2)) if affine else (None, None)
    assert_agree(*both(ops.group_norm, x, weight, bias, groups=32, eps=1e-5))
    fast, plain = both(ops.group_norm, x, weight, bias, groups=32, eps=1e-5, apply_silu=True)
    assert_agree(fast, plain)
    assert_agree(fast, np.array(ops.silu(ops.group_norm(x, weight, bias, groups=32, eps=1e-5))))


@pytest.mark.cpu
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_group_norm_of_a_large_picture_is_nearer_to_float64_than_plain_mlx(offset):
    x = random(1, 256, 128, 64) + offset
    ones, zeros = mx.ones(64), mx.zeros(64)
    fast, plain = both(ops.group_norm, x, ones, zeros, groups=32, eps=1e-6)
    wide = np.array(x).astype(np.float64).reshape(-1, 32, 2)
    exact = (wide - wide.mean((0, 2), keepdims=True)) / np.sqrt(wide.var((0, 2), keepdims=True) + 1e-6)
    exact = exact.reshape(fast.shape)
    assert np.abs(fast - exact).max() <= np.abs(plain - exact).max()
    assert np.abs(fast - exact).max() <= RELATIVE * np.abs(exact).max()


@pytest.mark.parametrize("shape", [(1, 5), (2, 77, 320), (3, 4096, 40), (7, 1, 2048)], ids=str)
def test_layer_norm_agrees(shape):
    x = random(*shape) * 3 + 1.5
    assert_agree(*both(ops.layer_norm, x, random(shape[-1], seed=1), random(shape[-1], seed=2), eps=1e-5))


def test_group_norm_of_a_constant_is_the_bias():
    bias = random(32, seed=3)
    fast = np.array(ops.group_norm(mx.full((1, 9, 9, 32), 7.0), mx.ones(32), bias, groups=8, eps=1e-5))
    np.testing.assert_allclose(fast, np.broadcast_to(np.array(bias), fast.shape), atol=1e-5)


MAPS = [(2, 5, 7, 12), (1, 40, 41, 320), (2, 70, 70, 64), (3, 77, 32)]


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_sums_into_a_fresh_map_agree(shape):
    for addend in (random(*shape, seed=1), random(shape[0], shape[-1], seed=2)):
        assert_agree(*both(lambda addend=addend: ops.add_into(random(*shape) * 1, addend)))


def test_the_addend_of_a_sum_is_left_alone():
    addend = random(1, 4, 4, 8, seed=1)
    before = np.array(addend)
    ops.add_into(random(1, 4, 4, 8), addend)
    np.testing.assert_array_equal(np.array(addend), before)


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_joined_channels_and_doubled_maps_are_exact(shape):
    arrays = [random(*shape), random(*shape[:-1], 9, seed=1)]
    np.testing.assert_array_equal(*both(ops.concatenate_channels, arrays))
    if len(shape) == 4:
        np.testing.assert_array_equal(*both(ops.double, arrays[0]))


@pytest.mark.parametrize("shape", [(1, 64), (2, 77, 320), (3, 1, 5, 128)], ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_linear_agrees(shape, dtype):
    weight = (random(96, shape[-1], seed=1) * 0.1).astype(dtype)
    bias = random(96, seed=2).astype(dtype)
    for offset in (bias, None):
        fast, plain = both(ops.linear, random(*shape), weight, offset)
        assert_agree(fast, plain)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("size", [8, 40, 70])
def test_convolution_with_halves_agrees(dtype, size):
    weight = (random(32, 3, 3, 32, seed=1) * 0.1).astype(dtype)
    assert_agree(*both(ops.conv2d, random(1, size, size, 32), weight, random(32, seed=2).astype(dtype)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 77])
def test_quantized_linear_agrees(bits, rows):
    packed = mx.quantize(random(96, 256, seed=1), group_size=64, bits=bits)
    for offset in (random(96, seed=2), None):
        assert_agree(
            *both(ops.quantized_linear, random(2, rows, 256), *packed, offset, group_size=64, bits=bits)
        )


@pytest.mark.cpu
def test_fast_paths_can_be_toggled(monkeypatch):
    calls = []
    monkeypatch.setattr(ops.native, "library", lambda: None)
    monkeypatch.setattr(ops.cpu_math, "silu", lambda x: calls.append(x) or x)
    ops.configure(fast=False)
    assert not ops.fast_paths_enabled()
    ops.silu(random(4))
    assert not calls
    ops.configure()
    assert ops.fast_paths_enabled()
    ops.silu(random(4))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_other_dtypes_stay_with_mlx(dtype):
    x = random(1, 40, 40, 32).astype(dtype)
    weight = random(32, 3, 3, 32, seed=1).astype(dtype)
    assert ops.conv2d(x, weight).dtype == dtype
    assert ops.gelu(x).dtype == dtype
    assert ops.group_norm(x, None, None, groups=8, eps=1e-5).dtype == dtype


@pytest.mark.cpu
def test_block_boundary_evaluates_and_may_cancel():
    calls = []
    ops.set_block_callback(lambda: calls.append(1))
    x = random(3) + 1
    assert ops.checkpoint(x) is x
    assert calls == [1]

    def cancel():
        raise GenerationCancelledError

    ops.set_block_callback(cancel)
    with pytest.raises(GenerationCancelledError):
        ops.checkpoint(x)
    ops.set_block_callback(None)
    assert ops.checkpoint(x) is x
