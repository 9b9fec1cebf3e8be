"""Details of FLUX and T5 that a comparison of whole networks can miss, each on an input that shows it."""

import math

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.models.flux_transformer import (
    FluxConfig,
    FluxFeedForward,
    _layer_norm,
    apply_rotary,
    rotary_embedding,
    token_positions,
)
from swiftai_nb.diffusion.models.layers import QuantizedEmbedding, RMSNorm
from swiftai_nb.diffusion.models.t5 import T5Config, T5GatedFeedForward, relative_position_buckets
from swiftai_nb.diffusion.pipelines.flux import pack_latents, unpack_latents
from swiftai_nb.diffusion.tokenizers.sentencepiece_model import parse_sentencepiece_model
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from tests.diffusion.parity import tiny_flux


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_epsilons_are_one_millionth():
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32) * 1e-3
    norm = RMSNorm(64)
    norm.weight = mx.ones((64,))
    expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.array(norm(mx.array(x))), expected, rtol=1e-4)
    centerd = x - x.mean(axis=-1, keepdims=True)
    expected = centerd / np.sqrt(np.mean(centerd**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.array(_layer_norm(mx.array(x))), expected, rtol=1e-3, atol=1e-5)


def test_feed_forwards_use_the_tanh_approximation():
    x = np.linspace(-4, 4, 64, dtype=np.float32)
    eye = np.eye(64, dtype=np.float32)
    layer = FluxFeedForward(64)
    layer.net[0].proj.weight = mx.array(np.vstack([eye, np.zeros((192, 64), np.float32)]))
    layer.net[2].weight = mx.array(np.hstack([eye, np.zeros((64, 192), np.float32)]))
    np.testing.assert_allclose(np.array(layer(mx.array(x[None])))[0], tanh_gelu(x), atol=1e-6)
    gated = T5GatedFeedForward(T5Config(vocab_size=8, d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=8))
    for name in ("wi_0", "wi_1", "wo"):
        gated[name].weight = mx.array(eye)
    np.testing.assert_allclose(np.array(gated(mx.array(x[None])))[0], tanh_gelu(x) * x, atol=1e-5)


def test_relative_positions_fall_into_t5s_buckets():
    near = relative_position_buckets(np.arange(-7, 8))
    assert near.tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    far = relative_position_buckets(np.array([-8, -11, -12, -16, -64, -127, -128, -4000, 8, 128, 4000]))
    assert far.tolist() == [8, 8, 9, 10, 14, 15, 15, 15, 24, 31, 31]


def test_rotary_turns_neighboring_pairs():
    ids = np.array([[0.0, 3.0, 0.0]])
    rotary = rotary_embedding(ids, (2, 4, 2))
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., 2] = 1.0  # first pair of the row axis
    turned = np.array(apply_rotary(mx.array(x), rotary)).ravel()
    np.testing.assert_allclose(turned, [0, 0, math.cos(3), math.sin(3), 0, 0, 0, 0], atol=1e-6)
    assert apply_rotary(mx.array(x).astype(mx.bfloat16), rotary).dtype == mx.bfloat16


def test_token_positions_count_rows_then_columns():
    positions = token_positions(2, 2, 3)
    assert positions.tolist() == [
        [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]
    ]  # fmt: skip


def test_packing_orders_patches_channel_by_channel():
    latents = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    tokens = np.array(pack_latents(mx.array(latents)))
    assert tokens.shape == (2, 6, 12)
    patch = latents[1, 2:4, 4:6]
    np.testing.assert_array_equal(tokens[1, 5], patch.transpose(2, 0, 1).ravel())
    np.testing.assert_array_equal(np.array(unpack_latents(mx.array(tokens), 2, 3)), latents)


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_tables_give_the_rows_of_the_unpacked(bits):
    table = mx.array(np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32))
    packed, scales, biases = mx.quantize(table, group_size=64, bits=bits)
    layer = QuantizedEmbedding(10, 128, bits=bits)
    layer.weight, layer.scales, layer.biases = packed, scales, biases
    whole = mx.dequantize(packed, scales, biases, group_size=64, bits=bits)
    ids = mx.array([[3, 3], [0, 9]])
    np.testing.assert_allclose(np.array(layer(ids)), np.array(whole[ids]), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 2},
        {"axes_dims_rope": (16, 56)},
        {"axes_dims_rope": (16, 56, 58)},
        {"axes_dims_rope": (15, 57, 56)},
    ],
)
def test_transformers_of_another_kind_are_refused(change):
    with pytest.raises(UnsupportedModelError):
        FluxConfig.from_dict(change)


@pytest.mark.parametrize("change", [{"feed_forward_proj": "relu"}, {"feed_forward_proj": "gated-odd"}])
def test_text_encoders_of_another_kind_are_refused(change):
    with pytest.raises(UnsupportedModelError, match="feed_forward_proj"):
        T5Config.from_dict(tiny_flux.T5 | change)
    with pytest.raises(UnsupportedModelError, match="not T5's"):
        T5Config.from_dict({"vocab_size": 3})


class TestBrokenTokenizers:
    @pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\xff\xff", b"not a model at all", b"\x0f"])
    def test_bytes_that_are_no_model(self, data):
        with pytest.raises(ValueError, match="SentencePiece"):
            parse_sentencepiece_model(data)

    @pytest.mark.parametrize("cut", [1, 7, 1000])
    def test_a_truncated_model(self, cut, tmp_path):
        (tmp_path / "spiece.model").write_bytes(tiny_flux.SPIECE.read_bytes()[:-cut])
        with pytest.raises(InvalidModelFilesError, match="tokenizer"):
            T5Tokenizer.from_folder(tmp_path)

    def test_json_that_is_no_tokenizer(self, tmp_path):
        (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
        with pytest.raises(InvalidModelFilesError, match=r"tokenizer\.json"):
            T5Tokenizer.from_folder(tmp_path)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(InvalidModelFilesError, match="neither"):
            T5Tokenizer.from_folder(tmp_path)
