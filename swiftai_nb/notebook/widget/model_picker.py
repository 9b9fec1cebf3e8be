"""The rows of the widget's model picker: what each model needs, and whether it can be used."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from swiftai_nb.core.errors import AIError, DownloadCancelledError
from swiftai_nb.core.machine import installed_memory_bytes
from swiftai_nb.model_files.families import FLUX_1, FLUX_2_KLEIN, STABLE_DIFFUSION, Z_IMAGE
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.notebook.widget.remote_models import RemoteModels
from swiftai_nb.notebook.wire import ControlNetEntry, ModelEntry
from swiftai_nb.registry.controls import catalog_controls
from swiftai_nb.registry.model_info import GB

if TYPE_CHECKING:
    from swiftai_nb.downloads.download import Download
    from swiftai_nb.notebook.wire import ModelState
    from swiftai_nb.registry.model_info import DiffusionModelInfo

_FAMILIES = {
    DiffusionVariant.FLUX: FLUX_1,
    DiffusionVariant.FLUX_2_KLEIN: FLUX_2_KLEIN,
    DiffusionVariant.Z_IMAGE: Z_IMAGE,
}
# Prompts that the bundled model was trained on, so that the first click succeeds.
MINI_EXAMPLES = ("a fox in the snow", "a rocket at night", "a sunflower", "a castle at sunset")


class ModelPicker:
    """The rows of the picker, and its downloads and deletions.

    Args:
        session: the kernel's session.
        changed: called, from any thread, when `entries` has changed.
        on_error: called with the AIError of a download or a deletion, and the model's id as `model`.
        memory_bytes: of this machine; None reads it from the system.
    """

    def __init__(
        self,
        session: Any,
        *,
        changed: Callable[[], None],
        on_error: Callable[..., None],
        memory_bytes: int | None = None,
    ) -> None:
        self._session = session
        self._changed = changed
        self._on_error = on_error
        self._remote = RemoteModels(session, changed=self._reread)
        installed_bytes = installed_memory_bytes() if memory_bytes is None else memory_bytes
        self._memory_bytes = 2**50 if installed_bytes is None else installed_bytes  # unknown: enough
        self._lock = threading.Lock()
        self._rows: list[ModelEntry] = []
        self._is_stale = True

    def entries(self) -> list[ModelEntry]:
        """All rows: local models in the catalog's order, then those that run elsewhere.

        The disk is read when something may have changed there, otherwise only running downloads are.
        """
        with self._lock:
            is_stale, self._is_stale = self._is_stale, False
        self._rows = self._read() if is_stale else self._refreshed()
        return self._rows

    def controlnets(self, model_id: str) -> list[ControlNetEntry]:
        """The catalog's ControlNets for a local model and what each needs; none where it takes none."""
        registry = self._session.registry
        try:
            info = registry.find(model_id)
        except AIError:
            return []
        followed: dict[str, list[str]] = {}
        for kind, name in catalog_controls(info.variant).items() if _takes_controls(info) else ():
            followed.setdefault(name, []).append(kind)
        problem = self._local_problem()
        rows = {name: self._local_entry(registry.find(name), problem) for name in followed}
        names = ControlNetEntry.__annotations__
        return [
            cast("ControlNetEntry", {"kinds": kinds, **{k: v for k, v in rows[name].items() if k in names}})
            for name, kinds in followed.items()
        ]

    def first_choice(self, entries: Sequence[Mapping[str, Any]], *, engine: str) -> tuple[str, str]:
        """(model, engine) to begin with: the default model if it is on this disk, else what can draw.

        Args:
            entries: from `entries`.
            engine: unless only the cloud can draw.
        """
        if engine != "local":
            return "", engine
        default = self._session.registry.default_model
        if default is not None and self._session.registry.is_downloaded(default):
            return default, engine
        states = {(row["engine"], row["state"]) for row in entries}
        only_cloud = ("local", "ready") not in states and ("cloud", "cloud") in states
        return "", "cloud" if only_cloud else engine

    def download(self, model_id: str) -> None:
        """Starts a download or joins the running one; returns at once."""
        try:
            download = self._session.downloader.start(model_id)
        except AIError as error:
            self._on_error(error, model=model_id)
            return
        download.subscribe(lambda _download: self._changed())
        download.add_done_callback(self._on_download_end)
        self._reread()

    def cancel_download(self, model_id: str) -> None:
        """Ends a running download; what was received is kept."""
        self._session.downloader.cancel_download(model_id)

    def delete(self, model_id: str) -> None:
        """Deletes a model's files."""
        import asyncio

        try:
            asyncio.run(self._session.downloader.delete_model(model_id))
        except AIError as error:
            self._on_error(error, model=model_id)
        self._reread()

    def _reread(self) -> None:
        with self._lock:
            self._is_stale = True
        self._changed()

    def _on_download_end(self, download: Download) -> None:
        self._reread()
        if download.error is not None and not isinstance(download.error, DownloadCancelledError):
            self._on_error(download.error, model=download.job.model_id)

    def _read(self) -> list[ModelEntry]:
        registry = self._session.registry
        problem = self._local_problem()
        # Other engines may need an environment of their own; the picker shows what runs at a click.
        infos = [i for i in registry.available_models if i.kind == "model" and i.engine == "mlx"]
        local = [self._local_entry(info, problem) for info in infos]
        return [*local, *self._remote.entries()]

    def _refreshed(self) -> list[ModelEntry]:
        downloads = {d.job.model_id: d for d in self._session.downloader.active_downloads}
        return [
            _with_progress(row, downloads[row["id"]]) if row["id"] in downloads else row for row in self._rows
        ]

    def _local_problem(self) -> str:
        try:
            is_available = self._session.generator("local").is_available
        except (AIError, ImportError) as error:
            return str(getattr(error, "hint", None) or error)
        return "" if is_available else "the local engine needs Apple silicon, Linux or Windows"

    def _local_entry(self, info: DiffusionModelInfo, problem: str) -> ModelEntry:
        is_installed = self._session.registry.is_installed(info)
        state, text, hint = self._state_of(info, is_installed, problem)
        row: ModelEntry = {
            "id": info.id,
            "engine": "local",
            "name": info.name,
            "description": info.description,
            "size_bytes": info.size_bytes,
            "memory_bytes": info.min_memory_bytes,
            "license": info.license,
            "state": state,
            "state_text": text,
            "hint": hint,
            "width": info.default_width,
            "height": info.default_height,
            "steps": info.default_steps,
            "guidance_scale": info.default_guidance_scale,
            "display_scale": info.display_scale,
            "uses_negative_prompt": info.default_guidance_scale > 1,
            **_abilities(info),
            "can_delete": is_installed and info.is_downloadable,
            "free_disk_bytes": _free_bytes(self._session.registry.cache_dir),
            "done_bytes": 0,
            "total_bytes": info.size_bytes,
            "bytes_per_s": 0.0,
            "remaining_s": None,
            "elapsed_s": 0.0,
            "examples": list(MINI_EXAMPLES) if info.bundled else [],
        }
        download = self._session.downloader.active_download(info.id)
        return row if download is None else _with_progress(row, download)

    def _state_of(
        self, info: DiffusionModelInfo, is_installed: bool, problem: str
    ) -> tuple[ModelState, str, str]:
        if problem:
            return "unavailable", "not available on this machine", problem
        if info.min_memory_bytes > self._memory_bytes:
            needs, has = round(info.min_memory_bytes / GB), round(self._memory_bytes / 2**30)
            hint = "choose a smaller model or a cloud model"
            return "too_large", f"needs {needs} GB, this machine has {has}", hint
        if is_installed:
            return "ready", "ready", ""
        license_text = f"License {info.license}: {info.license_summary}." if info.license_summary else ""
        hint = " ".join(part for part in (license_text, info.gated or "") if part)
        return "download", f"download {info.formatted_size}", hint


class _Abilities(TypedDict):
    takes_image: bool
    max_references: int
    takes_controls: bool
    sampler_kind: str


def _abilities(info: DiffusionModelInfo) -> _Abilities:
    """What its family can do beside drawing from words."""
    family = _FAMILIES.get(info.variant, STABLE_DIFFUSION)
    return {
        "takes_image": family.is_supported,
        "max_references": 0 if family.references is None else family.references.max_count,
        "takes_controls": _takes_controls(info),
        "sampler_kind": "flow" if family.is_flow else "noise",
    }


def _takes_controls(info: DiffusionModelInfo) -> bool:
    """Whether ControlNets can steer it; none was made for the bundled model."""
    family = _FAMILIES.get(info.variant, STABLE_DIFFUSION)
    return not info.bundled and (family is Z_IMAGE or not family.is_flow)


def _with_progress(row: ModelEntry, download: Download) -> ModelEntry:
    progress = download.progress
    return {
        **row,
        "state": "downloading",
        "state_text": progress.phase,
        "done_bytes": progress.completed_bytes,
        "total_bytes": progress.total_bytes or row["size_bytes"],
        "bytes_per_s": round(progress.bytes_per_s),
        "remaining_s": None if progress.eta_s is None else round(progress.eta_s, 1),
        "elapsed_s": round(download.elapsed_s, 1),
    }


def _free_bytes(folder: Path) -> int:
    for place in (folder, *folder.parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return 0
