"""Models in one file draw the pictures of the folders they were made of."""

import shutil

import numpy as np
import pytest

from swiftai_nb.core.errors import AIError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.weights.ldm_tensors import convert_ldm_unet
from swiftai_nb.model_files.folder import open_model
from tests.diffusion import flux_folders
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import sd_weights, write_folder, write_json, write_safetensors
from tests.diffusion.single_files import checkpoint_tensors, flux_tensors, write_checkpoint

MODELS = ("sd15", "sd21_v", "sdxl", "lcm")


def picture(pipeline, *, side=64, steps=2):
    conditioning = pipeline.encode_prompt("a photo of a cat", guidance_scale=7.5)
    for step in pipeline.denoise(conditioning, width=side, height=side, steps=steps, seed=3):
        latents = step.latents
    return pipeline.decode(latents)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {model: write_folder(root / model, model) for model in MODELS}


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    return flux_folders.write_diffusers(tmp_path_factory.mktemp("flux") / "model")


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_draws_what_its_folder_draws(folders, tmp_path, model):
    path = write_checkpoint(tmp_path / "tune.safetensors", model)
    pipeline, reference = load_pipeline(path, base=folders[model]), load_pipeline(folders[model])
    assert pipeline.defaults.scheduler == reference.defaults.scheduler
    assert pipeline.defaults.width == reference.defaults.width
    np.testing.assert_array_equal(picture(pipeline), picture(reference))


def test_weights_of_the_base_are_not_used_where_the_file_has_its_own(folders, tmp_path):
    arrays = {n: v * 0.5 if "attn2" in n else v for n, v in checkpoint_tensors("sd15").items()}
    write_safetensors(tmp_path / "tune.safetensors", arrays)
    weights = sd_weights("sd15")
    weights["unet"] = {n: v * 0.5 if "attn2" in n else v for n, v in weights["unet"].items()}
    reference = write_folder(tmp_path / "folder", "sd15", weights=weights)
    drawn = picture(load_pipeline(tmp_path / "tune.safetensors", base=folders["sd15"]))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(reference)))


def test_a_base_needs_tokenizers_only(folders, tmp_path):
    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    shutil.copytree(folders["sd15"] / "tokenizer", tmp_path / "parts" / "tokenizer")
    model = open_model(path, base=tmp_path / "parts")
    assert model.missing == ()
    assert model.defaults.scheduler == "pndm"
    assert (model.defaults.width, model.defaults.steps) == (512, 20)
    assert model.components["vae"].values["scaling_factor"] == 0.18215


def test_ema_weights_beside_the_others_are_left_out(folders, tmp_path):
    path = write_checkpoint(tmp_path / "ema.safetensors", "sd15", ema=True)
    drawn = picture(load_pipeline(path, base=folders["sd15"]))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(folders["sd15"])))


def test_half_precision_files_draw_the_picture_of_their_numbers(folders, tmp_path):
    arrays = {n: v.astype(np.float16) for n, v in checkpoint_tensors("sd15").items()}
    write_safetensors(tmp_path / "half.safetensors", arrays)
    weights = {
        part: {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in arrays.items()}
        for part, arrays in sd_weights("sd15").items()
    }
    reference = write_folder(tmp_path / "folder", "sd15", weights=weights)
    drawn = picture(load_pipeline(tmp_path / "half.safetensors", base=folders["sd15"]))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(reference)))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_unet_alone_takes_the_rest_from_its_base(folders, tmp_path, prefix):
    own = "model.diffusion_model."
    arrays = checkpoint_tensors("sdxl")
    unet = {prefix + n.removeprefix(own): v for n, v in arrays.items() if n.startswith(own)}
    unet["global_step"] = np.zeros(1, np.float32)
    write_safetensors(tmp_path / "unet.safetensors", unet)
    drawn = picture(load_pipeline(tmp_path / "unet.safetensors", base=folders["sdxl"]))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(folders["sdxl"])))


def test_a_text_projection_stored_as_a_linear_map_is_read(folders, tmp_path):
    arrays = checkpoint_tensors("sdxl")
    name = "conditioner.embedders.1.model.text_projection"
    arrays[f"{name}.weight"] = arrays.pop(name).T.copy()
    write_safetensors(tmp_path / "xl.safetensors", arrays)
    drawn = picture(load_pipeline(tmp_path / "xl.safetensors", base=folders["sdxl"]))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(folders["sdxl"])))


def test_every_name_of_a_unet_is_mapped(folders):
    for model in MODELS:
        arrays = checkpoint_tensors(model)
        own = "model.diffusion_model."
        unet = {n.removeprefix(own): v for n, v in arrays.items() if n.startswith(own)}
        assert set(convert_ldm_unet(unet)) == set(sd_weights(model)["unet"])


@pytest.mark.parametrize(
    ("is_whole", "prefix"),
    [(True, "model.diffusion_model."), (False, "model.diffusion_model."), (False, "")],
)
def test_flux_draws_what_its_folder_draws(flux_folder, tmp_path, is_whole, prefix):
    path = tmp_path / "flux.safetensors"
    flux_folders.save(path, flux_tensors(is_whole=is_whole, prefix=prefix))
    if is_whole:
        base = tmp_path / "parts"
        flux_folders.write_tokenizers(base)
    else:
        base = flux_folder
    drawn = picture(load_pipeline(path, base=base))
    np.testing.assert_array_equal(drawn, picture(load_pipeline(flux_folder)))


def test_flux_dev_is_told_by_its_guidance_input(flux_folder, tmp_path):
    path = tmp_path / "flux.safetensors"
    flux_folders.save(path, flux_tensors(dev=True))
    pipeline = load_pipeline(path, base=flux_folder)
    assert (pipeline.defaults.steps, pipeline.defaults.guidance_scale) == (28, 3.5)
    reference = flux_folders.write_diffusers(tmp_path / "dev", dev=True)
    np.testing.assert_array_equal(picture(pipeline), picture(load_pipeline(reference)))


class TestFacts:
    def test_a_distilled_base_gives_neither_sampler_nor_size(self, folders, tmp_path):
        base = shutil.copytree(folders["sdxl"], tmp_path / "turbo")
        turbo = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
        write_json(base / "scheduler" / "scheduler_config.json", turbo)
        model = open_model(write_checkpoint(tmp_path / "xl.safetensors", "sdxl"), base=base)
        assert (model.defaults.steps, model.defaults.guidance_scale) == (30, 5.0)
        assert (model.defaults.width, model.defaults.scheduler) == (1024, "euler")

    @pytest.mark.parametrize("said", ["v", "v_prediction"])
    def test_metadata_tell_a_velocity_model(self, folders, tmp_path, said):
        metadata = {"modelspec.prediction_type": said}
        path = write_checkpoint(tmp_path / "v.safetensors", "sdxl", metadata=metadata)
        config = open_model(path, base=folders["sdxl"]).scheduler_config
        assert config["prediction_type"] == "v_prediction"

    def test_marks_tell_a_velocity_model_with_zero_terminal_snr(self, folders, tmp_path):
        arrays = checkpoint_tensors("sdxl")
        arrays |= {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}
        write_safetensors(tmp_path / "v.safetensors", arrays)
        config = open_model(tmp_path / "v.safetensors", base=folders["sdxl"]).scheduler_config
        assert config["prediction_type"] == "v_prediction"
        assert config["rescale_betas_zero_snr"]
        assert config["timestep_spacing"] == "trailing"

    @pytest.mark.parametrize(("spread", "prediction"), [(0.2, "v_prediction"), (0.02, "epsilon")])
    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    def test_numbers_tell_a_velocity_model_of_stable_diffusion_2(self, tmp_path, spread, prediction, dtype):
        path = tmp_path / "v.safetensors"
        numbers = np.random.default_rng(3).normal(0, spread, 320)
        write_safetensors(path, {n: v.astype(dtype) for n, v in _published_sd2(numbers).items()})
        model = open_model(path)
        assert model.scheduler_config["prediction_type"] == prediction
        assert model.defaults.width == (768 if prediction == "v_prediction" else 512)


def _published_sd2(numbers):
    """The few tensors of a Stable Diffusion 2 that decide what it is."""
    own = "model.diffusion_model."
    empty = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 1, 1),
        "input_blocks.1.1.proj_in.weight": (320, 320),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "input_blocks.3.0.op.weight": (1, 1, 1, 1),
        "out.2.weight": (4, 320, 3, 3),
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    }
    arrays = {own + name: np.zeros(shape, np.float32) for name, shape in empty.items()}
    return arrays | {own + "output_blocks.11.1.transformer_blocks.0.norm1.bias": numbers}


def _with_input(channels):
    def change(arrays):
        name = "model.diffusion_model.input_blocks.0.0.weight"
        arrays[name] = np.zeros((32, channels, 3, 3), np.float32)

    return change


@pytest.mark.parametrize(
    ("model", "change", "what"),
    [
        ("sd21_v", _with_input(5), "a depth model of Stable Diffusion"),
        ("sd15", _with_input(7), "an upscaler of Stable Diffusion"),
        ("sdxl", _with_input(6), "a model with 6 input channels of Stable Diffusion XL"),
    ],
)
def test_other_purposes_are_refused_by_name(folders, tmp_path, model, change, what):
    arrays = checkpoint_tensors(model)
    change(arrays)
    write_safetensors(tmp_path / "x.safetensors", arrays)
    with pytest.raises(UnsupportedModelError, match=f"holds {what}, which the local engine cannot run"):
        load_pipeline(tmp_path / "x.safetensors", base=folders[model])


def test_flux_fill_is_refused_by_name(tmp_path):
    arrays = flux_tensors(is_whole=False)
    name = "model.diffusion_model.img_in.weight"
    arrays[name] = np.zeros((128, 384), np.float32)
    flux_folders.save(tmp_path / "fill.safetensors", arrays)
    with pytest.raises(UnsupportedModelError, match=r"FLUX\.1 Fill"):
        load_pipeline(tmp_path / "fill.safetensors")


def test_missing_parts_are_named(tmp_path):
    path = write_checkpoint(tmp_path / "xl.safetensors", "sdxl")
    with pytest.raises(InvalidModelFilesError, match=r"lacks tokenizer, tokenizer_2\n") as caught:
        load_pipeline(path)
    assert "base=FOLDER" in caught.value.hint


def test_parts_beside_the_file_are_found(folders, tmp_path):
    path = write_checkpoint(tmp_path / "xl.safetensors", "sdxl")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(folders["sdxl"] / name, tmp_path / name)
    assert open_model(path).missing == ()


def test_a_base_with_another_vocabulary_is_refused(folders, tmp_path):
    from swiftai_nb.registry.catalog import bundled_folder, find

    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    with pytest.raises(InvalidModelFilesError, match="the tokenizer has"):
        load_pipeline(path, base=bundled_folder(find("emoji-mini")))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-4000])


def _cut_header(path):
    path.write_bytes(path.read_bytes()[:4000])


def _empty(path):
    path.write_bytes(b"")


def _change(edit):
    def damage(path):
        arrays = checkpoint_tensors("sd15")
        edit(arrays)
        write_safetensors(path, arrays)

    return damage


def _drop(*names):
    return _change(lambda arrays: [arrays.pop(name) for name in names])


def _set(name, value):
    return _change(lambda arrays: arrays.update({name: value}))


OWN, FIRST = "model.diffusion_model.", "first_stage_model."
DAMAGES = {
    "cut": (_cut, "truncated"),
    "cut header": (_cut_header, "header is missing or cut off"),
    "empty": (_empty, "header is missing"),
    "missing first kernel": (_drop(f"{OWN}input_blocks.0.0.weight"), "has no whole UNet"),
    "missing norm": (_drop(f"{OWN}out.0.weight"), "1 missing: conv_norm_out.weight"),
    "missing down block": (_drop(f"{OWN}input_blocks.1.0.in_layers.2.weight"), "missing"),
    "missing downsampler": (_drop(f"{OWN}input_blocks.3.0.op.weight"), "missing|not part"),
    "missing output": (_drop(f"{OWN}out.2.weight"), "conv_out.weight is missing"),
    "missing decoder": (_drop(f"{FIRST}decoder.conv_in.weight"), "decoder.conv_in.weight is missing"),
    "missing token table": (
        _drop("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"), "missing"),
    "integer weights": (_set(f"{OWN}out.2.weight", np.zeros((4, 32, 3, 3), np.int8)), "int8 without"),
    "wrong shape": (_set(f"{OWN}out.2.bias", np.zeros(7, np.float32)), "conv_out.bias is"),
    "scalar kernel": (_set(f"{OWN}input_blocks.0.0.weight", np.zeros((), np.float32)), "missing or misshapen"),
    "flat size embedding": (_set(f"{OWN}label_emb.0.0.weight", np.zeros(3, np.float32)), "missing or misshapen"),
    "scalar guidance": (
        _set(f"{OWN}time_embed.cond_proj.weight", np.zeros((), np.float32)), "missing or misshapen"),
    "scalar context": (
        _set(f"{OWN}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", np.zeros((), np.float32)), "."),
    "unknown key": (_set(f"{OWN}input_blocks.1.0.extra.weight", np.zeros(3, np.float32)), "1 not part of it"),
    "unknown part": (_set("something.else", np.zeros(3, np.float32)), None),
    "huge block number": (_set(f"{OWN}input_blocks.99999999.0.op.weight", np.zeros(3, np.float32)), "."),
    "bitsandbytes": (
        _set(f"{OWN}out.2.weight.quant_state.bitsandbytes__nf4", np.zeros(3, np.uint8)), "bitsandbytes nf4"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_or_a_picture(folders, tmp_path, damage):
    change, message = DAMAGES[damage]
    path = write_checkpoint(tmp_path / "damaged.safetensors", "sd15")
    change(path)
    if message is None:
        assert picture(load_pipeline(path, base=folders["sd15"])).shape == (1, 64, 64, 3)
        return
    with pytest.raises(AIError, match=message) as caught:
        load_pipeline(path, base=folders["sd15"]).preload()
    assert len(caught.value.message.splitlines()) == 1
    assert tiny_sd.SHORT not in caught.value.message


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_without_being_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x02not a model")
    with pytest.raises(InvalidModelFilesError, match="is a pickle file, which can run code"):
        load_pipeline(path)
