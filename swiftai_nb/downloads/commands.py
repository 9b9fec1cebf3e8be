"""The commands of `%imagine_models` and `python -m swiftai_nb models`; each returns what to show."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.table import Table
from swiftai_nb.downloads.cache_files import check_revision
from swiftai_nb.downloads.deletion import delete_files, find_reclaimable, remove_reclaimable
from swiftai_nb.downloads.download import Download
from swiftai_nb.downloads.downloader import DiffusionModelDownloader, parse_variant
from swiftai_nb.downloads.verification import HubCheck, check_catalog, verify_files
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog import catalog
from swiftai_nb.registry.entries import folder_bytes
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.model_tables import ModelCard, ModelRow, make_table
from swiftai_nb.registry.registry import DiffusionModelRegistry

Wait = Callable[[Download, str], Any]
Quantize = Callable[..., DiffusionModelInfo]

COMMANDS = (
    *("list", "info", "download", "delete", "verify", "clean"),
    *("quantize", "add", "remove", "default", "help"),
)
_ALIASES = {"quantise": "quantize", "-h": "help", "--help": "help"}
USAGE = """models: list, download and manage models

  list [--all]                models and what is installed (the default); --all: their parts, too
  info MODEL                  details of one model
  download MODEL ...          download what is missing; interrupted downloads resume
      --variant FAMILY        for a Hub repository that is not in the list
  delete MODEL ...            delete its files and free the disk space
  verify MODEL ... [--repair] compare installed files with their published checksums
  verify [--json]             compare the built-in list with the Hub (for maintainers)
  quantize MODEL --bits 4|8   save a quantized model [--id NAME]: loads faster, needs less memory
  clean [--delete]            show (or delete) what interrupted downloads left, of all tools
  add FOLDER | OWNER/NAME     register your own model [--variant FAMILY] [--id NAME] [--revision COMMIT]
  remove MODEL                unregister your own model; its files stay
  default [MODEL | none]      show or set the model used when none is named
"""


class Text(str):
    """Text to show as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class ModelCommands:
    """The commands over one registry.

    Args:
        registry: None is the shared one.
        downloader: None makes one for the registry.
        wait: shows a running download until it is done; gets the download and a title.
        log: shows a line at once, for commands that take long.
        endpoint: another Hub, for `verify`.
        quantize: saves a quantized model; needs the engine, which this layer does not know.
    """

    def __init__(
        self,
        *,
        registry: DiffusionModelRegistry | None = None,
        downloader: DiffusionModelDownloader | None = None,
        wait: Wait = lambda download, _title: download.result(),
        log: Callable[[str], None] = lambda _line: None,
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
        self._log = log
        self._endpoint = endpoint

    def run(self, arguments: Sequence[str]) -> tuple[Any, bool]:
        """Runs a command: what to show, and whether it succeeded.

        Raises:
            InvalidInputError: not a command, or wrong arguments.
            AIError: the command failed.
        """
        chosen = _parse(list(arguments) or ["list"])
        try:
            result = getattr(self, chosen.command)(chosen)
        except AIError:
            raise
        except OSError as error:
            raise AIError(
                f"cannot access {error.filename or 'the model cache'}: {error.strerror or error}",
                hint="check who owns the file and who may read and write it",
            ) from error
        return result if isinstance(result, tuple) else (result, True)

    def help(self, _chosen: Any) -> Text:
        """The usage."""
        return Text(USAGE)

    def list(self, chosen: Any) -> Table[ModelRow]:
        """The models."""
        reclaimable = find_reclaimable(self.registry.cache_dir)
        held = sum(f.size_bytes for f in reclaimable)
        return make_table(self.registry, has_all=chosen.all, reclaimable_bytes=held)

    def info(self, chosen: Any) -> ModelCard:
        """Details of one model."""
        return ModelCard.of(self.registry, chosen.model)

    def download(self, chosen: Any) -> Text:
        """Downloads models one after another."""
        lines = []
        for name in chosen.models:
            installed = self.registry.downloaded_model(name)
            if installed is not None:
                lines.append(
                    f"{installed.id} is already installed: "
                    f"{installed.formatted_size} in {installed.local_path}"
                )
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
            lines.append(f"{info.id}: {format_bytes(freed)} freed{self._shared_with(info)}")
        return Text("\n".join(lines))

    def _shared_with(self, info: DiffusionModelInfo) -> str:
        models = self.registry.available_models
        others = [i.id for i in models if i.repository == info.repository and i.id != info.id]
        return f" (also deletes {', '.join(others)}: same files)" if info.repository and others else ""

    def verify(self, chosen: Any) -> tuple[Any, bool]:
        """Compares files with checksums; without a model, the catalog with the Hub."""
        if not chosen.models:
            return self._verify_catalog(as_json=chosen.json)
        results = []
        for name in chosen.models:
            self._log(f"reading {name}")
            results.append(verify_files(self.registry, name, repair=chosen.repair))
        return Text("\n".join(repr(r) for r in results)), all(r.is_good for r in results)

    def _verify_catalog(self, *, as_json: bool) -> tuple[Text, bool]:
        def log(check: HubCheck) -> None:
            if not as_json:
                self._log(str(check))

        checks = check_catalog(catalog(), endpoint=self._endpoint, on_check=log)
        wrong = sum(not c.is_good for c in checks)
        text = f"{len(checks)} repositories checked, {wrong} differ from the table"
        if as_json:
            text = json.dumps([asdict(c) for c in checks], indent=1)
        return Text(text), wrong == 0

    def quantize(self, chosen: Any) -> Text:
        """Saves a quantized model."""
        if self._quantize is None:
            raise InvalidInputError(
                "quantize needs the local engine", hint="python -m swiftai_nb models quantize"
            )
        info = self._quantize(self.registry, chosen.model, bits=chosen.bits, id=chosen.id, say=self._log)
        was = format_bytes(folder_bytes(self.registry.resolve(chosen.model).folder))
        return Text(f"{info.id} is ready: {info.formatted_size} (was {was}) in {info.local_folder}")

    def clean(self, chosen: Any) -> Text:
        """Shows or deletes what interrupted downloads left."""
        if chosen.delete:
            freed, refused = remove_reclaimable(self.registry.cache_dir)
            kept = "".join(f"\nnot deleted (permission denied): {f.path}" for f in refused)
            return Text(f"{format_bytes(freed)} freed{kept}")
        found = find_reclaimable(self.registry.cache_dir)
        if not found:
            return Text("nothing to clean: no interrupted downloads")
        lines = [f"{format_bytes(f.size_bytes):>9}  {f.repository}  {_kind(f.is_resumable)}" for f in found]
        total = format_bytes(sum(f.size_bytes for f in found))
        return Text("\n".join([*lines, f"{total:>9}  total; clean --delete frees it"]))

    def add(self, chosen: Any) -> Text:
        """Registers a user's folder, single file or repository."""
        variant = None if chosen.variant is None else parse_variant(chosen.variant)
        if user_path(chosen.source).exists():
            info = self.registry.add_folder(chosen.source, id=chosen.id, variant=variant)
            return Text(f"{info.id} is registered ({info.variant.display_name}, {info.local_folder})")
        if variant is None:
            families = ", ".join(v.value for v in DiffusionVariant)
            raise InvalidInputError(
                f"{chosen.source} is not a folder on this machine; a Hub repository needs its family",
                hint=f"add {chosen.source} --variant FAMILY, one of {families}",
            )
        info = self.registry.add_repository(
            chosen.source, variant=variant, id=chosen.id, revision=check_revision(chosen.revision)
        )
        return Text(f"{info.id} is registered; get its files with: download {info.id}")

    def remove(self, chosen: Any) -> Text:
        """Unregisters a user's model."""
        info = self.registry.find(chosen.model)
        if not self.registry.remove_custom(chosen.model):
            raise InvalidInputError(
                f"{info.id} is a built-in model", hint=f"delete {info.id} frees its space"
            )
        return Text(f"{info.id} is no longer registered; its files stay")

    def default(self, chosen: Any) -> Text:
        """Shows or sets the model used when none is named."""
        if chosen.model is not None:
            self.registry.default_model = None if chosen.model == "none" else chosen.model
        used = self.registry.resolve(None).info.id
        wanted = self.registry.default_model
        note = f" ({wanted} is set as the default but not downloaded)" if wanted not in (None, used) else ""
        return Text(f"default model: {used}{note}")


def run(argv: Sequence[str], out: TextIO, *, quantize: Quantize | None = None) -> int:
    """`python -m swiftai_nb models ARGV`: writes the result to `out`; 0 on success, else 1.

    Raises:
        AIError: wrong arguments, or the command failed.
        KeyboardInterrupt: Ctrl-C; a running download is cancelled and can be resumed.
    """

    def log(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    commands = ModelCommands(
        wait=lambda download, _title: wait_in_terminal(download, out), log=log, quantize=quantize
    )
    result, is_good = commands.run(argv)
    out.write(f"{result!r}\n")
    return 0 if is_good else 1


def wait_in_terminal(download: Download, out: TextIO) -> Path:
    """Writes a download's progress until it is done; returns its folder.

    Raises:
        AIError: it failed.
        KeyboardInterrupt: Ctrl-C; it is cancelled and can be resumed.
    """
    shown = -1
    try:
        while not download.wait(0.25):
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


def _kind(is_resumable: bool) -> str:
    return "the next download resumes it" if is_resumable else "left by another tool; cannot be resumed"


def _parse(arguments: list[str]) -> argparse.Namespace:
    command = _ALIASES.get(arguments[0], arguments[0])
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        raise InvalidInputError(
            f"unknown command {command!r}. Available: {', '.join(COMMANDS)}",
            hint=f"did you mean {close[0]!r}?" if close else "%imagine_models help",
        )
    return _parser().parse_args([command, *arguments[1:]])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"models: {message}", hint="models help lists the commands")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise InvalidInputError(f"models: {message or 'stopped'}", hint="models help lists the commands")


def _parser() -> _Parser:
    parser = _Parser(prog="models", add_help=False)
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    commands.add_parser("help", add_help=False)
    commands.add_parser("list", add_help=False).add_argument("--all", action="store_true")
    for name in ("info", "remove"):
        commands.add_parser(name, add_help=False).add_argument("model")
    commands.add_parser("default", add_help=False).add_argument("model", nargs="?")
    download = commands.add_parser("download", add_help=False)
    download.add_argument("models", nargs="+")
    download.add_argument("--variant")
    commands.add_parser("delete", add_help=False).add_argument("models", nargs="+")
    quantize = commands.add_parser("quantize", add_help=False)
    quantize.add_argument("model")
    quantize.add_argument("--bits", type=int, required=True)
    quantize.add_argument("--id")
    verify = commands.add_parser("verify", add_help=False)
    verify.add_argument("models", nargs="*")
    verify.add_argument("--repair", action="store_true")
    verify.add_argument("--json", action="store_true")
    commands.add_parser("clean", add_help=False).add_argument("--delete", action="store_true")
    add = commands.add_parser("add", add_help=False)
    add.add_argument("source")
    for option in ("--variant", "--id", "--revision"):
        add.add_argument(option)
    return parser
