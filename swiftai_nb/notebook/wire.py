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

from swiftai_nb.core.control import KINDS
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.cell_text import Engine, cell_text, engine_of
from swiftai_nb.notebook.progress import ProgressSnapshot, job_progress

if TYPE_CHECKING:
    from swiftai_nb.jobs.history_store import HistoryEntry
    from swiftai_nb.jobs.job import GenerationJob

STATIC = Path(__file__).parents[1] / "static"
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
    "outpaint",
    "hires",
    "hires_strength",
    "hires_steps",
    "upscale",
    "upscaler",
)
SNAPSHOTS = (
    "models",
    "controlnets",
    "jobs",
    "pictures",
    "picture_count",
    "inputs",
    "choices",
    "static_output_tail",
)
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
    "set_control",
    "reuse",
    "save_preset",
    "delete_preset",
    "download",
    "cancel_download",
    "delete_model",
)
REPORTS = ("ready", "preview", "picture", "saved", "upscaled", "plan", "error")

CONTROL_KINDS = tuple(KINDS)

CELL_TRAITS = ("job_id", "prompt", "width", "height", "blocking", "status")
CELL_REQUESTS = ("init", "cancel")
CELL_REPORTS = ("ready", "preview")

ENGINES: tuple[Engine, ...] = get_args(Engine)
InputRole = Literal["image", "mask", "reference", "control"]
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


class Control(TypedDict):
    """How a picture steers: see `core.control.ControlReference`.

    `kind` and `model` are the parts of its source, either may be empty; `preview` is the id of the picture
    that is made of it, or empty where it is used as it is.
    """

    kind: str
    model: str
    scale: float
    start: float
    end: float
    is_guess: bool
    preview: str


class InputPicture(TypedDict):
    """A picture in: its pixels are requested by message; `origin` is its id in the history, or empty."""

    id: str
    role: InputRole
    width: int
    height: int
    origin: str
    control: Control | None


class Choices(TypedDict):
    """What the lists of the form offer: samplers by the kind of model, presets (settings) by name."""

    samplers: dict[str, list[str]]
    styles: list[str]
    loras: list[str]
    upscalers: list[str]
    presets: dict[str, dict[str, Any]]


class PictureSnapshot(TypedDict):
    """One picture of the history with its recipe; `cell` is the `%%imagine` cell that reproduces it.

    `parent` is the picture it was made from, or empty; `drawn_width` and `drawn_height` are pixels before
    enlarging, None where they follow from its start picture. `controls` is how it was steered, as text.
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
    drawn_width: int | None
    drawn_height: int | None
    outpaint: str
    hires: float | None
    hires_strength: float | None
    hires_steps: int | None
    upscale: float | None
    upscaler: str
    controls: list[str]
    elapsed_s: float | None
    notes: list[str]
    cell: str
    parent: str
    favorite: bool


class ModelEntry(TypedDict):
    """One row of the model picker.

    `hint` is what to do when the state is not "ready"; `examples` are prompts it is good at, empty for any.
    """

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
    takes_controls: bool
    sampler_kind: str
    can_delete: bool
    free_disk_bytes: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    remaining_s: float | None
    elapsed_s: float
    examples: list[str]


class ControlNetEntry(TypedDict):
    """A ControlNet of the catalog for the chosen model, as `ModelEntry`; `kinds` are what it follows."""

    kinds: list[str]
    id: str
    name: str
    size_bytes: int
    license: str
    state: ModelState
    state_text: str
    hint: str
    free_disk_bytes: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    remaining_s: float | None
    elapsed_s: float


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
    recipe = Recipe("") if entry.recipe is None else entry.recipe
    has_size = recipe.outpaint is None
    return {
        "id": entry.id,
        "prompt": entry.prompt,
        "negative_prompt": recipe.negative_prompt or "",
        "model": recipe.model or "",
        "engine": engine_of(recipe),
        "width": entry.width,
        "height": entry.height,
        "steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "seed": recipe.seed,
        "scheduler": recipe.scheduler or "",
        "strength": recipe.strength,
        "loras": list(recipe.to_dict().get("loras", ())),
        "drawn_width": recipe.width if has_size else None,
        "drawn_height": recipe.height if has_size else None,
        "outpaint": "" if recipe.outpaint is None else str(recipe.outpaint),
        "hires": recipe.hires,
        "hires_strength": recipe.hires_strength,
        "hires_steps": recipe.hires_steps,
        "upscale": recipe.upscale,
        "upscaler": recipe.upscaler or "",
        "controls": [control.describe() for control in recipe.controls],
        "elapsed_s": _rounded(entry.image.elapsed_s),
        "notes": list(recipe.notes),
        "cell": "" if entry.recipe is None else cell_text(recipe),
        "parent": "" if origins is None else _parent(recipe, origins),
        "favorite": entry.is_favorite,
    }


def _parent(recipe: Recipe, origins: Mapping[str, str]) -> str:
    sources = (*recipe.references_sha256, *([] if recipe.image_sha256 is None else [recipe.image_sha256]))
    return next((origins[sha256] for sha256 in sources if sha256 in origins), "")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
