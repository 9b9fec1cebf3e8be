"""Recipes that other programs wrote."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.foreign_recipes import read_parameters
from swiftai_nb.core.recipe import Recipe

A1111 = """a castle, (towers:1.2)
on a hill
Negative prompt: fog, text
Steps: 28, Sampler: Euler a, CFG scale: 6.5, Seed: 4242, Size: 640x512, Model hash: abc, Model: dream, Clip skip: 2, Lora hashes: "a: 1, b: 2", V: 1"""


def picture(**info: str) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.info.update(info)
    return image


def test_a1111_block_is_read_in_full() -> None:
    recipe = read_parameters(A1111)
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
        clip_skip=2,
    )


def test_a1111_without_negative_prompt() -> None:
    recipe = read_parameters("a fox\nSteps: 4, Sampler: DDIM, CFG scale: 1, Seed: 0, Size: 64x64")
    assert recipe is not None
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("a fox", None, 0)


def test_plain_words_are_not_a_recipe() -> None:
    assert read_parameters("just some words") is None


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
    with pytest.raises(InvalidInputError, match="carries no recipe"):
        Recipe.from_image(picture(**info))


def test_newer_recipe_with_unknown_keys_is_still_read() -> None:
    text = json.dumps({"recipe_version": 9, "prompt": "a fox", "hologram": True})
    assert Recipe.from_image(picture(swiftai=text)).prompt == "a fox"
