"""Runs one `%imagine`: order, check, show, wait, bind, save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import ModelNotDownloadedError
from swiftai_nb.core.format import shorten
from swiftai_nb.notebook.cell.views import CellView, NullView, TextView, create_view
from swiftai_nb.notebook.cell.wait import JobWork, Work, final_bundle, outcome, wait
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.magic.request import Order, build_request
from swiftai_nb.notebook.output import saving
from swiftai_nb.notebook.output.pictures import LONGEST_ALT, Pictures, describe
from swiftai_nb.notebook.session import Session, get_session

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.downloads.download import Download
    from swiftai_nb.jobs.cluster import SupportsSubmit
    from swiftai_nb.notebook.cell.background import BackgroundJob
    from swiftai_nb.notebook.cell.cancel import SubshellRoute
    from swiftai_nb.notebook.magic.magics import Imagine

LAST_RESULT = "_imagine"


class Runner:
    """One per kernel.

    Args:
        magic: the magics, for their traits and their shell.
    """

    def __init__(self, magic: Imagine) -> None:
        self._magic = magic
        self._shell = magic.shell
        self._kernel = getattr(self._shell, "kernel", None)

    def run(
        self, arguments: ImagineArguments, *, variables: Mapping[str, Any], source: tuple[str, str]
    ) -> Pictures | BackgroundJob | Any:
        """Does what the line asks for.

        Args:
            arguments: parsed.
            variables: the user's namespace.
            source: the line and the cell, which name an unfinished grid.

        Raises:
            AIError: bad input, a failure, or the user's cancel.
            GenerationInterrupted: the stop button.
        """
        session = get_session()
        if arguments.save is None and self._magic.save:
            arguments = replace(arguments, save=self._magic.save)
        if arguments.save is not None:
            saving.check_template(arguments.save)
        orders = self.orders(arguments, variables=variables, session=session)
        if arguments.dry_run:
            from swiftai_nb.notebook.magic.dry_run import DryRun

            return DryRun.of(orders, session)
        for order in {order.config.model: order for order in orders}.values():
            self._download(order, arguments, session)
        self._download_loras(orders, arguments, session)
        executor = _executor(arguments, variables)
        if arguments.grid:
            return self._run_grid(orders, arguments, executor, source=source, session=session)
        if executor is not None:
            return self._run_on_cluster(orders[0], arguments, executor, session=session)
        job = orders[0].submit(session, is_background=arguments.background)
        work = JobWork(job, prompt=orders[0].words)
        text = describe(orders[0].words, len(orders[0].seeds))
        return self.show(work, arguments, orders[0], work_id=job.id, text=text, session=session)

    def orders(
        self, arguments: ImagineArguments, *, variables: Mapping[str, Any], session: Session
    ) -> list[Order]:
        """One order, or one for each cell of a grid (all with the same seed unless that varies)."""
        defaults = self._magic.defaults()
        if not arguments.grid:
            return [build_request(arguments, defaults=defaults, variables=variables, session=session)]
        from swiftai_nb.notebook.cell.grid import combinations
        from swiftai_nb.notebook.magic.request import with_seed

        orders = [
            build_request(cell, defaults=defaults, variables=variables, session=session)
            for cell in combinations(arguments)
        ]
        if any(axis.name == "seed" for axis in arguments.grid):
            return orders
        return [with_seed(order, orders[0].seeds[0]) for order in orders]

    def show(
        self,
        work: Work,
        arguments: ImagineArguments,
        order: Order,
        *,
        work_id: str,
        text: str,
        session: Session,
        size: tuple[int, int] | None = None,
    ) -> Pictures | BackgroundJob:
        """Shows `work` in this cell until it ends, or (`--bg`) from now on."""
        try:
            view = self._view(work, arguments, order, work_id=work_id, session=session, size=size)
            view.start(text)
            if arguments.background:
                return self._leave(work, view, arguments)
            interrupted = wait(work, view, kernel=self._kernel, route=self._route)
        except BaseException:
            work.cancel()
            raise
        return self._finish(work, view, arguments, order, interrupted=interrupted)

    @property
    def _route(self) -> SubshellRoute | None:
        return None if self._kernel is None else get_session().subshell_route

    def _finish(
        self, work: Work, view: CellView, arguments: ImagineArguments, order: Order, *, interrupted: bool
    ) -> Pictures:
        pictures = work.pictures()
        self._bind(pictures, arguments)
        view.finish(final_bundle(work, largest_bytes=self._largest_bytes))
        if arguments.save is not None and len(pictures):
            saving.save_images(list(pictures), arguments.save)
        outcome(work, interrupted=interrupted)
        if not arguments.quiet:
            self._tell_notes(pictures, order)
        # A terminal shows no picture while it is made: there the value is the output.
        return pictures if isinstance(view, TextView) else pictures.mark_shown()

    def _leave(self, work: Work, view: CellView, arguments: ImagineArguments) -> BackgroundJob:
        from swiftai_nb.notebook.cell.background import BackgroundJob

        if self._route is not None and view.comm is not None:
            self._route.route(view.comm)

        def at_end(pictures: Pictures) -> Any:
            if len(pictures):
                self._bind(pictures, arguments)
                if arguments.save is not None:
                    saving.save_images(list(pictures), arguments.save)
            return final_bundle(work, largest_bytes=self._largest_bytes)

        job = BackgroundJob(work, view, at_end=at_end)
        if arguments.out is not None:
            self._shell.user_ns.setdefault(arguments.out, None)
        return job

    @property
    def _largest_bytes(self) -> int:
        return int(self._magic.embed_limit_mb * 1_000_000)

    def _bind(self, pictures: Pictures, arguments: ImagineArguments) -> None:
        self._shell.user_ns[LAST_RESULT] = pictures
        if arguments.out is not None:
            is_one = pictures.wanted == 1 and len(pictures) == 1
            self._shell.user_ns[arguments.out] = pictures.only if is_one else pictures

    def _tell_notes(self, pictures: Pictures, order: Order) -> None:
        from_recipes = [note for image in pictures if image.recipe for note in image.recipe.notes]
        notes = list(dict.fromkeys([*order.notes, *from_recipes]))
        if notes:
            from IPython.display import display

            display({"text/plain": "\n".join(f"Note: {note}" for note in notes)}, raw=True)

    def _view(
        self,
        work: Work,
        arguments: ImagineArguments,
        order: Order,
        *,
        work_id: str,
        session: Session,
        size: tuple[int, int] | None,
    ) -> CellView:
        if arguments.quiet or self._shell is None:
            return NullView()
        return create_view(
            self._shell,
            kind=self._magic.display,
            job_id=work_id,
            prompt=shorten(order.words, LONGEST_ALT),
            size=size or _stage_size(order, session),
            on_cancel=work.cancel,
            blocking=not arguments.background,
            preview_every=arguments.preview_every or self._magic.preview_every,
        )

    def _run_on_cluster(
        self, order: Order, arguments: ImagineArguments, executor: SupportsSubmit, *, session: Session
    ) -> Pictures | BackgroundJob:
        from swiftai_nb.notebook.cell.cluster import ClusterWork, split_per_image

        cells: list[GeneratedImage | None] = [None] * len(order.seeds)
        work = ClusterWork(split_per_image(order), cells, executor, session=session).start()
        text = describe(order.words, len(order.seeds))
        return self.show(work, arguments, order, work_id=f"cluster-{id(work):x}", text=text, session=session)

    def _run_grid(
        self,
        orders: list[Order],
        arguments: ImagineArguments,
        executor: SupportsSubmit | None,
        *,
        source: tuple[str, str],
        session: Session,
    ) -> Pictures | BackgroundJob:
        from swiftai_nb.notebook.cell.grid import GridProgress, GridWork, describe_grid, sheet_size

        progress = session.unfinished_grids.get(source)
        if progress is None or not progress.can_continue(orders):
            progress = GridProgress(orders)
        session.unfinished_grids[source] = progress
        work: Work
        if executor is None:
            work = GridWork(progress, arguments, session).start()
        else:
            from swiftai_nb.notebook.cell.cluster import ClusterWork

            work = ClusterWork(
                progress.orders,
                progress.cells,
                executor,
                session=session,
                axes=arguments.grid,
                prompt=arguments.prompt,
            ).start()
        text = describe_grid(arguments.prompt, arguments.grid)
        size = sheet_size(orders[0].size(session), arguments.grid)
        result = self.show(
            work, arguments, orders[0], work_id=f"grid-{id(work):x}", text=text, session=session, size=size
        )
        if not arguments.background:
            session.unfinished_grids.pop(source, None)
        return result

    def _download(self, order: Order, arguments: ImagineArguments, session: Session) -> None:
        if not arguments.download or order.config.model is None:
            return
        if not session.runs_catalog_models(order.engine):
            return
        try:
            session.registry.resolve(order.config.model)
        except ModelNotDownloadedError:
            for download in session.downloader.start_missing(order.config.model):
                self._wait_for(download, arguments, order, session=session)

    def _download_loras(self, orders: list[Order], arguments: ImagineArguments, session: Session) -> None:
        """Naming a LoRA of the Hub asks for it: fetched when it is not here, for all to see."""
        from swiftai_nb.registry.loras import missing_loras

        wanted = [lora for order in orders if order.engine == "mlx" for lora in order.config.loras]
        for source in missing_loras(session.registry, wanted):
            self._wait_for(session.downloader.start_lora(source), arguments, orders[0], session=session)

    def _wait_for(
        self, download: Download, arguments: ImagineArguments, order: Order, *, session: Session
    ) -> None:
        from swiftai_nb.notebook.cell.download import DownloadWork

        work = DownloadWork(download)
        view = self._view(work, arguments, order, work_id=work.id, session=session, size=None)
        view.start(f"Download of {download.job.model_id}")
        interrupted = wait(work, view, kernel=self._kernel, route=self._route)
        view.finish(None)
        outcome(work, interrupted=interrupted)


def _executor(arguments: ImagineArguments, variables: Mapping[str, Any]) -> SupportsSubmit | None:
    if arguments.executor is None:
        return None
    from swiftai_nb.notebook.cell.cluster import find_executor

    return find_executor(arguments.executor, variables)


def _stage_size(order: Order, session: Session) -> tuple[int, int]:
    """CSS pixels of the output to come: what it will be shown at."""
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.notebook.output.contact_sheet import expected_size

    width, height = expected_size(order.size(session), len(order.seeds))
    return GeneratedImage(b"", width, height).display_size
