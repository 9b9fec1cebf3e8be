"""The commands beside `%imagine`: `%imagine_models`, `%imagine_history`, `%imagine_jobs`, and `--widget`."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import DownloadCancelledError, InvalidInputError
from swiftai_nb.core.format import short_repr, shorten
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.cell.views import create_view
from swiftai_nb.notebook.cell.wait import GenerationInterrupted, outcome, wait
from swiftai_nb.notebook.cell.work import DownloadWork
from swiftai_nb.notebook.magic.tokens import split
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import job_progress
from swiftai_nb.notebook.session import get_session

if TYPE_CHECKING:
    from swiftai_nb.downloads.download import Download
    from swiftai_nb.jobs.history import History
    from swiftai_nb.jobs.history_store import HistoryEntry
    from swiftai_nb.jobs.job import GenerationJob
    from swiftai_nb.notebook.magic.parser import ImagineArguments
    from swiftai_nb.notebook.magic.request import Defaults

JOB_COLUMNS = ("job", "state", "pictures", "progress", "prompt")
PAGE = 24
HISTORY_USAGE = (
    "%imagine_history [TEXT] [--count N] [--before ID] | --recall ID | --keep FOLDER | --forget-folder"
)
_VALUE_OPTIONS = ("--count", "--before", "--recall", "--keep")
_VIEW_SIZE = (1, 1)  # CSS pixels: no picture is shown beside the progress bar


def imagine_models(line: str) -> Any:
    """Runs a command on models; the result is displayed as a table or as text.

    Raises:
        AIError: not understood, or the command failed.
        GenerationInterrupted: the stop button ended a download; what was downloaded is kept.
    """
    from swiftai_nb.downloads.commands import ModelCommands
    from swiftai_nb.providers.quantized_model import quantize_model

    session = get_session()
    commands = ModelCommands(
        registry=session.registry,
        downloader=session.downloader,
        wait=_wait_in_cell,
        log=_print,
        quantize=quantize_model,
    )
    result, _is_good = commands.run([token.value for token in split(line)])
    return result


def _print(line: str) -> None:
    from IPython.display import display

    display({"text/plain": line}, raw=True)


def _wait_in_cell(download: Download, title: str) -> Path:
    work = DownloadWork(download)
    shell = _shell()
    kernel = getattr(shell, "kernel", None)
    view = create_view(shell, job_id=work.id, prompt=title, size=_VIEW_SIZE, on_cancel=work.cancel)
    view.start(title)
    interrupted = wait(
        work, view, kernel=kernel, route=None if kernel is None else get_session().subshell_route
    )
    view.finish(None)
    if interrupted and isinstance(work.error, DownloadCancelledError):
        raise GenerationInterrupted(work.error.message) from None
    outcome(work, interrupted=interrupted)
    return download.result()


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def imagine_history(line: str) -> HistoryPage | Pictures | None:
    """Lists the newest pictures, searches, recalls one, or keeps the history in a folder.

    Raises:
        InvalidInputError: not understood, or no such picture.
    """
    session = get_session()
    text, options = _read_history_line(line)
    if "keep" in options or "forget-folder" in options:
        session.keep_history_in(options.get("keep"))
        return _history_page(session.history, "", {})
    if "recall" in options:
        entry = session.history.find(options["recall"])
        return Pictures([entry.image], prompt=entry.prompt)
    return _history_page(session.history, text, options)


def _history_page(history: History, text: str, options: dict[str, str]) -> HistoryPage:
    count = _checked_count(options.get("count", str(PAGE)))
    if text:
        found = list(islice(history.search(text), count + 1))
        return HistoryPage(found[:count], total=len(found), text=text)
    return HistoryPage(history.newest(count, before=options.get("before")), total=len(history))


def _checked_count(text: str) -> int:
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1000:
        raise InvalidInputError(f"--count {short_repr(text)} is not a number from 1 to 1000")
    return int(text)


def _read_history_line(line: str) -> tuple[str, dict[str, str]]:
    text: list[str] = []
    options: dict[str, str] = {}
    tokens = iter(split(line))
    for token in tokens:
        name = token.text.removeprefix("--")
        if token.text == "--forget-folder":
            options[name] = ""
        elif token.text in _VALUE_OPTIONS:
            value = next(tokens, None)
            if value is None:
                raise InvalidInputError(f"{token.text} needs a value: {HISTORY_USAGE}")
            options[name] = value.value
        elif token.text.startswith("--"):
            raise InvalidInputError(f"unknown option {token.text}: {HISTORY_USAGE}")
        else:
            text.append(token.value)
    return " ".join(text), options


class HistoryPage(Sequence["HistoryEntry"]):
    """Some entries of the history, newest first, displayed as thumbnails with their numbers."""

    def __init__(self, entries: Sequence[HistoryEntry], *, total: int, text: str = "") -> None:
        self._entries = tuple(entries)
        self._total = total
        self._text = text

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        if not self._entries:
            return f"no pictures{f' with {self._text!r}' if self._text else ' yet'}"
        return repr(Table(self._entries, cells=_history_row))

    def _repr_html_(self) -> str:
        if not self._entries:
            return f"<p>{html.escape(repr(self))}</p>"
        cards = "".join(_history_card(entry) for entry in self._entries)
        shown = len(self._entries)
        more = (
            f"; older ones: %imagine_history --before {self._entries[-1].id}" if shown < self._total else ""
        )
        foot = f"{shown} of {self._total} pictures{more}. Recall one: %imagine_history --recall NUMBER"
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:12px">'
            f'{cards}</div><div style="opacity:.75;margin-top:8px">{html.escape(foot)}</div>'
        )


def _history_card(entry: HistoryEntry) -> str:
    data = base64.b64encode(entry.thumbnail).decode("ascii")
    caption, title = (html.escape(shorten(entry.prompt, length)) for length in (80, 500))
    when = datetime.fromtimestamp(entry.created_at)
    return (
        f'<figure style="margin:0;width:128px" title="{title}">'
        f'<img alt="{title}" src="data:image/jpeg;base64,{data}" '
        'style="width:128px;height:128px;object-fit:contain;border-radius:4px;background:rgba(128,128,128,.12)">'
        '<figcaption style="font-size:12px;line-height:1.35;overflow-wrap:anywhere">'
        f"<b>{entry.id}</b> <span style='opacity:.7'>{when:%H:%M}</span><br>{caption}"
        f"<br><span style='opacity:.7'>{html.escape(_describe_entry(entry))}</span></figcaption></figure>"
    )


def _history_row(entry: HistoryEntry) -> tuple[str, ...]:
    return str(entry.id), _describe_entry(entry), shorten(entry.prompt, 70)


def _describe_entry(entry: HistoryEntry) -> str:
    recipe = entry.recipe
    parts = [f"{entry.width}x{entry.height}"]
    if recipe is not None:
        parts += [
            f"seed {recipe.seed}" if recipe.seed is not None else "",
            ("1 step" if recipe.steps == 1 else f"{recipe.steps} steps") if recipe.steps else "",
        ]
    return ", ".join(part for part in parts if part)


def _job_row(job: GenerationJob) -> tuple[str, ...]:
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
        for job in reversed(_select_jobs(jobs, ids)):
            job.cancel()
    elif verb:
        raise InvalidInputError(f"unknown command {verb!r}", hint="use %imagine_jobs [cancel [ID ...]]")
    return Table(jobs, cells=_job_row, columns=JOB_COLUMNS, wrapped=("progress", "prompt"), empty="no jobs")


def _select_jobs(jobs: Sequence[GenerationJob], ids: list[str]) -> list[GenerationJob]:
    unfinished = [job for job in jobs if not job.state.is_final]
    for name in ids:
        if not any(job.id.startswith(name) for job in jobs):
            raise InvalidInputError(f"no job {name!r}", hint="%imagine_jobs lists them")
    return [job for job in unfinished if not ids or any(job.id.startswith(name) for name in ids)]


def _widget_engine(arguments: ImagineArguments, defaults: Defaults) -> str | None:
    """The widget's name of the engine; None for its own choice."""
    from swiftai_nb.notebook.session import ENGINE_ALIASES
    from swiftai_nb.notebook.wire import ENGINES

    engine = arguments.engine or ("openai" if arguments.base_url is not None else defaults.engine)
    names = {provider: name for name, provider in ENGINE_ALIASES.items()}
    name = names.get(engine, engine)
    return name if name in ENGINES else None


def open_widget(arguments: ImagineArguments, defaults: Defaults, variables: Mapping[str, Any]) -> Any:
    """An ImagineWidget whose traits hold the line's values and pictures; what it does not have is left out.

    The server of `--base-url` becomes the session's.

    Raises:
        InvalidInputError: no such picture, or a value outside its limits.
    """
    from swiftai_nb.notebook.magic.request import given_pictures
    from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
    from swiftai_nb.notebook.wire import SETTINGS

    engine = _widget_engine(arguments, defaults)
    if engine == "openai" and arguments.base_url is not None:
        from swiftai_nb.providers.openai.provider import OpenAIImagesProvider

        get_session().add_generator("openai", OpenAIImagesProvider(arguments.base_url))
    pictures, _ = given_pictures(arguments, variables)
    size = arguments.size or (None if arguments.outpaint is not None else defaults.size)
    ratio = None if size is None else size.aspect_ratio
    config = arguments.config()
    wanted: dict[str, Any] = {
        **{name: getattr(config, name, None) for name in SETTINGS},
        "prompt": arguments.prompt or None,
        "negative_prompt": arguments.negative or defaults.negative,
        "model": arguments.model or defaults.model,
        "engine": engine,
        "steps": arguments.steps if arguments.steps is not None else defaults.steps,
        "guidance_scale": arguments.guidance if arguments.guidance is not None else defaults.guidance,
        "seed": arguments.seed,
        "count": arguments.count,
        "width": None if size is None else size.width,
        "height": None if size is None else size.height,
        "aspect_ratio": None if ratio is None else f"{ratio[0]}:{ratio[1]}",
        "style": arguments.style,
        "loras": [{"source": lora.source, "scale": lora.scale} for lora in arguments.loras] or None,
        "outpaint": None if arguments.outpaint is None else str(arguments.outpaint),
        **pictures,
    }
    return ImagineWidget(**{name: value for name, value in wanted.items() if value is not None})
