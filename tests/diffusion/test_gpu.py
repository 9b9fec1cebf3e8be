"""What a GPU is given: fused operations, filled heads, pauses for a cancel, float32 decoders."""

from __future__ import annotations

import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.machine import GIB, MIB, MemoryPolicy
from swiftai_nb.diffusion import gpu, load_pipeline, ops
from swiftai_nb.diffusion.models.flux_transformer import (
    apply_rotary,
    gated_sum,
    rotary_embedding,
    scale_shift,
)
from tests.diffusion.sd_folders import write_folder


@pytest.fixture
def on_gpu(monkeypatch):
    """GPU branches, computed by MLX's CPU kernels."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))


@pytest.fixture
def on_metal(monkeypatch, on_gpu):
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)


class TestHeads:
    @pytest.mark.parametrize(
        ("width", "filling"), [(40, 24), (64, 0), (80, 0), (88, 8), (128, 0), (160, 32), (8, 0), (512, 0)]
    )
    def test_are_filled_up_to_a_width_of_metals_fused_kernel(self, on_metal, width, filling):
        assert gpu.head_filling(width) == filling

    def test_stay_as_they_are_on_cuda_and_on_the_cpu(self, on_gpu, monkeypatch):
        assert gpu.head_filling(40) == 0
        monkeypatch.undo()
        assert gpu.head_filling(40) == 0

    @pytest.mark.parametrize("masked", [False, True])
    def test_filled_ones_attend_to_the_same(self, on_metal, monkeypatch, masked):
        rng = np.random.default_rng(0)
        q, k, v = (mx.array(rng.standard_normal((2, 3, 7, 40)).astype(np.float32)) for _ in range(3))
        mask = mx.array(np.tri(7, dtype=bool)) if masked else None
        filled = ops.attention(q, k, v, scale=40**-0.5, mask=mask)
        monkeypatch.undo()
        plain = mx.fast.scaled_dot_product_attention(q, k, v, scale=40**-0.5, mask=mask)
        assert filled.shape == plain.shape
        np.testing.assert_allclose(np.array(filled), np.array(plain), atol=1e-6)


class TestPauses:
    def test_a_slow_block_is_evaluated_and_the_callback_asked(self, on_gpu, monkeypatch):
        clock = _Clock(monkeypatch, block_s=0.5)
        assert clock.evaluated_blocks(12) == [4, 5, 6, 7, 8, 9, 10, 11, 12]

    def test_fast_blocks_are_evaluated_ever_more_rarely(self, on_gpu, monkeypatch):
        clock = _Clock(monkeypatch, block_s=0.005)
        evaluated = clock.evaluated_blocks(400)
        assert evaluated[:2] == [4, 20]
        gaps = np.diff(evaluated)
        assert gaps.max() == 50  # a quarter of a second of work
        assert len(evaluated) < 12

    def test_a_cancel_takes_effect_within_a_step(self, on_gpu, tmp_path):
        pipeline = load_pipeline(write_folder(tmp_path / "sd15", "sd15"), dtype="float32")
        conditioning = pipeline.encode_prompt("a cat", guidance_scale=1.0)

        def cancelled() -> None:
            raise KeyboardInterrupt

        ops.set_block_callback(cancelled)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(iter(pipeline.denoise(conditioning, width=64, height=64, steps=1, seed=0)))
        finally:
            ops.set_block_callback(None)


class _Clock:
    """Evaluations that take a fixed time for every block since the last one."""

    def __init__(self, monkeypatch, *, block_s: float) -> None:
        self._now_s, self._block_s, self._blocks, self._last = 0.0, block_s, 0, 0
        self._evaluated: list[int] = []
        monkeypatch.setattr(gpu.time, "monotonic", lambda: self._now_s)
        monkeypatch.setattr(mx, "eval", self._evaluate)

    def _evaluate(self, *_: mx.array) -> None:
        self._now_s += (self._blocks - self._last) * self._block_s
        self._last = self._blocks
        self._evaluated.append(self._blocks)

    def evaluated_blocks(self, count: int) -> list[int]:
        ops.set_block_callback(None)  # another network
        for _ in range(count):
            self._blocks += 1
            ops.checkpoint(mx.zeros(()))
        return self._evaluated


@pytest.mark.cpu
@pytest.mark.skipif(shutil.which("c++") is None, reason="compiling for a CPU takes a C++ compiler")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_fused_operations_give_the_same_numbers_at_every_shape(on_gpu, monkeypatch, dtype):
    def results():
        rng = np.random.default_rng(0)
        for batch, length, width in ((1, 5, 8), (2, 7, 16), (1, 5, 8)):
            x = mx.array(rng.standard_normal((batch, length, width)).astype(np.float32)).astype(dtype)
            gate = mx.array(rng.standard_normal((batch, 1, width)).astype(np.float32)).astype(dtype)
            positions = np.arange(length * 3.0).reshape(length, 3)
            rotary = rotary_embedding(positions, (width // 2, width // 4, width // 4))
            yield apply_rotary(x[:, None], rotary)
            yield scale_shift(x, gate, gate)
            yield gated_sum(x, gate, x)
            yield ops.silu(x)

    fused = [np.array(array.astype(mx.float32)) for array in results()]
    monkeypatch.undo()
    for one, other in zip(fused, results(), strict=True):
        np.testing.assert_allclose(
            one, np.array(other.astype(mx.float32)), atol=2e-2 if dtype != mx.float32 else 1e-6
        )


@pytest.mark.parametrize("name", ["sd15", "sd21_v", "sdxl"])
def test_half_precision_models_decode_in_float32(on_gpu, tmp_path, name):
    pipeline = load_pipeline(write_folder(tmp_path / name, name))
    dtypes = {part.name: part.dtype for part in pipeline.networks.values()}
    assert dtypes.pop("vae") == mx.float32
    assert set(dtypes.values()) == {mx.float16}


@pytest.mark.cpu
def test_weights_are_read_together_on_a_gpu_and_one_by_one_on_a_cpu(on_gpu, monkeypatch):
    assert gpu.loaded_together_bytes() == 256 * MIB
    monkeypatch.undo()
    assert gpu.loaded_together_bytes() == 0


class TestMemory:
    @pytest.mark.parametrize(
        ("total", "cache"), [(8 * GIB, 512 * MIB), (16 * GIB, 2 * GIB), (64 * GIB, 2 * GIB)]
    )
    def test_more_freed_arrays_are_kept_and_nothing_is_limited(self, total, cache):
        policy = MemoryPolicy.for_machine(total, on_gpu=True)
        assert (policy.cache_limit_bytes, policy.memory_limit_bytes) == (cache, None)

    def test_is_what_metal_recommends(self, on_metal, monkeypatch):
        recommended = {"max_recommended_working_set_size": 12 * GIB, "memory_size": 18 * GIB}
        monkeypatch.setattr(mx, "device_info", lambda: recommended)
        assert gpu.usable_memory_bytes() == 12 * GIB
        assert gpu.memory_policy() == MemoryPolicy.for_machine(12 * GIB, on_gpu=True)

    def test_is_the_free_video_memory_of_a_cuda_device(self, on_gpu, monkeypatch):
        monkeypatch.setattr(mx, "device_info", lambda: {"free_memory": 7 * GIB, "total_memory": 8 * GIB})
        assert gpu.usable_memory_bytes() == 7 * GIB
        assert gpu.memory_policy() == MemoryPolicy.for_machine(8 * GIB, on_gpu=True)
