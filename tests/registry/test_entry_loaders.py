"""Every catalog entry, from the Hub to a picture: a tiny model in that entry's exact layout is served,
downloaded with the entry's own file list, and run by the engine's loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

from mlx.utils import tree_flatten  # noqa: E402

from swiftai_nb.diffusion.pipelines.families import load_pipeline  # noqa: E402
from swiftai_nb.diffusion.preview_decoder import TinyDecoder, load_preview_decoder  # noqa: E402
from swiftai_nb.model_files.folder import open_model  # noqa: E402
from swiftai_nb.registry.catalog import CATALOG  # noqa: E402
from swiftai_nb.registry.model_info import DiffusionModelInfo, DiffusionVariant  # noqa: E402
from swiftai_nb.registry.registry import DiffusionModelRegistry  # noqa: E402
from tests.diffusion import control_folders, flux2_folders, flux_folders, sd_folders, z_image_folders  # noqa: E402
from tests.downloads.conftest import make_downloader  # noqa: E402
from tests.downloads.fake_hub import FakeHub  # noqa: E402
from tests.model_files.files import write_json  # noqa: E402

_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
             "beta_schedule": "scaled_linear"}  # fmt: skip
_TRAILING = {**_SCHEDULE, "timestep_spacing": "trailing", "prediction_type": "epsilon"}

# The tiny model of the parity suite that has an entry's architecture, and the scheduler it is published with.
TINY = {
    "sdxl-turbo": ("sdxl", {**_TRAILING, "_class_name": "EulerAncestralDiscreteScheduler"}),
    "sd-1.5": ("sd15", None),
    "sd-1.5-8bit": ("sd15", None),
    "sd-1.5-4bit": ("sd15", None),
    "sd-turbo": ("sd21_v", {**_TRAILING, "_class_name": "EulerDiscreteScheduler"}),
    "lcm-dreamshaper": ("lcm", None),
}
TASKS = {
    "sd-1.5-inpainting": "sd15_inpaint",
    "sdxl-inpainting": "sdxl_inpaint",
    "instruct-pix2pix": "sd15_edit",
}
TAESD_CHANNELS = {"taesd": 4, "taesdxl": 4, "taef1": 16, "taef2": 32}
# DiffusionKit's are run by DiffusionKit: tests/guests/diffusionkit
ENTRIES = [info for info in CATALOG if info.is_downloadable and info.engine == "mlx"]
MODELS = [info for info in ENTRIES if info.kind == "model"]


def write_tiny(info: DiffusionModelInfo, folder: Path) -> None:
    if info.kind == "preview-decoder":
        write_taesd(folder, channels=TAESD_CHANNELS[info.id])
    elif info.id in TINY:
        model, scheduler = TINY[info.id]
        sd_folders.write_folder(folder, model, scheduler=scheduler)
        rename_weights(info, folder)
    elif info.id in TASKS:
        control_folders.write_task_folder(folder, TASKS[info.id])
        rename_weights(info, folder)
    elif info.id == "z-image-base":
        z_image_folders.write_diffusers(folder)
        reshard(info, folder)
    else:
        own = {DiffusionVariant.Z_IMAGE: z_image_folders, DiffusionVariant.FLUX_2_KLEIN: flux2_folders}
        layouts = own.get(info.variant, flux_folders)
        layouts.write_mflux(folder, bits=8 if info.id.endswith("8bit") else 4)
        reshard(info, folder)


def rename_weights(info: DiffusionModelInfo, folder: Path) -> None:
    """fp16 entries name their files so, and hold float16."""
    for file in info.files:
        if file.path.endswith(".fp16.safetensors"):
            plain = folder / file.path.replace(".fp16", "")
            weights = {k: v.astype(mx.float16) for k, v in mx.load(str(plain)).items()}
            mx.save_safetensors(str(folder / file.path), weights)
            plain.unlink()


def reshard(info: DiffusionModelInfo, folder: Path) -> None:
    """As many shards per component as the entry lists, under its names."""
    for component in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        weights: dict[str, mx.array] = {}
        for shard in sorted((folder / component).glob("*.safetensors")):
            weights |= mx.load(str(shard))
        mx.eval(weights)
        for shard in (folder / component).glob("*.safetensors"):
            shard.unlink()
        listed = [f.path for f in info.files if f.path.startswith(f"{component}/")]
        paths = [path for path in listed if path.endswith(".safetensors")]
        names = sorted(weights)
        metadata = {"quantization_level": "4", "mflux_version": "0.9.6"}
        for number, path in enumerate(paths):
            part = {n: weights[n] for n in names[number :: len(paths)]}
            mx.save_safetensors(str(folder / path), part, metadata)
        if info.id == "z-image-base" and len(paths) > 1:
            where = {n: Path(paths[i % len(paths)]).name for i, n in enumerate(names)}
            (index,) = [path for path in listed if path.endswith(".index.json")]
            write_json(folder / index, {"weight_map": where})


def write_taesd(folder: Path, *, channels: int) -> None:
    """diffusers' AutoencoderTiny: kernels [O, I, kh, kw], an encoder beside the decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"encoder.layers.0.weight": mx.zeros((64, 3, 3, 3))}
    for name, value in tree_flatten(TinyDecoder(latent_channels=channels).parameters()):
        kernel = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
        weights[f"decoder.{name}"] = mx.random.normal(kernel.shape) * 0.05
    mx.save_safetensors(str(folder / "diffusion_pytorch_model.safetensors"), weights)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')


def fetch(info: DiffusionModelInfo, tmp_path: Path) -> Path:
    """Serves the tiny model under the entry's repository, with clutter, and downloads the entry."""
    source = tmp_path / "source"
    write_tiny(info, source)
    files = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    clutter = {"README.md": b"x", "all_in_one.safetensors": bytes(5000), "unet/model.onnx": bytes(5000)}
    registry = DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")
    with FakeHub({info.repository: {**files, **clutter}}) as hub:
        # The catalog's sizes are those of the real files: these are tiny, so only names are taken over.
        folder = make_downloader(hub, registry).start(info.id).result(180)
        assert not {r.file for r in hub.gets()} & set(clutter)
    assert registry.is_downloaded(info.id) or any(f.is_exact for f in info.files)
    return folder


@pytest.mark.parametrize("info", MODELS, ids=lambda i: i.id)
def test_entry_downloads_loads_and_draws(info, tmp_path):
    folder = fetch(info, tmp_path)
    pipeline = load_pipeline(folder, quantization_bits=info.quantization_bits)
    conditioning = pipeline.encode_prompt("a photo of a cat", guidance_scale=info.default_guidance_scale)
    picture = np.zeros((64, 64, 3), np.uint8)
    given = {"reference_latents": [pipeline.encode_image(picture)]} if info.id == "instruct-pix2pix" else {}
    steps = list(pipeline.denoise(conditioning, width=64, height=64, steps=2, seed=1, **given))
    pixels = np.asarray(pipeline.decode(steps[-1].latents))
    assert pixels.shape == (1, 64, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 0


@pytest.mark.parametrize("info", [i for i in ENTRIES if i.kind == "preview-decoder"], ids=lambda i: i.id)
def test_preview_decoder_downloads_loads_and_draws(info, tmp_path):
    decode = load_preview_decoder(fetch(info, tmp_path))
    channels = TAESD_CHANNELS[info.id]
    assert decode(mx.random.normal((1, 4, 4, channels))).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("info", MODELS, ids=lambda i: i.id)
def test_family_is_recognized_from_the_files_alone(info, tmp_path):
    write_tiny(info, tmp_path)
    assert tiny_family(open_model(tmp_path).variant.value) == tiny_family(info.variant.value)


def tiny_family(name: str) -> str:
    """The tiny stand-ins keep SD 1.5's narrow text width, so 1.x and 2.x cannot be told apart by it."""
    return "sd" if name in ("sd-1.5", "sd-2.1") else name
