"""A picture to be continued beyond its edges: the canvas, what it is filled with, and the mask."""

from __future__ import annotations

import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.engine.child.init_image import InitImage, Pixels, read_init_image, read_picture
from swiftai_nb.engine.messages import Generate

DEFAULT_FEATHER = 8
_BLUR = 8  # pixels


def outpaint_image(command: Generate) -> InitImage:
    """The picture of a command on its canvas, masked: 0 on the picture (or its own mask), 1 around it.

    Around it the canvas repeats the picture's edge, blurred: denoising that starts from it finds its colors,
    and the seam fades over the feather.

    Args:
        command: with `image` and `outpaint`; its width and height are at least those of the canvas.

    Raises:
        InvalidInputError: the picture cannot be read, or the canvas is larger than what is drawn.
    """
    from PIL import Image, ImageFilter

    margins, image = command.outpaint, b"" if command.image is None else command.image
    if margins is None:
        raise InvalidInputError("outpaint without margins")
    picture = read_picture(image)
    height, width = picture.shape[:2]
    across, down = margins.canvas((width, height))
    rest_x, rest_y = command.width - across, command.height - down
    if min(rest_x, rest_y) < 0:
        raise InvalidInputError(f"a canvas of {across}x{down} is larger than what is drawn")
    inside = (slice(margins.top, margins.top + height), slice(margins.left, margins.left + width))
    around = [(margins.top, margins.bottom + rest_y), (margins.left, margins.right + rest_x)]
    canvas = Image.fromarray(np.pad(picture, [*around, (0, 0)], mode="edge"))
    pixels: Pixels = np.array(canvas.filter(ImageFilter.GaussianBlur(_BLUR)))
    pixels[inside] = picture
    mask = np.ones(pixels.shape[:2], dtype=np.float32)
    mask[inside] = 0.0
    notes: tuple[str, ...] = ()
    if command.mask is not None:
        own = read_init_image(image, command.mask, width=width, height=height)
        notes = own.notes
        mask[inside] = 0.0 if own.mask is None else own.mask
    feather = DEFAULT_FEATHER if command.mask_feather is None else command.mask_feather
    return InitImage(pixels, mask, notes, feather, crop=(across, down))
