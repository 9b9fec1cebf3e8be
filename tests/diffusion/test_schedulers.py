"""Samplers against closed forms, and the names they go by."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.schedulers import noise_schedule as schedule
from swiftai_nb.diffusion.schedulers.k_diffusion import lms_coefficient
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.model_files.samplers import (
    CLASS_NAMES,
    SAMPLERS,
    canonical_name,
    find_sampler,
    scheduler_name,
)

SD = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
TWO_CALLS = ("heun", "dpm2", "dpm2-a", "dpm++sde")
RNG = np.random.default_rng(2)
X0, NOISE = (mx.array(RNG.standard_normal((2, 3, 5, 4), dtype=np.float32)) for _ in range(2))
DETERMINISTIC = [
    name
    for name, s in SAMPLERS.items()
    if s.kind == "noise" and not make_scheduler(SD, 4, name=name).needs_noise
]


def run(scheduler, predict, start=None):
    latents = X0 if start is None else start
    history = None
    for index in range(len(scheduler.timesteps)):
        noise = mx.zeros_like(X0) if index in scheduler.noise_calls else None
        output = predict(latents, index)
        step = scheduler.step(output, latents, index, noise=noise, history=history)
        latents, history = step.latents, step.history
    return latents, step.denoised


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_network_that_knows_the_noise_is_led_to_the_picture(name, steps):
    scheduler = make_scheduler(SD, steps, name=name)
    start = scheduler.add_noise(X0, NOISE, 0)
    latents, denoised = run(scheduler, lambda *_: NOISE, start)
    assert np.abs(np.array(denoised - X0)).max() < 2e-3
    # PNDM and DEIS end at alphas_cumprod[0] and keep its noise.
    left = 0.0292 * NOISE if name.startswith(("pndm", "deis")) else 0
    assert np.abs(np.array(latents - X0 - left)).max() < 5e-3


def test_flow_matching_follows_the_straight_line():
    scheduler = make_scheduler({"shift": 3.0}, 4, name="flow-match-euler")
    latents, denoised = run(scheduler, lambda *_: NOISE - X0, NOISE)
    assert np.abs(np.array(latents - X0)).max() < 1e-5
    assert np.abs(np.array(denoised - X0)).max() < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "lms"])
def test_predicted_x0_does_not_depend_on_what_the_network_predicts(name, prediction):
    scheduler = make_scheduler({**SD, "prediction_type": prediction}, 4, name=name)
    alphas = schedule.make_alphas_cumprod(
        schedule.make_betas("scaled_linear", beta_start=0.00085, beta_end=0.012)
    )
    t = scheduler.timesteps[1]
    alpha = np.interp(t, np.arange(1000), alphas)
    output = NOISE if prediction == "epsilon" else alpha**0.5 * NOISE - (1 - alpha) ** 0.5 * X0
    step = scheduler.step(output, scheduler.add_noise(X0, NOISE, 1), 1)
    assert np.abs(np.array(step.denoised - X0)).max() < 1e-2


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_start():
    betas = schedule.make_betas("scaled_linear", beta_start=0.00085, beta_end=0.012)
    before = schedule.make_alphas_cumprod(betas)
    after = schedule.make_alphas_cumprod(schedule.rescale_zero_terminal_snr(betas))
    assert before[-1] > 0.004
    assert after[-1] == 0
    assert after[0] == pytest.approx(before[0])


def test_spacings():
    assert schedule.leading_timesteps(4, steps_offset=1).tolist() == [751, 501, 251, 1]
    assert schedule.trailing_timesteps(4).tolist() == [999, 749, 499, 249]
    assert schedule.linspace_timesteps(4).tolist() == [999, 666, 333, 0]
    assert len(schedule.trailing_timesteps(7)) == 7


def test_karras_sigmas_fall_from_the_largest_to_the_smallest():
    sigmas = schedule.karras_sigmas(0.03, 14.6, 9)
    assert sigmas[0] == pytest.approx(14.6)
    assert sigmas[-1] == pytest.approx(0.03)
    assert (np.diff(sigmas) < 0).all()


def test_dynamic_shift_between_the_published_ends():
    assert schedule.dynamic_shift(256) == pytest.approx(0.5)
    assert schedule.dynamic_shift(4096) == pytest.approx(1.15)
    sigmas = schedule.flow_sigmas(4, mu=schedule.dynamic_shift(4096))
    assert sigmas[0] == 1
    assert sigmas[1] == pytest.approx(np.exp(1.15) * 0.75 / (1 + (np.exp(1.15) - 1) * 0.75))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_coefficients_integrate_constants_exactly(order):
    sigmas = np.array([14.6, 9.0, 5.0, 2.0, 0.5])
    total = sum(lms_coefficient(sigmas, 3, order, k) for k in range(order))
    assert total == pytest.approx(sigmas[4] - sigmas[3])


@pytest.mark.parametrize("steps", [2, 6, 20])
def test_plms_calls_the_network_once_more_than_steps(steps):
    scheduler = make_scheduler(SD, steps)
    assert len(scheduler.timesteps) == steps + 1
    assert scheduler.timesteps[1] == scheduler.timesteps[2 if steps > 1 else 1]


def test_all_others_call_it_once_per_step_or_twice_in_all_steps_but_the_last():
    for name in SAMPLERS:
        if name != "pndm":
            scheduler = make_scheduler(SD, 6, name=name)
            is_double = name.removesuffix("-karras") in TWO_CALLS
            assert len(scheduler.timesteps) == (11 if is_double else 6), name
            assert scheduler.calls_per_step == (2 if is_double else 1), name


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("euler", []),
        ("euler-a", [0, 1, 2, 3]),
        ("dpm2-a", [1, 3, 5]),
        ("dpm++sde", [0, 1, 2, 3, 4, 5]),
        ("dpm++2m-sde", [0, 1, 2, 3]),
        ("ddpm", [0, 1, 2, 3]),
        ("lcm", [0, 1, 2]),
        ("tcd", [0, 1, 2]),
    ],
)
def test_noise_is_drawn_only_where_diffusers_draws_it(name, calls):
    assert sorted(make_scheduler(SD, 4, name=name).noise_calls) == calls


def test_ddpm_draws_no_noise_at_timestep_0():
    assert sorted(make_scheduler({**SD, "steps_offset": 0}, 4, name="ddpm").noise_calls) == [0, 1, 2]


def test_eta_makes_ddim_stochastic_and_tcd_deterministic():
    assert len(make_scheduler(SD, 4, name="ddim", eta=1.0).noise_calls) == 4
    assert not make_scheduler(SD, 4, name="tcd", eta=0.0).needs_noise
    with pytest.raises(InvalidInputError, match=r"eta is 1\.5"):
        make_scheduler(SD, 4, name="ddim", eta=1.5)


class TestSigmaSchedules:
    def test_beta_quantiles_are_those_of_the_distribution(self):
        expected = [0.0, 0.00273298, 0.234017, 0.5, 0.765983, 1.0]  # SciPy's
        got = schedule.beta_quantiles(np.array([0.0, 0.02, 0.3, 0.5, 0.7, 1.0]))
        assert np.abs(got - expected).max() < 1e-6

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_every_schedule_of_a_sampler_falls_from_noise(self, name):
        for kind in SAMPLERS[name].schedules if SAMPLERS[name].schedule is None else ():
            scheduler = make_scheduler(SD, 6, name=f"{name}-{kind}")
            ratios = (scheduler.sigmas / scheduler.alphas)[:-1]
            assert (np.diff(ratios) <= 0).all(), kind
            assert ratios[0] > 5, kind
            assert find_sampler(f"{name}-{kind}").schedule == kind

    def test_align_your_steps_are_the_published_sigmas_of_the_family(self):
        base = make_scheduler(SD, 10, name="euler-ays")
        assert base.sigmas[:3].tolist() == pytest.approx([14.615, 6.475, 3.861])
        assert base.sigmas[-2:].tolist() == pytest.approx([0.152, 0])
        large = make_scheduler(SD, 10, name="dpm++2m-ays", is_sdxl=True)
        assert (large.sigmas / large.alphas)[1] == pytest.approx(6.315)
        assert len(make_scheduler(SD, 17, name="euler-ays").timesteps) == 17

    def test_a_named_schedule_replaces_the_models_own(self):
        karras = {**SD, "use_karras_sigmas": True}
        plain = make_scheduler(karras, 6, name="euler-sgm-uniform")
        assert plain.timesteps.tolist() == [999, 832, 666, 499, 332, 166]
        beta = make_scheduler({**SD, "use_beta_sigmas": True}, 6, name="euler")
        assert make_scheduler(karras, 6, name="euler-beta").sigmas.tolist() == beta.sigmas.tolist()


class TestNames:
    @pytest.mark.parametrize("name", [*SAMPLERS, *CLASS_NAMES])
    def test_every_listed_name_works(self, name):
        assert make_scheduler(SD, 4, name=name).init_noise_sigma >= 1

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("DDIM", "ddim"),
            ("Euler A", "euler-a"),
            ("euler_ancestral", "euler-a"),
            ("EulerAncestralDiscreteScheduler", "euler-a"),
            ("EulerDiscrete", "euler"),
            ("plms", "pndm"),
            ("dpm++2m-karras", "dpm++2m-karras"),
        ],
    )
    def test_spellings(self, given, expected):
        assert canonical_name(given) == expected

    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(InvalidInputError, match="eulr") as caught:
            canonical_name("eulr")
        assert "euler" in str(caught.value.hint)

    def test_unknown_sampler_of_a_model_lists_ours(self):
        with pytest.raises(UnsupportedModelError, match="SASolver") as caught:
            make_scheduler({"_class_name": "SASolverScheduler"}, 4)
        assert "dpm++2m" in str(caught.value.hint)

    def test_karras_in_a_config_is_part_of_the_name(self):
        config = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
        assert scheduler_name(config) == "dpm++2m-karras"

    def test_named_sampler_keeps_the_models_fields(self):
        plain = make_scheduler({**SD, "beta_end": 0.02}, 4, name="euler")
        assert plain.sigmas[0] > make_scheduler(SD, 4, name="euler").sigmas[0]


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_out_of_range(name, steps):
    with pytest.raises(InvalidInputError, match=str(steps)):
        make_scheduler(SD, steps, name=name)


def test_lcm_has_no_more_steps_than_its_distillation():
    with pytest.raises(InvalidInputError, match=r"1\.\.50"):
        make_scheduler(SD, 51, name="lcm")


@pytest.mark.parametrize(
    "field",
    [
        {"beta_schedule": "sigmoid"},
        {"timestep_spacing": "random"},
        {"prediction_type": "score"},
        {"thresholding": True},
        {"use_flow_sigmas": True},
    ],
)
def test_config_fields_we_lack(field):
    def plan_and_step():
        make_scheduler({**SD, **field}, 4, name="ddim").step(NOISE, X0, 0)

    with pytest.raises(UnsupportedModelError):
        plan_and_step()
