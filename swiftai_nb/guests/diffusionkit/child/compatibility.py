"""Patches for bugs of DiffusionKit 0.5.2; docs/diffusionkit.md lists them.

Each patch names the bug and checks whether it is present, so that both the mlx DiffusionKit pins (0.17.3)
and a current one work. Nothing in this module runs in the user's process.
"""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.machine import installed_memory_bytes

_MEMORY_FUNCTIONS = (
    *("get_active_memory", "get_peak_memory", "reset_peak_memory"),
    *("set_memory_limit", "clear_cache", "device_info"),
)
_FALLBACK_MEMORY_BYTES = 8 * 2**30


def stub_unused_packages() -> None:
    """DiffusionKit imports argmaxtools for a logger and torch for nothing it runs.

    They require coremltools, scikit-learn and wandb: a gigabyte and many seconds. Call this before
    `import diffusionkit.mlx`.
    """
    tools = types.ModuleType("argmaxtools")
    tools.__path__ = []
    utils = types.ModuleType("argmaxtools.utils")
    vars(utils)["get_logger"] = logging.getLogger
    test_utils = types.ModuleType("argmaxtools.test_utils")
    for name in ("AppleSiliconContextMixin", "InferenceContextSpec"):
        vars(test_utils)[name] = type(name, (), {})
    own = types.ModuleType("diffusionkit.utils")  # the one module that imports torch
    vars(own)["bytes2gigabytes"] = lambda size_bytes: size_bytes / 2**30
    sys.modules.update({m.__name__: m for m in (tools, utils, test_utils, own)})


def moved_memory_functions(dk: Any) -> None:
    """Newer mlx keeps memory functions in mlx.core; those in mlx.core.metal warn at every call."""
    import mlx.core as mx

    for name in _MEMORY_FUNCTIONS:
        if hasattr(mx, name):
            setattr(mx.metal, name, getattr(mx, name))


def memory_size_everywhere(dk: Any) -> None:
    """Its T5 asks device_info() for memory_size, which only Metal has."""
    import mlx.core as mx

    device_info = mx.metal.device_info

    def with_memory_size() -> dict[str, Any]:
        return {"memory_size": _memory_bytes(), **device_info()}

    mx.metal.device_info = with_memory_size


def attention_without_threshold(dk: Any) -> None:
    """It passes memory_efficient_threshold, which mlx has not taken since 0.22."""
    import mlx.core as mx

    attention: Callable[..., Any] = mx.fast.scaled_dot_product_attention
    probe = mx.zeros((1, 1, 1, 8))
    try:
        attention(probe, probe, probe, scale=1.0, memory_efficient_threshold=1024)
    except TypeError:

        def without(*arrays: Any, memory_efficient_threshold: int | None = None, **options: Any) -> Any:
            return attention(*arrays, **options)

        mx.fast.scaled_dot_product_attention = without


def any_text_for_clip(dk: Any) -> None:
    """Its CLIP tokenizer looks up characters unchanged and fails for `é`; CLIP's alphabet is bytes."""
    from diffusionkit.mlx import tokenizer

    alphabet = byte_alphabet()
    merge = tokenizer.Tokenizer.bpe

    def bpe(self: Any, text: str) -> Any:
        if text in (self.bos, self.eos):
            return [text]  # its own cache gives the string, which is then taken apart into letters
        return merge(self, "".join(alphabet[byte] for byte in text.encode("utf-8", "replace")))

    tokenizer.Tokenizer.bpe = bpe


def clear_modulations(dk: Any) -> None:
    """It keeps the modulation of every time step of every picture; those of the last one suffice."""
    reload_weights = dk.CFGDenoiser.clear_cache

    def clear_cache(self: Any) -> None:
        reload_weights(self)
        for _, module in self.model.mmdit.named_modules():
            kept = module.get("_modulation_params") if isinstance(module, dict) else None
            if kept is not None:
                kept.clear()

    dk.CFGDenoiser.clear_cache = clear_cache


PATCHES: tuple[Callable[[Any], None], ...] = (
    moved_memory_functions,
    memory_size_everywhere,
    attention_without_threshold,
    any_text_for_clip,
    clear_modulations,
)


def import_diffusionkit() -> Any:
    """`diffusionkit.mlx`, patched.

    Raises:
        ImportError: a package it needs is missing or broken.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # its progress bar would fill the kept tail of standard error
    os.environ["HF_HUB_OFFLINE"] = "1"  # every file is local; nothing is downloaded unasked
    stub_unused_packages()
    import diffusionkit.mlx as dk

    for patch in PATCHES:
        patch(dk)
    return dk


@contextmanager
def complete_weights(what: str) -> Iterator[None]:
    """While loading: networks must be given every weight; it would leave missing ones random.

    Raises:
        InvalidModelFilesError: a file lacks weights; names some.
    """
    from mlx import nn
    from mlx.utils import tree_flatten, tree_unflatten

    update = nn.Module.update

    def checked(self: Any, parameters: Any, *args: Any, **options: Any) -> Any:
        given = dict(tree_flatten(parameters))
        own = dict(tree_flatten(self.parameters()))
        lacking = sorted(set(own) - set(given))
        if lacking:
            raise InvalidModelFilesError(
                f"{what}: the {type(self).__name__} lacks {len(lacking)} weights, such as {lacking[0]}",
                hint="download the model again",
            )
        # Buffers that old transformers saved beside the weights; newer mlx refuses names it does not know.
        known = [(k, v) for k, v in given.items() if not k.endswith("position_ids")]
        return update(self, tree_unflatten(known), *args, **options)

    nn.Module.update = checked
    try:
        yield
    finally:
        nn.Module.update = update


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in the vocabularies of GPT-2 and CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + index) for index, byte in enumerate(rest)}


def _memory_bytes() -> int:
    installed_bytes = installed_memory_bytes()
    return _FALLBACK_MEMORY_BYTES if installed_bytes is None else installed_bytes
