"""The model picker against a Hub on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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

REPOSITORY = "org/tiny"
PATIENCE_S = 60.0


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


class Shelf:
    """A shelf with what it told."""

    def __init__(self, session: Session, **options: Any) -> None:
        self.changes = 0
        self.errors: list[AIError] = []
        self.shelf = ModelPicker(session, changed=self.on_change, on_error=self.errors.append, **options)

    def on_change(self) -> None:
        self.changes += 1

    def row(self, name: str) -> dict[str, Any]:
        return {row["id"]: dict(row) for row in self.shelf.entries()}[name]


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.05)


def test_rows_tell_the_truth_about_every_model(session: Session) -> None:
    shelf = Shelf(session, memory_bytes=8 * 2**30)
    assert shelf.row("emoji-mini")["state"] == "ready"
    assert shelf.row("emoji-mini")["size_bytes"] > 1_000_000
    assert shelf.row("sd-1.5")["state_text"] == "download 2.1 GB"
    assert "icense" in shelf.row("sd-1.5")["how"]
    assert shelf.row("flux-schnell-4bit")["state_text"] == "needs 16 GB, this machine has 8"
    assert shelf.row("sd-1.5")["free_disk_bytes"] > 0
    assert not shelf.row("sdxl-turbo")["uses_negative_prompt"]
    names = [row["id"] for row in shelf.shelf.entries()]
    assert "taesd" not in names, "preview decoders are no models"


def test_cloud_models_say_what_is_missing_and_how_to_give_it(session: Session) -> None:
    row = Shelf(session).row("black-forest-labs/FLUX.1-schnell")
    assert (row["engine"], row["state"], row["state_text"]) == (
        "cloud",
        "cloud_missing",
        "cloud, needs a token",
    )
    assert "HF_TOKEN" in row["how"]
    session.add_generator("huggingface", FakeGenerator())
    row = Shelf(session).row("black-forest-labs/FLUX.1-schnell")
    assert (row["state"], row["how"]) == ("cloud", "")


def test_machine_without_a_local_engine_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.add_generator("mlx", TokenlessGenerator())
    assert Shelf(session).row("emoji-mini")["state"] == "unavailable"

    def missing(*_: Any, **__: Any) -> Any:
        raise ProviderUnavailableError("no mlx", hint="pip install mlx")

    monkeypatch.setattr(session, "generator", missing)
    shelf = Shelf(session)
    assert (shelf.row("emoji-mini")["state"], shelf.row("emoji-mini")["how"]) == (
        "unavailable",
        "pip install mlx",
    )
    assert [row["id"] for row in shelf.shelf.entries() if row["engine"] == "cloud"] == []


def test_download_progresses_is_cancelled_and_completes(session: Session, hub: FakeHub) -> None:
    shelf = Shelf(session)
    assert shelf.row("tiny")["state"] == "download"
    hub.faults.throttle_bps = 20_000.0
    shelf.shelf.download("tiny")
    assert shelf.row("tiny")["state"] == "downloading"
    until(lambda: shelf.row("tiny")["done_bytes"] > 0)
    row = shelf.row("tiny")
    assert row["done_bytes"] < row["total_bytes"]
    assert row["elapsed_s"] > 0
    shelf.shelf.cancel_download("tiny")
    until(lambda: shelf.row("tiny")["state"] == "download")
    assert shelf.errors == [], "cancelling is not an error"
    hub.faults.throttle_bps = None
    shelf.shelf.download("tiny")
    until(lambda: shelf.row("tiny")["state"] == "ready")
    assert shelf.row("tiny")["can_delete"]
    assert shelf.changes >= 3
    shelf.shelf.delete("tiny")
    assert "ready" not in [row["state"] for row in shelf.shelf.entries() if row["id"] == "tiny"]
    assert not session.registry.is_downloaded("tiny")


def test_failed_download_is_told_with_a_remedy(session: Session, hub: FakeHub) -> None:
    hub.faults.gated.add(REPOSITORY)
    shelf = Shelf(session)
    shelf.shelf.download("tiny")
    until(lambda: shelf.errors != [])
    assert shelf.errors[0].hint
    assert shelf.row("tiny")["state"] == "download"


def test_bundled_model_cannot_be_downloaded_or_deleted(session: Session) -> None:
    shelf = Shelf(session)
    shelf.shelf.download("emoji-mini")
    shelf.shelf.delete("emoji-mini")
    assert len(shelf.errors) == 2
    assert not shelf.row("emoji-mini")["can_delete"]
