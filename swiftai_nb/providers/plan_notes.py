"""What a local plan notes: settings without effect, and those that can only be approximated."""

from __future__ import annotations

from collections.abc import Iterator

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.control import KINDS, acts_in
from swiftai_nb.core.image_input import count_run_steps
from swiftai_nb.model_files.families import INSTRUCT_PIX2PIX
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.samplers import uses_eta

STRENGTH_TOLERANCE = 0.1  # a larger difference is noted


def sampling_notes(
    config: ImageGenerationConfig,
    scheduler: str,
    is_rescaled: bool,
    *,
    model: ModelFolder,
    dtype: str,
    steps: int,
    strength: float | None,
) -> Iterator[str]:
    """Settings that have no effect on this picture, and pictures that are used as they are."""
    if config.guidance_rescale and not is_rescaled:
        yield "guidance_rescale has no effect: this picture is made without classifier-free guidance"
    if config.precision not in (None, "auto", dtype):
        yield f"precision {config.precision} is not available on this processor: computed in {dtype}"
    if config.extra_body:
        yield "extra_body has no effect: it is for services in the cloud"
    if config.eta and not uses_eta(scheduler):
        yield f"eta has no effect with the sampler {scheduler}; ddim and tcd use it"
    if config.image_guidance_scale is not None and model.task != INSTRUCT_PIX2PIX:
        yield "image_guidance_scale has no effect: this model is no InstructPix2Pix"
    steps = max(1, count_run_steps(steps, strength))
    for control in config.controls:
        if not any(acts_in(i, steps, start=control.start, end=control.end) for i in range(steps)):
            yield f"the control {control.describe()} has no effect: none of {steps} steps is in its range"
        if control.kind is not None and not KINDS[control.kind].is_made_here:
            yield f"the picture for {control.kind} is used as it is: none is made from a photo here"
    if config.upscaler and config.hires is None and config.upscale is None:
        yield "upscaler has no effect without upscale or hires"
    if config.mask_feather and config.mask is None and config.outpaint is None:
        yield "mask_feather has no effect without a mask"


def small_size_note(size: tuple[int, int], model: ModelFolder) -> str | None:
    """A note when (width, height) is so small that the network has too few latents for a picture."""
    side = model.native_side
    if side is None or 2 * min(size) > side or 2 * size[0] * size[1] > side * side:
        return None
    return (
        f"{size[0]}x{size[1]} is small for this model, which was trained at {side}x{side}: "
        "shapes may not be recognizable"
    )


def strength_note(steps: int, strength: float | None) -> str | None:
    """A note when so few steps can only approximate the strength."""
    if strength is None:
        return None
    run_steps = count_run_steps(steps, strength)
    if abs(run_steps / steps - strength) <= STRENGTH_TOLERANCE:
        return None
    return (
        f"strength {strength:g} with {steps} steps runs {run_steps} of them, "
        f"as strength {run_steps / steps:g} would; more steps come closer"
    )
