"""Limits by machine size; weights that go and come back; quantized sizes."""

import gc
import weakref

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.machine import GIB, MIB, MemoryPolicy
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.memory import apply_memory_limits
from swiftai_nb.diffusion.models.layers import Linear, QuantizedLinear


class TestPolicy:
    def test_applied_limits_are_mlxs_and_can_be_put_back(self):
        cache, memory = apply_memory_limits(MemoryPolicy.for_machine(8 * GIB))
        assert memory is not None
        assert mx.set_cache_limit(cache) == 1 * MIB
        assert mx.set_memory_limit(memory) == 3 * GIB


class TestLifetime:
    def test_nothing_is_loaded_before_it_is_needed(self, sd15_folder):
        pipeline = load_pipeline(sd15_folder)
        assert set(pipeline.components.values()) == {0}
        pipeline.encode_prompt("a cat")
        sizes = pipeline.components
        assert sizes["text_encoder"] > 0
        assert sizes["unet"] == sizes["vae"] == 0

    def test_each_stage_is_freed_and_comes_back_with_the_same_result(self, sd15_folder):
        pipeline = load_pipeline(sd15_folder, dtype="float32")

        def run():
            conditioning = pipeline.encode_prompt("a cat")
            pipeline.release_text_encoders()
            *_, last = pipeline.denoise(conditioning, width=32, height=32, steps=2, seed=3)
            pipeline.release_denoiser()
            return pipeline.decode(last.latents)

        first = run()
        assert pipeline.components["text_encoder"] == pipeline.components["unet"] == 0
        assert pipeline.components["vae"] > 0
        assert np.array_equal(run(), first)

    @pytest.mark.parametrize("stage", ["text_encoders", "denoiser", "decoder"])
    def test_released_networks_are_gone(self, sd15_folder, stage):
        pipeline = load_pipeline(sd15_folder)
        pipeline.preload()
        name = {"text_encoders": "text_encoder", "denoiser": "unet", "decoder": "vae"}[stage]
        network = weakref.ref(pipeline.networks[name].network)
        before = mx.get_active_memory()
        size = pipeline.components[name]
        getattr(pipeline, f"release_{stage}")()
        gc.collect()
        assert network() is None
        assert mx.get_active_memory() <= before - size

    def test_a_run_in_progress_does_not_keep_a_released_denoiser(self, sd15_folder):
        pipeline = load_pipeline(sd15_folder)
        steps = pipeline.denoise(pipeline.encode_prompt("a cat"), width=32, height=32, steps=4)
        next(steps)
        network = weakref.ref(pipeline.networks["unet"].network)
        pipeline.release_denoiser()
        gc.collect()
        assert network() is None

    def test_conditioning_outlives_the_text_encoder(self, sd15_folder):
        pipeline = load_pipeline(sd15_folder)
        conditioning = pipeline.encode_prompt("a cat")
        pipeline.release_text_encoders()
        assert np.isfinite(np.array(conditioning.prompt_embeds)).all()


def run_sdxl(pipeline):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=5)
    *_, last = pipeline.denoise(conditioning, width=64, height=64, steps=2, seed=1)
    return last.latents


@pytest.fixture(scope="module")
def whole(sdxl_folder):
    pipeline = load_pipeline(sdxl_folder, dtype="float32")
    return pipeline, run_sdxl(pipeline)


class TestQuantization:
    @pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.05), (4, 0.8)])
    def test_linear_maps_shrink_and_the_picture_stays_near(self, sdxl_folder, whole, bits, tolerance):
        pipeline = load_pipeline(sdxl_folder, dtype="float32", quantization_bits=bits)
        latents = run_sdxl(pipeline)
        expected = whole[1]
        assert 0 < np.abs(latents - expected).max() <= tolerance * np.abs(expected).max()
        assert pipeline.components["unet"] < whole[0].components["unet"]

    def test_only_linear_maps_with_fitting_inputs_are_packed_and_never_the_autoencoder(self, sdxl_folder):
        pipeline = load_pipeline(sdxl_folder, dtype="float32", quantization_bits=8)
        pipeline.preload()
        unet = [m for _, m in pipeline.networks["unet"].network.named_modules()]
        packed = [m for m in unet if isinstance(m, QuantizedLinear)]
        left = [m for m in unet if isinstance(m, Linear)]
        assert packed
        assert all(m.weight.shape[-1] % 64 for m in left)
        vae = pipeline.networks["vae"].network
        assert not any(isinstance(m, QuantizedLinear) for _, m in vae.named_modules())

    def test_peak_while_packing_stays_near_the_result(self, sdxl_folder):
        pipeline = load_pipeline(sdxl_folder, dtype="float32", quantization_bits=4)
        component = pipeline.networks["unet"]
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        _ = component.network
        largest = max(t.size_bytes for t in component.source.headers().tensors.values())
        assert mx.get_peak_memory() - before <= component.size_bytes + 4 * largest


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near_float32(sdxl_folder, dtype):
    def run(dtype):
        pipeline = load_pipeline(sdxl_folder, dtype=dtype)
        conditioning = pipeline.encode_prompt("a cat", guidance_scale=5)
        *_, last = pipeline.denoise(conditioning, width=64, height=64, steps=1, seed=1)
        return last.latents, pipeline.decode(last.latents).astype(int)

    (whole, picture), (half, rough) = run("float32"), run(dtype)
    limit = 0.02 if dtype == "float16" else 0.1
    assert np.abs(half - whole).max() <= limit * np.abs(whole).max()
    assert np.abs(rough - picture).mean() <= 8
