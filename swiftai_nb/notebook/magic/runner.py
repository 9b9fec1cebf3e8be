"""Runs one `%imagine`: build the requests, plan them, make the pictures, show, bind and save them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, ModelNotDownloadedError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.notebook.cell.display import CellView
from swiftai_nb.notebook.cell.views import NullView, TextView, create_view
from swiftai_nb.notebook.cell.wait import BackgroundJob, final_bundle, outcome, wait
from swiftai_nb.notebook.cell.work import DownloadWork, JobWork, Work
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.magic.request import Defaults, build_request
from swiftai_nb.notebook.output import saving
from swiftai_nb.notebook.output.caption import caption_place, show_caption
from swiftai_nb.notebook.output.host import shows_widgets
from swiftai_nb.notebook.output.pictures import Pictures, describe, describe_grid, sheet_size
from swiftai_nb.notebook.output.tiles import LONGEST_ALT
from swiftai_nb.notebook.session import Session

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.downloads.download import Download
    from swiftai_nb.jobs.cluster import SupportsSubmit
    from swiftai_nb.notebook.cell.cancel import SubshellRoute

LAST_RESULT = "_imagine"


@dataclass(frozen=True)
class Settings:
    """Settings of all cells: the traits of `%config Imagine`.

    Args:
        defaults: of the request.
        display: "auto", "widget", "html" or "text".
        preview_every: a preview each so many steps.
        save: path template, or None.
        embed_limit_bytes: larger pictures become files beside the notebook.
        has_captions: a line with the settings under the pictures.
    """

    defaults: Defaults = field(default_factory=Defaults)
    display: str = "auto"
    preview_every: int = 1
    save: str | None = None
    embed_limit_bytes: int = 8_000_000
    has_captions: bool = True


class Runner:
    """One run of the magic.

    Args:
        shell: the IPython shell, or None.
        session: the kernel's session.
        arguments: of the line and the cell, parsed.
        settings: of the user.
        variables: the user's namespace.

    Raises:
        InvalidInputError: the path template of `--save` cannot be used.
    """

    def __init__(
        self,
        shell: Any,
        session: Session,
        arguments: ImagineArguments,
        *,
        settings: Settings,
        variables: Mapping[str, Any],
    ) -> None:
        if arguments.save is None and settings.save:
            arguments = replace(arguments, save=settings.save)
        if arguments.save is not None:
            saving.check_template(arguments.save)
        self._shell, self._session = shell, session
        self._arguments, self._settings, self._variables = arguments, settings, variables
        self._kernel = getattr(shell, "kernel", None)

    def run(self, *, source: tuple[str, str]) -> Pictures | BackgroundJob | Any:
        """Runs the magic.

        Args:
            source: the line and the cell, which name an unfinished grid.

        Raises:
            AIError: bad input, a failure, or the user's cancel.
            GenerationInterrupted: the stop button.
        """
        requests = self._build_requests()
        if self._arguments.dry_run:
            from swiftai_nb.notebook.magic.dry_run import DryRun

            return DryRun.of(requests, self._session)
        executor = self._find_executor()
        if self._arguments.grid:
            return self._run_grid(requests, executor, source=source)
        if executor is not None:
            return self._run_on_cluster(self._plan_for_workers(requests)[0], executor)
        return self.submit(self._plan(requests)[0])

    def submit(self, plan: GenerationPlan) -> Pictures | BackgroundJob:
        """Queues a plan and shows its job in this cell.

        Raises:
            AIError: a failure, or the user's cancel.
            GenerationInterrupted: the stop button.
        """
        job = self._session.submit(plan)
        words = plan.request.display_prompt
        text = describe(words, plan.request.count)
        return self._show(JobWork(job, prompt=words), plan, work_id=job.id, text=text)

    def _build_requests(self) -> list[GenerationRequest]:
        """One request, or one for each cell of a grid (all with the same seed unless that varies)."""
        arguments = self._arguments
        if not arguments.grid:
            return [self._build_request(arguments)]
        from swiftai_nb.notebook.cell.grid import combinations

        requests = [self._build_request(cell) for cell in combinations(arguments)]
        if any(axis.name == "seed" for axis in arguments.grid):
            return requests
        seed = requests[0].seeds[0]
        return [request.with_seeds((seed,)) for request in requests]

    def _build_request(self, arguments: ImagineArguments) -> GenerationRequest:
        return build_request(
            arguments, defaults=self._settings.defaults, variables=self._variables, session=self._session
        )

    def _plan(self, requests: Sequence[GenerationRequest]) -> list[GenerationPlan]:
        """Plans all requests; what they lack and may be downloaded is downloaded first."""
        try:
            return self._session.plan_all(requests)
        except ModelNotDownloadedError:
            downloads = self._missing_downloads(requests)
            if not downloads:
                raise
        for download in downloads:
            self._wait_for(download, requests[0])
        return self._session.plan_all(requests)

    def _plan_for_workers(self, requests: Sequence[GenerationRequest]) -> list[GenerationPlan]:
        """The plans, or the requests as they are: what this machine lacks the workers may have."""
        try:
            return self._plan(requests)
        except AIError:
            return [GenerationPlan.of(request) for request in requests]

    def _missing_downloads(self, requests: Sequence[GenerationRequest]) -> list[Download]:
        """Models with `--download`, and LoRAs of the Hub that the user named or allows with `--download`.

        A LoRA that only a picture's recipe names is not fetched unasked: pictures come from anywhere.
        """
        from swiftai_nb.registry.file_parts import download_name
        from swiftai_nb.registry.loras import missing_loras
        from swiftai_nb.registry.upscalers import missing_upscaler

        registry, downloader = self._session.registry, self._session.downloader
        local = [request for request in requests if self._session.runs_catalog_models(request.engine)]
        downloads: list[Download] = []
        for model in dict.fromkeys(request.config.model for request in local):
            try:
                registry.resolve(model)
            except ModelNotDownloadedError:
                if not self._arguments.download or model is None:
                    return []
                downloads += downloader.start_missing(download_name(registry, model))
        loras = [lora for request in local if request.engine == "mlx" for lora in request.config.loras]
        sources = missing_loras(registry, loras)
        arguments = self._arguments
        if arguments.upscaler is not None and (info := missing_upscaler(registry, arguments.upscaler)):
            downloads += downloader.start_missing(info.id)
        is_named = bool(arguments.loras) or any(axis.name == "lora" for axis in arguments.grid)
        if sources and not (is_named or arguments.download):
            raise ModelNotDownloadedError(
                f"this recipe needs the LoRA {', '.join(sources)}, which is not downloaded",
                hint="add --download to fetch it from the Hub",
            )
        downloads += [downloader.start_lora(source) for source in sources]
        if arguments.download:
            missing = [name for request in local for name in self._missing_controls(request)]
            downloads += [downloader.start(name) for name in dict.fromkeys(missing)]
        return downloads

    def _missing_controls(self, request: GenerationRequest) -> tuple[str, ...]:
        from swiftai_nb.registry.controls import missing_controls

        if request.engine != "mlx" or not request.config.controls:
            return ()
        registry = self._session.registry
        model = request.config.model
        info = registry.resolve(None).info if model is None else registry.find(model)
        return missing_controls(registry, request.config.controls, info.variant)

    def _wait_for(self, download: Download, request: GenerationRequest) -> None:
        work = DownloadWork(download)
        view = self._view(work, GenerationPlan.of(request), work_id=work.id)
        view.start(f"Download of {download.job.model_id}")
        interrupted = wait(work, view, kernel=self._kernel, route=self._route)
        view.finish(None)
        outcome(work, interrupted=interrupted)

    def _run_on_cluster(self, plan: GenerationPlan, executor: SupportsSubmit) -> Pictures | BackgroundJob:
        from swiftai_nb.notebook.cell.cluster import ClusterWork, split_per_image

        cells: list[GeneratedImage | None] = [None] * plan.request.count
        work = ClusterWork(split_per_image(plan.request), cells, executor, session=self._session).start()
        text = describe(plan.request.display_prompt, plan.request.count)
        return self._show(work, plan, work_id=f"cluster-{id(work):x}", text=text)

    def _run_grid(
        self, requests: list[GenerationRequest], executor: SupportsSubmit | None, *, source: tuple[str, str]
    ) -> Pictures | BackgroundJob:
        from swiftai_nb.notebook.cell.grid import GridProgress, GridWork

        arguments, session = self._arguments, self._session
        progress = session.unfinished_grids.get(source)
        if progress is None or not progress.can_continue(requests):
            progress = GridProgress(requests)
        plans = (
            self._plan(progress.requests) if executor is None else self._plan_for_workers(progress.requests)
        )
        session.unfinished_grids[source] = progress
        work: Work
        if executor is None:
            work = GridWork(progress, plans, arguments, session).start()
        else:
            from swiftai_nb.notebook.cell.cluster import ClusterWork

            work = ClusterWork(
                [plan.request for plan in plans],
                progress.cells,
                executor,
                session=session,
                axes=arguments.grid,
                prompt=arguments.prompt,
            ).start()
        text = describe_grid(arguments.prompt, arguments.grid)
        size = sheet_size(plans[0].size, arguments.grid)
        result = self._show(work, plans[0], work_id=f"grid-{id(work):x}", text=text, size=size)
        if not arguments.background:
            session.unfinished_grids.pop(source, None)
        return result

    def _show(
        self,
        work: Work,
        plan: GenerationPlan,
        *,
        work_id: str,
        text: str,
        size: tuple[int, int] | None = None,
    ) -> Pictures | BackgroundJob:
        """Shows `work` in this cell until it ends, or (`--bg`) from now on."""
        try:
            view = self._view(work, plan, work_id=work_id, size=size)
            view.start(text)
            if self._arguments.background:
                return self._leave(work, view)
            interrupted = wait(work, view, kernel=self._kernel, route=self._route)
        except BaseException:
            work.cancel()
            raise
        return self._finish(work, view, plan, interrupted=interrupted)

    @cached_property
    def _route(self) -> SubshellRoute | None:
        return None if self._kernel is None else self._session.subshell_route

    def _view(
        self, work: Work, plan: GenerationPlan, *, work_id: str, size: tuple[int, int] | None = None
    ) -> CellView:
        if self._arguments.quiet or self._shell is None:
            return NullView()
        return create_view(
            self._shell,
            kind=self._settings.display,
            job_id=work_id,
            prompt=shorten(plan.request.display_prompt, LONGEST_ALT),
            size=_stage_size(plan) if size is None else size,
            on_cancel=work.cancel,
            blocking=not self._arguments.background,
            preview_every=self._arguments.preview_every or self._settings.preview_every,
        )

    def _finish(self, work: Work, view: CellView, plan: GenerationPlan, *, interrupted: bool) -> Pictures:
        pictures = work.pictures()
        self._bind(pictures)
        view.finish(final_bundle(work, largest_bytes=self._settings.embed_limit_bytes))
        if self._shows_captions(view):
            show_caption(pictures, has_time=shows_widgets(self._shell))
        self._save(pictures)
        outcome(work, interrupted=interrupted)
        if not self._arguments.quiet:
            _show_notes(pictures, plan)
        # A terminal shows no picture while it is made: there the value is the output.
        return pictures if isinstance(view, TextView) else pictures.mark_shown()

    def _leave(self, work: Work, view: CellView) -> BackgroundJob:
        if self._route is not None and view.comm is not None:
            self._route.route(view.comm)

        place = caption_place() if self._shows_captions(view) else None
        has_time = shows_widgets(self._shell)

        def at_end(pictures: Pictures) -> Any:
            if place is not None:
                show_caption(pictures, has_time=has_time, place=place)
            if len(pictures):
                self._bind(pictures)
                self._save(pictures)
            return final_bundle(work, largest_bytes=self._settings.embed_limit_bytes)

        job = BackgroundJob(work, view, at_end=at_end)
        if self._arguments.out is not None:
            self._shell.user_ns.setdefault(self._arguments.out, None)
        return job

    def _shows_captions(self, view: CellView) -> bool:
        return self._settings.has_captions and not isinstance(view, (TextView, NullView))

    def _bind(self, pictures: Pictures) -> None:
        if self._shell is None:
            return
        self._shell.user_ns[LAST_RESULT] = pictures
        if self._arguments.out is not None:
            is_one = pictures.wanted == 1 and len(pictures) == 1
            self._shell.user_ns[self._arguments.out] = pictures.only if is_one else pictures

    def _save(self, pictures: Pictures) -> None:
        if self._arguments.save is not None and len(pictures):
            saving.save_images(list(pictures), self._arguments.save)

    def _find_executor(self) -> SupportsSubmit | None:
        if self._arguments.executor is None:
            return None
        from swiftai_nb.notebook.cell.cluster import find_executor

        return find_executor(self._arguments.executor, self._variables)


def _show_notes(pictures: Pictures, plan: GenerationPlan) -> None:
    revision_note = () if plan.revision_note is None else (plan.revision_note,)
    from_recipes = [note for image in pictures if image.recipe for note in image.recipe.notes]
    show_notes([*plan.request.notes, *revision_note, *from_recipes])


def show_notes(notes: Sequence[str]) -> None:
    """Shows notes below a cell's pictures, each once."""
    notes = list(dict.fromkeys(notes))
    if notes:
        from IPython.display import display

        display({"text/plain": "\n".join(f"Note: {note}" for note in notes)}, raw=True)


def _stage_size(plan: GenerationPlan) -> tuple[int, int]:
    """CSS pixels of the output to come: what it will be shown at."""
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.notebook.output.contact_sheet import expected_size

    return GeneratedImage(b"", *expected_size(plan.size, plan.request.count)).display_size
