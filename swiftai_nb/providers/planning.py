"""Plans of the local engines: all values are decided and checked before any work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.control import ControlReference, RecordedControl
from swiftai_nb.core.cpu_kernels import choose_library
from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.core.image_input import count_run_steps, mask_to_png_bytes, to_png_bytes
from swiftai_nb.core.recipe import Recipe, join_prompt
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.core.sources import source_pictures
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan, keeps_model, plan_memory
from swiftai_nb.engine.kernel.platform import compute_dtype, memory_policy
from swiftai_nb.engine.messages import Done, Generate, ModelFiles
from swiftai_nb.jobs.timings import TimingKey
from swiftai_nb.model_files.adapter_files import check_lora
from swiftai_nb.model_files.attributes import Attribute, choose_phrases, read_attributes
from swiftai_nb.model_files.content_hash import content_hash
from swiftai_nb.model_files.control_files import check_control, open_control
from swiftai_nb.model_files.families import INPAINTING, INSTRUCT_PIX2PIX
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.providers.adapters import embedding_files, with_distilled_lora
from swiftai_nb.providers.enlargement import Enlargement, plan_enlargement
from swiftai_nb.providers.plan_notes import sampling_notes, small_size_note, strength_note
from swiftai_nb.providers.sizes import picture_size, reference_sizes, rounded_up, with_present_size
from swiftai_nb.registry.model_info import ResolvedModel
from swiftai_nb.registry.upscalers import ChosenUpscaler

DEFAULT_STRENGTH = 0.8


@dataclass(frozen=True, kw_only=True)
class LocalPlan(GenerationPlan):
    """A plan for a local engine, with everything `make_command` and `make_recipe` need.

    Attributes:
        resolved: the model: its entry and its files.
        loras: LoRAs to apply, as files on this disk.
        controls: what steers, with paths instead of names and without pictures.
        vae: an autoencoder instead of the model's own, or None.
        preview_decoder: folder of a small decoder for previews, or None.
        load_bits: 4, 5, 6 or 8: quantize the weights on load; None loads them as they are.
        load_dtype: what the networks compute in; None is the device's and the family's usual.
        memory_plan_bytes: the estimated need, by component and stage.
        available_bytes: memory that is free now; None where the system does not report it.
        is_guided: whether the network runs twice per step.
        attributes: what the model fills in by the seed where the prompt leaves it open.
        enlargement: the hires pass and the upscaler.
        drawn_size: (width, height) that the model draws, where that is not the picture's.
    """

    resolved: ResolvedModel
    loras: tuple[LoraReference, ...] = ()
    controls: tuple[ControlReference, ...] = ()
    vae: Path | None = None
    preview_decoder: Path | None = None
    load_bits: int | None = None
    load_dtype: str | None = None
    memory_plan_bytes: MemoryPlan
    available_bytes: int | None
    is_guided: bool
    attributes: tuple[Attribute, ...] = ()
    enlargement: Enlargement = field(default_factory=Enlargement)
    drawn_size: tuple[int, int] | None = None

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        return self.resolved.folder

    @property
    def model_facts(self) -> str:
        """Such as "5.9 GB, license apache-2.0: free to use, also commercially"."""
        return self.resolved.info.size_and_license

    @property
    def memory_bytes(self) -> int:
        """The largest need at any moment, an estimate."""
        return self.memory_plan_bytes.peak_bytes

    @property
    def memory(self) -> str:
        """Such as "about 0.2 GB of 13.1 GB free"."""
        need = f"about {self.memory_bytes / 1e9:.1f} GB"
        return need if self.available_bytes is None else f"{need} of {self.available_bytes / 1e9:.1f} GB free"

    @property
    def memory_plan(self) -> str:
        """What stays in memory while the picture is made."""
        if self.memory_plan_bytes.is_staged:
            return "each network is dropped when no longer needed"
        return "the model stays loaded"

    def filled_in(self, index: int = 0) -> str:
        """The text of the settings, else what the model's table has for the prompt and the seed."""
        request = self.request
        if request.config.filled_in is not None:
            return request.config.filled_in
        seed = request.seeds[index]
        return choose_phrases(self.attributes, request.prompt, request.negative_prompt, seed=seed)

    @property
    def run_steps(self) -> int:
        """Denoising steps that are run: fewer than `steps` with a start picture."""
        first, larger = count_run_steps(self.steps or 0, self.strength), self.enlargement
        return first + (
            count_run_steps(larger.hires_steps, larger.hires_strength) if larger.hires_steps else 0
        )

    @property
    def timing_key(self) -> TimingKey:
        """The key of this picture's measured times."""
        width, height = self.size
        name = " ".join(text for text in (self.timing_name, self.enlargement.text) if text)
        return TimingKey(name, width, height, guided=self.is_guided)

    @property
    def enlarged(self) -> str:
        """See `GenerationPlan.enlarged`."""
        return self.enlargement.text

    @property
    def timing_name(self) -> str:
        """The key of this model's measured loading times."""
        bits = "" if self.quantization_bits is None else f" {self.quantization_bits} bits"
        bits += f" {len(self.controls)} controls" if self.controls else ""
        return f"{self.model}{bits}" if self.engine == "mlx" else f"{self.engine} {self.model}"


def make_plan(
    request: GenerationRequest,
    resolved: ResolvedModel,
    *,
    device: str,
    available_bytes: int | None,
    loras: tuple[LoraReference, ...] = (),
    controls: tuple[ControlReference, ...] = (),
    vae: Path | None = None,
    preview_decoder: Path | None = None,
    upscaler: ChosenUpscaler = ChosenUpscaler(),  # noqa: B008 - frozen
) -> LocalPlan:
    """Fills in the request's open settings and checks all of them.

    Args:
        request: the request.
        resolved: the model to use.
        device: what it will run on.
        available_bytes: free memory; None where the system does not report it.
        loras: the request's LoRAs, as files on this disk.
        controls: the request's controls, with paths.
        vae: an autoencoder instead of the model's own.
        preview_decoder: folder of the small decoder, for previews of that kind.
        upscaler: what enlarges the picture, where the request wants that.

    Raises:
        InvalidInputError: a size, scheduler or reference picture that does not fit, strength without image.
        InvalidModelFilesError: the model's files cannot be read.
        UnsupportedModelError: it is another engine's model.
    """
    info = resolved.info
    if info.engine != "mlx":
        raise UnsupportedModelError(
            f"{info.id} runs on the engine {info.engine}, not on the local one",
            hint=f"--engine {info.engine}",
        )
    model = open_model(resolved.folder, base=resolved.base, prefer_half=device != "cpu", vae=vae)
    defaults = model.defaults_with(info.own_settings)
    native_size = (defaults.width, defaults.height)
    references = reference_sizes(request.config, model)
    control_files = [open_control(Path(str(c.model)), prefer_half=device != "cpu") for c in controls]
    for files, control in zip(control_files, request.config.controls, strict=True):
        check_control(files, model, is_guess=control.is_guess)
        control.check_picture()
    for lora in loras:
        check_lora(Path(lora.source))
    request = request.with_native_size(native_size, multiple=max(16, model.size_multiple))
    request, lora_notes = with_distilled_lora(request, model)
    request, size_note = with_present_size(request, model)
    config = request.config
    width, height = picture_size(config, native_size, model, references=references)
    # A picture that is continued keeps its own pixels: what is drawn is rounded up, and cropped at the end.
    drawn = (width, height) if config.outpaint is None else rounded_up((width, height), model.size_multiple)
    model.check_size(*drawn)
    guidance_scale = defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale
    embedding_files(config, model)
    bits = info.quantization_bits if config.quantization_bits is None else config.quantization_bits
    dtype = compute_dtype(device, config.precision, is_flow=model.is_flow)
    scheduler = defaults.scheduler if config.scheduler is None else model.check_scheduler(config.scheduler)
    is_guided = model.family.is_guided(guidance_scale)
    is_rescaled = is_guided and model.family.rescales_guidance
    steps, strength = config.resolved_steps(defaults.steps), _strength(config, model)
    larger = plan_enlargement(config, model, size=(width, height), steps=steps, upscaler=upscaler)
    # Shown, not stored: the recipe names the filter, and making it again must give the same file.
    request = replace(request, notes=(*request.notes, *larger.notes))
    return LocalPlan(
        request=request,
        engine="mlx",
        model=model_name(resolved),
        model_name=info.name,
        model_revision=resolved.revision,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        strength=strength,
        device=device,
        precision=dtype if bits is None else f"{dtype}, weights in {bits} bits",
        quantization_bits=bits,
        notes=tuple(
            note
            for note in (
                resolved.note,
                *lora_notes,
                size_note,
                small_size_note(drawn, model),
                strength_note(steps, strength),
                *sampling_notes(
                    config,
                    scheduler,
                    is_rescaled,
                    model=model,
                    dtype=dtype,
                    steps=steps,
                    strength=strength,
                ),
            )
            if note is not None
        ),
        resolved=resolved,
        loras=loras,
        controls=controls,
        vae=vae,
        preview_decoder=preview_decoder,
        load_bits=bits,
        load_dtype=dtype if device == "cpu" or config.precision not in (None, "auto") else None,
        memory_plan_bytes=_memory(
            model,
            available_bytes,
            width=max(drawn[0], larger.drawn_size[0]),
            height=max(drawn[1], larger.drawn_size[1]),
            upscaling_bytes=larger.memory_bytes(bytes_per_weight=4 if device == "cpu" else 2),
            guided=is_guided,
            controls=control_files,
            reference_pixels=0 if model.task == INSTRUCT_PIX2PIX else sum(a * b for a, b in references),
            bytes_per_weight=4 if device == "cpu" else 2,
            quantization_bits=bits,
            is_compiled=device == "cpu" and choose_library().target is not None,
            policy=memory_policy(device),
        ),
        available_bytes=available_bytes,
        is_guided=is_guided,
        # A given picture has all that a prompt leaves open.
        attributes=() if config.image is not None or references else read_attributes(model.folder),
        enlargement=larger,
        drawn_size=drawn,
    )


def make_command(plan: LocalPlan, index: int = 0) -> Generate:
    """The engine's command for picture `index` of a plan."""
    request, config = plan.request, plan.request.config
    width, height = plan.size if plan.drawn_size is None else plan.drawn_size
    return replace(
        Generate(**{**_settings_for(Generate, config), **plan.enlargement.command_fields()}),
        model=model_files(plan),
        prompt=join_prompt(request.prompt, plan.filled_in(index)),
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        steps=0 if plan.steps is None else plan.steps,
        guidance_scale=0.0 if plan.guidance_scale is None else plan.guidance_scale,
        seed=request.seeds[index],
        scheduler=None if config.scheduler is None else plan.scheduler,
        strength=plan.strength,
        image=None if config.image is None else to_png_bytes(config.image),
        mask=None if config.mask is None else mask_to_png_bytes(config.mask),
        references=tuple(to_png_bytes(picture) for picture in config.references),
        controls=plan.controls,
        control_images=tuple(to_png_bytes(control.image) for control in config.controls),
        preview=config.preview != "off",
        preview_decoder=None if plan.preview_decoder is None else str(plan.preview_decoder),
        is_staged=plan.memory_plan_bytes.is_staged,
    )


def model_files(plan: LocalPlan) -> ModelFiles:
    """The files of a plan's model, for the engine's command."""
    return ModelFiles(
        str(plan.folder),
        dtype=plan.load_dtype,
        quantization_bits=plan.load_bits,
        loras=plan.loras,
        embeddings=embedding_files(plan.request.config),
        vae=None if plan.vae is None else str(plan.vae),
        more_folders=tuple(str(folder) for folder in plan.resolved.more_folders),
    )


def make_recipe(
    plan: LocalPlan, done: Done, *, index: int = 0, device: str, versions: dict[str, str]
) -> Recipe:
    """The recipe of picture `index`: what was planned, and what the engine reports."""
    request, config = plan.request, plan.request.config
    return replace(
        Recipe(prompt=request.prompt, **_settings_for(Recipe, config)),
        negative_prompt=request.negative_prompt,
        model=plan.model,
        model_revision=content_revision(plan),
        **{"width": done.width, "height": done.height, **plan.enlargement.recipe_fields()},
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=request.seeds[index],
        scheduler=done.scheduler,
        engine=plan.engine,
        device=device,
        dtype=done.dtype,
        quantization_bits=plan.quantization_bits,
        strength=plan.strength,
        image_sha256=_sha256(config.image),
        mask_sha256=_sha256(config.mask),
        controls=tuple(RecordedControl.of(control) for control in config.controls),
        references_sha256=tuple(hashlib.sha256(picture).hexdigest() for picture in config.references),
        sources=source_pictures(config, names=dict(request.source_names)),
        filled_in=plan.filled_in(index) or None,
        versions=versions,
        notes=(*plan.notes, *done.notes),
    )


def _settings_for(target: type[Generate] | type[Recipe], config: ImageGenerationConfig) -> dict[str, Any]:
    """The settings that `target` has a field for, so that a new setting needs no change here."""
    names = {f.name for f in fields(target)}
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name in names}


def model_name(resolved: ResolvedModel) -> str:
    """The name that finds this model again: its id, or its folder when it is not registered."""
    info = resolved.info
    is_own_folder = info.local_folder is not None and Path(info.local_folder).name == info.id
    return str(resolved.folder) if is_own_folder else info.id


def content_revision(plan: LocalPlan) -> str:
    """The commit of a downloaded model, else a hash of its content."""
    return content_hash(plan.folder) if plan.model_revision is None else plan.model_revision


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _strength(config: ImageGenerationConfig, model: ModelFolder) -> float | None:
    model.check_image(is_given=config.image is not None)
    if config.image is None:
        if config.strength is not None:
            raise InvalidInputError("strength without image", hint="give the picture to start from as image")
        return None
    if config.strength is not None:
        return config.strength
    # Beyond an edge is nothing to keep, and inpainting models see what the mask leaves at every step.
    is_full = config.outpaint is not None or (config.mask is not None and model.task == INPAINTING)
    own = model.family.refining_strength
    return 1.0 if is_full else DEFAULT_STRENGTH if own is None else own


def _memory(model: ModelFolder, available: int | None, **need: Any) -> MemoryPlan:
    """The plan that keeps the model loaded if memory and policy allow it, else one that drops its parts."""
    whole = plan_memory(model, **need)
    if keeps_model(whole, available, policy=need["policy"]):
        return whole
    return plan_memory(model, **need, is_staged=True)
