"""How pictures are stored in a notebook: as they are, or, when they are large, as a file and a preview."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError

if TYPE_CHECKING:
    from swiftai_nb.notebook.output.pictures import Pictures

LARGE_FOLDER = Path("imagine")
PREVIEW_SIDE = 768


def embed(
    pictures: Pictures, *, largest_bytes: int | None = None, folder: Path = LARGE_FOLDER
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output bundle of `pictures`.

    Args:
        pictures: at least one.
        largest_bytes: a PNG above this is written into `folder`, and the notebook gets a smaller JPEG
            that names the file; None embeds everything.
        folder: where such files go, beside the notebook.
    """
    data, metadata = pictures._repr_mimebundle_()
    encoded: str = data["image/png"]
    if largest_bytes is None or len(encoded) * 3 // 4 <= largest_bytes:
        return data, metadata
    png = base64.b64decode(encoded)
    path = folder / f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(png)
    except OSError as error:
        raise InvalidInputError(
            f"cannot store a large picture in {str(folder)!r}: {error.strerror or error}",
            hint="%config Imagine.embed_limit_mb = 100 keeps pictures in the notebook",
        ) from error
    return _smaller(png, path, metadata["image/png"]), {"image/jpeg": metadata["image/png"]}


def _smaller(png: bytes, path: Path, shown: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image as PILImage

    with PILImage.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    shown["file"] = path.as_posix()
    return {"image/jpeg": base64.b64encode(buffer.getvalue()).decode("ascii")}
