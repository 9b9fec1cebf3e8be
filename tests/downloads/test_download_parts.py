"""Models that share parts: Stable Diffusion 3 and its text encoders, from three repositories."""

from __future__ import annotations

import asyncio

import pytest

from swiftai_nb.core.errors import InvalidInputError, ModelNotDownloadedError
from swiftai_nb.downloads.commands import ModelCommands
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import make_downloader
from tests.downloads.fake_hub import FakeHub

MODEL = "sd3-medium"


@pytest.fixture
def registry(tmp_path):
    return DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")


@pytest.fixture
def hub(registry):
    info = registry.find(MODEL)
    entries = [info, *(registry.find(name) for name in info.requires)]
    files = {e.repository: {f.path: f.path.encode() * 50 for f in e.files} for e in entries}
    files["argmaxinc/stable-diffusion"]["sd3_medium/sd3_medium.safetensors"] = bytes(5000)
    with FakeHub(files) as server:
        yield server


def test_a_model_without_its_parts_is_not_here_and_says_what_is_missing(hub, registry):
    downloader = make_downloader(hub, registry)
    downloader.start(MODEL).result(180)
    assert registry.disk_status(registry.find(MODEL)).state is DiskState.PARTIAL
    assert not registry.is_downloaded(MODEL)
    with pytest.raises(ModelNotDownloadedError, match=r"11\.4 GB of sd3-text-encoders"):
        registry.resolve(MODEL)


def test_downloading_fetches_the_parts_too_and_nothing_else(hub, registry):
    asyncio.run(make_downloader(hub, registry).download(MODEL))
    resolved = registry.resolve(MODEL)
    text, t5 = resolved.more_folders
    assert (resolved.folder / "sd3_medium.safetensors").is_file()
    assert (text / "t5" / "t5xxl.safetensors").is_file()
    assert (t5 / "spiece.model").is_file()
    assert not hub.gets("sd3_medium/sd3_medium.safetensors")


def test_the_verb_goes_on_until_all_is_here_and_parts_are_fetched_once(hub, registry):
    verbs = ModelCommands(
        registry=registry, downloader=make_downloader(hub, registry), wait=lambda d, _: d.result(180)
    )
    said, is_good = verbs.run(["download", MODEL])
    assert is_good
    assert [line.split(" is ready")[0] for line in said.splitlines()] == [
        MODEL,
        "sd3-text-encoders",
        "t5-tokenizer",
    ]
    assert "is already installed" in verbs.run(["download", MODEL])[0]
    card = repr(verbs.run(["info", MODEL])[0])
    assert "sd3-text-encoders, t5-tokenizer" in card
    assert "--engine diffusionkit" in card
    assert "accept its license" in card


def test_a_part_is_no_model(registry):
    with pytest.raises(InvalidInputError, match="part of other models"):
        registry.resolve("sd3-text-encoders")


def test_the_table_shows_models_before_their_parts(registry):
    shown = repr(ModelCommands(registry=registry).run(["list", "--all"])[0])
    assert shown.index("sd3.5-large") < shown.index("sd3-text-encoders")


def test_the_short_table_has_no_parts_and_no_files_of_another_model(registry):
    commands = ModelCommands(registry=registry)
    table = commands.run(["list"])[0]
    names = [row[0].partition(" ")[0] for row in table.rows()]
    assert {"emoji-mini", "sd-1.5", "z-image-base", "sd3.5-large"} <= set(names)
    assert not {"sd-1.5-8bit", "sd-1.5-4bit", "taesd", "sd-1.5-tokenizer", "sd-1.5-canny"} & set(names)
    every = commands.run(["list", "--all"])[0]
    assert f"Not shown: {len(every.rows()) - len(names)} decoders" in repr(table)
    assert max(len(row[4]) for row in table.rows()) <= 22, "a long name of a license squeezes the description"
