"""`%imagine_jobs`: what this kernel is making, has made, and how to stop it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.cell.snapshot import of_job
from swiftai_nb.notebook.session import get_session

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob

COLUMNS = ("job", "state", "pictures", "progress", "prompt")


class JobTable(Sequence["GenerationJob"]):
    """The jobs of a kernel, oldest first, shown as a table."""

    def __init__(self, jobs: Sequence[GenerationJob]) -> None:
        self._jobs = tuple(jobs)

    def __getitem__(self, index: Any) -> Any:
        return self._jobs[index]

    def __len__(self) -> int:
        return len(self._jobs)

    def rows(self) -> list[tuple[str, ...]]:
        """One tuple of texts for each job, in the order of `COLUMNS`."""
        return [_row(job) for job in self._jobs]

    def __repr__(self) -> str:
        if not self._jobs:
            return "no jobs"
        rows = [COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        if not self._jobs:
            return "<p>no jobs</p>"
        head = "".join(f'<th style="text-align:left">{name}</th>' for name in COLUMNS)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(t)}</td>' for t in row) + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(job: GenerationJob) -> tuple[str, ...]:
    words = " ".join(job.request.prompt.split())
    made = f"{len(job.images)} of {len(job.request.seeds)}"
    progress = of_job(job).line() if not job.state.is_final else f"{job.elapsed_s:.1f} s"
    if job.error is not None:
        progress = job.error.message
    return job.id, str(job.state), made, progress, words if len(words) <= 60 else words[:59] + "…"


def imagine_jobs(line: str) -> JobTable:
    """Lists the jobs; `cancel` stops all unfinished ones, `cancel ID ...` those.

    Raises:
        InvalidInputError: not understood, or no such job.
    """
    jobs = get_session().queue.jobs
    verb, *ids = line.split() or [""]
    if verb == "cancel":
        for job in reversed(_chosen(jobs, ids)):
            job.cancel()
    elif verb:
        raise InvalidInputError(f"%imagine_jobs does not know {verb!r}; use %imagine_jobs [cancel [ID ...]]")
    return JobTable(jobs)


def _chosen(jobs: Sequence[GenerationJob], ids: list[str]) -> list[GenerationJob]:
    unfinished = [job for job in jobs if not job.state.is_final]
    for name in ids:
        if not any(job.id.startswith(name) for job in jobs):
            raise InvalidInputError(f"there is no job {name!r}; %imagine_jobs lists them")
    return [job for job in unfinished if not ids or any(job.id.startswith(name) for name in ids)]
