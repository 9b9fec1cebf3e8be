"""`picture.upscale(2)` in a notebook: a job like any other, shown in the cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.output.pictures import Pictures


def upscale_pictures(
    pictures: Sequence[GeneratedImage], factor: float, *, upscaler: str | None = None
) -> Any:
    """Enlarges pictures in this cell, and waits for the result.

    Args:
        pictures: at least one.
        factor: how many times larger, 1 to 8.
        upscaler: a catalog id, a file, or "lanczos"; None is an installed one, else Lanczos' filter.

    Returns:
        the Pictures.

    Raises:
        InvalidInputError: no pictures, or a factor outside the limits.
        AIError: no such upscaler, no memory, a failure, or the user's cancel.
    """
    from swiftai_nb.notebook.magic.edit import shell_and_settings
    from swiftai_nb.notebook.magic.parser import ImagineArguments
    from swiftai_nb.notebook.magic.runner import Runner, show_notes
    from swiftai_nb.notebook.session import get_session

    if not pictures:
        raise InvalidInputError("there are no pictures to enlarge")
    session, prompt = get_session(), pictures[0].prompt
    plan, note = session.plan_upscale(pictures, factor, upscaler=upscaler)
    if plan is None:
        enlarged = Pictures([picture.enlarged(factor) for picture in pictures], prompt=prompt)
        show_notes([] if note is None else [note])
        return enlarged
    shell, settings = shell_and_settings()
    runner = Runner(shell, session, ImagineArguments(prompt=prompt), settings=settings, variables={})
    return runner.submit(plan)
