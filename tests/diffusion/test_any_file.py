"""Any file or folder gives a picture or one line: each layout, and each kind of damage, as `--model` takes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import AIError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.pipelines.families import refuse_missing_parts
from swiftai_nb.model_files.folder import open_model
from tests.diffusion import flux2_folders, flux_folders, sd_folders, single_files, z_image_folders
from tests.diffusion.test_gguf import q4_0, q8_0, quantize
from tests.diffusion.test_stored import relabelled
from tests.model_files.files import write_gguf, write_json, write_weights

Arrays = dict[str, np.ndarray]
Z, KLEIN, FLUX = z_image_folders.z_image_weights, flux2_folders.flux2_weights, flux_folders.flux_weights


def _gguf(path: Path, arrays: Arrays, form=q8_0, name: str = "Q8_0") -> Path:
    return write_gguf(path, quantize(arrays, form, name)[0])


def _saved(path: Path, arrays: Arrays, change: Callable[[Arrays], object] = lambda arrays: None) -> Path:
    arrays = dict(arrays)
    change(arrays)
    flux_folders.save(path, {name: mx.array(value) for name, value in arrays.items()})
    return path


def _unet(model: str) -> Arrays:
    return single_files.ldm_unet(sd_folders.sd_weights(model)["unet"], model)


def _fp8(path: Path, arrays: Arrays) -> Path:
    codes = {n: np.array(mx.to_fp8(mx.array(v))) if v.ndim == 2 else v for n, v in arrays.items()}
    relabelled(path, codes, "F8_E4M3")
    return path


def z_comfy() -> Arrays:
    return z_image_folders.comfy_transformer(Z()["transformer"])


def klein_bfl() -> Arrays:
    return flux2_folders.bfl_transformer(KLEIN()["transformer"])


def flux_bfl() -> Arrays:
    return flux_folders.bfl_transformer(FLUX()["transformer"])


# Layout -> (family whose installed folder may complete it, what writes it)
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sd15 folder": ("", lambda t: sd_folders.write_folder(t, "sd15")),
    "sd15 file": ("sd15", lambda t: single_files.write_checkpoint(t / "x.safetensors", "sd15")),
    "sd15 file with EMA": (
        "sd15", lambda t: single_files.write_checkpoint(t / "x.safetensors", "sd15", ema=True)),
    "sd15 UNet alone": ("sd15", lambda t: _saved(t / "x.safetensors", _unet("sd15"))),
    "sd15 UNet in GGUF": ("sd15", lambda t: _gguf(t / "x.gguf", _unet("sd15"))),
    "sd15 in bfloat16": ("sd15", lambda t: _saved(t / "x.safetensors", {
        n: mx.array(v).astype(mx.bfloat16) for n, v in single_files.checkpoint_tensors("sd15").items()})),
    "sd21 file": ("sd21_v", lambda t: single_files.write_checkpoint(t / "x.safetensors", "sd21_v")),
    "sdxl folder": ("", lambda t: sd_folders.write_folder(t, "sdxl")),
    "sdxl file": ("sdxl", lambda t: single_files.write_checkpoint(t / "x.safetensors", "sdxl")),
    "sdxl UNet in float8": ("sdxl", lambda t: _fp8(t / "x.safetensors", _unet("sdxl"))),
    "lcm file": ("lcm", lambda t: single_files.write_checkpoint(t / "x.safetensors", "lcm")),
    "flux folder": ("", flux_folders.write_diffusers),
    "flux file": ("flux", lambda t: _saved(t / "x.safetensors", single_files.flux_tensors())),
    "flux transformer alone": ("flux", lambda t: _saved(t / "x.safetensors", flux_bfl())),
    "flux in GGUF": ("flux", lambda t: _gguf(t / "x.gguf", flux_bfl(), q4_0, "Q4_0")),
    "z-image folder": ("", z_image_folders.write_diffusers),
    "z-image shards": ("", lambda t: z_image_folders.write_diffusers(t, shards=3)),
    "z-image by mflux": ("", lambda t: z_image_folders.write_mflux(t, bits=4)),
    "z-image files of ComfyUI": ("", z_image_folders.write_comfy),
    "z-image checkpoint of ComfyUI": ("", lambda t: z_image_folders.write_comfy(t, in_one=True)),
    "z-image transformer alone": ("z", lambda t: _saved(t / "x.safetensors", z_comfy())),
    "z-image in float8": ("z", lambda t: _fp8(t / "x.safetensors", z_comfy())),
    "z-image in GGUF": ("z", lambda t: _gguf(t / "x.gguf", z_comfy())),
    "klein folder": ("", flux2_folders.write_klein),
    "klein by mflux": ("", lambda t: flux2_folders.write_mflux(t, bits=8)),
    "klein files of ComfyUI": ("", flux2_folders.write_comfy),
    "klein transformer alone": ("klein", lambda t: _saved(t / "x.safetensors", klein_bfl())),
    "klein in GGUF": ("klein", lambda t: _gguf(t / "x.gguf", klein_bfl(), q4_0, "Q4_0")),
}  # fmt: skip
BASES = {
    **{name: (lambda t, name=name: sd_folders.write_folder(t, name)) for name in ("sd15", "sdxl", "sd21_v", "lcm")},
    "flux": flux_folders.write_diffusers, "z": z_image_folders.write_diffusers,
    "klein": flux2_folders.write_klein,
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in BASES.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_a_picture(bases, tmp_path, layout):
    base, write = LAYOUTS[layout]
    pipeline = load_pipeline(write(tmp_path), dtype="float32", base=bases.get(base))
    conditioning = pipeline.encode_prompt("a red fox", guidance_scale=0.0)
    (step,) = pipeline.denoise(conditioning, width=64, height=64, steps=1, seed=1)
    assert pipeline.decode(step.latents).shape == (1, 64, 64, 3)


# Family -> its transformer as a single file, and one tensor of it that no model can lack.
TRANSFORMERS = {
    "flux": (flux_bfl, "double_blocks.0.img_attn.proj.weight"),
    "z": (z_comfy, "layers.0.feed_forward.w1.weight"),
    "klein": (klein_bfl, "double_blocks.0.img_mlp.0.weight"),
    "sd15": (lambda: _unet("sd15"), "input_blocks.1.0.in_layers.2.weight"),
}
CHANGES: dict[str, tuple[Callable[[Arrays, str], object], str]] = {
    "missing tensor": (lambda a, n: a.pop(n), "missing|misshapen"),
    "unknown tensor": (lambda a, n: a.update({f"{n}.extra": np.zeros(3, np.float32)}), "not part of it"),
    "wrong shape": (lambda a, n: a.update({n: np.zeros((3, 5), np.float32)}), "."),
    "scalar": (lambda a, n: a.update({n: np.zeros((), np.float32)}), "."),
    "empty tensor": (lambda a, n: a.update({n: np.zeros((0, 4), np.float32)}), "."),
    "integers": (lambda a, n: a.update({n: np.zeros(a[n].shape, np.int8)}), "int8 without"),
    "bitsandbytes": (
        lambda a, n: a.update({f"{n}.quant_state.bitsandbytes__nf4": np.zeros(3, np.uint8)}),
        "bitsandbytes nf4"),
}  # fmt: skip


def refused(path: Path, base: Path | None) -> str:
    """The message of the one error that loading everything raises."""
    with pytest.raises(AIError) as caught:
        load_pipeline(path, dtype="float32", base=base).preload()
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_one_line(bases, tmp_path, family, change):
    arrays, name = TRANSFORMERS[family]
    edit, words = CHANGES[change]
    path = _saved(tmp_path / "x.safetensors", arrays(), lambda a: edit(a, name))
    with pytest.raises(AIError, match=words):
        load_pipeline(path, dtype="float32", base=bases[family]).preload()
    refused(path, bases[family])


def _cuts(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[:9]
    yield data[:200]
    yield data[: len(data) // 2]
    yield data[:-1]
    yield data + b"\0" * 7
    yield b"\xff" * 100
    yield b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield b"<!DOCTYPE html><html>404</html>"


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_every_cut_of_a_file_is_one_line(bases, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    _saved(path, z_comfy()) if suffix == "safetensors" else _gguf(path, z_comfy())
    for number, data in enumerate(_cuts(path.read_bytes())):
        cut = tmp_path / f"{number}.{suffix}"
        cut.write_bytes(data)
        if suffix == "gguf" and number == 5:  # bytes behind the last tensor are padding
            continue
        refused(cut, bases["z"])


def _drop(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def _edit_json(folder: Path, name: str, **values) -> Path:
    path = folder / name
    return write_json(path, {**json.loads(path.read_text()), **values}).parents[len(Path(name).parts) - 1]


def _broken(folder: Path, name: str, text: str = "{") -> Path:
    (folder / name).write_text(text)
    return folder


INDEX = "text_encoder/model.safetensors.index.json"
FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no vae": (lambda t: _drop(z_image_folders.write_diffusers(t), "vae/diffusion_pytorch_model.safetensors"),
               "vae"),
    "no transformer": (
        lambda t: _drop(flux2_folders.write_klein(t), "transformer/diffusion_pytorch_model.safetensors"),
        "transformer"),
    "no tokenizer": (lambda t: _drop(flux2_folders.write_klein(t), "tokenizer/tokenizer.json"), "tokenizer"),
    "a shard is missing": (
        lambda t: _drop(z_image_folders.write_diffusers(t, shards=2),
                        "text_encoder/model-00002-of-00002.safetensors"), "model-00002-of-00002"),
    "a broken index of shards": (
        lambda t: _broken(z_image_folders.write_diffusers(t, shards=2), INDEX), "index.json"),
    "a broken configuration": (
        lambda t: _broken(z_image_folders.write_diffusers(t), "transformer/config.json"), "config.json"),
    "a configuration of another size": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "transformer/config.json", n_layers=5),
        "missing"),
    "a million layers": (
        lambda t: _edit_json(flux2_folders.write_klein(t), "transformer/config.json", num_layers=10**6),
        "num_layers"),
    "a negative width": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "text_encoder/config.json", hidden_size=-64),
        "hidden_size"),
    "heads that do not fit": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "transformer/config.json", n_heads=7), "."),
    "no heads": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "transformer/config.json", n_heads=0), "."),
    "text instead of a number": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "transformer/config.json", dim="wide"), "."),
    "another text encoder": (
        lambda t: _edit_json(flux2_folders.write_klein(t), "text_encoder/config.json", model_type="llama"),
        "llama"),
    "another autoencoder": (
        lambda t: _edit_json(z_image_folders.write_diffusers(t), "vae/config.json",
                             _class_name="AutoencoderDC"), "AutoencoderDC"),
    "a pickle beside nothing": (
        lambda t: (_drop(flux_folders.write_diffusers(t), "transformer/diffusion_pytorch_model.safetensors"),
                   (t / "transformer" / "x.bin").write_bytes(b"\x80\x02"))[0], "pickle"),
    "two GGUF files": (
        lambda t: (_drop(z_image_folders.write_diffusers(t), "transformer/diffusion_pytorch_model.safetensors"),
                   _gguf(t / "transformer" / "a.gguf", z_comfy()),
                   _gguf(t / "transformer" / "b.gguf", z_comfy()))[0], "more than one GGUF file"),
    "an IQ form": (
        lambda t: (_drop(z_image_folders.write_diffusers(t), "transformer/diffusion_pytorch_model.safetensors"),
                   write_gguf(t / "transformer" / "a.gguf", {"a.weight": ("IQ4_XS", (1, 256), bytes(136))})
                   )[0], "IQ4_XS"),
    "an empty folder": (lambda t: t, "not a model folder"),
    "a LoRA alone": (
        lambda t: write_weights(t / "x.safetensors", **{"unet.x.lora_A.weight": (4, 4)}).parent, "is a LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_damaged_folder_is_one_line(tmp_path, damage):
    write, words = FOLDERS[damage]
    folder = write(tmp_path)
    with pytest.raises(AIError, match=words):
        load_pipeline(folder, dtype="float32").preload()
    refused(folder, None)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_alone_names_what_it_lacks(tmp_path, family):
    path = _saved(tmp_path / "x.safetensors", TRANSFORMERS[family][0]())
    with pytest.raises(AIError, match=r"x\.safetensors lacks .*text_encoder.*tokenizer"):
        refuse_missing_parts(open_model(path))
