"""Builds a `GenerationRequest` from parsed arguments, the recipe they name, and the user's defaults."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.control import RecordedControl
from swiftai_nb.core.errors import InvalidInputError, ModelNotFoundError
from swiftai_nb.core.image_input import mask_to_png_bytes, to_png_bytes
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import INEXACT, GenerationRequest, make_seeds
from swiftai_nb.core.sources import digest_of
from swiftai_nb.notebook.magic.option_values import Size
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.magic.request_prompts import find_typed_choices, styled_prompts, with_pasted_loras
from swiftai_nb.notebook.session import Session

_WITHOUT_PROVIDER = ("local", "mlx", "openai")
_SHOWN = 8  # pictures that an error names
_ITEM = re.compile(r"([^\W\d]\w*)\[(-?\d+)\]")


@dataclass(frozen=True)
class Defaults:
    """Defaults for settings that neither the line nor a recipe gives: `%config Imagine.…`.

    Args:
        model: catalog id; None is the registry's choice.
        engine: "auto", "local", "cloud" or a provider's name.
        provider: the cloud provider.
        base_url: the server of `--engine openai`.
        bill_to: the organization that pays for `--engine cloud`.
        steps: None is the model's own.
        guidance: None is the model's own.
        size: "WxH" or a word, parsed; None is the model's own.
        negative: what to avoid always.
        preview: "rgb", "taesd", "off" or None.
        plain: add nothing to prompts.
        embed_references: which pictures recipes keep: None small ones, True all, False none.
        styles: the user's own styles, name -> template.
        wildcards: folder of text files for `__name__`; None is `wildcards` in the package's own folder.
    """

    model: str | None = None
    engine: str = "auto"
    provider: str | None = None
    base_url: str | None = None
    bill_to: str | None = None
    steps: int | None = None
    guidance: float | None = None
    size: Size | None = None
    negative: str | None = None
    preview: str | None = None
    plain: bool = False
    embed_references: bool | None = None
    styles: Mapping[str, str] = field(default_factory=dict)
    wildcards: str | None = None


def build_request(
    arguments: ImagineArguments, *, defaults: Defaults, variables: Mapping[str, Any], session: Session
) -> GenerationRequest:
    """Combines options, recipe and defaults, in this order of precedence.

    Raises:
        InvalidInputError: no such style, picture or variable; a value outside its limits.
        ModelNotFoundError: no such model.
        ProviderUnavailableError: no engine can work here.
    """
    recipe = _recipe(arguments, variables)
    engine_name = arguments.engine or _engine_of_recipe(recipe, session) or defaults.engine
    if engine_name == "auto" and arguments.base_url is not None:
        engine_name = "openai"
    provider = arguments.provider or (None if engine_name in _WITHOUT_PROVIDER else defaults.provider)
    named = next((m for m in (arguments.model, recipe and recipe.model, defaults.model) if m), None)
    engine = session.choose_engine(engine_name, provider=provider, model=named)
    prompt, negative_prompt = styled_prompts(
        arguments, recipe, styles=defaults.styles, negative=defaults.negative
    )
    model, notes = _model(arguments, recipe, defaults, engine=engine, session=session)
    if engine_name == "auto" and provider is None and (cloud_note := session.cloud_note(engine)) is not None:
        notes += (cloud_note,)
    recipe, adapted = _adapted(recipe, arguments, model=model, session=session)
    notes += adapted
    size = _size(arguments, recipe, defaults)
    pictures, names = given_pictures(arguments, variables)
    sources = () if recipe is None else recipe.sources
    recipe_names = {source.sha256: source.name for source in sources if source.name is not None}
    config = _config(arguments, recipe, defaults).replace(
        model=model,
        **({} if size is None else {"width": size.width, "height": size.height}),
        **pictures,
    )
    prompt, config, tag_notes = with_pasted_loras(prompt, config, arguments, recipe, session=session)
    choices, choice_notes = find_typed_choices(
        arguments, prompt, negative_prompt, folder=defaults.wildcards, session=session
    )
    notes += tag_notes + choice_notes
    seeds = _seeds(arguments, recipe)
    _check_start_picture(config, recipe, arguments)
    is_cloud = session.is_cloud(engine)
    _check_cloud_options(arguments, engine=engine, is_cloud=is_cloud)
    if engine_name == "auto" and provider is None:
        session.check_pictures_stay(engine, config)
    expected_revision = None
    if recipe is not None and arguments.recipe_from is not None:
        notes += _inexactness(recipe, config, session=session)
        expected_revision = recipe.model_revision if model == recipe.model else None
    return GenerationRequest(
        prompt,
        negative_prompt,
        config.replace(seed=None, filled_in=_filled_in(arguments, recipe, defaults, seeds=seeds)),
        seeds,
        engine=engine,
        provider=provider if is_cloud else None,
        base_url=_base_url(arguments, defaults, engine=engine),
        bill_to=arguments.bill_to or (defaults.bill_to if engine == "huggingface" else None),
        display_prompt=arguments.prompt or prompt,
        aspect_ratio=None if size is None else size.aspect_ratio,
        choices=choices,
        expected_revision=expected_revision,
        is_background=arguments.background,
        notes=notes,
        source_names=tuple((recipe_names | names).items()),
    )


def _base_url(arguments: ImagineArguments, defaults: Defaults, *, engine: str) -> str | None:
    if arguments.base_url is not None:
        return arguments.base_url
    return defaults.base_url if engine == "openai" else None


def _check_cloud_options(arguments: ImagineArguments, *, engine: str, is_cloud: bool) -> None:
    """Refuses options of the cloud that were typed for an engine that has no use for them."""
    for name in ("base_url", "bill_to", "extra_body"):
        if getattr(arguments, name) and not is_cloud:
            option = name.removesuffix("_body").replace("_", "-")
            raise InvalidInputError(
                f"--{option} has no effect with --engine {engine}", hint="use --engine cloud or openai"
            )
    if arguments.provider is not None and engine == "openai":
        raise InvalidInputError("--provider has no effect with --engine openai", hint="use --base-url")


def _engine_of_recipe(recipe: Recipe | None, session: Session) -> str | None:
    """A picture of another package's engine is remade by that engine, as far as it is installed."""
    from swiftai_nb.providers.discovery import plugin_names

    if recipe is None or recipe.engine in (None, "mlx"):
        return None
    is_installed = recipe.engine in plugin_names() or session.runs_catalog_models(str(recipe.engine))
    return recipe.engine if is_installed else None


def _recipe(arguments: ImagineArguments, variables: Mapping[str, Any]) -> Recipe | None:
    if arguments.recipe_from is None:
        return arguments.settings
    source = _named(arguments.recipe_from, variables, option="from")
    if isinstance(source, Recipe):
        return source
    only = getattr(source, "only", source)
    return Recipe.from_image(only)


def _named(text: str, variables: Mapping[str, Any], *, option: str) -> Any:
    """A variable of that name, one of its items as in `fox[2]`, else the text as a path."""
    item = _ITEM.fullmatch(text)
    if item is not None and item[1] in variables:
        try:
            return variables[item[1]][int(item[2])]
        except (IndexError, KeyError, TypeError):
            raise InvalidInputError(f"--{option} {text}: {item[1]} has no item {item[2]}") from None
    if not text.isidentifier():
        return text
    if text in variables:
        return variables[text]
    if user_path(text).exists():
        return text
    raise InvalidInputError(f"--{option} {text}: there is neither a variable nor a file of that name")


def _filled_in(
    arguments: ImagineArguments, recipe: Recipe | None, defaults: Defaults, *, seeds: tuple[int, ...]
) -> str | None:
    """The recipe's for its own picture; None leaves it to the model and the seed."""
    if recipe is not None and not (recipe.filled_in and not arguments.plain):
        return ""
    is_other = arguments.prompt or arguments.negative or arguments.style or arguments.model
    if recipe is not None and seeds == (recipe.seed,) and not is_other:
        return recipe.filled_in
    return "" if arguments.plain or defaults.plain else None


def _model(
    arguments: ImagineArguments, recipe: Recipe | None, defaults: Defaults, *, engine: str, session: Session
) -> tuple[str | None, tuple[str, ...]]:
    if arguments.model is not None:
        return arguments.model, ()
    wanted = None if recipe is None else recipe.model
    if wanted is None:
        return defaults.model, ()
    if not session.runs_catalog_models(engine) or _is_known(wanted, session):
        return wanted, ()
    used = defaults.model or session.registry.resolve(None).info.id
    return defaults.model, (f"the recipe's model {wanted} is not known; {used} is used instead",)


def _is_known(model: str, session: Session) -> bool:
    try:
        session.registry.find(model)
    except ModelNotFoundError:
        return _is_folder(model)
    return True


def _is_folder(name: str) -> bool:
    try:
        return user_path(name).is_dir()
    except InvalidInputError:  # a recipe of others may name anything
        return False


def _adapted(
    recipe: Recipe | None, arguments: ImagineArguments, *, model: str | None, session: Session
) -> tuple[Recipe | None, tuple[str, ...]]:
    """The recipe without what cannot be done here, and notes that say so, the recipe's own ones first."""
    if recipe is None:
        return None, ()
    from swiftai_nb.notebook.magic.foreign_recipe import adapt_recipe
    from swiftai_nb.registry.upscalers import is_known

    has_image = arguments.image is not None
    adapted, notes = adapt_recipe(recipe, session.registry, model=model, has_image=has_image)
    if recipe.engine is None:
        notes = (*recipe.notes, *notes)
    if adapted.upscaler is None or is_known(session.registry, adapted.upscaler):
        return adapted, notes
    note = f"the recipe's upscaler {adapted.upscaler[:60]} is not known; another is used"
    return replace(adapted, upscaler=None), (*notes, note)


def _config(arguments: ImagineArguments, recipe: Recipe | None, defaults: Defaults) -> ImageGenerationConfig:
    config = ImageGenerationConfig(
        steps=defaults.steps,
        guidance_scale=defaults.guidance,
        preview=defaults.preview,
        embed_references=defaults.embed_references,
    )
    if recipe is not None:
        config = config.replace(**_set_values(recipe.to_config()))
    if arguments.embed_references:
        config = config.replace(embed_references=True)
    return config.replace(**_set_values(arguments.config()))


def _set_values(config: ImageGenerationConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("seed", "model")}


def _size(arguments: ImagineArguments, recipe: Recipe | None, defaults: Defaults) -> Size | None:
    """None leaves the size to the plan."""
    if arguments.outpaint is not None or (recipe is not None and recipe.outpaint is not None):
        return arguments.size  # refused by the plan: the picture and its margins have a size
    from_recipe = None if recipe is None or recipe.width is None else Size(recipe.width, recipe.height)
    return (
        arguments.size
        or from_recipe
        or (None if arguments.image is not None or arguments.references else defaults.size)
    )


def given_pictures(
    arguments: ImagineArguments, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The given pictures by setting, and the names of those that are files by SHA-256.

    Raises:
        InvalidInputError: no such variable or file, or it is no picture.
    """
    names: dict[str, str] = {}

    def read(text: str, option: str) -> bytes:
        source = _named(text, variables, option=option)
        content = mask_to_png_bytes(source) if option == "mask" else to_png_bytes(source)
        if isinstance(source, (str, PurePath)):
            names[digest_of(content)] = user_path(source).name
        return content

    pictures: dict[str, Any] = {}
    if arguments.references:
        pictures["references"] = tuple(read(text, "with") for text in arguments.references)
    if arguments.controls:
        pictures["controls"] = tuple(
            control.reference(read(control.picture, "control")) for control in arguments.controls
        )
    if arguments.image is not None:
        # A recipe's mask is of the recipe's own picture.
        pictures |= {"image": read(arguments.image, "image"), "mask": None}
    if arguments.mask is not None:
        pictures["mask"] = read(arguments.mask, "mask")
    return pictures, names


def _check_start_picture(
    config: ImageGenerationConfig, recipe: Recipe | None, arguments: ImagineArguments
) -> None:
    if recipe is not None and recipe.references_sha256 and not config.references:
        needed = _described(recipe, recipe.references_sha256)
        raise InvalidInputError(
            f"this recipe changes pictures that are not in it ({needed})",
            hint="give them in this order with --with",
        )
    if recipe is not None and recipe.controls and not config.controls:
        options = " ".join(f"--control {control.option}" for control in recipe.controls[:_SHOWN])
        needed = _described(recipe, [control.image_sha256 for control in recipe.controls])
        raise InvalidInputError(
            f"this recipe is steered by pictures that are not in it ({needed})",
            hint=f"give {options}",
        )
    if config.strength is None or config.image is not None:
        return
    if recipe is not None and recipe.image_sha256 is not None:
        raise InvalidInputError(
            "this recipe starts from a picture that is not in it",
            hint=f"give it with --image: {recipe.describe_source(recipe.image_sha256)}",
        )
    if arguments.strength is not None:
        raise InvalidInputError("--strength needs --image")


def _described(recipe: Recipe, digests: Sequence[str]) -> str:
    more = f" and {len(digests) - _SHOWN} more" if len(digests) > _SHOWN else ""
    return "; ".join(map(recipe.describe_source, digests[:_SHOWN])) + more


def _seeds(arguments: ImagineArguments, recipe: Recipe | None) -> tuple[int, ...]:
    if arguments.seeds:
        return arguments.seeds
    first = arguments.seed
    if first is None and recipe is not None:
        first = recipe.seed
    return make_seeds(first, count=arguments.count or 1)


def _inexactness(recipe: Recipe, config: ImageGenerationConfig, *, session: Session) -> tuple[str, ...]:
    """Reasons why the picture may differ from the recipe's, known before it is made."""
    reasons = []
    if recipe.seed is None:
        reasons.append("it has no seed")
    if recipe.engine not in ("mlx", "fake") and _engine_of_recipe(recipe, session) is None:
        reasons.append(f"it was made by {recipe.engine or 'another program'}")
    # Another engine of the catalog may run in an environment of its own, whose versions are unknown.
    versions = recipe.versions if _engine_of_recipe(recipe, session) is None else {}
    reasons += [
        f"it was made with {name} {version}, installed is {installed}"
        for name, version in versions.items()
        if (installed := _version_of(name)) not in (None, version)
    ]
    for name in ("image", "mask"):
        expected = getattr(recipe, f"{name}_sha256")
        given = getattr(config, name)
        if expected is not None and (given is None or hashlib.sha256(given).hexdigest() != expected):
            reasons.append(f"its --{name} is " + ("missing" if given is None else "another one"))
    digests = tuple(hashlib.sha256(picture).hexdigest() for picture in config.references)
    if recipe.references_sha256 and digests != recipe.references_sha256:
        reasons.append("its --with pictures are others")
    if recipe.controls and tuple(map(RecordedControl.of, config.controls)) != recipe.controls:
        reasons.append("its --control options or pictures are others")
    return tuple(f"{INEXACT}: {reason}" for reason in reasons)


def _version_of(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None
