"""Every way published Stable Diffusion folders are laid out gives the same networks."""

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from swiftai_nb.diffusion import load_pipeline
from tests.diffusion.sd_folders import component_file, sd_weights, write_folder, write_json, write_safetensors


def parameters(pipeline):
    return {
        f"{name}.{path}": np.array(value)
        for name, component in pipeline.networks.items()
        for path, value in tree_flatten(component.network.parameters())
    }


@pytest.fixture(scope="module")
def plain(sd15_folder):
    return parameters(load_pipeline(sd15_folder, dtype="float32"))


def assert_same(folder, plain, *, tolerance=0.0):
    loaded = parameters(load_pipeline(folder, dtype="float32"))
    assert loaded.keys() == plain.keys()
    for name, value in loaded.items():
        assert np.abs(value - plain[name]).max() <= tolerance * max(1, np.abs(plain[name]).max()), name


def renamed(weights, component, pattern, replacement):
    changed = {re.sub(pattern, replacement, name): value for name, value in weights[component].items()}
    assert changed.keys() != weights[component].keys()
    return {**weights, component: changed}


def test_fp16_file_names(tmp_path, plain):
    folder = write_folder(tmp_path / "m", "sd15", weights={})
    for component, arrays in sd_weights("sd15").items():
        halves = {name: value.astype(np.float16) for name, value in arrays.items()}
        write_safetensors(component_file(folder, component, ".fp16"), halves)
    assert_same(folder, plain, tolerance=1e-3)


def test_plain_file_is_preferred_for_float32_and_half_for_float16(sd15_copy):
    zeros = {name: np.zeros_like(array, np.float16) for name, array in sd_weights("sd15")["unet"].items()}
    write_safetensors(component_file(sd15_copy, "unet", ".fp16"), zeros)

    def first_weight(dtype):
        return np.array(load_pipeline(sd15_copy, dtype=dtype).networks["unet"].network.conv_in.weight)

    assert first_weight("float32").any()
    assert not first_weight("float16").any()


@pytest.mark.parametrize("middle", ["-{:05d}-of-00003", ".fp16-{:05d}-of-00003", "-{:05d}-of-00003.fp16"])
@pytest.mark.parametrize("with_index", [True, False])
def test_shards(tmp_path, plain, middle, with_index):
    folder = write_folder(tmp_path / "m", "sd15")
    arrays = sd_weights("sd15")["unet"]
    component_file(folder, "unet").unlink()
    where = {}
    for i in range(3):
        part = dict(list(arrays.items())[i::3])
        path = component_file(folder, "unet", middle.format(i + 1))
        write_safetensors(path, part)
        where |= dict.fromkeys(part, path.name)
    if with_index:
        variant = ".fp16" if "fp16" in middle else ""
        index = folder / "unet" / f"diffusion_pytorch_model.safetensors.index{variant}.json"
        write_json(index, {"metadata": {}, "weight_map": where})
    assert_same(folder, plain)


def test_text_encoder_without_prefix_as_transformers_5_saves_it(tmp_path, plain):
    weights = renamed(sd_weights("sd15"), "text_encoder", r"^text_model\.", "")
    assert_same(write_folder(tmp_path / "m", "sd15", weights=weights), plain)


def test_position_ids_of_old_files_are_ignored(tmp_path, plain):
    weights = sd_weights("sd15")
    weights["text_encoder"]["text_model.embeddings.position_ids"] = np.arange(77, dtype=np.int64)[None]
    assert_same(write_folder(tmp_path / "m", "sd15", weights=weights), plain)


def test_projection_that_a_plain_text_encoder_does_not_use_is_ignored(tmp_path, plain):
    weights = sd_weights("sd15")
    weights["text_encoder"]["text_projection.weight"] = np.zeros((32, 32), np.float32)
    assert_same(write_folder(tmp_path / "m", "sd15", weights=weights), plain)


@pytest.mark.parametrize("as_kernels", [False, True])
def test_vae_attention_names_of_2022(tmp_path, plain, as_kernels):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = sd_weights("sd15")
    vae = {}
    for name, value in weights["vae"].items():
        part = next((new for new in old if new in name), None)
        before = name if part is None else name.replace(part, old[part])
        as_kernel = as_kernels and part is not None and value.ndim == 2
        vae[before] = value[:, :, None, None] if as_kernel else value
    assert vae.keys() != weights["vae"].keys()
    assert_same(write_folder(tmp_path / "m", "sd15", weights={**weights, "vae": vae}), plain)


def test_linear_maps_stored_as_1x1_kernels_and_the_other_way_round(tmp_path, plain):
    weights = sd_weights("sd15")
    projections = [name for name in weights["unet"] if re.search(r"proj_(in|out)\.weight", name)]
    assert projections
    for name in projections:
        assert weights["unet"][name].ndim == 4
        weights["unet"][name] = weights["unet"][name][:, :, 0, 0]
    assert_same(write_folder(tmp_path / "m", "sd15", weights=weights), plain)


def test_tokenizer_json_alone(sd15_copy):
    before = load_pipeline(sd15_copy).encode_prompt("a cat", guidance_scale=1)
    folder = sd15_copy / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    write_json(folder / "tokenizer.json", {"model": {"vocab": vocabulary, "merges": merges}})
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    after = load_pipeline(sd15_copy).encode_prompt("a cat", guidance_scale=1)
    assert mx.array_equal(before.prompt_embeds, after.prompt_embeds)


def test_int8_per_output_channel(sd15_copy, plain):
    packed = {}
    for name, value in sd_weights("sd15")["unet"].items():
        if value.ndim < 2:
            packed[name] = value
            continue
        scale = np.abs(value.reshape(len(value), -1)).max(1) / 127
        packed[name] = np.round(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
        packed[f"{name}_scale"] = scale.astype(np.float32)
    path = component_file(sd15_copy, "unet")
    write_safetensors(path, packed, {"swiftai_packing": "int8-per-output-channel"})
    assert_same(sd15_copy, plain, tolerance=1e-2)


def test_names_decide_nothing(sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "black-forest-labs--FLUX.1-sdxl-turbo")
    assert type(load_pipeline(folder)).__name__ == "StableDiffusionPipeline"
