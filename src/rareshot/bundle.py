"""A classifier on disk: the learner and its support images in one safetensors file. No pickle.

Adapting is a function of (learner, support, seed) and takes seconds, so nothing that comes of it is stored: opening a
file is to adapt again. **The file holds the support images; treat it as patient data.**

state/<name>       the learner's state
support/images     (s, 3, size, size) uint8
support/labels     (s,) int64
trust/<name>       where the learner was calibrated: a copy of its `Trust`
metadata           one JSON text, `rareshot`: the run that the learner comes from, its name and hash, classes, file names, seed,
                   and a hash of all of the file

The same learner, images and seed give the same file, byte for byte: no date is in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rareshot.checkpoint import load_state, refuse_larger, save_state, state_hash
from rareshot.equal_parts import adapt_evenly
from rareshot.run_record import Run, run_of, versions
from rareshot.support_set import SupportSet
from rareshot.trust.left_out import refuse_transductive
from rareshot.trust_file import Trust, trust_of
from rareshot.types import Classifier, Learner, State

FORMAT = 3
READ = (1, 2, 3)
"""Formats that are read; 1 has no `trust`, 1 and 2 no `whole`."""
MOST_STEPS = 1000
"""Steps of adaptation that a file may ask for; methods take 10 to 50."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """One adapted task: all that it takes to adapt again."""

    run: Run
    """Where the learner comes from: method, size, the data that it was fitted on, versions."""
    learner: str
    """What it was called: a word, or the name of the run's folder."""
    state: State
    support: SupportSet
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=versions)
    """Of the programs that wrote the file."""
    trust: Trust | None = None
    """What was measured of the learner; None where it was not calibrated."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of probabilities."""
        return self.support.classes

    @property
    def shot(self) -> int:
        """k: images of the smallest class."""
        return min(self.support.counts.values())

    @property
    def temperature(self) -> float:
        """That of the nearest way and k that were measured (`Trust.applied`); 1, which changes nothing, without a calibration."""
        return self.trust.applied(len(self.classes), self.shot) if self.trust else 1.0

    def cautions(self) -> list[str]:
        """That the temperature is not for tasks like this one, where that is so."""
        measured = self.trust.temperature(len(self.classes), self.shot) if self.trust else 1.0
        if self.trust is None or self.temperature == measured:
            return []
        return [
            f"answers are as timid as the learner gives them: its temperature of {measured:.2f} is for "
            f"{self.trust.told_ways()} classes, and is not applied here"
        ]

    def adapt(self) -> Classifier:
        """The classifier; the same bits on one machine with one number of threads.

        Raises:
            ValueError: as `fitted`, or if the way does not fit the learner's head.
        """
        return adapt_evenly(self.fitted(), self.support.support, seed=self.seed)

    def fitted(self) -> Learner:
        """The learner.

        Raises:
            ValueError: if the state does not fit the method, or the learner is transductive.
        """
        refuse_larger(self.run.method, self.run.size, self.state)
        learner = self.run.method.blank(self.run.size).with_state(self.state)
        refuse_transductive(learner, self.learner)
        return learner


def save_bundle(file: Path, bundle: Bundle) -> Path:
    """Write a classifier, whole or not at all."""
    tensors = {f"state/{name}": value for name, value in bundle.state.items()}
    tensors |= {"support/images": bundle.support.images, "support/labels": bundle.support.labels}
    tensors |= bundle.trust.tensors("trust/") if bundle.trust else {}
    told = {
        "format": FORMAT,
        "learner": bundle.learner,
        "run": bundle.run.to_json(),
        "hash": state_hash(bundle.state),
        "classes": bundle.classes,
        "names": bundle.support.names,
        "seed": bundle.seed,
        "trust": bundle.trust.to_json() if bundle.trust else None,
        "versions": dict(bundle.versions),
    }
    told["whole"] = _digest(told, tensors)
    # ASCII: a file name that is no UTF-8 goes through.
    return save_state(file, tensors, {"rareshot": json.dumps(told)})


def load_bundle(file: Path) -> Bundle:
    """What `save_bundle` wrote; nothing of it is run, and no network is built yet.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged, too large, or no classifier.
    """
    if (file / "run.json").is_file():
        raise FileNotFoundError(
            f"{file} is a run, and no classifier yet; make one with `rareshot adapt {file} --support PHOTOGRAPHS --out FILE`"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such classifier; make one with `rareshot adapt LEARNER --out {file}`")
    tensors, metadata = load_state(file)
    if not isinstance(metadata, dict) or "rareshot" not in metadata:
        raise ValueError(f"{file} is not a classifier of rareshot; make one with `rareshot adapt LEARNER --out {file}`")
    try:
        told = json.loads(metadata["rareshot"])
        number = told.get("format") if isinstance(told, dict) else None
        if type(number) is not int or number not in READ:
            raise ValueError(f"its format is {number!r}; this version of rareshot reads {' and '.join(map(str, READ))}")
        return _bundle_of(told, tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} is not a sound classifier: {reason}; adapt again") from error


def _bundle_of(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Bundle:
    state = {name.removeprefix("state/"): value for name, value in tensors.items() if name.startswith("state/")}
    trusted = {name.removeprefix("trust/"): value for name, value in tensors.items() if name.startswith("trust/")}
    extra = tensors.keys() - {f"state/{name}" for name in state} - {f"trust/{name}" for name in trusted}
    extra -= {"support/images", "support/labels"}
    if extra:
        raise ValueError(f"nobody knows its {', '.join(sorted(extra))}")
    run = run_of_others(told["run"])
    images, labels = tensors["support/images"], tensors["support/labels"]
    if images.dtype != torch.uint8 or images.shape[1:] != (3, run.size, run.size):
        raise ValueError(
            f"support/images is {tuple(images.shape)} {images.dtype}, not (s, 3, {run.size}, {run.size}) bytes"
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"support/labels is {tuple(labels.shape)} {labels.dtype}, not a row of whole numbers")
    classes, names = _texts("classes", told["classes"]), _texts("names", told["names"])
    seed, learner = told["seed"], told["learner"]
    if type(seed) is not int or not 0 <= seed < 2**63 or not isinstance(learner, str):
        raise ValueError(f"seed={seed!r} or learner={learner!r} is of the wrong kind")
    if told["hash"] != state_hash(state):
        raise ValueError("the learner's weights are not those that its hash says: the file was changed")
    if told["format"] > 2 and told["whole"] != _digest(told, tensors):
        raise ValueError("its images, labels, names or calibration are not what they were: the file was changed")
    trust = None if told["format"] == 1 or told["trust"] is None else trust_of(told["trust"], trusted, told["hash"])
    if trusted and trust is None:
        raise ValueError("it holds a reference but no calibration")
    return Bundle(run, learner, state, SupportSet(images, labels, classes, names), seed, dict(told["versions"]), trust)


def _digest(told: Mapping[str, Any], tensors: State) -> str:
    """Of all that the file says but this: who changes it by accident is found out; who means to can write it anew."""
    text = json.dumps({name: value for name, value in told.items() if name != "whole"}, sort_keys=True)
    return hashlib.sha256(f"{text} {state_hash(tensors)}".encode()).hexdigest()


def run_of_others(values: Any) -> Run:
    """A run as somebody else wrote it down, who may ask for less work than one's own.

    Raises:
        ValueError: if a part is not sound, or beyond what is taken.
    """
    run = run_of(values)
    refuse_steps(run)
    return run


def refuse_steps(run: Run) -> None:
    """What a classifier's file and a shared learner take: said before one is made, and where one is read.

    Raises:
        ValueError: if adapting takes more steps.
    """
    steps = getattr(run.method, "test_steps", 0)
    if steps > MOST_STEPS:
        raise ValueError(f"test_steps={steps}; a classifier's file and a shared learner take at most {MOST_STEPS}")


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is not a list of texts")
    return tuple(values)
