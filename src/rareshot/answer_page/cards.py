"""One judged image: its picture, probabilities with their ranges, map, nearest support images, and what would change it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.answer_page.why import FAINT, Neighbour, why
from rareshot.answer_page.words import between, listed, named, number, share
from rareshot.data.decode import decode
from rareshot.pictures import picture
from rareshot.predict import Answer, Predictor
from rareshot.sensitivity import Sensitivity, Views, sensitivity
from rareshot.support_set import as_float


@dataclass(frozen=True)
class Row:
    """A class."""

    name: str
    probability: str
    interval: str
    value: float
    low: float
    high: float
    is_predicted: bool


@dataclass(frozen=True)
class Card:
    """All that the page says of one image; pictures are empty beyond the most that are shown."""

    name: str
    predicted: str
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    among: str
    changes: tuple[str, ...]
    sensitivity: Sensitivity
    image: str = ""
    map: str = ""
    map_words: str = ""
    nearest: tuple[Neighbour, ...] = ()


def card(views: Views, file: str, one: Answer, *, whole: bool) -> Card:
    """What is said of the image at `file`.

    Args:
        whole: with pictures.

    Raises:
        ValueError: if the file cannot be read any more, or holds another image than the one that was judged.
    """
    predictor = views.predictor
    pixels = torch.from_numpy(decode(file, predictor.size)).permute(2, 0, 1).contiguous()
    image = as_float(pixels)
    if not torch.allclose(predictor(image[None])[0], torch.tensor(one.probabilities), atol=1e-4):
        raise ValueError(f"{named(one.path)} is not the image that was judged: it has changed since; judge it again")
    moved = sensitivity(views, image)
    name, predicted = named(one.path), named(one.predicted)
    told = Card(
        name=name,
        predicted=predicted,
        rows=tuple(
            Row(named(label), share(value), between(low, high), value, low, high, label == one.predicted)
            for label, value, low, high in zip(predictor.classes, one.probabilities, moved.low, moved.high, strict=True)
        ),
        warnings=tuple(map(named, one.warnings)),
        among=_among(predictor, one),
        changes=tuple(_changes(views, moved)),
        sensitivity=moved,
    )
    if not whole:
        return told
    because, label = why(predictor, pixels, one.predicted), predictor.classes.index(one.predicted)
    return replace(
        told,
        image=picture(pixels),
        map=because.map,
        map_words=_map_words(because.found, one.probabilities[label], predicted),
        nearest=because.nearest,
    )


def faint_rows(cards: Sequence[Card]) -> list[tuple[str, ...]]:
    """Images beyond the most that have pictures: name, class, and each class's probability with its range."""
    return [
        (
            told.name,
            told.predicted,
            *(f"{row.probability} ({row.interval})" for row in told.rows),
            "; ".join([*told.warnings, *([told.among] if told.among else [])]),
        )
        for told in cards
    ]


def _among(predictor: Predictor, one: Answer) -> str:
    if not predictor.sets:
        return ""
    return f"Prediction set: {', '.join(map(named, one.among))}" if one.among else "Prediction set: empty"


def _changes(views: Views, moved: Sensitivity) -> list[str]:
    support = views.predictor.bundle.support

    def of(at: int) -> str:
        return f"{named(support.names[at])} ({named(support.classes[int(support.labels[at])])})"

    told = []
    if moved.left_out is not None and moved.pivotal is not None:
        text = (
            f"Without one of the support images: {between(*moved.left_out)}; it moves most without {of(moved.pivotal)}."
        )
        if moved.flips:
            text += f" Another class is predicted without {listed([of(at) for at in moved.flips], 'or without')}."
        told.append(text)
    text = f"Turned, scaled and flipped, {number(len(views.turned), 'time')}: {between(*moved.turned)}."
    if moved.turned_flips:
        text += f" Another class is predicted {number(moved.turned_flips, 'time')}."
    told.append(text)
    if moved.seeded is not None:
        told.append(f"With {number(len(views.seeded), 'other seed')}: {between(*moved.seeded)}.")
    return told


def _map_words(found: Float[Tensor, "h w"], probability: float, predicted: str) -> str:
    strongest, weakest = float(found.max()), float(found.min())
    odds = math.log(max(probability, 1e-12) / max(1 - probability, 1e-12))
    if max(strongest, -weakest) < FAINT / 10:
        return f"No single part matters: whatever is covered, {predicted} stays near {share(probability)}."
    if strongest >= -weakest:
        return f"Covering the strongest orange part would take {predicted} to about {share(_chance(odds - strongest))}."
    return f"Covering the strongest blue part would take {predicted} to about {share(_chance(odds - weakest))}."


def _chance(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
