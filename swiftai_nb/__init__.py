"""Text to image in a notebook, on your own machine or in the cloud.

`%load_ext swiftai_nb` registers the `%%imagine` magic; the names below are the Python API. They
are imported on first use, so that `import swiftai_nb` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from swiftai_nb._version import __version__

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from IPython.core.interactiveshell import InteractiveShell

    from swiftai_nb.core.cancellation import CancellationToken
    from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
    from swiftai_nb.core.control import ControlReference
    from swiftai_nb.core.errors import AIError
    from swiftai_nb.core.generator import ImageGenerator, PlanningGenerator
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.core.request import GenerationPlan, GenerationRequest
    from swiftai_nb.downloads.downloader import DiffusionModelDownloader
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.notebook.output.pictures import Pictures
    from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
    from swiftai_nb.providers.batch import imagine_batch
    from swiftai_nb.providers.huggingface import HuggingFaceProvider
    from swiftai_nb.providers.mlx import MLXImageProvider
    from swiftai_nb.providers.openai import OpenAIImagesProvider
    from swiftai_nb.registry.model_info import DiffusionModelInfo
    from swiftai_nb.registry.registry import DiffusionModelRegistry, DownloadedDiffusionModel

_HOMES = {
    "AIError": "swiftai_nb.core.errors",
    "CancellationToken": "swiftai_nb.core.cancellation",
    "DiffusionModelDownloader": "swiftai_nb.downloads.downloader",
    "DiffusionModelInfo": "swiftai_nb.registry.model_info",
    "DiffusionModelRegistry": "swiftai_nb.registry.registry",
    "DiffusionVariant": "swiftai_nb.model_files.variants",
    "DownloadedDiffusionModel": "swiftai_nb.registry.registry",
    "GeneratedImage": "swiftai_nb.core.image",
    "GenerationPlan": "swiftai_nb.core.request",
    "GenerationRequest": "swiftai_nb.core.request",
    "GenerationStage": "swiftai_nb.core.progress",
    "HuggingFaceProvider": "swiftai_nb.providers.huggingface",
    "ImageGenerationConfig": "swiftai_nb.core.config",
    "ImageGenerationProgress": "swiftai_nb.core.progress",
    "ImageGenerator": "swiftai_nb.core.generator",
    "ImagineWidget": "swiftai_nb.notebook.widget.imagine_widget",
    "imagine_batch": "swiftai_nb.providers.batch",
    "LoraReference": "swiftai_nb.core.config",
    "ControlReference": "swiftai_nb.core.control",
    "MLXImageProvider": "swiftai_nb.providers.mlx",
    "OpenAIImagesProvider": "swiftai_nb.providers.openai",
    "Pictures": "swiftai_nb.notebook.output.pictures",
    "PlanningGenerator": "swiftai_nb.core.generator",
    "Recipe": "swiftai_nb.core.recipe",
}

__all__ = [
    "AIError",
    "CancellationToken",
    "ControlReference",
    "DiffusionModelDownloader",
    "DiffusionModelInfo",
    "DiffusionModelRegistry",
    "DiffusionVariant",
    "DownloadedDiffusionModel",
    "GeneratedImage",
    "GenerationPlan",
    "GenerationRequest",
    "GenerationStage",
    "HuggingFaceProvider",
    "ImageGenerationConfig",
    "ImageGenerationProgress",
    "ImageGenerator",
    "ImagineWidget",
    "LoraReference",
    "MLXImageProvider",
    "OpenAIImagesProvider",
    "Pictures",
    "PlanningGenerator",
    "Recipe",
    "__version__",
    "imagine_batch",
    "load_ipython_extension",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif not name.startswith("_") and name in (classes := _plugin_classes()):
        value = classes[name].load()
    else:
        raise AttributeError(f"module 'swiftai_nb' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_plugin_classes()})


def _plugin_classes() -> dict[str, EntryPoint]:
    """Provider classes of other packages by class name; as public as the built-in ones, loaded on use."""
    from swiftai_nb.core.plugins import PROVIDERS, find_plugins

    points = find_plugins(PROVIDERS).values()
    return {point.attr: point for point in points if point.attr[:1].isupper() and point.attr.isidentifier()}


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Registers the magics; called by `%load_ext swiftai_nb`."""
    from swiftai_nb.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Removes the magics and stops the engine; called by `%unload_ext swiftai_nb`."""
    from swiftai_nb.notebook.extension import unload

    unload(ipython)
