"""Whole model files of strangers, valid but for a few tensors: what is behind the header is attacked too."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.pipelines.controls import open_unet_control
from swiftai_nb.diffusion.upscaling import load_upscaler
from swiftai_nb.diffusion.weights.lora_files import load_lora
from swiftai_nb.diffusion.weights.textual_inversion import load_embedding
from swiftai_nb.engine.kernel.memory_plan import plan_memory
from swiftai_nb.model_files.control_files import check_control, open_control
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.upscalers import read_upscaler
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import mutated
from tests.attack.test_model_files import changed_copy, folder_of
from tests.diffusion import control_folders, flux2_folders, single_files, upscaler_files, z_image_folders
from tests.diffusion.parity import tiny_control, tiny_sd
from tests.diffusion.sd_folders import write_folder
from tests.model_files.files import DTYPE_BYTES, GGUF_TYPES, write_gguf, write_header

Header = dict[str, Any]
MAX_DATA_BYTES = 2**28  # of a sparse file
_HOME = scratch_folder()


def header_of(tensors: Mapping[str, Any], *, dtype: str = "F32") -> Header:
    """A safetensors header without offsets, of arrays by name."""
    return {name: {"dtype": dtype, "shape": list(np.shape(value))} for name, value in tensors.items()}


def write_file(path: Path, header: Header) -> Path:
    """A file of zeros with this header; tensors that make sense lie one behind the other."""
    at, laid_out = 0, {}
    for name, entry in header.items():
        laid_out[name] = entry
        if isinstance(entry, dict) and "data_offsets" not in entry:
            size_bytes = _size_bytes(entry)
            if size_bytes is not None and at + size_bytes <= MAX_DATA_BYTES:
                laid_out[name] = {**entry, "data_offsets": [at, at + size_bytes]}
                at += size_bytes
    return write_header(path, laid_out, data_bytes=at)


def _size_bytes(entry: Header) -> int | None:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    is_plain = isinstance(dtype, str) and isinstance(shape, list)
    if not is_plain or not all(type(side) is int and 0 <= side < 2**40 for side in shape) or len(shape) > 8:
        return None
    return DTYPE_BYTES.get(dtype, 4) * math.prod(shape)


@cache
def checkpoints() -> dict[str, Header]:
    """Headers of single files by family."""
    found = {
        model: header_of(single_files.checkpoint_tensors(model))
        for model in ("sd15", "sd21_v", "sdxl", "sdxl_refiner", "lcm")
    }
    found["flux"] = header_of(single_files.flux_tensors())
    found["flux-dev"] = header_of(single_files.flux_tensors(dev=True, is_whole=False))
    z_image = z_image_folders.z_image_weights()["transformer"]
    found["z-image"] = header_of({f"model.diffusion_model.{n}": v for n, v in z_image.items()})
    klein = flux2_folders.bfl_transformer(flux2_folders.flux2_weights()["transformer"])
    found["flux-2"] = header_of({f"model.diffusion_model.{n}": v for n, v in klein.items()})
    return found


@st.composite
def changed_checkpoints(draw: st.DrawFn) -> Header:
    """A header of a single file in which whole parts may be missing, and tensors changed."""
    header = dict(checkpoints()[draw(st.sampled_from(sorted(checkpoints())))])
    if draw(st.integers(0, 3)) == 0:
        prefix = draw(st.sampled_from(sorted({name.partition(".")[0] for name in header})))
        header = {name: value for name, value in header.items() if not name.startswith(prefix)} or header
    return draw(mutated(header))


@attack
@given(changed_checkpoints())
def test_a_whole_single_file_is_described_or_refused(header: Header) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "m.safetensors", header)
        with only(AIError, target="single files: whole"):
            model = open_model(path)
            assert model.defaults.steps > 0
            plan = plan_memory(model, width=64, height=64, guided=True, bytes_per_weight=4)
            assert 0 < plan.peak_bytes < 2**60


@cache
def base(model: str) -> Path:
    """A valid folder, made once."""
    folder = _HOME / model
    return folder if folder.exists() else write_folder(folder, model)


@attack
@given(st.deferred(lambda: mutated(checkpoints()["sd15"])))
def test_a_whole_single_file_is_loaded_or_refused(header: Header) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "m.safetensors", header)
        with only(AIError, target="single files: loading"):
            pipeline = load_pipeline(path, base=base("sd15"))
            for component in pipeline.networks.values():
                _ = component.network


@st.composite
def gguf_files(draw: st.DrawFn) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, Any]]:
    """Tensors (kind, shape) and values of a GGUF file."""
    name = draw(st.sampled_from(["flux-dev", "z-image", "flux-2", "sd15"]))
    names = [
        (one.removeprefix("model.diffusion_model."), v["shape"]) for one, v in checkpoints()[name].items()
    ]
    kinds = st.sampled_from(sorted(GGUF_TYPES))
    tensors = {one: (draw(kinds), tuple(shape)) for one, shape in names[: draw(st.integers(1, 60))]}
    tensors |= {one: ("F32", tuple(shape)) for one, shape in names[len(tensors) :]}
    return tensors, draw(
        mutated({"general.architecture": "flux", "general.name": "x", "comfy.gguf.orig_shape": "a"})
    )


@attack
@given(gguf_files())
def test_a_whole_gguf_file_is_described_or_refused(
    found: tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, Any]],
) -> None:
    tensors, values = found
    plain = {k: v for k, v in values.items() if type(v) in (str, bool) or (type(v) is int and 0 <= v < 2**31)}
    sizes = {name: 4 * math.prod(shape) for name, (_, shape) in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(
            Path(folder) / "m.gguf",
            {name: (kind, shape, bytes(sizes[name])) for name, (kind, shape) in tensors.items()},
            {k: v for k, v in plain.items() if not isinstance(v, str) or v.isprintable()},
        )
        with only(AIError, target="GGUF files: whole"):
            open_model(path)


CONTROL_CONFIGS: dict[str, Header] = {
    name: {"_class_name": "ControlNetModel", **config}
    for name, (config, _) in tiny_control.CONTROLNETS.items()
}


@cache
def controls() -> dict[str, tuple[Header, Header | None]]:
    """Headers of ControlNets, each with its configuration or none."""
    found: dict[str, tuple[Header, Header | None]] = {}
    for name, config in CONTROL_CONFIGS.items():
        found[name] = header_of(control_folders.controlnet_weights(name)), config
        found[f"{name} as one file"] = header_of(control_folders.ldm_controlnet(name)), None
    return found


@st.composite
def changed_controls(draw: st.DrawFn) -> tuple[Header, Header | None]:
    header, config = controls()[draw(st.sampled_from(sorted(controls())))]
    if config is None:
        return draw(mutated(header)), None
    if draw(st.booleans()):
        return draw(mutated(header)), config
    return header, draw(mutated(config))


@attack
@given(changed_controls())
def test_a_whole_controlnet_is_described_or_refused(found: tuple[Header, Header | None]) -> None:
    header, config = found
    files = {} if config is None else {"config.json": json.dumps(config).encode()}
    with folder_of(**files) as folder, only(AIError, target="ControlNets: whole"):
        write_file(folder / "diffusion_pytorch_model.safetensors", header)
        control = open_control(folder)
        control.config(tiny_sd.MODELS["sd15"]["unet"])
        check_control(control, open_model(base("sd15")))


@attack
@given(changed_controls())
def test_a_whole_controlnet_is_loaded_or_refused(found: tuple[Header, Header | None]) -> None:
    header, config = found
    files = {} if config is None else {"config.json": json.dumps(config).encode()}
    with folder_of(**files) as folder, only(AIError, target="ControlNets: loading"):
        write_file(folder / "diffusion_pytorch_model.safetensors", header)
        unet = UNetConfig.from_dict(tiny_sd.MODELS["sd15"]["unet"])
        opened = open_unet_control(folder, unet, vae_scale=8, dtype=mx.float32, prefer_half=False)
        _ = opened.network


UPSCALERS: dict[str, Header] = {
    name: header_of(tensors)
    for name, tensors in {
        "rrdb": upscaler_files.rrdb_tensors(),
        "rrdb x2": upscaler_files.rrdb_tensors(scale=2, unshuffle=2),
        "first": upscaler_files.first_esrgan_names(upscaler_files.rrdb_tensors(scale=2)),
        "training": upscaler_files.training_names(upscaler_files.rrdb_tensors(scale=4)),
        "compact": upscaler_files.compact_tensors(),
    }.items()
}


@attack
@given(st.sampled_from(sorted(UPSCALERS)).flatmap(lambda name: mutated(UPSCALERS[name])))
def test_a_whole_upscaler_works_or_is_refused(header: Header) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "u.safetensors", header)
        with only(AIError, target="upscalers: whole"):
            file = read_upscaler(path)
            assert 1 <= file.scale <= 16
            upscaler = load_upscaler(path)
            pixels = upscaler.upscale(np.zeros((4, 5, 3), np.uint8))
            assert pixels.shape == (4 * file.scale, 5 * file.scale, 3)


EMBEDDINGS: dict[str, Header] = {
    "a1111": header_of({"emb_params": np.zeros((2, 8))}),
    "sdxl": header_of({"clip_l": np.zeros((2, 8)), "clip_g": np.zeros((2, 16))}),
    "diffusers": header_of({"<word>": np.zeros((2, 8))}),
    "string": header_of({"string_to_param.*": np.zeros((1, 8))}),
}


@attack
@given(
    st.sampled_from(sorted(EMBEDDINGS)).flatmap(lambda name: mutated(EMBEDDINGS[name])),
    st.lists(st.sampled_from([8, 16, 768]), min_size=1, max_size=2).map(tuple),
)
def test_a_whole_embedding_is_used_or_refused(header: Header, widths: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "word.safetensors", header)
        with only(AIError, target="textual inversions: whole"):
            embedding = load_embedding(path)
            assert all(vectors.ndim == 2 for vectors in embedding.fitted(widths))


LORAS: dict[str, Header] = {
    "kohya": header_of(
        {
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": np.zeros((2, 32, 1, 1)),
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": np.zeros((32, 2, 1, 1)),
            "lora_unet_down_blocks_0_attentions_0_proj_in.alpha": np.zeros(()),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.zeros((2, 32)),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": np.zeros((37, 2)),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale": np.zeros((37, 1)),
        }
    ),
    "lycoris": header_of(
        {
            "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": np.zeros((4, 2)),
            "lora_unet_mid_block_attentions_0_proj_in.hada_w1_b": np.zeros((2, 4)),
            "lora_unet_mid_block_attentions_0_proj_in.hada_w2_a": np.zeros((4, 2)),
            "lora_unet_mid_block_attentions_0_proj_in.hada_w2_b": np.zeros((2, 4)),
            "lora_unet_mid_block_attentions_0_proj_out.lokr_w1": np.zeros((2, 2)),
            "lora_unet_mid_block_attentions_0_proj_out.lokr_w2_a": np.zeros((2, 1)),
            "lora_unet_mid_block_attentions_0_proj_out.lokr_w2_b": np.zeros((1, 2)),
        }
    ),
    "peft": header_of(
        {
            "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": np.zeros((2, 4)),
            "unet.down_blocks.0.attentions.0.proj_in.lora_B.weight": np.zeros((4, 2)),
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": np.zeros((2, 4)),
            "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": np.zeros((4, 2)),
        }
    ),
}


@attack
@given(st.sampled_from(sorted(LORAS)).flatmap(lambda name: mutated(LORAS[name])))
def test_a_whole_lora_is_read_or_refused(header: Header) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "l.safetensors", header)
        with only(AIError, target="LoRA files: whole"):
            for module in load_lora(path).modules.values():
                assert isinstance(module.factor, float)


ODD_VALUES: tuple[Any, ...] = (None, [], {}, 0, "x", [None], True, [[1]], -1)
FIELDS = (
    ("unet/config.json", "block_out_channels", "layers_per_block", "attention_head_dim", "down_block_types"),
    ("vae/config.json", "block_out_channels", "latent_channels", "norm_num_groups"),
    ("text_encoder/config.json", "max_position_embeddings", "hidden_size", "num_hidden_layers", "hidden_act"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", "beta_schedule", "prediction_type"),
)


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, *names in FIELDS for name in names])
def test_a_field_of_any_value_is_used_or_one_error(file: str, name: str) -> None:
    config = json.loads((base("sd15") / file).read_bytes())
    for value in ODD_VALUES:
        changed = {file: json.dumps({**config, name: value}).encode()}
        with changed_copy(base("sd15"), changed) as folder, only(AIError, target="model folders: fields"):
            load_pipeline(folder)
