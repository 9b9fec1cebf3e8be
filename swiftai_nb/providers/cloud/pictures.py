"""Pictures on their way to a service and back: uploads without metadata, answers decoded and checked."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationFailedError, InvalidInputError
from swiftai_nb.core.image_input import DAMAGED, check_sides, to_pil

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PNG_PIXELS = 2_250_000  # a photograph of more pixels is sent as JPEG: less to upload and to encode
PREVIEW_SIDE = 512
OTHER_MODEL = "try again, or choose another provider or model"


def pictures_of(config: ImageGenerationConfig) -> tuple[bytes, ...]:
    """The pictures to send besides the mask: the start picture, then the references."""
    start = () if config.image is None else (config.image,)
    return (*start, *config.references)


def decode_base64(text: Any, provider: str) -> bytes:
    """The bytes of a base64 text in an answer.

    Raises:
        GenerationFailedError: it is not base64.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise GenerationFailedError(
            f"{provider} sent a picture that is not base64", hint=OTHER_MODEL
        ) from None


def decode_picture(data: bytes, provider: str) -> Image:
    """The decoded picture of an answer.

    Raises:
        GenerationFailedError: it is not a picture, or a damaged one.
    """
    from PIL import Image as PILImage
    from PIL import UnidentifiedImageError

    try:
        picture = PILImage.open(io.BytesIO(data))
        check_sides(picture.size)
    except UnidentifiedImageError:
        raise GenerationFailedError(
            f"{provider} answered with something that is not a picture",
            hint=OTHER_MODEL,
        ) from None
    except (PILImage.DecompressionBombError, InvalidInputError):
        raise GenerationFailedError(
            f"{provider} sent a picture that is too large to open", hint=OTHER_MODEL
        ) from None
    except DAMAGED as error:
        raise _broken(provider, error) from None
    try:
        picture.load()
    except DAMAGED as error:
        raise _broken(provider, error) from None
    return picture


def _broken(provider: str, error: Exception) -> GenerationFailedError:
    return GenerationFailedError(f"{provider} sent a broken picture ({error})", hint=OTHER_MODEL)


def is_transparent(picture: Image) -> bool:
    """Whether any part of a picture is not opaque."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return False
    lowest = picture.convert("RGBA").getchannel("A").getextrema()[0]
    return isinstance(lowest, (int, float)) and lowest < 255


def to_jpeg_preview(text: Any, provider: str) -> bytes | None:
    """A partial picture in base64 as JPEG bytes; None when it cannot be read."""
    with contextlib.suppress(AIError):
        buffer = io.BytesIO()
        picture = to_pil(decode_base64(text, provider))
        picture.thumbnail((512, 512))
        picture.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()
    return None


def upload(data: bytes, *, is_mask: bool = False) -> tuple[bytes, str]:
    """A picture to send and its media type: upright, without any metadata; a large one as JPEG.

    Raises:
        InvalidInputError: not a picture.
    """
    picture = to_pil(data)
    picture.info.clear()
    buffer = io.BytesIO()
    if is_mask or picture.width * picture.height <= MAX_PNG_PIXELS:
        picture.save(buffer, "PNG")
        return buffer.getvalue(), "image/png"
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), "image/jpeg"


def refuse_enlargement(config: ImageGenerationConfig, *, who: str) -> None:
    """Refuses a hires pass, an upscaler and outpainting for a provider that has none of them.

    Args:
        config: the settings.
        who: the provider, as the subject of the message.

    Raises:
        InvalidInputError: one of them is set.
    """
    if config.outpaint is not None:
        raise InvalidInputError(
            f"{who} does not continue pictures beyond their edges", hint="use a local model: --engine local"
        )
    if config.hires is not None or config.upscale is not None:
        raise InvalidInputError(
            f"{who} does not enlarge pictures", hint="enlarge the result: picture.upscale(2)"
        )
