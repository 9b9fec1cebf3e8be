"""Opens DiffusionKit's pipelines over local files and observes their denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, Protocol

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.guests.diffusionkit.checkpoint import LocatedCheckpoint
from swiftai_nb.guests.diffusionkit.child.compatibility import complete_weights

_NETWORKS = ("mmdit", "decoder", "encoder", "clip_l", "clip_g", "t5_encoder")


class LoopListener(Protocol):
    """Notified of a pipeline's progress; an exception it raises ends the picture."""

    def denoising(self, total: int) -> None:
        """The loop of `total` steps begins."""
        ...

    def between_parts(self) -> None:
        """Some part of the work outside the steps is done: a time step's modulation, a decoder's block."""
        ...

    def denoised(self, prediction: Any) -> None:
        """A step is computed: the predicted x0, [B, H/8, W/8, 16], in model space, lazy."""
        ...

    def decoding(self) -> None:
        """The autoencoder begins."""
        ...


def open_pipeline(dk: Any, located: LocatedCheckpoint, *, half_precision: bool, low_memory: bool) -> Any:
    """A DiffusionPipeline or FluxPipeline; its weights are read as they are used.

    Args:
        dk: `diffusionkit.mlx`, patched.
        located: its files.
        half_precision: compute in float16 (FLUX.1: bfloat16); else in float32.
        low_memory: drop each network when no longer needed, and read it again for the next picture.

    Raises:
        InvalidModelFilesError: a file does not fit.
    """
    _read_from_disk(dk, located)
    checkpoint = located.checkpoint
    kind = dk.FluxPipeline if checkpoint.is_flux else dk.DiffusionPipeline
    with complete_weights(checkpoint.name), _file_errors(checkpoint.name):
        return kind(
            w16=half_precision,
            a16=half_precision,
            shift=checkpoint.shift,
            model_version=checkpoint.version,
            low_memory_mode=low_memory,
        )


def reload_missing(pipeline: Any) -> None:
    """Opens the networks that an earlier picture or a repair has dropped."""
    name = pipeline.model_version.partition("/")[2]
    with complete_weights(name), _file_errors(name):
        pipeline.check_and_load_models()
        if not hasattr(pipeline, "t5_encoder"):
            pipeline.set_up_t5()


def repair(pipeline: Any) -> None:
    """After an exception: drops all networks.

    An exception in the loop leaves the denoiser without the weights of its modulation, one in T5 leaves
    the encoder without its layers; the next picture would fail, or be noise.
    """
    for name in _NETWORKS:
        if hasattr(pipeline, name):
            delattr(pipeline, name)
    release_memory()


def release_memory() -> None:
    """Frees what no array holds, and undoes the memory limit that T5 sets while it computes."""
    import gc

    import mlx.core as mx

    gc.collect()
    mx.metal.clear_cache()
    mx.metal.set_memory_limit(int(mx.metal.device_info()["memory_size"]))


@contextmanager
def observed(dk: Any, pipeline: Any, listener: LoopListener) -> Iterator[None]:
    """Notifies `listener` of the pipeline's progress."""
    from diffusionkit.mlx import mmdit, vae

    denoise, cache = dk.CFGDenoiser.__call__, dk.CFGDenoiser.cache_modulation_params
    decode = type(pipeline).decode_latents_to_image

    def watched_denoise(self: Any, *args: Any, **options: Any) -> Any:
        prediction = denoise(self, *args, **options)
        listener.denoised(prediction)
        return prediction

    def watched_cache(self: Any, pooled: Any, timesteps: Any) -> Any:
        listener.denoising(len(timesteps) - 1)
        return cache(self, pooled, timesteps)

    def watched_part(part: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            listener.between_parts()
            return part(self, *args)

        return call

    def watched_decode(self: Any, latents: Any) -> Any:
        listener.decoding()
        return decode(self, latents)

    with (
        _replaced(dk.CFGDenoiser, "__call__", watched_denoise),
        _replaced(dk.CFGDenoiser, "cache_modulation_params", watched_cache),
        _replaced(mmdit.TimestepAdapter, "__call__", watched_part(mmdit.TimestepAdapter.__call__)),
        _replaced(vae.EncoderDecoderBlock2D, "__call__", watched_part(vae.EncoderDecoderBlock2D.__call__)),
        _replaced(type(pipeline), "decode_latents_to_image", watched_decode),
    ):
        yield


def _read_from_disk(dk: Any, located: LocatedCheckpoint) -> None:
    """Makes its downloads return the local files."""
    from diffusionkit.mlx import model_io, tokenizer

    version = located.checkpoint.version
    weights = located.files[located.checkpoint.weights]

    def local_file(repository: str, path: str, **_: Any) -> str:
        # Its answer for config.json is never read.
        return str(weights if path == "config.json" else located.files[path])

    model_io.hf_hub_download = local_file
    model_io.T5Config = _Local(model_io.T5Config, str(located.t5_folder))
    tokenizer.AutoTokenizer = _Local(tokenizer.AutoTokenizer, str(located.t5_folder))
    configs, decoder, encoder = _published(dk)
    model_io._CONFIG = {**configs, version: _resized(configs[version], located, "mmdit")}
    if located.checkpoint.is_flux:  # its loader reads this name, whichever FLUX.1 it loads
        model_io.FLUX_SCHNELL = model_io._CONFIG[version]
    model_io.VAEDecoderConfig = lambda: _resized(decoder(), located, "vae")
    model_io.VAEEncoderConfig = lambda: _resized(encoder(), located, "vae")


@lru_cache(maxsize=1)
def _published(dk: Any) -> tuple[dict[str, Any], Callable[[], Any], Callable[[], Any]]:
    """The published sizes, as they were before any folder brought its own."""
    from diffusionkit.mlx import model_io

    return dict(model_io._CONFIG), model_io.VAEDecoderConfig, model_io.VAEEncoderConfig


class _Local:
    """Stands for a class of transformers whose `from_pretrained` is given a Hub name."""

    def __init__(self, kind: Any, folder: str) -> None:
        self._kind: Any = kind._kind if isinstance(kind, _Local) else kind
        self._folder = folder

    def from_pretrained(self, _name: str, **options: Any) -> Any:
        return self._kind.from_pretrained(self._folder, local_files_only=True, **options)


def _resized(config: Any, located: LocatedCheckpoint, part: str) -> Any:
    known = {f.name for f in fields(config)}
    given = located.sizes.get(part, {})
    if set(given) - known:
        raise InvalidModelFilesError(
            f"config.json: DiffusionKit has no {part} size {', '.join(sorted(set(given) - known))}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return replace(config, **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    """Turns loading errors into one InvalidModelFilesError of one line."""
    try:
        yield
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        words = " ".join((str(error).strip() or type(error).__name__).split())
        raise InvalidModelFilesError(
            f"{name}: {words[:300]}", hint="download the model again, or compare its files with the docs"
        ) from error


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of a class; what was inherited is inherited again afterwards."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
