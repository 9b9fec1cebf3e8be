"""What a repository of the fake Hub holds, and how the Hub names and lists it."""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import Any

LFS_MIN_BYTES = 1024


@lru_cache(maxsize=64)
def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@lru_cache(maxsize=64)
def oid_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LFS_MIN_BYTES else git_sha1(data)


def sibling(path: str, data: bytes, *, with_metadata: bool) -> dict[str, Any]:
    if not with_metadata:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if len(data) >= LFS_MIN_BYTES:
        entry["lfs"] = {"size": len(data), "sha256": oid_of(data), "pointerSize": 134}
    return entry


def tiny_repository(weights_bytes: int = 300_000, *, seed: int = 0) -> dict[str, bytes]:
    """A repository in diffusers layout whose weights are noise; with files nobody should fetch."""
    noise = random.Random(seed)
    return {
        "README.md": b"# a model\n",
        "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
        "scheduler/scheduler_config.json": b'{"_class_name": "DDIMScheduler"}',
        "text_encoder/config.json": b'{"hidden_size": 8}',
        "text_encoder/model.fp16.safetensors": noise.randbytes(weights_bytes // 2),
        "tokenizer/merges.txt": b"#version\n",
        "tokenizer/vocab.json": b'{"a": 0}',
        "unet/config.json": b'{"cross_attention_dim": 768}',
        "unet/diffusion_pytorch_model.fp16.safetensors": noise.randbytes(weights_bytes),
        "unet/diffusion_pytorch_model.safetensors": noise.randbytes(weights_bytes * 2),
        "vae/config.json": b'{"latent_channels": 4}',
        "vae/diffusion_pytorch_model.fp16.safetensors": noise.randbytes(weights_bytes // 3),
        "whole.safetensors": noise.randbytes(weights_bytes),
    }
