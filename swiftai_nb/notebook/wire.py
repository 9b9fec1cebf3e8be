"""Names and shapes that are sent between kernel and page; js/src/contract.ts is the other half.

Traits hold the form (both sides write it) and snapshots (the kernel writes them). Requests and reports are
custom messages with a `kind`; images are sent as a binary buffer, or as base64 in `data` where the host
cannot carry buffers. Messages never become part of the notebook's state.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from swiftai_nb.notebook.progress import ProgressSnapshot, job_progress

if TYPE_CHECKING:
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.jobs.history_store import HistoryEntry
    from swiftai_nb.jobs.job import GenerationJob

STATIC = Path(__file__).parents[1] / "static"
CLOUD_DEVICE = "cloud"

SETTINGS = (
    "prompt",
    "negative_prompt",
    "model",
    "engine",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "seed",
    "count",
)
SNAPSHOTS = ("models", "jobs", "pictures", "picture_count", "static_output_tail")
REQUESTS = (
    "init",
    "generate",
    "cancel",
    "picture",
    "load_more",
    "save",
    "download",
    "cancel_download",
    "delete_model",
)
REPORTS = ("ready", "preview", "picture", "saved", "error")

CELL_TRAITS = ("job_id", "prompt", "width", "height", "blocking", "status")
CELL_REQUESTS = ("init", "cancel")
CELL_REPORTS = ("ready", "preview")

Engine = Literal["local", "cloud"]
ModelState = Literal["ready", "download", "downloading", "too_large", "unavailable", "cloud", "cloud_missing"]


class JobSnapshot(ProgressSnapshot):
    """One job of the widget; `place` is its position in the queue, 0 when running or next."""

    id: str
    request_id: str
    prompt: str
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    place: int
    message: str
    hint: str
    width: int
    height: int


class PictureSnapshot(TypedDict):
    """One picture of the history with its recipe; `cell` is the `%%imagine` cell that reproduces it."""

    id: str
    prompt: str
    negative_prompt: str
    model: str
    engine: Engine
    width: int
    height: int
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    scheduler: str
    elapsed_s: float | None
    notes: list[str]
    cell: str


class ModelEntry(TypedDict):
    """One row of the model picker; `hint` is what to do when the state is not "ready"."""

    id: str
    engine: Engine
    name: str
    description: str
    size_bytes: int
    memory_bytes: int
    license: str
    state: ModelState
    state_text: str
    hint: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    display_scale: int
    uses_negative_prompt: bool
    can_delete: bool
    free_disk_bytes: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    remaining_s: float | None
    elapsed_s: float
    examples: list[str]


def image_message(
    content: dict[str, Any], data: bytes, media_type: str
) -> tuple[dict[str, Any], list[bytes]]:
    """(content, buffers) of a message with an encoded image, in the form that this front end supports."""
    content = {**content, "media_type": media_type}
    if "google.colab" in sys.modules:  # binary buffers do not reach the page there
        return {**content, "data": base64.b64encode(data).decode("ascii")}, []
    return content, [data]


def preview_message(job_id: str, jpeg: bytes, *, step: int) -> tuple[dict[str, Any], list[bytes]]:
    """(content, buffers) of a preview."""
    return image_message({"kind": "preview", "job_id": job_id, "step": step}, jpeg, "image/jpeg")


def job_snapshot(job: GenerationJob, *, request_id: str = "") -> JobSnapshot:
    """A job as the widget shows it.

    Args:
        job: any job of the queue.
        request_id: the page's id of the request, when it came from a page.
    """
    error = job.error
    width, height = job.plan.size
    return {
        **job_progress(job).snapshot(),
        "id": job.id,
        "request_id": request_id,
        "prompt": job.request.prompt,
        "model": job.request.config.model or "",
        "state": job.state.value,
        "place": job.queue_position or 0,
        "message": "" if error is None else error.message,
        "hint": "" if error is None or error.hint is None else error.hint,
        "width": width,
        "height": height,
    }


def picture_snapshot(entry: HistoryEntry) -> PictureSnapshot:
    """A picture as the widget shows it; its pixels are requested by message."""
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
    """The `%%imagine` cell that reproduces this picture."""
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
    parts = [f"{name} {_quoted(str(value))}" for name, value in options.items() if value is not None]
    negative = recipe.negative_prompt
    if "{" in f"{recipe.prompt}{negative or ''}":
        parts.append("--raw")
    lines = [" ".join(["%%imagine", *parts]), recipe.prompt]
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
