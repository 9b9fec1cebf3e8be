"""What a download child and its kernel say to each other: one job line in, JSON lines out.

The job goes to the child's standard input, so a token never stands in a command line. The child ends when
that input closes, which the system does when the kernel dies.

Lines out, by their "event":
    plan      repository, commit, total_bytes, files: what will be there when it is done
    progress  the fields of `DownloadProgress` but for `model_id`
    done      folder, repository, commit
    error     error: an `AIError.to_dict()`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from swiftai_nb.registry.model_info import ModelFile


@dataclass(frozen=True)
class DownloadOptions:
    """How patient and how greedy a download is.

    Args:
        connections: files fetched at the same time.
        timeout_s: longest silence of the server before a try counts as failed.
        max_attempts: failed tries in a row, without one new byte, before giving up.
        backoff_s: wait after the first failed try; doubles up to 20 s. Retry-After goes first.
        max_retry_after_s: a server asking for a longer wait than this ends the download with an error.
        transport: "http" (resumes at the byte), "xet" (files kept in Xet storage go through hf_xet, which
            starts a file again), or "auto": http, and xet only for a file that http will not give.
    """

    connections: int = 3
    timeout_s: float = 10.0
    max_attempts: int = 5
    backoff_s: float = 1.0
    max_retry_after_s: float = 120.0
    transport: str = "auto"


@dataclass(frozen=True)
class DownloadJob:
    """All a child needs to know.

    Args:
        model_id: for messages.
        repositories: tried in order; the later ones only when an earlier one is gone.
        revision: commit, branch or tag; None is main.
        files: what to fetch; empty takes what `select_files` picks from the listing.
        cache_dir: the Hugging Face cache, absolute.
        endpoint: another Hub; None is huggingface_hub's own choice (HF_ENDPOINT).
        token: None lets huggingface_hub find the user's.
        kind: "model" or "lora"; decides which files are meant when none are named.
        is_own_choice: the user named the repository; decides how "not found" is worded.
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
