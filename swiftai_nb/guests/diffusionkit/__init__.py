"""Pictures made on this machine by DiffusionKit, in an environment of its own."""

from swiftai_nb.guests.diffusionkit.provider import DiffusionKitImageProvider

__all__ = ["DiffusionKitImageProvider"]
