"""The command line: what the magics do, in a terminal.

python -m swiftai_nb imagine "a red fox" -o fox.png --steps 20
python -m swiftai_nb models list
python -m swiftai_nb doctor
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from swiftai_nb.core import plugins
from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.request import GenerationRequest
    from swiftai_nb.jobs.job import GenerationJob
    from swiftai_nb.notebook.session import Session

USAGE = """usage: python -m swiftai_nb COMMAND …

  imagine PROMPT… [-o FILE] [options]  make a picture; takes the options of %imagine (--help lists them)
  models list|info|download|delete|verify|quantize|clean …
                                       list, download and manage models
  doctor [--report]                    what this machine can do, and what is missing; with --report versions,
                                       precision and speed of the device as Markdown, for an issue
  cuda [install|remove]                MLX for NVIDIA GPUs, in a folder of its own
"""
DEFAULT_FILE = "{prompt}-{seed}.png"
OUTPUT_OPTIONS = ("-o", "--out", "--output")
FAILED, MISUSED, CANCELLED = 1, 2, 130
Command = Callable[[list[str], TextIO, TextIO], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; None takes `sys.argv`.

    Returns:
        the exit status: 0 success, 1 failure, 2 unknown command, 130 cancelled.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments else "help"
    run = _find_command(name)
    if run is None:
        sys.stderr.write(f"unknown command {name!r}\n{_usage()}")
        return MISUSED
    try:
        return run(arguments, sys.stdout, sys.stderr)
    except KeyboardInterrupt:
        sys.stderr.write("Cancelled\n")
        return CANCELLED
    except AIError as error:
        sys.stderr.write(f"{error}\n")
        return CANCELLED if isinstance(error, GenerationCancelledError) else FAILED


def _imagine(words: list[str], out: TextIO, messages: TextIO) -> int:
    from swiftai_nb.notebook.magic.options import help_text
    from swiftai_nb.notebook.magic.parser import parse
    from swiftai_nb.notebook.magic.request import Defaults, build_request
    from swiftai_nb.notebook.output.saving import check_template, save_images
    from swiftai_nb.notebook.session import Session

    file, words = _take_output(words)
    arguments = parse(" ".join(_quoted(word) for word in words))
    if arguments.help:
        out.write(f"{help_text()}\n")
        return 0
    template = next(t for t in (file, arguments.save, DEFAULT_FILE) if t is not None)
    check_template(template)
    session = Session()
    try:
        request = build_request(arguments, defaults=Defaults(), variables={}, session=session)
        for note in request.notes:
            messages.write(f"{note}\n")
        _fetch_loras(request, session, messages)
        images = _wait(session.submit(request), messages)
    finally:
        session.close()
    out.writelines(f"{path}\n" for path in save_images(images, template))
    return 0


def _fetch_loras(request: GenerationRequest, session: Session, messages: TextIO) -> None:
    if request.engine != "mlx" or not request.config.loras:
        return
    from swiftai_nb.downloads.commands import wait_in_terminal
    from swiftai_nb.registry.loras import missing_loras

    for source in missing_loras(session.registry, request.config.loras):
        wait_in_terminal(session.downloader.start_lora(source), messages)


def _take_output(words: list[str]) -> tuple[str | None, list[str]]:
    rest: list[str] = []
    file = None
    stream = iter(words)
    for word in stream:
        name, equals, value = word.partition("=")
        if name not in OUTPUT_OPTIONS:
            rest.append(word)
            continue
        file = value if equals else next(stream, None)
        if not file:
            raise InvalidInputError(f"{name} needs a file", hint=f"{name} picture.png")
    return file, rest


def _quoted(word: str) -> str:
    """Quotes an argument for the parser of the magic, which would split it again at blanks."""
    if word and not any(c.isspace() for c in word):
        return word
    quote = "'" if '"' in word else '"'
    return f"{quote}{word}{quote}"


def _wait(job: GenerationJob, messages: TextIO) -> Sequence[GeneratedImage]:
    def show(changed: GenerationJob) -> None:
        progress = changed.progress
        if progress is not None and messages.isatty():
            step = f"{progress.current_step}/{progress.total_steps} " if progress.total_steps else ""
            messages.write(f"\r\x1b[K{progress.stage} {step}{progress.formatted_eta}")
            messages.flush()

    job.subscribe(show)
    try:
        while not job.wait(0.2):
            pass
    except KeyboardInterrupt:
        job.cancel()
        raise
    finally:
        if messages.isatty():
            messages.write("\r\x1b[K")
    return job.result()


def _models(words: list[str], out: TextIO, messages: TextIO) -> int:
    from swiftai_nb.downloads import commands
    from swiftai_nb.providers.quantized_model import quantize_model

    return commands.run(words, out, quantize=quantize_model)


def _doctor(words: list[str], out: TextIO, messages: TextIO) -> int:
    if words == ["--report"]:
        from swiftai_nb.engine.kernel.report import write_report

        return write_report(out)
    from swiftai_nb.notebook.magic.doctor import imagine_doctor

    out.write(f"{imagine_doctor()!r}\n")
    return 0


def _cuda(words: list[str], out: TextIO, messages: TextIO) -> int:
    from swiftai_nb.engine.kernel import cuda

    return cuda.run(words, out)


def _help(words: list[str], out: TextIO, messages: TextIO) -> int:
    out.write(_usage())
    return 0


def _find_command(name: str) -> Command | None:
    """A built-in command, or one of another package: an entry point of the group `swiftai_nb.commands`."""
    if name in COMMANDS:
        return COMMANDS[name]
    run = plugins.load_plugins(plugins.COMMANDS).get(name)
    return None if run is None else lambda arguments, out, messages: int(run(arguments, out))


def _usage() -> str:
    lines = []
    for name, run in plugins.load_plugins(plugins.COMMANDS).items():
        summary = (run.__doc__ or "").strip().partition("\n")[0]
        lines.append(f"  {name + ' …':<35}  {summary}\n")
    return USAGE + "".join(lines)


COMMANDS: dict[str, Command] = {
    "imagine": _imagine,
    "models": _models,
    "doctor": _doctor,
    "cuda": _cuda,
    "help": _help,
    "-h": _help,
    "--help": _help,
}

if __name__ == "__main__":
    sys.exit(main())
