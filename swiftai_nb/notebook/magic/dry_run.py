"""`--dry-run`: what would happen, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, ModelNotDownloadedError
from swiftai_nb.core.format import format_duration
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.magic.request import Order
from swiftai_nb.notebook.session import Session

if TYPE_CHECKING:
    from swiftai_nb.registry.model_info import DiffusionModelInfo


class DryRun(Table[tuple[str, str]]):
    """What would be made, as a table of names and values; `plan["size"]` is the value of a name."""

    @classmethod
    def of(cls, orders: Sequence[Order], session: Session) -> DryRun:
        """Describes these orders."""
        order = orders[0]
        count = sum(len(o.seeds) for o in orders)
        width, height = order.size(session)
        lines = [("prompt", order.prompt), ("negative prompt", order.negative or "")]
        lines += [("engine", order.engine + (f" ({order.provider})" if order.provider else ""))]
        lines += _model_lines(order, session)
        lines += [("size", f"{width}x{height}"), ("steps", _steps(order, session))]
        lines += [("pictures", str(count)), ("seeds", _seeds(orders))]
        lines += _plan_lines(order, session, count)
        lines += [("note", note) for note in order.notes]
        return cls([(name, value) for name, value in lines if value], cells=lambda line: line)

    def __getitem__(self, key: Any) -> Any:
        return dict(self)[key] if isinstance(key, str) else super().__getitem__(key)


def _model_lines(order: Order, session: Session) -> list[tuple[str, str]]:
    is_catalog = session.runs_catalog_models(order.engine)
    if not is_catalog or (order.config.model is None and order.engine != "mlx"):
        return [("model", order.config.model or "the engine's own")]
    try:
        resolved = session.registry.resolve(order.config.model)
    except ModelNotDownloadedError as error:
        return [("model", str(order.config.model)), ("download", f"needed: {error.message}")]
    except AIError as error:
        return [("model", error.message)]
    return [("model", f"{resolved.info.id} ({resolved.info.name})"), ("download", "none: it is here")]


def _info(order: Order, session: Session) -> DiffusionModelInfo | None:
    try:
        is_local = session.runs_catalog_models(order.engine)
        return session.registry.resolve(order.config.model).info if is_local else None
    except AIError:
        return None


def _steps(order: Order, session: Session) -> str:
    info = _info(order, session)
    if info is None:
        return "" if order.config.steps is None else str(order.config.steps)
    return str(order.config.resolved_steps(info.default_steps))


def _seeds(orders: Sequence[Order]) -> str:
    seeds = list(dict.fromkeys(seed for order in orders for seed in order.seeds))
    listed = ", ".join(str(seed) for seed in seeds[:8])
    return listed + (", …" if len(seeds) > 8 else "")


def _plan_lines(order: Order, session: Session, count: int) -> list[tuple[str, str]]:
    try:
        plan = session.check(order.prompt, order.config, engine=order.engine, provider=order.provider)
    except ModelNotDownloadedError:
        return []
    except AIError as error:
        return [("refused", error.message), ("try", error.hint or "")]
    return _described(plan, count)


def _described(plan: Any, count: int) -> list[tuple[str, str]]:
    lines = []
    for name in ("device", "memory", "memory_plan", "precision"):
        value = getattr(plan, name, None)
        if value is not None:
            lines.append((name.replace("_", " "), str(value)))
    estimate_s = getattr(plan, "estimated_s", None)
    if isinstance(estimate_s, (int, float)):
        lines.append(("time", f"about {format_duration(max(1, estimate_s * count))}"))
    return lines
