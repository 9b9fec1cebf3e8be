"""Writes the tiny FLUX.2 klein of the parity suite to disk."""

import json
from pathlib import Path

from swiftai_nb.diffusion.models.flux2_transformer import Flux2Config, Flux2Transformer
from swiftai_nb.diffusion.models.qwen3 import Qwen3Config, Qwen3Encoder
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from tests.diffusion.flux_folders import Arrays, _seeded, _write_json, save
from tests.diffusion.parity import tiny_flux2
from tests.diffusion.parity.seeded_weights import seeded_tensor, seeded_weights

QWEN = {**tiny_flux2.QWEN, "model_type": "qwen3", "vocab_size": tiny_flux2.VOCABULARY_SIZE}
VAE = {"_class_name": "AutoencoderKLFlux2", **tiny_flux2.VAE, "patch_size": (2, 2), "batch_norm_eps": 1e-4}


def qwen_weights() -> Arrays:
    """All layers, the final norm and the head, as transformers saves them."""
    from mlx.utils import tree_flatten

    encoder = Qwen3Encoder(Qwen3Config.from_dict(QWEN, used_layers=QWEN["num_hidden_layers"]))
    shapes = {f"model.{name}": tuple(v.shape) for name, v in tree_flatten(encoder.parameters())}
    head = {"lm_head.weight": (QWEN["vocab_size"], QWEN["hidden_size"])}
    return seeded_weights({**shapes, **head, "model.norm.weight": (QWEN["hidden_size"],)})


def flux2_weights(vae: dict | None = None) -> dict[str, Arrays]:
    """Weights by component under diffusers' names."""
    return {
        "transformer": _seeded(Flux2Transformer(Flux2Config.from_dict(tiny_flux2.TRANSFORMER))),
        "text_encoder": qwen_weights(),
        "vae": _seeded(Autoencoder(VAEConfig.from_dict(VAE if vae is None else vae))),
    }


def write_klein(folder: Path, *, base: bool = False, vae: dict | None = None) -> Path:
    """diffusers' layout, as `save_pretrained` writes it."""
    _write_json(folder / "model_index.json", {"_class_name": "Flux2KleinPipeline", "is_distilled": not base})
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", **tiny_flux2.SCHEDULER}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    configs = {
        "transformer": {"_class_name": "Flux2Transformer2DModel", **tiny_flux2.TRANSFORMER},
        "text_encoder": QWEN,
        "vae": VAE if vae is None else vae,
    }
    tiny_flux2.write_tokenizer(folder / "tokenizer")
    for name, weights in flux2_weights(vae).items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        _write_json(folder / name / "config.json", json.loads(json.dumps(configs[name])))
        if name == "vae":  # a counter of training steps that files carry along
            weights["bn.num_batches_tracked"] = seeded_tensor("bn.num_batches_tracked", (1,))
        save(folder / name / f"{stem}.safetensors", weights)
    return folder
