"""Records what diffusers and transformers make of the tiny Z-Image: `python record_z_image.py [folder]`.

Needs torch, diffusers and transformers, which nothing else here does. Weights come from `seeded_weights`, start
noise from NumPy, so the file holds only results.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.z_image import pipeline_z_image_img2img, pipeline_z_image_inpaint
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.parity.seeded_weights import seeded_weights


def fill(model):
    """Seeded weights by key name."""
    state = model.state_dict()
    weights = seeded_weights({k: tuple(v.shape) for k, v in state.items() if v.is_floating_point()})
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    return model.eval()


def parts():
    with tempfile.TemporaryDirectory() as folder:
        tiny_z_image.write_tokenizer(Path(folder))
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**tiny_z_image.SCHEDULER),
        "text_encoder": fill(Qwen3Model(Qwen3Config(**tiny_z_image.QWEN))),
        "tokenizer": tokenizer,
        "transformer": fill(ZImageTransformer2DModel(**tiny_z_image.TRANSFORMER)),
        "vae": fill(AutoencoderKL(**tiny_z_image.VAE)),
    }


def last(latents):
    return latents.detach().float().numpy().transpose(0, 2, 3, 1)


@torch.no_grad()
def record_run(run):
    kind = (
        ZImageInpaintPipeline
        if run.get("mask")
        else ZImageImg2ImgPipeline
        if run.get("image")
        else ZImagePipeline
    )
    pipe = kind(**parts())
    pipe.set_progress_bar_config(disable=True)
    (width, height), length = run["size"], run.get("length", 512)
    guidance = run.get("guidance_scale", 0.0)
    noise = torch.from_numpy(tiny_z_image.start_noise(run).transpose(0, 3, 1, 2).copy())
    embeds, negatives = pipe.encode_prompt(
        list(run["prompt"]), do_classifier_free_guidance=guidance > 0, negative_prompt=run.get("negative_prompt"),
        max_sequence_length=length,
    )  # fmt: skip
    steps = []
    arguments = {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": negatives,
        "width": width,
        "height": height,
        "num_inference_steps": run["steps"],
        "guidance_scale": guidance,
        "output_type": "latent",
        "callback_on_step_end": lambda _p, _i, _t, kw: steps.append(last(kw["latents"])) or {},
    }
    results = {}
    if run.get("image"):
        arguments |= {"image": Image.fromarray(tiny_z_image.init_pixels(run)), "strength": run["strength"]}
        if run.get("mask"):
            large = tiny_z_image.latent_mask(run)[..., 0].repeat(8, 0).repeat(8, 1)
            arguments["mask_image"] = Image.fromarray((large * 255).astype(np.uint8))
        module = pipeline_z_image_inpaint if run.get("mask") else pipeline_z_image_img2img
        mode = lambda output, **_: output.latent_dist.mode()  # noqa: E731
        with (
            mock.patch.object(module, "retrieve_latents", mode),
            mock.patch.object(module, "randn_tensor", return_value=noise),
        ):
            final = pipe(**arguments).images
        values = torch.from_numpy(tiny_z_image.init_pixels(run)).permute(2, 0, 1)[None] / 127.5 - 1
        config = pipe.vae.config
        moments = pipe.vae.encode(values).latent_dist.mode()
        results["image_latents"] = last((moments - config.shift_factor) * config.scaling_factor)
    else:
        final = pipe(latents=noise, **arguments).images
    image = pipe.vae.decode(final / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor)[0]
    pixels = pipe.image_processor.postprocess(image, output_type="np")
    results |= {f"prompt_embeds.{i}": e.numpy() for i, e in enumerate(embeds)}
    results |= {f"negative_prompt_embeds.{i}": e.numpy() for i, e in enumerate(negatives)}
    return results | {"latents": np.stack(steps), "image": np.round(pixels * 255).astype(np.uint8)}


def token_ids():
    tokenizer = parts()["tokenizer"]
    results = {}
    for name in ("SHORT", "FOREIGN", "LONG"):
        message = [{"role": "user", "content": getattr(tiny_z_image, name)}]
        for thinking in (True, False):
            text = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
            ids = tokenizer(text, truncation=True, max_length=512).input_ids
            results[f"ids.{name}.{thinking}"] = np.array(ids, dtype=np.int32)
    return results


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_z_image.REFERENCES
    folder.mkdir(parents=True, exist_ok=True)
    results = token_ids()
    for name, run in tiny_z_image.RUNS.items():
        results |= {f"{name}.{key}": value for key, value in record_run(run).items()}
    import diffusers
    import transformers

    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    results["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(folder / "z_image.npz", **results)


if __name__ == "__main__":
    main()
