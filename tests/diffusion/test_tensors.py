"""Tensors of files under the names and shapes of our networks, read lazily."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.models.layers import Conv2d, Linear
from swiftai_nb.diffusion.weights.component import check_tensors, load_network
from swiftai_nb.diffusion.weights.flux_tensors import convert_clip
from swiftai_nb.diffusion.weights.tensors import TensorSource, rename, renamed_by


def source(path, arrays, rules=(), metadata=None):
    file = path / "model.safetensors"
    mx.save_safetensors(str(file), {n: mx.array(a) for n, a in arrays.items()}, metadata)
    return TensorSource("part", (file,), renamed_by(rules))


def test_rules_rename_and_drop_in_order():
    tensors = {"old.key.weight": mx.zeros(2), "position_ids": mx.zeros(1)}
    rules = (("position_ids$", None), (r"\.key\.", ".to_k."), ("^old", "new"))
    assert list(rename(tensors, rules)) == ["new.to_k.weight"]


@pytest.mark.parametrize("names", [("a.key", "a.to_k"), ("a.to_k", "a.key")])
def test_two_tensors_for_one_parameter_are_refused(names):
    with pytest.raises(InvalidModelFilesError, match=r"a\.to_k"):
        rename({name: mx.zeros(1) for name in names}, (("key$", "to_k"),))


def test_kernels_come_with_channels_last(tmp_path):
    weight = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
    opened = source(tmp_path, {"conv.weight": weight}).open()
    assert np.array_equal(np.array(opened["conv.weight"]), weight.transpose(0, 2, 3, 1))


def test_int8_tensors_are_multiplied_by_their_scales(tmp_path):
    arrays = {
        "weight": np.array([[1, -2], [3, 4]], np.int8),
        "weight_scale": np.array([0.5, 2.0], np.float32),
        "bias": np.array([1.0, 1.0], np.float32),
    }
    packed = source(tmp_path, arrays, metadata={"swiftai_packing": "int8-per-output-channel"})
    network = load_network(packed, lambda: Linear(2, 2), dtype=mx.float32)
    assert np.array(network.weight).tolist() == [[0.5, -1.0], [6.0, 8.0]]


def test_a_1x1_kernel_fits_a_linear_map_and_the_other_way_round(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    kernel = source(tmp_path, {"weight": values[:, :, None, None]})
    assert np.array_equal(
        load_network(kernel, lambda: Linear(3, 2, bias=False), dtype=mx.float32).weight, values
    )
    matrix = source(tmp_path, {"weight": values})
    conv = load_network(matrix, lambda: Conv2d(3, 2, kernel_size=1, bias=False), dtype=mx.float32)
    assert np.array_equal(np.array(conv.weight)[:, 0, 0], values)


def test_a_shape_that_only_has_the_same_size_does_not_fit():
    with pytest.raises(InvalidModelFilesError, match=r"weight is \[3, 2\], needs \[2, 3\]"):
        check_tensors(Linear(3, 2, bias=False), {"weight": mx.zeros((3, 2))}, component="part")


def test_tensors_that_cannot_be_converted_are_one_error(tmp_path):
    file = tmp_path / "model.safetensors"
    name = "text_model.embeddings.position_embedding"
    arrays = {
        "text_model.final_layer_norm.weight": mx.zeros(64),
        f"{name}.weight": mx.zeros((4, 8), dtype=mx.uint32),
        f"{name}.scales": mx.zeros((4, 1)),
    }
    mx.save_safetensors(str(file), arrays)
    with pytest.raises(InvalidModelFilesError, match="text_encoder"):
        TensorSource("text_encoder", (file,), convert_clip).open()
