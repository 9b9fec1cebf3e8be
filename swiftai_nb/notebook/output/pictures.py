"""The result of `%imagine`: a sequence of pictures, its display, and its embedding in a notebook."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from swiftai_nb.core.caption import caption_html
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import encode_jpeg, shorten
from swiftai_nb.core.plugins import Editor
from swiftai_nb.notebook.output.contact_sheet import (
    LARGEST_PREVIEW,
    LARGEST_SHEET,
    contact_sheet,
    expected_size,
)
from swiftai_nb.notebook.output.host import cell_number, is_cell_value, is_notebook_page
from swiftai_nb.notebook.output.tiles import LONGEST_ALT, grid_html, tiles_html

if TYPE_CHECKING:
    from PIL.Image import Image

    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.notebook.magic.options import Axis

_log = logging.getLogger(__name__)
LARGE_FOLDER = Path("imagine")
PREVIEW_SIDE = 768
LARGEST_TILES_BYTES = 8_000_000


class Pictures(Sequence["GeneratedImage"]):
    """The pictures of one `%imagine`, a sequence of GeneratedImage.

    A sequence of one picture also has that picture's attributes: `save`, `pil`, `recipe`, `seed`, `data`,
    `width` and `height`.

    Args:
        images: in order of their seeds.
        prompt: their prompt, for the caption.
        wanted: how many were requested; more than there are when the job was cancelled.
    """

    def __init__(
        self,
        images: Sequence[GeneratedImage],
        *,
        prompt: str = "",
        wanted: int | None = None,
    ) -> None:
        self._images = tuple(images)
        self.prompt = prompt
        self.wanted = len(self._images) if wanted is None else wanted
        self._shown_in: int | None = None

    @overload
    def __getitem__(self, index: int) -> GeneratedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> GeneratedImage | Pictures:
        if isinstance(index, slice):
            return Pictures(self._images[index], prompt=self.prompt)
        return self._images[index]

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[GeneratedImage]:
        return iter(self._images)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pictures) and self._images == other._images

    def __hash__(self) -> int:
        return hash(self._images)

    @property
    def is_complete(self) -> bool:
        """Whether all requested pictures were made."""
        return len(self._images) >= self.wanted

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seed of each picture."""
        return tuple(image.seed for image in self._images)

    @property
    def recipes(self) -> tuple[Recipe | None, ...]:
        """The recipe of each picture."""
        return tuple(image.recipe for image in self._images)

    @property
    def seed(self) -> int | None:
        """The only picture's seed."""
        return self.only.seed

    @property
    def recipe(self) -> Recipe | None:
        """The only picture's recipe."""
        return self.only.recipe

    @property
    def pil(self) -> Image:
        """The only picture as a PIL image, RGB."""
        return self.only.pil

    @property
    def data(self) -> bytes:
        """The only picture's PNG file."""
        return self.only.data

    @property
    def width(self) -> int:
        """The only picture's width in pixels."""
        return self.only.width

    @property
    def height(self) -> int:
        """The only picture's height in pixels."""
        return self.only.height

    @property
    def only(self) -> GeneratedImage:
        """The picture, when there is exactly one.

        Raises:
            InvalidInputError: there are none or several.
        """
        if len(self._images) != 1:
            raise InvalidInputError(
                f"there are {len(self._images)} pictures, not one", hint="choose one: result[0]"
            )
        return self._images[0]

    def edit(self, prompt: str, **options: Any) -> Any:
        """Changes the only picture by words, see `GeneratedImage.edit`; of several choose `fox[2].edit`."""
        return self.only.edit(prompt, **options)

    def upscale(self, factor: float = 2.0, *, upscaler: str | None = None) -> Any:
        """Enlarges all pictures, see `GeneratedImage.upscale`.

        Returns:
            the larger pictures, in the same order.
        """
        if Editor.upscale is not None:
            return Editor.upscale(self._images, factor, upscaler=upscaler)
        larger = [image.upscale(factor, upscaler=upscaler) for image in self._images]
        return Pictures(larger, prompt=self.prompt, wanted=self.wanted)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the only picture; `save_all` writes several."""
        return self.only.save(path)

    def save_all(self, template: str | os.PathLike[str] = "picture-{n}.png") -> list[Path]:
        """Writes every picture to a path made from `template`.

        Args:
            template: `{n}` (from 1), `{seed}`, `{model}`, `{date}` and `{prompt}` are filled in; a
                format may follow, as in `{n:03d}`. "-1", "-2", ... is added to a template without
                any, "picture-{n}.png" to a folder.

        Raises:
            InvalidInputError: a field or extension is unknown, or a file cannot be written.
        """
        from swiftai_nb.notebook.output.saving import save_images

        return save_images(self._images, os.fspath(template))

    def grid(self, columns: int | None = None) -> GeneratedImage:
        """All pictures on one sheet.

        Args:
            columns: pictures in a row; None makes the sheet about square.
        """
        return contact_sheet(self._images, columns=columns)

    def __repr__(self) -> str:
        # The same for every seed and run: saved notebooks must compare equal.
        return describe(self.prompt, len(self._images))

    def mark_shown(self) -> Pictures:
        """For the magic: the cell has shown the pictures, so its value is not displayed again."""
        self._shown_in = cell_number()
        return self

    def _ipython_display_(self) -> None:
        from IPython.display import display

        # Only in the cell that made it: `x = %imagine ...` shows no value, and `x` later must.
        if self._shown_in is not None and self._shown_in == cell_number() and is_cell_value():
            return
        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle(has_tiles=is_notebook_page())

    def _mime_(self) -> tuple[str, str]:
        """For marimo: the pictures with their caption, which a cell of Jupyter shows as an output."""
        if not self._images:
            return "text/plain", repr(self)
        if len(self._images) == 1:
            return self._images[0]._mime_()
        return "text/html", f"<div>{self._tiles_html()}{caption_html(self._images)}</div>"

    def bundle(self, *, has_tiles: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """(data, metadata) of an output.

        Args:
            has_tiles: several pictures also as HTML tiles that open large, with a smaller sheet beside it for
                PDF and pages without HTML. Tools that execute notebooks get the sheet alone.
        """
        if not self._images:
            return {"text/plain": repr(self)}, {}
        html = self._tiles() if has_tiles else {}
        data, metadata = self._picture(largest=LARGEST_PREVIEW if html else LARGEST_SHEET)._repr_mimebundle_()
        metadata["image/png"]["alt"] = self._alt
        return {**html, **data, "text/plain": repr(self)}, metadata

    def _tiles(self) -> dict[str, Any]:
        size_bytes = sum(len(image.data) for image in self._images)
        if len(self._images) < 2 or size_bytes > LARGEST_TILES_BYTES:
            return {}
        return {"text/html": self._tiles_html()}

    @property
    def _alt(self) -> str:
        return shorten(self.prompt, LONGEST_ALT)

    def _tiles_html(self) -> str:
        return tiles_html(self._images)

    def _picture(self, *, largest: int) -> GeneratedImage:
        """What stands for all of them: the only picture, or a sheet of at most so many pixels a side."""
        return self._images[0] if len(self._images) == 1 else contact_sheet(self._images, largest=largest)


class GridPictures(Pictures):
    """The pictures of a grid: a sequence row by row, and `at(steps=4, seed=2)`.

    Args:
        cells: row by row; None where a cancelled grid has none.
        axes: over the columns, and beside the rows when there are two.
        prompt: the prompt.
    """

    def __init__(
        self, cells: Sequence[GeneratedImage | None], *, axes: tuple[Axis, ...], prompt: str
    ) -> None:
        made = [cell for cell in cells if cell is not None]
        super().__init__(made, prompt=prompt, wanted=len(cells))
        self.cells = tuple(cells)
        self.axes = axes

    def at(self, **chosen: Any) -> GeneratedImage:
        """The picture of these values: `at(steps=4)`, `at(steps=4, seed=2)`.

        Raises:
            InvalidInputError: no such axis or value, or that picture was not made.
        """
        index = 0
        for axis in reversed(self.axes):
            index = index * len(axis.values) + _position(axis, chosen)
        unknown = set(chosen) - {axis.name.replace("-", "_") for axis in self.axes}
        if unknown:
            raise InvalidInputError(f"the grid does not vary {', '.join(sorted(unknown))}")
        cell = self.cells[index]
        if cell is None:
            raise InvalidInputError(
                "that picture was not made", hint="run the cell again to continue the grid"
            )
        return cell

    def grid(self, columns: int | None = None) -> GeneratedImage:
        """The labeled sheet."""
        return contact_sheet(self.cells, columns=columns, labels=axis_labels(self.axes))

    @property
    def _alt(self) -> str:
        return shorten(repr(self), LONGEST_ALT)

    def _tiles_html(self) -> str:
        return grid_html(self.cells, axis_labels(self.axes))

    def _picture(self, *, largest: int) -> GeneratedImage:
        return contact_sheet(self.cells, labels=axis_labels(self.axes), largest=largest)

    def __repr__(self) -> str:
        return describe_grid(self.prompt, self.axes)


def describe_grid(prompt: str, axes: tuple[Axis, ...]) -> str:
    """Such as "3 x 2 grid of steps and seed: a red fox", or "3 pictures by prompt"."""
    is_one_prompt = all(axis.name != "prompt" for axis in axes)
    text = f": {shorten(prompt)}" if prompt and is_one_prompt else ""
    if len(axes) == 1:
        return f"{len(axes[0].values)} pictures by {axes[0].name}{text}"
    return f"{len(axes[0].values)} x {len(axes[1].values)} grid of {axes[0].name} and {axes[1].name}{text}"


def sheet_size(picture: tuple[int, int], axes: tuple[Axis, ...]) -> tuple[int, int]:
    """CSS pixels (width, height) that the sheet of such pictures is shown at."""
    from swiftai_nb.core.image import GeneratedImage

    count = math.prod(len(axis.values) for axis in axes)
    return GeneratedImage(b"", *expected_size(picture, count, axis_labels(axes))).display_size


def axis_labels(axes: tuple[Axis, ...]) -> tuple[list[str], list[str]]:
    """(over the columns, beside the rows), each with its option's name."""
    texts = [[_label(axis, label) for label in axis.labels] for axis in axes]
    return texts[0], texts[1] if len(texts) > 1 else []


def _label(axis: Axis, label: str) -> str:
    return label if axis.name in ("prompt", "style", "model") else f"{axis.name} {label}"


def _position(axis: Axis, chosen: dict[str, Any]) -> int:
    key = axis.name.replace("-", "_")
    if key not in chosen:
        raise InvalidInputError(f"choose one {axis.name}: {', '.join(axis.labels)}")
    for index, (value, label) in enumerate(zip(axis.values, axis.labels, strict=True)):
        if chosen[key] == value or str(chosen[key]) == label:
            return index
    raise InvalidInputError(f"the grid has no {axis.name} {chosen[key]}: {', '.join(axis.labels)}")


def embed(
    pictures: Pictures, *, largest_bytes: int | None = None, folder: Path = LARGE_FOLDER
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(data, metadata) of an output that shows `pictures`.

    Args:
        pictures: at least one.
        largest_bytes: a PNG above this is written into `folder`, and the notebook gets a smaller JPEG
            that names the file; None embeds everything, as does a folder that cannot be written.
        folder: where such files go, beside the notebook.
    """
    data, metadata = pictures.bundle(has_tiles=is_notebook_page())
    if largest_bytes is None or _size_bytes(data) <= largest_bytes:
        return data, metadata
    data, metadata = pictures.bundle(has_tiles=False)
    if _size_bytes(data) <= largest_bytes:
        return data, metadata
    encoded: str = data["image/png"]
    png = base64.b64decode(encoded)
    path = folder / f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(png)
    except OSError as error:  # a read-only folder or a full disk must not cost the picture
        reason = error.strerror or type(error).__name__
        _log.warning("a large picture stays in the notebook: cannot write to %s (%s)", folder, reason)
        return data, metadata
    from PIL import Image as PILImage

    with PILImage.open(io.BytesIO(png)) as picture:
        preview = encode_jpeg(picture, max_side=PREVIEW_SIDE)
    data = {"image/jpeg": base64.b64encode(preview).decode("ascii"), "text/plain": data["text/plain"]}
    return data, {"image/jpeg": {**metadata["image/png"], "file": path.as_posix()}}


def _size_bytes(data: dict[str, Any]) -> int:
    return sum(len(data.get(kind, "")) for kind in ("image/png", "text/html")) * 3 // 4


def describe(prompt: str, count: int) -> str:
    """The plain text of an output with pictures, such as "1 picture: a red fox"."""
    text = shorten(prompt)
    number = "1 picture" if count == 1 else f"{count} pictures"
    return f"{number}: {text}" if text else number
