"""Files of the newer kinds of strangers: GGUF, upscalers, ControlNets, embeddings, attributes, Qwen's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.diffusion.tokenizers.qwen_tokenizer import QwenTokenizer
from swiftai_nb.diffusion.weights.textual_inversion import load_embedding
from swiftai_nb.model_files.attributes import choose_phrases, read_attributes
from swiftai_nb.model_files.control_files import open_control
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.safetensors_headers import read_header
from swiftai_nb.model_files.upscalers import read_upscaler
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import flipped, json_like, safetensors
from tests.attack.test_model_files import changed_copy, folder_of
from tests.diffusion.parity import tiny_flux2, tiny_z_image
from tests.diffusion.z_image_folders import write_configs as write_z_image_configs
from tests.model_files.files import write_gguf

_HOME = scratch_folder()
_GGUF = write_gguf(
    _HOME / "m.gguf",
    {"a.weight": ("Q4_0", (3, 64), bytes(108)), "c": ("F16", (2, 3, 1, 1), bytes(12))},
    {"general.architecture": "flux", "names": ["x"], "n": 7, "comfy.gguf.orig_shape.c": [2, 1, 3, 1]},
).read_bytes()
ATTRIBUTES = {
    "place": {
        "unless": ["in", "on"],
        "longest_prompt": 14,
        "choices": [{"phrase": "", "unless": []}, {"phrase": "in the snow", "unless": ["snow"]}],
    }
}


def header_of(**shapes: tuple[int, ...]) -> tuple[dict[str, object], int]:
    """A header of float32 tensors, and how many bytes they have."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start = end
        size_bytes = 4
        for side in shape:
            size_bytes *= side
        end = start + size_bytes
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return header, end


def _files(**shapes: tuple[int, ...]) -> st.SearchStrategy[bytes]:
    header, size_bytes = header_of(**shapes)
    return safetensors(header, data_bytes=size_bytes)


COMPACT = _files(
    **{"body.0.weight": (2, 3, 1, 1), "body.1.weight": (2,), "body.2.weight": (2, 2, 1, 1),
       "body.3.weight": (2,), "body.4.weight": (12, 2, 1, 1)}
)  # fmt: skip
RRDB = _files(
    **{"conv_first.weight": (2, 3, 1, 1), "body.0.rdb1.conv1.weight": (2, 2, 1, 1), "model.0.x": (1,),
       "model.3.weight": (1,), "conv_up1.weight": (2, 2, 1, 1), "conv_last.weight": (3, 2, 1, 1)}
)  # fmt: skip
CONTROL = _files(
    **{"controlnet_cond_embedding.conv_in.weight": (2, 3, 3, 3), "attn2.to_k.weight": (2, 4),
       "input_hint_block.0.weight": (2, 3, 3, 3), "conv_in.weight": (2, 4, 3, 3)}
)  # fmt: skip
EMBEDDING = _files(emb_params=(2, 4)) | _files(clip_l=(2, 4), clip_g=(2, 8))


@attack
@given(flipped(_GGUF) | st.binary(max_size=60).map(lambda rest: b"GGUF\3\0\0\0" + rest))
def test_a_gguf_header_is_read_or_refused(data: bytes) -> None:
    with folder_of(**{"m.gguf": data}) as folder, only(AIError, target="GGUF headers"):
        tensors, texts = read_header(folder / "m.gguf")
        assert all(tensor.offset + tensor.size_bytes <= len(data) for tensor in tensors.values())
        assert all(isinstance(text, str) for text in texts.values())


@attack
@given(flipped(_GGUF) | safetensors())
def test_a_single_file_is_a_model_or_refused(data: bytes) -> None:
    suffix = "gguf" if data.startswith(b"GGUF") else "safetensors"
    with folder_of(**{f"m.{suffix}": data}) as folder, only(AIError, target="single files"):
        open_model(folder / f"m.{suffix}")


@attack
@given(COMPACT | RRDB)
def test_an_upscaler_is_described_or_refused(data: bytes) -> None:
    with folder_of(**{"u.safetensors": data}) as folder, only(AIError, target="upscalers"):
        assert read_upscaler(folder / "u.safetensors").scale > 0


@attack
@given(CONTROL, st.none() | json_like({"_class_name": "ControlNetModel", "block_out_channels": [2, 4]}))
def test_a_controlnet_is_described_or_refused(data: bytes, config: bytes | None) -> None:
    files = {"diffusion_pytorch_model.safetensors": data}
    files |= {} if config is None else {"config.json": config}
    with folder_of(**files) as folder, only(AIError, target="ControlNets"):
        open_control(folder).config({"block_out_channels": [2, 4]})


@attack
@given(EMBEDDING)
def test_an_embedding_is_read_or_refused(data: bytes) -> None:
    with folder_of(**{"word.safetensors": data}) as folder, only(AIError, target="textual inversions"):
        assert load_embedding(folder / "word.safetensors").vectors


@attack
@given(json_like(ATTRIBUTES), st.text(max_size=30), st.integers())
def test_attributes_are_read_or_refused(data: bytes, prompt: str, seed: int) -> None:
    with folder_of(**{"attributes.json": data}) as folder, only(AIError, target="attributes.json"):
        assert isinstance(choose_phrases(read_attributes(folder), prompt, seed=seed), str)


def _qwen() -> Path:
    folder = _HOME / "qwen"
    if not folder.exists():
        tiny_z_image.write_tokenizer(folder)
    return folder


@st.composite
def qwen_files(draw: st.DrawFn) -> dict[str, bytes]:
    name = draw(st.sampled_from(["vocab.json", "merges.txt", "tokenizer_config.json"]))
    data = (_qwen() / name).read_bytes()
    return {name: draw(flipped(data) if name == "merges.txt" else json_like(json.loads(data)))}


@attack
@given(qwen_files(), st.text(max_size=40))
def test_a_qwen_tokenizer_works_or_is_refused(changed: dict[str, bytes], prompt: str) -> None:
    with changed_copy(_qwen(), changed) as folder, only(AIError, target="tokenizers: Qwen"):
        tokens = QwenTokenizer.from_folder(folder)([prompt], max_length=16)
        assert tokens.ids.shape == tokens.mask.shape


def _flow(kind: str) -> Path:
    folder = _HOME / kind
    if not folder.exists():
        if kind == "z-image":
            write_z_image_configs(folder)
            return folder
        contents = {
            "model_index.json": {"_class_name": "Flux2KleinPipeline", "is_distilled": True},
            "transformer/config.json": {"_class_name": "Flux2Transformer2DModel", **tiny_flux2.TRANSFORMER},
            "vae/config.json": {"block_out_channels": [8, 8]},
            "scheduler/scheduler_config.json": dict(tiny_flux2.SCHEDULER),
        }
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content))
    return folder


@st.composite
def flow_configs(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    kind = draw(st.sampled_from(["z-image", "flux-2"]))
    paths = sorted(_flow(kind).rglob("*.json"))
    path = draw(st.sampled_from(paths))
    return kind, {str(path.relative_to(_flow(kind))): draw(json_like(json.loads(path.read_bytes())))}


@attack
@given(flow_configs())
def test_a_folder_of_a_flow_family_is_described_or_refused(found: tuple[str, dict[str, bytes]]) -> None:
    kind, changed = found
    with changed_copy(_flow(kind), changed) as folder, only(AIError, target="flow model folders"):
        assert open_model(folder).defaults.steps > 0


@pytest.mark.parametrize("name", ["a" * 5_000, "a\0b", "\ud83d", "~nobody-of-that-name/x"])
@pytest.mark.parametrize("read", [open_model, open_control, read_upscaler, load_embedding])
def test_an_impossible_path_is_one_error(read: Callable[[Path], object], name: str) -> None:
    with pytest.raises(InvalidInputError):
        read(Path(name))
