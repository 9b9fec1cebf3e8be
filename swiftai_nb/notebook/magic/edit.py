"""`picture.edit("put a red scarf on it")`: what `%imagine --with picture` does, as a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS
from swiftai_nb.notebook.magic.parser import ImagineArguments

if TYPE_CHECKING:
    from swiftai_nb.notebook.magic.runner import Settings

_NOT_FOR_EDITS = frozenset({"help", "widget", "grid", "image", "from", "with", "dry-run"})


def edit_pictures(pictures: Sequence[GeneratedImage], prompt: str, **options: Any) -> Any:
    """Changes pictures by a prompt, in this cell, and waits for the result.

    Args:
        pictures: what the prompt refers to, in order.
        prompt: the change, such as "put a red scarf on it".
        options: those of `%imagine` by their long names, such as model="klein", steps=4, count=2 or
            size="512x768". `also=[picture, ...]` gives further pictures that the prompt refers to.

    Returns:
        the Pictures, or (`bg=True`) a job.

    Raises:
        InvalidInputError: an unknown option, or a value that does not fit.
        AIError: a failure, or the user's cancel.
    """
    from swiftai_nb.notebook.magic.runner import Runner
    from swiftai_nb.notebook.session import get_session

    shell, settings = shell_and_settings()
    also = options.pop("also", ())
    is_list = isinstance(also, Sequence) and not isinstance(also, (str, bytes))
    given = [*pictures, *(also if is_list else [also])]
    names = {f"reference_{number}": picture for number, picture in enumerate(given)}
    arguments = ImagineArguments(prompt=prompt, references=tuple(names), **_values(options))
    arguments.config()
    runner = Runner(shell, get_session(), arguments, settings=settings, variables=names)
    return runner.run(source=(prompt, ""))


def shell_and_settings() -> tuple[Any, Settings]:
    """The IPython shell, or None, and the settings of its magics."""
    from IPython.core.getipython import get_ipython

    from swiftai_nb.notebook.magic.magics import Imagine
    from swiftai_nb.notebook.magic.runner import Settings

    shell = get_ipython()
    magics = [] if shell is None else [m for m in shell.configurables if isinstance(m, Imagine)]
    return shell, magics[0].settings() if magics else Settings()


def _values(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of `ImagineArguments` from keyword options; texts are read as the magic reads them."""
    values = {}
    for keyword, value in options.items():
        name = keyword.replace("_", "-")
        option = BY_NAME.get(f"--{name}")
        if option is None or option.name in _NOT_FOR_EDITS:
            usable = ", ".join(o.name.replace("-", "_") for o in OPTIONS if o.name not in _NOT_FOR_EDITS)
            raise InvalidInputError(f"edit() has no option {keyword!r}", hint=f"use one of {usable}")
        if option.repeats:
            listed = value if isinstance(value, (list, tuple)) else [value]
            values[option.attribute] = tuple(
                option.convert(one) if isinstance(one, str) else one for one in listed
            )
        else:
            is_text = isinstance(value, str) and option.takes_value
            values[option.attribute] = option.convert(value) if is_text else value
    return values
