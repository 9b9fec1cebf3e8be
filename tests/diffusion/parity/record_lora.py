"""Records what diffusers makes of the tiny models with LoRAs on: `python record_lora.py [folder]`."""

import inspect
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import record_flux
import record_sd

from tests.diffusion.parity import tiny_flux, tiny_lora, tiny_sd

STEP_T, SIGMA = 500.0, 0.6


def shrink_kohya_conversion():
    """diffusers cuts linear1 at FLUX.1's real widths; here they are 128 and 512."""
    from diffusers.loaders import lora_conversion_utils as module
    from diffusers.loaders import lora_pipeline

    source = inspect.getsource(module._convert_kohya_flux_lora_to_diffusers)
    exec(source.replace("12288", "512").replace("3072", "128"), vars(module))
    lora_pipeline._convert_kohya_flux_lora_to_diffusers = module._convert_kohya_flux_lora_to_diffusers


def pipeline(model):
    if model == "flux":
        return record_flux.pipeline(dev=False)
    made, _ = record_sd.networks(model)
    run = next(r for r in tiny_sd.RUNS.values() if r["model"] == model and not r["strength"])
    return record_sd.make_pipeline(run, made)


def denoise(pipe, model):
    given = {k: torch.from_numpy(v) for k, v in tiny_lora.inputs(model).items()}
    if model == "flux":
        ids = torch.zeros(12, 3)
        ids[:, 1], ids[:, 2] = torch.arange(12) // 4, torch.arange(12) % 4
        return pipe.transformer(
            hidden_states=given["tokens"],
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=torch.tensor([SIGMA]),
            txt_ids=torch.zeros(8, 3),
            img_ids=ids,
        )[0].numpy()
    added = {k: given[k] for k in ("text_embeds", "time_ids") if k in given}
    result = pipe.unet(
        given["sample"].movedim(-1, 1), STEP_T, given["context"], added_cond_kwargs=added or None
    )[0]
    return result.movedim(1, -1).numpy()


def encode(pipe):
    """Last hidden state of every CLIP encoder for one prompt."""
    result = {}
    for suffix in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if encoder is not None and "CLIP" in type(encoder).__name__:
            tokenizer = getattr(pipe, f"tokenizer{suffix}")
            ids = tokenizer(
                tiny_flux.SHORT, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids
            result[f"text_encoder{suffix}"] = (
                encoder(ids, output_hidden_states=True).hidden_states[-1].numpy()
            )
    return result


_TEXT_PREFIXES = {"text_encoder.": "text_encoder", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
                  "lora_te2_": "text_encoder_2"}  # fmt: skip


def merge_text(pipe, arrays):
    """diffusers 0.42 cannot load text LoRAs into transformers 5: W + scale * alpha / rank * up @ down by hand."""
    for key in [k for k in arrays if k.endswith((".lora_A.weight", ".lora_down.weight"))]:
        prefix = next((p for p in _TEXT_PREFIXES if key.startswith(p)), None)
        if prefix is None:
            continue
        module = key.removesuffix(".lora_A.weight").removesuffix(".lora_down.weight")
        up = arrays.get(f"{module}.lora_B.weight", arrays.get(f"{module}.lora_up.weight"))
        factor = float(arrays.get(f"{module}.alpha", tiny_lora.RANK)) / tiny_lora.RANK
        encoder = getattr(pipe, _TEXT_PREFIXES[prefix])
        wanted = module.removeprefix(prefix).removeprefix("text_model").lstrip("._").replace(".", "_")
        layer = next(
            m for n, m in encoder.named_modules() if n.removeprefix("text_model.").replace(".", "_") == wanted
        )
        layer.weight += tiny_lora.SCALE * factor * torch.from_numpy(up @ arrays[key])


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_flux.REFERENCES
    shrink_kohya_conversion()
    results = {}
    for name, (model, arrays) in tiny_lora.CASES.items():
        pipe = pipeline(model)
        plain = denoise(pipe, model)
        merge_text(pipe, arrays)
        rest = {k: v for k, v in arrays.items() if not k.startswith(tuple(_TEXT_PREFIXES))}
        pipe.load_lora_weights({k: torch.from_numpy(np.array(v)) for k, v in rest.items()}, adapter_name="a")
        pipe.set_adapters(["a"], [tiny_lora.SCALE])
        results[f"{name}.output"] = denoise(pipe, model)
        results |= {f"{name}.{k}": v for k, v in encode(pipe).items()}
        change = np.abs(plain - results[f"{name}.output"]).max()
        assert change > 0.05, f"{name} changes nothing ({change})"
    np.savez_compressed(folder / "lora.npz", **{k: v.astype(np.float32) for k, v in results.items()})


if __name__ == "__main__":
    main()
