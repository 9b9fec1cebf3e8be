"""Models of other families, and files that are no whole model, are named wherever they turn up."""

from __future__ import annotations

import re

import pytest

from swiftai_nb.core.errors import AIError, InvalidInputError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.model_files.families import FAMILIES, family_of_name
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.registry.catalog import catalog, find
from swiftai_nb.registry.entries import folder_info
from tests.model_files.files import write_gguf, write_json, write_weights

# diffusers' class of the pipeline, and the name that is told
PIPELINES = {
    "StableDiffusion3Pipeline": "Stable Diffusion 3", "StableDiffusion3InpaintPipeline": "Stable Diffusion 3",
    "SanaPipeline": "SANA", "SanaSprintPipeline": "SANA", "PixArtSigmaPipeline": "PixArt",
    "ChromaPipeline": "Chroma", "QwenImageEditPipeline": "Qwen-Image", "KolorsPipeline": "Kolors",
    "HiDreamImagePipeline": "HiDream", "HunyuanDiTPipeline": "HunyuanDiT", "Lumina2Pipeline": "Lumina 2",
    "HunyuanImagePipeline": "HunyuanImage", "AuraFlowPipeline": "AuraFlow", "WanPipeline": "Wan",
    "CogView4Pipeline": "CogView", "OmniGenPipeline": "OmniGen", "Krea2Pipeline": "Krea 2",
    "KandinskyV22Pipeline": "Kandinsky", "StableCascadeDecoderPipeline": "Stable Cascade",
    "ErnieImagePipeline": "ERNIE-Image", "ZImageOmniPipeline": "Z-Image Omni", "Flux2Pipeline": "FLUX.2 dev",
    "FluxFillPipeline": "FLUX.1", "FluxKontextPipeline": "FLUX.1", "IFPipeline": "DeepFloyd IF",
    "StableDiffusionXLAdapterPipeline": "Stable Diffusion XL",
}  # fmt: skip
DENOISERS = {
    "SD3Transformer2DModel": "Stable Diffusion 3", "SanaTransformer2DModel": "SANA",
    "PixArtTransformer2DModel": "PixArt", "ChromaTransformer2DModel": "Chroma",
    "QwenImageTransformer2DModel": "Qwen-Image", "HiDreamImageTransformer2DModel": "HiDream",
    "HunyuanDiT2DModel": "HunyuanDiT", "AuraFlowTransformer2DModel": "AuraFlow",
    "WanTransformer3DModel": "Wan", "Flux3Transformer2DModel": "FLUX.3",
}  # fmt: skip
TENSORS = {
    "Stable Diffusion 3": ["joint_blocks.0.context_block.adaLN_modulation.1.bias"],
    "SANA": ["blocks.0.cross_attn.q_linear.weight", "blocks.0.mlp.inverted_conv.conv.weight"],
    "PixArt": ["blocks.0.cross_attn.q_linear.weight", "t_block.1.weight"],
    "Chroma": ["distilled_guidance_layer.in_proj.bias", "double_blocks.0.img_attn.qkv.weight"],
    "Qwen-Image": ["transformer_blocks.0.img_mod.1.weight"],
    "HiDream": ["caption_projection.0.linear.weight"],
    "HunyuanDiT": ["mlp_t5.0.weight"],
    "Lumina 2": ["cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"],
    "AuraFlow": ["double_layers.0.attn.w1q.weight"],
    "Wan": ["head.modulation"],
    "LTX-Video": ["patchify_proj.weight"],
    "FLUX.3": ["early_stream_modulations.image.lin.weight", "single_blocks.0.linear1.weight"],
    "Krea 2": ["txtfusion.projector.weight"],
    "Stable Cascade": ["clip_txt_mapper.weight"],
    "Playground v2.5": ["edm_mean", "model.diffusion_model.input_blocks.0.0.weight"],
}  # fmt: skip
PARTS = {
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "an autoencoder": ["decoder.mid.block_1.conv1.weight"],
    "a CLIP text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "a preview decoder": ["decoder.layers.0.weight"],
    "a motion module": ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"],
}


def message_of(path) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        _ = open_model(path).components
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_folder_is_named_by_its_pipeline(tmp_path, pipeline):
    write_json(tmp_path / "model_index.json", {"_class_name": pipeline})
    assert f"a {pipeline} of {PIPELINES[pipeline]}" in message_of(tmp_path)


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_a_folder_is_named_by_its_transformer(tmp_path, denoiser):
    write_json(tmp_path / "transformer" / "config.json", {"_class_name": denoiser})
    assert f"a {denoiser} of {DENOISERS[denoiser]}" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"_class_name": "UNetSpatioTemporalConditionModel"}, "Stable Video Diffusion"),
        ({"_class_name": "Kandinsky3UNet"}, "Kandinsky"),
        ({"addition_embed_type": "text_image"}, "Kandinsky"),
        ({"encoder_hid_dim_type": "text_proj", "addition_embed_type": "text_time"}, "Kolors"),
    ],
)
def test_a_folder_is_named_by_its_unet(tmp_path, config, name):
    write_json(tmp_path / "unet" / "config.json", config)
    assert name in message_of(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", TENSORS)
def test_a_single_file_is_named_by_its_tensors(tmp_path, name, prefix):
    names = [n if n.startswith(("model.", "edm")) else prefix + n for n in TENSORS[name]]
    plain = write_weights(tmp_path / "model.safetensors", **dict.fromkeys(names, (4, 4)))
    gguf = write_gguf(tmp_path / "model.gguf", {n: ("F32", (2, 2), bytes(16)) for n in names})
    for path in (plain, gguf):
        assert f"{path} holds {name}, which the local engine cannot run" == message_of(path)


@pytest.mark.parametrize("name", TENSORS)
def test_a_transformer_without_configuration_is_named_in_a_folder(tmp_path, name):
    write_weights(tmp_path / "transformer" / "model.safetensors", **dict.fromkeys(TENSORS[name], (4, 4)))
    write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    assert name in message_of(tmp_path)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_not_taken_for_a_model(tmp_path, name):
    path = write_weights(tmp_path / "part.safetensors", **dict.fromkeys(PARTS[name], (4, 4)))
    assert f"is {name}, not a whole model" in message_of(path)


@pytest.mark.parametrize(
    "mark", ["lora_unet_x.hada_w1_a", "lycoris_x.lokr_w1", "x.oft_blocks", "x.dora_scale", "x.lora_A.weight"]
)
def test_adapters_of_all_kinds_are_not_models(tmp_path, mark):
    path = write_weights(tmp_path / "lora.safetensors", **{mark: (4, 4)})
    with pytest.raises(InvalidInputError, match="is a LoRA, not a model"):
        open_model(path)


def test_an_unknown_gguf_names_its_architecture(tmp_path):
    path = write_gguf(
        tmp_path / "x.gguf", {"y": ("F32", (2, 2), bytes(16))}, {"general.architecture": "mamba"}
    )
    assert "no model that is known (GGUF architecture 'mamba')" in message_of(path)


def test_what_a_git_lfs_pointer_leaves_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4000000000\n")
    with pytest.raises(AIError) as caught:
        open_model(path)
    assert len(caught.value.message.splitlines()) == 1


def test_an_engine_of_another_package_is_named_where_it_runs_the_family(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusion3Pipeline"})
    known = [info for info in catalog() if info.variant.display_name == "Stable Diffusion 3"]
    assert known
    with pytest.raises(UnsupportedModelError, match="Stable Diffusion 3") as caught:
        folder_info(tmp_path)
    assert re.search(f"--engine {known[0].engine} runs .*{known[0].id}", str(caught.value.hint))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen-Image-Edit", "Qwen-Image"), ("Kwai-Kolors/Kolors-diffusers", "Kolors"), ("sana", "SANA"),
        ("PixArt-alpha/PixArt-XL-2-1024-MS", "PixArt"), ("Wan-AI/Wan2.2-T2V-A14B", "Wan"),
        ("black-forest-labs/FLUX.2-dev", "FLUX.2 dev"), ("lodestones/Chroma1-HD", "Chroma"),
    ],
)  # fmt: skip
def test_an_unknown_name_of_such_a_family_is_answered_with_it(name, family):
    with pytest.raises(ModelNotFoundError) as caught:
        find(name)
    assert f"no engine here runs {family}" in str(caught.value.hint)


def test_an_unknown_name_of_a_family_of_another_engine_names_its_models():
    with pytest.raises(ModelNotFoundError) as caught:
        find("stabilityai/stable-diffusion-3.5-medium-turbo")
    assert "for Stable Diffusion 3: sd3" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["wanderlust-xl", "my/z-image-tune", "black-forest-labs/FLUX.1-dev", "a/b"])
def test_other_names_are_of_no_refused_family(name):
    assert family_of_name(name) is None


@pytest.mark.parametrize("name", ["taesdx", "tae", "taef3", "z-image-token", "sdxl-tokeniser"])
def test_suggestions_are_models_that_draw(name):
    with pytest.raises(ModelNotFoundError) as caught:
        find(name)
    suggested = re.match(r"did you mean '([^']+)'", str(caught.value.hint))
    assert suggested is None or find(suggested[1]).kind == "model"


def test_every_family_is_named_once_by_its_classes():
    prefixes = [prefix for family in FAMILIES for prefix in family.class_prefixes]
    assert len(prefixes) == len(set(prefixes))
