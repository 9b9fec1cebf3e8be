"""Background colors and scenes, drawn once by procedure; no randomness is left when training starts."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLE = 4
VARIANTS = 2

COLORS = {
    "red": (225, 45, 45), "orange": (245, 140, 35), "yellow": (250, 215, 50), "green": (60, 170, 75),
    "blue": (50, 105, 225), "purple": (135, 70, 200), "pink": (250, 150, 190), "brown": (130, 85, 50),
    "black": (20, 20, 24), "white": (250, 250, 250), "gray": (140, 140, 145), "turquoise": (50, 195, 195),
    "light blue": (160, 205, 245), "dark blue": (25, 40, 110), "light green": (165, 225, 150),
    "dark green": (20, 90, 45), "beige": (235, 220, 190),
}  # fmt: skip
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")

SCENE_PHRASES = {
    "night": ("at night", "in the night sky", "under the stars"),
    "snow": ("in the snow", "in winter"),
    "beach": ("on the beach", "at the beach", "on a beach"),
    "underwater": ("underwater", "in the ocean", "under the sea"),
    "space": ("in space", "in outer space"),
    "field": ("in a field", "on the grass", "in a meadow"),
    "desert": ("in the desert",),
    "sunset": ("at sunset",),
    "rain": ("in the rain",),
    "forest": ("in the forest", "in the woods"),
    "city": ("in the city", "in a city"),
    "room": ("in a room", "indoors"),
}


class Canvas:
    """A drawing in units of a 128-unit square, drawn large and reduced for smooth edges."""

    def __init__(self, size, top, bottom):
        self.size, self.scale = size, size * OVERSAMPLE / 128
        n = size * OVERSAMPLE
        t = np.linspace(0, 1, n)[:, None, None]
        sky = (1 - t) * np.array(top) + t * np.array(bottom)
        self.image = Image.fromarray(np.broadcast_to(sky, (n, n, 3)).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)

    def _at(self, *points):
        return [p * self.scale for p in points]

    def disc(self, x, y, r, fill):
        self.draw.ellipse(self._at(x - r, y - r, x + r, y + r), fill=fill)

    def ring(self, x, y, r, color):
        self.draw.ellipse(self._at(x - r, y - r, x + r, y + r), outline=color, width=round(1.5 * self.scale))

    def oval(self, x0, y0, x1, y1, fill):
        self.draw.ellipse(self._at(x0, y0, x1, y1), fill=fill)

    def box(self, x0, y0, x1, y1, fill):
        self.draw.rectangle(self._at(x0, y0, x1, y1), fill=fill)

    def line(self, x0, y0, x1, y1, fill):
        self.draw.line(self._at(x0, y0, x1, y1), fill=fill, width=round(1.5 * self.scale))

    def triangle(self, points, fill):
        self.draw.polygon(self._at(*points), fill=fill)

    def done(self):
        return np.asarray(self.image.resize((self.size, self.size), Image.Resampling.LANCZOS))


def night(size, rng):
    c = Canvas(size, (12, 18, 55), (45, 50, 120))
    for _ in range(18):
        c.disc(*rng.uniform(4, 124, 2), 1.2, (255, 250, 210))
    c.disc(rng.uniform(12, 116), 16, 9, (250, 240, 200))
    return c.done()


def snow(size, rng):
    c = Canvas(size, (160, 200, 240), (205, 226, 250))
    c.oval(-60, rng.uniform(78, 88), 188, 218, (248, 251, 255))
    for _ in range(24):
        c.disc(*rng.uniform(0, 128, 2), 2, (255, 255, 255))
    return c.done()


def beach(size, rng):
    c = Canvas(size, (110, 190, 245), (190, 228, 250))
    horizon = rng.uniform(76, 90)
    c.box(0, horizon - 26, 128, 128, (40, 140, 205))
    c.oval(-50, horizon, 178, 208, (245, 220, 160))
    return c.done()


def underwater(size, rng):
    c = Canvas(size, (60, 170, 225), (10, 50, 125))
    for _ in range(12):
        c.ring(*rng.uniform(4, 110, 2), rng.uniform(2, 5), (190, 230, 250))
    c.oval(-40, 112, 168, 168, (215, 195, 140))
    return c.done()


def space(size, rng):
    c = Canvas(size, (10, 8, 26), (10, 8, 26))
    for _ in range(45):
        c.disc(*rng.uniform(0, 128, 2), rng.uniform(0.6, 1.3), (235, 235, 255))
    c.disc(rng.uniform(14, 114), 18, 11, (190, 120, 80))
    return c.done()


def field(size, rng):
    c = Canvas(size, (115, 190, 250), (205, 232, 252))
    c.oval(-70, rng.uniform(76, 88), 198, 238, (100, 185, 70))
    x = rng.uniform(20, 108)
    for offset in (-9, 0, 9):
        c.disc(x + offset, 16, 8, (255, 255, 255))
    return c.done()


def desert(size, rng):
    c = Canvas(size, (250, 205, 130), (252, 230, 180))
    horizon = rng.uniform(78, 90)
    c.oval(-90, horizon, 128, 198, (228, 175, 95))
    c.oval(20, horizon + 8, 238, 208, (212, 155, 80))
    c.disc(rng.uniform(15, 113), 20, 11, (255, 245, 200))
    return c.done()


def sunset(size, rng):
    c = Canvas(size, (95, 45, 125), (255, 150, 70))
    horizon = rng.uniform(80, 92)
    c.disc(rng.uniform(34, 94), horizon, 22, (255, 215, 95))
    c.box(0, horizon + 4, 128, 128, (60, 35, 80))
    return c.done()


def rain(size, rng):
    c = Canvas(size, (95, 105, 125), (145, 155, 170))
    for _ in range(46):
        x, y = rng.uniform(0, 128, 2)
        c.line(x, y, x - 3, y + 9, (190, 210, 235))
    return c.done()


def forest(size, rng):
    c = Canvas(size, (175, 215, 175), (120, 175, 120))
    ground = rng.uniform(88, 98)
    c.box(0, ground, 128, 128, (75, 125, 55))
    for x in np.linspace(4, 124, 6) + rng.uniform(-5, 5, 6):
        base, height = ground + rng.uniform(2, 12), rng.uniform(52, 84)
        c.box(x - 2, base - 8, x + 2, base, (95, 65, 40))
        c.triangle((x - 16, base - 6, x + 16, base - 6, x, base - height), (28, 95, 50))
    return c.done()


def city(size, rng):
    c = Canvas(size, (150, 200, 245), (220, 236, 250))
    x = -4.0
    while x < 128:
        width, height = rng.uniform(16, 28), rng.uniform(34, 82)
        shade = int(rng.uniform(120, 150))
        c.box(x, 114 - height, x + width, 114, (shade - 10, shade, shade + 20))
        for wy in np.arange(118 - height, 106, 9):
            for wx in np.arange(x + 3, x + width - 4, 7):
                c.box(wx, wy, wx + 3, wy + 4, (205, 225, 245))
        x += width + 2
    c.box(0, 114, 128, 128, (70, 70, 75))
    return c.done()


def room(size, rng):
    c = Canvas(size, (240, 222, 195), (240, 222, 195))
    c.box(0, rng.uniform(86, 96), 128, 128, (165, 110, 70))
    x = rng.uniform(8, 80)
    c.box(x - 3, 11, x + 37, 51, (255, 255, 255))
    c.box(x, 14, x + 34, 48, (170, 215, 245))
    return c.done()


PAINTERS = (night, snow, beach, underwater, space, field, desert, sunset, rain, forest, city, room)


@cache
def scene_pictures(size):
    """Two fixed pictures of every scene: `{name: [VARIANTS, size, size, 3] uint8}`."""
    return {
        paint.__name__: np.stack([paint(size, np.random.default_rng([k, v])) for v in range(VARIANTS)])
        for k, paint in enumerate(PAINTERS)
    }


def flat(size, color):
    return np.broadcast_to(np.array(COLORS[color], np.uint8), (size, size, 3))


def tinted(rgba, color):
    """Recolor a sprite `[..., 4] float32 0..255` by its luminance, as in "a blue cat"."""
    light = (rgba[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32))[..., None] / 255
    if color in ("white", "gray", "black"):
        base, gain, power = {"white": (140, 115, 1), "gray": (51, 153, 1), "black": (13, 76, 2)}[color]
        painted = np.repeat(base + gain * light**power, 3, axis=-1)
    else:
        pure = np.array(COLORS[color], np.float32)
        painted = np.where(
            light < 0.6, pure * (light / 0.6 * 0.95 + 0.05), pure + (255 - pure) * (light - 0.6) / 0.4 * 0.8
        )
    out = rgba.copy()
    out[..., :3] = (0.88 * painted + 0.12 * rgba[..., :3]).clip(0, 255)
    return out


def contact_sheet(pictures, columns):
    rows = math.ceil(len(pictures) / columns)
    n = pictures[0].shape[0]
    sheet = np.full((rows * (n + 2), columns * (n + 2), 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        y, x = k // columns * (n + 2), k % columns * (n + 2)
        sheet[y : y + n, x : x + n] = picture
    return Image.fromarray(sheet)
