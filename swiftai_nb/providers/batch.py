"""`imagine_batch`: many prompts or recipes, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import make_seeds
from swiftai_nb.jobs.cluster import (
    DEFAULT_ATTEMPTS,
    BatchItem,
    BatchRequest,
    ClusterBatch,
    GeneratorFactory,
    close_generators,
)
from swiftai_nb.providers import discovery

CREATE = "swiftai_nb.providers.discovery:create"


def imagine_batch(
    prompts_or_recipes: Iterable[str | Recipe | GeneratedImage | BatchRequest],
    *,
    executor: Executor | None = None,
    config: ImageGenerationConfig | None = None,
    negative_prompt: str | None = None,
    provider: str = "mlx",
    attempts: int | None = None,
    is_ordered: bool = True,
    **provider_options: Any,
) -> Iterator[BatchItem]:
    """Makes many pictures; starts when the result is first iterated.

    Picture k of a batch whose config has a seed gets seed + k, so a batch gives the same pictures on
    one machine and on a cluster of equal ones.

    Args:
        prompts_or_recipes: texts, recipes, or pictures whose recipes are to be made again.
        executor: where: `client.get_executor()` of Dask, `client.executor()` of ipyparallel, any other
            that can send work to processes. None makes them in this process, one after another.
        config: settings of the texts; recipes have their own.
        negative_prompt: of the texts.
        provider: the provider that the workers use, see `providers.discovery`.
        attempts: per picture, when its worker or engine process ends unexpectedly; None is 3 for a local
            provider, and 1 for one in the cloud, which may bill the picture each time.
        is_ordered: in the order given; otherwise in the order of completion.
        provider_options: options of the provider, the same on every worker; small and hashable.

    Yields:
        One `BatchItem` per picture, none twice: `item.image`, or `item.error`.

    Raises:
        InvalidInputError: an item that is neither text nor recipe, or an empty text.
    """
    base = ImageGenerationConfig() if config is None else config
    items = list(prompts_or_recipes)
    requests = [
        _request(item, base.replace(seed=seed), negative_prompt)
        for item, seed in zip(items, make_seeds(base.seed, count=len(items)), strict=True)
    ]
    factory = GeneratorFactory.of(CREATE, provider, **provider_options)
    attempts = default_attempts(provider) if attempts is None else attempts
    return _run(requests, executor, factory, attempts=attempts, is_ordered=is_ordered)


def default_attempts(provider: str) -> int:
    """Attempts per picture when its worker ends unexpectedly: one where each may be billed."""
    with contextlib.suppress(AIError):  # a provider that cannot be made here may be one of the workers'
        return 1 if discovery.kind(provider) == "cloud" else DEFAULT_ATTEMPTS
    return DEFAULT_ATTEMPTS


def _run(
    requests: list[BatchRequest], executor: Executor | None, factory: GeneratorFactory, **options: Any
) -> Iterator[BatchItem]:
    if executor is not None:
        yield from ClusterBatch(requests, executor, factory, **options)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="swiftai-batch") as thread:
        try:
            yield from ClusterBatch(requests, thread, factory, **options)
        finally:
            close_generators()


def _request(
    item: str | Recipe | GeneratedImage | BatchRequest,
    config: ImageGenerationConfig,
    negative_prompt: str | None,
) -> BatchRequest:
    if isinstance(item, BatchRequest):
        seed = config.seed if item.config.seed is None else item.config.seed
        return BatchRequest(item.prompt, item.negative_prompt, item.config.replace(seed=seed))
    if isinstance(item, (Recipe, GeneratedImage)):
        recipe = Recipe.from_image(item) if isinstance(item, GeneratedImage) else item
        made = recipe.to_config()
        missing = {
            "changes": ("references", recipe.references_sha256 and not made.references),
            "follows": ("controls", recipe.controls),
        }
        for does, (name, is_missing) in missing.items():
            if is_missing:
                raise InvalidInputError(
                    f"this recipe {does} pictures that are not in it",
                    hint=f"give the prompt as text, and the pictures as ImageGenerationConfig({name}=[...])",
                )
        seed = config.seed if made.seed is None else made.seed
        return BatchRequest(recipe.prompt, recipe.negative_prompt, made.replace(seed=seed))
    if not isinstance(item, str) or not item.strip():
        raise InvalidInputError(f"{item!r} is not a prompt", hint="give texts, recipes or pictures")
    return BatchRequest(item, negative_prompt, config)
