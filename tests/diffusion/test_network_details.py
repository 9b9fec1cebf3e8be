"""The details ports get wrong: each test fails when the mistake is made."""

import json
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from swiftai_nb.diffusion import load_pipeline, ops
from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.layers import (
    GroupNorm,
    sinusoidal_embedding,
    upsample_nearest,
)
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_blocks import GEGLU, ResnetBlock
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEBlock, VAEConfig
from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.seeded_weights import seeded_tensor

RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def numpy_group_norm(x, groups, eps):
    """PyTorch's definition, straight."""
    batch, channels = x.shape[0], x.shape[-1]
    grouped = x.reshape(batch, -1, groups, channels // groups).astype(np.float64)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + eps)).reshape(x.shape)


def filled(network):
    weights = {name: seeded_tensor(name, value.shape) for name, value in tree_flatten(network.parameters())}
    network.load_weights([(name, mx.array(value)) for name, value in weights.items()])
    return network


def norms(network):
    return {path: m for path, m in network.named_modules() if isinstance(m, GroupNorm)}


class TestGroupNormEpsilon:
    def test_it_decides_where_the_variance_is_tiny(self):
        x = 1e-3 * normal(1, 4, 4, 8)
        for eps in (1e-5, 1e-6):
            norm = GroupNorm(4, 8, eps=eps)
            norm.weight, norm.bias = mx.ones((8,)), mx.zeros((8,))
            expected = numpy_group_norm(x, 4, eps)
            assert np.abs(np.array(norm(mx.array(x))) - expected).max() < 1e-3
        assert np.abs(numpy_group_norm(x, 4, 1e-5) - numpy_group_norm(x, 4, 1e-6)).max() > 0.1

    def test_groups_are_neighboring_channels(self):
        x = normal(2, 3, 3, 8) * np.arange(1, 9, dtype=np.float32)
        norm = GroupNorm(2, 8, eps=1e-5)
        norm.weight, norm.bias = mx.ones((8,)), mx.zeros((8,))
        assert np.abs(np.array(norm(mx.array(x))) - numpy_group_norm(x, 2, 1e-5)).max() < 1e-4

    def test_unet_resnets_and_output_have_the_configs_transformers_one_millionth(self):
        unet = UNet(UNetConfig.from_dict(tiny_sd.MODELS["sd15"]["unet"]))
        found = {path: norm.eps for path, norm in norms(unet).items()}
        transformers = {p: eps for p, eps in found.items() if ".attentions." in p}
        assert transformers
        assert set(transformers.values()) == {1e-6}
        assert {eps for p, eps in found.items() if p not in transformers} == {1e-5}

    def test_autoencoder_has_one_millionth_throughout(self):
        vae = Autoencoder(VAEConfig.from_dict(tiny_sd.VAE))
        assert {norm.eps for norm in norms(vae).values()} == {1e-6}


class TestTimeEmbedding:
    def test_cosines_come_first_with_the_published_frequencies(self):
        t, width = 321.0, 8
        expected = [math.cos(t * 10000 ** (-i / 4)) for i in range(4)]
        expected += [math.sin(t * 10000 ** (-i / 4)) for i in range(4)]
        actual = np.array(sinusoidal_embedding(mx.array([t]), width))[0]
        assert np.abs(actual - expected).max() < 2e-4

    def test_guidance_embedding_has_sines_first_and_another_divisor(self):
        w, width = 7500.0, 8
        expected = [math.sin(w * 10000 ** (-i / 3)) for i in range(4)]
        expected += [math.cos(w * 10000 ** (-i / 3)) for i in range(4)]
        actual = sinusoidal_embedding(mx.array([w]), width, cosine_first=False, frequency_shift=1.0)
        assert np.abs(np.array(actual)[0] - expected).max() < 5e-3

    def test_a_timestep_off_by_one_shows(self):
        unet = filled(UNet(UNetConfig.from_dict(tiny_sd.MODELS["sd15"]["unet"])))
        sample, context = mx.array(normal(1, 8, 8, 4)), mx.array(normal(1, 77, 32))
        a, b = (unet(sample, mx.array([t]), context) for t in (500.0, 501.0))
        assert np.abs(np.array(a - b)).max() > 1e-3

    def test_resnet_adds_it_after_the_first_convolution(self):
        block = filled(ResnetBlock(8, 8, time_width=4, groups=4, eps=1e-5))
        x, emb = mx.array(normal(1, 4, 4, 8)), mx.array(normal(1, 4))
        h = block.conv1(ops.silu(block.norm1(x))) + block.time_emb_proj(emb)[:, None, None]
        expected = x + block.conv2(ops.silu(block.norm2(h)))
        assert np.abs(np.array(block(x, emb) - expected)).max() < 1e-5


class TestGEGLU:
    def test_first_half_is_the_value_and_the_gate_uses_the_exact_error_function(self):
        layer = filled(GEGLU(4, 6))
        x = normal(1, 3, 4)
        projected = x @ np.array(layer.proj.weight).T + np.array(layer.proj.bias)
        value, gate = projected[..., :6], projected[..., 6:]
        erf = np.vectorize(math.erf)
        expected = value * gate * 0.5 * (1 + erf(gate / math.sqrt(2)))
        assert np.abs(np.array(layer(mx.array(x))) - expected).max() < 2e-5
        tanh = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        assert np.abs(value * tanh - expected).max() > 5e-5


class TestHeads:
    def test_attention_head_dim_is_the_number_of_heads(self):
        assert UNetConfig.from_dict({**tiny_sd.MODELS["sd15"]["unet"]}).heads == (8, 8, 8)
        assert (
            UNetConfig.from_dict({**tiny_sd.MODELS["sd15"]["unet"], "num_attention_heads": 2}).heads
            == (2,) * 3
        )

    def test_lists_are_reversed_on_the_way_up_and_the_last_is_the_middles(self):
        unet = UNet(UNetConfig.from_dict(tiny_sd.MODELS["sdxl"]["unet"]))

        def heads(block):
            return {t.attn1.heads for a in block.attentions for t in a.transformer_blocks}

        def depth(block):
            return {len(a.transformer_blocks) for a in block.attentions}

        assert [heads(b) for b in unet.down_blocks[1:]] == [{4}, {8}]
        assert [heads(b) for b in unet.up_blocks[:2]] == [{8}, {4}]
        assert heads(unet.mid_block) == {8}
        assert [depth(b) for b in (unet.down_blocks[2], unet.mid_block, unet.up_blocks[0])] == [{2}] * 3

    def test_splitting_and_joining_agree_with_one_head_at_a_time(self):
        q, k, v = (normal(2, n, 12) for n in (5, 7, 7))
        parts = []
        for h in range(3):
            a, b, c = (x[..., 4 * h : 4 * h + 4] for x in (q, k, v))
            scores = a @ b.transpose(0, 2, 1) / 2.0
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            parts.append(weights / weights.sum(-1, keepdims=True) @ c)
        actual = ops.multi_head_attention(mx.array(q), mx.array(k), mx.array(v), heads=3)
        assert np.abs(np.array(actual) - np.concatenate(parts, -1)).max() < 1e-5


class TestPadding:
    def test_encoder_pads_right_and_bottom_only(self):
        config = VAEConfig.from_dict({**tiny_sd.VAE, "layers_per_block": 0})
        block = VAEBlock(config, 1, 1, layers=0, sampler="downsamplers")
        kernel = np.zeros((1, 3, 3, 1), np.float32)
        kernel[0, 0, 0, 0] = 1.0
        conv = block.downsamplers[0].conv
        conv.weight, conv.bias = mx.array(kernel), mx.zeros((1,))
        x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        assert np.array(block(mx.array(x)))[0, :, :, 0].tolist() == [[0, 2], [8, 10]]

    def test_unet_downsampling_pads_all_sides(self):
        unet = UNet(UNetConfig.from_dict(tiny_sd.MODELS["sd15"]["unet"]))
        conv = unet.down_blocks[0].downsamplers[0].conv
        assert (conv.stride, conv.padding) == (2, 1)

    def test_odd_sizes_are_restored_on_the_way_up(self):
        unet = filled(UNet(UNetConfig.from_dict(tiny_sd.MODELS["sd15"]["unet"])))
        out = unet(mx.array(normal(1, 9, 7, 4)), mx.array([10.0]), mx.array(normal(1, 77, 32)))
        assert out.shape == (1, 9, 7, 4)

    def test_nearest_upsampling_to_an_odd_size_takes_the_lower_neighbor(self):
        x = np.arange(2, dtype=np.float32).reshape(1, 2, 1, 1)
        assert np.array(upsample_nearest(mx.array(x), (3, 1))).ravel().tolist() == [0, 0, 1]

    def test_prompts_are_padded_to_the_full_length_with_the_tokenizers_own_token(self, sd15_copy):
        tokenizer = sd15_copy / "tokenizer"
        config = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
        embeds = []
        for pad in ("<|endoftext|>", "!"):
            (tokenizer / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": pad}))
            conditioning = load_pipeline(sd15_copy).encode_prompt("a cat", guidance_scale=1)
            assert conditioning.prompt_embeds.shape == (1, 77, 32)
            embeds.append(np.array(conditioning.prompt_embeds))
        assert np.abs(embeds[0] - embeds[1]).max() > 0.1


class TestCLIP:
    @pytest.fixture
    def config(self):
        return CLIPTextConfig.from_dict(tiny_sd.MODELS["sd15"]["text_encoder"])

    def test_later_tokens_do_not_reach_earlier_ones(self, config):
        model = filled(CLIPTextModel(config))
        a, b = (model(mx.array([[1, 2, 3, last]])).last_hidden_state for last in (4, 5))
        assert np.abs(np.array(a - b))[0, :3].max() < 1e-6
        assert np.abs(np.array(a - b))[0, 3].max() > 1e-3

    @pytest.mark.parametrize(("eos", "expected"), [(2, 3), (7, 1)])
    def test_pooling_takes_the_largest_id_or_the_first_end_of_text(self, config, eos, expected):
        import dataclasses

        model = filled(CLIPTextModel(dataclasses.replace(config, eos_token_id=eos)))
        output = model(mx.array([[1, 7, 7, 9]]))
        assert mx.array_equal(output.pooled[0], output.last_hidden_state[0, expected])

    def test_quick_gelu_is_not_gelu(self):
        x = mx.array([-1.5, 0.7])
        assert (
            np.abs(np.array(ops.quick_gelu(x)) - np.array(x) / (1 + np.exp(-1.702 * np.array(x)))).max()
            < 1e-5
        )
        assert np.abs(np.array(ops.quick_gelu(x) - ops.gelu(x))).max() > 1e-3
