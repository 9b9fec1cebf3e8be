"""The SDXL refiner: it only refines a picture, from a folder and from one file."""

import json
import shutil

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.variants import DiffusionVariant
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import write_folder, write_json, write_safetensors
from tests.diffusion.single_files import checkpoint_tensors, write_checkpoint

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {model: write_folder(root / model, model) for model in ("sdxl", "sdxl_refiner")}


def steps_of(pipeline, **settings):
    conditioning = pipeline.encode_prompt("a photo of a cat", guidance_scale=5.0)
    given = {"image_latents": pipeline.encode_image(tiny_sd.picture((64, 64))), "steps": 10, "seed": 3}
    return list(pipeline.denoise(conditioning, width=64, height=64, **{**given, **settings}))


def refined(pipeline):
    return steps_of(pipeline)[-1].latents


def test_a_picture_changes_by_three_tenths(folders):
    pipeline = load_pipeline(folders["sdxl_refiner"])
    assert len(steps_of(pipeline)) == 3
    assert len(steps_of(pipeline, mask=np.ones((8, 8, 1), np.float32))) == 3
    assert len(steps_of(pipeline, strength=0.5)) == 5
    assert len(steps_of(pipeline, strength=0.0)) == 1


def test_without_a_picture_nothing_is_drawn(folders):
    model = load_pipeline(folders["sdxl_refiner"])
    with pytest.raises(InvalidInputError, match="only refines a given picture"):
        steps_of(model, image_latents=None)


def test_its_defaults_are_those_of_sdxl(folders):
    model = open_model(folders["sdxl_refiner"])
    assert (model.variant, model.defaults.guidance_scale) == (DiffusionVariant.SDXL, 5.0)
    assert model.missing == ()
    assert set(model.components) == {"text_encoder_2", "unet", "vae"}


@pytest.mark.parametrize("base", ["sdxl_refiner", "sdxl"])
def test_a_file_draws_what_its_folder_draws(folders, tmp_path, base):
    path = write_checkpoint(tmp_path / "refiner.safetensors", "sdxl_refiner")
    if base == "sdxl":  # the tokenizer of an SDXL model is the only part that is taken
        shutil.copytree(folders["sdxl"] / "tokenizer_2", tmp_path / "sdxl" / "tokenizer_2")
        write_json(tmp_path / "sdxl" / "model_index.json", {"force_zeros_for_empty_prompt": True})
        unet = tiny_sd.MODELS["sdxl_refiner"]["unet"]
        write_json(tmp_path / "sdxl" / "unet" / "config.json", unet)
        vae = {**tiny_sd.VAE, "scaling_factor": 0.13025}
        write_json(tmp_path / "sdxl" / "vae" / "config.json", vae)
        text = tiny_sd.MODELS["sdxl_refiner"]["text_encoder_2"]
        write_json(tmp_path / "sdxl" / "text_encoder_2" / "config.json", text)
        folders = {**folders, "sdxl": tmp_path / "sdxl"}
    pipeline, reference = load_pipeline(path, base=folders[base]), load_pipeline(folders["sdxl_refiner"])
    np.testing.assert_array_equal(refined(pipeline), refined(reference))


def test_a_file_of_the_unet_alone_is_told_by_its_width(tmp_path):
    arrays = {n: v for n, v in checkpoint_tensors("sdxl_refiner").items() if n.startswith(UNET)}
    arrays[f"{UNET}input_blocks.1.0.in_layers.2.weight"] = np.zeros((384, 32, 3, 3), np.float32)
    write_safetensors(tmp_path / "unet.safetensors", arrays)
    model = open_model(tmp_path / "unet.safetensors")
    assert model.family.name == "Stable Diffusion XL refiner"
    assert model.missing == ("text_encoder_2", "vae", "tokenizer_2")


def test_a_file_without_a_tokenizer_names_it(tmp_path):
    path = write_checkpoint(tmp_path / "refiner.safetensors", "sdxl_refiner")
    with pytest.raises(InvalidModelFilesError, match=r"lacks tokenizer_2\n"):
        load_pipeline(path)


@pytest.mark.parametrize(
    ("entry", "is_refiner"),
    [([None, None], True), (None, True), ([], True), (["transformers", "CLIPTextModel"], False)],
)
def test_the_index_tells_a_refiner_from_a_base_model(folders, tmp_path, entry, is_refiner):
    folder = shutil.copytree(folders["sdxl_refiner"], tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    write_json(folder / "model_index.json", {**index, "text_encoder": entry})
    assert (open_model(folder).family.refining_strength is not None) == is_refiner


@pytest.mark.parametrize("width", [3, 4, 16, 40])
def test_a_unet_that_reads_other_numbers_is_refused(folders, tmp_path, width):
    folder = shutil.copytree(folders["sdxl_refiner"], tmp_path / "model")
    unet = {**tiny_sd.MODELS["sdxl_refiner"]["unet"], "addition_time_embed_dim": width}
    write_json(folder / "unet" / "config.json", unet)
    with pytest.raises(InvalidModelFilesError, match="48 features, 32 pooled"):
        load_pipeline(folder)


def test_the_score_of_a_picture_without_the_prompt_is_lower(folders):
    pipeline, seen = load_pipeline(folders["sdxl_refiner"], dtype="float32"), []
    network = pipeline.networks["unet"].network
    pipeline.networks["unet"]._network = lambda *a, **k: seen.append(k["time_ids"]) or network(*a, **k)
    steps_of(pipeline)
    ids = {tuple(row) for call in seen for row in np.array(call).tolist()}
    assert ids == {(64.0, 64.0, 0.0, 0.0, 6.0), (64.0, 64.0, 0.0, 0.0, 2.5)}
