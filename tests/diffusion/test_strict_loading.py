"""Folders that are wrong: one clear error that names what, before anything is loaded."""

import json
import shutil

import numpy as np
import pytest

from swiftai_nb.core.errors import (
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.sd_folders import component_file, sd_weights, write_json, write_safetensors


def refused(folder, error=InvalidModelFilesError):
    with pytest.raises(error) as caught:
        load_pipeline(folder)
    assert "\n" not in caught.value.message
    return caught.value.message


def rewrite(folder, component, change):
    arrays = sd_weights("sd15")[component]
    change(arrays)
    write_safetensors(component_file(folder, component), arrays)


def test_missing_extra_and_misshapen_tensors_are_one_error(sd15_copy):
    def change(arrays):
        del arrays["conv_in.bias"]
        arrays["mystery.weight"] = np.zeros(3, np.float32)
        arrays["conv_out.weight"] = np.zeros((4, 32, 5, 5), np.float32)

    rewrite(sd15_copy, "unet", change)
    message = refused(sd15_copy)
    assert "unet" in message
    assert "1 missing: conv_in.bias" in message
    assert "mystery.weight" in message
    assert "conv_out.weight is [4, 32, 5, 5], needs [4, 32, 3, 3]" in message


def test_many_wrong_tensors_are_counted_and_some_named(sd15_copy):
    rewrite(sd15_copy, "vae", lambda arrays: [arrays.pop(name) for name in list(arrays)[:20]])
    message = refused(sd15_copy)
    assert "20 missing" in message
    assert "and 14 more" in message


def test_config_of_another_width_names_both_shapes(sd15_copy):
    path = sd15_copy / "text_encoder" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "intermediate_size": 65})
    message = refused(sd15_copy)
    assert "mlp.fc1.weight is [64, 32], needs [65, 32]" in message


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -40_000, -1])
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_truncated_file(sd15_copy, component, kept):
    path = component_file(sd15_copy, component)
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(sd15_copy)
    assert path.name in message
    if kept == -1:
        last = list(sd_weights("sd15")[component])[-1]
        assert last in message


def test_file_that_is_no_safetensors(sd15_copy):
    path = component_file(sd15_copy, "unet")
    path.write_bytes(b"<!DOCTYPE html>" * 1000)
    assert "web page" in refused(sd15_copy)
    path.write_bytes(b"\x00\x01\x02\x03" * 1000)
    assert "corrupt" in refused(sd15_copy)


def test_header_that_is_no_json(sd15_copy):
    path = component_file(sd15_copy, "unet")
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(bytes(content))
    assert "corrupt" in refused(sd15_copy)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 999_999_999_999]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 5]},
        {"dtype": "F32", "shape": [3], "data_offsets": [-12, 0]},
        {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3]},
        {"shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F77", "shape": [3], "data_offsets": [0, 12]},
        [1, 2],
    ],
)
def test_header_that_makes_no_sense(sd15_copy, entry):
    text = json.dumps({"conv_in.bias": entry}).encode()
    path = component_file(sd15_copy, "unet")
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    refused(sd15_copy)


def test_int8_without_its_scale(sd15_copy):
    def change(arrays):
        arrays["conv_in.weight"] = np.zeros(arrays["conv_in.weight"].shape, np.int8)

    rewrite(sd15_copy, "unet", change)
    assert "conv_in.weight" in refused(sd15_copy)


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ],
)
def test_missing_file_is_named(sd15_copy, missing):
    (sd15_copy / missing).unlink()
    folder = missing.split("/")[0]
    assert folder in refused(sd15_copy)


@pytest.mark.parametrize("broken", ["model_index.json", "unet/config.json", "tokenizer/vocab.json"])
@pytest.mark.parametrize("content", ["{", "[]", "", "null"])
def test_broken_json_is_named(sd15_copy, broken, content):
    (sd15_copy / broken).write_text(content, encoding="utf-8")
    assert broken.split("/")[-1] in refused(sd15_copy)


def test_missing_shard_is_named(sd15_copy):
    index = sd15_copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    write_json(
        index, {"weight_map": {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}}
    )
    assert "x-00001-of-00002.safetensors" in refused(sd15_copy)


def test_index_cannot_reach_outside_the_folder(sd15_copy):
    index = sd15_copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}})
    refused(sd15_copy)


def test_pickles_are_refused(sd15_copy):
    path = component_file(sd15_copy, "unet")
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    assert "pickle" in refused(sd15_copy)


def test_other_family_names_itself_and_those_we_run(sd15_copy):
    index = sd15_copy / "model_index.json"
    write_json(
        index, {**json.loads(index.read_text(encoding="utf-8")), "_class_name": "KandinskyV22Pipeline"}
    )
    with pytest.raises(UnsupportedModelError, match="KandinskyV22Pipeline") as caught:
        load_pipeline(sd15_copy)
    assert "SDXL" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("unet", "class_embed_type", "timestep"),
        ("unet", "down_block_types", ["AttnDownBlock2D"] * 3),
        ("unet", "encoder_hid_dim_type", "text_proj"),
        ("unet", "in_channels", 9),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "latents_mean", [0.0] * 4),
        ("text_encoder", "hidden_act", "mish"),
    ],
)
def test_networks_we_lack_are_named(sd15_copy, component, field, value):
    path = sd15_copy / component / "config.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), field: value})
    with pytest.raises((UnsupportedModelError, InvalidModelFilesError)):
        load_pipeline(sd15_copy)


def test_a_unet_of_both_sdxl_encoders_is_refused_with_one(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "refiner")
    index = folder / "model_index.json"
    write_json(index, {**json.loads(index.read_text(encoding="utf-8")), "text_encoder": [None, None]})
    assert "which give 48 features" in refused(folder)


def test_no_such_folder(tmp_path):
    refused(tmp_path / "nowhere", ModelNotFoundError)


@pytest.mark.parametrize("bits", [0, 3, 7, 16, -4])
def test_bits_we_lack(sd15_folder, bits):
    with pytest.raises(InvalidInputError, match=str(bits)):
        load_pipeline(sd15_folder, quantization_bits=bits)


@pytest.mark.parametrize("dtype", ["float8", "int8", ""])
def test_dtypes_we_lack(sd15_folder, dtype):
    with pytest.raises(InvalidInputError):
        load_pipeline(sd15_folder, dtype=dtype)
