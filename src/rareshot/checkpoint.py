"""The states of a run on disk: checkpoints and the learner. safetensors, no pickle.

RUN/run.json                     method, seed, data, versions, commit (`run_record`)
RUN/log.jsonl                    one line an iteration
RUN/checkpoint-<iteration>.safetensors   the last two, each whole or not there
RUN/warmup.safetensors           the state at the end of the warm-up, for runs that share it
RUN/learner.safetensors          when training is done
RUN/trust.safetensors            after `rareshot calibrate`
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from rareshot.atomic import write_atomically
from rareshot.backbones import BACKBONES
from rareshot.backbones.timm_backbone import is_timm_name
from rareshot.methods.pretrained import Pretrained
from rareshot.run_record import read_run
from rareshot.states import misfit
from rareshot.types import Learner, Method, State, TrainingState

KEPT = 2
LIMIT = 2**31
"""Largest checkpoint that is opened, in bytes."""


def save_training_state(folder: Path, state: TrainingState) -> Path:
    """Write a checkpoint, whole or not at all, and keep the last two."""
    file = _save_training_state(folder / f"checkpoint-{state.iteration:06d}.safetensors", state)
    others = [other for other in _checkpoints(folder) if other != file]
    before = [other for other in others if _number(other) < state.iteration]
    for old in set(others) - set(before[-(KEPT - 1) :]):  # what is numbered beyond is of a part that was given up
        old.unlink(missing_ok=True)
    return file


def save_warmup_state(folder: Path, state: TrainingState) -> Path:
    """Keep the end of the warm-up: runs that differ in the outer loss alone branch from it."""
    return _save_training_state(folder / "warmup.safetensors", state)


def warmup_state(folder: Path) -> TrainingState:
    """The end of a run's warm-up.

    Raises:
        FileNotFoundError: if the run has not reached it.
    """
    file = folder / "warmup.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has not reached the end of its warm-up (no warmup.safetensors)")
    return load_training_state(file)


def last_training_state(folder: Path, *, until: int | None = None) -> TrainingState | None:
    """The newest checkpoint that is sound, or None.

    Args:
        until: the last iteration that it may be of; None: any.
    """
    for file in reversed(_checkpoints(folder)):
        if until is not None and _number(file) > until:
            continue
        with suppress(ValueError):
            return load_training_state(file)
    return None


def load_training_state(file: Path) -> TrainingState:
    """A checkpoint.

    Raises:
        ValueError: if the file is damaged or is not a checkpoint.
    """
    tensors, metadata = load_state(file)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimiser": {}, "policy": {}}
    try:
        for name, value in tensors.items():
            part, _, own = name.partition("/")
            parts[part][own] = value
        skipped = tuple(map(int, json.loads(metadata["skipped"])))
        state = TrainingState(int(metadata["iteration"]), **parts, skipped=skipped)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is not a checkpoint of rareshot ({error!r})") from error
    try:
        broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    except RuntimeError as error:  # of a kind of number that torch does not compute with, as float8
        raise ValueError(f"{file} is not a checkpoint of rareshot ({error})") from error
    if broken:
        raise ValueError(f"{file} holds numbers that are not finite, in {', '.join(broken)}")
    return state


def save_learner(folder: Path, learner: Learner) -> Path:
    """Write `learner.safetensors`, whole or not at all."""
    return save_state(folder / "learner.safetensors", learner.state(), {"size": str(learner.size)})


def load_learner(folder: Path, method: Method | None = None) -> Learner:
    """The learner of a finished run.

    Args:
        method: to adapt by, instead of the run's own: one that differs in nothing that training sees.

    Raises:
        FileNotFoundError: if the folder holds no run, or the run is not finished.
        ValueError: if a file is damaged or does not fit the method.
    """
    run = read_run(folder)
    file = folder / "learner.safetensors"
    if not file.is_file():
        again = (
            "the same `rareshot federate` or `flwr run`"
            if "clients" in run.data
            else f"`rareshot fit {run.name} --data DATA --out {folder} --resume`"
        )
        raise FileNotFoundError(f"{folder} holds no learner yet; go on with {again}")
    method = method or run.method
    try:
        state = load_state(file)[0]
        refuse_larger(method, run.size, state)
        return method.blank(run.size).with_state(state)
    except ValueError as error:
        told = str(error) if str(error).startswith(str(file)) else f"{file}: {error}"
        raise ValueError(f"{told}; copy {folder} anew from where it came, or fit the run again") from error


def refuse_larger(method: Method, size: int, state: State) -> None:
    """Refuse a state that does not fit before memory is taken: a forged width may ask for more than there is.

    Raises:
        ValueError: if the method's network is another, or larger.
    """
    if isinstance(method, Pretrained):  # its weights are a package's, and its state is empty
        return
    backbone = getattr(method, "backbone", "conv4")
    if backbone in BACKBONES:
        refusal = f"the weights do not fit {type(method).__name__} at {size} pixels, as its settings say"
        try:
            with torch.device("meta"):
                own = method.blank(size).state()
        except (RuntimeError, TypeError) as error:  # of a shape that no tensor can have
            raise ValueError(refusal) from error
        told = misfit(own, state)
        if told:
            raise ValueError(f"{refusal}: {told}")
    elif is_timm_name(backbone):
        import timm

        with torch.device("meta"):
            network = timm.create_model(backbone, num_classes=0)
        needed = sum(value.numel() for value in network.parameters())
        if getattr(method, "head", "shared") == "full":
            needed += network.num_features * method.way  # type: ignore[attr-defined]
        given = sum(value.numel() for value in state.values())
        if needed > 2 * given:  # 2: timm leaves out parts of some networks
            raise ValueError(f"backbone {backbone!r} has {needed} weights; the file gives {given}")


def save_state(file: Path, tensors: State, metadata: Mapping[str, str]) -> Path:
    """Tensors and metadata as safetensors, whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(file, save_tensors(plain, dict(metadata)))
    return file


def load_state(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_state` wrote.

    Raises:
        ValueError: if the file is too large, damaged, or not safetensors.
    """
    if file.stat().st_size > LIMIT:
        raise ValueError(f"{file} has {file.stat().st_size} bytes; more than {LIMIT} are not read")
    data = file.read_bytes()
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:  # Runtime: an impossible shape
        raise ValueError(f"{file} is damaged or not a safetensors file: {error}") from error
    return tensors, metadata


def state_hash(state: State) -> str:
    """SHA-256 over names, shapes and bytes: two equal hashes, two equal states."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes())
    return digest.hexdigest()


def _save_training_state(file: Path, state: TrainingState) -> Path:
    tensors = {f"weights/{name}": value for name, value in state.weights.items()}
    tensors |= {f"optimiser/{name}": value for name, value in state.optimiser.items()}
    tensors |= {f"policy/{name}": value for name, value in state.policy.items()}
    return save_state(file, tensors, {"iteration": str(state.iteration), "skipped": json.dumps(state.skipped)})


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("checkpoint-*.safetensors") if _number(file) >= 0), key=_number)


def _number(checkpoint: Path) -> int:
    digits = checkpoint.stem.removeprefix("checkpoint-")
    return int(digits) if digits.isdecimal() else -1
