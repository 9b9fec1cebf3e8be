"""The session: which engine a request goes to, and how often it is planned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import ModelNotFoundError, ProviderUnavailableError, UnsupportedPlatformError
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.notebook.magic.request import Defaults, build_request
from swiftai_nb.notebook.session import Session
from swiftai_nb.testing import FakeGenerator


class Unavailable(FakeGenerator):
    """A local engine that cannot run."""

    is_available = False  # type: ignore[assignment]

    def check_available(self) -> None:
        raise UnsupportedPlatformError("MLX is not installed")


class Cloud(FakeGenerator):
    """A provider of the cloud."""

    kind = "cloud"


class Planner(FakeGenerator):
    """Counts the plans it makes."""

    plans = 0

    def plan(self, request: GenerationRequest) -> GenerationPlan:
        self.plans += 1
        return GenerationPlan(request=request, engine="planner", width=32, height=48)

    async def generate(self, plan: GenerationPlan, *, index: int = 0, on_progress: Any = None) -> Any:
        return await self.generate_image(plan.request.prompt, config=plan.request.config_of(index))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    session = Session()
    yield session
    session.close()


def notes_of(line: str, session: Session) -> tuple[str, ...]:
    return build_request(parse(line), defaults=Defaults(), variables={}, session=session).notes


def test_auto_says_once_why_it_chose_the_cloud(session: Session) -> None:
    session.add_generator("mlx", Unavailable())
    session.add_generator("huggingface", Cloud())
    assert notes_of("a fox --engine cloud", session) == ()
    assert notes_of("a fox", session) == (
        "the local engine cannot run (MLX is not installed); prompts go to the cloud",
    )
    assert notes_of("a fox", session) == ()


def test_auto_without_any_engine_is_an_error(session: Session) -> None:
    session.add_generator("mlx", Unavailable())
    session.add_generator("huggingface", Unavailable())
    with pytest.raises(ProviderUnavailableError, match="no token for the cloud"):
        session.choose_engine()


def test_an_engine_is_of_the_cloud_when_its_provider_says_so(session: Session) -> None:
    session.add_generator("mine", Cloud())
    session.add_generator("plain", FakeGenerator())
    assert session.is_cloud("mine")
    assert not session.is_cloud("plain")


def test_a_job_of_many_pictures_has_one_plan_made_at_submit(session: Session) -> None:
    planner = Planner()
    session.add_generator("planner", planner)
    config = ImageGenerationConfig(steps=1, seed=5)
    job = session.submit(GenerationRequest.of("a fox", config, count=4, engine="planner"))
    assert planner.plans == 1
    assert [image.seed for image in job.result(60)] == [5, 6, 7, 8]
    assert (planner.plans, job.plan.size) == (1, (32, 48))


def test_requests_that_differ_in_their_seeds_share_a_plan(session: Session) -> None:
    planner = Planner()
    session.add_generator("planner", planner)
    requests = [
        GenerationRequest.of("a fox", ImageGenerationConfig(steps=steps, seed=seed), engine="planner")
        for steps in (1, 2)
        for seed in (3, 4, 5)
    ]
    plans = session.plan_all(requests)
    assert planner.plans == 2
    assert [(plan.request.config.steps, plan.request.seeds) for plan in plans] == [
        (steps, (seed,)) for steps in (1, 2) for seed in (3, 4, 5)
    ]


def test_a_provider_without_plans_of_catalog_models_is_given_the_models_size(session: Session) -> None:
    session.add_generator("mlx", FakeGenerator())
    assert session.plan(GenerationRequest.of("a fox", engine="local")).size == (256, 256)
    with pytest.raises(ModelNotFoundError):
        session.plan(GenerationRequest.of("a fox", ImageGenerationConfig(model="nothing"), engine="local"))
