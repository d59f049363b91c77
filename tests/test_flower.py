"""The doors to Flower: the same answers as on one machine, and what a hostile client or server can send."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import make_images

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'rareshot[federated]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from rareshot import cli, config, validation
from rareshot.checkpoint import load_learner, state_hash
from rareshot.data.store import load
from rareshot.federated import client_app, server_app
from rareshot.federated.client import enough
from rareshot.federated.records import CONFIG, STATE, arrays_of, state_of
from rareshot.federated.server import TooFewClientsError, run_rounds
from rareshot.federated.server_app import OverFlower
from rareshot.federated.simulation import Simulated
from rareshot.losses import DifficultyAware
from rareshot.methods import METHODS
from rareshot.methods.maml import MAML
from rareshot.run_record import Run, read_run

METHOD = MAML(
    width=8,
    shot=1,
    query=2,
    steps=1,
    test_steps=1,
    tasks=1,
    meta_loss=DifficultyAware(),
    iterations=3,
    warmup=2,
    held_out=0.3,
)
ASKED = {"method": json.dumps(config.to_json(METHOD)), "size": 28, "federation": "0123456789abcdef"}
RUN = Run(METHOD, "daml", 3, 28, "own", {"name": "federated"}, {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)
    monkeypatch.setattr(server_app, "PATIENCE", 0.01)


@pytest.fixture(autouse=True)
def a_server_of_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower sets before it starts an app."""
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of images, whose colours differ by chance."""
    root = tmp_path_factory.mktemp("hospitals")
    folders = {name: root / name for name in ("north", "south")}
    for name, folder in folders.items():
        folder.mkdir()
        labels = [label for label in ("nv", "mel", "df") for _ in range(8 if name == "north" else 10)]
        make_images(folder, labels)
    return folders


@dataclass
class InProcess:
    """A `Grid` whose nodes are in this process."""

    nodes: dict[int, dict[str, Any]]
    """Node → its --node-config."""
    spoil: Callable[[int, Message], Message | None] = lambda node, reply: reply
    """What becomes of a node's reply; None: it never comes."""
    asked: list[str] = field(default_factory=list)
    replies: dict[str, Message | None] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            node, number = message.metadata.dst_node_id, str(len(self.replies))
            self.asked.append(message.metadata.message_type)
            context = Context(run_id=1, node_id=node, node_config=self.nodes[node], state=RecordDict(), run_config={})
            self.replies[number] = self.spoil(node, client_app.app(message, context))
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [self.replies[number] for number in message_ids]
        return [reply for reply in found if reply is not None]


def nodes_of(hospitals: dict[str, Path], memory: Path) -> dict[int, dict[str, Any]]:
    return {
        7 + number: {"name": name, "data": str(folder), "memory": str(memory / name), "rare": "df", "threads": 1}
        for number, (name, folder) in enumerate(sorted(hospitals.items(), reverse=True))
    }


def over(grid: InProcess, fewest: int = 2) -> OverFlower:
    return OverFlower(grid, ASKED, seed=3, fewest=fewest, timeout=0.5)  # type: ignore[arg-type]


def test_the_grid_is_asked_for_what_flower_has() -> None:
    assert {"get_node_ids", "push_messages", "pull_messages"} <= set(dir(Grid))


def test_over_flower_the_learner_is_that_of_one_machine(hospitals: dict[str, Path], tmp_path: Path) -> None:
    grid = InProcess(nodes_of(hospitals, tmp_path / "memory"))
    ours = run_rounds(tmp_path / "flower", RUN, over(grid), local=2, fewest=2)
    images = {name: enough(METHOD, load(folder, 28, rare=["df"]).common()) for name, folder in hospitals.items()}
    at = Simulated(METHOD, images, tmp_path / "here", 3)
    theirs = run_rounds(tmp_path / "here", RUN, at, local=2, fewest=2)
    assert state_hash(ours.state()) == state_hash(theirs.state())
    assert grid.asked == [MessageType.QUERY] * 2 + [MessageType.TRAIN] * 4


def _error(node: int, reply: Message) -> Message:
    return Message(Error(0, "it crashed"), reply_to=reply) if node == 7 else reply


def _gone(node: int, reply: Message) -> Message:
    """What Flower says of a node that went offline in a round: an error from nobody that we know."""
    return (
        create_message_error_unavailable_res_message(reply.metadata, "node_unavail")
        if _is_update(node, reply)
        else reply
    )


def _is_update(node: int, reply: Message) -> bool:
    """Of the hospital that is spoilt."""
    return node == 7 and STATE in reply.content


def _forged(node: int, reply: Message) -> Message:
    """It says that it is the other one."""
    if _is_update(node, reply):
        reply.metadata.__dict__["_src_node_id"] = 8
        return with_state(reply, ArrayRecord({"x": Array(np.zeros(1))}))
    return reply


def _bytes(data: bytes) -> Callable[[int, Message], Message]:
    def spoil(node: int, reply: Message) -> Message:
        if _is_update(node, reply):
            broken = {name: Array("float32", (1,), "numpy.ndarray", data) for name in reply.content[STATE]}
            return with_state(reply, ArrayRecord(broken))
        return reply

    return spoil


def _npy(head: str) -> bytes:
    line = head.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def _long_doubles(node: int, reply: Message) -> Message:
    if _is_update(node, reply):
        return with_state(reply, ArrayRecord({name: Array(np.zeros(1, "g")) for name in reply.content[STATE]}))
    return reply


def _large(node: int, reply: Message) -> Message:
    if _is_update(node, reply):
        return with_state(reply, ArrayRecord({name: Array(np.zeros(10**5)) for name in reply.content[STATE]}))
    return reply


def with_state(reply: Message, state: ArrayRecord) -> Message:
    reply.content[STATE] = state
    return reply


def _no_arrays(node: int, reply: Message) -> Message:
    if node == 7 and STATE in reply.content:
        del reply.content[STATE]
    return reply


def _pickled(node: int, reply: Message) -> Message:
    if node == 7 and STATE in reply.content:
        objects = {name: Array("O", (1,), "torch.tensor", b"\x80\x04.") for name in reply.content[STATE]}
        return with_state(reply, ArrayRecord(objects))
    return reply


def _words(node: int, reply: Message) -> Message:
    if node == 7 and STATE in reply.content:
        return with_state(reply, ArrayRecord({name: Array(np.array(["a"])) for name in reply.content[STATE]}))
    return reply


def _no_loss(node: int, reply: Message) -> Message:
    if node == 7 and STATE in reply.content:
        reply.content[CONFIG] = ConfigRecord({"record": '{"loss": NaN}'})
    return reply


def _silent(node: int, reply: Message) -> Message | None:
    return None if node == 7 and STATE in reply.content else reply


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_no_arrays, "sent no update (no weights)"),
        (_bytes(b"rubbish"), "is no array of numbers (ValueError)"),
        (_bytes(b"PK\x03\x04"), "is no array of numbers (BadZipFile)"),
        (_bytes(_npy("{'descr': ((")), "is no array of numbers"),
        (_bytes(_npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**23},)}}")), "is no array of numbers"),
        (_long_doubles, "is no array of numbers (TypeError)"),
        (_pickled, "is no array of numbers (TypeError)"),
        (_words, "is no array of numbers (TypeError)"),
        (_large, "bytes; "),
        (_forged, "a state of 14 weights was expected, and 1 came, or others"),
        (_gone, "Flower says: "),
        (_no_loss, "it says no loss"),
        (_silent, "has not answered within 0.5 seconds"),
    ],
)
def test_a_bad_answer_stays_out_of_the_mean(
    hospitals: dict[str, Path], tmp_path: Path, spoil: Callable[[int, Message], Message | None], told: str
) -> None:
    grid = InProcess(nodes_of(hospitals, tmp_path / "memory"), spoil)
    run_rounds(tmp_path / "run", RUN, over(grid), local=3, fewest=1)
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert list(line["clients"]) == ["north"]
    assert told in line["refused"]["south"]


def test_a_round_of_too_few_ends_the_training(hospitals: dict[str, Path], tmp_path: Path) -> None:
    grid = InProcess(nodes_of(hospitals, tmp_path / "memory"), _no_loss)
    with pytest.raises(TooFewClientsError, match="1 of 2 clients sent a good update"):
        run_rounds(tmp_path / "run", RUN, over(grid), local=3, fewest=2)


def _second_north(node: int, reply: Message) -> Message:
    if node == 7 and STATE not in reply.content:
        reply.content[CONFIG]["name"] = "north"
    return reply


def _bad_name(node: int, reply: Message) -> Message:
    if node == 7 and STATE not in reply.content:
        reply.content[CONFIG]["name"] = "../south"
    return reply


@pytest.mark.parametrize("spoil", [_error, _second_north, _bad_name])
def test_who_is_not_introduced_takes_no_part(
    hospitals: dict[str, Path], tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = InProcess(nodes_of(hospitals, tmp_path / "memory"), spoil)
    assert list(over(grid, fewest=1).introductions()) == ["north"]
    assert "left out" in capsys.readouterr().out


def test_a_restarted_client_goes_on_under_its_name(hospitals: dict[str, Path], tmp_path: Path) -> None:
    grid = InProcess(nodes_of(hospitals, tmp_path / "memory"))
    clients = over(grid)
    clients.introductions()
    state = METHOD.untrained(load(hospitals["north"], 28, rare=["df"]).common(), seed=3).state()
    numbers = {"north": 0, "south": 1}
    assert sorted(clients.train(state, 0, 1, numbers)) == ["north", "south"]
    grid.nodes[99] = grid.nodes.pop(7)
    assert sorted(clients.introductions()) == ["north", "south"]
    answers = clients.train(state, 1, 2, numbers)
    assert {name: type(answer).__name__ for name, answer in answers.items()} == {"north": "Update", "south": "Update"}


def asked(hospitals: dict[str, Path], tmp_path: Path, **changes: Any) -> Message:
    """What a client answers to a server that asks for something odd."""
    state = METHOD.untrained(load(hospitals["north"], 28, rare=["df"]).common(), seed=3).state()
    words = {**ASKED, "first": 0, "until": 1, "seed": 0, **changes}
    content = RecordDict({STATE: arrays_of(state), CONFIG: ConfigRecord(words)})
    grid = InProcess({8: nodes_of(hospitals, tmp_path / "memory")[8]})
    (reply,) = grid.pull_messages(grid.push_messages([Message(content, 8, MessageType.TRAIN)]))
    return reply


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"federation": "../../etc"}, "16 hexadecimal digits"),
        ({"method": "no JSON"}, "the server sent no method"),
        ({"method": '{"kind": "os.system"}'}, "os.system"),
        ({"method": json.dumps(config.to_json(METHODS["svm"]))}, "cannot be federated"),
        ({"size": 10**6}, "images of 1000000 pixels; 1 to 1024 can be"),
        ({"size": "28"}, "which should be a whole number"),
        ({"first": 2, "until": 1}, "iterations 2 to 1 of 3"),
        ({"until": 9}, "iterations 0 to 9 of 3"),
    ],
)
def test_a_client_refuses_what_no_server_should_ask(
    hospitals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    reply = asked(hospitals, tmp_path, **changes)
    assert told in capsys.readouterr().out  # here
    assert reply.content[CONFIG] == {"failed": "ValueError at the client; its own log says more"}  # and not there
    assert not (tmp_path / "memory").exists()


def test_a_client_without_its_settings_says_which(
    hospitals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = InProcess({8: {"name": "north", "data": str(hospitals["north"])}})
    assert over(grid, fewest=0).introductions() == {}
    assert "--node-config of flower-supernode lacks memory" in capsys.readouterr().out


def test_a_state_survives_the_way(hospitals: dict[str, Path]) -> None:
    state = METHOD.blank(28, seed=5).state()
    assert state_hash(state_of(arrays_of(state), state)) == state_hash(state)


@pytest.mark.long
def test_two_hospitals_train_over_real_flower(hospitals: dict[str, Path], tmp_path: Path) -> None:
    """A SuperLink and two SuperNodes on this machine, as docs/federated.md says, each in a process group of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text('[superlink.shared]\naddress = "127.0.0.1:18000"\ninsecure = true\n')
    words = "--size 28 --width 8 --shot 1 --query 2 --iterations 3 --warmup 2 --steps 1 --test-steps 1 --tasks 1 --held-out 0.3"
    place = ["--app", str(tmp_path / "app"), "--out", str(tmp_path / "run"), "--fewest", "2", "--local", "2"]
    assert cli.main(["federate", "app", "daml", *place, "--seed", "3", *words.split()]) == 0
    binaries = Path(sys.executable).parent
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"  # Flower starts its own commands by name
    environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}

    def start(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([str(binaries / command[0]), *command[1:]], env=environment, start_new_session=True)

    link = start("flower-superlink", "--insecure", "--port", "18000", "--disable-runtime-dependency-installation")
    running = [link]
    try:
        for number, (name, folder) in enumerate(sorted(hospitals.items())):
            said = f'name="{name}" data="{folder}" memory="{tmp_path / name}" rare="df" threads=1'
            at = ("--superlink", "127.0.0.1:18000", "--port", str(18010 + number))
            running.append(start("flower-supernode", "--insecure", *at, "--node-config", said))
        flwr = [str(binaries / "flwr")]
        while subprocess.run([*flwr, "list", "shared"], env=environment, capture_output=True).returncode:
            assert link.poll() is None, "the SuperLink has not started; its own words are above"
            time.sleep(1)
        run = [*flwr, "run", str(tmp_path / "app"), "shared", "--stream"]
        subprocess.run(run, env=environment, timeout=240, check=True)
    finally:
        for process in running:
            process.terminate()  # Flower's own children go with it then
            process.wait(30)
    images = {name: enough(METHOD, load(folder, 28, rare=["df"]).common()) for name, folder in hospitals.items()}
    at = Simulated(METHOD, images, tmp_path / "here", 3)
    theirs = run_rounds(tmp_path / "here", RUN, at, local=2, fewest=2)
    assert read_run(tmp_path / "run").data["common"] == ["mel", "nv"]
    assert state_hash(load_learner(tmp_path / "run").state()) == state_hash(theirs.state())
