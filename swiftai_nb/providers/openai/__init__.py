"""Pictures from any server that speaks OpenAI's Images API."""

from swiftai_nb.providers.openai.provider import OpenAIImagesProvider

__all__ = ["OpenAIImagesProvider"]
