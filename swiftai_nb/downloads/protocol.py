"""The messages between a download worker and its kernel: one job line in, JSON lines out.

The job goes to the worker's standard input, so a token never appears in a command line. The worker ends
when that input closes, which the system does when the kernel dies.

Lines out, by their "event":
    plan      repository, commit, total_bytes, files: what will be on disk when it is done
    progress  the fields of `DownloadProgress` except `model_id`
    done      folder, repository, commit
    error     error: an `AIError.to_dict()`
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from swiftai_nb.registry.model_info import ModelFile

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}|Bearer\s+\S+")


@dataclass(frozen=True)
class DownloadOptions:
    """Timeouts, retries and parallelism of a download.

    Args:
        connections: files fetched at the same time.
        timeout_s: seconds without a byte from the server after which an attempt has failed.
        max_attempts: failed attempts in a row, without one new byte, before giving up.
        backoff_s: pause after the first failed attempt; doubles up to 20 s. Retry-After takes precedence.
        max_retry_after_s: a server that asks for a longer pause than this ends the download with an error.
        min_bytes_per_s: a download slower than this ...
        slow_timeout_s: ... for so many seconds ends with an error, even while single bytes still arrive.
        transport: "http" (resumes at the byte), "xet" (files in Xet storage are fetched with hf_xet, which
            starts a file again), or "auto": http, and xet only for a file that http refuses.
    """

    connections: int = 3
    timeout_s: float = 10.0
    max_attempts: int = 5
    backoff_s: float = 1.0
    max_retry_after_s: float = 120.0
    min_bytes_per_s: float = 1000.0
    slow_timeout_s: float = 60.0
    transport: str = "auto"


@dataclass(frozen=True)
class DownloadJob:
    """What the worker has to do.

    Args:
        model_id: for messages.
        repositories: tried in order; a later one only when the earlier ones no longer exist.
        revision: commit, branch or tag; None is main.
        files: what to fetch; empty selects from the listing by `select_files` or `select_lora`.
        cache_dir: absolute path of the Hugging Face cache.
        endpoint: another Hub; None is huggingface_hub's own choice (HF_ENDPOINT).
        token: None lets huggingface_hub find the user's.
        kind: "model" or "lora"; decides which files are selected when none are named.
        is_own_choice: the user named the repository; decides the wording of "not found".
        options: see `DownloadOptions`.
    """

    model_id: str
    repositories: tuple[str, ...]
    cache_dir: str
    revision: str | None = None
    files: tuple[ModelFile, ...] = ()
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    is_own_choice: bool = False
    kind: str = "model"
    options: DownloadOptions = DownloadOptions()

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def job_from_line(line: str) -> DownloadJob:
    """Reads `DownloadJob.to_line`."""
    data: dict[str, Any] = json.loads(line)
    data["repositories"] = tuple(data["repositories"])
    data["files"] = tuple(ModelFile(**f) for f in data["files"])
    data["options"] = DownloadOptions(**data["options"])
    return DownloadJob(**data)


def redact(text: str, token: str | None = None) -> str:
    """The text without anything that looks like a token."""
    if token:
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)
