"""Numbers in forms that MLX does not read, against PyTorch's."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.weights.lora_files import load_lora
from swiftai_nb.diffusion.weights.stored import load_tensors
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import component_file, sd_weights, write_folder, write_safetensors

DTYPES = ("F8_E4M3", "F8_E5M2")
CODES = np.arange(256, dtype=np.uint8)


def table(dtype):
    """The numbers of all 256 codes, as `torch.float8_e4m3fn` and `torch.float8_e5m2` have them."""
    with np.load(REFERENCES / "float8.npz") as file:
        return file[dtype]


def nearest_codes(values, dtype):
    numbers = np.where(np.isfinite(table(dtype)), table(dtype), np.inf).astype(np.float64)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    at = np.clip(np.searchsorted(ordered, values), 1, len(ordered) - 1)
    takes_lower = values - ordered[at - 1] <= ordered[at] - values
    return order[at - takes_lower].astype(np.uint8)


def relabelled(path, arrays, dtype):
    """A safetensors file whose uint8 tensors are declared to be float8."""
    write_safetensors(path, arrays)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].replace(b'"U8"', f'"{dtype}"'.encode())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float8_code_is_the_number_of_pytorch(tmp_path, dtype):
    arrays = {"a.bias": np.ones(3, np.float32), "a.weight": CODES.reshape(16, 16)}
    tensors = load_tensors(relabelled(tmp_path / "x.safetensors", arrays, dtype))
    assert list(tensors) == ["a.bias", "a.weight"]
    assert tensors["a.weight"].dtype == mx.float16
    np.testing.assert_array_equal(np.array(tensors["a.weight"]), table(dtype).reshape(16, 16))


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("scale", [np.float32([0.37]), np.float32(0.37).reshape(()), np.linspace(1, 9, 16)])
def test_scaled_float8_is_multiplied_in_float32(tmp_path, name, scale):
    arrays = {
        "scaled_fp8": np.zeros(2, np.uint8),
        "a.weight": (CODES % 120).reshape(16, 16),
        f"a.{name}": scale.astype(np.float32),
        "a.scale_input": np.ones(1, np.float32),
    }
    tensors = load_tensors(relabelled(tmp_path / "x.safetensors", arrays, "F8_E4M3"))
    assert list(tensors) == ["a.weight"]
    values = table("F8_E4M3")[CODES % 120].reshape(16, 16).astype(np.float32)
    factors = scale.astype(np.float32).reshape((-1, 1) if scale.size > 1 else ())
    np.testing.assert_array_equal(np.array(tensors["a.weight"]), values * factors)


def test_float64_is_read_as_float32(tmp_path):
    rng = np.random.default_rng(7)
    arrays = {
        "a.weight": rng.normal(size=(3, 5, 2)),
        "b.scale": np.float64(0.1).reshape(()),
        "c.bias": np.ones(2, np.float16),
        "d.empty": np.zeros((0, 4)),
    }
    write_safetensors(tmp_path / "x.safetensors", arrays)
    tensors = load_tensors(tmp_path / "x.safetensors")
    for name, values in arrays.items():
        expected = values.astype(np.float32) if values.dtype == np.float64 else values
        assert np.array(tensors[name]).dtype == expected.dtype
        np.testing.assert_array_equal(np.array(tensors[name]), expected)


def test_a_float64_folder_draws_what_its_float32_numbers_draw(tmp_path):
    weights = sd_weights("sd15")
    folders = [
        write_folder(
            tmp_path / np.dtype(dtype).name,
            "sd15",
            weights={part: {n: v.astype(dtype) for n, v in own.items()} for part, own in weights.items()},
        )
        for dtype in (np.float32, np.float64)
    ]
    np.testing.assert_array_equal(*[picture(load_pipeline(folder)) for folder in folders])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_float8_folder_draws_what_its_numbers_draw(tmp_path, dtype):
    weights = sd_weights("sd15")
    codes = {
        part: {n: nearest_codes(v, dtype) if v.ndim > 1 else v for n, v in arrays.items()}
        for part, arrays in weights.items()
    }
    widened = {
        part: {n: table(dtype)[v] if v.dtype == np.uint8 else v for n, v in arrays.items()}
        for part, arrays in codes.items()
    }
    plain = write_folder(tmp_path / "plain", "sd15", weights=widened)
    folder = shutil.copytree(plain, tmp_path / "float8")
    for part, arrays in codes.items():
        relabelled(component_file(folder, part), arrays, dtype)
    pictures = [picture(load_pipeline(path)) for path in (plain, folder)]
    np.testing.assert_array_equal(*pictures)


def picture(pipeline):
    conditioning = pipeline.encode_prompt("a photo of a cat", guidance_scale=7.5)
    for step in pipeline.denoise(conditioning, width=64, height=64, steps=2, seed=3):
        latents = step.latents
    return pipeline.decode(latents)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_float8_lora_is_read_as_its_numbers(tmp_path, dtype):
    arrays = {
        "lora_unet_x.lora_down.weight": CODES[:64].reshape(4, 16),
        "lora_unet_x.lora_up.weight": CODES[64:96].reshape(8, 4),
    }
    lora = load_lora(relabelled(tmp_path / "lora.safetensors", arrays, dtype))
    module = lora.modules["lora_unet_x"]
    np.testing.assert_array_equal(np.array(module.down), table(dtype)[:64].reshape(4, 16))
    np.testing.assert_array_equal(np.array(module.up), table(dtype)[64:96].reshape(8, 4))
