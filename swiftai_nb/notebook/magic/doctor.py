"""`%imagine_doctor`: what this machine and kernel can do, and what is missing."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from swiftai_nb._version import __version__
from swiftai_nb.core.cpu_kernels import choose_library, resolve_precision
from swiftai_nb.core.errors import AIError, InvalidInputError, ProviderUnavailableError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.machine import available_memory_bytes, machine_memory_bytes
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.cell.cancel import ways_to_cancel
from swiftai_nb.notebook.magic.request import Defaults
from swiftai_nb.notebook.session import Session, get_session

PACKAGES = (
    "mlx",
    "mlx-metal",
    "mlx-cpu",
    "mlx-cuda-12",
    "mlx-cuda-13",
    "huggingface_hub",
    "ipython",
    "ipykernel",
    "ipywidgets",
    "anywidget",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        topic: what was checked.
        text: the result.
        remedy: what to do about it; empty when nothing is missing.
    """

    topic: str
    text: str
    remedy: str = ""


def _cells(finding: Finding) -> tuple[str, str]:
    remedy = f"\nTry: {finding.remedy}" if finding.remedy else ""
    return finding.topic, finding.text + remedy


def imagine_doctor(line: str = "", *, defaults: Defaults | None = None) -> Table[Finding]:
    """Checks packages, engines, memory, models, cache, cloud and kernel; a failed check is a finding.

    Args:
        line: nothing.
        defaults: the user's `%config Imagine`; None where there is none.

    Raises:
        InvalidInputError: there is something on the line.
    """
    if line.strip():
        raise InvalidInputError(f"%imagine_doctor takes no options, not {line.strip()!r}")
    session = get_session()

    def cloud(session: Session) -> Iterator[Finding]:
        return _cloud(session, Defaults() if defaults is None else defaults)

    checks: tuple[Callable[[Session], Iterator[Finding]], ...] = (
        _software, _local_engine, _other_engines, _memory, _models, _cache, cloud, _kernel,
    )  # fmt: skip
    findings = [finding for check in checks for finding in _guarded(check, session)]
    return Table(findings, cells=_cells)


def _guarded(check: Callable[[Session], Iterator[Finding]], session: Session) -> list[Finding]:
    topic = check.__name__.strip("_").replace("_", " ")
    try:
        return list(check(session))
    except AIError as error:
        return [Finding(topic, error.message, error.hint or "")]
    except Exception as error:  # noqa: BLE001 - one failed check must not hide the others
        return [Finding(topic, f"the check failed ({type(error).__name__}: {error})")]


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
    generator: Any = session.generator("mlx")
    yield from (Finding(*found) for found in generator.installation_findings())
    _check(generator)
    yield Finding("local engine", "ready")
    is_running = generator.engine_pid is not None
    yield Finding("device", f"{generator.device}{'' if is_running else ' (expected; no engine runs yet)'}")
    if generator.device == "cpu":
        yield _cpu_kernels()
    if generator.loaded_model_id is not None:
        yield Finding("loaded model", str(generator.loaded_model_id))


def _cpu_kernels() -> Finding:
    choice = choose_library()
    if choice.target is None:
        return Finding("CPU kernels", choice.reason, choice.remedy)
    return Finding("CPU kernels", f"compiled for {choice.target.name}, {resolve_precision(None)} by default")


def _other_engines(session: Session) -> Iterator[Finding]:
    from swiftai_nb.providers.discovery import plugin_names

    for name in plugin_names():
        try:
            _check(session.generator(name))
            yield Finding(name, f"ready: %%imagine --engine {name}")
        except AIError as error:
            yield Finding(name, error.message, error.hint or "")


def _check(generator: Any) -> None:
    """Raises an AIError with the reason when a provider cannot be used."""
    check = getattr(generator, "check_available", None)
    if check is not None:
        check()
    elif not generator.is_available:
        raise ProviderUnavailableError("not available", hint="see the documentation of its package")


def _memory(_: Session) -> Iterator[Finding]:
    total_bytes, available_bytes = machine_memory_bytes(), available_memory_bytes()
    if total_bytes is None:
        return
    remedy = "models of 8 GB and more will not fit; try --quantize 4" if total_bytes < 8e9 else ""
    available = "" if available_bytes is None else f", {format_bytes(available_bytes)} available"
    yield Finding("memory", f"{format_bytes(total_bytes)} total{available}", remedy)


def _models(session: Session) -> Iterator[Finding]:
    models = [m for m in session.registry.available_models if m.kind == "model"]
    installed = [m.id for m in models if m.bundled or session.registry.is_installed(m)]
    remedy = "" if installed else "%imagine_models download NAME"
    yield Finding("installed models", ", ".join(installed) or "none", remedy)
    yield Finding("default model", session.registry.resolve(None).info.id)


def _cache(session: Session) -> Iterator[Finding]:
    folder = session.registry.cache_dir
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    used = session.registry.formatted_total_size
    remedy = "free disk space before a download" if free_bytes < 10e9 else ""
    yield Finding("model cache", f"{folder}: {used} of models, {format_bytes(free_bytes)} free", remedy)


def _cloud(session: Session, defaults: Defaults) -> Iterator[Finding]:
    if session.generator("huggingface").is_available:
        payer = "" if defaults.bill_to is None else f"; billed to {defaults.bill_to}"
        yield Finding("cloud", f"a Hugging Face token was found (it is never shown){payer}")
    else:
        yield Finding("cloud", "no Hugging Face token", "set HF_TOKEN, or run huggingface_hub.login()")
    yield from _openai(session, defaults.base_url)


def _openai(session: Session, base_url: str | None) -> Iterator[Finding]:
    from swiftai_nb.core.request import GenerationRequest

    generator: Any = session.generator("openai")
    try:
        plan = generator.plan(replace(GenerationRequest.of("test"), base_url=base_url))
    except AIError as error:
        yield Finding("openai", f"{error.message}; a local server needs none: --base-url URL")
        return
    key = "without a key" if plan.server.key is None else "with a key (it is never shown)"
    yield Finding("openai", f"{plan.server.name}, {key}")


def _kernel(_: Session) -> Iterator[Finding]:
    from IPython.core.getipython import get_ipython

    from swiftai_nb.notebook.output.host import shows_widgets

    shell: Any = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        yield Finding("notebook", "none: a terminal or a script")
    else:
        seen = (
            "shows widgets"
            if shows_widgets(shell)
            else "does not show widgets; running cells are shown as plain HTML"
        )
        host = "Colab" if "google.colab" in sys.modules else f"ipykernel {_version('ipykernel')}"
        yield Finding("notebook", f"{host}; the front end {seen}")
    yield Finding("cancel", ways_to_cancel(kernel))
