"""Adapters of every kind for the tiny Stable Diffusion 1.5, in the names of files. Knows no framework."""

import numpy as np

from tests.diffusion.parity.seeded_weights import seeded_tensor

SCALE, RANK = 0.7, 4
Arrays = dict[str, np.ndarray]

_BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0"
# name -> (path in the network, shape of its weight)
LINEAR = (f"lora_unet_{_BLOCK}_attn1_to_q", (32, 32))
WIDE = (f"lora_unet_{_BLOCK}_ff_net_0_proj", (256, 32))
POINT = ("lora_unet_down_blocks_1_attentions_0_proj_in", (64, 64, 1, 1))
CONV = ("lora_unet_down_blocks_1_resnets_0_conv1", (64, 32, 3, 3))
NORM = ("lora_unet_down_blocks_1_resnets_0_norm1", (32,))
LAYER_NORM = (f"lora_unet_{_BLOCK}_norm2", (32,))
PATHS = {
    LINEAR[0]: "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    WIDE[0]: "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    POINT[0]: "down_blocks.1.attentions.0.proj_in",
    CONV[0]: "down_blocks.1.resnets.0.conv1",
    NORM[0]: "down_blocks.1.resnets.0.norm1",
    LAYER_NORM[0]: "down_blocks.0.attentions.0.transformer_blocks.0.norm2",
}


def _tensor(name: str, *shape: int) -> np.ndarray:
    return seeded_tensor(f"kind.{name}", shape)


def _alpha(value: float) -> np.ndarray:
    return np.float32(value)


def loha() -> Arrays:
    """Of a linear map, and of kernels flattened and in Tucker's form."""
    result: Arrays = {}
    for name, shape in (LINEAR, POINT, CONV):
        flat = int(np.prod(shape[1:]))
        for number in (1, 2):
            result[f"{name}.hada_w{number}_a"] = _tensor(f"{name}{number}a", shape[0], RANK)
            result[f"{name}.hada_w{number}_b"] = _tensor(f"{name}{number}b", RANK, flat)
        result[f"{name}.alpha"] = _alpha(2.0)
    return result


def loha_tucker() -> Arrays:
    name, shape = CONV
    result: Arrays = {f"{name}.alpha": _alpha(8.0)}
    for number in (1, 2):
        result[f"{name}.hada_t{number}"] = 8 * _tensor(f"t{number}", RANK, RANK, 3, 3)
        result[f"{name}.hada_w{number}_a"] = _tensor(f"ta{number}", RANK, shape[0])
        result[f"{name}.hada_w{number}_b"] = _tensor(f"tb{number}", RANK, shape[1])
    return result


def lokr() -> Arrays:
    """Whole and divided matrices, a kernel, a flattened kernel of two factors, and one in Tucker's form."""
    linear, wide, point, conv = LINEAR[0], WIDE[0], POINT[0], CONV[0]
    return {
        f"{linear}.lokr_w1": _tensor("k1", 4, 4),
        f"{linear}.lokr_w2": _tensor("k2", 8, 8),
        f"{linear}.alpha": _alpha(7.0),
        f"{wide}.lokr_w1": _tensor("k3", 16, 2),
        f"{wide}.lokr_w2_a": _tensor("k4", 16, RANK),
        f"{wide}.lokr_w2_b": _tensor("k5", RANK, 16),
        f"{wide}.alpha": _alpha(2.0),
        f"{point}.lokr_w1_a": _tensor("k6", 8, 2),
        f"{point}.lokr_w1_b": _tensor("k7", 2, 8),
        f"{point}.lokr_w2": _tensor("k8", 8, 8, 1, 1),
        f"{point}.alpha": _alpha(1.0),
        f"{conv}.lokr_w1": _tensor("k9", 8, 4),
        f"{conv}.lokr_w2_a": _tensor("k10", 8, RANK),
        f"{conv}.lokr_w2_b": _tensor("k11", RANK, 8 * 9),
        f"{conv}.alpha": _alpha(3.0),
    }


def lokr_tucker() -> Arrays:
    conv = CONV[0]
    return {
        f"{conv}.lokr_w1": _tensor("k12", 8, 4),
        f"{conv}.lokr_t2": _tensor("k13", RANK, RANK, 3, 3),
        f"{conv}.lokr_w2_a": _tensor("k14", RANK, 8),
        f"{conv}.lokr_w2_b": _tensor("k15", RANK, 8),
        f"{conv}.alpha": _alpha(8.0),
    }


def locon_tucker() -> Arrays:
    name, shape = CONV
    return {
        f"{name}.lora_down.weight": _tensor("m1", RANK, shape[1], 1, 1),
        f"{name}.lora_mid.weight": _tensor("m2", RANK, RANK, 3, 3),
        f"{name}.lora_up.weight": _tensor("m3", shape[0], RANK, 1, 1),
        f"{name}.alpha": _alpha(12.0),
    }


def oft() -> Arrays:
    """With and without a limit on the rotation, and with factors of the outputs."""
    result = {
        f"{LINEAR[0]}.oft_blocks": _tensor("o1", 4, 8, 8) * 0.3,
        f"{LINEAR[0]}.alpha": _alpha(0.01),
        f"{CONV[0]}.oft_blocks": _tensor("o2", 8, 8, 8) * 0.3,
        f"{CONV[0]}.rescale": 1 + 0.1 * _tensor("o3", 64, 1, 1, 1),
    }
    return {name: np.asarray(value, np.float32) for name, value in result.items()}


def differences() -> Arrays:
    """Of weights, biases and norms."""
    return {
        f"{LINEAR[0]}.diff": _tensor("d1", *LINEAR[1]),
        f"{CONV[0]}.diff": _tensor("d2", *CONV[1]),
        f"{CONV[0]}.diff_b": _tensor("d3", CONV[1][0]),
        f"{NORM[0]}.w_norm": _tensor("d4", *NORM[1]),
        f"{NORM[0]}.b_norm": _tensor("d5", *NORM[1]),
        f"{LAYER_NORM[0]}.diff": _tensor("d6", *LAYER_NORM[1]),
        f"{POINT[0]}.diff_b": _tensor("d7", POINT[1][0]),
    }


def _lora(name: str, shape: tuple[int, ...], alpha: float) -> Arrays:
    ones = (1,) * len(shape[2:])
    return {
        f"{name}.lora_down.weight": _tensor(f"{name}down", RANK, *shape[1:]),
        f"{name}.lora_up.weight": _tensor(f"{name}up", shape[0], RANK, *ones),
        f"{name}.alpha": _alpha(alpha),
    }


def dora() -> Arrays:
    """Norms over the inputs, of a linear map and of kernels."""
    result: Arrays = {}
    for name, shape in (LINEAR, POINT, CONV):
        result |= _lora(name, shape, 2.0)
        result[f"{name}.dora_scale"] = 1 + np.abs(_tensor(f"{name}dora", shape[0], *[1] * (len(shape) - 1)))
    return result


def dora_inputs() -> Arrays:
    """Norms over the outputs, as LyCORIS trains them."""
    result: Arrays = {}
    for name, shape in (WIDE, CONV):
        result |= _lora(name, shape, 4.0)
        ones = [1] * len(shape[2:])
        result[f"{name}.dora_scale"] = 1 + np.abs(_tensor(f"{name}in", 1, shape[1], *ones))
    return result


CASES = {
    build.__name__: build
    for build in (loha, loha_tucker, lokr, lokr_tucker, locon_tucker, oft, differences, dora, dora_inputs)
}
