"""Model files of strangers: read, or refused with one error that names the file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer
from swiftai_nb.diffusion.tokenizers.sentencepiece_model import t5_tokenizer_from_sentencepiece
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from swiftai_nb.diffusion.weights.lora_files import load_lora
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.safetensors_headers import read_header, read_weight_files
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import GENERATION_DEFAULTS, Edit, edited, edits, flipped, json_like, safetensors
from tests.diffusion.parity import tiny_flux
from tests.diffusion.sd_folders import write_folder

LORA = {
    "__metadata__": {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.alpha_pattern": {"a": 2}}'},
    "unet.a.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "unet.a.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
    "unet.a.alpha": {"dtype": "F32", "shape": [], "data_offsets": [64, 68]},
}
ADAPTER = {"lora_alpha": 4, "alpha_pattern": {"(a+)+b": 2, "unet.a": 3}, "use_rslora": True, "r": 2}
INDEX = {
    "metadata": {"total_size": 26},
    "weight_map": {"a.weight": "model.safetensors", "c": "b.safetensors"},
}


@contextmanager
def folder_of(**files: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        yield Path(name)


@attack
@given(safetensors())
def test_a_header_is_read_or_refused(data: bytes) -> None:
    with folder_of(**{"model.safetensors": data}) as folder, only(AIError, target="safetensors headers"):
        tensors, metadata = read_header(folder / "model.safetensors")
        assert sum(tensor.size_bytes for tensor in tensors.values()) < len(data)
        assert all(isinstance(value, str) for value in metadata.values())


@attack
@given(json_like(INDEX), safetensors())
def test_an_index_is_read_or_refused(index: bytes, data: bytes) -> None:
    files = {"model.safetensors.index.json": index, "model.safetensors": data, "b.safetensors": data}
    with folder_of(**files) as folder, only(AIError, target="weight indexes"):
        read_weight_files(folder)


@attack
@given(safetensors(LORA, data_bytes=68), st.none() | json_like(ADAPTER))
def test_a_lora_is_read_or_refused(data: bytes, adapter: bytes | None) -> None:
    files = {"adapter_model.safetensors": data}
    if adapter is not None:
        files["adapter_config.json"] = adapter
    with folder_of(**files) as folder, only(AIError, target="LoRA files"):
        for module in load_lora(folder).modules.values():
            assert isinstance(module.factor, float)


_HOME = scratch_folder()


def _tiny(kind: str) -> Path:
    """A valid folder, made once."""
    folder = _HOME / kind
    if not folder.exists():
        if kind == "t5":
            tiny_flux.write_t5_tokenizer(folder)
            t5_tokenizer_from_sentencepiece(folder / "spiece.model").save(str(folder / "tokenizer.json"))
        else:
            write_folder(folder, "sd15")
    return folder


_CONFIGS = (
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "generation_defaults.json",
)  # fmt: skip


@st.composite
def changed_configs(draw: st.DrawFn) -> dict[str, bytes]:
    changed = {}
    for name in draw(st.lists(st.sampled_from(_CONFIGS), min_size=1, max_size=2, unique=True)):
        path = _tiny("sd15") / name
        base: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else GENERATION_DEFAULTS
        changed[name] = draw(json_like(base))
    return changed


@contextmanager
def changed_copy(source: Path, changed: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        shutil.copytree(source, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
        for file, data in changed.items():
            (folder / file).unlink(missing_ok=True)
            (folder / file).write_bytes(data)
        yield folder


@attack
@given(changed_configs())
def test_a_folder_is_described_or_refused(changed: dict[str, bytes]) -> None:
    with changed_copy(_tiny("sd15"), changed) as folder, only(AIError, target="model folders: description"):
        model = open_model(folder)
        assert model.defaults.steps > 0
        assert model.components


@attack
@given(changed_configs())
def test_a_folder_is_loaded_or_refused(changed: dict[str, bytes]) -> None:
    with changed_copy(_tiny("sd15"), changed) as folder, only(AIError, target="model folders: loading"):
        load_pipeline(folder)


def _clip_files(draw: st.DrawFn) -> dict[str, bytes]:
    source = _tiny("sd15") / "tokenizer"
    changed = {}
    for path in draw(
        st.lists(st.sampled_from(sorted(source.iterdir())), min_size=1, max_size=2, unique=True)
    ):
        data = path.read_bytes()
        is_json = path.suffix == ".json"
        changed[path.name] = draw(json_like(json.loads(data)) if is_json else flipped(data) | st.binary())
    return changed


@attack
@given(st.composite(_clip_files)(), st.text(max_size=40))
def test_a_clip_tokenizer_works_or_is_refused(changed: dict[str, bytes], prompt: str) -> None:
    with (
        changed_copy(_tiny("sd15") / "tokenizer", changed) as folder,
        only(AIError, target="tokenizers: CLIP"),
    ):
        tokenizer = CLIPTokenizer(folder)
        assert len(tokenizer(prompt).ids) == tokenizer.max_length


@st.composite
def t5_json(draw: st.DrawFn) -> bytes:
    base = json.loads((_tiny("t5") / "tokenizer.json").read_bytes())
    base["model"]["vocab"] = base["model"]["vocab"][:40]
    return draw(json_like(base))


@attack
@given(t5_json(), st.text(max_size=40))
def test_a_t5_tokenizer_works_or_is_refused(data: bytes, prompt: str) -> None:
    with folder_of(**{"tokenizer.json": data}) as folder, only(AIError, target="tokenizers: T5"):
        tokenizer = T5Tokenizer.from_folder(folder)
        assert tokenizer([prompt], max_length=16).shape == (1, 16)


SPIECE = (Path(tiny_flux.__file__).parent / "references" / "tiny_spiece.model").read_bytes()


@attack
@given(edits(SPIECE[:20_000]) | st.just([]), st.binary(max_size=60), st.booleans(), st.text(max_size=20))
def test_a_sentencepiece_model_works_or_is_refused(
    changes: list[Edit], garbage: bytes, is_garbage: bool, prompt: str
) -> None:
    data = garbage if is_garbage else edited(SPIECE, changes)
    with folder_of(**{"spiece.model": data}) as folder, only(AIError, target="tokenizers: SentencePiece"):
        T5Tokenizer.from_folder(folder)([prompt], max_length=16)
