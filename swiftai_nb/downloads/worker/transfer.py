"""Fetches one file over HTTP into the cache: continues at the byte, hashes as it goes, trusts no server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from swiftai_nb.core.errors import ChecksumMismatchError
from swiftai_nb.downloads.progress import ProgressMeter
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.cache_writer import CacheWriter, hash_stream, new_hash
from swiftai_nb.downloads.worker.hub_errors import hub_utils
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, file_url
from swiftai_nb.downloads.worker.retries import StoppedError, with_retries
from swiftai_nb.registry.model_info import ModelFile


@dataclass(frozen=True)
class TransferContext:
    """What all files of one download share."""

    job: DownloadJob
    plan: DownloadPlan
    writer: CacheWriter
    meter: ProgressMeter
    client: Any
    stop: threading.Event


class _WrongBytesError(ConnectionError):
    """The bytes do not have the announced hash; worth one fresh start."""


class _ShortBodyError(ConnectionError):
    """The server ended the body early without saying so."""


class FileTransfer:
    """One file on its way.

    Args:
        file: with size and hash.
        context: what it shares with the others.
    """

    def __init__(self, file: ModelFile, context: TransferContext) -> None:
        self._file = file
        self._context = context
        self._partial = context.writer.partial(file)
        self._digest: Any | None = None
        self._hashed_bytes = 0
        self._mismatches = 0

    def run(self) -> None:
        """Fetches what is missing and puts the verified file in its place. Holds the blob's lock throughout.

        Raises:
            ChecksumMismatchError: the bytes were wrong twice; they are deleted.
            Exception: network and disk failures, untranslated.
        """
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        context = self._context
        options, meter, stop = context.job.options, context.meter, context.stop
        with_retries(self._attempt, options=options, meter=meter, stop=stop, measure=self._size_bytes)
        context.writer.finish(self._file)
        meter.set_bytes(self._file.path, self._size_of_target(), is_finished=True)

    def _size_bytes(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0

    def _size_of_target(self) -> int:
        return self._context.writer.pointer(self._file).stat().st_size

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
        """Hashes the bytes of an earlier run, once, so that the end can be verified."""
        if self._hashed_bytes == 0:
            self._digest = new_hash(self._file)
            if self._size_bytes() > 0:
                self._context.meter.set_phase("checking", f"what is here of {self._file.path}")
                with self._partial.open("rb") as stream:
                    self._hashed_bytes = hash_stream(stream, self._digest)
        self._context.meter.set_bytes(self._file.path, self._hashed_bytes)

    def _receive(self) -> None:
        with self._open_response() as response, self._partial.open("ab") as stream:
            if self._hashed_bytes > 0 and not _continues_at(
                response, self._hashed_bytes, self._file.size_bytes
            ):
                self._start_again(stream)
            for chunk in response.iter_bytes():
                stream.write(chunk)
                stream.flush()  # an ended process then loses nothing that came
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
                raise _ShortBodyError("the server cannot continue this file")
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
            raise _WrongBytesError("the bytes do not have the announced hash")
        raise checksum_error(self._file, self._context.plan.repository)

    def _start_again(self, stream: BinaryIO | None = None) -> None:
        """Throws away what is here: it is wrong, or the server will not continue it."""
        if stream is not None:
            stream.truncate(0)
        else:
            self._partial.unlink(missing_ok=True)
        self._digest = new_hash(self._file)
        self._hashed_bytes = 0
        self._context.meter.set_bytes(self._file.path, 0)


def checksum_error(file: ModelFile, repository: str) -> ChecksumMismatchError:
    """The error for bytes that are not what their publisher announced."""
    return ChecksumMismatchError(
        f"{file.path} of {repository} came with wrong bytes twice and was deleted",
        hint="try again later or from another network; a proxy may alter files",
    )


def _continues_at(response: Any, offset: int, size_bytes: int | None) -> bool:
    """Whether the server really sends from `offset` on, of a file of this size."""
    if response.status_code != 206 or response.headers.get("Content-Encoding", "identity") != "identity":
        return False
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset:
        return False
    return match[2] == "*" or size_bytes is None or int(match[2]) == size_bytes
