"""Records what diffusers and transformers make of the tiny FLUX.1: `python record_flux.py [folder]`.

Needs torch, diffusers, transformers, sentencepiece and peft, which nothing else here does. Weights come from
`seeded_weights`, start noise from NumPy, so the files hold only results.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.diffusion.parity import tiny_flux
from tests.diffusion.parity.seeded_weights import seeded_weights

TAESD_SHAPE = (2, 5, 7)


def fill(model):
    """Seeded weights by key name; CLIP keys get the prefix of published files."""
    state = model.state_dict()
    prefix = "text_model." if "embeddings.token_embedding.weight" in state else ""
    weights = seeded_weights({prefix + k: tuple(v.shape) for k, v in state.items() if v.is_floating_point()})
    if "encoder.embed_tokens.weight" in weights:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    tensors = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in weights.items()}
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def t5_ids(texts, length):
    """SentencePiece itself is the reference for token ids."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(tiny_flux.SPIECE))
    rows = [[*model.encode(text)[: length - 1], 1] for text in texts]
    return np.array([row + [0] * (length - len(row)) for row in rows], dtype=np.int32)


def pipeline(*, dev):
    with tempfile.TemporaryDirectory() as folder:
        tiny_flux.write_clip_tokenizer(Path(folder))
        clip_tokenizer = CLIPTokenizer.from_pretrained(folder)
    transformer = tiny_flux.TRANSFORMER | (tiny_flux.DEV if dev else {})
    scheduler = tiny_flux.SCHEDULER | (tiny_flux.DEV_SCHEDULER if dev else {})
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        text_encoder=fill(CLIPTextModel(CLIPTextConfig(**tiny_flux.CLIP))),
        tokenizer=clip_tokenizer,
        text_encoder_2=fill(T5EncoderModel(T5Config(**tiny_flux.T5))),
        tokenizer_2=None,
        transformer=fill(FluxTransformer2DModel(**transformer)),
        vae=fill(AutoencoderKL(**tiny_flux.VAE)),
    )


def start_noise(batch, size):
    width, height = size
    rng = np.random.default_rng(tiny_flux.NOISE_SEED)
    return rng.standard_normal((batch, height // 8, width // 8, 16), dtype=np.float32)


def unpack(pipe, tokens, size):
    latents = pipe._unpack_latents(tokens, size[1], size[0], 8)
    return latents.numpy().transpose(0, 2, 3, 1)


@torch.no_grad()
def record_run(run):
    pipe = pipeline(dev=run["dev"])
    (width, height), batch = run["size"], len(run["prompt"])
    noise = torch.from_numpy(start_noise(batch, run["size"]).transpose(0, 3, 1, 2).copy())
    packed = pipe._pack_latents(noise, batch, 16, height // 8, width // 8)
    ids = t5_ids(run["prompt"], run["length"])
    clip_ids = pipe.tokenizer(run["prompt"], padding="max_length", max_length=77, truncation=True).input_ids
    # In float64: transformers' own float32 rounding (2e-5 here) is larger than the tolerance.
    embeds = pipe.text_encoder_2.double()(torch.from_numpy(ids).long())[0].float()
    pooled = pipe.text_encoder(torch.tensor(clip_ids)).pooler_output
    steps, outputs = [], []
    forward = pipe.transformer.forward

    def spy(*args, **kwargs):
        result = forward(*args, **kwargs)
        outputs.append(unpack(pipe, result[0], run["size"]))
        return result

    pipe.transformer.forward = spy
    pipe.set_progress_bar_config(disable=True)
    final = pipe(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        width=width,
        height=height,
        num_inference_steps=run["steps"],
        guidance_scale=run.get("guidance_scale", 0.0),
        latents=packed,
        output_type="latent",
        callback_on_step_end=lambda p, i, t, kw: steps.append(unpack(p, kw["latents"], run["size"])) or {},
    ).images
    latents = pipe._unpack_latents(final, height, width, 8)
    image = pipe.vae.decode(latents / 0.3611 + 0.1159)[0]
    pixels = pipe.image_processor.postprocess(image, output_type="np")
    return {
        "ids": ids,
        "clip_ids": np.array(clip_ids, dtype=np.int32),
        "prompt_embeds": embeds.numpy(),
        "pooled": pooled.numpy(),
        "first_output": outputs[0],
        "latents": np.stack(steps),
        "image": np.round(pixels * 255).astype(np.uint8),
    }


@torch.no_grad()
def record_taesd(channels):
    decoder = fill(AutoencoderTiny(latent_channels=channels))
    rng = np.random.default_rng(tiny_flux.NOISE_SEED)
    latents = 2 * rng.standard_normal((TAESD_SHAPE[0], *TAESD_SHAPE[1:], channels), dtype=np.float32)
    pixels = decoder.decode(torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()))[0]
    return (pixels.numpy().transpose(0, 2, 3, 1) + 1) / 2


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_flux.REFERENCES
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, run in tiny_flux.RUNS.items():
        results |= {f"{name}.{key}": value for key, value in record_run(run).items()}
    for channels in (4, 16):
        results[f"taesd.{channels}"] = record_taesd(channels).astype(np.float32)
    import diffusers
    import transformers

    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    results["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(folder / "flux.npz", **results)


if __name__ == "__main__":
    main()
