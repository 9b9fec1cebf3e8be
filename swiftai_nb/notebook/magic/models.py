"""`%imagine_models`: the verbs of the registry, with a live view of a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import DownloadCancelledError
from swiftai_nb.notebook.cell.download import DownloadWork
from swiftai_nb.notebook.cell.views import create_view
from swiftai_nb.notebook.cell.wait import GenerationInterrupted, outcome, wait
from swiftai_nb.notebook.magic.tokens import split
from swiftai_nb.notebook.session import get_session

if TYPE_CHECKING:
    from swiftai_nb.downloads.download import Download

_VIEW_SIZE = (1, 1)  # CSS pixels: no picture stands beside the bar


def imagine_models(line: str) -> Any:
    """Does what the line says; the result shows itself as a table or as text.

    Raises:
        AIError: not understood, or the verb failed.
        GenerationInterrupted: the stop button ended a download; what came is kept.
    """
    from swiftai_nb.downloads.commands import ModelCommands
    from swiftai_nb.providers.quantized_model import quantize_model

    session = get_session()
    verbs = ModelCommands(
        registry=session.registry,
        downloader=session.downloader,
        wait=_show_until_over,
        log=_say,
        quantize=quantize_model,
    )
    result, _is_good = verbs.run([token.value for token in split(line)])
    return result


def _say(line: str) -> None:
    from IPython.display import display

    display({"text/plain": line}, raw=True)


def _show_until_over(download: Download, title: str) -> Path:
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
