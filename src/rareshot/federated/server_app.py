"""The door to Flower between the hospitals, opened by `flwr run` in a folder that `rareshot federate app` wrote.

Needs the extra `federated`. Messages, TLS and who may join are Flower's; the rounds are `rareshot.federated.server`'s.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from rareshot import config
from rareshot.federated import refuse_other_than_episodic
from rareshot.federated.client import Introduction, Update, client_seed, is_a_name
from rareshot.federated.records import CONFIG, STATE, arrays_of, state_of
from rareshot.federated.server import one_line, run_rounds
from rareshot.methods import KINDS
from rareshot.run_record import Run, versions
from rareshot.types import State

app = ServerApp()
PATIENCE = 2.0
"""Seconds between two looks at who is there, and who has answered."""
AGAIN = 60.0
"""Seconds after which a client whose introduction failed is asked once more."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds; the run's folder is on this machine."""
    told = context.run_config
    out, fewest = Path(str(told["out"])), int(told["fewest"])
    method = refuse_other_than_episodic(config.from_json(KINDS, json.loads(str(told["method"]))), str(told["name"]))
    seed, size, local = int(told["seed"]), int(told["size"]), int(told["local"])
    run = Run(method, str(told["name"]), seed, size, str(told["scale"]), {"name": "federated"}, versions())
    asked = {"method": json.dumps(config.to_json(method)), "size": size, "federation": str(told["federation"])}
    clients = OverFlower(grid, asked, seed=seed, fewest=fewest, timeout=float(told["timeout"]))

    def say(record: Mapping[str, Any]) -> None:
        told = ", ".join(f"{name} {_loss(said)}" for name, said in record["clients"].items())
        refused = "".join(f"; without {name}: {why}" for name, why in record["refused"].items())
        _say(f"iteration {record['iteration']}/{method.iterations}; loss at {told}{refused}")

    try:
        run_rounds(out, run, clients, local=local, fewest=fewest, observe=say)
    except (ValueError, OSError) as error:
        _say(str(error))
        raise  # for Flower, which then counts the run as failed
    _say(f"learner: {out / 'learner.safetensors'}")


def _loss(said: Mapping[str, Any]) -> str:
    return "none" if said["loss"] is None else f"{said['loss']:.3f}"


def _say(told: str) -> None:
    print(f"rareshot: {told}", flush=True)


@dataclass
class OverFlower:
    """The clients of `rareshot.federated.server`, reached by Flower.

    An answer is that of the node which was asked: what it says of its sender is a stranger's word.
    """

    grid: Grid
    asked: Mapping[str, Any]
    seed: int
    fewest: int
    timeout: float
    """Seconds that a round may take; who has not answered by then is not in its mean."""
    open: ClassVar[bool] = True
    """Clients may come and go."""
    known: dict[int, tuple[str, Introduction]] = field(init=False, default_factory=dict)
    """Node → its name and what it has."""
    _introducing: dict[int, str] = field(init=False, default_factory=dict)
    """Node → the question that it has not answered yet."""
    _failed: dict[int, float] = field(init=False, default_factory=dict)
    """Node → when its introduction failed."""

    def introductions(self) -> dict[str, Introduction]:
        """Client → what it has, of those that are connected; waits until there are enough."""
        said = -1
        while True:
            here = self._introduce()
            if len(here) >= self.fewest:
                return here
            if said != len(here):
                said = len(here)
                _say(f"{said} of {self.fewest} clients are here; waiting for more")
            time.sleep(PATIENCE)

    def train(self, state: State, first: int, until: int, numbers: Mapping[str, int]) -> dict[str, Update | str]:
        """Client → its update, or why there is none."""
        arrays, here = arrays_of(state), set(self.grid.get_node_ids())
        answers: dict[str, Update | str] = {}
        messages: dict[int, Message] = {}
        for node, (name, _) in self.known.items():
            if name not in numbers:  # it was away when its number was given: from the next round on
                continue
            answers[name] = f"has not answered within {self.timeout:g} seconds" if node in here else "is not there"
            if node in here:
                seed = client_seed(self.seed, numbers[name])
                asked = ConfigRecord({**self.asked, "seed": seed, "first": first, "until": until})
                content = RecordDict({STATE: arrays, CONFIG: asked})
                messages[node] = Message(content, node, MessageType.TRAIN, ttl=self.timeout)
        waiting, end = self._push(messages), time.monotonic() + self.timeout
        while waiting and time.monotonic() < end:
            for node, reply in self._pull(waiting).items():
                answers[self.known[node][0]] = _update(reply, state)
            time.sleep(PATIENCE if waiting else 0)
        return answers

    def _introduce(self) -> dict[str, Introduction]:
        """Ask those who are new what they have, and hear those who have been asked; client → what it has, of all here."""
        here = set(self.grid.get_node_ids())
        late = time.monotonic() - AGAIN
        new = [
            node
            for node in sorted(here - self.known.keys() - self._introducing.keys())
            if self._failed.get(node, -math.inf) < late
        ]
        asked = RecordDict({CONFIG: ConfigRecord(dict(self.asked))})
        self._introducing |= self._push({node: Message(asked, node, MessageType.QUERY) for node in new})
        for node, reply in self._pull(self._introducing).items():
            try:
                name, said = _introduction(reply)
                before = [other for other, (its, _) in self.known.items() if its == name]
                if any(other in here for other in before):
                    raise ValueError(f"another client calls itself {name} already")
            except ValueError as error:
                self._failed[node] = time.monotonic()
                _say(f"node {node} is left out: {error}")
                continue
            for other in before:  # it was restarted, and Flower knows it by another number now
                del self.known[other]
            self.known[node] = (name, said)
        return dict(entry for node, entry in self.known.items() if node in here)

    def _push(self, messages: Mapping[int, Message]) -> dict[int, str]:
        """Node → the number of the question that Flower took for it."""
        taken = self.grid.push_messages(list(messages.values())) if messages else ()
        return {node: number for node, number in zip(messages, taken, strict=False) if number}

    def _pull(self, waiting: dict[int, str]) -> dict[int, Message]:
        """Node → its answer, of those that have answered; they wait no longer."""
        answers: dict[int, Message] = {}
        for node, number in list(waiting.items()):
            for reply in self.grid.pull_messages([number]):
                answers[node] = reply
                waiting.pop(node, None)
        return answers


def _introduction(reply: Message) -> tuple[str, Introduction]:
    said = _said(reply)
    name = str(said.get("name", ""))
    if not is_a_name(name):
        raise ValueError("its name has to be 1 to 64 letters, digits, - and _")
    return name, Introduction.from_json(str(said.get("introduction", "")))


def _update(reply: Message, own: State) -> Update | str:
    try:
        record = json.loads(str(_said(reply).get("record", "")))
        if not isinstance(record, dict) or not (record.get("loss", "") is None or _is_figure(record.get("loss"))):
            raise ValueError("it says no loss")
        figures = {name: record[name] for name in ("skipped", "validation_auc") if _is_figure(record.get(name))}
        if STATE not in reply.content.array_records:
            raise ValueError("no weights")
        return Update(state_of(reply.content.array_records[STATE], own), {"loss": record["loss"], **figures})
    except (ValueError, RecursionError) as error:
        return one_line(f"sent no update ({error})")


def _is_figure(value: object) -> bool:
    return (type(value) is int and abs(value) < 2**53) or (type(value) is float and math.isfinite(value))


def _said(reply: Message) -> dict[str, Any]:
    """The words of an answer.

    Raises:
        ValueError: if it is an error.
    """
    if reply.has_error():
        raise ValueError(one_line(f"Flower says: {reply.error.reason}"))
    said = dict(reply.content.config_records.get(CONFIG, {}))
    if "failed" in said:
        raise ValueError(one_line(str(said["failed"])))
    return said
