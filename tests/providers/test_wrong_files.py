"""Every kind of file where another kind is wanted: one line says what it is, before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import AIError
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.sd_folders import sd_weights, write_folder, write_safetensors
from tests.diffusion.single_files import write_checkpoint

_MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4\n"
FILES = {
    "page.safetensors": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "pointer.safetensors": (_POINTER, "is a Git LFS pointer"),
    "renamed.safetensors": (b"GGUF\x03\0\0\0" + b"\0" * 99, "is a GGUF file under another name"),
    "empty.safetensors": (b"", "header is missing or cut off"),
    "model.ckpt": (b"PK\x03\x04", "is a pickle file"),
    "model.pt": (b"\x80\x02", "is a pickle file"),
    "model.bin": (b"not even a pickle", "is a pickle file"),
}
# Files of no model's suffix, and where one is wanted by its name.
OTHERS = {
    "picture.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "is not a "),
    "model.onnx": (b"\x08\x07" * 50, "is not a "),
    "notes.txt": (b"hello " * 20, "is not a "),
}
MISSING = "missing.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_folder(folder / "model", "sd15")
    for name, (data, _) in (FILES | OTHERS).items():
        (folder / name).write_bytes(data)
    write_checkpoint(folder / "checkpoint.safetensors", "sd15")
    weights = sd_weights("sd15")
    for part in ("vae", "text_encoder"):
        write_safetensors(folder / f"{part}.safetensors", weights[part])
    matrices = {"down": np.ones((2, 8), np.float32), "up": np.ones((8, 2), np.float32)}
    lora = {f"{_MODULE}.lora_{side}.weight": matrix for side, matrix in matrices.items()}
    write_safetensors(folder / "lora.safetensors", lora)
    write_safetensors(folder / "word.safetensors", {"emb_params": np.ones((2, 32), np.float32)})
    return folder


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    registry = DiffusionModelRegistry(home=home, cache_dir=home / "hub")
    provider = MLXImageProvider(registry=registry, isolation="thread")
    yield provider
    provider.close()


def refusal(provider: MLXImageProvider, folder: Path, option: str, name: str) -> AIError:
    path = str(folder / name)
    options = {
        "model": {"model": path},
        "vae": {"vae": path},
        "lora": {"loras": (LoraReference(path),)},
        "embedding": {"embeddings": (path,)},
    }[option]
    config = ImageGenerationConfig(**{"model": str(folder / "model"), "seed": 1, **options})
    with pytest.raises(AIError) as caught:
        provider.plan("a cat", config)
    assert len(str(caught.value).splitlines()) == 2  # what, and what to try
    return caught.value


@pytest.mark.parametrize("option", ["model", "vae", "lora", "embedding"])
@pytest.mark.parametrize("name", [*FILES, *OTHERS, MISSING])
def test_what_is_no_model_file_is_named_by_the_plan(provider, folder, option, name):
    _, message = (FILES | OTHERS).get(name, (b"", f"{MISSING}"))
    error = refusal(provider, folder, option, name)
    assert message in str(error)
    assert name in str(error)


@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [
        ("lora", "checkpoint", ("is a model of Stable Diffusion, not a LoRA", "--model ")),
        ("lora", "vae", ("is an autoencoder, not a LoRA", "--vae ")),
        ("lora", "text_encoder", ("is a CLIP text encoder, not a LoRA", "give a LoRA")),
        ("lora", "word", ("is a textual inversion embedding, not a LoRA", "--embedding ")),
        ("embedding", "lora", ("is a LoRA, not a textual inversion", "--lora ")),
        ("embedding", "checkpoint", ("is a model of Stable Diffusion, not a textual inversion", "--model ")),
        ("embedding", "vae", ("is an autoencoder, not a textual inversion", "--vae ")),
        ("model", "lora", ("is a LoRA, not a model", "--lora ")),
        ("model", "word", ("is a textual inversion embedding, not a whole model", "use a ")),
        ("model", "vae", ("is an autoencoder, not a whole model", "use a ")),
    ],
)
def test_another_kind_of_file_is_named_with_the_option_that_takes_it(
    provider, folder, option, name, expected
):
    message, hint = expected
    error = refusal(provider, folder, option, f"{name}.safetensors")
    assert message in str(error)
    assert error.hint is not None
    assert error.hint.startswith(hint)


def test_a_lora_may_be_given_by_its_folder_and_a_folder_without_one_is_refused(provider, folder):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "own.safetensors").write_bytes((folder / "lora.safetensors").read_bytes())
    loras = (LoraReference(str(folder / "adapter")),)
    config = ImageGenerationConfig(model=str(folder / "model"), seed=1, loras=loras)
    assert provider.plan("a cat", config).loras[0].source == str(folder / "adapter")
    (folder / "empty").mkdir()
    assert "there is no LoRA at" in str(refusal(provider, folder, "lora", "empty"))
