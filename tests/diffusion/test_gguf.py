"""Quantized GGUF files against their own dequantized numbers, those recorded with the `gguf` wheel among them."""

import re

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion.weights.gguf_blocks import repack_blocks, widen_blocks
from swiftai_nb.diffusion.weights.stored import load_tensors
from swiftai_nb.engine.kernel.memory_plan import plan_memory
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.gguf import QUANTIZED
from tests.diffusion import flux_folders
from tests.diffusion.loading import load_pipeline
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import sd_weights, write_folder
from tests.diffusion.single_files import ldm_unet
from tests.model_files.files import write_gguf


def recorded(dtype):
    """(blocks, their numbers) of the `gguf` wheel 0.19."""
    with np.load(REFERENCES / "gguf.npz") as file:
        return file[f"{dtype}_bytes"], file[dtype]


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_blocks_are_the_numbers_of_ggml(dtype):
    blocks, numbers = recorded(dtype)
    np.testing.assert_array_equal(np.array(widen_blocks(mx.array(blocks), dtype)).reshape(-1), numbers)


@pytest.mark.parametrize("dtype", [name for name, form in QUANTIZED.items() if form.packed_bits])
def test_repacked_blocks_are_the_same_numbers(dtype):
    blocks, numbers = recorded(dtype)
    packed = repack_blocks(mx.array(blocks), dtype, (2, 256))
    widened = mx.dequantize(*packed, group_size=32, bits=QUANTIZED[dtype].packed_bits)
    np.testing.assert_array_equal(np.array(widened).reshape(-1), numbers)


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_a_file_gives_its_tensors_packed_or_widened(tmp_path, dtype):
    blocks, numbers = recorded(dtype)
    tensors = {"a.weight": (dtype, (2, 256), blocks.tobytes()), "b.bias": ("F32", (2,), bytes(8))}
    path = write_gguf(tmp_path / "m.gguf", tensors)
    widened = load_tensors(path, is_packed=False)
    assert list(widened) == ["a.weight", "b.bias"]
    np.testing.assert_array_equal(np.array(widened["a.weight"]).reshape(-1), numbers.astype(np.float16))
    bits = QUANTIZED[dtype].packed_bits
    loaded = load_tensors(path)
    assert ("a.scales" in loaded) is (bits is not None)
    if bits is not None:
        assert loaded["a.weight"].shape == (2, 256 * bits // 32)


def q8_0(values):
    """(bytes, the numbers they stand for) of float32 [out, in]."""
    groups = values.reshape(-1, 32)
    d = (np.abs(groups).max(1, keepdims=True) / 127).astype(np.float16)
    scale = np.where(d == 0, 1, d.astype(np.float32))
    codes = np.clip(np.round(groups / scale), -127, 127).astype(np.int8)
    data = np.concatenate([d.view(np.uint8), codes.view(np.uint8)], axis=1)
    return data.tobytes(), (d.astype(np.float32) * codes).reshape(values.shape)


def q4_0(values):
    groups = values.reshape(-1, 32)
    d = (np.abs(groups).max(1, keepdims=True) / 7).astype(np.float16)
    scale = np.where(d == 0, 1, d.astype(np.float32))
    codes = np.clip(np.round(groups / scale) + 8, 0, 15).astype(np.uint8)
    data = np.concatenate([d.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)
    return data.tobytes(), (d.astype(np.float32) * (codes.astype(np.float32) - 8)).reshape(values.shape)


def quantize(arrays, form, name):
    """(tensors for a GGUF file, the numbers they stand for)."""
    stored, numbers = {}, {}
    for key, value in arrays.items():
        if value.ndim == 2 and value.shape[1] % 32 == 0 and key.endswith(".weight"):
            data, numbers[key] = form(value)
            stored[key] = (name, value.shape, data)
        else:
            stored[key] = ("F32", value.shape, value.tobytes())
            numbers[key] = value
    return stored, numbers


def picture(pipeline):
    conditioning = pipeline.encode_prompt("a photo of a cat", guidance_scale=7.5)
    for step in pipeline.denoise(conditioning, width=64, height=64, steps=2, seed=3):
        latents = step.latents
    return pipeline.decode(latents).astype(int)


@pytest.mark.parametrize(("form", "name"), [(q8_0, "Q8_0"), (q4_0, "Q4_0")])
def test_a_flux_transformer_draws_what_its_numbers_draw(tmp_path, form, name):
    weights = flux_folders.flux_weights()
    base = flux_folders.write_diffusers(tmp_path / "base", weights=weights)
    bfl = flux_folders.bfl_transformer(weights["transformer"])
    stored, numbers = quantize(bfl, form, name)
    path = write_gguf(tmp_path / "flux.gguf", stored)
    flux_folders.save(tmp_path / "flux.safetensors", numbers)
    pipeline = load_pipeline(path, base=base)
    drawn, reference = picture(pipeline), picture(load_pipeline(tmp_path / "flux.safetensors", base=base))
    assert np.abs(drawn - reference).max() <= 1
    transformer = pipeline.networks["transformer"]
    assert transformer.size_bytes < 0.6 * sum(v.nbytes for v in bfl.values())


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_unet_draws_what_its_numbers_draw(tmp_path, model):
    weights = sd_weights(model)
    base = write_folder(tmp_path / "base", model)
    stored, _ = quantize(ldm_unet(weights["unet"], model), q8_0, "Q8_0")
    path = write_gguf(tmp_path / "unet.gguf", stored)
    weights["unet"] = quantize(weights["unet"], q8_0, "Q8_0")[1]
    reference = write_folder(tmp_path / "reference", model, weights=weights)
    drawn, expected = picture(load_pipeline(path, base=base)), picture(load_pipeline(reference))
    assert np.abs(drawn - expected).max() <= 1


def test_the_memory_plan_counts_what_is_loaded(tmp_path):
    weights = flux_folders.flux_weights()
    base = flux_folders.write_diffusers(tmp_path / "base", weights=weights)
    stored, _ = quantize(flux_folders.bfl_transformer(weights["transformer"]), q4_0, "Q4_0")
    path = write_gguf(tmp_path / "flux.gguf", stored)
    plan = plan_memory(open_model(path, base=base), width=64, height=64, guided=False, bytes_per_weight=4)
    pipeline = load_pipeline(path, base=base)
    _ = pipeline.networks["transformer"].network
    held = pipeline.networks["transformer"].size_bytes
    assert plan.weights_bytes["transformer"] == pytest.approx(held, rel=0.02)


def test_a_name_without_a_network_is_one_line(tmp_path):
    from swiftai_nb.core.errors import UnsupportedModelError

    path = write_gguf(tmp_path / "llm.gguf", {"blk.0.attn_q.weight": ("F32", (2, 2), bytes(16))})
    with pytest.raises(UnsupportedModelError, match=re.escape("llm.gguf holds no model that is known")):
        load_pipeline(path)
