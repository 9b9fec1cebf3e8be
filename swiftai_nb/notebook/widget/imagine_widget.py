"""`ImagineWidget`: make pictures by looking. Thin over the session's queue, history and models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.format import encode_jpeg, short_repr
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook import wire
from swiftai_nb.notebook.output.saving import free_path
from swiftai_nb.notebook.widget.form import Presets, choices, error_report, plan_report, request_of
from swiftai_nb.notebook.widget.input_pictures import ID_PREFIX, input_picture, sha256
from swiftai_nb.notebook.widget.page_reports import SHOWN_PICTURES, PageReports

if TYPE_CHECKING:
    from swiftai_nb.core.control import ControlReference
    from swiftai_nb.core.recipe import Recipe
    from swiftai_nb.core.request import GenerationPlan, GenerationRequest
    from swiftai_nb.jobs.job import GenerationJob

_log = logging.getLogger(__name__)
THUMBNAIL_SIDE = 128
PICTURES_IN = ("image", "mask", "references", "controls")
UPSCALE_FACTOR = 2.0
Handler = Callable[[dict[str, Any]], None]
_TEXTS = ("request_id", "picture_id", "job_id", "input_id", "role", "size", "name", "model")  # of a message


class _Message(dict[str, Any]):
    """A message of the page, of which nothing is sure but the type of what is there; a null name is not.

    Raises:
        InvalidInputError: a value of another type; later, for a value that is not there.
    """

    def __init__(self, content: dict[str, Any], buffers: Any) -> None:
        for name, value in content.items():
            kind = dict if name == "settings" else str if name in _TEXTS else object
            if value is None and kind is not object:
                continue
            if not isinstance(value, kind):
                raise InvalidInputError(f"the page's {name} is {short_repr(value)}", hint="reload the page")
            self[name] = value
        self["buffers"] = buffers

    def __missing__(self, name: str) -> Any:
        raise InvalidInputError(f"the page's message has no {name}", hint="reload the page")


class ImagineWidget(PageReports):
    """A card with a stage, a form and every picture of this session.

    Settings are traits: set them, observe them, link them to other widgets. What is None is the
    model's own default; a `seed` of None uses a random one for each picture.

        widget = ImagineWidget(prompt="a fox in the snow", steps=8)
        widget                              # shows it
        pictures = await widget.generate()  # as a click on Imagine
        widget.images[-1].save("fox.png")

    Args:
        prompt: what to draw.
        session: the kernel's session; None is the shared one, so that pictures made by `%%imagine`
            are shown here and the other way round.
        settings: any of the traits below.

    Attributes:
        prompt, negative_prompt, model, engine ("local", "cloud" or "openai"), width, height, steps,
            guidance_scale, seed, count, aspect_ratio ("3:4"; it replaces width and height), scheduler,
            style, loras (a list of {"source": ..., "scale": ...}), strength, outpaint ("left=128,top=64"),
            hires, hires_strength, hires_steps, upscale, upscaler: the form.
        image, mask, references: the pictures in, each a GeneratedImage; assign a path, bytes, PIL, NumPy.
        controls: pictures that steer; assign a list such as [("canny", "photo.png", 0.8)].
        images: the pictures made by this widget, oldest first; may be observed.
        jobs, pictures, models: what the page shows; set by the kernel.
    """

    _esm = wire.STATIC / "widget.js"
    _css = wire.STATIC / "widget.css"

    prompt = traitlets.Unicode("").tag(sync=True)
    negative_prompt = traitlets.Unicode("").tag(sync=True)
    model = traitlets.Unicode("").tag(sync=True)
    engine = traitlets.Enum(wire.ENGINES, "local").tag(sync=True)
    width = traitlets.Int(None, allow_none=True).tag(sync=True)
    height = traitlets.Int(None, allow_none=True).tag(sync=True)
    steps = traitlets.Int(None, allow_none=True).tag(sync=True)
    guidance_scale = traitlets.Float(None, allow_none=True).tag(sync=True)
    seed = traitlets.Int(None, allow_none=True).tag(sync=True)
    count = traitlets.Int(1).tag(sync=True)
    aspect_ratio = traitlets.Unicode("").tag(sync=True)
    scheduler = traitlets.Unicode("").tag(sync=True)
    style = traitlets.Unicode("").tag(sync=True)
    loras = traitlets.List(traitlets.Dict()).tag(sync=True)
    strength = traitlets.Float(None, allow_none=True).tag(sync=True)
    outpaint = traitlets.Unicode("").tag(sync=True)
    hires = traitlets.Float(None, allow_none=True).tag(sync=True)
    hires_strength = traitlets.Float(None, allow_none=True).tag(sync=True)
    hires_steps = traitlets.Int(None, allow_none=True).tag(sync=True)
    upscale = traitlets.Float(None, allow_none=True).tag(sync=True)
    upscaler = traitlets.Unicode("").tag(sync=True)

    def __init__(self, prompt: str = "", *, session: Any = None, **settings: Any) -> None:
        super().__init__(prompt=prompt, session=session, **settings)
        session = self._session
        presets, history = Presets(session.registry.home), session.history
        self._handlers: dict[str, Handler] = {
            "init": self._on_init,
            "generate": self._on_generate,
            "plan": self._on_plan,
            "cancel": self._on_cancel,
            "retry": self._on_retry,
            "upscale": self._on_upscale,
            "picture": self._on_picture,
            "load_more": self._on_load_more,
            "save": self._on_save,
            "favorite": self._then(
                self._publish_pictures, lambda c: history.mark_favorite(c["picture_id"], bool(c["favorite"]))
            ),
            "delete_picture": self._then(self._publish_pictures, lambda c: history.delete(c["picture_id"])),
            "set_input": self._on_set_input,
            "remove_input": lambda content: self.remove_input(str(content["input_id"])),
            "set_control": lambda content: self.set_control(str(content["input_id"]), content),
            "reuse": self._on_reuse,
            "save_preset": self._then(
                self._publish_choices, lambda c: presets.save(c["name"], c["settings"])
            ),
            "delete_preset": self._then(self._publish_choices, lambda c: presets.delete(c["name"])),
            "download": lambda content: self._picker.download(content["model"]),
            "cancel_download": lambda content: self._picker.cancel_download(content["model"]),
            "delete_model": lambda content: self._picker.delete(content["model"]),
        }
        self.models = self._picker.entries()
        self.choices = choices(session)
        if not self.model:
            self.model, self.engine = self._picker.first_choice(self.models, engine=self.engine)
        self.observe(lambda _change: self._publish_inputs(), PICTURES_IN)
        self.observe(lambda _change: self._publish_models(), ("model", "engine"))
        self._publish_models()
        self._publish_inputs()
        self._tracker.start()
        self._publish_pictures()
        self.on_msg(self._on_message)
        if self.comm is not None:
            session.subshell_route.route(self.comm)

    def generate(self, **settings: Any) -> GenerationJob:
        """Submits the form, as a click on Imagine; `await` the job for its pictures.

        Args:
            settings: traits to set first, such as `steps=4`.

        Raises:
            AIError: bad input, unknown or missing model, too little memory.
        """
        for name, value in settings.items():
            if name not in (*wire.SETTINGS, *PICTURES_IN):
                listed = ", ".join((*wire.SETTINGS, *PICTURES_IN))
                raise InvalidInputError(f"no setting named {name!r}", hint=f"use {listed}")
            setattr(self, name, value)
        if self.outpaint and self.image is None:
            raise InvalidInputError("outpaint without image", hint="give the picture to continue as image")
        settings = {name: getattr(self, name) for name in wire.SETTINGS}
        return self._submit(self._request(settings), request_id="")

    def cancel(self) -> None:
        """Cancels every unfinished job of this widget."""
        for job, _ in self._tracker.jobs:
            if job.id in self._own_jobs:
                job.cancel()

    def link(self, name: str, other: Any, other_name: str | None = None) -> Any:
        """Keeps trait `name` and a trait of another widget equal; returns the link, which has `unlink()`.

        Args:
            name: a trait of this widget, such as "steps".
            other: the other widget.
            other_name: its trait; None is "value".
        """
        return traitlets.link((self, name), (other, "value" if other_name is None else other_name))

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.core.getipython import get_ipython

        data, _metadata = self._repr_mimebundle_()
        # Front ends show the text where there is no live widget, above the static output.
        text = "" if getattr(get_ipython(), "kernel", None) is not None else "ImagineWidget"
        self._static_output.display({**data, "text/plain": text})

    def _request(self, settings: dict[str, Any]) -> GenerationRequest:
        pictures = {name: getattr(self, name) for name in PICTURES_IN}
        return request_of(settings, **pictures)

    def _submit(self, asked: GenerationRequest | GenerationPlan, *, request_id: str) -> GenerationJob:
        job = self._tracker.submit(request_id, lambda: self._session.submit(asked))
        self._own_jobs.setdefault(job.id, 0)
        self._on_images(job)
        return job

    # Messages from the page

    def _on_message(self, _widget: Any, content: dict[str, Any], buffers: Any) -> None:
        handler = self._handlers.get(str(content.get("kind")))
        if handler is None:
            return
        try:
            handler(_Message(content, buffers))
        except AIError as error:
            self._send_error(error, request_id=str(content.get("request_id", "")))
        except Exception as error:  # noqa: BLE001 - every error is reported to the page
            _log.exception("the widget could not handle a %s message", content.get("kind"))
            unexpected = AIError(f"unexpected {type(error).__name__}: {error}")
            self._send_error(unexpected, request_id=str(content.get("request_id", "")))

    def _on_init(self, _content: dict[str, Any]) -> None:
        self.send({"kind": "ready"})
        for job, _ in self._tracker.jobs:
            if job.last_preview is not None:
                self._send_preview(job, job.last_preview)

    def _on_generate(self, content: dict[str, Any]) -> None:
        picture_id, changed_id = content.get("picture_id"), str(content.get("of") or "")
        pictures = {name: getattr(self, name) for name in PICTURES_IN}
        if picture_id is not None:  # a remix or a variation: the form's pictures in are not for it
            pictures = {"image": self._history_picture(picture_id) if picture_id else None}
        if changed_id:
            pictures["controls"] = self._controls_of(changed_id)
        if changed_id and picture_id not in (None, changed_id):  # a remix: what the picture was made from
            pictures |= self._more_pictures_of(changed_id, has_image=pictures["image"] is not None)
        request = request_of(content["settings"], **pictures)
        plan = self._session.plan(request)
        report = plan_report(plan, request_id=str(content["request_id"]))
        if report["asks"] and not content.get("confirmed"):
            self.send(report)
            return
        self._session.ask_before_sending(plan)
        self._submit(plan, request_id=content["request_id"])

    def _on_plan(self, content: dict[str, Any]) -> None:
        """Answers with what the form would take, or with the reason why it would be refused."""
        settings, request_id = content["settings"], str(content["request_id"])
        try:
            plan = self._session.plan(self._request({**settings, "prompt": settings.get("prompt") or "-"}))
            self.send(plan_report(plan, request_id=request_id))
        except AIError as error:
            self.send({**error_report(error, request_id=request_id), "kind": "plan"})

    def _on_retry(self, content: dict[str, Any]) -> None:
        """Submits the pictures that a cancelled or failed job has not made, with the same seeds."""
        job = next((one for one, _ in self._tracker.jobs if one.id == content.get("job_id")), None)
        if job is None or not job.state.is_final or len(job.images) == job.request.count:
            raise InvalidInputError("this job cannot be resumed", hint="press Imagine instead")
        self._session.ask_before_sending(job.plan)
        self._submit(job.plan.with_seeds(job.request.seeds[len(job.images) :]), request_id="")

    def _on_upscale(self, content: dict[str, Any]) -> None:
        image = self._session.history.find(content["picture_id"]).image
        plan, note = self._session.plan_upscale([image], UPSCALE_FACTOR)
        if plan is not None:
            self._submit(plan, request_id="")
            return
        entry = self._session.history.append(image.enlarged(UPSCALE_FACTOR))
        self._publish_pictures()
        self.send({"kind": "upscaled", "picture_id": entry.id, "note": note or ""})

    def _on_set_input(self, content: dict[str, Any]) -> None:
        role, picture_id = str(content.get("role")), content.get("picture_id")
        if picture_id:
            self.set_input(role, self._history_picture(str(picture_id)))
        else:
            self.set_input(role, wire.received_bytes(content))

    def _on_reuse(self, content: dict[str, Any]) -> None:
        """Takes the pictures in from a recipe: its controls, and its others where the form has none."""
        picture_id = str(content["picture_id"])
        recipe = self._session.history.find(picture_id).recipe
        if recipe is None:
            return
        self.controls = ()  # whatever is missing: never those of another picture
        if recipe.image_sha256 is not None and self.image is None:
            self.image = self._given_picture(recipe, recipe.image_sha256, option="Start picture")
            self.mask = self._more_pictures_of(picture_id, has_image=True).get("mask")
        if recipe.references_sha256 and not self.references:
            self.references = self._more_pictures_of(picture_id, has_image=False)["references"]
        self.controls = self._controls_of(picture_id)

    def _controls_of(self, picture_id: str) -> tuple[ControlReference, ...]:
        """The controls of a picture of the history, with their pictures."""
        recipe = self._session.history.find(picture_id).recipe if picture_id else None
        if recipe is None:
            return ()
        pictures = [
            self._given_picture(recipe, one.image_sha256, option="Control") for one in recipe.controls
        ]
        return tuple(one.reference(data) for one, data in zip(recipe.controls, pictures, strict=True))

    def _more_pictures_of(self, picture_id: str, *, has_image: bool) -> dict[str, Any]:
        """The references of a picture of the history, and its mask where there is what it is painted on."""
        recipe = self._session.history.find(picture_id).recipe
        if recipe is None:
            return {}
        given = [self._given_picture(recipe, one, option="Reference") for one in recipe.references_sha256]
        pictures: dict[str, Any] = {"references": tuple(map(input_picture, given))}
        if has_image and recipe.mask_sha256 is not None:
            mask = self._given_picture(recipe, recipe.mask_sha256, option="Paint a mask")
            pictures["mask"] = input_picture(mask, is_mask=True)
        return pictures

    def _given_picture(self, recipe: Recipe, digest: str, *, option: str) -> bytes:
        """A picture that another was made from, from this session or from the recipe itself."""
        origin = self._session.picture_origins.get(digest)
        kept = (source.content for source in recipe.sources if source.sha256 == digest)
        found = self._session.recent_pictures.find(digest) or next(kept, None)
        if found is None and origin is not None:
            found = input_picture(self._session.history.find(origin).image).data
        if found is None:
            raise InvalidInputError(
                f"this picture was made from one that is not here ({recipe.describe_source(digest)})",
                hint=f"choose that one again with {option}",
            )
        return found

    def _history_picture(self, picture_id: str) -> GeneratedImage:
        """A picture of the history as a picture in; it is the parent of what is made of it."""
        picture = input_picture(self._session.history.find(picture_id).image)
        self._session.picture_origins[sha256(picture)] = picture_id
        return picture

    def _then(self, publish: Callable[[], None], handler: Handler) -> Handler:
        def handle(content: dict[str, Any]) -> None:
            handler(content)
            publish()

        return handle

    def _on_cancel(self, content: dict[str, Any]) -> None:
        job = self._tracker.find(job_id=content.get("job_id", ""), request_id=content.get("request_id", ""))
        if job is not None:
            job.cancel()

    def _on_picture(self, content: dict[str, Any]) -> None:
        picture_id, is_small = str(content["picture_id"]), content["size"] == "thumbnail"
        if picture_id.startswith(ID_PREFIX):
            image = self.find_input(picture_id)
            data = encode_jpeg(image.pil, max_side=THUMBNAIL_SIDE, quality=80) if is_small else image.data
        else:
            entry = self._session.history.find(picture_id)
            data = entry.thumbnail if is_small else entry.image.data
        about = {"kind": "picture", "picture_id": picture_id, "size": content["size"]}
        self.send(*wire.image_message(about, data, "image/jpeg" if is_small else "image/png"))

    def _on_load_more(self, _content: dict[str, Any]) -> None:
        self._shown_pictures += SHOWN_PICTURES
        self._publish_pictures()

    def _on_save(self, content: dict[str, Any]) -> None:
        image = self._session.history.find(content["picture_id"]).image
        path = image.save(free_path(Path.cwd(), image))
        self.send({"kind": "saved", "picture_id": content["picture_id"], "path": path.name})
