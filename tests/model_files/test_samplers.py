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
    ],
)
def test_spellings_of_other_tools_are_understood(name, short):
    assert canonical_name(name) == short


def test_every_sampler_is_its_own_canonical_name_and_fits_one_kind_of_model():
    assert [canonical_name(name) for name in SAMPLERS] == list(SAMPLERS)
    assert {*fitting_samplers(is_flow=True), *fitting_samplers(is_flow=False)} == set(SAMPLERS)
    assert fitting_samplers(is_flow=True) == ("flow-match-euler",)


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
        ({"_class_name": "UniPCMultistepScheduler"}, "UniPCMultistepScheduler"),
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
