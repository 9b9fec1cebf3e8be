"""The options of `%imagine`, as one table that the parser, the help and the completer all walk."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Option:
    """One option of the magic.

    Args:
        name: the long form without dashes; the field of `ImagineArguments` is `field`.
        kind: "flag", "int", "float", "text", "word" (no spaces expected), "size", "seeds",
            "choice", "variable" (a Python name), "lora" or "axes".
        help: one line.
        short: the short form, one letter, or "".
        metavar: how the value is called in the help.
        choices: allowed values of a "choice".
        field: name in `ImagineArguments`; by default the name with underscores.
    """

    name: str
    kind: str
    help: str
    short: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    field: str = ""

    @property
    def takes_value(self) -> bool:
        """Whether something must follow."""
        return self.kind != "flag"

    @property
    def attribute(self) -> str:
        """The field of `ImagineArguments` that holds it."""
        return self.field or self.name.replace("-", "_")

    @property
    def spelling(self) -> str:
        """How it is typed: "-m, --model NAME"."""
        short = f"-{self.short}, " if self.short else "    "
        return f"{short}--{self.name} {self.metavar}".rstrip()


GROUPS: dict[str, tuple[Option, ...]] = {
    "What to draw": (
        Option("negative", "text", "what to avoid; quote several words", metavar="TEXT"),
        Option("style", "word", "a style that is wrapped around the prompt", metavar="NAME"),
        Option("image", "text", "start from this picture: a variable or a path", metavar="VAR|PATH"),
        Option("strength", "float", "how far to leave that picture, 0 to 1", metavar="F"),
        Option("mask", "text", "paint only where this is white: a variable or a path", metavar="VAR|PATH"),
        Option("from", "text", "the recipe of an earlier picture", metavar="VAR|PATH", field="recipe_from"),
        Option("raw", "flag", "leave {braces} in the prompt alone"),
    ),
    "How": (
        Option("model", "word", "catalog name, Hub id or folder", "m", "NAME"),
        Option("engine", "word", "auto, local, cloud or a provider's name", "e", "NAME"),
        Option("provider", "word", "the cloud provider to ask", "p", "NAME"),
        Option("steps", "int", "denoising steps", metavar="N"),
        Option("guidance", "float", "weight of the prompt; 1 or less turns it off", metavar="F"),
        Option("size", "size", "WxH, square, portrait, landscape or wide", "s", "SIZE"),
        Option("scheduler", "word", "sampler: ddim, euler, dpm++2m, ...", metavar="NAME"),
        Option(
            "lora",
            "lora",
            "apply a LoRA; may be given several times",
            metavar="SOURCE[:SCALE]",
            field="loras",
        ),
        Option("clip-skip", "int", "skip this many last layers of the text encoder", metavar="N"),
        Option(
            "quantize",
            "int",
            "shrink the weights on load to 4 or 8 bits",
            metavar="BITS",
            field="quantization_bits",
        ),
        Option("download", "flag", "fetch the model first if it is not here"),
    ),
    "How many": (
        Option("seed", "int", "the first picture's seed; picture k has seed + k", metavar="N"),
        Option("seeds", "seeds", "one picture for each: 1,2,3 or 1-4", metavar="LIST"),
        Option("count", "int", "number of pictures", "n", "N"),
        Option("grid", "axes", "compare: steps=1,2,4 seed=1-3 (one or two axes)", metavar="AXIS=LIST ..."),
    ),
    "What becomes of it": (
        Option("out", "variable", "also bind the picture to this variable", "o", "NAME"),
        Option(
            "save", "text", "write files; {seed} {n} {model} {date} {prompt} are filled in", metavar="PATH"
        ),
        Option("quiet", "flag", "show nothing, only return the result", "q"),
        Option(
            "preview",
            "choice",
            "the picture while it forms",
            metavar="KIND",
            choices=("auto", "rgb", "taesd", "off"),
        ),
        Option("preview-every", "int", "a preview each K steps", metavar="K"),
        Option("bg", "flag", "return a job at once and draw in the background", field="background"),
        Option("executor", "variable", "draw on its workers: a Dask or ipyparallel client", metavar="NAME"),
        Option("widget", "flag", "open the widget, filled in with these values", "w"),
        Option("dry-run", "flag", "say what would happen, do nothing"),
        Option("help", "flag", "show this", "h"),
    ),
}

OPTIONS: tuple[Option, ...] = tuple(option for group in GROUPS.values() for option in group)
BY_NAME: dict[str, Option] = {f"--{option.name}": option for option in OPTIONS}
BY_NAME.update({f"-{option.short}": option for option in OPTIONS if option.short})

# What people type who come from another tool.
SYNONYMS = {
    "batch": "count",
    "cfg": "guidance",
    "cfg-scale": "guidance",
    "guidance-scale": "guidance",
    "height": "size",
    "width": "size",
    "w": "size",
    "ar": "size",
    "aspect-ratio": "size",
    "resolution": "size",
    "init-image": "image",
    "img": "image",
    "no": "negative",
    "neg": "negative",
    "negative-prompt": "negative",
    "num": "count",
    "num-images": "count",
    "output": "out",
    "sampler": "scheduler",
    "iterations": "steps",
    "num-inference-steps": "steps",
    "background": "bg",
    "variable": "out",
    "recipe": "from",
    "plan": "dry-run",
    "denoise": "strength",
    "save-as": "save",
    "silent": "quiet",
    "backend": "engine",
    "bits": "quantize",
    "cluster": "executor",
    "client": "executor",
}


def suggest(spelling: str) -> str | None:
    """The option that was probably meant by an unknown one, as it is typed; or None."""
    name = spelling.lstrip("-").lower().replace("_", "-")
    if name in SYNONYMS:
        return f"--{SYNONYMS[name]}"
    names = [option.name for option in OPTIONS]
    if name in names:
        return f"--{name}"
    starts = [known for known in names if len(name) > 1 and known.startswith(name)]
    close = starts or get_close_matches(name, names, n=1, cutoff=0.6)
    return f"--{close[0]}" if close else None


def help_text() -> str:
    """The option table as plain text."""
    width = max(len(option.spelling) for option in OPTIONS) + 2
    lines: list[str] = []
    for title, options in GROUPS.items():
        lines += ["", title]
        lines += [f"  {option.spelling:<{width}}{_help_line(option)}" for option in options]
    return "\n".join(lines[1:])


def _help_line(option: Option) -> str:
    return option.help + (f": {', '.join(option.choices)}" if option.choices else "")
