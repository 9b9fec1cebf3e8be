"""`python -m swiftai_nb diffusionkit`: making, checking and removing DiffusionKit's environment."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.guests.diffusionkit.environment import (
    PYTHON_VARIABLE,
    CheckedInterpreters,
    environment_folder,
    find_interpreter,
)
from swiftai_nb.guests.diffusionkit.installation import install, plan_installation
from swiftai_nb.guests.diffusionkit.probe import INSTALL

USAGE = f"""diffusionkit: an environment for DiffusionKit, beside yours and never inside it

  install [--yes] [--dry-run] [--again] [--python PATH]
                              says size and commands, asks, then makes it
  check                       what is there, and whether it can be used
  remove [--yes]              deletes it

{PYTHON_VARIABLE} names the python of an environment of your own instead.
"""
_YES = {"y", "yes"}


def run(argv: Sequence[str], out: TextIO, *, home: Path | None = None, answers: TextIO | None = None) -> int:
    """An environment for DiffusionKit (Stable Diffusion 3): install, check, remove.

    Returns:
        0 when all is well, else 1.

    Args:
        argv: the words after `diffusionkit`.
        out: where to write.
        home: folder of the user's choices; None is the usual one.
        answers: where a yes is read from; None is standard input.

    Raises:
        AIError: not understood, or the verb failed.
    """
    chosen = _parser().parse_args(list(argv) or ["help"])
    home = _home() if home is None else home
    answers = sys.stdin if answers is None else answers
    if chosen.verb == "install":
        return _install(chosen, out, answers, home)
    if chosen.verb == "remove":
        return _remove(chosen, out, answers, home)
    if chosen.verb == "check":
        return _check(out, home)
    out.write(USAGE)
    return 0


def _install(chosen: argparse.Namespace, out: TextIO, answers: TextIO, home: Path) -> int:
    plan = plan_installation(environment_folder(home), python=chosen.python)
    out.write(f"{plan}\n")
    if chosen.dry_run:
        return 0
    if not chosen.yes and not _agrees("Install it?", out, answers):
        out.write("Nothing was installed.\n")
        return 1

    def say(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    facts = install(plan, say, again=chosen.again)
    out.write(
        f"DiffusionKit is ready: {_versions(facts.versions)}. Use it: %%imagine --engine diffusionkit\n"
    )
    return 0


def _remove(chosen: argparse.Namespace, out: TextIO, answers: TextIO, home: Path) -> int:
    folder = environment_folder(home)
    if not folder.exists():
        raise InvalidInputError(f"there is no environment in {folder}", hint="nothing to remove")
    if not chosen.yes and not _agrees(f"Delete {folder}?", out, answers):
        out.write("Nothing was deleted.\n")
        return 1
    shutil.rmtree(folder)
    out.write(f"{folder} is gone; models in the Hugging Face cache stay.\n")
    return 0


def _check(out: TextIO, home: Path) -> int:
    interpreter = find_interpreter(home)
    facts = CheckedInterpreters().facts(interpreter)
    whose = "made by us" if interpreter.is_own else f"chosen by {PYTHON_VARIABLE}"
    out.write(f"ready: {_versions(facts.versions)} on Python {facts.python}, {interpreter.path} ({whose})\n")
    return 0


def _agrees(question: str, out: TextIO, answers: TextIO) -> bool:
    out.write(f"{question} [y/N] ")
    out.flush()
    return answers.readline().strip().lower() in _YES


def _versions(versions: object) -> str:
    pairs = dict(versions) if isinstance(versions, dict) else {}
    return ", ".join(f"{name} {version}" for name, version in pairs.items())


def _home() -> Path:
    from swiftai_nb.registry.user_config import state_dir

    return state_dir()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"diffusionkit: {message}", hint=f"{INSTALL}, or check, or remove")


def _parser() -> _Parser:
    parser = _Parser(prog="diffusionkit", add_help=False)
    parser.add_argument("-h", "--help", dest="verb", action="store_const", const="help")
    verbs = parser.add_subparsers(dest="verb", parser_class=_Parser)
    for name in ("check", "help"):
        verbs.add_parser(name, add_help=False)
    make = verbs.add_parser("install", add_help=False)
    for option in ("--yes", "--dry-run", "--again"):
        make.add_argument(option, action="store_true")
    make.add_argument("--python")
    verbs.add_parser("remove", add_help=False).add_argument("--yes", action="store_true")
    return parser
