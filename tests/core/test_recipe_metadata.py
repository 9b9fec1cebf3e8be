"""Recipes that other programs wrote."""

from __future__ import annotations

import json
import time

import pytest
from PIL import Image

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.recipe import Recipe
from tests.waiting import LINEAR_TIME_S

A1111 = """a castle, (towers:1.2)
on a hill
Negative prompt: fog, text
Steps: 28, Sampler: Euler a, CFG scale: 6.5, Seed: 4242, Size: 640x512, Model hash: abc, Model: dream, Clip skip: 2, Lora hashes: "a: 1, b: 2", V: 1"""


def picture(**info: str) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.info.update(info)
    return image


def test_a1111_block_is_read_in_full() -> None:
    recipe = Recipe.from_parameters(A1111)
    assert recipe == Recipe(
        prompt="a castle, (towers:1.2)\non a hill",
        negative_prompt="fog, text",
        model="dream",
        width=640,
        height=512,
        steps=28,
        guidance_scale=6.5,
        seed=4242,
        scheduler="Euler a",
        clip_skip=1,
    )


def test_a1111_without_negative_prompt() -> None:
    recipe = Recipe.from_parameters("a fox\nSteps: 4, Sampler: DDIM, CFG scale: 1, Seed: 0, Size: 64x64")
    assert recipe is not None
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("a fox", None, 0)


def test_plain_words_are_not_a_recipe() -> None:
    assert Recipe.from_parameters("just some words") is None


def test_invokeai() -> None:
    data = {
        "positive_prompt": "a fox",
        "negative_prompt": "fog",
        "width": 512,
        "height": 768,
        "seed": 5,
        "steps": 30,
        "cfg_scale": 7.5,
        "scheduler": "euler",
        "model": {"name": "dreamshaper"},
    }
    recipe = Recipe.from_image(picture(invokeai_metadata=json.dumps(data)))
    assert (recipe.prompt, recipe.seed, recipe.model, recipe.height) == ("a fox", 5, "dreamshaper", 768)


def test_comfyui_graph_is_followed_to_its_prompts() -> None:
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 9,
                "steps": 12,
                "cfg": 4.0,
                "sampler_name": "euler",
                "denoise": 1.0,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
        "10": {"class_type": "LoraLoader", "inputs": {"model": ["4", 0]}},
    }
    recipe = Recipe.from_image(picture(prompt=json.dumps(graph)))
    assert recipe == Recipe(
        prompt="a fox",
        negative_prompt="fog",
        model="sdxl.safetensors",
        width=832,
        height=1216,
        steps=12,
        guidance_scale=4.0,
        seed=9,
        scheduler="euler",
    )


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"prompt": "{"},
        {"swiftai": "[]"},
        {"swiftai": "{}"},
        {"prompt": "[1]"},
        {"invokeai_metadata": "{}"},
    ],
)
def test_picture_without_a_readable_recipe_is_one_clear_error(info: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="contains no recipe"):
        Recipe.from_image(picture(**info))


def test_newer_recipe_with_unknown_keys_is_still_read() -> None:
    text = json.dumps({"recipe_version": 9, "prompt": "a fox", "hologram": True})
    assert Recipe.from_image(picture(swiftai=text)).prompt == "a fox"


@pytest.mark.parametrize("version", [{}, {"swiftai_nb": "0.1.0"}])
def test_clip_skip_is_counted_as_others_count_and_comes_back_as_it_was(version: dict[str, str]) -> None:
    for clip_skip in (None, 0, 1, 2):
        text = Recipe("a fox", steps=4, seed=1, clip_skip=clip_skip, versions=version).to_parameters()
        assert ("Clip skip" not in text) if clip_skip is None else (f"Clip skip: {clip_skip + 1}" in text)
        recipe = Recipe.from_parameters(text)
        assert recipe is not None
        assert recipe.clip_skip == clip_skip


def test_clip_skip_of_our_old_files_is_read_as_it_was_meant() -> None:
    recipe = Recipe.from_parameters("a fox\nSteps: 4, Seed: 1, Clip skip: 2, Version: swiftai_nb 0.1.0")
    assert recipe is not None
    assert recipe.clip_skip == 2


@pytest.mark.parametrize(
    ("sampler", "scheduler", "notes"),
    [
        ("Sampler: DPM++ 2M, Schedule type: Karras", "DPM++ 2M Karras", 0),
        ("Sampler: DPM++ 2M Karras, Schedule type: Karras", "DPM++ 2M Karras", 0),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "DPM++ 2M", 0),
        ("Sampler: Euler", "Euler", 0),
        ("Sampler: Euler, Schedule type: Exponential", "Euler Exponential", 0),
        ("Sampler: DPM++ 2M SDE, Schedule type: SGM Uniform", "DPM++ 2M SDE SGM Uniform", 0),
        ("Sampler: Euler a, Schedule type: Align Your Steps", "Euler a Align Your Steps", 0),
        ("Sampler: DDIM, Schedule type: Karras", "DDIM", 0),
        ("Sampler: Euler, Schedule type: KL Optimal", "Euler", 1),
    ],
)
def test_a_schedule_type_belongs_to_the_sampler(sampler: str, scheduler: str, notes: int) -> None:
    recipe = Recipe.from_parameters(f"a fox\nSteps: 4, {sampler}, Seed: 1")
    assert recipe is not None
    assert (recipe.scheduler, len(recipe.notes)) == (scheduler, notes)


def test_the_strength_of_a_hires_pass_is_not_that_of_an_initial_image() -> None:
    recipe = Recipe.from_parameters("a fox\nSteps: 4, Seed: 1, Denoising strength: 0.4, Hires upscale: 2")
    assert recipe is not None
    assert recipe.strength is None
    assert (recipe.hires, recipe.hires_strength) == (2.0, 0.4)
    recipe = Recipe.from_parameters("a fox\nSteps: 4, Seed: 1, Denoising strength: 0.4, Hires upscale: 9")
    assert recipe is not None
    assert (recipe.strength, recipe.hires) == (None, None)
    assert "hires" in recipe.notes[0]
    recipe = Recipe.from_parameters("a fox\nSteps: 4, Seed: 1, Denoising strength: 0.4")
    assert recipe is not None
    assert recipe.strength == 0.4


@pytest.mark.parametrize(
    ("text", "fields", "noted"),
    [
        ("Hires upscale: 1.5, Hires steps: 8, Hires upscaler: 4x-UltraSharp", (1.5, 8, "4x-UltraSharp"), ()),
        ("Hires upscale: 2, Hires steps: 0, Hires upscaler: Lanczos", (2.0, None, "Lanczos"), ()),
        ("Hires upscale: 2, Hires upscaler: Latent (nearest)", (2.0, None, "lanczos"), ("Latent",)),
        ("Hires resize: 960x1280, Hires upscaler: None", (2.5, None, "lanczos"), ()),
        ("Hires upscale: 2, Hires sampler: Euler a", (2.0, None, None), ("Hires sampler",)),
        ("Hires upscale: 2, Hires sampler: Use same sampler", (2.0, None, None), ()),
        ('Hires upscale: 2, Hires prompt: "a, b"', (2.0, None, None), ("Hires prompt",)),
        ("Hires steps: 8", (None, None, None), ("left out",)),
        ("Hires upscale: nan", (None, None, None), ("left out",)),
    ],
)
def test_the_fields_of_a_hires_pass(text: str, fields: tuple[object, ...], noted: tuple[str, ...]) -> None:
    recipe = Recipe.from_parameters(
        f"a fox\nSteps: 4, Seed: 1, Size: 384x512, Denoising strength: 0.3, {text}"
    )
    assert recipe is not None
    assert (recipe.hires, recipe.hires_steps, recipe.upscaler) == fields
    assert recipe.hires_strength == (None if recipe.hires is None else 0.3)
    assert len(recipe.notes) == len(noted)
    assert all(word in note for word, note in zip(noted, recipe.notes, strict=True))
    recipe.to_config()


def test_an_enlargement_comes_back_as_it_was() -> None:
    recipe = Recipe("a fox", steps=4, seed=1, upscale=3.0, upscaler="realesrgan-x4plus", strength=0.5)
    again = Recipe.from_parameters(recipe.to_parameters())
    assert again is not None
    assert (again.upscale, again.upscaler, again.strength) == (3.0, "realesrgan-x4plus", 0.5)
    both = Recipe("a fox", steps=4, seed=1, hires=2.0, hires_strength=0.4, upscale=2.0, upscaler="x")
    again = Recipe.from_parameters(both.to_parameters())
    assert again is not None
    assert (again.hires, again.upscale, again.upscaler) == (2.0, 2.0, "x")


def test_quoted_values_may_hold_commas_and_colons() -> None:
    recipe = Recipe.from_parameters(
        'a fox\nSteps: 4, Model: "a, b: c", Seed: 1, Lora hashes: "x: 1, Seed: 9"'
    )
    assert recipe is not None
    assert (recipe.model, recipe.seed) == ("a, b: c", 1)


HOSTILE = {
    "one line of words": "word " * 100_000,
    "commas": "a," * 200_000,
    "colons": "a:" * 200_000,
    "pairs": "Steps: 1, " * 50_000,
    "quotes": 'a: "x, ' * 70_000,
    "escapes": 'a: "\\", ' * 60_000,
    "wrong escapes": "Steps: 4, Size: 8x8, " + 'a:"\\x,' * 140_000,
    "a command of one word": '"' + "a" * 900_000 + '" -s 50',
    "spaces": "Steps:" + " " * 400_000,
    "letters": "a" * 500_000,
    "nested": "[" * 500_000,
    "nested objects": '{"a":' * 100_000,
    "too long": "x" * 5_000_000,
    "a huge number": '{"positive_prompt": "a", "steps": ' + "9" * 400_000 + "}",
    "infinity": '{"positive_prompt": "a", "steps": Infinity, "seed": 1e999}',
    "negatives": "\nNegative prompt:" * 30_000,
    "a circle of nodes": json.dumps(
        {str(i): {"class_type": "x", "inputs": {"model": [str((i + 1) % 9999)]}} for i in range(9999)}
        | {"k": {"class_type": "KSampler", "inputs": {"model": ["0"], "positive": ["0"]}}}
    ),
    "odd nodes": '{"1": {"class_type": "KSampler", "inputs": {"latent_image": [[1]], "model": ["1", 0]}}}',
    "nodes that are none": '{"1": {"class_type": "KSampler", "inputs": []}}',
}


@pytest.mark.parametrize("key", ["parameters", "swiftai", "invokeai_metadata", "prompt", "Dream"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_metadata_costs_no_time_and_raises_nothing(key: str, text: str) -> None:
    began = time.process_time()
    Recipe.find(picture(**{key: text}))
    assert time.process_time() - began < LINEAR_TIME_S


def test_a_recipe_may_hold_long_pictures_but_not_many_values() -> None:
    began = time.process_time()
    assert Recipe.find(picture(swiftai='{"prompt": "a", "x": [' + "[]," * 12_000_000 + "[]]}")) is None
    assert time.process_time() - began < LINEAR_TIME_S
    found = Recipe.find(picture(swiftai=json.dumps({"prompt": "a", "x": "A" * 30_000_000})))
    assert found is not None
    assert found.prompt == "a"


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
def test_a_damaged_exif_block_is_no_recipe() -> None:
    image = picture()
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x87\x69\x00\x04\0\0\0\x01\0\0\0\x01" * 20
    assert Recipe.find(image) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 7),
        ("negative_prompt", ["fog"]),
        ("width", "512"),
        ("steps", 4.5),
        ("steps", True),
        ("seed", {}),
        ("guidance_scale", "high"),
        ("strength", float("nan")),
        ("loras", "a/b"),
        ("loras", [{"scale": 1.0}]),
        ("loras", [7]),
        ("versions", ["numpy"]),
        ("versions", {"numpy": 2}),
        ("notes", "a note"),
        ("notes", [7]),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"not a recipe: {field} must be"):
        Recipe.from_dict({"prompt": "a fox", field: value})


@pytest.mark.parametrize("data", [{}, [], {"prompt": None}, "text"])
def test_data_without_a_prompt_is_no_recipe(data: object) -> None:
    with pytest.raises(InvalidInputError, match="not a recipe"):
        Recipe.from_dict(data)  # type: ignore[arg-type]


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(
        "a fox",
        steps=4,
        guidance_scale=2,
        loras=(LoraReference("a/b", 0.5),),
        versions={"x": "1"},
        notes=("n",),
    )
    assert Recipe.from_dict(json.loads(recipe.to_json())) == recipe


@pytest.mark.parametrize(
    ("text", "eta", "notes"),
    [
        ("Sampler: DDIM, Eta: 0.5", 0.5, 0),
        ("Sampler: Euler a, Eta: 1", None, 0),
        ("Sampler: Euler a, Eta: 0.67", None, 1),
    ],
)
def test_eta_is_that_of_ddim(text: str, eta: float | None, notes: int) -> None:
    recipe = Recipe.from_parameters(f"a fox\nSteps: 4, Seed: 1, {text}")
    assert recipe is not None
    assert (recipe.eta, len(recipe.notes)) == (eta, notes)


def test_guidance_rescale_and_eta_come_back_as_they_were() -> None:
    recipe = Recipe("a fox", steps=4, seed=1, scheduler="ddim", guidance_rescale=0.7, eta=0.25)
    again = Recipe.from_parameters(recipe.to_parameters())
    assert again is not None
    assert (again.guidance_rescale, again.eta) == (0.7, 0.25)
    assert (again.to_config().guidance_rescale, again.to_config().eta) == (0.7, 0.25)


@pytest.mark.parametrize(
    ("sampler", "kind", "scheduler", "notes"),
    [
        ("dpmpp_2m_sde", "karras", "dpmpp_2m_sde karras", 0),
        ("euler", "sgm_uniform", "euler sgm_uniform", 0),
        ("euler", "normal", "euler", 0),
        ("euler", "kl_optimal", "euler", 1),
    ],
)
def test_comfyuis_sampler_and_scheduler_are_one_name(
    sampler: str, kind: str, scheduler: str, notes: int
) -> None:
    inputs = {"seed": 1, "steps": 4, "sampler_name": sampler, "scheduler": kind}
    graph = {"3": {"class_type": "KSampler", "inputs": inputs}}
    found = Recipe.find(picture(prompt=json.dumps(graph)))
    assert found is not None
    assert (found.scheduler, len(found.notes)) == (scheduler, notes)


@pytest.mark.parametrize(
    "field", ["loras", "notes", "references_sha256", "sources", "embeddings", "controls"]
)
def test_a_list_of_very_many_items_is_no_recipe(field: str) -> None:
    with pytest.raises(InvalidInputError, match="1000 is the most"):
        Recipe.from_dict({"prompt": "a fox", field: ["x"] * 20_000})
