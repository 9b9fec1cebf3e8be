"""The host of this package's pipelines: keeps one model loaded and generates images with it."""

from __future__ import annotations

import ctypes
import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import AIError, GenerationFailedError
from swiftai_nb.core.image_input import count_run_steps
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.engine.child.enlarging import Enlarger, hires_pass
from swiftai_nb.engine.child.init_image import InitImage, picture_inputs, read_init_image, read_picture
from swiftai_nb.engine.child.loaded_model import LoadedModel, PipelineLoader
from swiftai_nb.engine.child.outpainting import outpaint_image
from swiftai_nb.engine.child.run import GenerationRun, Pixels
from swiftai_nb.engine.child.serve import Report
from swiftai_nb.engine.messages import (
    Done,
    Generate,
    Loaded,
    LoadModel,
    ModelFiles,
    Quantize,
    Ready,
    Stage,
    Status,
    Upscale,
)

if TYPE_CHECKING:
    from swiftai_nb.diffusion import Conditioning, DiffusionPipeline

_KEPT_PROMPTS = 16
PreviewDecoder = Callable[[Any], Any]


class ModelHost:
    """See `EngineHost`.

    Args:
        ready: describes this engine.
        load_pipeline: opens a model folder; None is `swiftai_nb.diffusion.load_pipeline`.
        keeps_freed_memory: whether this process keeps freed memory during a run, which `idle` returns.
    """

    def __init__(
        self,
        ready: Ready,
        *,
        load_pipeline: PipelineLoader | None = None,
        keeps_freed_memory: bool = False,
    ) -> None:
        self._ready = ready
        self._keeps_freed_memory = keeps_freed_memory
        self._load_pipeline = _default_loader() if load_pipeline is None else load_pipeline
        self._model: LoadedModel | None = None
        self._prompts: OrderedDict[tuple[Any, ...], Conditioning] = OrderedDict()
        self._preview_decoder: tuple[str, PreviewDecoder] | None = None
        self._enlarger = Enlarger()

    def ready(self) -> Ready:
        """See `EngineHost.ready`."""
        return self._ready

    def load(self, command: LoadModel, report: Report, token: CancellationToken) -> Loaded:
        """See `EngineHost.load`."""
        from swiftai_nb.diffusion.cpu.workers import single_threaded_numpy

        started_s = time.monotonic()
        with single_threaded_numpy(), cancel_between_blocks(token.raise_if_cancelled, token):
            pipeline = self._pipeline_of(command.model, report, command.job_id)
            for component in pipeline.networks.values():
                token.raise_if_cancelled()
                _ = component.network  # reads its weights
        return Loaded(command.job_id, dict(pipeline.components), time.monotonic() - started_s)

    def quantize(self, command: Quantize, report: Report, token: CancellationToken) -> None:
        """See `SupportsQuantize.quantize`."""
        from swiftai_nb.diffusion.weights.save import save_model

        def on_network(name: str) -> None:
            token.raise_if_cancelled()
            report(Stage(command.job_id, GenerationStage.LOADING_MODEL.value, name))

        self.unload()
        folder, target = Path(command.folder), Path(command.target)
        try:
            pipeline = self._load_pipeline(folder, quantization_bits=command.bits)
            save_model(pipeline.networks, folder, target, notify=on_network)
        except AIError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise GenerationFailedError(
                f"quantizing failed: {error}", hint="free disk space and try again"
            ) from error

    def unload(self) -> None:
        """See `EngineHost.unload`."""
        self._model = None
        self._enlarger.release()
        self._prompts.clear()
        _return_memory()

    def idle(self) -> None:
        """See `SupportsIdle.idle`."""
        if self._keeps_freed_memory:
            from swiftai_nb.diffusion.memory import return_freed_memory

            return_freed_memory()

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

        from swiftai_nb.diffusion.cpu.workers import single_threaded_numpy

        mx.reset_peak_memory()
        run = GenerationRun(command, report, token)
        rounds = self._rounds_products(command.model)
        hearing = cancel_between_blocks(run.raise_if_cancelled, token)
        with single_threaded_numpy(), hearing, half_products(rounds):
            pipeline = self._pipeline_of(command.model, report, command.job_id)
            run.model_loaded()
            run.enter_stage(GenerationStage.ENCODING_PROMPT)
            conditioning = self._conditioning(pipeline, command)
            if command.is_staged:
                pipeline.release_text_encoders()
            init_image = _init_image(command)
            if command.hires_steps:
                run.expect_pass(max(1, count_run_steps(command.hires_steps, command.hires_strength)))
            pixels = self._draw(pipeline, conditioning, init_image, command, run)
            notes = conditioning.notes
            if init_image is not None:
                pixels, notes = init_image.composite_unmasked(pixels), (*notes, *init_image.notes)
            if command.hires_steps:
                second = hires_pass(command)
                size = (second.width, second.height)
                pixels = self._enlarger.enlarge(pixels, size, file=command.upscaler, run=run)
                run.next_pass()
                pixels = self._draw(pipeline, conditioning.final, InitImage(pixels), second, run)
            if command.final_width:
                size = (command.final_width, command.final_height)
                pixels = self._enlarger.enlarge(pixels, size, file=command.upscaler, run=run)
            if command.is_staged:
                self._enlarger.release()
        return run.done(
            pixels,
            scheduler=pipeline.defaults.scheduler if command.scheduler is None else command.scheduler,
            dtype="bfloat16" if rounds else str(pipeline.dtype).removeprefix("mlx.core."),
            notes=notes,
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def upscale(self, command: Upscale, report: Report, token: CancellationToken) -> Done:
        """See `SupportsUpscale.upscale`."""
        import mlx.core as mx

        from swiftai_nb.diffusion.cpu.workers import single_threaded_numpy

        mx.reset_peak_memory()
        run, picture = GenerationRun(command, report, token), read_picture(command.image)
        with single_threaded_numpy(), cancel_between_blocks(run.raise_if_cancelled, token):
            size = (command.width, command.height)
            pixels = self._enlarger.enlarge(picture, size, file=command.upscaler, run=run)
        return run.done(pixels, scheduler="", dtype=_dtype(None), peak_memory_bytes=mx.get_peak_memory())

    def _draw(
        self,
        pipeline: DiffusionPipeline,
        conditioning: Conditioning,
        init_image: InitImage | None,
        command: Generate,
        run: GenerationRun,
    ) -> Pixels:
        """One pass: denoises and decodes."""
        latents = self._denoise(pipeline, conditioning, init_image, command, run)
        if command.is_staged:
            pipeline.release_denoiser()
        run.enter_stage(GenerationStage.DECODING)
        pixels: Pixels = pipeline.decode(latents)[0]
        if command.is_staged:
            pipeline.release_decoder()
        return pixels

    def _denoise(
        self,
        pipeline: DiffusionPipeline,
        conditioning: Conditioning,
        init_image: InitImage | None,
        command: Generate,
        run: GenerationRun,
    ) -> Any:
        pictures = picture_inputs(pipeline, command, init_image)
        decoder, latents = self._preview_of(command, pipeline), None
        if command.is_staged:
            pipeline.release_decoder()  # the steps need the memory; decoding reads it again
        run.enter_stage(GenerationStage.DENOISING)
        for step in pipeline.denoise(
            conditioning,
            width=command.width,
            height=command.height,
            steps=command.steps,
            seed=command.seed,
            scheduler=command.scheduler,
            strength=command.strength,
            guidance_rescale=0.0 if command.guidance_rescale is None else command.guidance_rescale,
            eta=command.eta,
            image_guidance_scale=command.image_guidance_scale,
            **pictures,
        ):
            latents, denoised = step.latents, step.denoised
            preview = None if decoder is None else lambda decode=decoder, x=denoised: decode(x)[0]
            run.step_done(step.index, step.total, preview)
        return latents

    def _rounds_products(self, files: ModelFiles) -> bool:
        """Whether a picture is computed in bfloat16 by the CPU kernels: float32 arrays, rounded products."""
        from swiftai_nb.diffusion import ops

        return self._ready.device == "cpu" and files.dtype == "bfloat16" and ops.has_half_products()

    def _pipeline_of(self, files: ModelFiles, report: Report, job_id: str) -> DiffusionPipeline:
        if self._ready.device == "cpu":
            files = replace(files, dtype="float32")  # of arrays; MLX's own bfloat16 would be slow
        if self._model is None or not self._model.matches(files):
            report(Stage(job_id, GenerationStage.LOADING_MODEL.value, Path(files.folder).name))
            self.unload()  # never two models in memory
            self._model = LoadedModel(files, self._load_pipeline)
        has_new_loras = self._model.set_loras(files.loras)
        if self._model.set_embeddings(files.embeddings) or has_new_loras:
            self._prompts.clear()
        return self._model.pipeline

    def _preview_of(self, command: Generate, pipeline: DiffusionPipeline) -> PreviewDecoder | None:
        """Turns a step's predicted x0 into pixels; None when the command wants no previews."""
        if not command.preview:
            return None
        if command.preview_decoder is None:
            pipeline.prepare_preview()
            linear: PreviewDecoder = pipeline.preview
            return linear
        if self._preview_decoder is None or self._preview_decoder[0] != command.preview_decoder:
            import mlx.core as mx

            from swiftai_nb.diffusion.preview_decoder import load_preview_decoder

            decode = load_preview_decoder(command.preview_decoder)
            self._preview_decoder = (command.preview_decoder, lambda latents: decode(mx.array(latents)))
        return self._preview_decoder[1]

    def _conditioning(self, pipeline: DiffusionPipeline, command: Generate) -> Conditioning:
        is_edited = "[" in command.prompt or "[" in (command.negative_prompt or "")
        strength = None if command.image is None else command.strength
        steps = max(1, count_run_steps(command.steps, strength)) if is_edited else None
        key = (
            command.prompt,
            command.negative_prompt,
            command.guidance_scale,
            command.clip_skip,
            command.prompt_syntax,
            steps,
            self._rounds_products(command.model),
        )
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        conditioning = pipeline.encode_prompt(
            command.prompt,
            command.negative_prompt,
            guidance_scale=command.guidance_scale,
            clip_skip=command.clip_skip,
            prompt_syntax=command.prompt_syntax,
            steps=steps,
        )
        self._prompts[key] = conditioning
        while len(self._prompts) > _KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return conditioning


@contextmanager
def cancel_between_blocks(raise_if_cancelled: Callable[[], None], token: CancellationToken) -> Iterator[None]:
    """Checks for a cancel between two blocks of a network, not only two steps, and in compiled loops."""
    from swiftai_nb.diffusion import ops

    stop_flag = ctypes.c_int(0)
    token.on_cancel(lambda: setattr(stop_flag, "value", 1))
    ops.set_block_callback(raise_if_cancelled, stop_flag=stop_flag)
    try:
        yield
    finally:
        ops.set_block_callback(None)


@contextmanager
def half_products(half: bool) -> Iterator[None]:
    """Rounds the inputs of products to bfloat16, if `half`: see `ops.set_half_products`."""
    from swiftai_nb.diffusion import ops

    ops.set_half_products(half)
    try:
        yield
    finally:
        ops.set_half_products(False)


def _default_loader() -> PipelineLoader:
    from swiftai_nb.diffusion import load_pipeline

    loader: PipelineLoader = load_pipeline
    return loader


def _init_image(command: Generate) -> InitImage | None:
    if command.image is None:
        return None
    if command.outpaint is not None:
        return outpaint_image(command)
    return read_init_image(
        command.image,
        command.mask,
        width=command.width,
        height=command.height,
        feather=command.mask_feather or 0,
    )


def _dtype(wanted: str | None) -> str:
    from swiftai_nb.diffusion.weights.precision import resolve_dtype

    return str(resolve_dtype(wanted)).removeprefix("mlx.core.")


def _return_memory() -> None:
    import mlx.core as mx

    from swiftai_nb.diffusion.memory import return_freed_memory

    gc.collect()
    mx.clear_cache()
    return_freed_memory()
