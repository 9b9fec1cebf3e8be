"""The options of `%imagine` as one table, walked by the parser, the help and the completion."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from swiftai_nb.core.cpu_kernels import PRECISIONS
from swiftai_nb.core.prompt_syntax import SYNTAXES
from swiftai_nb.notebook.magic.option_values import CONVERTERS


@dataclass(frozen=True)
class Option:
    """One option of the magic.

    Args:
        name: the long form without dashes.
        kind: "flag", "int", "float", "text", "word" (no spaces expected), "size", "seeds",
            "choice", "variable" (a Python name), "lora", "control", "outpaint", "setting" (NAME=VALUE)
            or "axes".
        help: one line.
        short: the short form, one letter, or "".
        metavar: name of the value in the help.
        choices: allowed values of a "choice".
        field: name in `ImagineArguments`; by default the name with underscores.
        setting: the field of `ImageGenerationConfig` it sets, or "".
        values: what completion offers, a source of `OptionValues`, or "" for the choices.
        is_axis: whether `--grid` can vary it.
        excludes: names of options that cannot be given with it.
        needs: name of an option it makes no sense without, or "".
        repeats: whether it may be given several times; its field is a tuple.
    """

    name: str
    kind: str
    help: str
    short: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    field: str = ""
    setting: str = ""
    values: str = ""
    is_axis: bool = False
    excludes: tuple[str, ...] = ()
    needs: str = ""
    repeats: bool = False

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

    def convert(self, text: str) -> Any:
        """The value typed as `text`.

        Raises:
            InvalidInputError: the text does not fit the option.
        """
        return CONVERTERS[self.kind](self, text)


# fmt: off
GROUPS: dict[str, tuple[Option, ...]] = {
    "Prompt and pictures": (
        Option("negative", "text", "what to avoid; quote multi-word values", metavar="TEXT", is_axis=True),
        Option("style", "word", "a style that is applied to the prompt", metavar="NAME", values="styles",
               is_axis=True),
        Option("image", "text", "start from this picture: a variable or a path", metavar="VAR|PATH",
               values="pictures", is_axis=True),
        Option("strength", "float", "how much it may change, 0 to 1", metavar="F", setting="strength",
               is_axis=True, needs="image"),
        Option("mask", "text", "paint only where this is white: a variable or a path", metavar="VAR|PATH",
               values="pictures", is_axis=True, needs="image"),
        Option("feather", "int", "pixels inside the mask's edge over which painting fades in", metavar="N",
               field="mask_feather", setting="mask_feather", is_axis=True, needs="mask"),
        Option("outpaint", "outpaint", "continue the picture beyond its edges: left=128,top=64",
               metavar="SIDES", setting="outpaint", needs="image", values="sides"),
        Option("with", "text", "change this picture by the prompt, or take things from it; may be given "
               "several times", metavar="VAR|PATH", field="references", values="pictures", is_axis=True,
               repeats=True),
        Option("control", "control", "follow a picture by canny, lineart, scribble, tile, depth, pose or "
               "a ControlNet; may be given several times", metavar="KIND=VAR|PATH[:SCALE]", field="controls",
               values="controls", is_axis=True, repeats=True),
        Option("embed-references", "flag", "keep the given pictures in the recipe, not only small ones",
               excludes=("widget",)),
        Option("from", "text", "the recipe of an earlier picture", metavar="VAR|PATH", field="recipe_from",
               values="pictures"),
        Option("prompt-syntax", "choice", "whether (x:1.3), [x], BREAK, AND are text or weights, or x++ is",
               metavar="KIND", choices=SYNTAXES, setting="prompt_syntax", is_axis=True),
        Option("plain", "flag", "add nothing to the prompt: the bundled model chooses a place by the seed",
               excludes=("widget",)),
        Option("raw", "flag", "do not replace {variables} in the prompt"),
    ),
    "Model and sampling": (
        Option("model", "word", "catalog name, Hub id, folder or file", "m", "NAME", setting="model",
               values="models", is_axis=True),
        Option("engine", "word", "auto, local, cloud or a provider's name", "e", "NAME", values="engines",
               is_axis=True),
        Option("provider", "word", "the cloud provider to use", "p", "NAME", values="providers",
               is_axis=True),
        Option("base-url", "word", "server with OpenAI's Images API, or a cloud endpoint", metavar="URL"),
        Option("bill-to", "word", "the organization that pays for the cloud", metavar="ORG"),
        Option("extra", "setting", "a cloud service's own setting; may be given several times",
               metavar="NAME=VALUE", setting="extra_body", field="extra_body", repeats=True),
        Option("steps", "int", "denoising steps", metavar="N", setting="steps", is_axis=True),
        Option("guidance", "float", "prompt strength (CFG); 1 or less disables it (Z-Image: 0)", metavar="F",
               setting="guidance_scale", is_axis=True),
        Option("image-guidance", "float", "how closely InstructPix2Pix keeps to its picture, from 1 (1.5)",
               metavar="F", field="image_guidance_scale", setting="image_guidance_scale", is_axis=True,
               needs="with"),
        Option("size", "size", "WxH, square, portrait, landscape or wide", "s", "SIZE", values="sizes",
               is_axis=True),
        Option("scheduler", "word", "sampler: ddim, euler, dpm++2m, ...", metavar="NAME", setting="scheduler",
               values="schedulers", is_axis=True),
        Option("guidance-rescale", "float", "0 to 1, against over-exposure by strong guidance", metavar="F",
               setting="guidance_rescale", is_axis=True),
        Option("eta", "float", "noise of the samplers ddim and tcd, 0 to 1", metavar="F", setting="eta",
               is_axis=True),
        Option("lora", "lora", "apply a LoRA; may be given several times", metavar="SOURCE[:SCALE]",
               field="loras", setting="loras", values="loras", is_axis=True, repeats=True),
        Option("vae", "word", "another autoencoder: folder, file or name", metavar="PATH|NAME", setting="vae",
               values="weights", is_axis=True),
        Option("embedding", "text", "a textual inversion, a word of the prompt; may be given several times",
               metavar="FILE", field="embeddings", setting="embeddings", values="weights",
               is_axis=True, repeats=True),
        Option("clip-skip", "int", "skip this many last layers of the text encoder", metavar="N",
               setting="clip_skip", is_axis=True),
        Option("quantize", "int", "quantize the weights to 4, 5, 6 or 8 bits when loading", metavar="BITS",
               field="quantization_bits", setting="quantization_bits", values="bits", is_axis=True),
        Option("precision", "choice", "what the network is computed in: auto is the faster one",
               metavar="KIND", choices=PRECISIONS, setting="precision", is_axis=True),
        Option("download", "flag", "download the model first if it is not installed"),
    ),
    "Larger pictures": (
        Option("hires", "float", "draw it again, so many times larger, from the first picture", metavar="F",
               setting="hires", is_axis=True),
        Option("hires-strength", "float", "how much the second pass may change, 0 to 1 (0.4)", metavar="F",
               setting="hires_strength", is_axis=True, needs="hires"),
        Option("hires-steps", "int", "denoising steps of the second pass", metavar="N", setting="hires_steps",
               is_axis=True, needs="hires"),
        Option("upscale", "float", "enlarge the finished picture, 1 to 8 times", metavar="F",
               setting="upscale", is_axis=True),
        Option("upscaler", "text", "of both: a name, a file, or lanczos", metavar="NAME|PATH",
               setting="upscaler", values="upscalers", is_axis=True),
    ),
    "Number of pictures": (
        Option("seed", "int", "the first picture's seed; picture k has seed + k", metavar="N", setting="seed",
               is_axis=True),
        Option("seeds", "seeds", "one picture for each: 1,2,3 or 1-4", metavar="LIST",
               excludes=("seed", "count")),
        Option("count", "int", "number of pictures", "n", "N"),
        Option("grid", "axes", "compare: steps=1,2,4 seed=1-3 (one or two axes)", metavar="AXIS=LIST ...",
               values="axes", excludes=("count", "seeds")),
    ),
    "Output": (
        Option("out", "variable", "also bind the picture to this variable", "o", "NAME"),
        Option("save", "text", "write files; {seed} {n} {model} {date} {prompt} are filled in",
               metavar="PATH", values="folders"),
        Option("quiet", "flag", "show nothing, only return the result", "q", excludes=("widget",)),
        Option("preview", "choice", "the picture while it forms", metavar="KIND",
               choices=("auto", "rgb", "taesd", "off")),
        Option("preview-every", "int", "a preview every K steps", metavar="K"),
        Option("bg", "flag", "return a job at once and run in the background", field="background",
               excludes=("widget",)),
        Option("executor", "variable", "run on its workers: a Dask or ipyparallel client", metavar="NAME",
               values="executors", excludes=("widget", "download")),
        Option("widget", "flag", "open the widget, filled in with these values", "w"),
        Option("dry-run", "flag", "show what would happen, without doing it"),
        Option("help", "flag", "show this help", "h"),
    ),
}
# fmt: on

OPTIONS: tuple[Option, ...] = tuple(option for group in GROUPS.values() for option in group)
BY_NAME: dict[str, Option] = {f"--{option.name}": option for option in OPTIONS}
BY_NAME.update({f"-{option.short}": option for option in OPTIONS if option.short})

# Names of options in other tools.
_FOREIGN_NAMES = {
    "count": "batch num num-images",
    "guidance": "cfg cfg-scale guidance-scale",
    "size": "height width w ar aspect-ratio resolution",
    "image": "init-image img",
    "control": "controlnet control-image",
    "with": "reference references edit ref",
    "negative": "no neg negative-prompt",
    "out": "output variable",
    "scheduler": "sampler",
    "guidance-rescale": "cfg-rescale rescale-cfg",
    "image-guidance": "image-cfg image-cfg-scale image-guidance-scale",
    "feather": "mask-blur blur mask-feather",
    "steps": "iterations num-inference-steps",
    "bg": "background",
    "from": "recipe",
    "dry-run": "plan",
    "strength": "denoise",
    "outpaint": "outpainting extend uncrop expand",
    "hires": "hires-fix hr hr-scale hires-upscale",
    "hires-strength": "hr-strength hires-denoise",
    "upscale": "enlarge upscale-by scale",
    "upscaler": "esrgan hr-upscaler hires-upscaler",
    "save": "save-as",
    "quiet": "silent",
    "engine": "backend",
    "quantize": "bits",
    "embedding": "textual-inversion ti",
    "prompt-syntax": "emphasis weighting",
    "executor": "cluster client",
    "base-url": "endpoint server url",
    "extra": "extra-body",
}
SYNONYMS = {foreign: name for name, names in _FOREIGN_NAMES.items() for foreign in names.split()}


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


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Args:
        name: the option that varies, or "prompt".
        values: one for each column or row, converted.
        labels: the same as typed.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
