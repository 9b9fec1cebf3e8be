"""The model picker against a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core.errors import AIError, ProviderUnavailableError
from swiftai_nb.downloads.downloader import DiffusionModelDownloader, DownloadOptions
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.model_picker import ModelPicker
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.testing import FakeGenerator
from tests.downloads.fake_hub import FakeHub, tiny_repository
from tests.waiting import wait_until

REPOSITORY = "org/tiny"


class TokenlessGenerator(FakeGenerator):
    """A back end that lacks something."""

    @property
    def is_available(self) -> bool:
        return False


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({REPOSITORY: tiny_repository()}) as server:
        yield server


@pytest.fixture
def session(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    session = Session()
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "cache")
    registry.add_repository(REPOSITORY, variant=DiffusionVariant.SD_15, id="tiny")
    options = DownloadOptions(timeout_s=6.0, max_attempts=3, backoff_s=0.05, connections=3)
    session.registry = registry
    session.downloader = DiffusionModelDownloader(registry=registry, endpoint=hub.url, options=options)
    session.add_generator("mlx", FakeGenerator())
    session.add_generator("huggingface", TokenlessGenerator())
    yield session
    for download in session.downloader.active_downloads:
        download.cancel()
    session.close()


class Picker:
    """A picker, with what it has reported."""

    def __init__(self, session: Session, **options: Any) -> None:
        self.changes = 0
        self.errors: list[AIError] = []
        self.failed_models: list[str] = []
        self.picker = ModelPicker(session, changed=self.on_change, on_error=self.on_error, **options)

    def on_error(self, error: AIError, *, model: str) -> None:
        self.errors.append(error)
        self.failed_models.append(model)

    def on_change(self) -> None:
        self.changes += 1

    def row(self, name: str) -> dict[str, Any]:
        return {row["id"]: dict(row) for row in self.picker.entries()}[name]


def test_rows_tell_the_truth_about_every_model(session: Session) -> None:
    picker = Picker(session, memory_bytes=8 * 2**30)
    assert picker.row("emoji-mini")["state"] == "ready"
    assert picker.row("emoji-mini")["size_bytes"] > 1_000_000
    assert picker.row("sd-1.5")["state_text"] == "download 2.1 GB"
    assert "icense" in picker.row("sd-1.5")["hint"]
    assert picker.row("flux-schnell-4bit")["state_text"] == "needs 16 GB, this machine has 8"
    assert picker.row("sd-1.5")["free_disk_bytes"] > 0
    assert not picker.row("sdxl-turbo")["uses_negative_prompt"]
    names = [row["id"] for row in picker.picker.entries()]
    assert "taesd" not in names, "preview decoders are no models"


def test_cloud_models_say_what_is_missing_and_how_to_give_it(session: Session) -> None:
    row = Picker(session).row("black-forest-labs/FLUX.1-schnell")
    assert (row["engine"], row["state"], row["state_text"]) == (
        "cloud",
        "cloud_missing",
        "cloud, needs a token",
    )
    assert "HF_TOKEN" in row["hint"]
    session.add_generator("huggingface", FakeGenerator())
    row = Picker(session).row("black-forest-labs/FLUX.1-schnell")
    assert (row["state"], row["hint"]) == ("cloud", "")


def test_machine_without_a_local_engine_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.add_generator("mlx", TokenlessGenerator())
    assert Picker(session).row("emoji-mini")["state"] == "unavailable"

    def missing(*_: Any, **__: Any) -> Any:
        raise ProviderUnavailableError("no mlx", hint="pip install mlx")

    monkeypatch.setattr(session, "generator", missing)
    picker = Picker(session)
    assert (picker.row("emoji-mini")["state"], picker.row("emoji-mini")["hint"]) == (
        "unavailable",
        "pip install mlx",
    )
    assert [row["id"] for row in picker.picker.entries() if row["engine"] == "cloud"] == []


def test_download_progresses_is_cancelled_and_completes(session: Session, hub: FakeHub) -> None:
    picker = Picker(session)
    assert picker.row("tiny")["state"] == "download"
    hub.faults.throttle_bps = 20_000.0
    picker.picker.download("tiny")
    assert picker.row("tiny")["state"] == "downloading"
    wait_until(lambda: picker.row("tiny")["done_bytes"] > 0)
    row = picker.row("tiny")
    assert row["done_bytes"] < row["total_bytes"]
    assert row["elapsed_s"] > 0
    picker.picker.cancel_download("tiny")
    wait_until(lambda: picker.row("tiny")["state"] == "download")
    assert picker.errors == [], "cancelling is not an error"
    hub.faults.throttle_bps = None
    picker.picker.download("tiny")
    wait_until(lambda: picker.row("tiny")["state"] == "ready")
    assert picker.row("tiny")["can_delete"]
    assert picker.changes >= 3
    picker.picker.delete("tiny")
    assert "ready" not in [row["state"] for row in picker.picker.entries() if row["id"] == "tiny"]
    assert not session.registry.is_downloaded("tiny")


def test_failed_download_is_told_with_a_remedy(session: Session, hub: FakeHub) -> None:
    hub.faults.gated.add(REPOSITORY)
    picker = Picker(session)
    picker.picker.download("tiny")
    wait_until(lambda: picker.errors != [])
    assert picker.errors[0].hint
    assert picker.failed_models == ["tiny"]
    assert picker.row("tiny")["state"] == "download"


def test_bundled_model_cannot_be_downloaded_or_deleted(session: Session) -> None:
    picker = Picker(session)
    picker.picker.download("emoji-mini")
    picker.picker.delete("emoji-mini")
    assert len(picker.errors) == 2
    assert not picker.row("emoji-mini")["can_delete"]
