"""The autoencoder of 256 px pictures for the latents of the shipped model, from whose weights it starts.

Three of eight latents that the decoder sees were drawn from noise for a caption by the diffusion model, and what it
should make of them is the picture of that caption: so it learns to mend what the diffusion model leaves vague. Sharpness
is learned as a quantity, the mean strength of gradients in 4x4 cells, and from the features of a light discriminator,
which sees pictures of exact and of drawn latents; on noisy ones it drew rings along contours. The encoder learns to
give the shipped encoder's latents.
"""

import argparse
import math
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

import art
import networks
from inherit import inherit
from layouts import Layouts
from optimizer import Muon
from pack import unpack
from render import Renderer
from runtime import (
    SEED,
    Pace,
    Trainee,
    agreed,
    autocast,
    device,
    own_file,
    pictures_seen,
    rank,
    ranks,
    say,
    start_ranks,
    work_dir,
)
from subjects import read_list
from tokenizer import encode
from train_decoder import decoder_loss, disturbed

SHIPPED = Path(__file__).parents[1] / "swiftai_nb/assets/emoji-mini"
BATCH = {"cpu": 8, "cuda": 128}
DRAWN, DISTURBED = 3 / 8, 1 / 8  # shares of a batch: drawn by the diffusion model, exact with noise
DRAWING = {"steps": (4, 6, 10), "guidance_scale": 1.7, "batch": 48}
ASTRAY = 0.15  # drawn latents that are further from those of the picture are left out, mean square
POOL = {"cpu": 3000, "cuda": 40000}
ADVERSARIAL_FROM, ADVERSARIAL_WEIGHT, FEATURE_WEIGHT = 0.02, 0.03, 0.5
WHOLE_FROM = 0.75  # share of the training from which pictures are drawn whole
WINDOW, MARGIN = (
    72,
    4,
)  # features of half size that the last two blocks see before, and those of them left out


class Discriminator(nn.Module):
    """Scores patches of about 30 px; also returns its features."""

    def __init__(self, width=24):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4 if k < 3 else 3, 2 if k < 3 else 1, 1)
            for k, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(4, w) if k else nn.Identity() for k, w in enumerate(widths[1:])
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x):
        features = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            features.append(x)
        return self.score(x), features


def gradient_strength(x):
    """`[B, 1, H - 1, W - 1]`, the size of the gradient of brightness."""
    gray = x.mean(1, keepdim=True)
    dy, dx = gray[..., 1:, :] - gray[..., :-1, :], gray[..., 1:] - gray[..., :-1]
    return (dy[..., :-1].square() + dx[..., :-1, :].square() + 1e-5).sqrt()


def sharpness_loss(y, x):
    """How much the gradients' mean strength differs in 4x4 cells, wherever in the cell they are."""
    return (F.avg_pool2d(gradient_strength(y), 4) - F.avg_pool2d(gradient_strength(x), 4)).abs().mean()


class Adversary:
    """The discriminator with its own trainee, and what it adds to the autoencoder's loss."""

    def __init__(self, path, place, *, lr=4e-4):
        self.net = Discriminator().to(place)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr, betas=(0.5, 0.95), weight_decay=0)
        self.lr, self.trainee = lr, Trainee(self.net.parameters(), optimizer, path=path)
        self.trainee.resume()

    def loss(self, y, x):
        """One step of the discriminator, then the loss that it gives to `y`."""
        with autocast(x.device):
            real, drawn = self.net(torch.cat([x, y.detach()]))[0].float().chunk(2)
        self.trainee.update(F.relu(1 - real).mean() + F.relu(1 + drawn).mean(), lr=self.lr)
        self.net.requires_grad_(False)
        with autocast(x.device):
            score, features = self.net(y)
            with torch.no_grad():
                wanted = self.net(x)[1]
        self.net.requires_grad_(True)
        apart = sum((a.float() - b.float()).abs().mean() for a, b in zip(features, wanted, strict=True))
        return -ADVERSARIAL_WEIGHT * score.float().mean() + FEATURE_WEIGHT * apart / len(features)


def shipped():
    """The shipped model as a plain diffusers folder."""
    folder = work_dir() / "shipped"
    if not folder.exists():
        unpack(SHIPPED, folder.with_name("shipped.partial"))
        shutil.move(folder.with_name("shipped.partial"), folder)
    return folder


def pipeline_folder():
    """The model in the making; at first the shipped one."""
    folder = work_dir() / "pipeline"
    if not folder.exists():
        shutil.copytree(shipped(), folder)
    return folder


class Teacher:
    """The shipped encoder: scaled latents `[B, 16, 8, 8]` of 256 px pictures."""

    def __init__(self, place):
        self.vae = AutoencoderKL.from_pretrained(shipped() / "vae").eval().requires_grad_(False).to(place)

    @torch.no_grad()
    def __call__(self, x):
        with autocast(x.device):
            small = F.avg_pool2d(x, x.shape[-1] // self.vae.config.sample_size)
            mean = self.vae.encode(small.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        return mean.float() * networks.SCALING_FACTOR


def decoded(net, z, window=None):
    """Pictures of scaled latents; with `window`, its (top, left) in features of half size, that part and its margin.

    Nearly all time goes into the last two blocks. Their normalization then sees the part only, which does no harm.
    """
    h = net.decoder.mid_block(net.decoder.conv_in(net.post_quant_conv(z / networks.SCALING_FACTOR)), None)
    for k, block in enumerate(net.decoder.up_blocks):
        if window is not None and k == len(net.decoder.up_blocks) - 2:
            top, left = window
            h = h[..., top : top + WINDOW, left : left + WINDOW]
        h = block(h, None)
    return net.decoder.conv_out(F.silu(net.decoder.conv_norm_out(h)))


def part(x, window):
    """What `window` without its margin shows of pictures."""
    (top, left), side = (2 * (w + MARGIN) for w in window), 2 * (WINDOW - 2 * MARGIN)
    return x[..., top : top + side, left : left + side]


class Examples:
    """Pictures `[B, 3, 256, 256]` with captions; each is made again from its number."""

    def __init__(self, place, *, attributes):
        """`attributes`: whether captions name those that the shipped model does not know."""
        self.layouts = Layouts(read_list(), attributes=attributes)
        self.render = Renderer(art.load(), device=place)

    def described(self, numbers):
        return [self.layouts(np.random.default_rng([SEED, 6, int(n)])) for n in numbers]

    def __call__(self, numbers):
        described = self.described(numbers)
        return self.render(described), [d.caption for d in described]


def autoencoder():
    """The one in the pipeline's folder, or one that inherits from the shipped one."""
    old = AutoencoderKL.from_pretrained(pipeline_folder() / "vae")
    if old.config.sample_size == networks.SIZE_256:
        return old
    torch.manual_seed(SEED)
    net = networks.autoencoder_256()
    inherit(net, old.state_dict())
    return net


class DiffusionModel:
    """Draws latents from noise as its users will, with guidance in a few steps."""

    def __init__(self, folder, place):
        self.net = (
            UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False).to(place)
        )
        self.net.set_attn_processor(AttnProcessor())
        text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval().requires_grad_(False)
        self.text, self.place = text.to(place), place
        self.tokenizer, self.scheduler = (
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            networks.scheduler(),
        )

    @torch.no_grad()
    def __call__(self, captions, *, steps, guidance_scale):
        x = torch.randn(len(captions), *self.shape(), device=self.place)
        ids = encode(self.tokenizer, [""] * len(captions) + captions).to(self.place)
        self.scheduler.set_timesteps(steps)
        with autocast(self.place):
            hidden = self.text(input_ids=ids).last_hidden_state
            for t in self.scheduler.timesteps:
                without, told = self.net(torch.cat([x, x]), t, hidden).sample.float().chunk(2)
                x = self.scheduler.step(without + guidance_scale * (told - without), t, x).prev_sample
        return x

    def shape(self):
        config = self.net.config
        return config.in_channels, config.sample_size, config.sample_size


def drawn_pool(path, examples, teacher, *, count):
    """Numbers of examples and the latents drawn for their captions, without those that went astray; resumable.

    A file of other captions, those of the code before a change, is not used.
    """
    pool = torch.load(path) if path.exists() else {}
    if not pool or pool.get("captions") != [d.caption for d in examples.described(pool["numbers"])]:
        pool = {"next": 10**6 * rank(), "numbers": [], "captions": [], "latents": []}
    draw, saved = None, time.monotonic()
    while len(pool["numbers"]) < count:
        draw = DiffusionModel(pipeline_folder(), examples.render.device) if draw is None else draw
        numbers = list(range(pool["next"], pool["next"] + DRAWING["batch"]))
        x, captions = examples(numbers)
        torch.manual_seed(SEED + numbers[0])
        steps = DRAWING["steps"][numbers[-1] // len(numbers) % len(DRAWING["steps"])]
        z = draw(captions, steps=steps, guidance_scale=DRAWING["guidance_scale"])
        off = (z - teacher(x)).square().mean((1, 2, 3))
        near = [k for k, o in enumerate(off.tolist()) if o < ASTRAY]
        pool["numbers"] += [numbers[k] for k in near]
        pool["captions"] += [captions[k] for k in near]
        pool["latents"] += list(z[near].half().cpu())
        pool["next"] += len(numbers)
        if time.monotonic() - saved > 60 or len(pool["numbers"]) >= count:
            torch.save(pool, path)
            saved = time.monotonic()
            say(f"drawn {len(pool['numbers'])} of {pool['next'] - 10**6 * rank()}, off {off.median():.3f}")
    return np.array(pool["numbers"]), torch.stack(pool["latents"])


class Lesson:
    """The decoder, what it is shown, and its adversary."""

    def __init__(self, *, lr, attributes):
        self.place, work = device(), work_dir()
        self.batch = BATCH[self.place.type]
        self.drawn, self.noisy = (round(share * self.batch) for share in (DRAWN, DISTURBED))
        self.examples, self.teacher = Examples(self.place, attributes=attributes), Teacher(self.place)
        path = own_file("drawn_256_attributes" if attributes else "drawn_256")
        self.numbers, self.latents = drawn_pool(
            path, self.examples, self.teacher, count=POOL[self.place.type] // ranks()
        )
        self.net = autoencoder().to(self.place)
        params = [*self.net.decoder.parameters(), *self.net.post_quant_conv.parameters()]
        self.trainee = Trainee(params, Muon(params, lr=lr), path=work / "decoder_256.pt", ema=0.995)
        self.trainee.resume()
        self.rng = np.random.default_rng([SEED, 7, self.trainee.step, rank()])
        torch.manual_seed(SEED + 1000 * rank() + self.trainee.step)
        self.adversary = None

    def seen(self):
        """Pictures and the latents that the decoder sees of them: exact, drawn, and in the end those with noise."""
        exact = self.batch - self.drawn - self.noisy
        fresh = 10**7 + self.rng.integers(10**8, size=exact + self.noisy)
        at = self.rng.integers(len(self.numbers), size=self.drawn)
        x, _ = self.examples([*fresh[:exact], *self.numbers[at], *fresh[exact:]])
        drawn = self.latents[at].float().to(self.place)
        z = torch.cat([self.teacher(x[:exact]), drawn, disturbed(self.teacher(x[-self.noisy :]))])
        return x, z, exact

    def step(self, share, lr):
        """One update; the mean square errors of exact pictures and of drawn ones."""
        x, z, exact = self.seen()
        whole = share >= WHOLE_FROM
        window = None if whole else 8 * self.rng.integers((networks.SIZE_256 // 2 - WINDOW) // 8 + 1, size=2)
        with autocast(self.place):
            y = decoded(self.net, z, window).float()
        if not whole:
            x, y = part(x, window), y[..., 2 * MARGIN : -2 * MARGIN, 2 * MARGIN : -2 * MARGIN]
        loss = decoder_loss(y, x) + sharpness_loss(y, x)
        if share >= ADVERSARIAL_FROM:
            if self.adversary is None:
                self.adversary = Adversary(work_dir() / "adversary_256.pt", self.place)
            sharp = len(x) - self.noisy
            loss = loss + self.adversary.loss(y[:sharp], x[:sharp])
        self.trainee.pictures += self.batch * ranks()
        self.trainee.update(loss, lr=lr)
        errors = (y.detach() - x).square().mean((1, 2, 3)) / 4
        return torch.stack([errors[:exact].mean(), errors[exact : exact + self.drawn].mean()])

    def save(self):
        self.trainee.save()
        if self.adversary is not None:
            self.adversary.trainee.save()
        if rank() != 0:
            return
        with self.trainee.averaged():
            self.net.save_pretrained(pipeline_folder() / "vae")
        self.trainee.record_progress()


def train(*, pictures, minutes=math.inf, lr=1e-3, attributes=False):
    """Go on from the last checkpoint; True when all `pictures` were seen."""
    path = work_dir() / "decoder_256.pt"
    if pictures_seen(path) >= pictures:
        return True
    lesson = Lesson(lr=lr, attributes=attributes)
    pace = Pace(lesson.trainee, pictures=pictures, minutes=minutes, peak_lr=lr, decay_from=0.5)
    errors = []
    say(f"decoder: starts at step {lesson.trainee.step}, {pace.share():.1%}")
    while pace.running():
        errors.append(lesson.step(pace.share(), pace.lr()))
        if (speed := pace.report_due()) is not None:
            exact, drawn = torch.stack(errors).mean(0).tolist()
            say(f"decoder step {lesson.trainee.step} {pace.share():.1%} psnr exact {-10 * math.log10(exact):.2f} "
                f"drawn {-10 * math.log10(drawn):.2f} img/s {speed:.1f}")  # fmt: skip
            errors = []
        if pace.save_due():
            lesson.save()
    lesson.save()
    return bool(agreed(pace.finished()))


def train_encoder(*, pictures, minutes=math.inf, lr=4e-4):
    """The encoder of 256 px pictures, nearly right from the start, to the shipped one's latents."""
    path, place = work_dir() / "encoder_256.pt", device()
    if pictures_seen(path) >= pictures:
        return True
    examples, teacher, net = Examples(place, attributes=False), Teacher(place), autoencoder().to(place)
    params = [*net.encoder.parameters(), *net.quant_conv.parameters()]
    trainee = Trainee(params, Muon(params, lr=lr, weight_decay=0), path=path, ema=0.98)
    trainee.resume()
    pace, errors = Pace(trainee, pictures=pictures, minutes=minutes, peak_lr=lr, decay_from=0.3), []

    def save():
        trainee.save()
        if rank() != 0:
            return
        with trainee.averaged():
            net.save_pretrained(pipeline_folder() / "vae")
        trainee.record_progress()

    while pace.running():
        numbers = 10**9 + trainee.pictures + rank() * BATCH[place.type] + np.arange(BATCH[place.type])
        x, _ = examples(numbers)
        with autocast(place):
            guess = net.encode(x).latent_dist.mean.float() * networks.SCALING_FACTOR
        loss = (guess - teacher(x)).square().mean()
        trainee.pictures += len(x) * ranks()
        trainee.update(loss, lr=pace.lr())
        errors.append(loss.detach())
        if (speed := pace.report_due()) is not None:
            off = torch.stack(errors).mean().item()
            say(f"encoder step {trainee.step} {pace.share():.1%} off {off:.4f} img/s {speed:.1f}")
            errors = []
        if pace.save_due():
            save()
    save()
    return bool(agreed(pace.finished()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=30000)
    parser.add_argument("--encoder", type=int, default=2000, help="pictures for the encoder")
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    start_ranks()
    if train(pictures=args.pictures, minutes=args.minutes):
        train_encoder(pictures=args.encoder, minutes=args.minutes)


if __name__ == "__main__":
    main()
