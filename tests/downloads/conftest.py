from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from swiftai_nb.downloads.downloader import DiffusionModelDownloader, DownloadOptions
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.fake_hub import FakeHub, tiny_repository

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
TEXT_ENCODER = "text_encoder/model.fp16.safetensors"
VAE = "vae/diffusion_pytorch_model.fp16.safetensors"
REPOSITORY = "org/tiny"

IMPATIENT = DownloadOptions(timeout_s=15.0, max_attempts=3, backoff_s=0.05, connections=3)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here sees the user's models, token or settings."""
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({REPOSITORY: tiny_repository()}) as server:
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> DiffusionModelRegistry:
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "cache")
    registry.add_repository(REPOSITORY, variant=DiffusionVariant.SD_15)
    return registry


@pytest.fixture
def downloader(hub: FakeHub, registry: DiffusionModelRegistry) -> Iterator[DiffusionModelDownloader]:
    downloader = make_downloader(hub, registry)
    yield downloader
    for download in downloader.active_downloads:
        download.cancel()


def make_downloader(
    hub: FakeHub,
    registry: DiffusionModelRegistry,
    *,
    token: str | None = None,
    options: DownloadOptions = IMPATIENT,
) -> DiffusionModelDownloader:
    return DiffusionModelDownloader(registry=registry, endpoint=hub.url, token=token, options=options)


def partial_files(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.rglob("*.incomplete"))


def partial_sizes(cache_dir: Path) -> list[int]:
    """In bytes; a file that is finished meanwhile is left out."""
    sizes = []
    for path in partial_files(cache_dir):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sizes


def assert_complete(hub: FakeHub, folder: Path) -> None:
    """Every byte of every needed file is right, and nothing else was fetched."""
    files = hub.repositories[REPOSITORY]
    present = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    unwanted = {"README.md", "whole.safetensors", "unet/diffusion_pytorch_model.safetensors"}
    assert present == sorted(set(files) - unwanted)
    for path in present:
        assert (folder / path).read_bytes() == files[path], path


def cancel_limit_s() -> float:
    """Half a second, as promised; more where many other processes wait for the same cores."""
    is_crowded = hasattr(os, "getloadavg") and os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    return 3.0 if is_crowded else 0.5


@contextmanager
def as_nobody() -> Iterator[None]:
    """Another user of the machine, for the time of a `with`."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder everybody may write to (those of pytest are the user's alone)."""
    with tempfile.TemporaryDirectory(prefix="shared-cache-") as name:
        Path(name).chmod(0o777)
        yield Path(name)
