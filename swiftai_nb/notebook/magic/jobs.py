"""`%imagine_jobs`: what this kernel is making, has made, and how to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.progress import job_progress
from swiftai_nb.notebook.session import get_session

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob

COLUMNS = ("job", "state", "pictures", "progress", "prompt")


def _row(job: GenerationJob) -> tuple[str, ...]:
    made = f"{len(job.images)} of {len(job.request.seeds)}"
    progress = str(job_progress(job)) if not job.state.is_final else f"{job.elapsed_s:.1f} s"
    if job.error is not None:
        progress = job.error.message
    return job.id, str(job.state), made, progress, shorten(job.request.prompt, 60)


def imagine_jobs(line: str) -> Table[GenerationJob]:
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
    return Table(jobs, cells=_row, columns=COLUMNS, wrapped=("progress", "prompt"), empty="no jobs")


def _chosen(jobs: Sequence[GenerationJob], ids: list[str]) -> list[GenerationJob]:
    unfinished = [job for job in jobs if not job.state.is_final]
    for name in ids:
        if not any(job.id.startswith(name) for job in jobs):
            raise InvalidInputError(f"there is no job {name!r}; %imagine_jobs lists them")
    return [job for job in unfinished if not ids or any(job.id.startswith(name) for name in ids)]
