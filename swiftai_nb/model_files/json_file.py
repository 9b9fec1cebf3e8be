"""The JSON files of a model folder. Standard library only: guests' interpreters read them, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError


def read_json_file(path: Path) -> Any:
    """What the file holds; an empty object when there is no such file.

    Raises:
        InvalidModelFilesError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidModelFilesError(
            f"{path} cannot be read ({type(error).__name__})", hint="download the model again"
        ) from None
