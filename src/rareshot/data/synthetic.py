"""Made dermoscopy: a few-shot problem that needs no download and shows no patient (not in the paper).

Everything here is **synthetic**. The seven classes are invented, named after what is drawn, and stand for no disease; a
number measured on them says that the code works, not that it works on skin.

A lesion is a draw of the attributes in `Look` around its class's mean, so classes overlap. The picture follows light
through skin: what comes back is the skin's colour times exp(-absorption), where absorption is melanin (network, dots,
streaks) plus blood, and scattering white (scar, flakes, cysts) is laid on top. The rare classes are new combinations of
the attributes that tell the common ones apart, so what is learnt on the common helps on the rare.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rareshot.data.cards import DataCard
from rareshot.data.collection import LabelledImages

Array = npt.NDArray[Any]

SYNTHETIC = DataCard(
    name="synthetic",
    title="Synthetic dermoscopy (made by rareshot, no patient)",
    classes={
        "network": "synthetic: brown net",
        "streaked": "synthetic: ragged brown net with streaks",
        "globular": "synthetic: small dark dots on pink",
        "crusted": "synthetic: sharp-edged brown with pale cysts",
        "scaly": "synthetic: ragged pink with white flakes",
        "lacunar": "synthetic: large red lagoons",
        "ringed": "synthetic: white centre in a net",
    },
    common=("network", "streaked", "globular", "crusted"),
    rare=("scaly", "lacunar", "ringed"),
    site_column="site",
    licence="Apache-2.0, as the code that draws it",
    citation="none: made by rareshot.data.synthetic",
)


@dataclass(frozen=True)
class Look:
    """What a lesion shows, each attribute from 0 (none) to about 1 (marked)."""

    irregular: float = 0.2
    """Amplitude of the border's Fourier contour."""
    soft: float = 0.5
    """Width over which the border fades."""
    melanin: float = 0.4
    blood: float = 0.2
    mottle: float = 0.3
    """Uneven pigment: more than one brown."""
    network: float = 0.0
    dots: float = 0.0
    coarse: float = 0.4
    """Size of the dots, from globules to lagoons."""
    red: float = 0.2
    """Share of the dots that is blood, not melanin."""
    streaks: float = 0.0
    scar: float = 0.0
    """One white area, in the middle or, where the border is irregular, to the side."""
    flakes: float = 0.0
    cysts: float = 0.0


@dataclass(frozen=True)
class _Class:
    look: Look
    north: float
    """Share of lesions photographed at site north: site goes with class, as in ISIC 2018."""


_CLASSES = {
    "network": _Class(Look(irregular=0.25, melanin=0.45, blood=0.15, mottle=0.3, network=0.85), north=0.5),
    "streaked": _Class(
        Look(irregular=0.55, melanin=0.55, blood=0.2, mottle=0.6, network=0.5, streaks=0.75, scar=0.25), north=0.7
    ),
    "globular": _Class(Look(irregular=0.35, melanin=0.3, blood=0.35, dots=0.85, coarse=0.3, red=0.2), north=0.3),
    "crusted": _Class(Look(irregular=0.4, soft=0.15, melanin=0.45, mottle=0.5, flakes=0.2, cysts=0.85), north=0.55),
    "scaly": _Class(
        Look(irregular=0.5, soft=0.65, melanin=0.22, blood=0.55, mottle=0.5, network=0.15, scar=0.25, flakes=0.65),
        north=0.7,
    ),
    "lacunar": _Class(Look(irregular=0.25, soft=0.4, melanin=0.2, blood=0.4, dots=0.8, coarse=0.7, red=0.7), north=0.4),
    "ringed": _Class(
        Look(irregular=0.35, soft=0.6, melanin=0.45, blood=0.25, network=0.45, scar=0.7, flakes=0.25), north=0.35
    ),
}

_SPREAD = 0.18
"""Standard deviation of every attribute within a class."""
_MELANIN = np.array([0.65, 1.05, 1.35], dtype=np.float32)
"""Absorption of red, green, blue by melanin; chosen by eye, as the two below."""
_BLOOD = np.array([0.2, 1.0, 0.8], dtype=np.float32)
_WHITE = np.array([0.95, 0.88, 0.85], dtype=np.float32)
_LIGHT_SKIN, _DARK_SKIN = np.array([0.93, 0.76, 0.68]), np.array([0.76, 0.56, 0.45])
_CAST = {"north": np.array([0.98, 1.0, 1.04]), "south": np.array([1.03, 1.0, 0.95])}
_BLUR = {"north": 0.005, "south": 0.014}
"""Standard deviation of the lens blur, as a share of the picture's width."""


def synthetic(
    size: int = 48, *, lesions: int = 60, images_per_lesion: tuple[int, int] = (1, 3), seed: int = 0
) -> LabelledImages:
    """A synthetic dermoscopy set of four common and three rare classes; the same arguments give the same bytes.

    Lesion i of a class does not depend on `lesions`: a larger set begins with the smaller one's lesions.

    Args:
        size: height and width in pixels, at least 16.
        lesions: lesions of each class; with 60 both sites hold at least 15 lesions of every rare class.
        images_per_lesion: fewest and most photographs of one lesion; they differ in pose, light, hair and noise.
        seed: draws another set of lesions.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> synthetic(32, lesions=2, images_per_lesion=(1, 1)).counts()["ringed"]
        (2, 2)
    """
    fewest, most = images_per_lesion
    if not 1 <= fewest <= most:
        raise ValueError(f"images_per_lesion must be (fewest, most) with 1 <= fewest <= most; got {images_per_lesion}")

    def photographs(label: int, number: int, site: str) -> list[Array]:
        count = np.random.default_rng((seed, label, number, 1)).integers(fewest, most + 1)
        return [_photograph((seed, label, number), i, site, size) for i in range(count)]

    return _collect(photographs, SYNTHETIC, size=size, lesions=lesions, seed=seed)


def separable(size: int = 28, lesions: int = 30, seed: int = 0) -> LabelledImages:
    """A set that any working method tells apart: a colour and a pattern for each class, two noisy images a lesion.

    For contract tests; class names, groups, sites and card are those of `synthetic`.

    Args:
        size: height and width in pixels, at least 16.
        lesions: lesions of each class.
        seed: draws other noise.
    """
    y, x = _grid(size)
    r = np.hypot(x, y)
    patterns = (
        r < 0.7,
        np.cos(9 * x) > 0,
        np.cos(9 * x) * np.cos(9 * y) > 0,
        abs(r - 0.7) < 0.2,
        x + y > 0,
        np.cos(14 * r) > 0,
        (abs(x) < 0.25) | (abs(y) < 0.25),
    )
    colours = np.array(
        [(40, 40, 200), (200, 200, 40), (120, 60, 20), (240, 240, 240), (220, 40, 40), (40, 190, 60), (150, 60, 200)]
    )

    def photographs(label: int, number: int, site: str) -> list[Array]:
        rng = np.random.default_rng((seed, label, number))
        lesion = colours[label] + rng.normal(0, 10, 3)
        clean = np.where(patterns[label][..., None], lesion, 0.5 * lesion + 20)
        return [_to_bytes((clean + rng.normal(0, 8, clean.shape)) / 255) for _ in range(2)]

    card = replace(SYNTHETIC, name="separable", title="Separable synthetic patterns (made by rareshot, for tests)")
    return _collect(photographs, card, size=size, lesions=lesions, seed=seed)


def _collect(
    photographs: Callable[[int, int, str], list[Array]], card: DataCard, *, size: int, lesions: int, seed: int
) -> LabelledImages:
    """Class by class, lesion by lesion: `photographs(label, number, site)` draws one lesion's images."""
    for name, value, least in (("size", size, 16), ("lesions", lesions, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    pixels: list[Array] = []
    rows: list[tuple[int, int, str, str]] = []
    for label, (name, kind) in enumerate(_CLASSES.items()):
        for number in range(lesions):
            # Spread evenly, not drawn: the shares hold in every set, and a longer one begins with the shorter one.
            is_north = math.floor((number + 1) * kind.north + 1e-9) > math.floor(number * kind.north + 1e-9)
            site = "north" if is_north else "south"
            for i, picture in enumerate(photographs(label, number, site)):
                pixels.append(picture)
                rows.append((label, label * lesions + number, f"{name}-{number:03d}-{i}", site))
    labels, groups, ids, sites = zip(*rows, strict=True)
    return LabelledImages(
        pixels=np.stack(pixels),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(card.classes),
        groups=np.array(groups, dtype=np.int64),
        ids=np.array(ids),
        card=card,
        columns={"site": np.array(sites)},
    )


def _photograph(lesion: tuple[int, int, int], number: int, site: str, size: int) -> Array:
    """Photograph `number` of a lesion, (size, size, 3) uint8."""
    # Trailing zeros do not change a seed, and 1 draws the count: 2 + number keeps a photograph apart from its lesion.
    rng, lesion_rng = np.random.default_rng((*lesion, 2 + number)), np.random.default_rng(lesion)
    y, x = _grid(size)
    turn, radius = rng.normal(0, 0.3), lesion_rng.uniform(0.42, 0.66) * rng.uniform(0.9, 1.1)
    dx, dy = rng.normal(0, 0.07, 2)
    u = (math.cos(turn) * (x - dx) + math.sin(turn) * (y - dy)) / radius
    v = (math.cos(turn) * (y - dy) - math.sin(turn) * (x - dx)) / radius
    image = _lesion_on_skin(tuple(_CLASSES.values())[lesion[1]].look, u, v, lesion_rng)
    image *= (1 + 0.02 * _waves(x, y, rng, count=12, low=12, high=40))[..., None]
    image *= _hair(x, y, rng, width=max(0.018, 1.4 / size))[..., None]
    blur = _blur_matrix(size, _BLUR[site] * rng.uniform(0.8, 1.2))
    image = np.einsum("ij,jkc,lk->ilc", blur, image, blur, optimize=True)
    image *= _light(x, y, rng)[..., None] * _CAST[site] * rng.normal(1, 0.02, 3)
    return _to_bytes(image + rng.normal(0, 0.012, image.shape))


def _lesion_on_skin(mean: Look, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Reflected colour at (u, v), where the lesion is about the unit disc; (h, w, 3), 1 is white.

    All draws come from the lesion's `rng`, in fixed order and number: every photograph shows the same lesion.
    """
    look = Look(*np.clip(np.array(astuple(mean)) + rng.normal(0, _SPREAD, len(astuple(mean))), 0, 1.2).tolist())
    clarity = rng.uniform(0.4, 1.05)
    skin = _LIGHT_SKIN + (_DARK_SKIN - _LIGHT_SKIN) * rng.beta(1.2, 2.5)
    u, v = u * rng.uniform(0.85, 1.0), v * rng.uniform(1.0, 1.3)
    r, angle = np.hypot(u, v), np.arctan2(v, u)

    harmonics = np.arange(2, 9)
    size, phase = rng.normal(0, 1, 7) / harmonics**0.7, rng.uniform(0, 2 * np.pi, 7)
    contour = 1 + 0.28 * look.irregular * np.tensordot(size, np.cos(_outer(harmonics, angle, phase)), 1)
    depth = r / np.maximum(contour, 0.35)
    inside = _step((1 - depth) / (0.02 + 0.09 * look.soft))

    mottle = _waves(u, v, rng, count=10, low=1.5, high=5)
    net = _net(u, v, rng)
    spots = _spots(u, v, rng, count=round(20 - 13 * min(look.coarse, 1)), radius=0.07 + 0.17 * look.coarse)
    streaks = _streaks(depth, angle, rng)
    side = rng.normal(0, 1, 2) * 0.45 * look.irregular
    scar = np.exp(-((np.hypot(u - side[0], v - side[1]) / 0.5) ** 4))
    flakes = _step(6 * (_waves(u, v, rng, count=20, low=5, high=13) - 0.75))
    cysts = _spots(u, v, rng, count=12, radius=0.075)

    melanin = (0.15 + 0.7 * look.melanin) * inside * np.clip(1 + 0.5 * look.mottle * mottle, 0.2, 2)
    melanin += clarity * inside * 0.6 * look.network * (net - 0.3)
    melanin += clarity * (0.65 * look.streaks * streaks + 0.9 * look.dots * (1 - look.red) * spots * inside)
    blood = inside * (0.6 * look.blood + clarity * 1.1 * look.dots * look.red * spots)
    white = 1 - (1 - 0.75 * look.scar * scar) * (1 - 0.6 * look.flakes * flakes) * (1 - 0.75 * look.cysts * cysts)
    colour = skin * np.exp(-np.maximum(melanin, 0)[..., None] * _MELANIN - blood[..., None] * _BLOOD)
    return np.asarray(colour + (clarity * 0.9 * white * inside)[..., None] * (_WHITE - colour))


def _waves(x: Array, y: Array, rng: np.random.Generator, *, count: int, low: float, high: float) -> Array:
    """Smooth noise of mean 0 and variance 1: plane waves of random direction, wave number between low and high."""
    k, direction, phase = rng.uniform(low, high, count), rng.uniform(0, np.pi, count), rng.uniform(0, 2 * np.pi, count)
    arguments = _outer(k * np.cos(direction), x, phase) + _outer(k * np.sin(direction), y)
    return np.asarray(np.cos(arguments).sum(0) * math.sqrt(2 / count))


def _net(u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Lines of a warped honeycomb, in [0, 1]: three plane waves at 60 degrees are low along its edges."""
    u = u + 0.09 * _waves(u, v, rng, count=4, low=2, high=5)
    v = v + 0.09 * _waves(u, v, rng, count=4, low=2, high=5)
    directions = rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3
    k = rng.uniform(17, 23)
    cells = np.cos(_outer(k * np.cos(directions), u) + _outer(k * np.sin(directions), v)).sum(0)
    return _step(-2.5 * (cells + 0.2))


def _spots(u: Array, v: Array, rng: np.random.Generator, *, count: int, radius: float) -> Array:
    """Round spots scattered over the unit disc, in [0, 1]."""
    # 20 are drawn whatever the count, so that the draws that follow do not shift.
    far, angle, radii = np.sqrt(rng.uniform(0, 0.75, 20)), rng.uniform(0, 2 * np.pi, 20), rng.uniform(0.7, 1.3, 20)
    clear = np.ones_like(u)
    for i in range(count):
        squared = (u - far[i] * math.cos(angle[i])) ** 2 + (v - far[i] * math.sin(angle[i])) ** 2
        clear *= 1 - np.exp(-((squared / (radius * radii[i]) ** 2) ** 2))
    return 1 - clear


def _streaks(depth: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Radial lines across the border, in [0, 1], on a part of the circumference."""
    number, phase, middle = rng.integers(15, 24), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    lines = np.clip(np.cos(number * angle + phase + np.cos(3 * angle + phase)), 0, 1)
    part = 0.35 + 0.65 * (0.5 + 0.5 * np.cos(angle - middle))
    return np.asarray(lines * part * np.exp(-(((depth - 1.0) / 0.18) ** 4)))


def _hair(x: Array, y: Array, rng: np.random.Generator, *, width: float) -> Array:
    """What hair strands let through, in [0, 1]: none on most pictures, at most six bent lines."""
    through = np.ones_like(x)
    for _ in range(int(min(rng.poisson(1.2), 6))):
        direction, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.normal(0, 0.25)
        along = math.cos(direction) * x + math.sin(direction) * y - rng.uniform(-0.6, 0.6)
        across = math.cos(direction) * y - math.sin(direction) * x
        distance = (across - offset - bend * along**2) / width
        through *= 1 - rng.uniform(0.35, 0.75) * np.exp(-(distance**2)) * _step(20 * (0.8 - abs(along)))
    return through


def _light(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Brightness of the lamp: a gradient, a vignette and, in one picture of eight, the dark corners of a tube."""
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.07)
    squared = x**2 + y**2
    light = rng.normal(0.98, 0.035) * (1 + slope * (math.cos(direction) * x + math.sin(direction) * y))
    light *= 1 - rng.uniform(0, 0.12) * squared
    if rng.random() < 1 / 8:
        light *= 1 - 0.93 * _step(45 * (np.sqrt(squared) - rng.uniform(1.12, 1.25)))
    return np.asarray(light)


def _blur_matrix(size: int, sigma: float) -> Array:
    """(size, size) matrix whose product with a column of pixels is its Gaussian blur; sigma is a share of the width."""
    i = np.arange(size)
    weight = np.exp(-0.5 * ((i[:, None] - i) / (sigma * size)) ** 2)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _grid(size: int) -> tuple[Array, Array]:
    """Pixel centres in [-1, 1] as (y, x), single precision."""
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return y, x


def _step(x: Array) -> Array:
    """Soft step from 0 to 1, the logistic function; as a tanh, which does not overflow far outside a lesion."""
    return np.asarray(0.5 + 0.5 * np.tanh(x / 2))


def _outer(factors: Array, field: Array, offsets: Array | float = 0.0) -> Array:
    """(k, h, w): factors times field plus offsets, in the field's precision."""
    shift = np.broadcast_to(offsets, factors.shape).astype(field.dtype)
    return np.asarray(factors.astype(field.dtype)[:, None, None] * field + shift[:, None, None])


def _to_bytes(image: Array) -> Array:
    """Colours in [0, 1] to uint8, with what lies outside clipped."""
    return np.asarray(np.round(np.clip(image, 0, 1) * 255), dtype=np.uint8)
