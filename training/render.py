"""Draws layouts on a CPU or GPU: sprites resident, placed by one grid sampling for each depth of the pictures."""

import numpy as np
import torch
import torch.nn.functional as F

from layouts import OUTDOORS, TIMES
from scenes import COLORS, TINTS, scene_pictures, tinted

LUMINANCE = (0.3, 0.59, 0.11)  # of scenes.tinted
TINT_SHARE = 0.88


def tint_tables():
    """`[len(TINTS), 256, 3]` in 0..1: the painted color of each luminance, from `scenes.tinted` of a gray ramp."""
    ramp = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, 1)
    gray = np.concatenate([ramp, np.full((256, 1), 255, np.float32)], 1)
    painted = [(tinted(gray, color)[:, :3] - (1 - TINT_SHARE) * ramp) / TINT_SHARE for color in TINTS]
    return torch.from_numpy(np.stack(painted) / 255)


class Renderer:
    """Layouts to pictures `[B, 3, size, size]` in -1..1 on `device`."""

    def __init__(self, art, *, size=256, device="cpu"):
        """`art: [styles, N, S, S, 4] uint8`; on a GPU all of it becomes resident (0.8 GB)."""
        self.size, self.device = size, torch.device(device)
        self.art = torch.from_numpy(art).to(self.device)
        self.weights = torch.tensor(LUMINANCE, device=self.device).view(1, 3, 1, 1)
        self.tints = tint_tables().to(self.device)
        gains = {(s, t): TIMES[t] for s in scene_pictures(size) for t in (TIMES if s in OUTDOORS else ("",))}
        self.grounds = {
            (scene, v, time): self._picture(picture * np.array(gain, np.float32))
            for (scene, time), gain in gains.items()
            for v, picture in enumerate(scene_pictures(size)[scene])
        }
        self.colors = {
            name: torch.tensor(rgb, device=self.device).view(3, 1, 1) / 255 for name, rgb in COLORS.items()
        }
        self.colors["white"] = torch.ones(3, 1, 1, device=self.device)

    def _picture(self, picture):
        """`[3, size, size] uint8` of any `[size, size, 3]` in 0..255."""
        clipped = torch.from_numpy(picture.clip(0, 255).round().astype(np.uint8))
        return clipped.permute(2, 0, 1).contiguous().to(self.device)

    def ground(self, ground):
        if ground.scene is None:
            return self.colors[ground.color].expand(3, self.size, self.size)
        return self.grounds[ground.scene, ground.variant, ground.time].float() / 255

    def sprites(self, placed):
        """`[b, 4, S, S]` in 0..1, tinted, colors multiplied by opacity."""
        styles, subjects = ([getattr(p, name) for p in placed] for name in ("style", "subject"))
        rgba = self.art[styles, subjects].permute(0, 3, 1, 2).float() / 255
        rgb, alpha = rgba[:, :3], rgba[:, 3:]
        colored = [k for k, p in enumerate(placed) if p.tint is not None]
        if colored:
            light = (rgb[colored] * self.weights).sum(1).mul(255).round().long()
            table = self.tints[[TINTS.index(placed[k].tint) for k in colored]]
            painted = torch.stack([t[index] for t, index in zip(table, light, strict=True)]).permute(
                0, 3, 1, 2
            )
            rgb[colored] = (TINT_SHARE * painted + (1 - TINT_SHARE) * rgb[colored]).clamp(0, 1)
        return torch.cat([rgb * alpha, alpha], 1)

    def placing(self, p):
        """The 2x3 matrix from canvas to sprite coordinates; corners fall on whole pixels."""
        side = max(2, round(p.share * self.size))
        corner = [round(c * self.size - side / 2) for c in (p.x, p.y)]
        scale = self.size / side
        x, y = ((2 * c + side) / self.size - 1 for c in corner)
        flip = -1 if p.mirror else 1
        return [[flip * scale, 0, -flip * scale * x], [0, scale, -scale * y]]

    def layer(self, placed):
        """`[b, 4, size, size]`: sprites on a transparent canvas, reduced first where they are small."""
        sprites = self.sprites(placed)
        out = sprites.new_zeros(len(placed), 4, self.size, self.size)
        shrink = [max(0, int(np.log2(sprites.shape[-1] / (p.share * self.size) + 1e-6))) for p in placed]
        for level in set(shrink):
            chosen = [k for k, s in enumerate(shrink) if s == level]
            part = F.avg_pool2d(sprites[chosen], 2**level) if level else sprites[chosen]
            theta = torch.tensor([self.placing(placed[k]) for k in chosen], device=self.device)
            grid = F.affine_grid(theta, [len(chosen), 4, self.size, self.size], align_corners=False)
            out[chosen] = F.grid_sample(part, grid, align_corners=False)
        return out

    @torch.no_grad()
    def __call__(self, layouts):
        canvas = torch.stack([self.ground(layout.ground) for layout in layouts])
        for depth in range(max(len(layout.objects) for layout in layouts)):
            chosen = [k for k, layout in enumerate(layouts) if len(layout.objects) > depth]
            over = self.layer([layouts[k].objects[depth] for k in chosen])
            canvas[chosen] = canvas[chosen] * (1 - over[:, 3:]) + over[:, :3]
        return canvas.clamp(0, 1) * 2 - 1
