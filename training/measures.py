"""Picture measures that no training stage has seen: hand-made features, colors, and counting."""

import numpy as np
from scipy import ndimage

CELLS, BINS = 8, 9


def luminance(picture):
    return picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def gradient_histograms(picture):
    """HOG: `[CELLS * CELLS * BINS]`, gradient magnitude by unsigned direction in each cell."""
    dy, dx = np.gradient(ndimage.gaussian_filter(luminance(picture), 0.7))
    size = np.hypot(dx, dy)
    bins = ((np.arctan2(dy, dx) % np.pi) / np.pi * BINS).astype(int).clip(0, BINS - 1)
    n = picture.shape[0] // CELLS
    planes = np.stack([np.where(bins == b, size, 0) for b in range(BINS)], -1)
    cells = planes.reshape(CELLS, n, CELLS, n, BINS).sum((1, 3))
    return np.sqrt(cells).ravel()


def color_layout(picture):
    """Mean color of each cell, as opponent channels: `[CELLS * CELLS * 3]`."""
    n = picture.shape[0] // CELLS
    cells = picture.astype(np.float32).reshape(CELLS, n, CELLS, n, 3).mean((1, 3))
    r, g, b = np.moveaxis(cells, -1, 0)
    return np.stack([(r + g + b) / 3, r - g, (r + g) / 2 - b]).ravel()


def embedding(picture):
    """Shape and color with equal weight, unit length."""
    parts = [gradient_histograms(picture), 255 - color_layout(picture)]
    parts = [p - p.mean() for p in parts]
    parts = [p / (np.linalg.norm(p) + 1e-6) for p in parts]
    return np.concatenate(parts) / np.sqrt(2)


def ranks(picture, candidates):
    """Indices of `candidates [N, D]` (embeddings), nearest first."""
    return np.argsort(-(candidates @ embedding(picture)))


def foreground(picture):
    """Where the picture differs from its own border color."""
    border = np.concatenate(
        [picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3), picture[:, 0], picture[:, -1]]
    )
    distance = np.linalg.norm(picture.astype(np.float32) - np.median(border, 0), axis=-1)
    return distance > 45


def count_objects(picture, *, smallest=0.012):
    """Connected foreground regions larger than a share of the picture.

    Gaps are not closed: closing them joined neighbors in one of five training pictures.
    """
    mask = foreground(picture)
    labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = ndimage.sum(mask, labels, range(1, n + 1))
    return int(np.sum(np.asarray(sizes) > smallest * picture.shape[0] ** 2))


def border_color(picture):
    return np.median(
        np.concatenate(
            [picture[:3].reshape(-1, 3), picture[:, :3].reshape(-1, 3), picture[:, -3:].reshape(-1, 3)]
        ),
        0,
    )


def nearest_color(rgb, palette):
    """Name in `palette` nearest to `rgb`."""
    return min(palette, key=lambda name: np.linalg.norm(np.asarray(palette[name], np.float32) - rgb))


def mean_foreground(picture):
    mask = foreground(picture)
    return picture[mask].astype(np.float32).mean(0) if mask.any() else np.full(3, 255, np.float32)


def likeness(picture, originals):
    """PSNR in dB to the nearest of some pictures."""
    errors = [np.square(picture.astype(np.float32) - o).mean() for o in originals]
    return float(-10 * np.log10(max(min(errors), 1.0) / 255**2))


def steepness(x):
    """`[B, H - 2, W - 2]`: the gradient of luminance by central differences; `x: [B, 3, H, W]` in -1..1."""
    gray = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    dx, dy = gray[:, 1:-1, 2:] - gray[:, 1:-1, :-2], gray[:, 2:, 1:-1] - gray[:, :-2, 1:-1]
    return (dx.square() + dy.square()).sqrt() / 2


def edges(y, x, *, share=0.05):
    """PSNR of `y` against `x`, and how steep it is where `x` has its strongest gradients: 1 is as steep.

    `edges` at the same pixel, `edges_near` best within 2 px, `edges_own` of the strongest gradients of `y`.
    """
    from torch.nn.functional import max_pool2d

    wanted, got = steepness(x), steepness(y)
    n = int(share * wanted[0].numel())
    strongest, at = wanted.flatten(1).topk(n, 1)
    near = max_pool2d(got[:, None], 5, 1, 2)[:, 0]
    psnr = (-10 * ((y - x).square().mean((1, 2, 3)) / 4).clamp_min(1e-10).log10()).mean()
    means = {
        "edges": got.flatten(1).gather(1, at), "edges_near": near.flatten(1).gather(1, at),
        "edges_own": got.flatten(1).topk(n, 1)[0],
    }  # fmt: skip
    total = strongest.mean()
    return {"psnr": round(psnr.item(), 2)} | {
        k: round((v.mean() / total).item(), 3) for k, v in means.items()
    }
