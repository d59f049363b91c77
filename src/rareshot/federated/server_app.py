"""The door to Flower between the hospitals, opened by `flwr run` in a folder that `rareshot federate app` wrote.

Needs the extra `federated`. Messages, TLS and who may join are Flower's; the rounds are `rareshot.federated.server`'s.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from rareshot import config
from rareshot.checkpoint import Run, versions
from rareshot.federated import refuse_other_than_episodic
from rareshot.federated.client import Introduction, client_seed, is_a_name
from rareshot.federated.records import CONFIG, STATE, arrays_of, state_of
from rareshot.federated.server import Round, Update, run_rounds
from rareshot.methods import KINDS
from rareshot.types import State

app = ServerApp()
PATIENCE = 2.0
"""Seconds between two looks at who is there."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds; the run's folder is on this machine."""
    told = context.run_config
    out = Path(str(told["out"]))
    method = refuse_other_than_episodic(config.from_json(KINDS, json.loads(str(told["method"]))), str(told["name"]))
    seed, size, local = int(told["seed"]), int(told["size"]), int(told["local"])
    run = Run(method, str(told["name"]), seed, size, str(told["scale"]), {"name": "federated"}, versions())
    asked = {"method": json.dumps(config.to_json(method)), "size": size, "federation": str(told["federation"])}
    clients = OverFlower(grid, asked, seed=seed, fewest=int(told["fewest"]), timeout=float(told["timeout"]))

    def say(done: Round) -> None:
        told = ", ".join(f"{name} {said['loss']:.3f}" for name, said in done.record["clients"].items())
        refused = "".join(f"; without {name}: {why}" for name, why in done.record["refused"].items())
        print(f"rareshot: iteration {done.iteration}/{method.iterations}; loss at {told}{refused}", flush=True)

    run_rounds(out, run, clients, local=local, fewest=int(told["fewest"]), observe=say)
    print(f"rareshot: learner: {out / 'learner.safetensors'}", flush=True)


@dataclass
class OverFlower:
    """The clients of `rareshot.federated.server`, reached by Flower."""

    grid: Grid
    asked: Mapping[str, Any]
    seed: int
    fewest: int
    timeout: float
    """Seconds that a round may take; who has not answered by then is not in its mean."""
    known: dict[int, tuple[str, Introduction]] = field(default_factory=dict)
    """Node → its name and what it has."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Client → its number, for the seed of its tasks."""

    def introductions(self) -> dict[str, Introduction]:
        """Client → what it has; waits until there are enough."""
        while True:
            self._introduce()
            if len(self.known) >= self.fewest:
                return dict(self.known.values())
            print(f"rareshot: {len(self.known)} of {self.fewest} clients are here; waiting for more", flush=True)
            time.sleep(PATIENCE)

    def train(self, state: State, first: int, until: int) -> dict[str, Update | str]:
        """Client → its update, or why there is none. Who came since the last round takes part."""
        self._introduce()
        arrays, here = arrays_of(state), set(self.grid.get_node_ids())
        answers: dict[str, Update | str] = {
            name: "is not there" for node, (name, _) in self.known.items() if node not in here
        }
        messages = []
        for node in sorted(here & self.known.keys()):
            name, _ = self.known[node]
            answers[name] = f"has not answered within {self.timeout:g} seconds"
            asked = {**self.asked, "seed": client_seed(self.seed, self.numbers[name]), "first": first, "until": until}
            content = RecordDict({STATE: arrays, CONFIG: ConfigRecord(asked)})
            messages.append(Message(content, node, MessageType.TRAIN))
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            name, _ = self.known[reply.metadata.src_node_id]
            answers[name] = _update(reply)
        return answers

    def _introduce(self) -> None:
        """Ask those who are new what they have."""
        new = sorted(set(self.grid.get_node_ids()) - self.known.keys())
        asked = RecordDict({CONFIG: ConfigRecord(dict(self.asked))})
        messages = [Message(asked, node, MessageType.QUERY) for node in new]
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout) if messages else ():
            try:
                name, said = _introduction(reply)
            except ValueError as error:
                print(f"rareshot: node {reply.metadata.src_node_id} is left out: {error}", flush=True)
                continue
            before = [node for node, (other, _) in self.known.items() if other == name]
            if any(node in self.grid.get_node_ids() for node in before):
                print(f"rareshot: a second client calls itself {name}; it is left out", flush=True)
                continue
            for node in before:  # it was restarted, and Flower knows it by another number now
                del self.known[node]
            self.known[reply.metadata.src_node_id] = (name, said)
        for name in sorted(name for name, _ in self.known.values()):
            self.numbers.setdefault(name, len(self.numbers))


def _introduction(reply: Message) -> tuple[str, Introduction]:
    said = _said(reply)
    name = str(said.get("name", ""))
    if not is_a_name(name):
        raise ValueError("its name has to be 1 to 64 letters, digits, - and _")
    return name, Introduction.from_json(str(said.get("introduction", "")))


def _update(reply: Message) -> Update | str:
    try:
        record = json.loads(str(_said(reply).get("record", "{}")))
        if not isinstance(record, dict) or type(record.get("loss")) is not float or not math.isfinite(record["loss"]):
            raise ValueError("it says no loss")
        return Update(state_of(reply.content.array_records[STATE]), {"loss": record["loss"], **_figures(record)})
    except (ValueError, KeyError, RecursionError) as error:
        return f"sent no update ({error})"


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Of what a client says of a round, the numbers that are known."""
    return {name: record[name] for name in ("skipped", "validation_auc") if type(record.get(name)) in (int, float)}


def _said(reply: Message) -> dict[str, Any]:
    """The words of an answer.

    Raises:
        ValueError: if it is an error.
    """
    if reply.has_error():
        raise ValueError(f"Flower says: {reply.error.reason}")
    said = dict(reply.content.config_records.get(CONFIG, {}))
    if "failed" in said:
        raise ValueError(str(said["failed"])[:200])
    return said
