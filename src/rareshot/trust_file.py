"""RUN/trust.safetensors: what `rareshot.trust` has to know of the common diseases, measured once (docs/trust.md).

reference/<name>   the `Reference`: what usual images look like to the learner
metadata           one JSON text, `rareshot`: way → k → temperature, way → k → warning threshold, episodes, what images of another
                   kind were known, the learner's hash, versions

The same data and learner give the same file, byte for byte. A classifier's file carries a copy, so that it stands by itself.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.checkpoint import load_state, save_state, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.episodes import EpisodeSpec, within
from rareshot.run_record import versions
from rareshot.trust import Reference, temperature_from_tasks, warning_threshold
from rareshot.trust.calibration import HIGHEST, LOWEST
from rareshot.types import Learner

NAME = "trust.safetensors"
FORMAT = 3
READ = (1, 2, 3)
"""Formats that are read; 1 and 2 have one way, and 1 has thresholds of another score, which are left out, and knows no images of
another kind."""
MOST_WAYS = 4
"""Numbers of classes that are measured if the learner takes any: 2, 3 and 4, where there are so many common classes."""
QUERY = 15
"""Query images a class of the tasks that the temperature is measured on; fewer where a class has not so many."""
FALSE_ALARMS = 0.1
"""Share of clean support sets that may be warned of."""

ByShot = Mapping[int, float]
"""k → number."""
Observe = Callable[[int, int, str], None]
"""(adaptations done, of how many, what is measured next)"""


def ignore(done: int, total: int, what: str) -> None:
    """An observer that does nothing."""


@dataclass(frozen=True, eq=False)
class Trust:
    """What held-out lesions of the common diseases say of a learner."""

    learner: str
    """SHA-256 of the learner's state."""
    temperatures: Mapping[int, ByShot]
    """By way, the number of classes, and by k."""
    thresholds: Mapping[int, ByShot]
    """The same, of the warning of suspect support images."""
    reference: Reference
    episodes: int
    """Tasks for each temperature."""
    others: str = ""
    """Name of the images of another kind whose like the reference finds; empty where it was made with none."""
    hospital: str = ""
    """Whose lesions it was measured on, where several trained the learner together; else empty."""
    versions: Mapping[str, str] = field(default_factory=versions)

    @classmethod
    def of(
        cls,
        learner: Learner,
        train: LabelledImages,
        held: LabelledImages,
        *,
        ways: Sequence[int] = (2,),
        shots: Sequence[int] = (1, 2, 3, 4, 5),
        episodes: int = 60,
        others: Float[Tensor, "n 3 h w"] | None = None,
        others_name: str = "",
        hospital: str = "",
        observe: Observe = ignore,
    ) -> "Trust":
        """Measure it; `train` and `held` come from `validation.held_out`.

        Args:
            ways: numbers of classes; `ways_of` has those of a method.
            others: images that the learner is not for, as phone photographs for a dermoscopy learner; and their name.
            hospital: whose lesions `train` and `held` are, where several trained the learner together.

        Raises:
            ValueError: if a class of `held` has too few lesions, episodes are too few, or the learner is not inductive.
        """
        shots = sorted(set(shots))
        smallest = min(groups for _, groups in held.counts().values())
        if not shots or shots[0] < 1 or shots[-1] >= smallest:
            raise ValueError(
                f"shots={', '.join(map(str, shots)) or 'none'}: give numbers from 1 to {smallest - 1}, as the smallest class "
                f"has {smallest} held-out lesions and one of them is to be judged"
            )
        costs = [episodes for _ in shots for _ in ways]
        done = 0

        def next_is(what: str, cost: int) -> None:
            nonlocal done
            observe(done, sum(costs), what)
            done += cost

        next_is("what usual images look like", 0)
        reference = Reference.of(learner, train, held, others=others)
        thresholds: dict[int, ByShot] = {}
        temperatures: dict[int, ByShot] = {}
        for way in sorted(set(ways)):
            limits, found = {}, {}
            for shot in shots:
                if shot > 1:
                    next_is(f"suspects of {way} classes at k = {shot}", 0)
                    spec = EpisodeSpec(way, shot, 1)
                    limits[shot] = warning_threshold(learner, held, spec, false_alarms=FALSE_ALARMS, seed=2)
                next_is(f"temperature of {way} classes at k = {shot}", episodes)
                spec = within(held, EpisodeSpec(way, shot, QUERY))
                found[shot] = temperature_from_tasks(learner, held, spec, episodes=episodes, seed=1)
            thresholds[way], temperatures[way] = limits, found
        next_is("done", 0)
        return cls(state_hash(learner.state()), temperatures, thresholds, reference, episodes, others_name, hospital)

    @property
    def ways(self) -> tuple[int, ...]:
        """Numbers of classes that it was measured on."""
        return tuple(sorted(self.temperatures))

    def told_ways(self) -> str:
        """The same in words: 2, 3 or 4."""
        *first, last = map(str, self.ways)
        return f"{', '.join(first)} or {last}" if first else last

    def nearest(self, way: int, shot: int) -> tuple[int, int]:
        """The way and k that serve these: the nearest that were measured; of two as near, the smaller."""
        way = _nearest(self.temperatures, way)
        return way, _nearest(self.temperatures[way], shot)

    def temperature(self, way: int, shot: int) -> float:
        """Of the nearest way and k."""
        way, shot = self.nearest(way, shot)
        return self.temperatures[way][shot]

    def applied(self, way: int, shot: int) -> float:
        """The temperature that answers get: of the nearest way and k, or 1, which changes nothing.

        It is 1 where that is below 1 and was not measured on so many classes: there it could make a classifier surer than it is
        right.
        """
        measured = self.temperature(way, shot)
        return measured if measured >= 1 or way in self.ways else 1.0

    def threshold(self, way: int, shot: int) -> tuple[int, float] | None:
        """The nearest k that was measured and its threshold; None where there is none for so many classes."""
        limits = self.thresholds.get(way)
        if not limits or shot < 2:
            return None
        k = _nearest(limits, shot)
        return k, limits[k]

    def to_json(self) -> dict[str, Any]:
        """All but the reference, as plain JSON values."""
        return {
            "format": FORMAT,
            "learner": self.learner,
            "temperatures": _told(self.temperatures),
            "thresholds": _told(self.thresholds),
            "episodes": self.episodes,
            "others": self.others,
            **({"hospital": self.hospital} if self.hospital else {}),
            "versions": dict(self.versions),
        }

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The reference."""
        return {f"{prefix}reference/{name}": value for name, value in self.reference.state().items()}


def ways_of(method: Any, held: LabelledImages) -> tuple[int, ...]:
    """Numbers of classes to measure a method's learner on: 2 to 4 and its own, as `held` allows; with a full head its own."""
    own = getattr(method, "way", 2)
    if getattr(method, "head", "shared") == "full":
        return (own,)
    return tuple(way for way in sorted({2, 3, MOST_WAYS, own}) if way <= len(held.classes))


def trust_of(told: Any, tensors: Mapping[str, Tensor], learner: str) -> Trust:
    """What `to_json` and `tensors` wrote, checked; nothing of it is run.

    Args:
        learner: hash of the state that it must belong to.

    Raises:
        ValueError: if a part is missing, of the wrong kind, or of another learner.
    """
    number = told.get("format") if isinstance(told, dict) else None
    if type(number) is not int or number not in READ:
        raise ValueError(
            f"its calibration has format {number!r}; this version of rareshot reads {', '.join(map(str, READ))}"
        )
    try:
        if told["learner"] != learner:
            raise ValueError("it was measured on another learner; run `rareshot calibrate` on this one")
        if type(told["episodes"]) is not int or told["episodes"] < 1:
            raise ValueError(f"episodes={told['episodes']!r} is no number of episodes")
        if number < FORMAT and type(told["way"]) is not int:
            raise ValueError(f"way={told['way']!r} is no number of classes")
        temperatures, thresholds = (
            {str(told["way"]): told[name]} if number < FORMAT else told[name] for name in ("temperatures", "thresholds")
        )
        return Trust(
            learner,
            temperatures=_by_way("temperatures", temperatures, LOWEST * 0.999, HIGHEST * 1.001, least=1),
            thresholds={} if number == 1 else _by_way("thresholds", thresholds, -1e4, 1e4, least=0),
            reference=_reference_of(tensors),
            episodes=told["episodes"],
            others="" if number == 1 else str(told["others"]),
            hospital=_hospital(told.get("hospital", "")),
            versions=dict(told["versions"]),
        )
    except KeyError as error:
        raise ValueError(f"its calibration lacks {error}") from error
    except (TypeError, RuntimeError) as error:  # Runtime: a tensor of several numbers where one is asked for
        raise ValueError(f"its calibration is of the wrong kind: {error}") from error


def refuse_misfit(trust: Trust, learner: Learner) -> None:
    """Try the reference on one black image, so that a forged one is refused before there is work.

    Raises:
        ValueError: if it does not fit the learner.
    """
    try:
        found = trust.reference.typicality(learner, torch.zeros(1, 3, learner.size, learner.size))
        if not found.distance.isfinite().all():
            raise ValueError("its distance is not finite")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"its reference does not fit the learner: {error}") from error


def save_trust(folder: Path, trust: Trust) -> Path:
    """Write RUN/trust.safetensors, whole or not at all."""
    return save_state(folder / NAME, trust.tensors(), {"rareshot": json.dumps(trust.to_json())})


def load_trust(folder: Path, learner: Learner) -> Trust | None:
    """What `rareshot calibrate` left in a run's folder; None where it was not called.

    Raises:
        ValueError: naming the file, if it is damaged or of another learner.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    tensors, metadata = load_state(file)
    try:
        if not isinstance(metadata, dict) or "rareshot" not in metadata:
            raise ValueError("nobody knows its kind")
        trust = trust_of(json.loads(metadata["rareshot"]), tensors, state_hash(learner.state()))
        refuse_misfit(trust, learner)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no sound calibration: {error}; remove it, or calibrate again") from error
    return trust


def _reference_of(tensors: Mapping[str, Tensor]) -> Reference:
    state = {name.removeprefix("reference/"): value for name, value in tensors.items()}
    if any(not name.startswith("reference/") for name in tensors):
        raise ValueError(f"nobody knows its {', '.join(sorted(tensors.keys() - {f'reference/{n}' for n in state}))}")
    reference = Reference.from_state(state)
    if state.keys() != reference.state().keys():
        raise ValueError(f"nobody knows its {', '.join(sorted(state.keys() - reference.state().keys()))}")
    if not (reference.std > 0).all() or any((each.var < 0).any() for each in reference.moments):
        raise ValueError("its reference has a deviation or a variance that is none")
    if (reference.quantiles.diff() < 0).any():
        raise ValueError("its reference has quantiles that fall")
    return reference


def _hospital(name: Any) -> str:
    if not (isinstance(name, str) and len(name) <= 100 and name.isprintable()):
        raise ValueError(f"hospital={name!r} is no name of up to 100 printable characters")
    return name


def _told(values: Mapping[int, ByShot]) -> dict[str, dict[str, float]]:
    return {str(way): {str(k): value for k, value in of.items()} for way, of in values.items()}


def _by_way(name: str, values: Any, low: float, high: float, *, least: int) -> dict[int, ByShot]:
    if not isinstance(values, dict) or len(values) < least:
        raise ValueError(f"{name} is not a JSON object of objects by number of classes")
    for way, of in values.items():
        if not _is_number(way, 2):
            raise ValueError(f"{name} is of {way!r} classes")
        if not isinstance(of, dict) or len(of) < least:
            raise ValueError(f"{name} of {way} classes is not a JSON object of numbers by k")
        for k, value in of.items():
            sound = isinstance(value, float) and math.isfinite(value) and low <= value <= high
            if not (_is_number(k, 1) and sound):
                raise ValueError(f"{name} has {value!r} at k = {k!r}")
    return {int(way): {int(k): value for k, value in of.items()} for way, of in values.items()}


def _is_number(text: str, least: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4 and str(int(text)) == text and int(text) >= least


def _nearest(values: Mapping[int, Any], wanted: int) -> int:
    return min(values, key=lambda number: (abs(number - wanted), number))
