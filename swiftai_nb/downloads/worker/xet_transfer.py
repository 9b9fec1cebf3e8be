"""Fetches one file with huggingface_hub itself: the way to files in Xet storage.

hf_xet fetches in parallel and reuses chunks, but starts a file again after an interruption; a killed child
leaves a temporary file that `drop_abandoned_partials` removes.
"""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

from swiftai_nb.downloads.progress import ProgressMeter
from swiftai_nb.downloads.worker.cache_writer import hash_stream, new_hash
from swiftai_nb.downloads.worker.retries import with_retries
from swiftai_nb.downloads.worker.transfer import TransferContext, checksum_error
from swiftai_nb.registry.model_info import ModelFile


def can_use_xet(file: ModelFile) -> bool:
    """Whether hf_xet is installed and the file is large enough to be stored there."""
    return len(file.oid or "") == 64 and importlib.util.find_spec("hf_xet") is not None


def fetch_with_hub(file: ModelFile, context: TransferContext) -> None:
    """Lets huggingface_hub fetch the file (it chooses Xet or HTTP), then verifies it.

    The blob's lock must be free: huggingface_hub takes it.

    Raises:
        ChecksumMismatchError: the bytes are wrong; they are deleted.
        Exception: network and disk failures, untranslated.
    """
    job, plan = context.job, context.plan

    def download() -> str:
        from huggingface_hub import hf_hub_download

        bar = _bar_class(file.path, context.meter)
        common: dict[str, Any] = {"cache_dir": job.cache_dir, "endpoint": job.endpoint, "token": job.token}
        return str(
            hf_hub_download(plan.repository, file.path, revision=plan.commit, tqdm_class=bar, **common)
        )

    path = with_retries(download, options=job.options, meter=context.meter, stop=context.stop)
    digest = new_hash(file)
    with Path(path).open("rb") as stream:
        size_bytes = hash_stream(stream, digest)
    if size_bytes != file.size_bytes or (digest is not None and digest.hexdigest() != file.oid):
        context.writer.drop(file)
        raise checksum_error(file, plan.repository)
    context.meter.set_bytes(file.path, size_bytes, is_finished=True)


def _bar_class(path: str, meter: ProgressMeter) -> type:
    """A look-alike of tqdm that counts bytes for us and draws nothing.

    huggingface_hub may make several bars for one file (network and disk); the furthest one is shown.
    """
    furthest = {"bytes": 0}

    class Bar:
        _lock = threading.RLock()

        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **options: Any) -> None:
            self.n = initial
            self.total = total
            self.counts_bytes = options.get("unit", "B") == "B"
            self.format_dict = {"rate": None}
            self.disable = False

        @classmethod
        def get_lock(cls) -> threading.RLock:
            return cls._lock

        @classmethod
        def set_lock(cls, lock: Any) -> None:
            cls._lock = lock

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            ahead = int(self.n) - furthest["bytes"]
            if self.counts_bytes and ahead > 0:
                furthest["bytes"] = int(self.n)
                meter.add_received(path, ahead)

        def refresh(self, *_: Any, **__: Any) -> None: ...

        reset = close = clear = set_description = set_description_str = refresh
        set_postfix = set_postfix_str = display = unpause = refresh

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def __iter__(self) -> Any:
            return iter(())

    return Bar
