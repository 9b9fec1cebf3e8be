"""The messages between kernel and engine; `engine.protocol` encodes them.

Kernel to engine: Generate, Upscale, LoadModel, Quantize, Cancel, Unload, AskStatus, Shutdown.
Engine to kernel: Ready once, then for each command any number of Stage and Step events and exactly one
of Done, Loaded, Status and Failed; Bye is the last message of an engine that exits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.control import ControlReference
from swiftai_nb.core.outpaint import Outpaint


@dataclass(frozen=True)
class Message:
    """Base of all messages; `job_id` names the command it belongs to, empty where there is none."""

    job_id: str = ""


@dataclass(frozen=True)
class ModelFiles:
    """Which weights to run, and how.

    Args:
        folder: the model, in diffusers layout.
        dtype: "float32", "float16", "bfloat16"; None is the device's best.
        quantization_bits: 4, 5, 6, 8 or None.
        loras: files or folders on this disk, and how strongly.
        embeddings: files of textual inversions on this disk.
        vae: file or folder of another autoencoder, or None.
        more_folders: of parts that several models share, or of what a model in one file lacks.
    """

    folder: str
    dtype: str | None = None
    quantization_bits: int | None = None
    loras: tuple[LoraReference, ...] = ()
    embeddings: tuple[str, ...] = ()
    vae: str | None = None
    more_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generate(Message):
    """Make one picture; every value is concrete. Sizes are in pixels.

    Args:
        model: the weights.
        prompt, negative_prompt: what to draw and what to avoid.
        width, height: of the picture.
        steps: denoising steps.
        guidance_scale: weight of the prompt.
        seed: of the initial noise.
        scheduler: sampler, None is the model's own.
        clip_skip: text encoder layers to skip.
        strength: 0 to 1, how far the result may differ from `image`.
        image, mask: encoded initial picture, and picture that is white where to paint.
        references: encoded pictures that the prompt refers to.
        preview: whether steps carry previews.
        preview_decoder: folder of a small decoder for them; None uses the linear map.
        is_staged: drop each network as soon as this picture no longer needs it.
        prompt_syntax: "plain", "weighted", "compel", or None.
        mask_feather: pixels inside the mask's edge over which the painting fades in; None is 0.
        image_guidance_scale: of InstructPix2Pix; None is 1.5.
        controls: what steers the picture; the source is a path, behind the kind of picture to make, if any:
            "canny@/path". Their pictures are in `control_images`.
        control_images: encoded, one for each control.
        guidance_rescale, eta: 0 to 1, as in `ImageGenerationConfig`; None is 0 and the sampler's own.
        outpaint: margins to draw around `image`; width and height are theirs and the picture's, rounded up.
        hires_width, hires_height: of a second pass, which starts from the first picture enlarged; 0 is none.
        hires_steps, hires_strength: of that pass, as `steps` and `strength`.
        final_width, final_height: what the finished picture is enlarged to; 0 leaves it.
        upscaler: file of the network that enlarges; None is Lanczos.
    """

    model: ModelFiles = field(default_factory=lambda: ModelFiles(""))
    prompt: str = ""
    negative_prompt: str | None = None
    width: int = 0
    height: int = 0
    steps: int = 0
    guidance_scale: float = 0.0
    seed: int = 0
    scheduler: str | None = None
    clip_skip: int | None = None
    strength: float | None = None
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    references: tuple[bytes, ...] = field(default=(), repr=False)
    preview: bool = True
    preview_decoder: str | None = None
    is_staged: bool = False
    guidance_rescale: float | None = None
    eta: float | None = None
    prompt_syntax: str | None = None
    mask_feather: int | None = None
    image_guidance_scale: float | None = None
    controls: tuple[ControlReference, ...] = ()
    control_images: tuple[bytes, ...] = field(default=(), repr=False)
    outpaint: Outpaint | None = None
    hires_width: int = 0
    hires_height: int = 0
    hires_steps: int = 0
    hires_strength: float = 0.0
    final_width: int = 0
    final_height: int = 0
    upscaler: str | None = None


@dataclass(frozen=True)
class Upscale(Message):
    """Enlarge an encoded picture to a size in pixels by the network in `upscaler`; answered by Done."""

    image: bytes = field(default=b"", repr=False)
    width: int = 0
    height: int = 0
    upscaler: str | None = None


@dataclass(frozen=True)
class LoadModel(Message):
    """Check a model's files and read its weights, before the first picture."""

    model: ModelFiles = field(default_factory=lambda: ModelFiles(""))


@dataclass(frozen=True)
class Quantize(Message):
    """Save the model in `folder` with weights of `bits` bits as the folder `target`; answered by Status."""

    folder: str = ""
    target: str = ""
    bits: int = 0


@dataclass(frozen=True)
class Cancel(Message):
    """Cancel that command, running or waiting; it is answered by Failed with GenerationCancelledError."""


@dataclass(frozen=True)
class Unload(Message):
    """Drop the model and free its memory; answered by Status."""


@dataclass(frozen=True)
class AskStatus(Message):
    """Answered by Status once the commands before it are done."""


@dataclass(frozen=True)
class Shutdown(Message):
    """End after the current command."""


@dataclass(frozen=True)
class Ready(Message):
    """The engine has started.

    Args:
        pid: of the engine's process.
        device: "metal", "cuda" or "cpu".
        versions: package -> version, of the packages that compute.
        start_s: seconds its start took.
        device_memory_bytes: what Metal recommends at most, or the free video memory; None on a CPU.
    """

    pid: int = 0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    device_memory_bytes: int | None = None


@dataclass(frozen=True)
class Stage(Message):
    """A command enters a stage; `stage` is a value of `core.progress.GenerationStage`."""

    stage: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Step(Message):
    """A denoising step is computed.

    Args:
        index, total: 0-based, and the number of all steps.
        elapsed_s: seconds since the command began.
        preview: JPEG, or None.
    """

    index: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Done(Message):
    """The picture.

    Args:
        pixels: height * width * 3 bytes, RGB rows.
        width, height: pixels.
        scheduler: the sampler used.
        dtype: of the network's computations.
        notes: shown to the user.
        load_s: seconds reading weights; 0.0 when they were loaded.
        denoising_s, total_s: seconds in the steps, and in all.
        steps: network steps that ran.
        peak_memory_bytes: largest memory of the arrays during the command.
    """

    pixels: bytes = field(default=b"", repr=False)
    width: int = 0
    height: int = 0
    scheduler: str = ""
    dtype: str = ""
    notes: tuple[str, ...] = ()
    load_s: float = 0.0
    denoising_s: float = 0.0
    total_s: float = 0.0
    steps: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Loaded(Message):
    """The model's weights are in memory: bytes per component."""

    components: dict[str, int] = field(default_factory=dict)
    load_s: float = 0.0


@dataclass(frozen=True)
class Status(Message):
    """The loaded model's folder, or "", its bytes per component, and the memory of the engine's arrays."""

    folder: str = ""
    components: dict[str, int] = field(default_factory=dict)
    active_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    cache_memory_bytes: int = 0


@dataclass(frozen=True)
class Failed(Message):
    """The command ended without a result; `error` is `AIError.to_dict()`."""

    error: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bye(Message):
    """The engine ends; `error` is the reason when it could not continue (`AIError.to_dict()`)."""

    error: dict[str, Any] | None = None


ANSWERS = (Done, Loaded, Status, Failed)
