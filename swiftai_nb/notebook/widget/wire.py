"""Names and shapes that cross the wire between the widget and its page; js/src/contract.ts is the other half.

Traits carry the form (both sides write) and snapshots (the kernel writes). Requests and reports are
custom messages, told apart by `kind`; previews and pictures travel as a binary buffer, or as base64 in
`data` where the host cannot carry buffers. Messages never become notebook state.
"""

from __future__ import annotations

import base64
import sys
from typing import Any, Literal, TypedDict

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
SNAPSHOTS = ("models", "jobs", "pictures", "picture_count", "keepsake")
REQUESTS = (
    "hello",
    "generate",
    "cancel",
    "picture",
    "older",
    "save",
    "download",
    "cancel_download",
    "delete_model",
)
REPORTS = ("welcome", "preview", "picture", "saved", "refused")

Engine = Literal["local", "cloud"]
ModelState = Literal["ready", "download", "downloading", "too_large", "unavailable", "cloud", "cloud_missing"]


class JobSnapshot(TypedDict):
    """One job as the page shows it; `place` is 0 when running or next, `remaining_s` None when unknown."""

    id: str
    request_id: str
    prompt: str
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    detail: str
    step: int
    steps: int
    image_index: int
    count: int
    place: int
    elapsed_s: float
    remaining_s: float | None
    cancelling: bool
    message: str
    hint: str
    width: int
    height: int


class PictureSnapshot(TypedDict):
    """One picture of the history with its recipe; `cell` is the `%%imagine` cell that remakes it."""

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
    """One row of the model picker; sizes in bytes, `how` says what to do about a state that is in the way."""

    id: str
    engine: Engine
    name: str
    description: str
    size_bytes: int
    license: str
    state: ModelState
    state_text: str
    how: str
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


def with_picture(content: dict[str, Any], data: bytes, media_type: str) -> tuple[dict[str, Any], list[bytes]]:
    """(message, buffers) for a picture, by the way this front end can take."""
    content = {**content, "media_type": media_type}
    if "google.colab" in sys.modules:
        return {**content, "data": base64.b64encode(data).decode("ascii")}, []
    return content, [data]
