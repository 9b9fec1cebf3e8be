"""Z-Image, FLUX.2 klein and text encoders in GGUF: alone, in folders, with text encoders in llama.cpp's names."""

import re

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.engine.kernel.memory_plan import plan_memory
from swiftai_nb.model_files.folder import open_model
from tests.conftest import IS_GPU_SIMULATED
from tests.diffusion import flux2_folders, flux_folders, z_image_folders
from tests.diffusion.flux_folders import save
from tests.diffusion.loading import load_pipeline
from tests.diffusion.test_gguf import picture, q8_0, quantize
from tests.model_files.files import write_gguf, write_json

QWEN3 = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
T5 = {
    "shared": "token_embd", "final_layer_norm": "output_norm", "layer.0.layer_norm": "attn_norm",
    "layer.0.SelfAttention.q": "attn_q", "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v", "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.1.layer_norm": "ffn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate", "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
}  # fmt: skip


def llama_names(arrays, table):
    """transformers' names -> llama.cpp's."""
    result = {}
    for name, value in arrays.items():
        module = name.removeprefix("model.").removesuffix(".weight")
        block = re.match(r"(?:encoder\.block|layers)\.(\d+)\.", module)
        bare = module if block is None else module[block.end() :]
        encoder = "enc." if module.startswith("encoder.") else ""
        own = table[bare.removeprefix("encoder.")]
        result[f"{encoder}{'' if block is None else f'blk.{block[1]}.'}{own}.weight"] = value
    return result


def write(path, arrays):
    """The numbers that the file stands for, under the same names."""
    stored, numbers = quantize(arrays, q8_0, "Q8_0")
    write_gguf(path, stored)
    return numbers


def z_image_in(folder, weights):
    return z_image_folders.write_diffusers(folder, weights=weights)


@pytest.mark.parametrize("place", ["alone", "subfolder", "top"])
def test_a_z_image_transformer_draws_what_its_numbers_draw(tmp_path, place):
    weights = z_image_folders.z_image_weights()
    comfy = z_image_folders.comfy_transformer(weights["transformer"])
    base = z_image_in(tmp_path / "base", weights)
    path = {
        "alone": tmp_path / "z.gguf",
        "subfolder": base / "transformer" / "z.gguf",
        "top": base / "z.gguf",
    }
    numbers = write(path[place], comfy)
    save(tmp_path / "z.safetensors", numbers)
    expected = picture(load_pipeline(tmp_path / "z.safetensors", base=base))
    if place == "alone":
        pipeline = load_pipeline(path[place], base=base)
    else:
        (base / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        if place == "top":
            (base / "transformer" / "config.json").rename(tmp_path / "config.json")
        pipeline = load_pipeline(base)
    assert np.abs(picture(pipeline) - expected).max() <= 1
    if IS_GPU_SIMULATED:
        return  # a GPU computes in halves, of which its plan is made
    held = pipeline.networks["transformer"].size_bytes
    model = open_model(path[place], base=base) if place == "alone" else open_model(base)
    plan = plan_memory(model, width=64, height=64, guided=False, bytes_per_weight=4)
    assert plan.weights_bytes["transformer"] == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("has_config", [True, False])
def test_qwen3_in_llama_cpp_names_encodes_what_its_numbers_do(tmp_path, has_config):
    weights = z_image_folders.z_image_weights()
    folder = z_image_in(tmp_path / "gguf", weights)
    (folder / "text_encoder" / "model.safetensors").unlink()
    file = folder / "text_encoder" / "qwen3-q8_0.gguf"
    stored = llama_names(weights["text_encoder"], QWEN3)
    numbers = write(file, stored | {"output.weight": weights["text_encoder"]["embed_tokens.weight"]})
    if not has_config:
        (folder / "text_encoder" / "config.json").unlink()
    own = {n: numbers[llama] for n, llama in zip(weights["text_encoder"], stored, strict=True)}
    held = load_pipeline(z_image_in(tmp_path / "held", weights | {"text_encoder": own}))
    pipeline = load_pipeline(folder)
    embeds, expected = (p.encode_prompt("a red fox, 狐狸").prompt_embeds for p in (pipeline, held))
    np.testing.assert_allclose(np.array(embeds), np.array(expected), atol=2e-3)  # tables are read in float16
    plan = plan_memory(open_model(folder), width=64, height=64, guided=False, bytes_per_weight=4)
    held_bytes = pipeline.networks["text_encoder"].size_bytes
    assert plan.weights_bytes["text_encoder"] == pytest.approx(held_bytes, rel=0.02)


def test_t5_in_llama_cpp_names_encodes_what_its_numbers_do(tmp_path):
    weights = flux_folders.flux_weights()
    folder = flux_folders.write_diffusers(tmp_path / "gguf", weights=weights)
    for file in (folder / "text_encoder_2").glob("*.safetensors*"):
        file.unlink()
    own = {n: v for n, v in weights["text_encoder_2"].items() if "embed_tokens" not in n}
    stored = llama_names(own, T5)
    numbers = write(
        folder / "text_encoder_2" / "t5.gguf", stored | {"dec.blk.0.attn_q.weight": own["shared.weight"]}
    )
    held = {n: numbers[llama] for n, llama in zip(own, stored, strict=True)}
    other = flux_folders.write_diffusers(tmp_path / "held", weights=weights | {"text_encoder_2": held})
    embeds, expected = (load_pipeline(f).encode_prompt("a red fox").prompt_embeds for f in (folder, other))
    np.testing.assert_allclose(np.array(embeds), np.array(expected), atol=2e-3)


class TestKlein:
    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory):
        return flux2_folders.write_klein(tmp_path_factory.mktemp("klein"))

    @pytest.fixture(scope="class")
    @classmethod
    def transformer(cls):
        return flux2_folders.bfl_transformer(flux2_folders.flux2_weights()["transformer"])

    @pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
    def test_a_single_file_takes_the_rest_from_its_base(self, base, transformer, tmp_path, prefix):
        path = tmp_path / "klein-tune.safetensors"
        save(path, {prefix + name: value for name, value in transformer.items()})
        pipeline = load_pipeline(path, base=base)
        assert pipeline.is_distilled
        np.testing.assert_array_equal(picture(pipeline), picture(load_pipeline(base)))

    def test_a_gguf_file_draws_what_its_numbers_draw(self, base, transformer, tmp_path):
        save(tmp_path / "held.safetensors", write(tmp_path / "klein.gguf", transformer))
        drawn, expected = (
            picture(load_pipeline(tmp_path / name, base=base)) for name in ("klein.gguf", "held.safetensors")
        )
        assert np.abs(drawn - expected).max() <= 1

    @pytest.mark.parametrize(
        ("name", "metadata"),
        [("flux-2-klein-base-4b", {}), ("tune", {"modelspec.title": "FLUX.2 klein base"})],
    )
    def test_a_base_model_is_told_by_its_name_or_title(self, base, transformer, tmp_path, name, metadata):
        save(tmp_path / f"{name}.safetensors", transformer, metadata)
        pipeline = load_pipeline(tmp_path / f"{name}.safetensors", base=base)
        assert not pipeline.is_distilled
        assert (pipeline.defaults.steps, pipeline.defaults.guidance_scale) == (50, 4.0)

    def test_dev_is_refused_by_name(self, base, transformer, tmp_path):
        save(tmp_path / "dev.safetensors", transformer | {"guidance_in.in_layer.weight": np.zeros((8, 8))})
        with pytest.raises(UnsupportedModelError, match=r"FLUX\.2 dev"):
            load_pipeline(tmp_path / "dev.safetensors", base=base)

    def test_missing_parts_are_named(self, transformer, tmp_path):
        save(tmp_path / "klein.safetensors", transformer)
        with pytest.raises(InvalidModelFilesError, match="lacks text_encoder, vae, tokenizer"):
            load_pipeline(tmp_path / "klein.safetensors")


def test_a_text_encoder_given_as_the_model_is_named(tmp_path):
    for name, mark in (("Qwen3", "blk.0.attn_q_norm.weight"), ("T5", "enc.blk.0.attn_q.weight")):
        path = write_gguf(tmp_path / f"{name}.gguf", {mark: ("F32", (2, 2), bytes(16))})
        with pytest.raises(UnsupportedModelError, match=f"a {name} text encoder, not a whole model"):
            load_pipeline(path)


def test_a_gguf_of_another_family_in_the_transformers_folder_is_named(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "ZImagePipeline"})
    path = tmp_path / "transformer" / "qwen-image.gguf"
    write_gguf(path, {"transformer_blocks.0.img_mod.1.weight": ("F32", (2, 2), bytes(16))})
    with pytest.raises(UnsupportedModelError, match="Qwen-Image"):
        _ = open_model(tmp_path).components
