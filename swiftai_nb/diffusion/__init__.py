"""Diffusion models on MLX: arrays in, arrays out. The only package that imports mlx."""

from __future__ import annotations

from typing import Any

__all__ = [
    "Conditioning",
    "DenoiseStep",
    "DiffusionPipeline",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "load_pipeline":
        from swiftai_nb.diffusion.pipelines.families import load_pipeline

        return load_pipeline
    if name in __all__:
        from swiftai_nb.diffusion.pipelines import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
