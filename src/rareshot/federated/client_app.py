"""The door to Flower at a hospital, opened by `flower-supernode`; needs the extra `federated`.

    flower-supernode --superlink HOST:PORT --node-config 'name="north" data="/images" memory="/var/lib/rareshot"' ...

What is asked comes from the server and is checked; what is said to it is counts, mean colours, weights and losses. Why a round
failed is said in this machine's own log alone: an error may name files.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from rareshot import config
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.federated import Episodic, refuse_other_than_episodic
from rareshot.federated.client import enough, introduce, train_round
from rareshot.federated.records import CONFIG, STATE, arrays_of, state_of
from rareshot.federated.server import one_line
from rareshot.machine import settle, use_device
from rareshot.methods import KINDS
from rareshot.run_record import LARGEST

app = ClientApp()


@app.query()
def introduction(message: Message, context: Context) -> Message:
    """What this hospital has: see `rareshot.federated.client.Introduction`."""

    def answer(asked: dict[str, Any]) -> RecordDict:
        name, _ = _setting(context, "name"), _setting(context, "memory")
        method = _method(asked)
        said = {"name": name, "introduction": introduce(method, _images(method, asked, context)).to_json()}
        return RecordDict({CONFIG: ConfigRecord(said)})

    return _answered(message, answer)


@app.train()
def training(message: Message, context: Context) -> Message:
    """A round on this hospital's images."""

    def answer(asked: dict[str, Any]) -> RecordDict:
        first, until, seed = (_whole(asked, name) for name in ("first", "until", "seed"))
        method = _method(asked)
        if not first < until <= method.iterations:
            raise ValueError(f"the server asks for iterations {first} to {until} of {method.iterations}")
        federation = str(asked.get("federation"))
        if not re.fullmatch("[0-9a-f]{16}", federation):
            raise ValueError("the server names its training by something else than 16 hexadecimal digits")
        images = _images(method, asked, context)
        state = state_of(message.content.array_records[STATE], method.blank(images.size).state())
        memory = Path(_setting(context, "memory")) / federation
        update = train_round(method, images, state, memory, seed=seed, first=first, until=until)
        said = ConfigRecord({"record": json.dumps(update.record)})
        return RecordDict({STATE: arrays_of(update.state), CONFIG: said})

    return _answered(message, answer)


def _answered(message: Message, answer: Callable[[dict[str, Any]], RecordDict]) -> Message:
    """The reply; whatever goes wrong is told here, and there only that it did: Flower would send the error's own words."""
    try:
        return Message(answer(dict(message.content.config_records[CONFIG])), reply_to=message)
    except Exception as error:
        print(f"rareshot: {type(error).__name__}: {one_line(str(error))}", flush=True)
        failed = ConfigRecord({"failed": f"{type(error).__name__} at the client; its own log says more"})
        return Message(RecordDict({CONFIG: failed}), reply_to=message)


def _method(asked: dict[str, Any]) -> Episodic:
    try:
        values = json.loads(str(asked["method"]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the server sent no method ({error})") from error
    return refuse_other_than_episodic(config.from_json(KINDS, values), "the server's method")


def _images(method: Episodic, asked: dict[str, Any], context: Context) -> LabelledImages:
    """This hospital's common diseases, of which tasks can be made."""
    size = _whole(asked, "size")
    if not 1 <= size <= LARGEST:
        raise ValueError(f"the server asks for images of {size} pixels; 1 to {LARGEST} can be")
    settle(int(context.node_config["threads"]) if "threads" in context.node_config else None)
    use_device(str(context.node_config.get("device", "auto")))
    rare = tuple(name for name in str(context.node_config.get("rare", "")).split(",") if name)
    return enough(method, load(Path(_setting(context, "data")), size, rare=rare).common())


def _whole(asked: dict[str, Any], name: str) -> int:
    value = asked.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"the server sent {name}={value!r}, which should be a whole number")
    return value


def _setting(context: Context, name: str) -> str:
    """What this hospital's --node-config says."""
    if not str(context.node_config.get(name, "")):
        raise ValueError(f"--node-config of flower-supernode lacks {name}; it needs name, data and memory")
    return str(context.node_config[name])
