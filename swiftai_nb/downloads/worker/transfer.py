"""Fetches one file into the cache: over HTTP, or through Xet what plain HTTP refuses.

Our own HTTP transfer resumes at the byte and verifies each file while it is received; huggingface_hub starts
a file again after an interruption.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from swiftai_nb.core.errors import ChecksumMismatchError
from swiftai_nb.downloads.cache_files import hash_stream, hold_lock, matches_checksum, new_hash
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.cache_writer import CacheWriter
from swiftai_nb.downloads.worker.errors import StoppedError, hub_utils, status_of, with_retries
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, file_url
from swiftai_nb.downloads.worker.reporter import ProgressMeter
from swiftai_nb.registry.model_info import ModelFile


@dataclass(frozen=True)
class TransferContext:
    """What all files of one download share; `client` is an httpx client."""

    job: DownloadJob
    plan: DownloadPlan
    writer: CacheWriter
    meter: ProgressMeter
    client: Any
    stop: threading.Event


class _WrongBytesError(ConnectionError):
    """The bytes do not have the published checksum; worth one fresh start."""


class _ShortBodyError(ConnectionError):
    """The server ended the body early without an error."""


def fetch_file(file: ModelFile, context: TransferContext) -> None:
    """Fetches one file unless it is complete; holds its blob's lock meanwhile.

    Raises:
        ChecksumMismatchError: the bytes were wrong twice; they are deleted.
        Exception: network and disk failures, untranslated.
    """
    writer, meter, transport = context.writer, context.meter, context.job.options.transport
    waiting = meter.local_work("waiting", "another program is downloading it")
    with hold_lock(writer.blob_lock_path(file), busy=waiting):
        if writer.is_finished(file):
            meter.set_bytes(file.path, file.size_bytes or 0, is_finished=True)
            return
        if transport == "xet" and _can_use_xet(file):
            _fetch_with_hub(file, context)
            return
        try:
            _HttpTransfer(file, context).run()
        except Exception as error:
            if transport != "auto" or not _may_xet_help(error, file, context):
                raise
            writer.partial(file).unlink(missing_ok=True)
            _fetch_with_hub(file, context)


def _may_xet_help(error: Exception, file: ModelFile, context: TransferContext) -> bool:
    """A file that plain HTTP refuses though its repository is open may still be available through Xet."""
    refused = status_of(error) in (403, 404, 410, 500, 501, 502)
    return refused and not context.plan.is_gated and _can_use_xet(file)


def _can_use_xet(file: ModelFile) -> bool:
    """Whether hf_xet is installed and the file is large enough to be stored there."""
    return len(file.oid or "") == 64 and importlib.util.find_spec("hf_xet") is not None


class _HttpTransfer:
    """One file over HTTP, with resume.

    Args:
        file: with size and checksum.
        context: what it shares with the others.
    """

    def __init__(self, file: ModelFile, context: TransferContext) -> None:
        self._file = file
        self._context = context
        self._partial = context.writer.prepare_partial(file)
        self._digest: Any | None = None
        self._hashed_bytes = 0
        self._mismatches = 0

    def run(self) -> None:
        """Fetches what is missing and puts the verified file in its place."""
        context = self._context
        options, meter, stop = context.job.options, context.meter, context.stop
        with_retries(self._attempt, options=options, meter=meter, stop=stop, measure=self._size_bytes)
        with meter.local_work("checking", f"writing {self._file.path}"):
            context.writer.finish(self._file)
        meter.set_bytes(self._file.path, self._hashed_bytes, is_finished=True)

    def _size_bytes(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0

    def _attempt(self) -> None:
        if self._file.size_bytes is not None and self._size_bytes() > self._file.size_bytes:
            self._start_again()
        self._catch_up()
        if self._file.size_bytes == 0:
            self._partial.touch()
        elif self._hashed_bytes != self._file.size_bytes:
            self._receive()
        self._check()

    def _catch_up(self) -> None:
        """Hashes the bytes of an earlier run, once, so that the whole file can be verified."""
        meter = self._context.meter
        if self._hashed_bytes == 0:
            self._digest = new_hash(self._file)
            if self._size_bytes() > 0:
                with (
                    meter.local_work("checking", f"the downloaded part of {self._file.path}"),
                    self._partial.open("rb") as stream,
                ):
                    self._hashed_bytes = hash_stream(stream, self._digest)
        meter.set_bytes(self._file.path, self._hashed_bytes)

    def _receive(self) -> None:
        with self._open_response() as response, self._partial.open("ab") as stream:
            if self._hashed_bytes > 0 and not _continues_at(
                response, self._hashed_bytes, self._file.size_bytes
            ):
                self._start_again(stream)
            for chunk in response.iter_bytes():
                stream.write(chunk)
                stream.flush()  # a killed process then loses nothing it received
                self._hashed_bytes += len(chunk)
                if self._digest is not None:
                    self._digest.update(chunk)
                self._context.meter.add_received(self._file.path, len(chunk))
                if self._context.stop.is_set():
                    raise StoppedError
                if self._file.size_bytes is not None and self._hashed_bytes > self._file.size_bytes:
                    break

    @contextmanager
    def _open_response(self) -> Iterator[Any]:
        job, plan = self._context.job, self._context.plan
        url = file_url(job, plan.repository, commit=plan.commit, path=self._file.path)
        headers = hub_utils().build_hf_headers(token=job.token, library_name="swiftai_nb")
        headers["Accept-Encoding"] = "identity"
        if self._hashed_bytes > 0:
            headers["Range"] = f"bytes={self._hashed_bytes}-"
        with self._context.client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                self._start_again()
                raise _ShortBodyError("the server cannot resume this file")
            if response.status_code >= 400:
                response.read()
                hub_utils().hf_raise_for_status(response)
            yield response

    def _check(self) -> None:
        wanted = self._file.size_bytes
        if wanted is not None and self._hashed_bytes < wanted:
            raise _ShortBodyError("the body ended early")
        wrong_size = wanted is not None and self._hashed_bytes != wanted
        if not wrong_size and (self._digest is None or self._digest.hexdigest() == self._file.oid):
            return
        self._start_again()
        self._mismatches += 1
        if self._mismatches < 2:
            raise _WrongBytesError("wrong checksum")
        raise _checksum_error(self._file, self._context.plan.repository)

    def _start_again(self, stream: BinaryIO | None = None) -> None:
        """Discards the downloaded part: it is wrong, or the server does not resume it."""
        if stream is not None:
            stream.truncate(0)
        else:
            self._partial.unlink(missing_ok=True)
        self._digest = new_hash(self._file)
        self._hashed_bytes = 0
        self._context.meter.set_bytes(self._file.path, 0)


def _continues_at(response: Any, offset: int, size_bytes: int | None) -> bool:
    """Whether the server really resumes at `offset`, in a file of this size."""
    if response.status_code != 206 or response.headers.get("Content-Encoding", "identity") != "identity":
        return False
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset:
        return False
    return match[2] == "*" or size_bytes is None or int(match[2]) == size_bytes


def _fetch_with_hub(file: ModelFile, context: TransferContext) -> None:
    """Lets huggingface_hub fetch the file (it chooses Xet or HTTP) into a scratch folder, then verifies it.

    The scratch folder keeps its temporary files apart from those of other programs in the shared cache.
    """
    job, plan, meter, writer = context.job, context.plan, context.meter, context.writer
    scratch = writer.xet_scratch(file)

    def download() -> Path:
        from huggingface_hub import hf_hub_download

        shutil.rmtree(scratch, ignore_errors=True)
        return Path(
            hf_hub_download(
                plan.repository,
                file.path,
                revision=plan.commit,
                local_dir=scratch,
                endpoint=job.endpoint,
                token=job.token,
                tqdm_class=_bar_class(file.path, meter),
            )
        )

    try:
        path = with_retries(download, options=job.options, meter=meter, stop=context.stop)
        with meter.local_work("checking", file.path):
            is_right, size_bytes = matches_checksum(path, file)
            if not is_right:
                writer.drop(file)
                raise _checksum_error(file, plan.repository)
            writer.finish(file, path)
        meter.set_bytes(file.path, size_bytes, is_finished=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _bar_class(path: str, meter: ProgressMeter) -> Any:
    """A progress bar class for huggingface_hub that draws nothing and counts received bytes.

    huggingface_hub may make several bars for one file (network and disk); the furthest one counts.
    """
    furthest_bytes = 0

    class CountingBar(hub_utils().tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.counts_bytes = options.get("unit", "B") == "B"
            self.bytes = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest_bytes
            self.bytes += int(n or 0)
            if self.counts_bytes and self.bytes > furthest_bytes:
                meter.add_received(path, self.bytes - furthest_bytes)
                furthest_bytes = self.bytes

    return CountingBar


def _checksum_error(file: ModelFile, repository: str) -> ChecksumMismatchError:
    return ChecksumMismatchError(
        f"{file.path} of {repository} arrived with a wrong checksum and was deleted",
        hint="try again later or from another network; a proxy may alter files",
    )
