"""`--lora OWNER/NAME`: fetched from a (local) Hub, put on the bundled model, named in the recipe."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError

import swiftai_nb
from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotDownloadedError, NetworkError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from tests.downloads.fake_hub import FakeHub

UNET = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini" / "unet"
WORDS = "a red apple --engine local --steps 1 --seed 7"


def lora_bytes(width: int) -> bytes:
    """A LoRA on one projection of the bundled model, as diffusers writes them."""
    random = np.random.default_rng(0)
    base = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    arrays = {
        f"{base}.lora_A.weight": random.standard_normal((4, width), dtype=np.float32),
        f"{base}.lora_B.weight": random.standard_normal((width, 4), dtype=np.float32) * 9,
    }
    header: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    width = json.loads((UNET / "config.json").read_text())["block_out_channels"][-1]
    repositories = {
        "org/style": {"style.safetensors": lora_bytes(width)},
        "org/many": {"a.safetensors": lora_bytes(width), "b.safetensors": lora_bytes(8)},
    }
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub(repositories) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_cell_fetches_its_lora_and_draws_with_it(
    shell: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imagine(options: str) -> Any:
        return shell.run_line_magic("imagine", f"{WORDS} {options}")

    def pixels(options: str) -> bytes:
        return bytes(imagine(options).pil.tobytes())

    plain, styled = pixels(""), imagine("--lora org/style:0.5")
    drawn = styled.pil.tobytes()
    assert drawn != plain
    assert styled.recipe.loras == (LoraReference("org/style", 0.5),)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shell.user_ns["styled"] = styled
    assert imagine("--from styled")[0].data == styled[0].data
    assert pixels("--lora org/style:0.25 --lora org/style:0.25") == drawn
    with pytest.raises(NetworkError, match="offline mode"):
        imagine("--lora org/many/a.safetensors")
    assert len(hub.requests) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UsageError, match=r"holds 2 LoRAs: org/many/a\.safetensors, org/many/b\.s"):
        imagine("--lora org/many")
    assert pixels("--lora org/many/a.safetensors:0.5") == drawn
    with pytest.raises(InvalidModelFilesError, match=r"b\.safetensors does not fit"):
        imagine("--lora org/many/b.safetensors")
    assert pixels("") == plain


def test_a_terminal_shows_the_download(hub: FakeHub, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swiftai_nb", "imagine", *WORDS.split(), "--lora", "org/style:0.5"]
    done = subprocess.run(
        [*command, "-o", "x.png"], capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (0, "x.png\n"), done.stderr
    assert hub.fetched("style.safetensors") > 0


def test_a_lora_that_only_a_picture_names_is_fetched_with_consent(shell: Any, hub: FakeHub) -> None:
    recipe = Recipe(
        "a red apple", model="emoji-mini", steps=1, seed=7, loras=(LoraReference("org/style", 0.5),)
    )
    shell.user_ns["foreign"] = GeneratedImage.from_pixels(np.zeros((8, 8, 3), np.uint8), recipe=recipe)
    with pytest.raises(ModelNotDownloadedError, match="this recipe needs the LoRA org/style") as caught:
        shell.run_line_magic("imagine", "--from foreign --engine local")
    assert "--download" in str(caught.value.hint)
    assert not hub.requests
    made = shell.run_line_magic("imagine", "--from foreign --engine local --download")
    assert made.recipe.loras == recipe.loras
