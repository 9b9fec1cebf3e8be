"""Compares the catalog with the live Hub: for maintainers, with a connection.

Written and tested against a local server only; nobody has run it against huggingface.co yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swiftai_nb.core.errors import AIError
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.hub_errors import translate
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, fetch_listing
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile, format_bytes

_ROUNDING = 0.02


@dataclass(frozen=True)
class HubCheck:
    """One entry against one repository.

    Args:
        model_id: the entry.
        repository: what was asked.
        differences: sentences; empty when the table is right.
        commit: the commit that answered, to be pinned; None when none did.
        size_bytes: what a download would fetch; 0 when unknown.
        files: as the Hub announces them.
    """

    model_id: str
    repository: str
    differences: tuple[str, ...] = ()
    commit: str | None = None
    size_bytes: int = 0
    files: tuple[ModelFile, ...] = field(default=(), repr=False)

    @property
    def is_good(self) -> bool:
        """Whether the table is right."""
        return not self.differences

    def __str__(self) -> str:
        found = "" if self.commit is None else f"  {format_bytes(self.size_bytes)} at {self.commit}"
        head = f"{'ok  ' if self.is_good else 'DIFF'}  {self.model_id}  {self.repository}{found}"
        return "\n".join([head, *(f"        {line}" for line in self.differences)])


def check_catalog(
    entries: Iterable[DiffusionModelInfo],
    *,
    endpoint: str | None = None,
    token: str | None = None,
    on_check: Callable[[HubCheck], None] = lambda _check: None,
) -> list[HubCheck]:
    """Asks the Hub about every repository of every entry, copies included.

    Args:
        entries: of the catalog.
        endpoint: another Hub.
        token: None lets huggingface_hub find the user's.
        on_check: told every result as it comes.
    """
    checks: list[HubCheck] = []
    for info in entries:
        for repository in (info.repository, *info.fallback_repositories):
            if repository is not None:
                checks.append(_check(info, repository, endpoint=endpoint, token=token))
                on_check(checks[-1])
    return checks


def _check(info: DiffusionModelInfo, repository: str, *, endpoint: str | None, token: str | None) -> HubCheck:
    job = DownloadJob(
        info.id,
        (repository,),
        cache_dir="",
        revision=info.revision,
        files=info.files,
        endpoint=endpoint,
        token=token,
    )
    try:
        plan = fetch_listing(job, repository)
    except Exception as error:  # noqa: BLE001 (a maintainer wants the whole table, not the first failure)
        known: AIError = translate(error, job, repository=repository)
        return HubCheck(info.id, repository, (known.message,))
    differences = [*_size_differences(info, plan.files, plan.total_bytes), *_page_differences(info, plan)]
    return HubCheck(info.id, repository, tuple(differences), plan.commit, plan.total_bytes, plan.files)


def _size_differences(info: DiffusionModelInfo, files: tuple[ModelFile, ...], total_bytes: int) -> list[str]:
    announced = {f.path: f.size_bytes for f in files}
    lines = []
    for file in info.files:
        there = announced.get(file.path)
        if file.size_bytes is None or there is None:
            continue
        allowed = 0 if file.is_exact else _ROUNDING * file.size_bytes
        if abs(there - file.size_bytes) > allowed:
            lines.append(f"{file.path}: the table says {file.size_bytes:,} bytes, the Hub {there:,}")
    if info.size_bytes and abs(total_bytes - info.size_bytes) > _ROUNDING * info.size_bytes:
        lines.append(f"in all: the table says {info.size_bytes:,} bytes, the Hub {total_bytes:,}")
    return lines


def _page_differences(info: DiffusionModelInfo, plan: DownloadPlan) -> list[str]:
    lines = []
    if plan.is_gated != (info.gated is not None):
        is_there = "gated" if plan.is_gated else "open"
        lines.append(f"gating: the table says {info.gated or 'open'}, the Hub {is_there}")
    licenses = [t.removeprefix("license:") for t in plan.tags if t.startswith("license:")]
    if licenses and info.license not in licenses and licenses != ["other"]:
        lines.append(f"license: the table says {info.license}, the Hub {', '.join(licenses)}")
    return lines
