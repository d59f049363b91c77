"""`rareshot federate simulate|app METHOD`: meta-training that hospitals share, tried on one machine or prepared for Flower."""

import json
import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from rareshot import __version__, config
from rareshot.atomic import write_atomically
from rareshot.commands.fit import method_name, say_next, scale_of
from rareshot.commands.options import Machine, load_images, parse, size_of
from rareshot.commands.terminal import CONSOLE, STATUS, progress, stoppable
from rareshot.data.collection import LabelledImages
from rareshot.federated import SHARED, Episodic, refuse_other_than_episodic
from rareshot.federated.server import run_rounds
from rareshot.federated.simulation import Simulated, split_by
from rareshot.methods import LABELS, METHODS
from rareshot.run_record import Run, versions
from rareshot.scales import SCALES, at_scale
from rareshot.types import Method, Progress

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Simulate(Generic[M]):
    """Share the training between the hospitals of one data set, on this machine, and leave a run's folder.

    The images are split by a column, each part trains by itself, and after every --local iterations all go on from the mean of
    their weights. Compare the learner with that of `rareshot fit` on all images, and with a hospital that stays alone
    (--client NAME): that is what sharing is worth. The same command goes on after a stop, at the beginning of a round.

    Example: rareshot federate simulate daml --data ham10000/ --out runs/shared --scale laptop
    """

    data: Path
    """A data set with a column that tells hospitals apart; see `rareshot data check`."""
    out: Path
    """The run's folder; the clients' memories are in it."""
    method: tyro.conf.OmitArgPrefixes[tyro.conf.AvoidSubcommands[M]]
    by: str | None = None
    """The column; None: the one that the data set's card names (HAM10000: site)."""
    client: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A value of the column to take part; say it once for each. None: all that have enough lesions."""
    local: int = 20
    """Iterations of a client between two means. Fewer: closer to training together, and more messages."""
    scale: Literal["paper", "laptop"] = "paper"
    """Preset of image size, iterations and warm-up. paper: 84 px, 3000, 1500. laptop: 64 px, 1000, 500."""
    size: int | None = None
    """Image size in pixels a side, mostly 28 to 224; None: the scale's."""
    seed: int = 0
    """Of weights, episodes and augmentation."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class to keep unseen; say it once for each. None: as the data set's card says."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


@dataclass(frozen=True)
class App(Generic[M]):
    """Write the folder that `flwr run` wants, to share the training between hospitals by Flower (extra `federated`).

    Flower carries the messages, encrypts them, and lets in whom it is told to; docs/federated.md has the commands for each
    hospital and for the machine between them.

    Example: rareshot federate app daml --app shared-app --out runs/shared --fewest 3 --scale laptop
    """

    app: Path
    """The folder to write, new."""
    out: Path
    """The run's folder, on the machine between the hospitals."""
    fewest: int
    """Hospitals that have to be there, and to answer in every round."""
    method: tyro.conf.OmitArgPrefixes[tyro.conf.AvoidSubcommands[M]]
    local: int = 20
    """Iterations of a client between two means."""
    timeout: float = 3600
    """Seconds that a round may take; a hospital that has not answered by then is not in its mean."""
    scale: Literal["paper", "laptop"] = "paper"
    """Preset of image size, iterations and warm-up. paper: 84 px, 3000, 1500. laptop: 64 px, 1000, 500."""
    size: int | None = None
    """Image size in pixels a side, mostly 28 to 224; None: the scale's."""
    seed: int = 0
    """Of weights, episodes and augmentation."""


COMMANDS: dict[str, type[Simulate[Any] | App[Any]]] = {"simulate": Simulate, "app": App}


def federate(args: Sequence[str]) -> None:
    """Parse and run `rareshot federate`."""
    if args and args[0] in ("-h", "--help"):
        CONSOLE.print(
            f"rareshot federate simulate|app METHOD: {__doc__.split(': ')[1].strip()}\n"
            "more: rareshot federate simulate daml --help"
        )
        return
    if not args or args[0] not in COMMANDS:
        raise ValueError(f"federate needs one of {', '.join(COMMANDS)}" + (f"; got {args[0]!r}" if args else ""))
    command = f"federate {args[0]}"
    name, scale = method_name(args[1:], command, SHARED), scale_of(args)
    preset = at_scale(refuse_other_than_episodic(METHODS[name], name), scale)
    missing = dict.fromkeys(("data", "out") if args[0] == "simulate" else ("app", "out", "fewest"), tyro.MISSING)
    kind: Any = COMMANDS[args[0]]
    default = kind(**missing, method=preset, scale=scale)
    options = parse(kind[type(preset)], args[2:], f"rareshot {command} {name}", default=default)
    if options.local < 1:
        raise ValueError(f"--local {options.local}: at least 1 iteration is needed between two means")
    size = size_of(options.size, scale)
    if not 0 <= options.seed < 2**62:
        raise ValueError(f"--seed {options.seed}: must be at least 0 and below 2^62, as each client counts on from it")
    options.method.blank(size)  # a network that cannot be built is said before anything begins
    own = options.method != preset or size != SCALES[scale].size
    if isinstance(options, App):
        _write_app(options, name, size, "own" if own else scale)
    else:
        _simulate(options, name, size, "own" if own else scale)


def _simulate(options: Simulate[Any], name: str, size: int, scale: str) -> None:
    options.machine.start()
    method: Episodic = options.method
    images = load_images(options.data, size, options.rare)
    by = options.by or images.card.site_column
    if not by:
        raise ValueError(f"{images.card.name} says of no column that it tells hospitals apart; name one with --by")
    clients, left_out = _clients(options, method, images.common(), by)
    for client, part in clients.items():
        counts = ", ".join(f"{each} {lesions}" for each, (_, lesions) in part.counts().items())
        STATUS.print(f"client {client}: lesions of {counts}")
    for client, why in left_out.items():
        STATUS.print(f"no client: {client or '(nothing written)'}: {why}")
    run = Run(method, name, options.seed, size, scale, {"name": images.card.name, "by": by}, versions())
    title, total = f"{LABELS[name]}, {len(clients)} clients", method.iterations * len(clients)
    with stoppable() as stop, progress(title, total) as show:
        done = dict.fromkeys(clients, 0)

        def watch(client: str, now: Progress) -> None:
            done[client] = now.iteration
            show(sum(done.values()), note=f"{client}  {_loss(now.record)}")
            if sum(done.values()) < total:
                stop.raise_if_asked()

        at = Simulated(method, clients, options.out / "clients", options.seed, watch)
        learner = run_rounds(options.out, run, at, local=options.local, fewest=len(clients))
    CONSOLE.print(f"learner: {options.out / 'learner.safetensors'}", soft_wrap=True)
    say_next(options.out, learner, options.data, options.rare, images)


def _clients(
    options: Simulate[Any], method: Episodic, common: LabelledImages, by: str
) -> tuple[dict[str, LabelledImages], dict[str, str]]:
    """Who takes part; and who does not, and why."""
    clients, left_out = split_by(method, common, by)
    unknown = [name for name in options.client if name not in clients]
    if unknown:
        why = left_out.get(unknown[0], f"the column {by} has no such value; clients are {', '.join(clients)}")
        raise ValueError(f"--client {unknown[0]}: {why}")
    if options.client:
        return {name: clients[name] for name in options.client}, {}
    return clients, left_out


def _loss(record: Mapping[str, Any]) -> str:
    return "no finite task" if record["loss"] is None else f"loss {record['loss']:.3f}"


def _write_app(options: App[Any], name: str, size: int, scale: str) -> None:
    if options.fewest < 1:
        raise ValueError(f"--fewest {options.fewest}: at least 1 hospital has to be there")
    if not 0 < options.timeout < math.inf:
        raise ValueError(f"--timeout {options.timeout}: a round needs some seconds")
    if options.app.exists() and (not options.app.is_dir() or any(options.app.iterdir())):
        raise ValueError(f"--app {options.app}: there is something already; name an empty or new folder")
    told = {
        "method": json.dumps(config.to_json(options.method)),
        "name": name,
        "scale": scale,
        "size": size,
        "seed": options.seed,
        "local": options.local,
        "fewest": options.fewest,
        "timeout": float(options.timeout),
        "out": str(options.out.resolve()),
        "federation": secrets.token_hex(8),
    }
    options.app.mkdir(parents=True, exist_ok=True)
    written = "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f") for key, value in told.items()
    )  # such JSON is TOML, but for DEL
    write_atomically(options.app / "pyproject.toml", (APP + written).encode())
    CONSOLE.print(f"app: {options.app}", soft_wrap=True)
    CONSOLE.print(
        f"next: start Flower as docs/federated.md says, then flwr run {shlex.quote(str(options.app))} shared --stream",
        soft_wrap=True,
    )


APP = f"""# Written by `rareshot federate app`, for `flwr run`. rareshot with its extra `federated` has to be installed at every
# hospital, and on the machine between them.
[project]
name = "rareshot-federated"
version = "{__version__}"
dependencies = []

[tool.flwr.app]
publisher = "rareshot"

[tool.flwr.app.components]
serverapp = "rareshot.federated.server_app:app"
clientapp = "rareshot.federated.client_app:app"

[tool.flwr.app.config]
"""
"""The head of the app's pyproject.toml; the training's own values follow."""
