"""The verbs of `%imagine_models` and `python -m swiftai_nb models`, as functions that return what to show."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.table import Table
from swiftai_nb.downloads.deletion import delete_files
from swiftai_nb.downloads.download import Download
from swiftai_nb.downloads.downloader import DiffusionModelDownloader, parse_variant
from swiftai_nb.downloads.hub_check import HubCheck, check_catalog
from swiftai_nb.downloads.reclaimable import find_reclaimable, remove_reclaimable
from swiftai_nb.downloads.verification import verify_files
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog import catalog
from swiftai_nb.registry.model_card import ModelCard
from swiftai_nb.registry.model_info import DiffusionModelInfo, format_bytes
from swiftai_nb.registry.model_table import ModelRow, make_table
from swiftai_nb.registry.quantized_models import folder_bytes
from swiftai_nb.registry.registry import DiffusionModelRegistry

Wait = Callable[[Download, str], Any]
Quantize = Callable[..., DiffusionModelInfo]

VERBS = (
    *("list", "info", "download", "delete", "verify", "clean"),
    *("quantize", "add", "remove", "default", "help"),
)
USAGE = """models: which there are, which are here, and getting them

  list                        the table (also with no verb)
  info MODEL                  everything about one model
  download MODEL ...          fetch what is missing; interrupted ones continue
      --variant FAMILY        for a Hub repository that is not in the table
  delete MODEL ...            free its disk space
  verify MODEL ... [--repair] compare the files here with their announced hashes
  verify [--json]             compare the table itself with the Hub (for maintainers)
  quantize MODEL --bits 4|8   keep a packed copy: [--id NAME]; it loads quicker and in less memory
  clean [--delete]            show (or free) what interrupted downloads left, of all tools
  add FOLDER | OWNER/NAME     a model of your own: [--variant FAMILY] [--id NAME] [--revision COMMIT]
  remove MODEL                forget your own entry; its files stay
  default [MODEL | none]      the model used when none is named
"""


class Text(str):
    """Words to show as they are."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class ModelCommands:
    """The verbs over one registry.

    Args:
        registry: None is the shared one.
        downloader: None makes one for the registry.
        wait: shows a running download until it is over; gets the handle and a title.
        say: shows a line at once, for verbs that take long.
        endpoint: another Hub, for `verify`.
        quantize: makes a packed copy; needs the engine, which this floor does not know.
    """

    def __init__(
        self,
        *,
        registry: DiffusionModelRegistry | None = None,
        downloader: DiffusionModelDownloader | None = None,
        wait: Wait = lambda download, _title: download.wait(),
        say: Callable[[str], None] = lambda _line: None,
        endpoint: str | None = None,
        quantize: Quantize | None = None,
    ) -> None:
        self._quantize = quantize
        self.registry = DiffusionModelRegistry.shared if registry is None else registry
        self.downloader = (
            DiffusionModelDownloader(registry=self.registry, endpoint=endpoint)
            if downloader is None
            else downloader
        )
        self._wait = wait
        self._say = say
        self._endpoint = endpoint

    def run(self, words: Sequence[str]) -> tuple[Any, bool]:
        """Does what the words say: what to show, and whether all is well.

        Raises:
            InvalidInputError: not understood.
            AIError: the verb failed.
        """
        chosen = _parsed(list(words) or ["list"])
        result = getattr(self, chosen.verb)(chosen)
        return result if isinstance(result, tuple) else (result, True)

    def help(self, _chosen: Any) -> Text:
        """How to use the verbs."""
        return Text(USAGE)

    def list(self, _chosen: Any) -> Table[ModelRow]:
        """The table."""
        return make_table(self.registry)

    def info(self, chosen: Any) -> ModelCard:
        """Everything about one model."""
        return ModelCard.of(self.registry, chosen.model)

    def download(self, chosen: Any) -> Text:
        """Fetches models one after another."""
        lines = []
        for name in chosen.models:
            here = self.registry.downloaded_model(name)
            if here is not None:
                lines.append(f"{here.id} is here already: {here.formatted_size} in {here.local_path}")
                continue
            for running in self.downloader.start_missing(name, chosen.variant):
                folder = self._wait(running, f"Download of {running.job.model_id}")
                lines.append(f"{running.job.model_id} is ready: {folder}")
        return Text("\n".join(lines))

    def delete(self, chosen: Any) -> Text:
        """Deletes models."""
        lines = []
        for name in chosen.models:
            info = self.registry.find(name)
            self.downloader.cancel_download(info.id)
            freed = delete_files(self.registry, name)
            lines.append(f"{info.id}: {format_bytes(freed)} freed{self._also_gone(info.id, info.repository)}")
        return Text("\n".join(lines))

    def _also_gone(self, name: str, repository: str | None) -> str:
        others = [i.id for i in self.registry.available_models if i.repository == repository and i.id != name]
        return f" (the same files were {', '.join(others)})" if repository and others else ""

    def verify(self, chosen: Any) -> tuple[Any, bool]:
        """Files against hashes; without a model, the table against the Hub."""
        if not chosen.models:
            return self._verify_catalog(as_json=chosen.json)
        results = []
        for name in chosen.models:
            self._say(f"reading {name}")
            results.append(verify_files(self.registry, name, repair=chosen.repair))
        return Text("\n".join(repr(r) for r in results)), all(r.is_good for r in results)

    def _verify_catalog(self, *, as_json: bool) -> tuple[Text, bool]:
        def tell(check: HubCheck) -> None:
            if not as_json:
                self._say(str(check))

        checks = check_catalog(catalog(), endpoint=self._endpoint, on_check=tell)
        wrong = sum(not c.is_good for c in checks)
        words = f"{len(checks)} repositories asked, {wrong} differ from the table"
        if as_json:
            words = json.dumps([asdict(c) for c in checks], indent=1)
        return Text(words), wrong == 0

    def quantize(self, chosen: Any) -> Text:
        """Keeps a packed copy of a model."""
        if self._quantize is None:
            raise InvalidInputError(
                "quantize needs the local engine", hint="python -m swiftai_nb models quantize"
            )
        info = self._quantize(self.registry, chosen.model, bits=chosen.bits, id=chosen.id, say=self._say)
        was = format_bytes(folder_bytes(self.registry.resolve(chosen.model).folder))
        return Text(f"{info.id} is ready: {info.formatted_size} (was {was}) in {info.local_folder}")

    def clean(self, chosen: Any) -> Text:
        """Shows or frees what interrupted downloads left."""
        if chosen.delete:
            return Text(f"{format_bytes(remove_reclaimable(self.registry.cache_dir))} freed")
        found = find_reclaimable(self.registry.cache_dir)
        if not found:
            return Text("nothing to clean: no interrupted downloads")
        lines = [f"{format_bytes(f.size_bytes):>9}  {f.repository}  {_use(f.is_resumable)}" for f in found]
        total = format_bytes(sum(f.size_bytes for f in found))
        return Text("\n".join([*lines, f"{total:>9}  in all; clean --delete frees it"]))

    def add(self, chosen: Any) -> Text:
        """Registers an own folder or repository."""
        variant = None if chosen.variant is None else parse_variant(chosen.variant)
        if Path(chosen.source).expanduser().is_dir():
            info = self.registry.add_folder(chosen.source, id=chosen.id, variant=variant)
            return Text(f"{info.id} is registered ({info.variant.display_name}, {info.local_folder})")
        if variant is None:
            families = ", ".join(v.value for v in DiffusionVariant)
            raise InvalidInputError(
                f"{chosen.source} is no folder here; for a Hub repository say its family",
                hint=f"add {chosen.source} --variant one of {families}",
            )
        info = self.registry.add_repository(
            chosen.source, variant=variant, id=chosen.id, revision=chosen.revision
        )
        return Text(f"{info.id} is registered; download {info.id} fetches it")

    def remove(self, chosen: Any) -> Text:
        """Forgets an own entry."""
        info = self.registry.find(chosen.model)
        if not self.registry.remove_custom(chosen.model):
            raise InvalidInputError(
                f"{info.id} is a built-in model", hint=f"delete {info.id} frees its space"
            )
        return Text(f"{info.id} is forgotten; its files stay")

    def default(self, chosen: Any) -> Text:
        """Shows or sets the model used when none is named."""
        if chosen.model is not None:
            self.registry.default_model = None if chosen.model == "none" else chosen.model
        used = self.registry.resolve(None).info.id
        wanted = self.registry.default_model
        wait = f" ({wanted} is wanted, and not downloaded)" if wanted not in (None, used) else ""
        return Text(f"default model: {used}{wait}")


def run(argv: Sequence[str], out: TextIO, *, quantize: Quantize | None = None) -> int:
    """`python -m swiftai_nb models ARGV`: writes the result to `out`; 0 when all is well, else 1.

    Raises:
        AIError: not understood, or the verb failed.
        KeyboardInterrupt: Ctrl-C; a running download is cancelled, what came is kept.
    """

    def say(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    verbs = ModelCommands(
        wait=lambda download, _title: wait_in_terminal(download, out), say=say, quantize=quantize
    )
    result, is_good = verbs.run(argv)
    out.write(f"{result!r}\n")
    return 0 if is_good else 1


def wait_in_terminal(download: Download, out: TextIO) -> Path:
    """Writes how far a download is until it is over; its folder.

    Raises:
        AIError: it failed.
        KeyboardInterrupt: Ctrl-C; it is cancelled, what came is kept.
    """
    shown = -1
    try:
        while not download.is_over:
            try:
                return download.wait(0.25)
            except TimeoutError:
                progress = download.progress
                if out.isatty():
                    out.write(f"\r\x1b[K{progress}")
                elif progress.percent_completed // 10 > shown and progress.total_bytes:
                    shown = progress.percent_completed // 10
                    out.write(f"{progress}\n")
                out.flush()
        return download.result()
    finally:
        download.cancel()
        if out.isatty():
            out.write("\r\x1b[K")


def _use(is_resumable: bool) -> str:
    return "a new download continues it" if is_resumable else "left by another tool; nothing reads it again"


def _parsed(words: list[str]) -> argparse.Namespace:
    words = ["quantize" if words[0] == "quantize" else words[0], *words[1:]]
    if words[0] not in (*VERBS, "-h", "--help"):
        close = difflib.get_close_matches(words[0], VERBS, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInputError(f"models has no verb {words[0]!r}", hint=f"{meant}{', '.join(VERBS)}")
    return _parser().parse_args(words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"models: {message}", hint="models help lists the verbs")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise InvalidInputError(f"models: {message or 'stopped'}", hint="models help lists the verbs")


def _parser() -> _Parser:
    parser = _Parser(prog="models", add_help=False)
    parser.add_argument("-h", "--help", dest="verb", action="store_const", const="help")
    verbs = parser.add_subparsers(dest="verb", parser_class=_Parser)
    for name in ("list", "help"):
        verbs.add_parser(name, add_help=False)
    for name in ("info", "remove"):
        verbs.add_parser(name, add_help=False).add_argument("model")
    verbs.add_parser("default", add_help=False).add_argument("model", nargs="?")
    download = verbs.add_parser("download", add_help=False)
    download.add_argument("models", nargs="+")
    download.add_argument("--variant")
    verbs.add_parser("delete", add_help=False).add_argument("models", nargs="+")
    quantize = verbs.add_parser("quantize", add_help=False)
    quantize.add_argument("model")
    quantize.add_argument("--bits", type=int, required=True)
    quantize.add_argument("--id")
    verify = verbs.add_parser("verify", add_help=False)
    verify.add_argument("models", nargs="*")
    verify.add_argument("--repair", action="store_true")
    verify.add_argument("--json", action="store_true")
    verbs.add_parser("clean", add_help=False).add_argument("--delete", action="store_true")
    add = verbs.add_parser("add", add_help=False)
    add.add_argument("source")
    for option in ("--variant", "--id", "--revision"):
        add.add_argument(option)
    return parser
