"""`%imagine --widget`: the widget, filled in with what the line says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swiftai_nb.notebook.magic.parser import ImagineArguments
    from swiftai_nb.notebook.magic.request import Defaults


def open_widget(arguments: ImagineArguments, defaults: Defaults) -> Any:
    """An ImagineWidget whose traits hold the line's values; traits it does not have are left out."""
    from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget

    size = arguments.size or defaults.size
    wanted: dict[str, Any] = {
        "prompt": arguments.prompt or None,
        "negative_prompt": arguments.negative or defaults.negative,
        "model": arguments.model or defaults.model,
        "steps": arguments.steps if arguments.steps is not None else defaults.steps,
        "guidance_scale": arguments.guidance if arguments.guidance is not None else defaults.guidance,
        "seed": arguments.seed,
        "count": arguments.count,
        "width": None if size is None else size.width,
        "height": None if size is None else size.height,
    }
    known = ImagineWidget.class_trait_names()
    return ImagineWidget(
        **{name: value for name, value in wanted.items() if value is not None and name in known}
    )
