"""Names and shapes that are sent between kernel and page; js/src/contract.ts is the other half.

Traits hold the form (both sides write it) and snapshots (the kernel writes them). Requests and reports are
custom messages with a `kind`; images are sent as a binary buffer, or as base64 in `data` where the host
cannot carry buffers. Messages never become part of the notebook's state.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.notebook.progress import ProgressSnapshot, job_progress
from swiftai_nb.registry.registry import BUNDLED_MODEL

if TYPE_CHECKING:
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.jobs.history_store import HistoryEntry
    from swiftai_nb.jobs.job import GenerationJob

STATIC = Path(__file__).parents[1] / "static"
CLOUD_DEVICE = "cloud"
MAX_RECEIVED_BYTES = 32 * 2**20

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
    "aspect_ratio",
    "scheduler",
    "style",
    "loras",
    "strength",
)
SNAPSHOTS = ("models", "jobs", "pictures", "picture_count", "inputs", "choices", "static_output_tail")
REQUESTS = (
    "init",
    "generate",
    "plan",
    "cancel",
    "retry",
    "upscale",
    "picture",
    "load_more",
    "save",
    "favorite",
    "delete_picture",
    "set_input",
    "remove_input",
    "save_preset",
    "delete_preset",
    "download",
    "cancel_download",
    "delete_model",
)
REPORTS = ("ready", "preview", "picture", "saved", "upscaled", "plan", "error")

CELL_TRAITS = ("job_id", "prompt", "width", "height", "blocking", "status")
CELL_REQUESTS = ("init", "cancel")
CELL_REPORTS = ("ready", "preview")

Engine = Literal["local", "cloud", "openai"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
InputRole = Literal["image", "mask", "reference"]
ModelState = Literal["ready", "download", "downloading", "too_large", "unavailable", "cloud", "cloud_missing"]


class JobSnapshot(ProgressSnapshot):
    """One job of the widget; `place` is its position in the queue, 0 when running or next.

    `picture_ids` are its finished pictures in the history, in their order.
    """

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
    picture_ids: list[str]


class InputPicture(TypedDict):
    """A picture in: its pixels are requested by message; `origin` is its id in the history, or empty."""

    id: str
    role: InputRole
    width: int
    height: int
    origin: str


class Choices(TypedDict):
    """What the lists of the form offer: samplers by the kind of model, presets (settings) by name."""

    samplers: dict[str, list[str]]
    styles: list[str]
    loras: list[str]
    presets: dict[str, dict[str, Any]]


class PictureSnapshot(TypedDict):
    """One picture of the history with its recipe; `cell` is the `%%imagine` cell that reproduces it.

    `parent` is the picture it was made from, or empty.
    """

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
    strength: float | None
    loras: list[dict[str, Any]]
    elapsed_s: float | None
    notes: list[str]
    cell: str
    parent: str
    favorite: bool


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
    takes_image: bool
    max_references: int
    sampler_kind: str
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


def received_bytes(content: Mapping[str, Any]) -> bytes:
    """The bytes of a message from the page: its binary buffer, or base64 in `data`.

    Raises:
        InvalidInputError: there are none, or too many.
    """
    data = content.get("data")
    buffers: Sequence[Any] = content.get("buffers") or ()
    binary_size = memoryview(buffers[0]).nbytes if buffers else 0
    size = len(data) * 3 // 4 if isinstance(data, str) else binary_size
    if not 0 < size <= MAX_RECEIVED_BYTES:
        raise InvalidInputError(f"the picture has {format_bytes(size)}", hint="choose another one")
    if not isinstance(data, str):
        return bytes(buffers[0])
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise InvalidInputError("the picture did not arrive whole", hint="choose it again") from None


def preview_message(job_id: str, jpeg: bytes, *, step: int) -> tuple[dict[str, Any], list[bytes]]:
    """(content, buffers) of a preview."""
    return image_message({"kind": "preview", "job_id": job_id, "step": step}, jpeg, "image/jpeg")


def job_snapshot(job: GenerationJob, *, request_id: str = "", picture_ids: Sequence[str] = ()) -> JobSnapshot:
    """A job as the widget shows it.

    Args:
        job: any job of the queue.
        request_id: the page's id of the request, when it came from a page.
        picture_ids: the ids of its finished pictures in the history.
    """
    error = job.error
    width, height = job.plan.size
    return {
        **job_progress(job).snapshot(),
        "id": job.id,
        "request_id": request_id,
        "prompt": job.request.display_prompt,
        "model": job.request.config.model or "",
        "state": job.state.value,
        "place": job.queue_position or 0,
        "message": "" if error is None else error.message,
        "hint": "" if error is None or error.hint is None else error.hint,
        "width": width,
        "height": height,
        "picture_ids": [one for one in picture_ids if one],
    }


def picture_snapshot(entry: HistoryEntry, *, origins: Mapping[str, str] | None = None) -> PictureSnapshot:
    """A picture as the widget shows it; its pixels are requested by message.

    Args:
        entry: the picture.
        origins: ids of pictures that were changed, by the SHA-256 of what was sent.
    """
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
        "strength": None if recipe is None else recipe.strength,
        "loras": [] if recipe is None else list(recipe.to_dict().get("loras", ())),
        "elapsed_s": _rounded(entry.image.elapsed_s),
        "notes": [] if recipe is None else list(recipe.notes),
        "cell": "" if recipe is None else cell_text(recipe),
        "parent": "" if recipe is None or origins is None else _parent(recipe, origins),
        "favorite": entry.is_favorite,
    }


def _parent(recipe: Recipe, origins: Mapping[str, str]) -> str:
    sources = (*recipe.references_sha256, *([] if recipe.image_sha256 is None else [recipe.image_sha256]))
    return next((origins[sha256] for sha256 in sources if sha256 in origins), "")


def cell_text(recipe: Recipe) -> str:
    """The `%%imagine` cell that reproduces this picture."""
    size = None if recipe.width is None or recipe.height is None else f"{recipe.width}x{recipe.height}"
    engine = _engine_of(recipe)
    options = {
        "--model": recipe.model,
        "--engine": None if engine == "local" else engine,
        "--size": size,
        "--steps": recipe.steps,
        "--guidance": None if recipe.guidance_scale is None else f"{recipe.guidance_scale:g}",
        "--scheduler": recipe.scheduler,
        "--seed": recipe.seed,
    }
    parts = [f"{name} {_quoted(str(value))}" for name, value in options.items() if value is not None]
    negative = recipe.negative_prompt
    if recipe.model == BUNDLED_MODEL and not (recipe.filled_in or recipe.sources):
        parts.append("--plain")
    if "{" in f"{recipe.prompt}{negative or ''}":
        parts.append("--raw")
    lines = [" ".join(["%%imagine", *parts]), recipe.prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if any(c.isspace() for c in text) else text


def _engine_of(recipe: Recipe | None) -> Engine:
    if recipe is not None and recipe.engine == "openai":
        return "openai"
    is_cloud = recipe is not None and CLOUD_DEVICE in (recipe.device, recipe.engine)
    return "cloud" if is_cloud or (recipe is not None and recipe.engine == "huggingface") else "local"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
