"""Pictures from the cloud, through Hugging Face's Inference Providers."""

from swiftai_nb.providers.huggingface.provider import HuggingFaceProvider

__all__ = ["HuggingFaceProvider"]
