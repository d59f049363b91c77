"""What holds for all images of a page: the support images, what would change the answers, how they were made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rareshot import config
from rareshot.answer_page.cards import Card
from rareshot.answer_page.words import listed, named, number, share
from rareshot.backbones.efficientnet import SHA256
from rareshot.bundle import Bundle
from rareshot.checkpoint import state_hash
from rareshot.equal_parts import Evenly
from rareshot.methods import taught_by
from rareshot.methods.pretrained import Pretrained
from rareshot.pictures import picture
from rareshot.predict import Predictor
from rareshot.run_record import Run, versions
from rareshot.sensitivity import Views
from rareshot.trust import smallest_error

MOST_SUPPORT = 100
"""Support images that are shown; of those beyond, the names."""
THUMBNAIL = 128
NORMS = {
    "support": "by statistics of the support images (support); an answer depends on no other image",
    "tasknorm": "by statistics of the support images, blended with the image's own (tasknorm); an answer depends on no other "
    "image",
    "group": "each image by itself (group); an answer depends on no other image",
    "running": "by statistics that training left (frozen batch norm); an answer depends on no other image",
}


@dataclass(frozen=True)
class Photograph:
    """A support image."""

    image: str
    name: str
    suspicion: str


def ranges(views: Views) -> str:
    """What the ranges are over."""
    parts = (
        [f"{number(len(views.left_out), 'adaptation')} that each leave out one support image"] if views.left_out else []
    )
    parts.append(f"{number(len(views.turned), 'adaptation')} to turned, scaled and flipped images")
    if views.seeded:
        parts.append(f"{number(len(views.seeded), 'other seed')}")
    missing = f" No support image was left out: {views.why_not}." if views.why_not else ""
    return (
        f"Ranges are the lowest and highest answer over {', '.join(parts[:-1])}{' and ' if parts[:-1] else ''}{parts[-1]}. "
        f"They show how easily an answer moves. They are no confidence intervals: nobody can say how often the truth lies "
        f"inside.{missing}"
    )


def changes(views: Views, cards: Sequence[Card]) -> list[str]:
    """What would change the answers."""
    predictor = views.predictor
    support, k = predictor.bundle.support, predictor.bundle.shot
    stable = sum(told.sensitivity.is_stable for told in cards)
    whatever = "whichever support image is left out and however the images are turned"
    kept = whatever if views.left_out else "however the images are turned"
    told = [f"{stable} of {number(len(cards), 'image')} keep their class {kept}."] if cards else []
    unsteady = [one.name for one in cards if not one.sensitivity.is_stable]
    if unsteady:
        told[0] += f" Not so: {listed(unsteady)}."
    pivotal = Counter(at for one in cards for at in one.sensitivity.flips)
    if pivotal:
        at, count = min(pivotal.items(), key=lambda pair: (-pair[1], pair[0]))
        told.append(
            f"The photograph on which most hangs: without {named(support.names[at])} "
            f"({named(support.classes[int(support.labels[at])])}), {number(count, 'image')} would get another class. Make "
            f"sure of its label."
        )
    told += [_photographs(k), _seeds(views)]
    told.append(
        f"How frequent the classes are: {_prevalence(predictor)} A class that is rarer among the patients than among the "
        f"support images is less probable than the numbers say."
        if not predictor.prevalence
        else f"How frequent the classes are: {_prevalence(predictor)} Other shares would give other probabilities."
    )
    return told


def support(predictor: Predictor) -> list[tuple[str, list[Photograph]]]:
    """Class → its support images."""
    held = predictor.bundle.support
    suspicions = [""] * len(held.images)
    if predictor.bundle.shot > 1:
        found = predictor.suspects()
        for rank, at in enumerate(found.order.tolist(), 1):
            suspicions[at] = f"suspicion {rank} of {len(suspicions)}; own label {share(float(found.own[at]))}"
    shown: dict[str, list[Photograph]] = {named(name): [] for name in held.classes}
    for at, (image, name, label) in enumerate(zip(held.images, held.names, held.labels.tolist(), strict=True)):
        seen = picture(image, THUMBNAIL) if at < MOST_SUPPORT else ""
        shown[named(held.classes[label])].append(Photograph(seen, named(name), suspicions[at]))
    return list(shown.items())


def suspicion(predictor: Predictor) -> str:
    """What the ranks of suspicion mean."""
    if predictor.bundle.shot < 2:
        return "The labels were not checked: where a class has a single image, nothing else can judge it."
    told = (
        "Suspicion ranks the support images by the probability of their own label, as the others judge it: look at the labels "
        "of the first. A low rank proves no error."
    )
    if predictor.suspects().warning:
        told += (
            " Here the first fits its label worse than the worst photograph does in 9 of 10 clean support sets of common "
            "diseases: is the label right?"
        )
    return told


def making(predictor: Predictor) -> list[tuple[str, str]]:
    """How the answers were made: enough to make them again."""
    bundle, now = predictor.bundle, versions()
    run, data = bundle.run, bundle.run.data
    rows = [
        ("Learner", f"{bundle.learner} ({run.name}), images of {run.size} pixels"),
        ("Trained on", _trained(run)),
        *([("Licence of those images", run.licence)] if run.licence else []),
        ("Data fingerprint", str(data.get("fingerprint", "none"))),
        ("Fingerprint of the support images", _fingerprint(bundle)),
        *_parts(predictor),
        ("SHA-256 of the weights", _weights(bundle)),
        ("Normalisation", NORMS.get(getattr(run.method, "norm", "running"), "unknown")),
        ("Settings of the method", _settings(config.to_json(run.method))),
        ("Training", f"preset {run.scale}, seed {run.seed}"),
        ("Seed of the adaptation", str(bundle.seed)),
        ("Calibration", _calibration(bundle)),
        ("Frequency of the classes", _prevalence(predictor)),
        ("This page", _versions(now)),
        ("The classifier was adapted by", _versions(bundle.versions)),
        ("The learner was trained by", _versions(run.versions)),
    ]
    return [(what, named(value)) for what, value in rows]


def _parts(predictor: Predictor) -> list[tuple[str, str]]:
    if not isinstance(predictor.classifier, Evenly):
        return []
    parts = f"{len(predictor.classifier.parts)} parts with {number(predictor.bundle.shot, 'image')} of each class"
    return [("Unequal numbers of images", f"each answer is the mean over {parts}")]


def _photographs(k: int) -> str:
    if k < 2:
        return (
            "More photographs: a class has a single one, and the answers hang on it. With 2 or more of each class, leaving one "
            "out shows how much; 5 are better."
        )
    return (
        f"More photographs: of {k} images of a class, none can show more than what happens 1 time in {k + 1}, so "
        f"{100 * smallest_error(k):.0f} % is the smallest error that can be promised at k = {k}. With 10 images of each class it "
        f"is 9 %; 5 % needs 19."
    )


def _seeds(views: Views) -> str:
    if views.seeded:
        return (
            f"Another seed: the adaptation draws at random, and {number(len(views.seeded), 'other seed')} "
            f"{'is' if len(views.seeded) == 1 else 'are'} in the ranges."
        )
    return "Another seed: none would change anything. This learner draws nothing at random when it adapts."


def _prevalence(predictor: Predictor) -> str:
    if not predictor.prevalence:
        return "taken as equal."
    return ", ".join(f"{named(name)} {value:g}" for name, value in predictor.prevalence.items()) + ", as told."


def _trained(run: Run) -> str:
    if isinstance(run.method, Pretrained):
        return "ImageNet; nothing was trained on diseases"
    common = run.data.get("common")
    if not common:
        return "not said"
    return taught_by(run.method, f"{run.data.get('name', 'data without a name')}: {', '.join(map(str, common))}")


def _fingerprint(bundle: Bundle) -> str:
    held = bundle.support
    return state_hash({"images": held.images, "labels": held.labels})[:16]


def _weights(bundle: Bundle) -> str:
    if isinstance(bundle.run.method, Pretrained):
        return SHA256
    beside = f", and ImageNet's {SHA256}" if getattr(bundle.run.method, "beside_imagenet", False) else ""
    return f"{state_hash(bundle.state)}{beside}"


def _calibration(bundle: Bundle) -> str:
    if bundle.trust is None:
        return "none: probabilities are as the learner gives them"
    if told := bundle.cautions():
        return f"none: {told[0]}"
    of = f" of {bundle.trust.hospital} alone" if bundle.trust.hospital else ""
    way, shot = bundle.trust.nearest(len(bundle.classes), bundle.shot)
    return f"temperature {bundle.temperature:.2f}, measured on lesions of common classes{of}: {way} classes, k = {shot}"


def _settings(values: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} {_settings(value).replace('; ', ', ') if isinstance(value, dict) else value}"
        for name, value in values.items()
    )


def _versions(told: Any) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in told.items() if value)
        if isinstance(told, Mapping)
        else "not said"
    )
