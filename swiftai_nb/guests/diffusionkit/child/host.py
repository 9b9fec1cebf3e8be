"""Runs DiffusionKit's pipelines behind the engine's protocol."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.diffusion.preview import FLUX_PREVIEW, SD3_PREVIEW, LinearPreview
from swiftai_nb.engine.child.run import GenerationRun
from swiftai_nb.engine.child.serve import Report
from swiftai_nb.engine.messages import Done, Generate, Loaded, LoadModel, ModelFiles, Ready, Stage, Status
from swiftai_nb.guests.diffusionkit.checkpoint import Checkpoint, locate
from swiftai_nb.guests.diffusionkit.child import pipeline as pipelines

SCHEDULER = "flow-match-euler"


class DiffusionKitHost:
    """See `EngineHost`.

    Args:
        dk: `diffusionkit.mlx`, patched.
        ready: describes this process to the kernel.
    """

    def __init__(self, dk: Any, ready: Ready) -> None:
        self._dk, self._ready = dk, ready
        self._loaded: tuple[ModelFiles, bool] | None = None
        self._pipeline: Any = None
        self._checkpoint: Checkpoint | None = None

    def ready(self) -> Ready:
        """See `EngineHost.ready`."""
        return self._ready

    def load(self, command: LoadModel, report: Report, token: CancellationToken) -> Loaded:
        """See `EngineHost.load`."""
        started_s = time.monotonic()
        pipeline = self._load_pipeline(command.model, report, command.job_id, low_memory=False)
        token.raise_if_cancelled()
        pipeline.ensure_models_are_loaded()
        return Loaded(command.job_id, _component_bytes(pipeline), time.monotonic() - started_s)

    def unload(self) -> None:
        """See `EngineHost.unload`."""
        self._loaded = self._pipeline = self._checkpoint = None
        pipelines.release_memory()

    def status(self) -> Status:
        """See `EngineHost.status`."""
        import mlx.core as mx

        return Status(
            folder="" if self._loaded is None else self._loaded[0].folder,
            components={} if self._pipeline is None else _component_bytes(self._pipeline),
            active_memory_bytes=int(mx.metal.get_active_memory()),
            peak_memory_bytes=int(mx.metal.get_peak_memory()),
        )

    def generate(self, command: Generate, report: Report, token: CancellationToken) -> Done:
        """See `EngineHost.generate`."""
        run = GenerationRun(command, report, token)
        pipeline = self._load_pipeline(command.model, report, command.job_id, low_memory=command.is_staged)
        try:
            pipelines.reload_missing(pipeline)
            run.model_loaded()
            run.enter_stage(GenerationStage.ENCODING_PROMPT)
            with pipelines.observed(self._dk, pipeline, _RunListener(run, self._preview_of(command))):
                image, log = self._draw(pipeline, command)
        except BaseException:
            pipelines.repair(pipeline)
            raise
        return run.done(
            np.asarray(image.convert("RGB")),
            scheduler=SCHEDULER,
            dtype=_dtype(pipeline),
            peak_memory_bytes=round(log["peak_memory"] * 2**30),
        )

    def _preview_of(self, command: Generate) -> LinearPreview | None:
        if not command.preview or self._checkpoint is None:
            return None
        return FLUX_PREVIEW if self._checkpoint.is_flux else SD3_PREVIEW

    def _draw(self, pipeline: Any, command: Generate) -> tuple[Any, dict[str, Any]]:
        is_flux = self._checkpoint is not None and self._checkpoint.is_flux
        # Its SD3 mixes the negative prompt into pictures without guidance: 1 means the same, done rightly.
        guidance = 0.0 if is_flux else max(1.0, command.guidance_scale)
        image, log = pipeline.generate_image(
            command.prompt,
            num_steps=command.steps,
            cfg_weight=guidance,
            negative_text="" if command.negative_prompt is None else command.negative_prompt,
            latent_size=(command.height // 8, command.width // 8),
            seed=command.seed,
            verbose=False,  # else it asks macOS for its version after decoding, and can die of the answer
        )
        return image, log

    def _load_pipeline(self, files: ModelFiles, report: Report, job_id: str, *, low_memory: bool) -> Any:
        wanted = (files, low_memory)
        if self._loaded != wanted:
            report(Stage(job_id, GenerationStage.LOADING_MODEL.value, Path(files.folder).name))
            self.unload()  # never two models in memory
            located = locate(Path(files.folder), tuple(Path(f) for f in files.more_folders))
            self._pipeline = pipelines.open_pipeline(
                self._dk, located, half_precision=self._ready.device == "metal", low_memory=low_memory
            )
            self._checkpoint, self._loaded = located.checkpoint, wanted
        return self._pipeline


class _RunListener:
    """Reports what DiffusionKit's loop does to a run. A `LoopListener`."""

    def __init__(self, run: GenerationRun, preview: LinearPreview | None) -> None:
        self._run, self._preview = run, preview
        self._steps = self._total = 0

    def denoising(self, total: int) -> None:
        self._total = total
        self._run.enter_stage(GenerationStage.DENOISING, total_steps=total)

    def between_parts(self) -> None:
        self._run.raise_if_cancelled()

    def denoised(self, prediction: Any) -> None:
        import mlx.core as mx

        mx.eval(prediction)  # MLX is lazy: only now the step is done
        preview = self._preview
        self._steps += 1
        self._run.step_done(
            self._steps - 1,
            self._total,
            None if preview is None else lambda: preview(np.array(prediction[:1].astype(mx.float32)))[0],
        )

    def decoding(self) -> None:
        self._run.enter_stage(GenerationStage.DECODING)


def _component_bytes(pipeline: Any) -> dict[str, int]:
    from mlx.utils import tree_flatten

    networks = {
        "transformer": "mmdit",
        "vae": "decoder",
        "text_encoder": "clip_l",
        "text_encoder_2": "clip_g",
        "text_encoder_3": "t5_encoder",
    }
    return {
        name: sum(array.nbytes for _, array in tree_flatten(getattr(pipeline, attribute).parameters()))
        for name, attribute in networks.items()
        if hasattr(pipeline, attribute)
    }


def _dtype(pipeline: Any) -> str:
    return str(pipeline.activation_dtype).removeprefix("mlx.core.")
