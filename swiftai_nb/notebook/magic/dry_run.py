"""`--dry-run`: shows the plan, without doing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swiftai_nb.core.errors import AIError, ModelNotDownloadedError
from swiftai_nb.core.format import format_duration
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.session import Session
from swiftai_nb.registry.model_info import GB

SHOWN_SEEDS = 8


class DryRun(Table[tuple[str, str]]):
    """What would be made, as a table of names and values; `plan["size"]` is the value of a name."""

    @classmethod
    def of(cls, requests: Sequence[GenerationRequest], session: Session) -> DryRun:
        """Plans the first request and describes all of them."""
        refusal: AIError | None = None
        try:
            plan = session.plan(requests[0])
        except AIError as error:
            refusal, plan = error, GenerationPlan.of(requests[0])
        is_installed = refusal is None and session.runs_catalog_models(plan.request.engine)
        rows = (
            *_request_rows(plan),
            ("download", "none (already installed)" if is_installed else ""),
            ("model files", plan.model_facts),
            *_plan_rows(plan, requests),
            *_refusal_rows(refusal, session, plan.model),
        )
        return cls([(name, value) for name, value in rows if value], cells=lambda row: row)

    def __getitem__(self, key: Any) -> Any:
        return dict(self)[key] if isinstance(key, str) else super().__getitem__(key)


def _request_rows(plan: GenerationPlan) -> list[tuple[str, str]]:
    request = plan.request
    model = plan.model or "the engine's own"
    provider = "" if request.provider is None else f" ({request.provider})"
    return [
        ("prompt", request.prompt),
        ("filled in", _filled_in(plan)),
        ("negative prompt", request.negative_prompt or ""),
        ("reference pictures", str(len(request.config.references) or "")),
        ("control", "; ".join(control.describe() for control in request.config.controls)),
        ("engine", request.engine + provider),
        ("model", f"{model} ({plan.model_name})" if plan.model_name else model),
    ]


def _plan_rows(plan: GenerationPlan, requests: Sequence[GenerationRequest]) -> list[tuple[str, str]]:
    count = sum(request.count for request in requests)
    duration_s = None if plan.estimated_s is None else max(1, plan.estimated_s * count)
    notes = (*plan.request.notes, *plan.notes, plan.revision_note or "")
    return [
        ("size", "" if None in (plan.width, plan.height) else f"{plan.width}x{plan.height}"),
        ("steps", "" if plan.steps is None else str(plan.steps)),
        ("enlarged", plan.enlarged),
        ("pictures", str(count)),
        ("seeds", _seeds(requests)),
        ("device", plan.device or ""),
        ("sent", plan.sends),
        ("cost", plan.cost),
        ("memory", plan.memory),
        ("memory plan", plan.memory_plan),
        ("precision", plan.precision),
        ("time", "" if duration_s is None else f"about {format_duration(duration_s)}"),
        *(("note", note) for note in dict.fromkeys(notes)),
    ]


def _refusal_rows(error: AIError | None, session: Session, model: str | None) -> list[tuple[str, str]]:
    if error is None:
        return []
    if isinstance(error, ModelNotDownloadedError):
        return [("download", f"needed: {error.message}"), ("memory", _meant_for(session, model))]
    return [("refused", error.message), ("try", error.hint or "")]


def _meant_for(session: Session, model: str | None) -> str:
    """The machine that a model of the catalog is meant for; "" for others."""
    try:
        needs_bytes = session.registry.find(model or "").min_memory_bytes
    except AIError:
        return ""
    return f"meant for machines with {round(needs_bytes / GB)} GB or more"


def _filled_in(plan: GenerationPlan) -> str:
    seeds = plan.request.seeds[:SHOWN_SEEDS]  # each with its own prompt, where that is drawn by the seed
    listed = [plan.with_seeds((seed,)).filled_in() for seed in seeds]
    return "; ".join(text.lstrip(", ") or "nothing" for text in listed) if any(listed) else ""


def _seeds(requests: Sequence[GenerationRequest]) -> str:
    seeds = list(dict.fromkeys(seed for request in requests for seed in request.seeds))
    listed = ", ".join(str(seed) for seed in seeds[:SHOWN_SEEDS])
    return listed + (", …" if len(seeds) > SHOWN_SEEDS else "")
