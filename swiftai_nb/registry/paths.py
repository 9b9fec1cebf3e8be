"""Where things are kept. The environment is read at every call, never at import."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state_dir(home: str | Path | None = None) -> Path:
    """The folder of the user's own choices: `home`, else SWIFTAI_HOME, else the platform's usual place."""
    if home is not None:
        return Path(home).expanduser().resolve()
    from_environment = os.environ.get("SWIFTAI_HOME")
    if from_environment:
        return Path(from_environment).expanduser().resolve()
    return _platform_data_dir() / "swiftai_nb"


def hub_cache_dir(cache_dir: str | Path | None = None) -> Path:
    """The Hugging Face cache: `cache_dir`, else what huggingface_hub itself would choose.

    The rule (HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME) is repeated here because
    huggingface_hub reads it once at import, and takes half a second to import.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser().resolve()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name])).expanduser().resolve()
    hf_home = os.environ.get("HF_HOME")
    if not hf_home:
        hf_home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    return (Path(os.path.expandvars(hf_home)).expanduser() / "hub").resolve()


def is_offline() -> bool:
    """Whether the user asked the Hugging Face tools to stay off the network (HF_HUB_OFFLINE)."""
    values = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(v.strip().upper() in {"1", "ON", "YES", "TRUE"} for v in values)


def _platform_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
