"""The stages on tiny networks and art, whole: checkpoints, resuming, pausing, the folder that comes out."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import art
import measures
import networks
import runtime
import train_256
import train_decoder_256
import train_few_steps
import train_unet_256
from optimizer import Muon, orthogonalized
from runtime import Pace, Trainee
from train_decoder_256 import Adversary, decoded, part, sharpness_loss


def trainee(path, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 3))
    return net, Trainee(net.parameters(), Muon(net.parameters(), lr=0.01), path=path, **options)


def learn(net, trainee, steps):
    for _ in range(steps):
        trainee.pictures += 8
        trainee.update(net(torch.ones(2, 4)).square().mean(), lr=0.01)


def test_matrices_in_a_batch_are_orthogonalized_as_alone():
    torch.manual_seed(1)
    matrices = torch.randn(3, 5, 8)
    together = orthogonalized(matrices)
    for alone, one in zip(together, matrices, strict=True):
        assert torch.allclose(alone, orthogonalized(one), atol=2e-2)
    assert torch.linalg.svdvals(together).sub(1).abs().max() < 0.4


def test_training_resumed_from_a_checkpoint_goes_on_the_same(tmp_path):
    net, whole = trainee(tmp_path / "a.pt")
    learn(net, whole, 3)
    whole.save()
    learn(net, whole, 2)
    other, resumed = trainee(tmp_path / "a.pt")
    assert resumed.resume()
    assert (resumed.step, resumed.pictures) == (3, 24)
    learn(other, resumed, 2)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoints_of_before_pictures_were_counted_still_load(tmp_path):
    net, old = trainee(tmp_path / "a.pt")
    learn(net, old, 1)
    old.save()
    state = torch.load(tmp_path / "a.pt")
    del state["pictures"]
    torch.save(state, tmp_path / "a.pt")
    assert old.resume()
    assert old.pictures == 0


def test_training_ends_with_its_pictures_or_minutes(work):
    _, one = trainee(work / "a.pt")
    assert Pace(one, pictures=100).running()
    one.pictures = 100
    assert not Pace(one, pictures=100).running()
    one.pictures = 0
    assert not Pace(one, pictures=100, minutes=0).running()


def test_the_learning_rate_falls_by_pictures(work):
    _, one = trainee(work / "a.pt")
    pace, rates = Pace(one, pictures=100, peak_lr=1.0, warmup_steps=1), []
    for one.pictures in (0, 70, 85, 100):
        rates.append(round(pace.lr(), 2))
    assert rates == [1.0, 1.0, 0.5, 0.01]


def test_training_that_goes_on_does_not_warm_up_again(work):
    _, one = trainee(work / "a.pt")
    assert Pace(one, pictures=1000, peak_lr=1.0, warmup_steps=50).lr() == pytest.approx(0.02)
    one.step = 200
    assert Pace(one, pictures=1000, peak_lr=1.0, warmup_steps=50).lr() == 1.0


def test_training_waits_while_the_pause_file_is_there(work, monkeypatch):
    _, one = trainee(work / "a.pt")
    pace, slept = Pace(one, pictures=100, minutes=0.01), []
    (work / "PAUSE").touch()

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 40:
            (work / "PAUSE").unlink()

    monkeypatch.setattr(runtime.time, "sleep", sleep)
    assert pace.running()  # the pause of 40 s is not counted against its half second
    assert len(slept) == 40


RANK_SCRIPT = """
import sys
sys.path[:0] = [{training!r}, {tests!r}]
import torch
from runtime import Pace, agreed, rank, ranks, start_ranks, work_dir
from test_training import trainee
start_ranks()
_, one = trainee(work_dir() / "a.pt")
pace = Pace(one, pictures=100, meeting_every_s=0)
assert pace.running() and pace.met
one.params[0].data.fill_(rank())
one.pictures = (30, 50)[rank()]
assert pace.running() and one.pictures == 40
assert torch.equal(one.params[0], torch.full_like(one.params[0], 0.5))
one.pictures = (101, 101)[rank()]
one.step = 7 + rank()
one.save()
assert not pace.running()
assert agreed(rank()) == 0
"""


def test_ranks_meet_with_the_mean_of_their_weights_and_stop_together(work):
    here = Path(__file__).parent
    script = work / "rank.py"
    script.write_text(RANK_SCRIPT.format(training=str(here.parent), tests=str(here)))
    done = subprocess.run([sys.executable, here.parent / "launch.py", script], timeout=120, check=False)
    assert done.returncode == 0
    assert torch.load(work / "a.pt", weights_only=True)["step"] == 7  # the first rank's


def test_a_rank_that_fails_ends_the_others(work):
    script = work / "rank.py"
    script.write_text("import os, sys, time\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)\n")
    launch = Path(__file__).parents[1] / "launch.py"
    assert subprocess.run([sys.executable, launch, script], timeout=60, check=False).returncode == 3


def test_sharpness_is_about_strength_and_not_place():
    x = torch.zeros(1, 3, 16, 16)
    x[..., 5:] = 1
    moved, soft = torch.roll(x, 1, -1), x.clone()
    moved[..., 0] = 0
    soft[..., 4:7] = torch.tensor([0.25, 0.5, 0.75])
    assert sharpness_loss(moved, x) < sharpness_loss(soft, x)
    assert sharpness_loss(x, x) == 0


def test_edges_of_the_picture_itself_are_one_and_of_a_blurred_one_less():
    x = torch.where(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, -1.0)
    same, blurred = measures.edges(x, x), measures.edges(nn.functional.avg_pool2d(x, 3, 1, 1), x)
    assert (same["edges"], same["edges_own"]) == (1, 1)
    assert same["edges_near"] >= 1
    assert max(blurred["edges"], blurred["edges_own"]) < 0.6
    assert same["psnr"] > 90


def test_the_discriminator_learns_and_gives_gradients_to_pictures_alone(tmp_path):
    adversary = Adversary(tmp_path / "d.pt", torch.device("cpu"))
    x, y = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40, requires_grad=True)
    before = [p.detach().clone() for p in adversary.net.parameters()]
    adversary.loss(y, x).backward()
    assert y.grad.abs().sum() > 0
    assert adversary.trainee.step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, adversary.net.parameters(), strict=True))
    assert all(p.grad is None for p in adversary.net.parameters())


@pytest.fixture
def tiny(work, small_art, subjects, monkeypatch):
    """Every stage at 32 px with 40 subjects, from a "shipped" model of 16 px and a tokenizer of random vectors."""
    from pipeline import save_pipeline
    from tokenizer import caption_words, write_tokenizer

    few = subjects[:40]
    for module in (train_decoder_256, train_unet_256):
        monkeypatch.setattr(module, "read_list", lambda: few)
    monkeypatch.setattr(art, "load", lambda: small_art[:, :40])
    for name, value in {"SIZE_256": 32, "LATENT_SIZE": 4, "LATENT_CHANNELS": 4}.items():
        monkeypatch.setattr(networks, name, value)
    monkeypatch.setattr(networks, "autoencoder_256", lambda: networks.autoencoder((8, 8, 8, 16), 32, 4))
    render = train_decoder_256.Renderer
    for module in (train_decoder_256, train_unet_256):
        monkeypatch.setattr(module, "Renderer", lambda a, device: render(a, size=32, device=device))
    for name, value in {"WINDOW": 12, "MARGIN": 2, "POOL": {"cpu": 6}, "ASTRAY": 1e9}.items():
        monkeypatch.setattr(train_decoder_256, name, value)
    monkeypatch.setattr(train_decoder_256, "DRAWING", {"steps": (2,), "guidance_scale": 1.7, "batch": 4})
    monkeypatch.setattr(train_few_steps, "HELD_OUT", 4)
    monkeypatch.setattr(train_few_steps, "STEP_COUNTS", {2: 1.0})
    monkeypatch.setattr(train_unet_256, "SIZES", {"cpu": (16, 4, 100, 200)})
    monkeypatch.setattr(train_unet_256, "GATE_EVERY", 32)
    words = caption_words()
    write_tokenizer(work / "tokenizer", words, dict.fromkeys(words, 1))
    torch.manual_seed(0)
    vocabulary = len(json.loads((work / "tokenizer/vocab.json").read_text()))
    networks.text_encoder(vocabulary).save_pretrained(work / "shipped/text_encoder")
    networks.autoencoder((8, 8, 8), 16, 4).save_pretrained(work / "shipped/vae")
    save_pipeline(work / "shipped", unet=networks.unet((16, 32), 4, 4))
    (work / "art_256.zip").touch()
    pictures = {"decoder": 40, "encoder": 16, "captions": 32, "unet": 96, "few steps": 96}
    pictures["all of the decoder"] = 56
    monkeypatch.setattr(train_256, "PICTURES", pictures)
    return work


@pytest.mark.timeout(900)  # a minute on a free core
def test_every_stage_runs_and_a_diffusers_folder_comes_out(tiny, monkeypatch, capsys):
    scores = iter([False, True])
    monkeypatch.setattr(train_unet_256.following, "score", lambda pipe, **_: {"passed": next(scores)})
    (tiny / "tokenizer/vocab.json").write_text("{}")  # another model's: the shipped one replaces it
    assert not train_256.run(0)  # no time: nothing is done, nothing breaks
    assert train_256.run(10)
    reached = json.loads((tiny / "progress.json").read_text())
    assert reached["gate"]["pictures"] == 64  # the second gate ended the practice
    from pipeline import draw, load_pipeline

    pipe = load_pipeline(tiny / "pipeline")
    (picture,) = draw(pipe, ["a cat, flat style"], steps=2, guidance_scale=1.7, seeds=[1])
    assert picture.shape == (32, 32, 3)
    assert (tiny / "adversary_256.pt").exists()
    assert (tiny / "teacher/config.json").exists()
    capsys.readouterr()
    assert train_256.run(0)  # complete: nothing is trained again
    assert "step" not in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_without_a_checkpoint_training_goes_on_from_where_the_shipped_weights_came(tiny, capsys):
    reached = {"decoder_256": 40, "encoder_256": 16, "unet_256": 64, "gate": {"passed": True}}
    runtime.PROGRESS.write_text(json.dumps(reached))
    assert train_256.run(0) is False
    assert not (tiny / "decoder_256.pt").exists()
    assert train_unet_256.train_text_encoder(captions=32)
    lesson = train_unet_256.Lesson(seed=[0])
    learned = torch.load(tiny / "text_encoder_256.pt", weights_only=True)["params"]
    same = [torch.equal(a, b) for a, b in zip(learned, lesson.text_params(), strict=True)]
    assert all(same[:-4])
    assert not any(same[-4:])  # the two layers of the head
    assert train_unet_256.train(pictures=96)
    assert torch.load(tiny / "unet_256.pt", weights_only=True)["step"] == 2  # of 16 pictures
    assert json.loads((tiny / "progress.json").read_text()) == reached | {"unet_256": 96}


def test_a_window_shows_what_the_whole_picture_shows_there(tiny):
    torch.manual_seed(0)
    net, z = train_decoder_256.autoencoder().eval(), torch.randn(4, 4, 4, 4) * networks.SCALING_FACTOR
    net.decoder.up_blocks[-1].resnets.requires_grad_(False)
    whole = decoded(net, z)
    assert torch.allclose(whole, net.decode(z / networks.SCALING_FACTOR).sample, atol=1e-5)
    inner = decoded(net, z, (2, 0))[..., 4:-4, 4:-4]
    assert inner.shape == part(whole, (2, 0)).shape
    assert torch.corrcoef(torch.stack([inner.flatten(), part(whole, (2, 0)).flatten()]))[0, 1] > 0.9


def test_examples_are_made_again_from_their_numbers(tiny):
    examples = train_decoder_256.Examples(torch.device("cpu"), attributes=False)
    (x, captions), (again, same) = examples([3, 9]), examples([9])
    assert torch.allclose(x[1:], again, atol=1e-5)
    assert captions[1:] == same


def test_drawn_latents_far_from_their_picture_are_left_out_and_a_pool_is_resumed(tiny, monkeypatch):
    place = torch.device("cpu")
    examples, teacher = train_decoder_256.Examples(place, attributes=False), train_decoder_256.Teacher(place)
    numbers, latents = train_decoder_256.drawn_pool(tiny / "p.pt", examples, teacher, count=8)
    off = (latents.float() - teacher(examples(numbers)[0])).square().mean((1, 2, 3))
    limit = off.quantile(0.5).item()  # between two of them
    monkeypatch.setattr(train_decoder_256, "ASTRAY", limit)
    kept, _ = train_decoder_256.drawn_pool(tiny / "q.pt", examples, teacher, count=2)
    assert set(kept) <= {n for n, o in zip(numbers, off.tolist(), strict=True) if o < limit} | set(
        range(8, 99)
    )
    more, _ = train_decoder_256.drawn_pool(tiny / "p.pt", examples, teacher, count=9)
    assert list(more[:8]) == list(numbers)
    assert torch.load(tiny / "p.pt")["captions"] == examples(more)[1]


def test_latents_drawn_for_other_captions_are_drawn_anew(tiny):
    place = torch.device("cpu")
    examples, teacher = train_decoder_256.Examples(place, attributes=False), train_decoder_256.Teacher(place)
    _, latents = train_decoder_256.drawn_pool(tiny / "p.pt", examples, teacher, count=4)
    stored = torch.load(tiny / "p.pt")
    torch.save(stored | {"captions": ["a cat"] * len(stored["captions"])}, tiny / "p.pt")
    _, again = train_decoder_256.drawn_pool(tiny / "p.pt", examples, teacher, count=4)
    assert torch.allclose(again.float(), latents.float(), atol=1e-2)
    assert torch.load(tiny / "p.pt")["captions"] == stored["captions"]


def test_a_pool_keeps_the_newest_and_comes_back_from_its_file(tiny):
    lesson_pool = pool(tiny)
    lesson_pool.fill(10, batch=5)
    lesson_pool.save(tiny / "pool.pt")
    other = pool(tiny)
    other.resume(tiny / "pool.pt")
    assert other.count == 10
    assert torch.equal(other.latents, lesson_pool.latents)
    marked = torch.ones(3, *other.latents.shape[1:], dtype=torch.float16)
    for value in range(5):
        other.put(marked * value, torch.zeros(3, networks.MAX_TOKENS, dtype=torch.int16))
    assert other.count == 10
    assert sorted(other.latents[:, 0, 0, 0].tolist()) == [1, *[2] * 3, *[3] * 3, *[4] * 3]


def pool(work):
    from layouts import Layouts

    make = Layouts(train_unet_256.read_list())
    render = train_unet_256.Renderer(art.load(), device="cpu")
    teacher = train_decoder_256.Teacher(torch.device("cpu"))
    return train_unet_256.Pool(teacher, make, render, capacity=10, rng=np.random.default_rng(0))


def test_two_processes_do_not_train_in_one_folder(work, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_256.py"])
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(train_256, "run", lambda minutes: entered.set() or leave.wait(60))
    first = threading.Thread(target=train_256.main)
    first.start()
    assert entered.wait(60)
    try:
        with pytest.raises(SystemExit, match="another process trains"):
            train_256.main()
    finally:
        leave.set()
        first.join()
