"""Textual inversions: every layout against transformers, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, ModelNotFoundError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora
from swiftai_nb.diffusion.weights.textual_inversion import load_embedding
from tests.diffusion.flux_folders import save, write_diffusers
from tests.diffusion.parity.tiny_embeddings import CASES, FILES
from tests.diffusion.parity.tiny_flux import REFERENCES


@pytest.fixture
def files(tmp_path):
    for name, arrays in FILES.items():
        save(tmp_path / f"{name}.safetensors", arrays)
    return {name: tmp_path / f"{name}.safetensors" for name in FILES}


@pytest.fixture
def folders(sd15_folder, sdxl_folder):
    return {"sd15": sd15_folder, "sdxl": sdxl_folder}


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_a_word_is_encoded_as_transformers_encodes_its_vectors(name, syntax, files, folders):
    model, used, (prompt, negative), _ = CASES[name]
    pipeline = load_pipeline(folders[model], dtype="float32", embeddings=[files[one] for one in used])
    made = pipeline.encode_prompt(prompt, negative, prompt_syntax=syntax)
    with np.load(REFERENCES / "embeddings.npz") as recorded:
        np.testing.assert_allclose(made.prompt_embeds, recorded[f"{name}.prompt"], atol=1e-4)
        if model == "sdxl":
            np.testing.assert_allclose(made.negative_prompt_embeds, recorded[f"{name}.negative"], atol=1e-4)
            np.testing.assert_allclose(
                made.pooled_prompt_embeds, recorded[f"{name}.prompt.pooled"], atol=1e-4
            )
    assert made.notes == ()


def test_words_come_off_exactly(files, sd15_folder):
    pipeline = load_pipeline(sd15_folder)
    plain = np.array(pipeline.encode_prompt("easyneg fox").prompt_embeds)
    pipeline.set_embeddings([load_embedding(files["easyneg"])])
    assert np.abs(np.array(pipeline.encode_prompt("easyneg fox").prompt_embeds) - plain).max() > 0.1
    pipeline.set_embeddings([])
    np.testing.assert_array_equal(pipeline.encode_prompt("easyneg fox").prompt_embeds, plain)


def test_a_word_inside_another_is_none(files, sd15_folder):
    plain, worded = (load_pipeline(sd15_folder, embeddings=e) for e in ([], [files["easyneg"]]))
    for prompt in ("easynegative", "an uneasyneg", "easy neg"):
        np.testing.assert_array_equal(
            worded.encode_prompt(prompt).prompt_embeds, plain.encode_prompt(prompt).prompt_embeds
        )


def test_a_word_can_be_weighted_and_is_not_divided(files, sd15_folder):
    pipeline = load_pipeline(sd15_folder, embeddings=[files["easyneg"]])
    plain, weighted = (
        pipeline.encode_prompt(p).prompt_embeds for p in ("easyneg", "(embedding:easyneg:1.5)")
    )
    assert np.abs(np.array(plain) - np.array(weighted)).max() > 0.1
    long = pipeline.encode_prompt("a " * 74 + "easyneg", prompt_syntax="weighted").prompt_embeds
    assert long.shape[1] == 154


def test_a_word_that_is_cut_off_is_named(files, sd15_folder):
    pipeline = load_pipeline(sd15_folder, embeddings=[files["easyneg"]])
    (note,) = pipeline.encode_prompt("a " * 80 + "easyneg end").notes
    assert "of 86 tokens; left out: a a a a a easyneg end; --prompt-syntax weighted reads it all" in note


def test_a_word_that_is_not_loaded_is_noted(sd15_folder):
    (note,) = load_pipeline(sd15_folder).encode_prompt("a fox, embedding:badhands").notes
    assert note.startswith("embedding:badhands is not loaded")


def test_a_lora_brings_its_words_along(sd15_folder, tmp_path):
    q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    arrays = {
        f"{q}.lora_down.weight": np.zeros((1, 32), np.float32),
        f"{q}.lora_up.weight": np.zeros((32, 1), np.float32),
        "bundle_emb.hero.string_to_param.*": FILES["easyneg"]["emb_params"],
        "bundle_emb.place.clip_l": FILES["pair"]["clip_l"],
    }
    save(tmp_path / "x.safetensors", arrays)
    pipeline = load_pipeline(sd15_folder)
    plain = np.array(pipeline.encode_prompt("hero at place").prompt_embeds)
    applied = apply_lora(pipeline, load_lora(tmp_path / "x.safetensors"))
    assert [one.names for one in pipeline.embeddings] == [("hero",), ("place",)]
    assert np.abs(np.array(pipeline.encode_prompt("hero at place").prompt_embeds) - plain).max() > 0.1
    applied.remove()
    np.testing.assert_array_equal(pipeline.encode_prompt("hero at place").prompt_embeds, plain)


def test_quantized_models_take_words(files, sd15_folder):
    pipeline = load_pipeline(sd15_folder, quantization_bits=8, embeddings=[files["easyneg"]])
    assert pipeline.encode_prompt("easyneg").prompt_embeds.shape == (1, 77, 32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"emb_params": (2, 48)}, "vectors of 48 values, the model's text encoders take 32"),
        ({"clip_l": (2, 32), "clip_g": (2, 48)}, "vectors of 32 and 48 values"),
        ({"emb_params": (76, 32)}, "is not a textual inversion"),
        ({"emb_params": (0, 32)}, "is not a textual inversion"),
        ({"emb_params": (0,)}, "is not a textual inversion"),
        ({"emb_params": (2, 0)}, "is not a textual inversion"),
        ({"a": (2, 32), "b": (2, 32)}, "is not a textual inversion"),
        ({"clip_l": (2, 32), "clip_g": (3, 48)}, "is not a textual inversion"),
        ({"x.lora_down.weight": (2, 32, 1, 1)}, "is a LoRA, not a textual inversion"),
    ],
)
def test_what_is_none_is_one_error(arrays, message, sd15_folder, tmp_path):
    save(tmp_path / "x.safetensors", {k: np.zeros(shape, np.float32) for k, shape in arrays.items()})
    with pytest.raises(InvalidModelFilesError, match=message):
        load_pipeline(sd15_folder, embeddings=[tmp_path / "x.safetensors"])


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InvalidModelFilesError, match="is a pickle"):
        load_embedding(tmp_path / "x.pt")
    with pytest.raises(ModelNotFoundError):
        load_embedding(tmp_path / "none.safetensors")


def test_flux_takes_none(files, tmp_path):
    with pytest.raises(InvalidInputError, match="takes no textual inversion"):
        load_pipeline(write_diffusers(tmp_path / "flux"), embeddings=[files["easyneg"]])


def test_half_precision_vectors(sd15_folder, tmp_path):
    save(
        tmp_path / "x.safetensors",
        {"emb_params": mx.array(FILES["easyneg"]["emb_params"]).astype(mx.bfloat16)},
    )
    pipeline = load_pipeline(sd15_folder, dtype="float32", embeddings=[tmp_path / "x.safetensors"])
    assert pipeline.encode_prompt("x").prompt_embeds.dtype == mx.float32


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.full((1, 32), np.nan, np.float32), "not numbers"),
        (np.full((2, 32), np.inf, np.float16), "not numbers"),
        (np.ones((1, 32), np.int32), "type int32"),
    ],
)
def test_vectors_that_no_picture_survives_are_refused(values, what, tmp_path):
    save(tmp_path / "bad.safetensors", {"emb_params": values})
    with pytest.raises(InvalidModelFilesError, match=f"bad.safetensors is damaged: emb_params .*{what}"):
        load_embedding(tmp_path / "bad.safetensors")
