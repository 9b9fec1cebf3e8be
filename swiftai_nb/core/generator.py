"""The one interface of all providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress

ProgressCallback = Callable[[ImageGenerationProgress], None]


@runtime_checkable
class ImageGenerator(Protocol):
    """Makes a picture from a prompt, on this machine or in the cloud.

    These members are all a provider needs; docs/add-a-provider.md lists the optional ones.

    Cancelling: `cancel_generation()` ends every running call of this generator, each with
    GenerationCancelledError. Cancelling the asyncio task that awaits one `generate_image` ends
    that one call alone; asyncio.CancelledError then propagates as usual, after the back end
    has been told to stop.
    """

    @property
    def is_available(self) -> bool:
        """Whether this back end can work on this machine, with this configuration, now."""
        ...

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Makes one picture.

        Args:
            prompt: what to draw; not empty.
            negative_prompt: what to avoid; models without guidance cannot use it.
            config: size, steps, guidance, seed, model; None is `ImageGenerationConfig.default()`.
            on_progress: called after each step, from any thread; must return quickly.

        Raises:
            AIError: see the tree in `swiftai_nb.core.errors`.
        """
        ...

    async def cancel_generation(self) -> None:
        """Stops every running call at its next step."""
        ...
