"""Downloads models into the Hugging Face cache: one download per model, cancellable and resumable."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.errors import DownloadFailedError, InvalidInputError, ModelNotFoundError, NetworkError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.downloads.cache_files import check_revision
from swiftai_nb.downloads.deletion import delete_files
from swiftai_nb.downloads.download import Download
from swiftai_nb.downloads.progress import DownloadProgress, SpeedRecorder
from swiftai_nb.downloads.protocol import DownloadJob, DownloadOptions
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.entries import is_repository_id, repository_info
from swiftai_nb.registry.hub_cache import DiskState, is_offline
from swiftai_nb.registry.loras import KIND as LORA_KIND
from swiftai_nb.registry.loras import find_lora, lora_info
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile
from swiftai_nb.registry.registry import DiffusionModelRegistry

ProgressHandler = Callable[[DownloadProgress], object]

__all__ = ["DiffusionModelDownloader", "Download", "DownloadOptions", "DownloadProgress"]


class DiffusionModelDownloader:
    """Downloads, cancels and deletes models.

    Args:
        registry: None is `DiffusionModelRegistry.shared`.
        endpoint: address of another Hub; None is huggingface_hub's own choice.
        token: None lets huggingface_hub find the user's.
        options: timeouts, retries and parallelism.
    """

    def __init__(
        self,
        *,
        registry: DiffusionModelRegistry | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        options: DownloadOptions | None = None,
    ) -> None:
        self.registry = DiffusionModelRegistry.shared if registry is None else registry
        self._endpoint = endpoint
        self._token = None if token is None else token.strip()
        self._options = DownloadOptions() if options is None else options
        self._lock = threading.Lock()
        self._active: dict[str, Download] = {}
        self._waiters: dict[str, int] = {}

    async def download(
        self,
        model_id: str,
        variant: DiffusionVariant | str | None = None,
        progress_handler: ProgressHandler | None = None,
    ) -> Path:
        """Downloads what is missing of a model; returns its folder.

        Args:
            model_id: catalog id, alias, a user entry, or any Hub repository (then `variant` is needed).
            variant: family of a repository that is not in the catalog; it is then registered.
            progress_handler: called on this event loop, several times a second; never goes backwards.

        Raises:
            DownloadCancelledError: `cancel_download` was called.
            InsufficientDiskSpaceError: the disk has no room; nothing was fetched.
            ModelNotFoundError, AuthenticationError, RateLimitedError, ServerError, NetworkError,
            ChecksumMismatchError, DownloadFailedError: each with a remedy.
        """
        info = self._info(model_id, variant)
        for part in self.registry.missing_parts(info):
            await self.download(part.id, None, progress_handler)
        folder = self.registry.local_path(info.id)
        if folder is not None:
            if progress_handler is not None:
                size_bytes = max(1, info.size_bytes)
                progress_handler(
                    DownloadProgress(info.id, "done", size_bytes, size_bytes, detail=str(folder))
                )
            return folder
        download = self.start(model_id, variant)
        unsubscribe = download.subscribe(_on_loop(asyncio.get_running_loop(), progress_handler))
        try:
            return await download
        except asyncio.CancelledError:
            await asyncio.to_thread(self._leave, info.id, download)
            raise
        finally:
            unsubscribe()

    def start(self, model_id: str, variant: DiffusionVariant | str | None = None) -> Download:
        """Starts a download, or returns the one that is running.

        Of a model that lacks only parts it shares with others, the first of these is downloaded.
        `start_missing` downloads all.

        Raises:
            ModelNotFoundError, InvalidInputError: before anything is fetched.
            NetworkError: offline mode is on and the model is not complete.
        """
        return self._start(self._next_missing(self._info(model_id, variant)))

    def start_lora(self, source: str) -> Download:
        """Starts the download of a LoRA; see `start`. Afterwards `loras.find_lora` gives its file.

        Args:
            source: "owner/name", or "owner/name/file.safetensors" where a repository holds several.

        Raises:
            ModelNotFoundError, InvalidInputError: not a LoRA's name.
            NetworkError: offline mode is on.
        """
        return self._start(lora_info(self.registry, source))

    async def download_lora(self, source: str, progress_handler: ProgressHandler | None = None) -> Path:
        """Downloads a LoRA unless it is on this disk; returns its file.

        Args:
            source: a path, or as `start_lora`.
            progress_handler: as in `download`.

        Raises:
            AIError: as `download`; InvalidInputError names the files of a repository with several LoRAs.
        """
        found = find_lora(self.registry, source)
        if found is None:
            download = self.start_lora(source)
            unsubscribe = download.subscribe(_on_loop(asyncio.get_running_loop(), progress_handler))
            try:
                await download
            finally:
                unsubscribe()
            found = find_lora(self.registry, source)
        if found is None:
            raise DownloadFailedError(f"the download of {source} contained no LoRA", hint="name its file")
        return found

    def _start(self, info: DiffusionModelInfo) -> Download:
        _check_downloadable(info)
        if is_offline() and self.registry.disk_status(info).state is not DiskState.COMPLETE:
            raise _offline(info, self.registry)
        with self._lock:
            running = self._active.get(info.id)
            if running is None or running.done:
                running = Download(self._job(info), on_plan=self._plan_recorder(info))
                recorder = SpeedRecorder(self.registry.user_config)
                running.subscribe(lambda download: recorder.note(download.progress))
                running.add_done_callback(lambda _download: recorder.save())
                self._active[info.id] = running
                self._waiters[info.id] = 0
            self._waiters[info.id] += 1
            return running

    def start_missing(
        self, model_id: str, variant: DiffusionVariant | str | None = None
    ) -> Iterator[Download]:
        """The downloads of a model and all its missing parts, to be waited for one after another.

        Raises:
            AIError: as `start`.
        """
        yield self.start(model_id, variant)
        info = self._info(model_id, variant)
        for part in self.registry.missing_parts(info):
            yield self.start(part.id)

    def _next_missing(self, info: DiffusionModelInfo) -> DiffusionModelInfo:
        parts = self.registry.missing_parts(info)
        own = replace(info, requires=())
        return parts[0] if parts and self.registry.disk_status(own).state is DiskState.COMPLETE else info

    def cancel_download(self, model_id: str) -> bool:
        """Ends a running download within half a second, for all callers; returns whether one was running.

        What was received is kept, and the next download resumes it.
        """
        download = self.active_download(model_id)
        if download is None:
            return False
        download.cancel()
        return True

    def active_download(self, model_id: str) -> Download | None:
        """The running download of a model or of a part it requires, or None."""
        names: tuple[str, ...] = (model_id,)
        with contextlib.suppress(ModelNotFoundError):
            info = self.registry.find(model_id)
            names = (info.id, *info.requires)
        with self._lock:
            found = [self._active[name] for name in names if name in self._active]
        return next((download for download in found if not download.done), None)

    @property
    def active_downloads(self) -> tuple[Download, ...]:
        """The running downloads of this process."""
        with self._lock:
            return tuple(d for d in self._active.values() if not d.done)

    async def delete_model(self, model_id: str) -> int:
        """Deletes a model's files from the cache; returns the bytes that were freed.

        Files shared with other tools' snapshots stay. A user's own folder is only unregistered.

        Raises:
            ModelNotFoundError: unknown name.
            InvalidInputError: a bundled model.
            DownloadFailedError: another process is downloading it.
        """
        self.cancel_download(model_id)
        return await asyncio.to_thread(delete_files, self.registry, model_id)

    def _leave(self, name: str, download: Download) -> None:
        with self._lock:
            self._waiters[name] -= 1
            is_last = self._waiters[name] <= 0
        if is_last:
            download.cancel()

    def _info(self, model_id: str, variant: DiffusionVariant | str | None) -> DiffusionModelInfo:
        try:
            return self.registry.find(model_id)
        except ModelNotFoundError:
            if not is_repository_id(model_id):
                raise
            if variant is None:
                raise InvalidInputError(
                    f"{model_id} is not in the catalog, so its family must be given",
                    hint=f"variant= one of {', '.join(v.value for v in DiffusionVariant)}",
                ) from None
        return repository_info(model_id, variant=parse_variant(variant))

    def _job(self, info: DiffusionModelInfo) -> DownloadJob:
        return DownloadJob(
            model_id=info.id,
            repositories=tuple(r for r in (info.repository, *info.fallback_repositories) if r is not None),
            cache_dir=str(self.registry.cache_dir),
            revision=check_revision(info.revision),
            files=info.files,
            endpoint=self._endpoint,
            token=self._token,
            is_own_choice=info.is_custom,
            kind=info.kind,
            options=self._options,
        )

    def _plan_recorder(self, info: DiffusionModelInfo) -> Callable[[str, str, list[ModelFile]], None]:
        def record(repository: str, commit: str, files: list[ModelFile]) -> None:
            self.registry.user_config.record_manifest(repository, commit, files)
            if info.is_custom:
                total = sum(f.size_bytes or 0 for f in files)
                chosen = tuple(files) if info.kind == LORA_KIND else info.files
                self.registry.add_custom(replace(info, size_bytes=total, files=chosen))

        return record


def parse_variant(variant: DiffusionVariant | str) -> DiffusionVariant:
    """A variant from its name.

    Raises:
        InvalidInputError: no such family; lists them.
    """
    try:
        return DiffusionVariant(variant)
    except ValueError:
        listed = ", ".join(v.value for v in DiffusionVariant)
        raise InvalidInputError(f"variant {variant!r} is not one of {listed}", hint=f"use {listed}") from None


def _check_downloadable(info: DiffusionModelInfo) -> None:
    if not info.is_downloadable:
        why = "ships with the package" if info.bundled else f"is your own folder, {info.local_folder}"
        raise InvalidInputError(f"{info.id} {why}: there is nothing to download")


def _offline(info: DiffusionModelInfo, registry: DiffusionModelRegistry) -> NetworkError:
    found = registry.disk_status(info)
    part = f" ({format_bytes(found.size_bytes)} are downloaded)" if found.state is DiskState.PARTIAL else ""
    is_lora = info.kind == LORA_KIND
    instead = "the path of a LoRA file" if is_lora else "an installed model: %imagine_models list"
    return NetworkError(
        f"{info.id} is not downloaded{part} and offline mode is on (HF_HUB_OFFLINE)",
        hint=f"unset HF_HUB_OFFLINE, or use {instead}",
    )


def _on_loop(
    loop: asyncio.AbstractEventLoop, handler: ProgressHandler | None
) -> Callable[[Download], object]:
    """A subscriber that calls `handler` on an event loop with every progress."""

    def relay(download: Download) -> None:
        if handler is not None:
            with contextlib.suppress(RuntimeError):  # closed while the download goes on for another caller
                loop.call_soon_threadsafe(handler, download.progress)

    return relay
