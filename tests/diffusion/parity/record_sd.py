"""Records what diffusers and transformers make of the tiny Stable Diffusions: `python record_sd.py [folder]`.

Needs torch, diffusers and transformers, which nothing else here does. Weights come from `seeded_weights`,
noise from NumPy, so the files hold only results and the shapes of state dicts.
"""

import inspect
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers
from diffusers.utils import logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.seeded_weights import seeded_weights
from tests.diffusion.parity.tiny_flux import write_clip_tokenizer

logging.set_verbosity_error()
if not hasattr(CLIPTextModel, "text_model"):
    # diffusers' clip_skip still looks for the inner model that transformers 5 merged into the outer one.
    CLIPTextModel.text_model = property(lambda self: self)


def published_name(key):
    """Text encoders are stored with the prefix of published files."""
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"


def fill(network, *, is_text=False):
    """Seeded weights; returns the network and its shapes under published names."""
    state = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    names = {k: published_name(k) if is_text else k for k in state}
    shapes = {names[k]: tuple(v.shape) for k, v in state.items()}
    weights = seeded_weights(shapes)
    network.load_state_dict({k: torch.from_numpy(weights[n]) for k, n in names.items()}, strict=False)
    return network.eval(), shapes


def make_tokenizer(pad):
    with tempfile.TemporaryDirectory() as folder:
        write_clip_tokenizer(Path(folder))
        path = Path(folder, "tokenizer_config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": pad}))
        return CLIPTokenizer.from_pretrained(folder)


def make_scheduler(run):
    config = tiny_sd.scheduler_config(run)
    cls = getattr(diffusers, config["_class_name"])
    return cls(**{k: v for k, v in config.items() if k in inspect.signature(cls.__init__).parameters})


def networks(name):
    """Networks of a model by folder name, and their shapes."""
    model, made, shapes = tiny_sd.MODELS[name], {}, {}
    for folder in ("text_encoder", "text_encoder_2"):
        if folder in model:
            projected = "CLIPTextModelWithProjection" in model[folder].get("architectures", ())
            cls = CLIPTextModelWithProjection if projected else CLIPTextModel
            made[folder], shapes[folder] = fill(cls(CLIPTextConfig(**model[folder])), is_text=True)
    made["unet"], shapes["unet"] = fill(diffusers.UNet2DConditionModel(**model["unet"]))
    made["vae"], shapes["vae"] = fill(diffusers.AutoencoderKL(**{**tiny_sd.VAE, **model.get("vae", {})}))
    return made, shapes


def pipeline_class(run):
    name = tiny_sd.MODELS[run["model"]]["class"]
    if run["mask"]:
        return diffusers.StableDiffusionInpaintPipeline
    if run["strength"] and "Img2Img" not in name:
        name = name.replace("Pipeline", "Img2ImgPipeline")
    return getattr(diffusers, name)


def make_pipeline(run, made):
    model = tiny_sd.MODELS[run["model"]]
    parts = {**made, "scheduler": make_scheduler(run)}
    for suffix, pad in zip(("", "_2"), model["pad"], strict=False):
        parts[f"tokenizer{suffix}"] = None if pad is None else make_tokenizer(pad)
    parts |= {
        name: None if value == [None, None] else value for name, value in model.get("index", {}).items()
    }
    cls = pipeline_class(run)
    extra = {} if "sdxl" in run["model"] else {"safety_checker": None, "feature_extractor": None,
                                               "requires_safety_checker": False}  # fmt: skip
    pipe = cls(**parts, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def nchw(array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def nhwc(tensor):
    return np.ascontiguousarray(np.moveaxis(tensor.detach().numpy(), 1, -1))


def patch_noise(pipe, run):
    """Start noise and step noise from NumPy instead of torch's generator."""
    shape = tiny_sd.latent_shape(run)
    steps = iter(range(1000))
    sys.modules[type(pipe).__module__].randn_tensor = lambda *_, **__: nchw(
        tiny_sd.unit_noise("start", shape)
    )
    module = sys.modules[type(pipe.scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda *_, **__: nchw(tiny_sd.step_noise(next(steps), shape))


@torch.no_grad()
def record_run(run, made):
    pipe = make_pipeline(run, made)
    patch_noise(pipe, run)
    shape, (width, height) = tiny_sd.latent_shape(run), run["size"]
    outputs, steps = [], []
    forward = made["unet"].forward

    def spy(*args, **kwargs):
        result = forward(*args, **kwargs)
        outputs.append(result[0])
        return result

    made["unet"].forward = spy
    call = {"prompt": run["prompt"], "num_inference_steps": run["steps"], "guidance_scale": run["guidance"],
            "clip_skip": run["clip_skip"], "output_type": "latent",
            "callback_on_step_end": lambda p, i, t, kw: steps.append(nhwc(kw["latents"])) or {}}  # fmt: skip
    if "lcm" not in run["model"]:
        negative = run["negative"]
        call["negative_prompt"] = negative if negative is None else [negative] * len(run["prompt"])
    if run["rescale"]:
        call["guidance_rescale"] = run["rescale"]
    if run["strength"] is None:
        call |= {"width": width, "height": height, "latents": nchw(tiny_sd.unit_noise("start", shape))}
    else:
        call["strength"] = run["strength"]
        call["image"] = nchw(tiny_sd.unit_noise("image", shape))
    if run["mask"]:
        pipe._encode_vae_image = lambda image, generator: nchw(tiny_sd.unit_noise("image", shape))
        call |= {"width": width, "height": height, "image": torch.zeros(1, 3, height, width)}
        call["mask_image"] = nchw(tiny_sd.mask_pixels(run)[None])
    try:
        final = pipe(**call).images
    finally:
        made["unet"].forward = forward
    return {
        **embeddings(pipe, run),
        "first_output": nhwc(outputs[0]),
        "calls": np.array(len(outputs)),
        "latents": np.stack(steps),
        "final": nhwc(final),
        "image": decoded(pipe, final),
    }


def embeddings(pipe, run):
    """Positive and negative text embeddings, and pooled ones where the family has them."""
    guided = run["guidance"] > 1 and "lcm" not in run["model"]
    negative = run["negative"] if run["negative"] is None else [run["negative"]] * len(run["prompt"])
    result = pipe.encode_prompt(
        prompt=run["prompt"], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=guided,
        negative_prompt=negative, clip_skip=run["clip_skip"],
    )  # fmt: skip
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    return {n: t.numpy() for n, t in zip(names, result, strict=False) if t is not None}


def decoded(pipe, latents):
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor)[0]
    return np.round(pipe.image_processor.postprocess(image, output_type="np") * 255).astype(np.uint8)


@torch.no_grad()
def record_encoding(made):
    """The autoencoder's way in."""
    pixels = tiny_sd.picture((48, 64))
    moments = made["vae"].encode(nchw(pixels[None].astype(np.float32) / 127.5 - 1)).latent_dist
    return {"mean": nhwc(moments.mean), "std": nhwc(moments.std)}


def record_tokens():
    tokenizer = make_tokenizer("!")
    ids = tokenizer(list(tiny_sd.ODD_PROMPTS), padding="max_length", max_length=77, truncation=True).input_ids
    return {"ids": np.array(ids, dtype=np.int32)}


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    folder.mkdir(parents=True, exist_ok=True)
    all_shapes = {}
    for name in tiny_sd.MODELS:
        made, all_shapes[name] = networks(name)
        for run_name, run in tiny_sd.RUNS.items():
            if run["model"] == name:
                np.savez_compressed(folder / f"{run_name}.npz", **record_run(run, made))
                print(run_name)
        if name == "sd15":
            np.savez_compressed(folder / "sd15_encoding.npz", **record_encoding(made))
    np.savez_compressed(folder / "clip_tokens.npz", **record_tokens())
    np.savez_compressed(
        folder / "sd_shapes.npz", json=np.frombuffer(json.dumps(all_shapes).encode(), np.uint8)
    )


if __name__ == "__main__":
    main()
