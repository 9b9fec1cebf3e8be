"""The fixtures of the download tests, for what the registry finds on disk."""

from tests.downloads.conftest import _own_folders, downloader, hub, registry

__all__ = ["_own_folders", "downloader", "hub", "registry"]
