"""LoRAs from a Hub repository: which file is meant, fetched once, found again, refused clearly."""

from __future__ import annotations

import asyncio

import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import (
    ChecksumMismatchError,
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    NetworkError,
    UnsupportedModelError,
)
from swiftai_nb.downloads.commands import ModelCommands
from swiftai_nb.registry.loras import (
    HubLora,
    find_lora,
    local_loras,
    missing_loras,
    parse_hub_lora,
    select_lora,
)
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import REPOSITORY, make_downloader, partial_files

ONE, MANY, PEFT = "org/one-lora", "org/many-loras", "org/peft-lora"
DATA = bytes(range(256)) * 400


@pytest.fixture
def lora_hub(hub):
    hub.repositories |= {
        ONE: {"README.md": b"x", "style.safetensors": DATA, "preview.png": b"png" * 900, "train.json": b"{}"},
        MANY: {"a.safetensors": DATA[1:], "deep/b v2.safetensors": DATA[2:], "c.bin": b"pickle" * 900},
        PEFT: {"adapter_model.safetensors": DATA[3:], "adapter_config.json": b'{"lora_alpha": 8}'},
        "org/none": {"README.md": b"x", "weights.bin": b"pickle" * 900},
    }
    return hub


def fetch(downloader, source):
    return asyncio.run(downloader.download_lora(source))


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("org/name", HubLora("org/name")),
        ("org/na.me-2_x", HubLora("org/na.me-2_x")),
        ("org/name/a.safetensors", HubLora("org/name", "a.safetensors")),
        ("org/name/deep/b v2.safetensors", HubLora("org/name", "deep/b v2.safetensors")),
        ("name", None),
        ("name.safetensors", None),
        ("loras/style.safetensors", None),
        ("org/name/a.bin", None),
        ("org/name/../../x.safetensors", None),
        ("./org/name", None),
        ("/org/name", None),
        ("C:\\loras\\x.safetensors", None),
    ],
)
def test_what_a_source_names(source, meant):
    assert parse_hub_lora(source) == meant


def test_the_only_lora_of_a_repository_comes_alone_and_with_progress(lora_hub, registry, downloader):
    seen = []
    path = asyncio.run(downloader.download_lora(ONE, seen.append))
    assert path.read_bytes() == DATA
    assert path.name == "style.safetensors"
    assert [p.name for p in path.parent.iterdir()] == ["style.safetensors"]
    assert seen[-1].completed_bytes == seen[-1].total_bytes == len(DATA)
    asked = len(lora_hub.requests)
    assert fetch(downloader, ONE) == path == find_lora(registry, ONE)
    assert len(lora_hub.requests) == asked


def test_several_loras_are_named_and_each_can_be_asked_for(lora_hub, registry, downloader):
    with pytest.raises(InvalidInputError, match="holds 2 LoRAs") as caught:
        fetch(downloader, MANY)
    assert f"{MANY}/a.safetensors, {MANY}/deep/b v2.safetensors" in str(caught.value)
    assert len(caught.value.message.splitlines()) == 1
    path = fetch(downloader, f"{MANY}/deep/b v2.safetensors")
    assert path.read_bytes() == DATA[2:]
    assert lora_hub.fetched("a.safetensors") == 0
    assert fetch(downloader, f"{MANY}/a.safetensors").read_bytes() == DATA[1:]
    assert find_lora(registry, f"{MANY}/deep/b v2.safetensors") == path


def test_a_peft_lora_brings_its_alpha(lora_hub, downloader):
    path = fetch(downloader, PEFT)
    assert (path.parent / "adapter_config.json").read_bytes() == b'{"lora_alpha": 8}'


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("org/none", UnsupportedModelError, "holds no LoRA"),
        (f"{ONE}/other.safetensors", InvalidModelFilesError, "does not have other.safetensors"),
        ("org/nobody", ModelNotFoundError, "org/nobody"),
        (REPOSITORY, InvalidInputError, "is a model, not a LoRA"),
        ("sdxl-turbo", ModelNotFoundError, "no LoRA file"),
        ("stabilityai/sdxl-turbo", InvalidInputError, "is a model, not a LoRA"),
        ("not here.safetensors", ModelNotFoundError, "no LoRA file"),
    ],
)
def test_what_is_no_lora_is_refused_in_one_line(lora_hub, downloader, source, error, words):
    with pytest.raises(error, match=words) as caught:
        fetch(downloader, source)
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint


def test_a_whole_model_nobody_registered_is_no_lora(lora_hub, downloader):
    lora_hub.repositories["org/model"] = dict(lora_hub.repositories[REPOSITORY])
    with pytest.raises(UnsupportedModelError, match="whole model"):
        fetch(downloader, "org/model")


def test_offline_what_is_here_is_used_and_the_rest_refused_in_one_line(
    lora_hub, registry, downloader, monkeypatch
):
    path = fetch(downloader, ONE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(downloader, ONE) == path
    with pytest.raises(NetworkError, match="offline mode") as caught:
        fetch(downloader, PEFT)
    assert "unset HF_HUB_OFFLINE" in caught.value.hint


def test_without_a_network_the_error_says_what_to_do(lora_hub, registry):
    lora_hub._server.server_close()
    with pytest.raises(NetworkError) as caught:
        fetch(make_downloader(lora_hub, registry), ONE)
    assert caught.value.hint


def test_dropped_connections_continue_and_wrong_bytes_are_refused(lora_hub, registry, downloader):
    lora_hub.faults.drop_after["style.safetensors"] = [40_000, 10_000]
    assert fetch(downloader, ONE).read_bytes() == DATA
    assert len(lora_hub.gets("style.safetensors")) == 3
    lora_hub.faults.corrupt["adapter_model.safetensors"] = 9
    with pytest.raises(ChecksumMismatchError):
        fetch(downloader, PEFT)
    assert find_lora(registry, PEFT) is None


def test_a_cancelled_download_goes_on_where_it_was(lora_hub, registry, downloader):
    lora_hub.faults.hang_after["style.safetensors"] = 50_000
    download = downloader.start_lora(ONE)
    while (
        not partial_files(registry.cache_dir) or partial_files(registry.cache_dir)[0].stat().st_size < 50_000
    ):
        assert not download.done
    download.cancel()
    assert missing_loras(registry, [LoraReference(ONE)]) == (ONE,)
    lora_hub.faults.hang_after.clear()
    assert fetch(downloader, ONE).read_bytes() == DATA
    assert lora_hub.gets("style.safetensors")[-1].first_byte == 50_000


def test_what_another_tool_fetched_is_found(lora_hub, registry, downloader, tmp_path):
    fetch(downloader, ONE)
    stranger = DiffusionModelRegistry(home=tmp_path / "other home", cache_dir=registry.cache_dir)
    path = find_lora(stranger, ONE)
    assert path is not None
    assert path.read_bytes() == DATA
    assert find_lora(stranger, f"{ONE}/style.safetensors") == path


def test_a_lora_is_listed_told_about_verified_and_deleted_like_a_model(lora_hub, registry, downloader):
    fetch(downloader, ONE)
    verbs = ModelCommands(registry=registry, downloader=downloader, endpoint=lora_hub.url)

    def show(line):
        return repr(verbs.run(line.split())[0])

    line = next(line for line in show("list").splitlines() if line.startswith(ONE))
    assert "102 kB" in line
    assert " yes " in line
    assert "LoRA" in line
    assert "family" not in show(f"info {ONE}")
    assert "1 files verified" in show(f"verify {ONE}")
    with pytest.raises(InvalidInputError, match="is a LoRA"):
        registry.resolve(ONE)
    assert "102 kB freed" in show(f"delete {ONE}")
    assert find_lora(registry, ONE) is None


def test_sources_become_paths_or_say_how_to_get_them(registry, downloader, lora_hub, tmp_path, monkeypatch):
    (tmp_path / "mine.safetensors").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotDownloadedError, match=ONE) as caught:
        local_loras(registry, [LoraReference("mine.safetensors"), LoraReference(ONE)])
    assert f"--lora {ONE}" in caught.value.hint
    path = fetch(downloader, ONE)
    found = local_loras(registry, [LoraReference("mine.safetensors", 0.5), LoraReference(ONE)])
    assert found == (LoraReference(str(tmp_path / "mine.safetensors"), 0.5), LoraReference(str(path)))


def test_a_folder_of_that_name_comes_before_the_hub(registry, tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_lora(registry, "org/name") is not None
    assert missing_loras(registry, [LoraReference("org/name")]) == ()


def test_the_usual_name_wins_over_checkpoints_beside_it():
    listing = ["pytorch_lora_weights.safetensors", "checkpoint-500/model.safetensors", "README.md"]
    assert select_lora("o/n", listing) == ("pytorch_lora_weights.safetensors",)


def test_a_file_outside_of_the_snapshot_is_no_lora(registry, tmp_path):
    snapshot = registry.cache_dir / "models--me--many" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "inside.safetensors").write_bytes(b"x")
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    assert find_lora(registry, "me/many/inside.safetensors") == snapshot / "inside.safetensors"
    assert find_lora(registry, f"me/many/{tmp_path}/outside.safetensors") is None
