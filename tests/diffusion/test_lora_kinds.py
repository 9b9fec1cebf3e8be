"""LoHa, LoKr, DoRA, OFT and differences: fused names, quantized weights, and files that make no sense."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.models.layers import QuantizedLinear
from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora
from swiftai_nb.diffusion.weights.precision import find_module
from tests.diffusion.flux_folders import save, write_diffusers
from tests.diffusion.loading import load_pipeline
from tests.diffusion.parity import tiny_lora_kinds as kinds

RNG = np.random.default_rng(7)
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
LORA = {f"{Q}.lora_down.weight": (4, 32), f"{Q}.lora_up.weight": (32, 4)}


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return write_diffusers(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture
def write(tmp_path):
    def to_file(arrays):
        arrays = {k: random(*v) if isinstance(v, tuple) else np.asarray(v) for k, v in arrays.items()}
        save(tmp_path / "x.safetensors", arrays)
        return load_lora(tmp_path / "x.safetensors"), arrays

    return to_file


def weights(pipeline, component, *paths):
    found = []
    for path in paths:
        layer = find_module(pipeline.networks[component].network, path)
        weight = layer.weight
        if isinstance(layer, QuantizedLinear):
            options = {"group_size": layer.group_size, "bits": layer.bits}
            weight = mx.dequantize(weight, layer.scales, layer.biases, **options)
        found.append(np.array(weight))
    return np.concatenate(found)


QKV = tuple(f"transformer_blocks.0.attn.to_{x}" for x in "qkv")


def test_each_part_of_a_fused_map_gets_its_rows(flux, write):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    changes = {
        "loha": {
            f"{name}.hada_w{n}_{side}": (384, 2) if side == "a" else (2, 128) for n in (1, 2) for side in "ab"
        },
        "diff": {f"{name}.diff": (384, 128), f"{name}.diff_b": (384,)},
        "dora": {
            f"{name}.lora_down.weight": (2, 128),
            f"{name}.lora_up.weight": (384, 2),
            f"{name}.dora_scale": (384, 1),
        },
    }
    before = weights(load_pipeline(flux), "transformer", *QKV)
    for kind, arrays in changes.items():
        lora, arrays = write(arrays)
        pipeline = load_pipeline(flux)
        apply_lora(pipeline, lora, 0.5)
        values = list(arrays.values())
        if kind == "loha":
            expected = before + 0.5 * (values[0] @ values[1]) * (values[2] @ values[3])
        elif kind == "diff":
            expected = before + 0.5 * values[0]
        else:
            expected = before + 0.5 * values[1] @ values[0]
            expected *= values[2] / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(weights(pipeline, "transformer", *QKV), expected, atol=1e-4)


def test_rotations_of_a_map_that_is_kept_in_parts_are_refused(flux, write):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    lora, _ = write({f"{name}.oft_blocks": (12, 32, 32)})
    with pytest.raises(InvalidModelFilesError, match="keeps in parts"):
        apply_lora(load_pipeline(flux), lora)


@pytest.mark.parametrize("kind", ["loha", "oft", "diff", "dora"])
def test_quantized_weights_are_changed_and_quantized_again(kind, flux, write):
    name, path = "transformer.transformer_blocks.0.attn.to_q", QKV[0]
    arrays = {
        "loha": {
            f"{name}.hada_w{n}_{side}": (128, 2) if side == "a" else (2, 128) for n in (1, 2) for side in "ab"
        },
        "oft": {f"{name}.oft_blocks": 0.2 * random(8, 16, 16)},
        "diff": {f"{name}.diff": (128, 128)},
        "dora": {
            f"{name}.lora_A.weight": (2, 128),
            f"{name}.lora_B.weight": (128, 2),
            f"{name}.lora_magnitude_vector": 1 + np.abs(random(128)),
        },
    }[kind]
    lora, _ = write(arrays)
    plain, quantized = load_pipeline(flux), load_pipeline(flux, quantization_bits=8)
    for pipeline in (plain, quantized):
        apply_lora(pipeline, lora, 0.5)
    expected, found = (weights(pipeline, "transformer", path) for pipeline in (plain, quantized))
    # Rounded to 8 bits twice.
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert np.abs(expected - weights(load_pipeline(flux), "transformer", path)).max() > 0.1


def test_a_bias_of_low_rank_adapters_is_scaled_with_them(sd15_folder, write):
    path = "down_blocks.1.attentions.0.proj_in"
    name = f"unet.{path}"
    bias = f"{name}.lora_B.bias"
    lora, arrays = write(
        {f"{name}.lora_A.weight": (4, 64, 1, 1), f"{name}.lora_B.weight": (64, 4, 1, 1), bias: (64,)}
    )
    pipeline = load_pipeline(sd15_folder)
    before = np.array(find_module(pipeline.networks["unet"].network, path).bias)
    apply_lora(pipeline, lora, 0.5)
    after = np.array(find_module(pipeline.networks["unet"].network, path).bias)
    np.testing.assert_allclose(after, before + 0.5 * arrays[bias], atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({**LORA, f"{Q}.dora_scale": (7,)}, "has 7 magnitudes"),
        ({**LORA, f"{Q}.dora_scale": (0,)}, "magnitude"),
        ({**LORA, f"{Q}.diff_b": (7,)}, "bias that the model does not have"),
        ({f"{Q}.dora_scale": (32, 1)}, "has no down matrix"),
        ({f"{Q}.diff": (32, 31)}, "changes 31 -> 32, the model's is 32 -> 32"),
        ({f"{kinds.NORM[0]}.w_norm": (31,)}, "changes 31 channels, the model's is 32 channels"),
        ({f"{kinds.NORM[0]}.diff": (32, 32)}, "does not fit"),
        ({f"{Q}.oft_blocks": (4, 8, 7)}, "oft_blocks"),
        ({f"{Q}.oft_blocks": (2, 4, 8, 8)}, "not BOFT"),
        ({f"{Q}.oft_blocks": (4, 4, 4)}, "does not fit"),
        ({f"{Q}.hada_w1_a": (32, 4), f"{Q}.hada_w1_b": (4, 32)}, "hada_w2"),
        ({f"{Q}.hada_w{n}_{s}": (32, 4) for n in (1, 2) for s in "ab"}, "hada_w1"),
        ({f"{Q}.lokr_w1": (4, 4, 1), f"{Q}.lokr_w2": (8, 8)}, "lokr_w1"),
        ({f"{Q}.lokr_w1": (4, 4)}, "lokr_w2"),
        ({f"{Q}.lokr_w1_a": (30_000, 1), f"{Q}.lokr_w1_b": (1, 30_000), f"{Q}.lokr_w2": (8, 8)}, "lokr_w1"),
        ({**LORA, f"{Q}.lora_mid.weight": (4, 5, 3, 3)}, "lora_mid"),
        ({**LORA, f"{Q}.lora_mid.weight": (4, 4, 3, 3), f"{Q}.lora_down.weight": (4, 32, 3, 3)}, "lora_down"),
        ({f"{Q}.diff": (4, 8, 8)}, "changes 4 x 8 x 8 channels, the model's is 32 -> 32"),
        ({**LORA, f"{Q}.alpha": np.float32("nan")}, "alpha"),
    ],
)
def test_what_makes_no_sense_is_one_error(arrays, message, sd15_folder, write):
    with pytest.raises(InvalidModelFilesError, match=message):
        apply_lora(load_pipeline(sd15_folder), write(arrays)[0])
