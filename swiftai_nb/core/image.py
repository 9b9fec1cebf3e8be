"""The generated image: encoded bytes that contain their recipe."""

from __future__ import annotations

import base64
import html
import io
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.caption import caption_html
from swiftai_nb.core.enlargement import LANCZOS, enlarged_size, lanczos
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.image_input import open_image_file, readable, to_pil
from swiftai_nb.core.paths import user_path, write_atomically
from swiftai_nb.core.plugins import Editor
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.recipe_metadata import EXIF_SUB_IFD, EXIF_USER_COMMENT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

SMALLEST_DISPLAY_SIDE = 256
LARGEST_DISPLAY_SIDE = 768
LARGEST_ENLARGEMENT = 3  # times the picture's own size; more looks soft
MAX_JPEG_PROMPT_LENGTH = 15_000  # characters, up to four bytes each
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class GeneratedImage:
    """A finished picture.

    Args:
        data: the encoded file, PNG; holds the recipe as text chunks.
        width: pixels.
        height: pixels.
        format: "png".
        recipe: all settings needed to make it again; None for a picture without one.
        elapsed_s: seconds it took; not part of the bytes.
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    format: str = "png"
    recipe: Recipe | None = None
    elapsed_s: float | None = field(default=None, compare=False)

    @classmethod
    def from_pixels(
        cls, pixels: npt.NDArray[np.uint8], *, recipe: Recipe | None = None, elapsed_s: float | None = None
    ) -> GeneratedImage:
        """Encodes pixels.

        Args:
            pixels: [H, W, 3], uint8, RGB.
            recipe: written into the PNG as `parameters` (A1111) and `swiftai` (exact JSON).
            elapsed_s: seconds it took.
        """
        from PIL import Image as PILImage

        return cls.from_pil(PILImage.fromarray(pixels), recipe=recipe, elapsed_s=elapsed_s)

    @classmethod
    def from_pil(
        cls,
        picture: Image,
        *,
        recipe: Recipe | None = None,
        elapsed_s: float | None = None,
        keeps_alpha: bool = False,
    ) -> GeneratedImage:
        """Encodes a PIL image as PNG, at its own size, with its recipe; as RGBA only with `keeps_alpha`."""
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        if recipe is not None:
            info.add_text("parameters", recipe.to_parameters())
            info.add_itxt("swiftai", recipe.to_json())
        buffer = io.BytesIO()
        picture.convert("RGBA" if keeps_alpha else "RGB").save(buffer, "PNG", pnginfo=info, compress_level=6)
        return cls(
            data=buffer.getvalue(),
            width=picture.width,
            height=picture.height,
            recipe=recipe,
            elapsed_s=elapsed_s,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GeneratedImage:
        """Reads a picture and its recipe from a file.

        Raises:
            InvalidInputError: there is no such file, or it is not a picture.
        """
        data, picture = open_image_file(path)
        with picture, readable(path):
            picture.load()  # first: a damaged file is refused here, not when it is shown
            recipe = Recipe.find(picture)
            if picture.format == "PNG":
                return cls(data=data, width=picture.width, height=picture.height, recipe=recipe)
            return cls.from_pil(picture, recipe=recipe)

    @property
    def pil(self) -> Image:
        """The picture as a PIL image, RGB; transparent parts over white.

        Raises:
            InvalidInputError: `data` is damaged.
        """
        from PIL import Image as PILImage

        with readable(self.data), PILImage.open(io.BytesIO(self.data)) as picture:
            return to_pil(picture) if picture.mode == "RGBA" else picture.convert("RGB")

    @property
    def prompt(self) -> str:
        """What it was made from; empty when unknown."""
        return "" if self.recipe is None else self.recipe.prompt

    @property
    def seed(self) -> int | None:
        """The seed it was made with, when known."""
        return None if self.recipe is None else self.recipe.seed

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file atomically; the extension selects PNG, JPEG or WebP.

        The recipe is included: text chunks in PNG, EXIF UserComment in JPEG and WebP.

        Raises:
            InvalidInputError: an unknown extension, or a path that cannot be written.
        """
        target = user_path(path)
        data = self._encoded(target)
        try:
            write_atomically(target, data)
        except OSError as error:
            raise InvalidInputError(
                f"cannot write {str(target)!r}: {error.strerror or type(error).__name__}",
                hint="save to an existing, writable folder",
            ) from error
        return target

    def edit(self, prompt: str, **options: Any) -> Any:
        """Changes this picture by words, as `%imagine --with` does: `fox.edit("put a red scarf on it")`.

        It works in a notebook that has loaded the extension, with a model that takes reference pictures.

        Args:
            prompt: the change.
            options: those of `%imagine` by their long names (model, steps, seed, count, ...);
                `also=[picture]` gives further pictures that the prompt refers to.

        Returns:
            the new `Pictures`.

        Raises:
            AIError: the extension is not loaded, or see `%imagine`.
        """
        if Editor.edit is None:
            raise InvalidInputError(
                "edit() works in a notebook, with the extension loaded",
                hint="%load_ext swiftai_nb; in a program use ImageGenerationConfig(references=[picture])",
            )
        return Editor.edit([self], prompt, **options)

    def upscale(self, factor: float = 2.0, *, upscaler: str | None = None) -> Any:
        """Enlarges this picture.

        In a notebook that has loaded the extension it works as a cell does, with progress and Cancel.
        Elsewhere it is Lanczos' filter; for networks see `MLXImageProvider.upscale_image`.

        Args:
            factor: how many times larger in each direction, 1 to 8.
            upscaler: a catalog id such as "realesrgan-x4plus", a safetensors file, or "lanczos"; None is
                an installed one, else Lanczos' filter.

        Returns:
            the larger picture: in a notebook `Pictures` of one, else a GeneratedImage. Its recipe makes it
            again.

        Raises:
            AIError: a factor outside the limits, no such upscaler, no memory, or the user's cancel.
        """
        if Editor.upscale is not None:
            return Editor.upscale([self], factor, upscaler=upscaler)
        if upscaler not in (None, LANCZOS):
            raise InvalidInputError(
                "upscale() with a network works in a notebook, with the extension loaded",
                hint="%load_ext swiftai_nb; in a program await MLXImageProvider().upscale_image(picture, 2)",
            )
        return self.enlarged(factor)

    def enlarged(self, factor: float) -> GeneratedImage:
        """This picture enlarged by Lanczos' filter.

        Raises:
            InvalidInputError: a factor outside 1 to 8, or too many pixels.
        """
        size = enlarged_size((self.width, self.height), factor)
        recipe = None if self.recipe is None else self.recipe.upscaled(factor, LANCZOS)
        return GeneratedImage.from_pil(lanczos(self.pil, size), recipe=recipe)

    def _encoded(self, target: Path) -> bytes:
        file_format = FORMATS.get(target.suffix.lower())
        if file_format is None:
            raise InvalidInputError(
                f"cannot save as {target.suffix or 'a file without extension'!r}",
                hint="use " + ", ".join(FORMATS),
            )
        if file_format == "PNG":
            return self.data
        from PIL.Image import Exif

        exif = Exif()
        if self.recipe is not None:
            comment = _user_comment(self.recipe, target, is_limited=file_format == "JPEG")
            exif.get_ifd(EXIF_SUB_IFD)[EXIF_USER_COMMENT] = comment
        buffer = io.BytesIO()
        self.pil.save(buffer, file_format, quality=95, exif=exif.tobytes())
        return buffer.getvalue()

    @property
    def display_size(self) -> tuple[int, int]:
        """CSS pixels (width, height) to show it at: small ones larger, at most 3x, huge ones smaller."""
        longest = max(self.width, self.height)
        if longest < SMALLEST_DISPLAY_SIDE:
            scale: float = min(LARGEST_ENLARGEMENT, -(-SMALLEST_DISPLAY_SIDE // longest))
        else:
            scale = min(1.0, LARGEST_DISPLAY_SIDE / longest)
        return round(self.width * scale), round(self.height * scale)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width, height = self.display_size
        data = {"image/png": base64.b64encode(self.data).decode("ascii"), "text/plain": repr(self)}
        return data, {"image/png": {"width": width, "height": height, "alt": self.prompt}}

    def _mime_(self) -> tuple[str, str]:
        """For marimo: the picture with its caption, which a cell of Jupyter shows as an output."""
        encoded = base64.b64encode(self.data).decode("ascii")
        width, _ = self.display_size
        style = f"width:{width}px;max-width:100%;height:auto;display:block"
        alt = html.escape(self.prompt)
        picture = f'<img src="data:image/png;base64,{encoded}" alt="{alt}" style="{style}">'
        return "text/html", f"<div>{picture}{caption_html([self])}</div>"

    def __repr__(self) -> str:
        # Independent of seed and run, so that executed notebooks compare equal.
        prompt = f": {shorten(self.prompt)}" if self.prompt else ""
        return f"<GeneratedImage {self.width}x{self.height}{prompt}>"


def _user_comment(recipe: Recipe, target: Path, *, is_limited: bool) -> bytes:
    """The recipe as EXIF; in JPEG all metadata must fit into 64 KiB, so that long prompts are shortened."""
    prompt, negative_prompt = recipe.prompt, recipe.negative_prompt
    if is_limited and len(prompt) + len(negative_prompt or "") > MAX_JPEG_PROMPT_LENGTH:
        prompt = shorten(prompt, MAX_JPEG_PROMPT_LENGTH // 2)
        negative_prompt = negative_prompt and shorten(negative_prompt, MAX_JPEG_PROMPT_LENGTH // 2)
        warnings.warn(
            f"{target.name} has a shortened prompt: JPEG metadata is limited; save as PNG to keep it whole",
            UserWarning,
            stacklevel=4,
        )
    recipe = replace(recipe, prompt=prompt, negative_prompt=negative_prompt)
    return b"UNICODE\0" + recipe.to_parameters().encode("utf-16-be", "surrogatepass")
