"""The user's request (`GenerationRequest`) and the provider's decisions about it (`GenerationPlan`).

A request is built once from a cell, a form or a call; a provider turns it into a plan before any work.
The plan is passed along with the job, so that nothing is decided twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_choices import PromptChoices

SEED_BOUND = 2**31  # random seeds are below it: every provider accepts them
FALLBACK_SIZE = (512, 512)
INEXACT = "not exactly the same picture"


def make_seeds(first: int | None, *, count: int = 1) -> tuple[int, ...]:
    """`count` consecutive seeds from `first`; None chooses the first one at random."""
    start = secrets.randbelow(SEED_BOUND - count) if first is None else first
    return tuple(range(start, start + count))


def size_for_aspect_ratio(
    ratio: tuple[int, int], native_size: tuple[int, int], *, multiple: int = 16
) -> tuple[int, int]:
    """(width, height) in pixels of that ratio with about as many pixels as `native_size`.

    Both are multiples of 64, for models smaller than 512x512 of `multiple`.
    """
    area = native_size[0] * native_size[1]
    multiple = max(64, multiple) if area >= 512 * 512 else multiple
    width = (area * ratio[0] / ratio[1]) ** 0.5
    height = area / width
    rounded = [max(multiple, round(side / multiple) * multiple) for side in (width, height)]
    return rounded[0], rounded[1]


@dataclass(frozen=True)
class GenerationRequest:
    """One job: a prompt, its settings, and one concrete seed for each picture.

    Args:
        prompt: the model's input, style included; not empty.
        negative_prompt: things to avoid, or None.
        config: the settings; its `seed` is ignored in favor of `seeds`.
        seeds: one per picture; picture k is made with `seeds[k]` and can be remade alone.
        engine: "auto", "local", "cloud" or a provider's name.
        provider: for the cloud: the inference provider, such as "fal-ai".
        bill_to: for the cloud: the organization that pays; None is the provider's own setting.
        base_url: for the cloud: address of the server or endpoint; None is the provider's own setting.
        display_prompt: the prompt as typed, for captions; "" is `prompt`.
        aspect_ratio: (across, down), when the user named a ratio instead of a size: the plan takes about
            the model's own number of pixels.
        expected_revision: of the model, from the recipe that is made again; another one is noted.
        is_background: no cell waits for it; pictures of other jobs have priority.
        notes: shown to the user with the pictures.
        source_names: (SHA-256, file name) of given pictures that were read from files; recipes keep them.
        choices: what the prompts are drawn from, by each picture's seed; `prompt` and `negative_prompt` are
            then those of the first picture.

    Raises:
        InvalidInputError: the prompt is empty (which it may be where a control is followed in guess mode),
            there are no seeds, or one is out of range.
    """

    prompt: str
    negative_prompt: str | None
    config: ImageGenerationConfig
    seeds: tuple[int, ...]
    engine: str = field(default="auto", kw_only=True)
    provider: str | None = field(default=None, kw_only=True)
    bill_to: str | None = field(default=None, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    display_prompt: str = field(default="", kw_only=True)
    aspect_ratio: tuple[int, int] | None = field(default=None, kw_only=True)
    expected_revision: str | None = field(default=None, kw_only=True)
    is_background: bool = field(default=False, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    source_names: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    choices: PromptChoices | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.choices is not None and self.seeds:
            prompt, negative = self.choices.draw(self.seeds[0])
            object.__setattr__(self, "prompt", prompt)
            object.__setattr__(self, "negative_prompt", negative)
        may_be_empty = self.prompt == "" and any(control.is_guess for control in self.config.controls)
        if not may_be_empty and (not isinstance(self.prompt, str) or not self.prompt.strip()):
            raise InvalidInputError("the prompt is empty", hint="describe the picture, such as: a red apple")
        if not self.seeds:
            raise InvalidInputError("a request without seeds", hint="give one seed per picture")
        if not self.display_prompt:
            object.__setattr__(self, "display_prompt", self.prompt)
        for index, seed in enumerate(self.seeds):
            self.config_of(index)
            if self.choices is not None and not self.choices.draw(seed)[0]:
                raise InvalidInputError(
                    f"the prompt drawn for seed {seed} is empty", hint="change its choices"
                )

    @classmethod
    def of(
        cls,
        prompt: str,
        config: ImageGenerationConfig | None = None,
        *,
        negative_prompt: str | None = None,
        count: int = 1,
        engine: str = "auto",
    ) -> GenerationRequest:
        """A request for `count` pictures; seeds count up from `config.seed`, or from a random one."""
        config = ImageGenerationConfig() if config is None else config
        seeds = make_seeds(config.seed, count=count)
        return cls(prompt, negative_prompt, config.replace(seed=None), seeds, engine=engine)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.seeds)

    def config_of(self, index: int) -> ImageGenerationConfig:
        """The settings of picture `index`, with its seed."""
        return self.config.replace(seed=self.seeds[index])

    def with_seeds(self, seeds: Sequence[int]) -> GenerationRequest:
        """The same settings for other pictures; prompts with choices are drawn for them."""
        return replace(self, seeds=tuple(seeds))

    def with_native_size(self, native_size: tuple[int, int], *, multiple: int = 16) -> GenerationRequest:
        """The aspect ratio, if there is one, turned into pixels for a model of this native size.

        Args:
            native_size: (width, height).
            multiple: the least that both sides are multiples of.
        """
        if self.aspect_ratio is None:
            return self
        width, height = size_for_aspect_ratio(self.aspect_ratio, native_size, multiple=multiple)
        return replace(self, config=self.config.replace(width=width, height=height), aspect_ratio=None)


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What a provider will do for a request. None means that the provider does not know beforehand.

    Providers subclass it to carry what their `generate` needs.

    Attributes:
        request: the request, with a concrete engine and size.
        engine: name of the provider that made the plan.
        model: name that finds the model again: catalog id, Hub id or folder.
        model_name: the model's display name.
        model_revision: commit of the weights.
        width: pixels.
        height: pixels.
        steps: denoising steps.
        guidance_scale: prompt strength (CFG).
        scheduler: sampler name.
        strength: how much the initial image may change, 0..1; None without one.
        device: "metal", "cuda", "cpu" or "cloud".
        precision: dtype of the network's computations, and its quantization.
        quantization_bits: 4, 5, 6, 8 or None.
        estimated_s: seconds for one picture, from earlier ones on this machine.
        destination: who is sent prompt and pictures, for the user to read; "" when nothing is sent.
        cost: what is known of its price; "" when it costs nothing.
        notes: shown to the user and stored in the recipe.
    """

    request: GenerationRequest
    engine: str = ""
    model: str | None = None
    model_name: str = ""
    model_revision: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    strength: float | None = None
    device: str | None = None
    precision: str = ""
    quantization_bits: int | None = None
    estimated_s: float | None = None
    destination: str = ""
    cost: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: GenerationRequest, *, native_size: tuple[int, int] | None = None) -> GenerationPlan:
        """The plan for a provider that makes none, from the request alone.

        Args:
            request: the request.
            native_size: the model's own (width, height), where it is known.
        """
        request = request.with_native_size(FALLBACK_SIZE if native_size is None else native_size)
        config = request.config
        return cls(
            request=request,
            engine=request.engine,
            model=config.model,
            width=config.width if native_size is None or config.width is not None else native_size[0],
            height=config.height if native_size is None or config.height is not None else native_size[1],
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            scheduler=config.scheduler,
            strength=config.strength,
            quantization_bits=config.quantization_bits,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) to reserve for the picture in pixels: 512x512 where nothing is known."""
        width = FALLBACK_SIZE[0] if self.width is None else self.width
        return width, FALLBACK_SIZE[1] if self.height is None else self.height

    def filled_in(self, index: int = 0) -> str:
        """What is added to the prompt of picture `index`, chosen by its seed; "" for most models."""
        return ""

    @property
    def sends(self) -> str:
        """What is sent where as text; "" when nothing is."""
        if not self.destination:
            return ""
        config = self.request.config
        count = len(config.references)
        parts = ["the prompt"]
        parts += [] if config.image is None else ["the start picture"]
        parts += [] if config.mask is None else ["the mask"]
        parts += [] if count == 0 else [f"{count} reference picture{'s' if count > 1 else ''}"]
        return f"{' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}, to {self.destination}"

    @property
    def model_facts(self) -> str:
        """The model's size and license as text; "" where they are not known."""
        return ""

    @property
    def memory(self) -> str:
        """Needed and free memory as text; "" where it does not matter."""
        return ""

    @property
    def memory_plan(self) -> str:
        """What stays in memory as text; "" where it does not matter."""
        return ""

    @property
    def enlarged(self) -> str:
        """How the picture gets larger than `width` and `height`, as text; "" where it does not."""
        return ""

    @property
    def revision_note(self) -> str | None:
        """A note that the model's revision is not the recipe's; None when it is, or when it is unknown."""
        expected, found = self.request.expected_revision, self.model_revision
        if expected is None or found is None or expected == found:
            return None
        return f"{INEXACT}: the model's revision was {expected[:12]}, here is {found[:12]}"

    def with_seeds(self, seeds: Sequence[int]) -> GenerationPlan:
        """The same plan for other pictures."""
        return replace(self, request=self.request.with_seeds(seeds))
