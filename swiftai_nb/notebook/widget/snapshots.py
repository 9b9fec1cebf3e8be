"""Jobs and pictures as the page shows them: plain functions from objects to JSON-ready dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.progress import GenerationStage

if TYPE_CHECKING:
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.jobs.history_store import HistoryEntry
    from swiftai_nb.jobs.job import GenerationJob
    from swiftai_nb.notebook.widget.wire import Engine, JobSnapshot, PictureSnapshot

CLOUD_DEVICE = "cloud"


def job_snapshot(
    job: GenerationJob, *, request_id: str = "", default_size: tuple[int, int] = (1, 1)
) -> JobSnapshot:
    """What the page shows of a job now.

    Args:
        job: any job of the queue.
        request_id: the page's own name of the request, when it came from a page.
        default_size: (width, height) of the model, used where the request leaves the size open.
    """
    progress, error, config = job.progress, job.error, job.request.config
    step = 0 if progress is None else progress.current_step
    steps = 0 if progress is None else progress.total_steps
    if isinstance(error, GenerationCancelledError) and error.total_steps > 0:
        step, steps = error.completed_steps, error.total_steps
    return {
        "id": job.id,
        "request_id": request_id,
        "prompt": job.request.prompt,
        "model": config.model or "",
        "state": job.state.value,
        "stage": str(GenerationStage.QUEUED if progress is None else progress.stage),
        "detail": "" if progress is None else progress.detail,
        "step": step,
        "steps": steps,
        "image_index": job.image_index,
        "count": len(job.request.seeds),
        "place": job.queue_position or 0,
        "elapsed_s": round(job.elapsed_s, 2),
        "remaining_s": None if progress is None else _rounded(progress.estimated_time_remaining),
        "cancelling": job.token.is_cancelled and not job.state.is_final,
        "message": "" if error is None else error.message,
        "hint": "" if error is None or error.hint is None else error.hint,
        "width": default_size[0] if config.width is None else config.width,
        "height": default_size[1] if config.height is None else config.height,
    }


def picture_snapshot(entry: HistoryEntry) -> PictureSnapshot:
    """What the page shows of a picture; the pixels are asked for by message."""
    recipe = entry.recipe
    return {
        "id": entry.id,
        "prompt": entry.prompt,
        "negative_prompt": "" if recipe is None else recipe.negative_prompt or "",
        "model": "" if recipe is None else recipe.model or "",
        "engine": _engine_of(recipe),
        "width": entry.width,
        "height": entry.height,
        "steps": None if recipe is None else recipe.steps,
        "guidance_scale": None if recipe is None else recipe.guidance_scale,
        "seed": None if recipe is None else recipe.seed,
        "scheduler": "" if recipe is None else recipe.scheduler or "",
        "elapsed_s": _rounded(entry.image.elapsed_s),
        "notes": [] if recipe is None else list(recipe.notes),
        "cell": "" if recipe is None else cell_text(recipe),
    }


def cell_text(recipe: Recipe) -> str:
    """The `%%imagine` cell that asks for this picture again."""
    size = None if recipe.width is None or recipe.height is None else f"{recipe.width}x{recipe.height}"
    options = {
        "--model": recipe.model,
        "--engine": "cloud" if _engine_of(recipe) == "cloud" else None,
        "--size": size,
        "--steps": recipe.steps,
        "--guidance": None if recipe.guidance_scale is None else f"{recipe.guidance_scale:g}",
        "--scheduler": recipe.scheduler,
        "--seed": recipe.seed,
    }
    words = [f"{name} {_quoted(str(value))}" for name, value in options.items() if value is not None]
    negative = recipe.negative_prompt
    if "{" in f"{recipe.prompt}{negative or ''}":
        words.append("--raw")
    lines = [" ".join(["%%imagine", *words]), recipe.prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if any(c.isspace() for c in text) else text


def _engine_of(recipe: Recipe | None) -> Engine:
    is_cloud = recipe is not None and CLOUD_DEVICE in (recipe.device, recipe.engine)
    return "cloud" if is_cloud or (recipe is not None and recipe.engine == "huggingface") else "local"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
