"""The magics: `%imagine` (and `%%imagine`), `%imagine_models`, `_history`, `_jobs` and `_doctor`.

Quick to import: providers are imported with the first picture.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from traitlets import Bool, Dict, Enum, Float, Int, Unicode, observe

from swiftai_nb.core.errors import AIError, InvalidInputError, ModelNotFoundError
from swiftai_nb.notebook.magic.options import help_text

if TYPE_CHECKING:
    from swiftai_nb.notebook.magic.parser import ImagineArguments
    from swiftai_nb.notebook.magic.request import Defaults
    from swiftai_nb.notebook.magic.runner import Settings

USAGE = """Make a picture from a prompt.

    %%imagine [options] [prompt]         %imagine [options] prompt
    more of the prompt                   img = %imagine a red fox --steps 8

Options and prompt may be mixed; "--" ends the options; quote multi-word values. {name} is
replaced by a variable, {{name}} is not. A line "Negative prompt: ..." (or a whole block pasted from
AUTOMATIC1111) is understood. Returns the pictures, which are also `_imagine`. Cancel, the stop
button or Ctrl-C end the work within one step and keep what is finished.
"""


@magics_class
class Imagine(Magics):  # type: ignore[misc]
    """The `%imagine` magics. The traits are defaults of the options, which `%imagine --help` lists."""

    model = Unicode(None, allow_none=True, help="Default model.").tag(config=True)
    engine = Unicode("auto", help="auto, local, cloud, or a provider's name.").tag(config=True)
    provider = Unicode(None, allow_none=True, help="Cloud provider, such as fal-ai.").tag(config=True)
    base_url = Unicode(None, allow_none=True, help="Server of --engine openai.").tag(config=True)
    bill_to = Unicode(None, allow_none=True, help="Organization that pays for --engine cloud.").tag(
        config=True
    )
    steps = Int(None, allow_none=True, help="Denoising steps.").tag(config=True)
    guidance = Float(None, allow_none=True, help="Prompt strength (CFG).").tag(config=True)
    size = Unicode(None, allow_none=True, help="WxH, square, portrait, landscape or wide.").tag(config=True)
    negative = Unicode(None, allow_none=True, help="Things to avoid in every picture.").tag(config=True)
    preview = Enum(["auto", "rgb", "taesd", "off"], "auto", help="Kind of preview.").tag(config=True)
    preview_every = Int(1, min=1, help="Show a preview every N steps.").tag(config=True)
    plain = Bool(False, help="Add nothing to prompts, as the bundled model does by the seed.").tag(
        config=True
    )
    styles = Dict(
        value_trait=Unicode(), key_trait=Unicode(), help='Your own styles: {"mine": "a sketch of {prompt}"}.'
    ).tag(config=True)
    wildcards = Unicode(
        None,
        allow_none=True,
        help="Folder of text files, one line of which is drawn for __name__ in a prompt.",
    ).tag(config=True)
    save = Unicode(None, allow_none=True, help="Also save every picture: a path with {seed}, {n}, ...").tag(
        config=True
    )
    embed_limit_mb = Float(8.0, min=0.0, help="Larger pictures are stored as files beside the notebook.").tag(
        config=True
    )
    history_folder = Unicode(
        None, allow_none=True, help="Keep the history in this folder, across kernels."
    ).tag(config=True)
    captions = Bool(True, help="A line under the pictures: model, size, steps, seed, time.").tag(config=True)
    embed_references = Enum(
        ["small", "all", "none"], "small", help="Which given pictures a recipe keeps; small is up to 128 kB."
    ).tag(config=True)
    display = Enum(["auto", "widget", "html", "text"], "auto", help="Display of a running cell.").tag(
        config=True
    )

    @needs_local_scope  # type: ignore[untyped-decorator]
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def imagine(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Makes a picture from a prompt; the options follow."""
        variables = ChainMap(local_ns or {}, self.shell.user_ns)
        arguments = self._parse(line, cell or "", variables)
        if arguments.help:
            self._show_text(f"{USAGE}\n{help_text()}")
            return None
        if arguments.widget:
            from swiftai_nb.notebook.magic.commands import open_widget

            return self._lazily(lambda _: open_widget(arguments, self.defaults(), variables), line)
        from swiftai_nb.notebook.magic.runner import Runner
        from swiftai_nb.notebook.session import get_session

        try:
            runner = Runner(
                self.shell, get_session(), arguments, settings=self.settings(), variables=variables
            )
            return runner.run(source=(line, cell or ""))
        except (InvalidInputError, ModelNotFoundError) as error:
            raise _usage_error(error) from None

    @line_magic  # type: ignore[untyped-decorator]
    def imagine_models(self, line: str) -> Any:
        """Models: list, info, download, delete, verify, clean. `%imagine_models --help` says more."""
        from swiftai_nb.notebook.magic import commands

        return self._lazily(commands.imagine_models, line)

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_magic  # type: ignore[untyped-decorator]
    def imagine_history(self, line: str) -> Any:
        """The pictures made so far, newest first: `%imagine_history [words | --recall ID | --count N]`."""
        from swiftai_nb.notebook.magic import commands

        # What is searched for is often a pasted prompt: IPython itself would run code in its braces.
        return self._lazily(lambda text: commands.imagine_history(self._with_variables(text)), line)

    @line_magic  # type: ignore[untyped-decorator]
    def imagine_jobs(self, line: str) -> Any:
        """The jobs of this kernel: `%imagine_jobs [cancel [ID ...]]`."""
        from swiftai_nb.notebook.magic import commands

        return self._lazily(commands.imagine_jobs, line)

    @line_magic  # type: ignore[untyped-decorator]
    def imagine_doctor(self, line: str) -> Any:
        """Checks what this machine and kernel can do, and what is missing."""
        from swiftai_nb.notebook.magic import doctor

        return self._lazily(partial(doctor.imagine_doctor, defaults=self.defaults()), line)

    def settings(self) -> Settings:
        """The traits as the settings of one run."""
        from swiftai_nb.notebook.magic.runner import Settings

        return Settings(
            defaults=self.defaults(),
            display=self.display,
            preview_every=self.preview_every,
            save=self.save,
            # Not by `min`: infinity is no limit, and NaN passes the trait's check.
            embed_limit_bytes=int(self.embed_limit_mb * 1e6) if self.embed_limit_mb < 1e6 else 10**12,
            has_captions=self.captions,
        )

    def defaults(self) -> Defaults:
        """The traits as the defaults of a request."""
        from swiftai_nb.notebook.magic.options import BY_NAME
        from swiftai_nb.notebook.magic.request import Defaults

        return Defaults(
            model=self.model,
            engine=self.engine,
            provider=self.provider,
            base_url=self.base_url,
            bill_to=self.bill_to,
            steps=self.steps,
            guidance=self.guidance,
            size=None if self.size is None else BY_NAME["--size"].convert(self.size),
            negative=self.negative,
            preview=None if self.preview == "auto" else self.preview,
            plain=self.plain,
            embed_references={"all": True, "none": False}.get(self.embed_references),
            styles=self.styles,
            wildcards=self.wildcards,
        )

    def _parse(self, line: str, cell: str, variables: Mapping[str, Any]) -> ImagineArguments:
        from swiftai_nb.notebook.magic.parser import parse

        try:
            return parse(line, cell, variables=variables)
        except InvalidInputError as error:
            raise _usage_error(error) from None

    def _with_variables(self, text: str) -> str:
        """`text` with variables as in prompts; as typed where a name in braces is none."""
        from swiftai_nb.notebook.magic.prompt import interpolate

        try:
            return interpolate(text, self.shell.user_ns)
        except InvalidInputError:
            return text

    def _lazily(self, function: Any, line: str) -> Any:
        try:
            return function(line)
        except (InvalidInputError, ModelNotFoundError) as error:
            raise _usage_error(error) from None

    @observe("history_folder")  # type: ignore[untyped-decorator]
    def _move_history(self, change: Any) -> None:
        from swiftai_nb.notebook.session import get_session

        try:
            get_session().keep_history_in(change.new)
        except AIError as error:
            raise _usage_error(error) from None

    def _show_text(self, text: str) -> None:
        from IPython.display import display

        display({"text/plain": text}, raw=True)


def _usage_error(error: AIError) -> UsageError:
    """The error as IPython shows it: one line, no traceback."""
    from swiftai_nb.notebook.magic.parser import one_line

    return UsageError(one_line(error))


def documented() -> str:
    """The docstring of `%imagine`, which `%imagine?` shows."""
    return f"{USAGE}\n{help_text()}\n"


Imagine.imagine.__doc__ = documented()
