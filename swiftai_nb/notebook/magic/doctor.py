"""`%imagine_doctor`: what this machine and kernel can do, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from swiftai_nb._version import __version__
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.cell.cancel import ways_to_cancel
from swiftai_nb.notebook.session import Session, get_session

PACKAGES = ("mlx", "huggingface_hub", "ipython", "ipykernel", "ipywidgets", "anywidget")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        topic: what was looked at.
        words: what was found.
        remedy: what to do about it; empty when all is well.
    """

    topic: str
    words: str
    remedy: str = ""


def _cells(finding: Finding) -> tuple[str, str]:
    remedy = f"\nTry: {finding.remedy}" if finding.remedy else ""
    return finding.topic, finding.words + remedy


def imagine_doctor(line: str = "") -> Table[Finding]:
    """Looks at everything; never raises for what it finds.

    Raises:
        InvalidInputError: there is something on the line.
    """
    if line.strip():
        raise InvalidInputError(f"%imagine_doctor takes no options, not {line.strip()!r}")
    session = get_session()
    checks: tuple[Callable[[Session], Iterator[Finding]], ...] = (
        _software, _local_engine, _other_engines, _memory, _models, _cache, _cloud, _kernel,
    )  # fmt: skip
    findings = [finding for check in checks for finding in _guarded(check, session)]
    return Table(findings, cells=_cells)


def _guarded(check: Callable[[Session], Iterator[Finding]], session: Session) -> list[Finding]:
    topic = check.__name__.strip("_").replace("_", " ")
    try:
        return list(check(session))
    except AIError as error:
        return [Finding(topic, error.message, error.hint or "")]
    except Exception as error:  # noqa: BLE001 - a doctor who dies of a finding helps nobody
        return [Finding(topic, f"could not be looked at ({type(error).__name__}: {error})")]


def _software(_: Session) -> Iterator[Finding]:
    yield Finding("swiftai_nb", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    found = {name: _version(name) for name in PACKAGES}
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in found.items() if version))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _local_engine(session: Session) -> Iterator[Finding]:
    generator = session.generator("mlx")
    if not generator.is_available:
        reason = getattr(generator, "unavailable_reason", None) or "it cannot run on this machine"
        yield Finding("local engine", str(reason), "use the cloud: %%imagine --engine cloud")
        return
    yield Finding("local engine", "ready")
    for name in ("device", "loaded_model_id"):
        value = getattr(generator, name, None)
        if value is not None and not callable(value):
            yield Finding(name.replace("_", " "), str(value))


def _other_engines(session: Session) -> Iterator[Finding]:
    from swiftai_nb.providers.discovery import plugin_names

    for name in plugin_names():
        try:
            generator = session.generator(name)
            check = getattr(generator, "check_available", None)
            if check is not None:
                check()
            if generator.is_available:
                yield Finding(name, f"ready: %%imagine --engine {name}")
            else:
                yield Finding(name, "not available", "see the documentation of its package")
        except AIError as error:
            yield Finding(name, error.message, error.hint or "")


def _memory(_: Session) -> Iterator[Finding]:
    try:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return
    remedy = "models of 8 GB and more will not fit; try --quantize 4" if total_bytes < 8e9 else ""
    yield Finding("memory", f"{total_bytes / 1e9:.1f} GB in all", remedy)


def _models(session: Session) -> Iterator[Finding]:
    models = [m for m in session.registry.available_models if m.kind == "model"]
    here = [m.id for m in models if m.bundled or session.registry.is_downloaded(m.id)]
    yield Finding("models here", ", ".join(here) or "none", "" if here else "%imagine_models download NAME")
    yield Finding("default model", session.registry.resolve(None).info.id)


def _cache(session: Session) -> Iterator[Finding]:
    folder = session.registry.cache_dir
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    used = session.registry.formatted_total_size
    remedy = "free some room before a download" if free_bytes < 10e9 else ""
    yield Finding("model cache", f"{folder}: {used} of models, {free_bytes / 1e9:.0f} GB free", remedy)


def _cloud(session: Session) -> Iterator[Finding]:
    if session.generator("huggingface").is_available:
        yield Finding("cloud", "a Hugging Face token was found (it is never shown)")
    else:
        yield Finding("cloud", "no Hugging Face token", "set HF_TOKEN, or run huggingface_hub.login()")


def _kernel(_: Session) -> Iterator[Finding]:
    from IPython.core.getipython import get_ipython

    from swiftai_nb.notebook.cell.views import shows_widgets

    shell: Any = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        yield Finding("notebook", "a terminal, or none")
    else:
        seen = (
            "shows widgets" if shows_widgets(shell) else "does not show widgets: a running cell is plain HTML"
        )
        host = "Colab" if "google.colab" in sys.modules else f"ipykernel {_version('ipykernel')}"
        yield Finding("notebook", f"{host}; the front end {seen}")
    yield Finding("cancelling", f"reaches a running cell by {ways_to_cancel(kernel)}")
