"""What a folder or file says about itself: family, defaults, files, what is missing, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.content_hash import content_hash
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.variants import DiffusionVariant, GenerationDefaults
from tests.model_files.files import write_gguf, write_header, write_json, write_weights

MODEL = Path(__file__).parents[2] / "swiftai_nb" / "assets" / "emoji-mini"
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
EULER = {"_class_name": "EulerDiscreteScheduler"}
XL = {"addition_embed_type": "text_time", "sample_size": 128}
BFL = "double_blocks.0.img_attn.qkv.weight"


def write_model(folder: Path, *, unet: dict, scheduler: dict | None = None, index: str | None = None) -> Path:
    """A folder in diffusers layout with the configs of a UNet model and one tensor for each network."""
    write_json(folder / "unet" / "config.json", unet)
    if scheduler is not None:
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if index is not None:
        write_json(folder / "model_index.json", {"_class_name": index})
    write_weights(folder / "unet" / "diffusion_pytorch_model.safetensors", x=(4, 4))
    write_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", x=(4, 4))
    write_weights(folder / "text_encoder" / "model.safetensors", x=(4, 4))
    (folder / "tokenizer").mkdir()
    return folder


@pytest.mark.parametrize(
    ("unet", "scheduler", "variant", "settings"),
    [
        ({"sample_size": 64}, {"_class_name": "PNDMScheduler"}, "sd-1.5", (20, 7.5)),
        ({"cross_attention_dim": 1024}, {"_class_name": "DDIMScheduler"}, "sd-2.1", (20, 7.5)),
        ({"cross_attention_dim": 1024}, {**EULER, "timestep_spacing": "trailing"}, "sd-2.1", (4, 0.0)),
        ({"time_cond_proj_dim": 256, "sample_size": 96}, {"_class_name": "LCMScheduler"}, "sd-1.5", (4, 8.5)),
        (XL, EULER, "sdxl", (30, 5.0)),
        ({**XL, "sample_size": 64}, TURBO, "sdxl-turbo", (4, 0.0)),
        (XL, {**EULER, "timestep_spacing": "trailing"}, "sdxl", (30, 5.0)),
        (XL, {**TURBO, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "sdxl", (30, 5.0)),
        (XL, {**TURBO, "prediction_type": "v_prediction"}, "sdxl", (30, 5.0)),
    ],
)
def test_the_family_follows_from_the_folders_own_facts(tmp_path, unet, scheduler, variant, settings):
    model = open_model(write_model(tmp_path, unet=unet, scheduler=scheduler))
    assert model.variant is DiffusionVariant(variant)
    assert (model.defaults.steps, model.defaults.guidance_scale) == settings
    side = unet.get("sample_size", 64) * 8
    assert (model.defaults.width, model.defaults.height) == (side, side)


def test_a_model_folder_says_its_networks_files_and_what_is_missing(tmp_path):
    model = open_model(write_model(tmp_path, unet=XL, scheduler=EULER, index="StableDiffusionXLPipeline"))
    assert model.pipeline_class == "StableDiffusionXLPipeline"
    assert {name: files.layout for name, files in model.components.items()} == {
        "text_encoder": "transformers",
        "unet": "diffusers",
        "vae": "diffusers",
    }
    assert model.components["unet"].config == tmp_path / "unet" / "config.json"
    assert model.missing == ("text_encoder_2", "tokenizer_2")
    assert model.size_multiple == 8
    assert "flow-match-euler" not in model.schedulers


def test_an_img2img_label_is_kept_and_a_wrong_one_gives_way_to_the_networks(tmp_path):
    labelled = write_model(tmp_path / "a", unet={}, index=None)
    write_json(labelled / "unet" / "config.json", {"sample_size": 64})
    write_json(labelled / "model_index.json", {"_class_name": "LatentConsistencyModelPipeline"})
    assert open_model(labelled).pipeline_class == "LatentConsistencyModelPipeline"
    wrong = write_model(tmp_path / "b", unet=XL, index="StableDiffusionPipeline")
    assert open_model(wrong).pipeline_class == "StableDiffusionXLPipeline"


def test_the_folders_own_defaults_win(tmp_path):
    folder = write_model(tmp_path, unet={"sample_size": 64}, scheduler=TURBO)
    given = {"width": 640, "height": None, "steps": 9, "guidance_scale": 1, "scheduler": "ddim", "note": [1]}
    write_json(folder / "generation_defaults.json", given)
    assert open_model(folder).defaults == GenerationDefaults(640, 512, 9, 1, "ddim")


def test_the_own_settings_of_an_entry_win_over_what_is_read_but_not_over_the_publishers(tmp_path):
    folder = write_model(tmp_path, unet={"sample_size": 96}, scheduler={"_class_name": "LCMScheduler"})
    write_json(folder / "generation_defaults.json", {"steps": 6})
    defaults = open_model(folder).defaults_with({"guidance_scale": 8.0, "steps": 3})
    assert defaults == GenerationDefaults(768, 768, 6, 8.0, "lcm")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("generation_defaults.json", {"width": "512"}, "width cannot be '512'"),
        ("generation_defaults.json", {"steps": 0}, "steps cannot be 0"),
        ("generation_defaults.json", {"steps": 3.5}, "steps cannot be 3.5"),
        ("generation_defaults.json", {"guidance_scale": [7]}, "guidance_scale cannot be"),
        ("generation_defaults.json", {"scheduler": 3}, "scheduler cannot be 3"),
        ("generation_defaults.json", {"former_sizes": [[128]]}, "former_sizes cannot be"),
        ("generation_defaults.json", {"former_sizes": [[128, 0]]}, "former_sizes cannot be"),
        ("generation_defaults.json", {"former_sizes": 128}, "former_sizes cannot be 128"),
        ("generation_defaults.json", [], "not a JSON object"),
        ("vae/config.json", {"block_out_channels": [64] * 40}, "block_out_channels cannot be"),
        ("vae/config.json", {"block_out_channels": "64"}, "block_out_channels cannot be"),
        ("unet/config.json", {"block_out_channels": [1.5], "a": 1}, "block_out_channels cannot be"),
        ("unet/config.json", {"a": 1, "layers_per_block": 10**6}, "layers_per_block cannot be"),
        ("unet/config.json", {"transformer_layers_per_block": [1, [2, 10**9]]}, "cannot be"),
        ("text_encoder/config.json", {"num_hidden_layers": 1e300}, "num_hidden_layers cannot be"),
        ("transformer/config.json", {"num_single_layers": 10**5}, "num_single_layers cannot be"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 2 * 10**9},
            "num_train_timesteps cannot be",
        ),
        ("scheduler/scheduler_config.json", {"beta_start": "0.1"}, "beta_start cannot be '0.1'"),
        ("scheduler/scheduler_config.json", {"trained_betas": 3}, "trained_betas cannot be 3"),
        (
            "text_encoder/config.json",
            {"hidden_size": [32] * 999, "architectures": None},
            "hidden_size cannot",
        ),
        ("text_encoder/config.json", {"vocab_size": 2**31}, "vocab_size cannot be"),
        ("text_encoder/config.json", {"layer_norm_eps": math.nan}, "layer_norm_eps cannot be nan"),
        ("vae/config.json", {"down_block_types": [["DownEncoderBlock2D"]]}, "down_block_types cannot be"),
        ("unet/config.json", {"in_channels": {}}, "in_channels cannot be"),
        ("model_index.json", 3, "not a JSON object"),
        ("scheduler/scheduler_config.json", None, "not a JSON object"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_error_that_names_the_file(tmp_path, file, content, words):
    folder = write_model(tmp_path, unet={"sample_size": 64})
    write_json(folder / file, content)
    with pytest.raises(InvalidModelFilesError, match=words) as caught:
        open_model(folder)
    assert file in caught.value.message.replace("\\", "/")


def test_infinity_in_a_scheduler_configuration_is_read_as_diffusers_writes_it(tmp_path):
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf}
    folder = write_model(tmp_path, unet={"sample_size": 64}, scheduler=scheduler)
    assert "-Infinity" in (folder / "scheduler" / "scheduler_config.json").read_text()
    assert open_model(folder).defaults.scheduler == "dpm++2m"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{broken", "\x00"])
def test_json_that_cannot_be_read_is_one_error(tmp_path, text):
    folder = write_model(tmp_path, unet={"sample_size": 64})
    (folder / "unet" / "config.json").write_text(text)
    with pytest.raises(InvalidModelFilesError, match="cannot be read"):
        open_model(folder)


def test_one_flux_transformer_file_at_the_top_is_a_model_folder(tmp_path):
    write_weights(tmp_path / "flux1-schnell.safetensors", **{BFL: (9, 9)})
    write_weights(tmp_path / "my-lora.safetensors", **{"transformer_blocks.0.ff.net.0.lora_A.weight": (4, 4)})
    write_weights(tmp_path / "t5xxl_fp8.safetensors", "F8_E4M3", **{"encoder.block.0.layer.0.x": (4,)})
    model = open_model(tmp_path)
    assert model.variant is DiffusionVariant.FLUX
    assert model.pipeline_class == "FluxPipeline"
    assert model.components["transformer"].layout == "BFL"
    assert model.missing == ("text_encoder", "vae", "tokenizer", "tokenizer_2")
    assert model.schedulers == ("flow-match-euler",)
    assert model.size_multiple == 16


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ((BFL, "img_in.weight"), "BFL"),
        ((f"model.diffusion_model.{BFL}",), "BFL"),
        (("multimodal_transformer_blocks.0.x", "unified_transformer_blocks.0.x"), "Argmax"),
        (("transformer_blocks.0.ff.linear1.weight",), "mflux"),
        (("transformer_blocks.0.ff.net.0.proj.weight",), "diffusers"),
    ],
)
def test_flux_is_recognized_in_every_layout(tmp_path, names, layout):
    write_weights(tmp_path / "transformer" / "0.safetensors", **dict.fromkeys(names, (4, 4)))
    model = open_model(tmp_path)
    assert model.components["transformer"].layout == layout
    assert (model.defaults.steps, model.defaults.guidance_scale) == (4, 0.0)


@pytest.mark.parametrize("name", ["guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.x"])
def test_flux_dev_is_told_from_schnell_by_its_guidance_embedding(tmp_path, name):
    write_weights(tmp_path / "flux.safetensors", **{BFL: (9, 9), name: (4, 4)})
    assert open_model(tmp_path).defaults == GenerationDefaults(1024, 1024, 28, 3.5, "flow-match-euler")


@pytest.mark.parametrize(
    ("channels", "name"), [(384, "FLUX.1 Fill"), (128, "FLUX.1 Depth or Canny"), (96, "96 input channels")]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_flux_models_that_take_an_image_are_refused_by_name(tmp_path, channels, name, labelled):
    shapes = {BFL: (9, 9), "img_in.weight": (8, channels), "final_layer.linear.weight": (64, 8)}
    by_tensors, by_config = tmp_path / "tensors", tmp_path / "config"
    write_weights(by_tensors / "flux1.safetensors", **shapes)
    write_weights(by_config / "transformer" / "model.safetensors", **{"transformer_blocks.0.ff.net.0": (4,)})
    write_json(
        by_config / "transformer" / "config.json",
        {"_class_name": "FluxTransformer2DModel", "in_channels": channels, "out_channels": 64},
    )
    for folder in (by_tensors, by_config):
        if labelled:
            write_json(folder / "model_index.json", {"_class_name": "FluxPipeline"})
        with pytest.raises(UnsupportedModelError, match=name):
            open_model(folder)


@pytest.mark.parametrize(
    ("config", "tensor", "name"),
    [
        ({"_class_name": "Flux2Transformer2DModel", "guidance_embeds": True}, "x", "FLUX.2 dev"),
        ({"_class_name": "SD3Transformer2DModel"}, "x", "Stable Diffusion 3"),
        ({}, "joint_blocks.0.context_block.attn.qkv.weight", "Stable Diffusion 3"),
        ({"_class_name": "HiDreamImageTransformer2DModel"}, "x", "HiDream"),
        ({}, "double_stream_blocks.0.block.ff_i.w1.weight", "HiDream"),
        ({"_class_name": "HunyuanDiT2DModel"}, "x", "HunyuanDiT"),
        ({"_class_name": "Lumina2Transformer2DModel"}, "x", "Lumina 2"),
        ({"_class_name": "ZImageTransformer2DModel", "siglip_feat_dim": 1152}, "x", "Z-Image Omni"),
        ({}, "transformer_blocks.0.img_mod.1.weight", "Qwen-Image"),
        ({}, "distilled_guidance_layer.in_proj.weight", "Chroma"),
        ({"_class_name": "BrandNewTransformer"}, "x", "BrandNewTransformer"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, config, tensor, name):
    if config:
        write_json(tmp_path / "transformer" / "config.json", config)
    shapes = {tensor: (4, 4), BFL: (4, 4)}
    write_weights(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", **shapes)
    with pytest.raises(UnsupportedModelError, match=name):
        open_model(tmp_path)


@pytest.mark.parametrize(("index", "steps", "guidance"), [
    ({"is_distilled": True}, 4, 0.0),
    ({"is_distilled": False}, 50, 4.0),
    ({}, 50, 4.0),
    (None, 4, 0.0),
])  # fmt: skip
def test_flux_2_klein_and_its_base_have_defaults_of_their_own(tmp_path, index, steps, guidance):
    if index is not None:
        write_json(tmp_path / "model_index.json", {"_class_name": "Flux2KleinPipeline", **index})
    write_json(tmp_path / "transformer" / "config.json", {"_class_name": "Flux2Transformer2DModel"})
    name = "time_guidance_embed.timestep_embedder.linear_1.weight"
    write_weights(tmp_path / "transformer" / "model.safetensors", **{name: (4, 4)})
    model = open_model(tmp_path)
    assert model.variant is DiffusionVariant.FLUX_2_KLEIN
    assert (model.defaults.steps, model.defaults.guidance_scale) == (steps, guidance)
    assert (model.size_multiple, model.is_flow) == (16, True)
    model.check_references([(64, 64)] * 4)
    assert model.missing == ("text_encoder", "vae", "tokenizer")


@pytest.mark.parametrize("name", ["StableDiffusionDepth2ImgPipeline", "FluxFillPipeline", "NewPipeline"])
def test_pipelines_that_are_not_supported_are_refused_by_name(tmp_path, name):
    with pytest.raises(UnsupportedModelError, match=name):
        open_model(write_model(tmp_path, unet={"sample_size": 64}, index=name))


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"), InvalidModelFilesError,
         "is not whole"),
        (("noise_refiner.0.x", "cap_embedder.0.weight"), UnsupportedModelError, "Lumina 2"),
        (("model.layers.0.self_attn.q_norm.weight",), UnsupportedModelError, "a Qwen3 text encoder"),
        (("model.diffusion_model.input_blocks.0.0.bias", "conditioner.embedders.1.model.x"),
         InvalidModelFilesError, "has no whole UNet"),
        (("lora_unet_down_blocks_0.lora_down.weight",), InvalidInputError, "is a LoRA"),
        (("unet.x.lora_A.weight", BFL), InvalidInputError, "is a LoRA"),
        (("decoder.mid.block_1.conv1.weight",), UnsupportedModelError, "an autoencoder"),
        (("text_model.encoder.layers.0.x",), UnsupportedModelError, "a CLIP text encoder"),
        (("emb_params",), UnsupportedModelError, "textual inversion"),
        (("siglip_refiner.0.x", "noise_refiner.0.x"), UnsupportedModelError, "Z-Image Omni"),
        (("x",), UnsupportedModelError, "no model that is known"),
    ],
)  # fmt: skip
def test_a_single_safetensors_file_answers_with_what_it_is(tmp_path, names, error, words):
    path = write_weights(tmp_path / "model.safetensors", **dict.fromkeys(names, (4, 4)))
    with pytest.raises(error, match=words) as caught:
        open_model(path)
    assert caught.value.hint
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".CKPT"])
def test_a_pickle_file_is_refused_without_being_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(InvalidModelFilesError, match="pickle file"):
        open_model(path)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_gguf_transformer_in_a_flux_folder_is_found(tmp_path, labelled):
    path = tmp_path / "transformer" / "flux-q4.gguf"
    write_gguf(path, {BFL: ("F32", (2, 2), bytes(16))})
    if labelled:
        write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    model = open_model(tmp_path)
    assert model.family.name == "FLUX.1"
    assert model.weight_files == {"transformer": (path,)}


def test_two_gguf_files_of_one_part_are_refused_by_name(tmp_path):
    for name in ("q4.gguf", "q8.gguf"):
        write_gguf(tmp_path / "transformer" / name, {BFL: ("F32", (2, 2), bytes(16))})
    write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(InvalidModelFilesError, match=r"more than one GGUF file: q4\.gguf, q8\.gguf"):
        open_model(tmp_path)


def test_a_folder_that_holds_only_a_single_file_names_it(tmp_path):
    write_weights(tmp_path / "sdxl.safetensors", **{"conditioner.embedders.1.x": (40, 40)})
    write_weights(tmp_path / "vae.safetensors", **{"decoder.mid.block_1.x": (4, 4)})
    with pytest.raises(UnsupportedModelError, match=r"sdxl\.safetensors is a Stable Diffusion XL checkpoint"):
        open_model(tmp_path)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(InvalidModelFilesError, match=r"is not a model folder.*no safetensors weights"):
        open_model(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_nf4_weights_of_any_network_are_refused_by_name(tmp_path, part):
    folder = write_model(tmp_path, unet={"sample_size": 64})
    path = next((folder / part).glob("*.safetensors"))
    write_weights(path, **{"x.weight.quant_state.bitsandbytes__nf4": (4, 4)})
    with pytest.raises(UnsupportedModelError, match="bitsandbytes nf4"):
        _ = open_model(folder).is_quantized


def test_a_hostile_header_in_a_folder_costs_an_error(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9] * 100_000, "data_offsets": [0, 8]}})
    write_header(tmp_path / "x.safetensors", header, data_bytes=8)
    with pytest.raises(InvalidModelFilesError, match="corrupt"):
        open_model(tmp_path)


def test_a_content_hash_changes_with_any_byte_of_a_small_model(tmp_path):
    copy = Path(shutil.copytree(MODEL, tmp_path / "copy"))
    assert content_hash(copy) == content_hash(MODEL)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert content_hash(copy) != content_hash(MODEL)


def test_a_content_hash_of_a_large_model_is_quick_and_sees_size_and_ends(tmp_path):
    path = write_weights(tmp_path / "unet" / "model.safetensors", **{"linear.weight": (430, 10**6)})
    first = content_hash(tmp_path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert content_hash(tmp_path) != first
