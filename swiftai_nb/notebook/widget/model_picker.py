"""The model picker's rows: what each model costs, whether it is here, and what stands in the way."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, DownloadCancelledError
from swiftai_nb.core.machine import installed_memory_bytes
from swiftai_nb.registry.model_info import GB

if TYPE_CHECKING:
    from swiftai_nb.notebook.wire import ModelEntry, ModelState
    from swiftai_nb.registry.model_info import DiffusionModelInfo

# What the miniature model was trained on, so that the first click succeeds.
MINI_EXAMPLES = ("a fox in the snow", "a rocket at night", "a sunflower", "a castle at sunset")
EXAMPLES = (
    "a lighthouse in a storm, oil painting",
    "a red fox in fresh snow, morning light",
    "an astronaut tending a greenhouse",
)
CLOUD_MODELS = (
    ("black-forest-labs/FLUX.1-schnell", "FLUX.1 schnell", "The best pictures in 4 steps", 1024, 4, 0.0),
    (
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "Stable Diffusion 3 medium",
        "Good at words inside pictures",
        1024,
        28,
        7.0,
    ),
)


class ModelPicker:
    """The rows of the picker, kept true.

    Args:
        session: the kernel's session.
        changed: called, from any thread, when the rows should be read anew.
        on_error: called with the AIError of a download or a deletion.
        memory_bytes: of this machine; None asks the system.
    """

    def __init__(
        self,
        session: Any,
        *,
        changed: Callable[[], None],
        on_error: Callable[[AIError], None],
        memory_bytes: int | None = None,
    ) -> None:
        self._session = session
        self._changed = changed
        self._on_error = on_error
        installed_bytes = installed_memory_bytes() if memory_bytes is None else memory_bytes
        self._memory_bytes = 2**50 if installed_bytes is None else installed_bytes  # unknown: enough
        self._lock = threading.Lock()
        self._started_s: dict[str, float] = {}
        self._rows: list[ModelEntry] = []
        self._is_stale = True

    def entries(self) -> list[ModelEntry]:
        """All rows: local models in the catalog's order, then those of the cloud.

        Read from disk when something may have changed there, else only running downloads are asked.
        """
        with self._lock:
            is_stale, self._is_stale = self._is_stale, False
        self._rows = self._read() if is_stale else self._refreshed()
        return self._rows

    def _read(self) -> list[ModelEntry]:
        registry = self._session.registry
        problem = self._local_problem()
        # Other engines may need an environment of their own; the picker shows what runs at a click.
        infos = [i for i in registry.available_models if i.kind == "model" and i.engine == "mlx"]
        local = [self._local_entry(registry.find(info.id), problem) for info in infos]
        return [*local, *self._cloud_entries()]

    def _refreshed(self) -> list[ModelEntry]:
        downloads = {d.job.model_id: d for d in self._session.downloader.active_downloads}
        return [
            self._with_progress(row, downloads[row["id"]]) if row["id"] in downloads else row
            for row in self._rows
        ]

    def download(self, model_id: str) -> None:
        """Starts a download or joins the running one; returns at once."""
        try:
            download = self._session.downloader.start(model_id)
        except AIError as error:
            self._on_error(error)
            return
        with self._lock:
            self._started_s.setdefault(model_id, time.monotonic())
        download.subscribe(lambda _download: self._changed())
        download.add_done_callback(lambda _download: self._ended(model_id, download))
        self._reread()

    def cancel_download(self, model_id: str) -> None:
        """Ends a running download; what came is kept."""
        self._session.downloader.cancel_download(model_id)

    def delete(self, model_id: str) -> None:
        """Deletes a model's files."""
        import asyncio

        try:
            asyncio.run(self._session.downloader.delete_model(model_id))
        except AIError as error:
            self._on_error(error)
        self._reread()

    def _reread(self) -> None:
        with self._lock:
            self._is_stale = True
        self._changed()

    def _ended(self, model_id: str, download: Any) -> None:
        with self._lock:
            self._started_s.pop(model_id, None)
        self._reread()
        try:
            download.result()
        except DownloadCancelledError:
            return
        except AIError as error:
            self._on_error(error)

    def _local_problem(self) -> str:
        try:
            is_available = self._session.generator("local").is_available
        except (AIError, ImportError) as error:
            return str(getattr(error, "hint", None) or error)
        return "" if is_available else "the local engine needs Apple silicon, or Linux on x86-64 or arm64"

    def _local_entry(self, info: DiffusionModelInfo, problem: str) -> ModelEntry:
        is_here = self._session.registry.is_downloaded(info.id)
        state, text, how = self._state_of(info, is_here, problem)
        row: ModelEntry = {
            "id": info.id,
            "engine": "local",
            "name": info.name,
            "description": info.description,
            "size_bytes": info.size_bytes,
            "license": info.license,
            "state": state,
            "state_text": text,
            "how": how,
            "width": info.default_width,
            "height": info.default_height,
            "steps": info.default_steps,
            "guidance_scale": info.default_guidance_scale,
            "display_scale": info.display_scale,
            "uses_negative_prompt": info.default_guidance_scale > 1,
            "can_delete": is_here and info.is_downloadable,
            "free_disk_bytes": _free_bytes(self._session.registry.cache_dir),
            "done_bytes": 0,
            "total_bytes": info.size_bytes,
            "bytes_per_s": 0.0,
            "remaining_s": None,
            "elapsed_s": 0.0,
            "examples": list(MINI_EXAMPLES if info.bundled else EXAMPLES),
        }
        download = self._session.downloader.active_download(info.id)
        return row if download is None else self._with_progress(row, download)

    def _state_of(self, info: DiffusionModelInfo, is_here: bool, problem: str) -> tuple[ModelState, str, str]:
        if problem:
            return "unavailable", "cannot run here", problem
        if info.min_memory_bytes > self._memory_bytes:
            needs, has = round(info.min_memory_bytes / GB), round(self._memory_bytes / 2**30)
            how = "choose a smaller model, or one of the cloud"
            return "too_large", f"needs {needs} GB, this machine has {has}", how
        if is_here:
            return "ready", "ready", ""
        gate = "" if info.gated is None else f" {info.gated}"
        words = f"License {info.license}: {info.license_summary}." if info.license_summary else ""
        return "download", f"download {info.formatted_size}", f"{words}{gate}".strip()

    def _with_progress(self, row: ModelEntry, download: Any) -> ModelEntry:
        progress = download.progress
        with self._lock:
            started_s = self._started_s.setdefault(row["id"], time.monotonic())
        return {
            **row,
            "state": "downloading",
            "state_text": progress.phase,
            "done_bytes": progress.completed_bytes,
            "total_bytes": progress.total_bytes or row["size_bytes"],
            "bytes_per_s": round(progress.bytes_per_s),
            "remaining_s": None if progress.eta_s is None else round(progress.eta_s, 1),
            "elapsed_s": round(time.monotonic() - started_s, 1),
        }

    def _cloud_entries(self) -> list[ModelEntry]:
        try:
            has_token = self._session.generator("cloud").is_available
        except (AIError, ImportError):
            return []
        state: ModelState = "cloud" if has_token else "cloud_missing"
        text = "cloud" if has_token else "cloud, needs a token"
        how = "" if has_token else _how_to_give_a_token()
        return [
            {
                "id": repository,
                "engine": "cloud",
                "name": name,
                "description": f"{description}; runs at a provider, which bills for it",
                "size_bytes": 0,
                "license": "",
                "state": state,
                "state_text": text,
                "how": how,
                "width": side,
                "height": side,
                "steps": steps,
                "guidance_scale": guidance_scale,
                "display_scale": 1,
                "uses_negative_prompt": guidance_scale > 1,
                "can_delete": False,
                "free_disk_bytes": 0,
                "done_bytes": 0,
                "total_bytes": 0,
                "bytes_per_s": 0.0,
                "remaining_s": None,
                "elapsed_s": 0.0,
                "examples": list(EXAMPLES),
            }
            for repository, name, description, side, steps, guidance_scale in CLOUD_MODELS
        ]


def _free_bytes(folder: Path) -> int:
    for place in (folder, *folder.parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return 0


def _how_to_give_a_token() -> str:
    from swiftai_nb.providers.huggingface.hub import token_help

    words = token_help()
    return f"{words[:1].upper()}{words[1:]}."
