"""What is done between the hospitals: the first state, a look at each update, their mean, and rounds on disk."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from rareshot.checkpoint import last_training_state, save_learner, save_training_state
from rareshot.federated import refuse_other_than_episodic
from rareshot.federated.client import Introduction, Update
from rareshot.locks import alone
from rareshot.methods.meta_training import meta_rate
from rareshot.optimiser import BETAS
from rareshot.run_record import Run, read_run, write_run
from rareshot.runs import held_elsewhere, trim_log
from rareshot.states import refuse_other_state
from rareshot.types import Learner, State, TrainingState


class Clients(Protocol):
    """The hospitals, however they are reached."""

    @property
    def open(self) -> bool:
        """May they come and go?"""
        ...

    def introductions(self) -> Mapping[str, Introduction]:
        """Client → what it has, of all that are here; asked before every round."""
        ...

    def train(self, state: State, first: int, until: int, numbers: Mapping[str, int]) -> Mapping[str, Update | str]:
        """Client → its update after iterations `first` to `until` from the server's state; or why there is none.

        Args:
            numbers: client → its number, which `client_seed` makes the seed of its tasks.
        """
        ...


class TooFewClientsError(ValueError):
    """A round had fewer good updates than were asked for; what was done before is saved."""


def run_rounds(
    folder: Path,
    run: Run,
    clients: Clients,
    *,
    local: int,
    fewest: int,
    observe: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> Learner:
    """Train in rounds, in the run's folder, which ends as that of `rareshot fit` does; the same call goes on after a stop.

    Every client counts alike: in a round each is at as many tasks as the others, and what is sought is a mean over tasks.

    Args:
        local: iterations of a client between two means.
        fewest: good updates that a round needs.
        observe: called with the line of the log when a round is on disk; what it raises stops the training, nothing lost.

    Raises:
        ValueError: if the method is not one to share, or the folder holds another training.
        TooFewClientsError: if a round has fewer good updates than `fewest`.
        HeldElsewhereError: if another process is training there.
    """
    method = refuse_other_than_episodic(run.method, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, wait=False) as held:
        if not held:
            raise held_elsewhere(folder)
        known = dict(clients.introductions())
        run = _begun(folder, run, known, local, clients.open)
        newest = last_training_state(folder)
        if newest is None:
            blank = method.blank(run.size, seed=run.seed).state()
            newest = TrainingState(0, {**blank, **pooled_pixels([known[name] for name in sorted(known)])}, {})
        done, learner = newest.iteration, method.blank(run.size).with_state(newest.weights)
        write_run(folder, run)
        log_file = folder / "log.jsonl"
        trim_log(log_file, done)
        with log_file.open("a") as log:
            while done < method.iterations:
                begun = time.perf_counter()
                until = min(done + local, method.iterations)
                joined = replace(run, data=_facts(run.data, clients.introductions(), local))
                if joined != run:
                    run = joined
                    write_run(folder, run)
                numbers = {name: facts["number"] for name, facts in run.data["clients"].items()}
                state = learner.state()
                answers = clients.train(state, done, until, numbers)
                good, refused = _sorted(answers, state, [meta_rate(method, i) for i in range(done, until)])
                if len(good) < fewest:
                    told = "; ".join(f"{name}: {why}" for name, why in refused.items())
                    raise TooFewClientsError(
                        f"{len(good)} of {len(answers)} clients sent a good update for iterations {done} to {until}, and "
                        f"{fewest} are needed ({told}); the rounds before are saved in {folder}, and the same command goes on"
                    )
                learner = learner.with_state(mean_state([each.state for each in good.values()]) | pixels_of(state))
                done = until
                record = {
                    "iteration": done,
                    "meta_lr": meta_rate(method, done - 1),
                    "seconds": time.perf_counter() - begun,
                    "clients": {name: dict(update.record) for name, update in good.items()},
                    "refused": refused,
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                os.fsync(log.fileno())  # as in `runs.fit_held`
                save_training_state(folder, TrainingState(done, learner.state(), {}))
                observe(record)
        save_learner(folder, learner)
        return learner


def pooled_pixels(introductions: Sequence[Introduction]) -> State:
    """Mean and deviation of each colour where every client counts alike: E[x] and √(E[x²] − E[x]²)."""
    mean = torch.tensor([each.mean for each in introductions], dtype=torch.float64)
    std = torch.tensor([each.std for each in introductions], dtype=torch.float64)
    pooled = mean.mean(0)
    deviation = ((mean**2 + std**2).mean(0) - pooled**2).clamp_min(1e-12).sqrt()
    return {"pixels.mean": pooled.float(), "pixels.std": deviation.float()}


def pixels_of(state: State) -> dict[str, torch.Tensor]:
    """The part of a state that is the first round's, and no client changes."""
    return {name: value for name, value in state.items() if name.startswith("pixels.")}


def mean_state(states: Sequence[State]) -> dict[str, torch.Tensor]:
    """The mean of each weight; of one state, that state bit for bit."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }


def farthest(rates: Sequence[float]) -> float:
    """How far Adam can have moved one weight in a round, whatever the gradients were.

    A step is rate · m̂ / √v̂, where m sums (1 − β₁) β₁^i g_i and v sums (1 − β₂) β₂^i g_i². By Cauchy and Schwarz
    |m| ≤ √v (1 − β₁) / √((1 − β₂)(1 − β₁² / β₂)), and correcting for the start makes a step only shorter.
    """
    first, second = BETAS
    return sum(rates) * (1 - first) / math.sqrt((1 - second) * (1 - first**2 / second))


def refuse_update(own: State, update: State, rates: Sequence[float]) -> None:
    """Refuse what no client can have come to that keeps to Algorithm 1.

    Raises:
        ValueError: if the update is of another network, is not finite, or moved a weight farther than Adam can.
    """
    refuse_other_state(own, update)
    limit = farthest(rates) * 1.01  # rounding
    for name, value in update.items():
        moved = float((value.double() - own[name].double()).abs().max())
        if moved > limit + 1e-6:
            raise ValueError(
                f"{name} moved by {moved:.3g} in {len(rates)} iterations, and Adam at these rates moves by {limit:.3g} at most"
            )


def _sorted(
    answers: Mapping[str, Update | str], own: State, rates: Sequence[float]
) -> tuple[dict[str, Update], dict[str, str]]:
    """Good updates, and why the others are none, by client in alphabetical order: the mean's last bit depends on the order."""
    good: dict[str, Update] = {}
    refused: dict[str, str] = {}
    for name, answer in sorted(answers.items()):
        if isinstance(answer, str):
            refused[name] = answer
            continue
        try:
            refuse_update(own, answer.state, rates)
            good[name] = answer
        except ValueError as error:
            refused[name] = one_line(str(error))
    return good, refused


def one_line(told: str) -> str:
    """What somebody else said, fit for a log: one line of printable characters, and not for ever."""
    return "".join(letter if letter.isprintable() else " " for letter in told)[:300]


def _facts(before: Mapping[str, Any], known: Mapping[str, Introduction], local: int) -> dict[str, Any]:
    """What the run's card says of the data; whoever took part once stays in it, under the number that it has."""
    clients: dict[str, Any] = dict(before.get("clients", {}))
    for name, each in sorted(known.items()):
        number = clients[name]["number"] if name in clients else len(clients)
        clients[name] = {"number": number, "classes": dict(each.classes), "fingerprint": each.fingerprint}
    prints = sorted(facts["fingerprint"] for facts in clients.values())
    one = prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]
    common = list(dict.fromkeys(name for facts in clients.values() for name in facts["classes"]))
    return {**before, "common": common, "fingerprint": one, "clients": clients, "local": local}


def _begun(folder: Path, run: Run, known: Mapping[str, Introduction], local: int, may_change: bool) -> Run:
    """The run with what is known of its clients; those of before among them, where the folder has begun with it.

    Args:
        may_change: may the clients be others than before?

    Raises:
        ValueError: if another training is there.
    """
    if not (folder / "run.json").is_file():
        return replace(run, data=_facts(run.data, known, local))
    there = read_run(folder)
    if "clients" not in there.data:
        raise ValueError(f"{folder} holds a run that no clients share; choose another --out")
    now = _facts({**run.data, "clients": there.data["clients"]} if may_change else run.data, known, local)
    same = [
        ("method", there.method, run.method),
        ("seed", there.seed, run.seed),
        ("image size", there.size, run.size),
        ("number of local iterations", there.data.get("local"), local),
    ]
    same += [] if may_change else [("data set, or other clients", dict(there.data), now)]
    for what, old, new in same:
        if old != new:
            raise ValueError(f"{folder} holds a training with another {what}; choose another --out")
    return replace(run, data=now)
