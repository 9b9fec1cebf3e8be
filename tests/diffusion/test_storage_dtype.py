"""Large 16-bit weights stay 16 bits on the CPU, and nothing else changes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import Conv2d, Embedding, GroupNorm, Linear
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.precision import storage_dtype
from swiftai_nb.diffusion.weights.tensors import TensorSource


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = Embedding(600, 256)
        self.norm = GroupNorm(8, 256, eps=1e-5)
        self.small = Linear(256, 256)
        self.large = Linear(256, 1024)
        self.conv = Conv2d(256, 128)

    def __call__(self, ids):
        x = self.norm(self.embedding(ids))
        wide = self.large(self.small(x))
        return mx.concatenate([wide.reshape(1, -1), self.conv(x).reshape(1, -1)], axis=1)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    tensors = {}
    for name, parameter in nn.utils.tree_flatten(Network().parameters()):
        shape = parameter.shape
        if len(shape) == 4:
            shape = (shape[0], shape[3], *shape[1:3])
        tensors[name] = mx.array(random.standard_normal(shape, dtype=np.float32) * 0.1).astype(mx.float16)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    return tmp_path


def test_large_maps_stay_halves_on_the_cpu_and_give_the_same_numbers(folder, monkeypatch):
    component = Component(TensorSource.in_folder(folder, ()), Network, dtype=mx.float32)
    network = component.network
    kept = {n for n, p in nn.utils.tree_flatten(network.parameters()) if p.dtype == mx.float16}
    assert kept == (
        {"embedding.weight", "large.weight", "conv.weight"} if mx.default_device() == mx.cpu else set()
    )

    ids = mx.array(np.arange(64).reshape(1, 8, 8))
    got = np.array(network(ids))
    monkeypatch.setattr(
        "swiftai_nb.diffusion.weights.component.storage_dtype", lambda stored, compute, size: compute
    )
    component.release()
    assert {p.dtype for _, p in nn.utils.tree_flatten(component.network.parameters())} == {mx.float32}
    expected = np.array(component.network(ids))
    assert got.dtype == expected.dtype
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_half_precision_and_quantization_are_as_asked(folder):
    half = Component(TensorSource.in_folder(folder, ()), Network, dtype=mx.bfloat16).network
    assert {p.dtype for _, p in nn.utils.tree_flatten(half.parameters())} == {mx.bfloat16}
    packed = Component(
        TensorSource.in_folder(folder, ()), Network, dtype=mx.float32, quantization_bits=8
    ).network
    assert packed.large.weight.dtype == mx.uint32
    assert packed.large.scales.dtype == mx.float32


def test_float32_files_and_small_weights_have_the_compute_dtype():
    assert storage_dtype(mx.float32, mx.float32, size=1 << 20) == mx.float32
    assert storage_dtype(mx.float16, mx.float32, size=1000) == mx.float32
    assert storage_dtype(mx.float16, mx.bfloat16, size=1 << 20) == mx.bfloat16


def test_a_cancel_takes_effect_between_two_tensors_and_loading_works_again(folder):
    component = Component(TensorSource.in_folder(folder, ()), Network, dtype=mx.float32)
    calls = []

    def cancel():
        calls.append(1)
        if len(calls) == 3:
            raise GenerationCancelledError

    ops.set_block_callback(cancel)
    try:
        with pytest.raises(GenerationCancelledError):
            _ = component.network
    finally:
        ops.set_block_callback(None)
    assert not component.is_loaded
    assert component.network.large.weight.shape == (1024, 256)
