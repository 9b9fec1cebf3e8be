"""Sampler names: users' short names, diffusers' class names and other tools' spellings."""

from __future__ import annotations

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.model_files.samplers import (
    SAMPLERS,
    canonical_name,
    fitting_samplers,
    is_distilled_turbo,
    scheduler_name,
)

TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("euler", "euler"),
        ("Euler_A", "euler-a"),
        ("euler_ancestral", "euler-a"),
        ("dpmpp_2m", "dpm++2m"),
        ("DPM++ 2M Karras", "dpm++2m-karras"),
        ("dpmpp_2m_karras", "dpm++2m-karras"),
        ("EulerDiscreteScheduler", "euler"),
        ("EulerDiscrete", "euler"),
        ("plms", "pndm"),
        ("DPM++ 2M SDE Karras", "dpm++2m-sde-karras"),
        ("dpmpp_2m_sde_gpu", "dpm++2m-sde"),
        ("dpmpp_2m_sde_gpu karras", "dpm++2m-sde-karras"),
        ("DPM++ 3M SDE Exponential", "dpm++3m-sde-exponential"),
        ("DPM++ SDE", "dpm++sde"),
        ("DPM2 a Karras", "dpm2-a-karras"),
        ("dpm_2_ancestral", "dpm2-a"),
        ("Heun", "heun"),
        ("uni_pc_bh2", "unipc"),
        ("UniPC SGM Uniform", "unipc-sgm-uniform"),
        ("Euler a Align Your Steps", "euler-a-ays"),
        ("euler normal", "euler"),
        ("euler simple", "euler-sgm-uniform"),
        ("dpmpp_2m_k", "dpm++2m-karras"),
        ("k_euler_a", "euler-a"),
        ("KDPM2AncestralDiscreteScheduler", "dpm2-a"),
        ("DEISMultistep", "deis"),
    ],
)
def test_spellings_of_other_tools_are_understood(name, short):
    assert canonical_name(name) == short


def test_every_sampler_is_its_own_canonical_name_and_fits_one_kind_of_model():
    assert [canonical_name(name) for name in SAMPLERS] == list(SAMPLERS)
    kinds = [fitting_samplers(kind=kind) for kind in ("noise", "flow", "edm")]
    assert sorted(name for names in kinds for name in names) == sorted(SAMPLERS)
    assert fitting_samplers(kind="flow") == ("flow-match-euler",)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=lambda sampler: sampler.name)
def test_every_name_of_the_table_is_understood_with_every_schedule(sampler):
    base = sampler.name.removesuffix("-karras")
    for name in (sampler.name, *sampler.aliases):
        assert canonical_name(name) == sampler.name
        assert canonical_name(name.upper()) == sampler.name
        for schedule in sampler.schedules if sampler.schedule is None else ():
            for joined in (f"{name} {schedule}", f"{name}_{schedule.replace('-', '_')}"):
                assert canonical_name(joined) == f"{base}-{schedule}"


def test_a_schedule_that_a_sampler_cannot_have_lists_its_own():
    with pytest.raises(InvalidInputError, match="scheduler ddim has no schedule 'karras'") as caught:
        canonical_name("DDIM Karras")
    assert "ddim-sgm-uniform" in str(caught.value.hint)


def test_an_unknown_sampler_suggests_the_nearest():
    with pytest.raises(InvalidInputError, match="no scheduler named 'eulr'") as caught:
        canonical_name("eulr")
    assert "euler" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpm++2m"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "dpm++2m-karras"),
        ({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, "ddim"),
        ({"_class_name": "UniPCMultistepScheduler"}, "unipc"),
        ({"_class_name": "UniPCMultistepScheduler", "use_exponential_sigmas": True}, "unipc-exponential"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpm++2m-sde"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "dpm++3m"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 1}, "dpm++2m"),
        ({"_class_name": "SASolverScheduler"}, "SASolverScheduler"),
        ({}, ""),
    ],
)
def test_the_sampler_of_a_configuration(config, name):
    assert scheduler_name(config) == name


@pytest.mark.parametrize(
    ("change", "is_turbo"),
    [
        ({}, True),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}, True),
        ({"_class_name": "DDIMScheduler"}, False),
        ({"timestep_spacing": "leading"}, False),
        ({"rescale_betas_zero_snr": True}, False),
        ({"prediction_type": "v_prediction"}, False),
    ],
)
def test_a_turbo_model_is_known_by_its_scheduler(change, is_turbo):
    assert is_distilled_turbo({**TURBO, **change}) is is_turbo
