"""Runs our own pipelines: keeps one model loaded, makes pictures with it, tells how far it is."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.task import CancellationToken
from swiftai_nb.engine.child.init_image import InitImage, read_init_image
from swiftai_nb.engine.child.loaded_model import LoadedModel, PipelineLoader
from swiftai_nb.engine.child.previews import PreviewThrottle, to_jpeg
from swiftai_nb.engine.child.serve import Report
from swiftai_nb.engine.protocol import (
    Done,
    Generate,
    Loaded,
    LoadModel,
    ModelFiles,
    Ready,
    Stage,
    Status,
    Step,
)

if TYPE_CHECKING:
    from swiftai_nb.diffusion import Conditioning, DenoiseStep, DiffusionPipeline

_KEPT_PROMPTS = 16
PreviewDecoder = Callable[[Any], Any]


class ModelHost:
    """See `EngineHost`.

    Args:
        ready: the answer to "what are you".
        load_pipeline: opens a model folder; None is `swiftai_nb.diffusion.load_pipeline`.
    """

    def __init__(self, ready: Ready, *, load_pipeline: PipelineLoader | None = None) -> None:
        self._ready = ready
        self._load_pipeline = _own_loader() if load_pipeline is None else load_pipeline
        self._model: LoadedModel | None = None
        self._prompts: OrderedDict[tuple[Any, ...], Conditioning] = OrderedDict()
        self._preview_decoder: tuple[str, PreviewDecoder] | None = None

    def ready(self) -> Ready:
        """See `EngineHost.ready`."""
        return self._ready

    def load(self, command: LoadModel, report: Report, token: CancellationToken) -> Loaded:
        """See `EngineHost.load`."""
        started_s = time.monotonic()
        with cancel_between_blocks(token):
            pipeline = self._pipeline_of(command.model, report, command.job_id)
            for component in pipeline.networks.values():
                token.raise_if_cancelled()
                _ = component.network  # reads its weights
        return Loaded(command.job_id, dict(pipeline.components), time.monotonic() - started_s)

    def unload(self) -> None:
        """See `EngineHost.unload`."""
        self._model = None
        self._prompts.clear()
        _give_memory_back()

    def status(self) -> Status:
        """See `EngineHost.status`."""
        import mlx.core as mx

        model = self._model
        return Status(
            folder="" if model is None else model.folder,
            components={} if model is None else dict(model.pipeline.components),
            active_memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            cache_memory_bytes=mx.get_cache_memory(),
        )

    def generate(self, command: Generate, report: Report, token: CancellationToken) -> Done:
        """See `EngineHost.generate`."""
        import mlx.core as mx

        mx.reset_peak_memory()
        run = _Run(command, report, token)
        with cancel_between_blocks(token, run.cancelled):
            pipeline = self._pipeline_of(command.model, report, command.job_id)
            run.loaded()
            run.enter(GenerationStage.ENCODING_PROMPT)
            conditioning = self._conditioning(
                pipeline,
                command.prompt,
                command.negative_prompt,
                command.guidance_scale,
                command.clip_skip,
            )
            if command.is_staged:
                pipeline.release_text_encoders()
            start = _start_picture(command)
            latents = run.denoise(pipeline, conditioning, start, preview=self._preview_of(command, pipeline))
            if command.is_staged:
                pipeline.release_denoiser()
            run.enter(GenerationStage.DECODING)
            pixels = pipeline.decode(latents)[0]
            if command.is_staged:
                pipeline.release_decoder()
        if start is not None:
            pixels = start.composite_unmasked(pixels)
        scheduler = command.scheduler if command.scheduler is not None else pipeline.defaults.scheduler
        notes = conditioning.notes if start is None else (*conditioning.notes, *start.notes)
        return run.done(np.ascontiguousarray(pixels), scheduler=scheduler, dtype=_dtype(command), notes=notes)

    def _pipeline_of(self, files: ModelFiles, report: Report, job_id: str) -> DiffusionPipeline:
        if self._model is None or not self._model.serves(files):
            report(Stage(job_id, GenerationStage.LOADING_MODEL.value, Path(files.folder).name))
            self.unload()  # never two models in memory
            self._model = LoadedModel(files, self._load_pipeline)
        if self._model.wear(files.loras):
            self._prompts.clear()
        return self._model.pipeline

    def _preview_of(self, command: Generate, pipeline: DiffusionPipeline) -> PreviewDecoder | None:
        """What turns a step's predicted picture into pixels; None when nobody wants to see it."""
        if not command.preview:
            return None
        if command.preview_decoder is None:
            linear: PreviewDecoder = pipeline.preview
            return linear
        if self._preview_decoder is None or self._preview_decoder[0] != command.preview_decoder:
            import mlx.core as mx

            from swiftai_nb.diffusion.preview_decoder import load_preview_decoder

            decode = load_preview_decoder(command.preview_decoder)
            self._preview_decoder = (command.preview_decoder, lambda latents: decode(mx.array(latents)))
        return self._preview_decoder[1]

    def _conditioning(
        self,
        pipeline: DiffusionPipeline,
        prompt: str,
        negative_prompt: str | None,
        guidance_scale: float,
        clip_skip: int | None,
    ) -> Conditioning:
        key = (prompt, negative_prompt, guidance_scale, clip_skip)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        conditioning = pipeline.encode_prompt(
            prompt, negative_prompt, guidance_scale=guidance_scale, clip_skip=clip_skip
        )
        self._prompts[key] = conditioning
        while len(self._prompts) > _KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return conditioning


class _Run:
    """One command on its way: clock, reports, stop checks."""

    def __init__(self, command: Generate, report: Report, token: CancellationToken) -> None:
        self._command, self._report, self._token = command, report, token
        self._started_s = time.monotonic()
        self._load_s = 0.0
        self._denoising_s = 0.0
        self._steps = self._total = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def loaded(self) -> None:
        self._load_s = self.elapsed_s

    def enter(self, stage: GenerationStage, detail: str = "") -> None:
        self._check()
        self._report(Stage(self._command.job_id, stage.value, detail))

    def denoise(
        self,
        pipeline: DiffusionPipeline,
        conditioning: Conditioning,
        start: InitImage | None,
        *,
        preview: PreviewDecoder | None,
    ) -> Any:
        command = self._command
        image_latents = None if start is None else pipeline.encode_image(start.pixels)
        if command.is_staged:
            pipeline.release_decoder()  # until there is something to decode
        self.enter(GenerationStage.DENOISING)
        began_s, pace, latents = time.monotonic(), PreviewThrottle(), None
        steps = pipeline.denoise(
            conditioning,
            width=command.width,
            height=command.height,
            steps=command.steps,
            seed=command.seed,
            scheduler=command.scheduler,
            image_latents=image_latents,
            strength=command.strength,
            mask=None if start is None else start.latent_mask(pipeline.vae_scale),
        )
        for step in steps:
            latents = step.latents
            self._steps = step.index + 1
            self._total = step.total
            self._tell(step, preview, pace)
            self._check()
        self._denoising_s = time.monotonic() - began_s
        return latents

    def _tell(self, step: DenoiseStep, preview: PreviewDecoder | None, pace: PreviewThrottle) -> None:
        is_due = preview is not None and pace.is_due(step.index, step.total)
        picture = to_jpeg(preview(step.denoised)[0]) if preview is not None and is_due else None
        self._report(Step(self._command.job_id, step.index, step.total, self.elapsed_s, picture))

    def _check(self) -> None:
        if self._token.is_cancelled:
            raise self.cancelled()

    def cancelled(self) -> GenerationCancelledError:
        """The stop as an error that says how far it was."""
        words = f"Cancelled at step {self._steps} of {self._total}" if self._total else "Cancelled"
        return GenerationCancelledError(words, completed_steps=self._steps, total_steps=self._total)

    def done(self, pixels: Any, *, scheduler: str, dtype: str, notes: tuple[str, ...]) -> Done:
        import mlx.core as mx

        height, width, _ = pixels.shape
        return Done(
            self._command.job_id,
            pixels=pixels.tobytes(),
            width=width,
            height=height,
            scheduler=scheduler,
            dtype=dtype,
            notes=notes,
            load_s=self._load_s,
            denoising_s=self._denoising_s,
            total_s=self.elapsed_s,
            steps=self._steps,
            peak_memory_bytes=mx.get_peak_memory(),
        )


def _own_loader() -> PipelineLoader:
    from swiftai_nb.diffusion import load_pipeline

    loader: PipelineLoader = load_pipeline
    return loader


@contextmanager
def cancel_between_blocks(
    token: CancellationToken, cancelled: Callable[[], GenerationCancelledError] = GenerationCancelledError
) -> Iterator[None]:
    """Lets a cancel be heard between two blocks of a network, not only between two steps."""
    from swiftai_nb.diffusion import ops

    def check() -> None:
        if token.is_cancelled:
            raise cancelled()

    ops.set_block_callback(check)
    try:
        yield
    finally:
        ops.set_block_callback(None)


def _start_picture(command: Generate) -> InitImage | None:
    if command.image is None:
        return None
    return read_init_image(command.image, command.mask, width=command.width, height=command.height)


def _dtype(command: Generate) -> str:
    from swiftai_nb.diffusion.precision import resolve_dtype

    return str(resolve_dtype(command.model.dtype)).removeprefix("mlx.core.")


def _give_memory_back() -> None:
    import gc

    import mlx.core as mx

    from swiftai_nb.diffusion.allocator import return_freed_memory

    gc.collect()
    mx.clear_cache()
    return_freed_memory()
