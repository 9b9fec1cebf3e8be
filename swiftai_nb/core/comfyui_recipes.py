"""Recipes in ComfyUI's graphs: `prompt`, what was run, and `workflow`, what the editor shows.

A graph is followed from the picture that was saved back to the sampler that made it. A second sampler on its
way is a hires pass. What a graph does beyond that is a note. Graphs are untrusted: every walk is bounded.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from swiftai_nb.core.metadata_values import Fields, number_of, scheduler_of, text_of, within_limits

Node = Mapping[str, Any]
Graph = Mapping[str, Any]

_LONGEST_WALK = 400
_MOST_LORAS = 32
_MOST_SAVERS = 40
# Inputs that lead from a node to the one before it, by what is followed.
_PICTURE = ("images", "image", "samples", "latent_image", "latent", "pixels", "upscale_image")
_MODEL = ("model", "guider", "base_model")
_TEXT = ("text", "text_g", "t5xxl", "clip_l", "prompt", "string", "value", "positive")
_TEXT_LINKS = (
    "text",
    "text_g",
    "conditioning",
    "conditioning_1",
    "conditioning_to",
    "string",
    "text1",
    "string_a",
)
_VALUES = ("value", "seed", "noise_seed", "int", "float", "number", "string", "text")
_MODEL_NAMES = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
_OTHER_NODES = {
    "ControlNetApply": "ControlNet",
    "IPAdapter": "IP-Adapter",
    "VAELoader": "a VAE of its own",
    "Detailer": "a detailer",
    "FreeU": "FreeU",
    "SetLatentNoiseMask": "a mask",
    "VAEEncodeForInpaint": "a mask",
    "ConditioningCombine": "combined prompts",
    "ConditioningConcat": "combined prompts",
    "ConditioningSetArea": "prompts for areas",
}
# The widgets of the editor's nodes, in their order; "" is one that is not an input.
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step",
    ),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "LatentUpscale": ("", "width", "height"),
    "LatentUpscaleBy": ("", "scale_by"),
    "ImageScale": ("", "width", "height"),
    "ImageScaleBy": ("", "scale_by"),
    "UpscaleModelLoader": ("model_name",),
    "RandomNoise": ("noise_seed",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KSamplerSelect": ("sampler_name",),
    "FluxGuidance": ("guidance",),
    "PrimitiveNode": ("value",),
}  # fmt: skip


def parse_workflow(text: str) -> Fields | None:
    """The editor's JSON: nodes with their widgets' values, and links between them."""
    data = json.loads(text)
    sources = {link[0]: [str(link[1]), link[2]] for link in data["links"] if isinstance(link, list)}
    graph: dict[str, Node] = {}
    for node in data["nodes"]:
        if not isinstance(node, dict) or node.get("mode") in (2, 4):  # muted, bypassed
            continue
        kind, values = str(node.get("type")), node.get("widgets_values")
        names = _WIDGETS.get(kind, ())
        inputs = dict(values) if isinstance(values, dict) else {}
        if isinstance(values, list):
            inputs = {name: value for name, value in zip(names, values, strict=False) if name}
        for entry in node.get("inputs") or ():
            if isinstance(entry, dict) and entry.get("link") in sources:
                inputs[str(entry.get("name"))] = sources[entry["link"]]
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return _read(graph)


def parse_graph(text: str) -> Fields | None:
    """The JSON of what was run: nodes by id, with their inputs as values or as links [id, output]."""
    data = json.loads(text)
    return _read({str(key): node for key, node in data.items() if isinstance(node, dict)})


def _read(graph: Graph) -> Fields | None:
    last = _last_sampler(graph)
    if last is None:
        return None
    notes: list[str] = []
    start = _inputs(graph[last])
    latent = start.get("latent_image", start.get("latent"))
    before = next((key for key, node in _walk(graph, latent) if _is_sampler(node)), None)
    hires: Fields = {}
    if before is not None:
        hires = _second_pass(graph, latent, start, before, notes)
        start = _inputs(graph[before])
        latent = start.get("latent_image", start.get("latent"))
    origin = {} if latent is None else _origin(graph, latent)
    positive, guidance = _conditioning(graph, start, "positive")
    negative, _ = _conditioning(graph, start, "negative")
    sigmas = _linked(graph, start.get("sigmas"))
    scheduler, schedule_notes = _sampler_name(graph, start, sigmas)
    strength = _number(graph, {**sigmas, **start}, "denoise", float)
    is_from_picture = any("LoadImage" in _kind(node) for _, node in _walk(graph, latent))
    cfg = _number(graph, {**_linked(graph, start.get("guider")), **start}, "cfg", float)
    upscaling = {} if hires else _upscaling(graph, last, notes)
    others = sorted(
        {what for node in graph.values() for piece, what in _OTHER_NODES.items() if piece in _kind(node)}
    )
    if others:
        notes.append(f"not supported, and left out: {', '.join(others)}")
    loras = list(_loras(graph, start))
    return within_limits(
        {
            **hires,
            **upscaling,
            "prompt": positive or "",
            "negative_prompt": negative or None,
            "model": _model_name(graph, start),
            "width": _number(graph, origin, "width", int),
            "height": _number(graph, origin, "height", int),
            "steps": _number(graph, {**sigmas, **start}, "steps", int),
            "guidance_scale": guidance if guidance is not None and cfg in (None, 1.0) else cfg,
            "seed": _seed(graph, start),
            "scheduler": scheduler,
            "strength": strength if is_from_picture and strength != 1.0 else None,
            **({"loras": loras} if loras else {}),
            "notes": [*schedule_notes, *notes],
        }
    )


def _kind(node: Node) -> str:
    return str(node.get("class_type"))


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _node(graph: Graph, link: Any) -> Node | None:
    node = graph.get(str(link[0])) if isinstance(link, list) and link else None
    return node if isinstance(node, dict) else None


def _linked(graph: Graph, link: Any) -> Mapping[str, Any]:
    """The inputs of the node that a link [node id, output] comes from."""
    return _inputs(_node(graph, link))


def _is_sampler(node: Node) -> bool:
    inputs = _inputs(node)
    is_named = "KSampler" in _kind(node) or "SamplerCustom" in _kind(node)
    is_select = "Select" in _kind(node)
    return (
        is_named and not is_select and ("latent_image" in inputs or "positive" in inputs or "steps" in inputs)
    )


def _walk(graph: Graph, link: Any, names: tuple[str, ...] = _PICTURE) -> Iterator[tuple[str, Node]]:
    """The nodes from a link backwards, along the first of these inputs that each has; ends at a sampler."""
    seen: set[str] = set()
    while isinstance(link, list) and link and len(seen) < _LONGEST_WALK:
        key, node = str(link[0]), _node(graph, link)
        if node is None or key in seen:
            return
        seen.add(key)
        yield key, node
        if _is_sampler(node):
            return
        inputs = _inputs(node)
        link = next((inputs[name] for name in names if isinstance(inputs.get(name), list)), None)


def _last_sampler(graph: Graph) -> str | None:
    """The sampler that made the saved picture; without one, the last of a chain of samplers."""
    for node in _savers(graph, "SaveImage", "PreviewImage", "Image Save"):
        for key, found in _walk(graph, next((v for k, v in _inputs(node).items() if k in _PICTURE), None)):
            if _is_sampler(found):
                return key
    samplers = [key for key, node in graph.items() if _is_sampler(node)][:_LONGEST_WALK]
    fed = {key for one in samplers for key, _ in _walk(graph, _inputs(graph[one]).get("latent_image"))}
    return next((key for key in samplers if key not in fed), samplers[0] if samplers else None)


def _savers(graph: Graph, *kinds: str) -> Iterator[Node]:
    """The nodes that save or show pictures; the first ones of very many."""
    found = (node for node in graph.values() if any(kind in _kind(node) for kind in kinds))
    return itertools.islice(found, _MOST_SAVERS)


def _origin(graph: Graph, latent: Any) -> Mapping[str, Any]:
    """The inputs of the node that sets the size."""
    found: Mapping[str, Any] = {}
    for _, node in _walk(graph, latent):
        inputs = _inputs(node)
        if "width" in inputs and "Upscale" not in _kind(node) and "Scale" not in _kind(node):
            found = inputs
    return found


def _second_pass(
    graph: Graph, latent: Any, second: Mapping[str, Any], before: str, notes: list[str]
) -> Fields:
    """What lies between two samplers, and the second one's settings, as a hires pass."""
    base = _inputs(graph[before])
    width = _number(graph, _origin(graph, base.get("latent_image")), "width", int)
    factor, upscaler = 1.0, "lanczos"
    for key, node in _walk(graph, latent):
        if key == before:
            break
        inputs = _inputs(node)
        by = _number(graph, inputs, "scale_by", float)
        across = _number(graph, inputs, "width", int)
        if by is not None:
            factor *= by
        elif across and width and "scale" in _kind(node).lower():
            factor = across / width  # a size: whatever came before
            break
        elif "upscale_model" in inputs:
            name = text_of(_linked(graph, inputs["upscale_model"]).get("model_name"))
            upscaler, factor = name or upscaler, factor * _factor_in(name)
    denoise = _number(graph, {**_linked(graph, second.get("sigmas")), **second}, "denoise", float)
    if not 1.0 < factor <= 4.0:
        notes.append("a second sampler that is no enlargement to 4 times at most was left out")
        return {}
    return {
        "hires": round(factor, 4),
        "hires_strength": denoise,
        "hires_steps": _number(graph, {**_linked(graph, second.get("sigmas")), **second}, "steps", int),
        "upscaler": upscaler,
    }


def _upscaling(graph: Graph, sampler: str, notes: list[str]) -> Fields:
    """An enlargement between the sampler and the saved picture."""
    for node in _savers(graph, "SaveImage"):
        factor, name = 1.0, None
        path = list(_walk(graph, _inputs(node).get("images")))
        for _, one in path:
            inputs = _inputs(one)
            by = _number(graph, inputs, "scale_by", float)
            factor *= 1.0 if by is None else by
            if "upscale_model" in inputs:
                name = text_of(_linked(graph, inputs["upscale_model"]).get("model_name"))
                factor *= _factor_in(name)
        if path and path[-1][0] == sampler and factor != 1.0:
            if 1.0 < factor <= 8.0:
                return {"upscale": round(factor, 4), "upscaler": name or "lanczos"}
            notes.append(f"scaling the picture by {factor:g} is not supported; it was left out")
    return {}


def _factor_in(name: str | None) -> float:
    """The scale in an upscaler's name ("4x-UltraSharp", "RealESRGAN_x2plus"); 4 where there is none."""
    found = re.search(r"(?<!\d)([1-8])x|x([1-8])(?!\d)", (name or "").lower()[:200])
    return 4.0 if found is None else float(found[1] or found[2])


def _conditioning(graph: Graph, sampler: Mapping[str, Any], name: str) -> tuple[str | None, float | None]:
    """The prompt that a sampler's input leads to, and FLUX' guidance on the way."""
    inputs, guidance = sampler, None
    guider = _linked(graph, sampler.get("guider"))
    link = sampler.get(name, guider.get(name, guider.get("conditioning") if name == "positive" else None))
    for _ in range(min(len(graph), _LONGEST_WALK)):
        if isinstance(link, str):
            return link, guidance
        inputs = _linked(graph, link)
        found = _number(graph, inputs, "guidance", float)
        guidance = guidance if found is None else found
        text = next(
            (inputs[key] for key in _TEXT if isinstance(inputs.get(key), str) and inputs[key].strip()), None
        )
        if text is not None:
            return text, guidance
        keys = (
            "text",
            "text_g",
            "conditioning",
            "conditioning_1",
            "conditioning_to",
            name,
            "string",
            "text1",
            "string_a",
        )
        link = next((inputs[key] for key in keys if isinstance(inputs.get(key), (list, str))), None)
        if link is None or link == "":
            return None, guidance
    return None, guidance


def _sampler_name(
    graph: Graph, sampler: Mapping[str, Any], sigmas: Mapping[str, Any]
) -> tuple[str | None, list[str]]:
    chosen = _linked(graph, sampler.get("sampler"))
    name = _value(graph, {**chosen, **sampler}, "sampler_name")
    return scheduler_of(text_of(name), str(_value(graph, {**sigmas, **sampler}, "scheduler") or ""))


def _seed(graph: Graph, sampler: Mapping[str, Any]) -> int | None:
    noise = _linked(graph, sampler.get("noise"))
    values = {**noise, **sampler}
    found = _number(graph, values, "seed", int)
    seed: int | None = _number(graph, values, "noise_seed", int) if found is None else found
    return seed


def _model_name(graph: Graph, sampler: Mapping[str, Any]) -> str | None:
    for inputs in _models(graph, sampler):
        for key in _MODEL_NAMES:
            name = text_of(_value(graph, inputs, key))
            if name is not None:
                return name
    return None


def _loras(graph: Graph, sampler: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for count, inputs in enumerate(_models(graph, sampler)):
        name = text_of(_value(graph, inputs, "lora_name"))
        if name is not None and name != "None" and count < _MOST_LORAS:
            scale = _number(graph, inputs, "strength_model", float)
            yield {"source": name, "scale": min(10.0, max(-10.0, 1.0 if scale is None else scale))}


def _models(graph: Graph, sampler: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The inputs of the nodes from a sampler's model to its file."""
    link, seen = next((sampler[key] for key in _MODEL if key in sampler), None), 0
    while seen < min(len(graph), _LONGEST_WALK):
        node = _node(graph, link)
        if node is None:
            return
        seen += 1
        inputs = _inputs(node)
        yield inputs
        link = next((inputs[key] for key in _MODEL if isinstance(inputs.get(key), list)), None)


def _value(graph: Graph, inputs: Mapping[str, Any], name: str) -> Any:
    """An input's value, also where it comes from a node that only holds it."""
    value = inputs.get(name)
    for _ in range(8):
        if not isinstance(value, list):
            return value
        held = _linked(graph, value)
        value = next((held[key] for key in (name, *_VALUES) if key in held), None)
    return None


def _number(graph: Graph, inputs: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    return number_of(kind, _value(graph, inputs, name))
