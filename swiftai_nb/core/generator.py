"""The interface of providers, and its optional extension for providers that make a plan first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.request import GenerationPlan, GenerationRequest

ProgressCallback = Callable[[ImageGenerationProgress], None]


@runtime_checkable
class ImageGenerator(Protocol):
    """Makes a picture from a prompt, on this machine or in the cloud.

    These members are all a provider needs; docs/add-a-provider.md lists the optional ones.

    Cancelling: `cancel_generation()` ends every running call of this generator, each with
    GenerationCancelledError. Cancelling the asyncio task that awaits one `generate_image` ends
    that one call alone; asyncio.CancelledError then propagates as usual, after the provider
    has been requested to stop.
    """

    @property
    def is_available(self) -> bool:
        """Whether this provider can be used now, on this machine and with this configuration."""
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


@runtime_checkable
class PlanningGenerator(ImageGenerator, Protocol):
    """An ImageGenerator that makes one plan per job: `plan`, then `generate` for each picture.

    Optional. It gives a provider early errors (before the job is queued), `--dry-run` with real values,
    and one model look-up for any number of pictures. Its `generate_image` is `plan` and `generate`.
    """

    def plan(self, request: GenerationRequest) -> GenerationPlan:
        """Fills in what the request leaves open. Does no work and sends nothing.

        Raises:
            AIError: the request cannot be fulfilled.
        """
        ...

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan that this generator made: seed `plan.request.seeds[index]`.

        Args:
            plan: of this generator's `plan`.
            index: which picture, from 0.
            on_progress: as in `generate_image`.

        Raises:
            AIError: see the tree in `swiftai_nb.core.errors`.
        """
        ...


def plan_request(generator: ImageGenerator, request: GenerationRequest) -> GenerationPlan:
    """The generator's plan, or the request itself for a generator without plans.

    Raises:
        AIError: the request cannot be fulfilled.
    """
    if isinstance(generator, PlanningGenerator):
        return generator.plan(request)
    return GenerationPlan.of(request)


async def generate_planned(
    generator: ImageGenerator,
    plan: GenerationPlan,
    *,
    index: int = 0,
    on_progress: ProgressCallback | None = None,
) -> GeneratedImage:
    """Makes picture `index` of a plan that `plan_request` made for this generator.

    Raises:
        AIError: see the tree in `swiftai_nb.core.errors`.
    """
    if plan.request.choices is not None:  # each picture has a prompt of its own
        plan, index = plan.with_seeds((plan.request.seeds[index],)), 0
    if isinstance(generator, PlanningGenerator):
        return await generator.generate(plan, index=index, on_progress=on_progress)
    request = plan.request
    return await generator.generate_image(
        request.prompt,
        negative_prompt=request.negative_prompt,
        config=request.config_of(index),
        on_progress=on_progress,
    )
