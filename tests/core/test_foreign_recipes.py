"""Recipes of InvokeAI, Fooocus, SwarmUI, NovelAI, Draw Things and ComfyUI, as their files have them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from PIL import Image

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.recipe import Recipe
from tests.waiting import LINEAR_TIME_S


def read(**info: Any) -> Recipe:
    image = Image.new("RGB", (8, 8))
    image.info.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in info.items()})
    recipe = Recipe.find(image)
    assert recipe is not None
    recipe.to_config()  # whatever it says can be set
    return recipe


FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion", "base_model_hash": "aeb7e9e689",
    "clip_skip": 2, "full_negative_prompt": ["unrealistic, blurry", "fog"],
    "full_prompt": ["cinematic still a fox", "a fox, elegant"], "guidance_scale": 4,
    "loras": [["sd_xl_offset_example-lora_1.0", 0.1, "4852686128"]], "lora_combined_1": "x : 0.1",
    "metadata_scheme": "fooocus", "negative_prompt": "fog", "performance": "Speed", "prompt": "a fox",
    "refiner_model": "None", "refiner_switch": 0.5, "resolution": "(896, 1152)", "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras", "seed": "123456", "sharpness": 2, "steps": 30, "styles": "['Fooocus V2', 'Fooocus Sharp']",
    "vae": "Default (model)", "version": "Fooocus v2.5.5",
}  # fmt: skip


def test_fooocus() -> None:
    recipe = read(parameters=FOOOCUS, fooocus_scheme="fooocus")
    assert recipe.prompt == "cinematic still a fox, a fox, elegant"
    assert recipe.negative_prompt == "unrealistic, blurry, fog"
    assert (recipe.width, recipe.height, recipe.steps, recipe.seed) == (896, 1152, 30, 123456)
    assert (recipe.scheduler, recipe.guidance_scale, recipe.clip_skip) == ("dpmpp_2m_sde_gpu karras", 4.0, 1)
    assert recipe.loras == (LoraReference("sd_xl_offset_example-lora_1.0", 0.1),)
    assert "sharpness" in recipe.notes[0]
    old = {"Prompt": "a fox", "Negative Prompt": "", "Styles": "['Fooocus V2']", "Resolution": "(1024, 1024)",
           "Sampler": "euler", "Scheduler": "normal", "Seed": 7, "Base Model": "x", "Steps": 20}  # fmt: skip
    recipe = read(parameters=old)
    assert (recipe.prompt, recipe.width, recipe.scheduler, recipe.seed) == ("a fox", 1024, "euler", 7)
    assert any("Fooocus V2" in note for note in recipe.notes)


def test_swarmui_with_its_refiner_upscale() -> None:
    data = {
        "sui_image_params": {
            "prompt": "a fox", "negativeprompt": "fog", "model": "OfficialStableDiffusion/sd_xl_base_1.0",
            "seed": 5, "steps": 20, "cfgscale": 7.0, "aspectratio": "1:1", "width": 1024, "height": 768,
            "sampler": "dpmpp_2m", "scheduler": "karras", "refinercontrolpercentage": 0.3, "refinerupscale": 1.5,
            "refinerupscalemethod": "model-4x-UltraSharp.pth", "loras": ["one"], "loraweights": ["0.7"],
            "swarm_version": "0.9.5.0", "vae": "x.safetensors",
        },
        "sui_extra_data": {"date": "2026-01-01"},
    }  # fmt: skip
    recipe = read(parameters=data)
    assert (recipe.prompt, recipe.model, recipe.width) == (
        "a fox",
        "OfficialStableDiffusion/sd_xl_base_1.0",
        1024,
    )
    assert (recipe.hires, recipe.hires_strength, recipe.upscaler) == (1.5, 0.3, "4x-UltraSharp.pth")
    assert (recipe.scheduler, recipe.loras) == ("dpmpp_2m karras", (LoraReference("one", 0.7),))
    assert recipe.notes == ("not supported, and left out: vae",)


def test_novelai() -> None:
    comment = {
        "prompt": "{fox}, snow", "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "uncond_scale": 1.0,
        "cfg_rescale": 0.2, "seed": 1979, "n_samples": 1, "sampler": "k_euler_ancestral", "noise_schedule": "native",
        "uc": "lowres", "request_type": "PromptGenerateRequest", "strength": 0.7, "sm": True,
    }  # fmt: skip
    recipe = read(
        Comment=comment, Description="{fox}, snow", Software="NovelAI", Source="Stable Diffusion XL 9CC2"
    )
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("{fox}, snow", "lowres", 1979)
    assert (recipe.scheduler, recipe.guidance_rescale, recipe.strength) == ("k_euler_ancestral", 0.2, None)
    assert [word in " ".join(recipe.notes) for word in ("braces", "sm")] == [True, True]
    assert read(Comment={**comment, "noise_schedule": "karras"}).scheduler == "k_euler_ancestral karras"


def test_draw_things_in_an_xmp_packet() -> None:
    data = {"c": 'a "fox" & snow', "uc": "fog", "model": "sd_xl_base_1.0_f16.ckpt", "sampler": "DPM++ 2M Karras",
            "scale": 7.5, "seed": 99, "seed_mode": "Scale Alike", "size": "512x768", "steps": 20, "strength": 1,
            "lora": [{"model": "x.ckpt", "weight": 0.6}], "v2": {"loras": []}}  # fmt: skip
    packed = json.dumps(data).replace("&", "&amp;").replace('"', "&quot;")
    xmp = f"<x><exif:UserComment><rdf:Alt><rdf:li>{packed}</rdf:li></rdf:Alt></exif:UserComment></x>"
    recipe = read(**{"XML:com.adobe.xmp": xmp})
    assert (recipe.prompt, recipe.width, recipe.height, recipe.seed) == ('a "fox" & snow', 512, 768, 99)
    assert (recipe.scheduler, recipe.strength) == ("DPM++ 2M Karras", None)
    assert recipe.loras == (LoraReference("x.ckpt", 0.6),)


def test_invokeai_of_all_ages() -> None:
    new = {
        "app_version": "5.4.0", "generation_mode": "sdxl_txt2img", "positive_prompt": "a fox", "negative_prompt": "fog",
        "width": 1024, "height": 1024, "seed": 5, "cfg_scale": 7.5, "cfg_rescale_multiplier": 0, "steps": 30,
        "scheduler": "dpmpp_2m_k", "clip_skip": 0, "model": {"name": "juggernaut", "key": "x", "hash": "y"},
        "loras": [{"model": {"name": "one"}, "weight": 0.75}], "controlnets": [{"x": 1}], "vae": None,
    }  # fmt: skip
    recipe = read(invokeai_metadata=new)
    assert (recipe.model, recipe.loras) == ("juggernaut", (LoraReference("one", 0.75),))
    assert (recipe.guidance_rescale, recipe.clip_skip) == (None, None)
    assert recipe.notes == ("not supported, and left out: controlnets",)
    old = {"model_weights": "sd-1.4", "image": {"prompt": [{"prompt": "a fox [fog]", "weight": 1}], "steps": 50,
           "cfg_scale": 7.5, "seed": 3, "sampler": "k_lms", "width": 512, "height": 512, "type": "txt2img"}}  # fmt: skip
    recipe = read(**{"sd-metadata": old})
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed, recipe.scheduler) == (
        "a fox",
        "fog",
        3,
        "k_lms",
    )
    recipe = read(Dream='"a fox [fog]" -s 50 -S 3 -W 512 -H 640 -C 7.5 -A k_lms')
    assert (recipe.prompt, recipe.seed, recipe.height, recipe.steps) == ("a fox", 3, 640, 50)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


BASE = {
    "4": node("CheckpointLoaderSimple", ckpt_name="x.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
    "6": node("CLIPTextEncode", text="a fox", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="fog", clip=["4", 1]),
    "3": node("KSampler", seed=9, steps=20, cfg=6.0, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
              model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", images=["8", 0]),
}  # fmt: skip


def second(latent: list[Any], **changes: Any) -> dict[str, Any]:
    return node(
        "KSampler",
        **{**BASE["3"]["inputs"], "seed": 1, "steps": 12, "denoise": 0.5, "latent_image": latent},
        **changes,
    )


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ({"10": node("LatentUpscaleBy", samples=["3", 0], scale_by=1.5)}, (1.5, "lanczos")),
        ({"10": node("LatentUpscale", samples=["3", 0], width=1024, height=1536)}, (2.0, "lanczos")),
        (
            {
                "20": node("VAEDecode", samples=["3", 0]),
                "21": node("UpscaleModelLoader", model_name="4x-UltraSharp.pth"),
                "22": node("ImageUpscaleWithModel", upscale_model=["21", 0], image=["20", 0]),
                "23": node("ImageScaleBy", image=["22", 0], scale_by=0.5),
                "10": node("VAEEncode", pixels=["23", 0]),
            },
            (2.0, "4x-UltraSharp.pth"),
        ),
    ],
)
def test_a_second_sampler_is_a_hires_pass(between: dict[str, Any], expected: tuple[float, str]) -> None:
    graph = {"12": second(["10", 0]), **BASE, **between, "8": node("VAEDecode", samples=["12", 0])}
    recipe = read(prompt=graph)
    assert (recipe.hires, recipe.upscaler) == expected
    assert (recipe.hires_strength, recipe.hires_steps, recipe.strength) == (0.5, 12, None)
    assert (recipe.seed, recipe.steps, recipe.width, recipe.height) == (9, 20, 512, 768)


def test_an_upscaler_behind_the_sampler() -> None:
    graph = {
        **BASE,
        "21": node("UpscaleModelLoader", model_name="RealESRGAN_x2plus.pth"),
        "22": node("ImageUpscaleWithModel", upscale_model=["21", 0], image=["8", 0]),
        "9": node("SaveImage", images=["22", 0]),
    }
    recipe = read(prompt=graph)
    assert (recipe.upscale, recipe.upscaler, recipe.hires) == (2.0, "RealESRGAN_x2plus.pth", None)


def test_flux_with_its_nodes_for_everything() -> None:
    graph = {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "2": node("LoraLoaderModelOnly", lora_name="style.safetensors", strength_model=0.8, model=["1", 0]),
        "3": node("EmptySD3LatentImage", width=1024, height=1024),
        "4": node("CLIPTextEncode", text=["14", 0]),
        "14": node("PrimitiveString", value="a fox"),
        "5": node("FluxGuidance", guidance=3.5, conditioning=["4", 0]),
        "6": node("BasicGuider", model=["2", 0], conditioning=["5", 0]),
        "7": node("KSamplerSelect", sampler_name="euler"),
        "8": node("BasicScheduler", scheduler="simple", steps=20, denoise=1.0, model=["2", 0]),
        "9": node("RandomNoise", noise_seed=["15", 0]),
        "15": node("Seed (rgthree)", seed=77),
        "10": node("SamplerCustomAdvanced", noise=["9", 0], guider=["6", 0], sampler=["7", 0], sigmas=["8", 0],
                   latent_image=["3", 0]),
        "11": node("VAEDecode", samples=["10", 0]),
        "12": node("SaveImage", images=["11", 0]),
    }  # fmt: skip
    recipe = read(prompt=graph)
    assert (recipe.prompt, recipe.guidance_scale, recipe.seed, recipe.steps) == ("a fox", 3.5, 77, 20)
    assert (recipe.model, recipe.width, recipe.scheduler) == ("flux1-dev.safetensors", 1024, "euler simple")
    assert recipe.loras == (LoraReference("style.safetensors", 0.8),)


def test_image_to_image_and_what_is_not_supported() -> None:
    graph = {
        **BASE,
        "5": node("VAEEncode", pixels=["30", 0]),
        "30": node("LoadImage", image="photo.png"),
        "31": node("ControlNetApplyAdvanced", positive=["6", 0]),
    }
    graph["3"] = node("KSampler", **{**BASE["3"]["inputs"], "denoise": 0.6})
    recipe = read(prompt=graph)
    assert recipe.strength == 0.6
    assert any("ControlNet" in note for note in recipe.notes)


def test_the_editors_workflow_alone() -> None:
    workflow = {
        "nodes": [
            {"id": 3, "type": "KSampler", "widgets_values": [9, "randomize", 20, 6.0, "euler", "normal", 1.0],
             "inputs": [{"name": "model", "link": 1}, {"name": "positive", "link": 2}, {"name": "negative", "link": 3},
                        {"name": "latent_image", "link": 4}]},
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["x.safetensors"], "inputs": []},
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [512, 768, 1]},
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a fox"], "inputs": [{"name": "clip", "link": 5}]},
            {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["fog"]},
            {"id": 99, "type": "KSampler", "mode": 4, "widgets_values": [1, "fixed", 1, 1.0, "lcm", "normal", 1.0]},
        ],
        "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "C"], [3, 7, 0, 3, 2, "C"], [4, 5, 0, 3, 3, "L"],
                  [5, 4, 1, 6, 0, "CLIP"]],
    }  # fmt: skip
    recipe = read(workflow=workflow)
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed, recipe.steps) == ("a fox", "fog", 9, 20)
    assert (recipe.width, recipe.height, recipe.scheduler, recipe.model) == (
        512,
        768,
        "euler",
        "x.safetensors",
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ADetailer model: face_yolov8n.pt, ADetailer version: 24", "ADetailer model, ADetailer version"),
        ("Refiner: x, Refiner switch at: 0.8, VAE: y", "Refiner, Refiner switch at, VAE"),
        ('ControlNet 0: "Module: canny, Model: x, Weight: 1"', "ControlNet 0"),
        ("ENSD: 31337, Face restoration: CodeFormer", "ENSD, Face restoration"),
        ("Variation seed: 4, Variation seed strength: 0.1", "Variation seed, Variation seed strength"),
    ],
)
def test_what_a1111_can_and_we_cannot_is_a_note(text: str, names: str) -> None:
    recipe = Recipe.from_parameters(
        f"a fox\nSteps: 4, Sampler: Euler, Seed: 1, Model hash: abc, Version: v1.10, {text}"
    )
    assert recipe is not None
    assert recipe.notes == (f"not supported, and left out: {names}",)


def test_forges_distilled_guidance_is_the_guidance() -> None:
    recipe = Recipe.from_parameters("a fox\nSteps: 20, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 1")
    assert recipe is not None
    assert recipe.guidance_scale == 3.5


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Seed: -1", "seed"),
        ("Seed: 18446744073709551615", "seed"),
        ("Seed: 1, Size: 8x9000", "width"),
        ("Seed: 1, Denoising strength: 1.5", "strength"),
        ("Seed: 1, CFG scale: 900", "guidance_scale"),
        ("Seed: 1, Clip skip: 99", "clip_skip"),
    ],
)
def test_values_that_cannot_be_set_are_left_out(text: str, field: str) -> None:
    recipe = Recipe.from_parameters(f"a fox\nSteps: 4, Sampler: Euler, {text}")
    assert recipe is not None
    recipe.to_config()
    assert getattr(recipe, field) is None
    assert len(recipe.notes) == (0 if text == "Seed: -1" else 2 if field == "width" else 1)


def chain(length: int) -> dict[str, Any]:
    nodes = {str(i): node("LatentUpscaleBy", samples=[str(i + 1), 0], scale_by=1.0) for i in range(length)}
    return nodes | {"s": node("KSampler", latent_image=["0", 0], positive=["0", 0], model=["0", 0], steps=4)}


HOSTILE = {
    "a long chain": chain(20_000),
    "a circle of pictures": {
        "1": node("VAEDecode", samples=["1", 0]),
        "9": node("SaveImage", images=["1", 0]),
    },
    "many savers": {str(i): node("SaveImage", images=["x", 0]) for i in range(20_000)} | chain(300),
    "many savers of one chain": {
        **{str(i): node("X", images=[str(i + 1), 0]) for i in range(398)},
        **{f"s{i}": node("SaveImage", images=["0", 0]) for i in range(9_000)},
        "k": node("KSampler", steps=3, latent_image=["z", 0], positive=["q", 0]),
    },
    "many samplers": {str(i): node("KSampler", latent_image=[str(i + 1), 0], steps=1) for i in range(20_000)},
    "numbers that link to themselves": {
        "s": node("KSampler", steps=["s", 0], seed=["s", 0], latent_image=["s", 0])
    },
    "links of links": {
        "s": node("KSampler", steps=[[["s"]]], latent_image=[{}], positive=[None], model=[[1]])
    },
    "texts for numbers": {"s": node("KSampler", steps="x" * 100_000, seed={}, cfg=[], latent_image=["s"])},
    "inputs that are no inputs": {"s": {"class_type": ["KSampler"], "inputs": 7}},
    "a huge seed": {
        "s": node("KSampler", seed=10**300, steps=10**9, positive=["t", 0]),
        "t": node("x", text="fox"),
    },
}


@pytest.mark.parametrize(
    "key", ["prompt", "workflow", "parameters", "invokeai_metadata", "sd-metadata", "Comment"]
)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_graphs_cost_no_time_and_raise_nothing(key: str, data: Any) -> None:
    image = Image.new("RGB", (8, 8))
    image.info[key] = json.dumps(data)
    began = time.process_time()
    recipe = Recipe.find(image)
    assert time.process_time() - began < LINEAR_TIME_S
    if recipe is not None:
        recipe.to_config()


@pytest.mark.parametrize(
    "data",
    [
        {"sui_image_params": {"prompt": 7}},
        {"sui_image_params": {"prompt": "x", "loras": 4, "loraweights": {}}},
        {"prompt": "x", "sampler": [], "styles": "[" * 9000, "loras": {"a": 1}, "resolution": None},
        {"prompt": "x", "sampler": "euler", "seed": "9" * 5000, "steps": True, "loras": [[], [1], None]},
        {"nodes": [{"id": 1}], "links": [1, None, []]},
        {"c": 1, "scale": 2},
        {"uc": 1, "prompt": {}},
        {"image": {"prompt": [1]}},
    ],
)
def test_other_tools_keys_with_other_types(data: Any) -> None:
    image = Image.new("RGB", (8, 8))
    for key in (
        "parameters",
        "prompt",
        "workflow",
        "invokeai_metadata",
        "sd-metadata",
        "Comment",
        "XML:com.adobe.xmp",
    ):
        image.info[key] = json.dumps(data)
    recipe = Recipe.find(image)
    if recipe is not None:
        recipe.to_config()
