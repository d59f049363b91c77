"""What a run is: `RUN/run.json`, written whole and read with care, whoever changed it since."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rareshot import config, machine
from rareshot.atomic import write_atomically
from rareshot.data.cards import CARDS
from rareshot.methods import KINDS
from rareshot.types import Method

LARGEST = 1024
"""Largest image size in pixels."""
PARTS: dict[str, type] = {"name": str, "seed": int, "scale": str, "data": dict, "versions": dict}
"""Part of a run → its kind; method and size have rules of their own."""


@dataclass(frozen=True)
class Run:
    """What a run is: enough to make it again."""

    method: Method
    name: str
    """The method's name on the command line."""
    seed: int
    size: int
    """Image size in pixels."""
    scale: str
    """The preset that it was started with: paper, laptop, smoke or own."""
    data: Mapping[str, Any]
    """Name, classes and fingerprint of the data, common classes only."""
    versions: Mapping[str, str]

    @property
    def licence(self) -> str:
        """Of the images that it was trained on; empty where it was trained on none, or their data set is not known."""
        if not self.method.iterations:
            return ""
        card = CARDS.get(str(self.data.get("name")))
        return card.licence if card else ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "method": config.to_json(self.method)}


PACKAGES = ("rareshot", "torch", "numpy", "scipy", "scikit-learn", "timm")
"""Whose versions numbers may depend on."""


def versions() -> dict[str, str]:
    """What the numbers may depend on besides the configuration: packages, Python, the commit where there is one, the machine.

    Of a CPU its kind, with the vector instructions that torch uses: sums are rounded by these, and training carries the rounding
    far; plain training also by the number of threads.
    """
    packages = {name: version(name) for name in PACKAGES}
    mkl = f", MKL {os.environ['MKL_CBWR']}" if "MKL_CBWR" in os.environ else ""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}{mkl}"
    gpu = {"gpu": torch.cuda.get_device_name()} if machine.device().type == "cuda" else {}
    threads = str(torch.get_num_threads())
    return {**packages, "python": platform.python_version(), "commit": _commit(), "cpu": cpu, "threads": threads, **gpu}


def write_run(folder: Path, run: Run) -> None:
    """Write `run.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "run.json", json.dumps(run.to_json(), indent=1).encode())


def read_run(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file, if it is damaged or a part of it is not sound.
    """
    file = folder / "run.json"
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file; give the folder of its run, {folder.parent}")
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run (no run.json); make one with `rareshot fit METHOD --out {folder}`"
        )
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}; fit the run again") from error
    try:
        return run_of(values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}; fit the run again") from error


def run_of(values: Any) -> Run:
    """The run that `Run.to_json` wrote down, whoever changed it since: every part is of its kind.

    Raises:
        ValueError: naming the part, if one is missing, unknown, of the wrong kind, or out of its bounds.
    """
    if not isinstance(values, dict):
        raise ValueError("run is not a JSON object")
    unknown = values.keys() ^ {part.name for part in fields(Run)}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} unknown or missing")
    for name, kind in PARTS.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name}={values[name]!r} is not of the right kind, {kind.__name__}")
    run = Run(**{**values, "method": config.from_json(KINDS, values["method"])})
    if type(run.size) is not int or not 1 <= run.size <= LARGEST:
        raise ValueError(f"size={run.size!r} must be a whole number up to {LARGEST}")
    refuse_seed(run.seed)
    common, clients = run.data.get("common", []), run.data.get("clients", {})
    if not isinstance(common, list) or not all(isinstance(name, str) for name in common):
        raise ValueError(f"data.common={common!r} is not a list of names")
    if not isinstance(clients, dict) or not all(
        isinstance(each, dict) and type(each.get("number")) is int for each in clients.values()
    ):
        raise ValueError(f"data.clients={clients!r} is not an object of clients with a number each")
    return run


def refuse_seed(seed: int) -> None:
    """A seed that torch, NumPy and a run's file take.

    Raises:
        ValueError: if it is none.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed} must be at least 0 and below 2^63")


def _commit() -> str:
    """Of this very file's repository; empty where the package was installed, if within another repository, or even its own."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        asked = ["git", *words]
        return subprocess.run(
            asked, cwd=here.parent, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return ""
