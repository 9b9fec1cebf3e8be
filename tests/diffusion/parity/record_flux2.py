"""Records what diffusers and transformers make of the tiny FLUX.2 klein: `python record_flux2.py [folder]`.

Needs torch, diffusers and transformers, which nothing else here does. Weights come from `seeded_weights`, start
noise and pictures from NumPy, so the files hold only results.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2 import pipeline_flux2_klein_inpaint as inpaint_module
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.diffusion.parity import tiny_flux2
from tests.diffusion.parity.seeded_weights import seeded_weights


def fill(model):
    state = model.state_dict()
    weights = seeded_weights({k: tuple(v.shape) for k, v in state.items() if v.is_floating_point()})
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    return model.eval()


def pipeline(run):
    with tempfile.TemporaryDirectory() as folder:
        tiny_flux2.write_tokenizer(Path(folder))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    qwen = Qwen3Config(**tiny_flux2.QWEN, vocab_size=tiny_flux2.VOCABULARY_SIZE, tie_word_embeddings=False)
    kind = Flux2KleinInpaintPipeline if "strength" in run else Flux2KleinPipeline
    pipe = kind(
        scheduler=FlowMatchEulerDiscreteScheduler(**tiny_flux2.SCHEDULER),
        text_encoder=fill(Qwen3ForCausalLM(qwen)),
        tokenizer=tokenizer,
        transformer=fill(Flux2Transformer2DModel(**tiny_flux2.TRANSFORMER)),
        vae=fill(AutoencoderKLFlux2(**tiny_flux2.VAE)),
        is_distilled=not tiny_flux2.is_base(run),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pil(size, seed=0):
    return PIL.Image.fromarray(tiny_flux2.picture(size, seed=seed))


@torch.no_grad()
def record_run(run):
    pipe, (width, height) = pipeline(run), run["size"]
    noise = torch.from_numpy(tiny_flux2.noise(run).transpose(0, 3, 1, 2).copy())
    references = [pil(size, seed) for seed, size in enumerate(run.get("references", ()))]
    steps = []

    def keep(_pipe, _index, _time, values):
        tokens = values["latents"]
        steps.append(tokens.numpy().reshape(len(tokens), height // 16, width // 16, 128))
        return {}

    arguments = {
        "prompt": run["prompt"],
        "num_inference_steps": run["steps"],
        "guidance_scale": run.get("guidance_scale", 1.0),
        "max_sequence_length": run.get("length", 512),
        "text_encoder_out_layers": tiny_flux2.LAYERS,
        "output_type": "np",
        "callback_on_step_end": keep,
    }
    if "strength" in run:
        inpaint_module.randn_tensor = lambda shape, **_: noise
        mask = np.kron(tiny_flux2.mask(run["size"])[..., 0], np.ones((16, 16)))
        if references:
            arguments["image_reference"] = references
        images = pipe(
            **arguments,
            image=pil(run["size"], 9),
            mask_image=PIL.Image.fromarray((mask * 255).astype(np.uint8)),
            strength=run["strength"],
        ).images
    else:
        images = pipe(**arguments, image=references or None, width=width, height=height, latents=noise).images
    embeds, _ = pipe.encode_prompt(
        run["prompt"], max_sequence_length=run.get("length", 512), text_encoder_out_layers=tiny_flux2.LAYERS
    )
    return {
        "prompt_embeds": embeds[:, ::16].numpy(),
        "latents": np.stack(steps),
        "image": np.round(images * 255).astype(np.uint8),
    }


@torch.no_grad()
def record_autoencoder():
    vae = fill(AutoencoderKLFlux2(**tiny_flux2.VAE, **tiny_flux2.SMALL_DECODER))
    rng = np.random.default_rng(tiny_flux2.NOISE_SEED)
    latents = torch.from_numpy(rng.standard_normal((1, 128, 3, 5), dtype=np.float32))
    deviation = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).view(1, -1, 1, 1)
    folded = latents * deviation + vae.bn.running_mean.view(1, -1, 1, 1)
    pixels = vae.decode(Flux2KleinPipeline._unpatchify_latents(folded))[0]
    tiny = fill(AutoencoderTiny(latent_channels=32))
    preview = tiny.decode(Flux2KleinPipeline._unpatchify_latents(latents))[0]
    return {
        "small_decoder": ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy(),
        "taef2": ((preview + 1) / 2).permute(0, 2, 3, 1).numpy(),
    }


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_flux2.REFERENCES
    results = {}
    for name, run in tiny_flux2.RUNS.items():
        results |= {f"{name}.{key}": value for key, value in record_run(run).items()}
    results |= record_autoencoder()
    import diffusers
    import transformers

    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    results["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(folder / "flux2.npz", **results)


if __name__ == "__main__":
    main()
