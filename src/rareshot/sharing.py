"""Learners that travel: a run's folder to another folder or a Hugging Face repository, and back, checked.

What travels is the learner, its settings, its calibration, the summaries of its evaluations and a model card. safetensors,
JSON and Markdown; no pickle, no code. What comes is written beside its place, checked as a whole, and only then put there.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from rareshot.bundle import run_of_others
from rareshot.checkpoint import LIMIT, load_learner
from rareshot.data.files import read_file
from rareshot.model_card import CARD, MADE, MAX_BYTES, SUMMARY, model_card
from rareshot.run_record import Run
from rareshot.trust_file import NAME as TRUST

RUN, LEARNER = "run.json", "learner.safetensors"
LIMITS = {RUN: MAX_BYTES, LEARNER: LIMIT, TRUST: 64 * 2**20, CARD: MAX_BYTES}
"""File → most bytes that are taken; summaries have `MAX_BYTES` too. Nothing else travels."""
HUB = re.compile(r"hf://([^/\s]+/[^/\s]+)")
UNREACHABLE: tuple[type[Exception], ...] = (OSError, *cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__))
"""What fails when a hub does: the second is the error of whichever HTTP library its client uses."""


def push(folder: Path, target: str, *, hub: HfApi | None = None) -> str:
    """Copies a finished run to `target`; returns where it is.

    A card that somebody wrote into the run's folder (README.md) goes along as it is; otherwise one is made. A new repository
    of a hub is private; one that is there has what is sent and nothing of before.

    Args:
        folder: of a finished run.
        target: a folder that is not there yet or is empty, or hf://OWNER/NAME.
        hub: to talk to; None: the one that `huggingface_hub` is set up for.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: if a file of it is damaged, the target holds something, or the hub refuses.
    """
    repository = _repository(target)
    with _whole(Path(target) if repository is None else None) as stage:
        for name, data in _of_folder(folder):
            (stage / name).write_bytes(data)
        card = model_card(folder)
        if not (stage / CARD).exists() or MADE.encode() in (stage / CARD).read_bytes():
            (stage / CARD).write_text(card, encoding="utf-8")
        run = check(stage)
        if repository is None:
            return target
        hub = hub or HfApi()
        with _said(target):
            hub.create_repo(repository, private=True, exist_ok=True)
            hub.upload_folder(
                repo_id=repository,
                folder_path=stage,
                commit_message=f"rareshot learner: {run.name}",
                delete_patterns=[*LIMITS, "*.summary.json"],  # what is not sent again belongs to another learner
            )
        return f"{hub.endpoint}/{repository}"


def pull(source: str, out: Path, *, hub: HfApi | None = None) -> Run:
    """Fetches a learner into the new folder `out`, which then is a run's folder like any other.

    Args:
        source: a folder, or hf://OWNER/NAME.
        out: a folder that is not there yet or is empty.
        hub: to talk to; None: the one that `huggingface_hub` is set up for.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: naming the file and the rule, if anything is not sound; `out` is then as it was.
    """
    repository = _repository(source)
    if repository is None and not Path(source).is_dir():
        raise FileNotFoundError(f"{source}: no such learner; give a folder, or a repository as hf://OWNER/NAME")
    with _whole(out) as stage:
        files = _of_folder(Path(source)) if repository is None else _of_hub(repository, source, hub or HfApi())
        for name, data in files:
            (stage / name).write_bytes(data)
        try:
            return check(stage)
        except (ValueError, FileNotFoundError, RecursionError) as error:
            raise ValueError(f"{source}: {str(error).replace(f'{stage}/', '')}") from error


def check(folder: Path) -> Run:
    """Everything in a folder that others have filled: settings, weights, calibration, summaries.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: naming the file, if one is not sound.
    """
    for name in (RUN, LEARNER):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name} is missing: this is no learner of rareshot")
    try:
        run = run_of_others(json.loads(read_file(folder / RUN, limit=LIMITS[RUN])))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RUN} is not sound: {error}") from error
    try:
        learner = load_learner(folder)
    except (ValueError, RuntimeError) as error:  # Runtime: timm's, of a network that cannot be built so
        raise ValueError(f"{LEARNER}: {error}") from error
    if not learner.inductive and (folder / TRUST).exists():
        raise ValueError(f"{TRUST}: this learner is transductive, and a calibration is of inductive ones alone")
    model_card(folder)  # reads calibration and summaries
    return run


def _repository(place: str) -> str | None:
    """OWNER/NAME where it is an address; None where it is a folder.

    Raises:
        ValueError: if it is an address of something else: it must not become a folder of that name.
    """
    if "://" not in place and not place.startswith("hf:"):
        return None
    found = HUB.fullmatch(place.removesuffix("/"))
    if found is None:
        raise ValueError(f"{place}: is no address of a repository; give hf://OWNER/NAME, or a folder")
    return found[1]


def _of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    names = [name for name in LIMITS if (folder / name).exists()]
    names += sorted(file.name for file in folder.iterdir() if SUMMARY.fullmatch(file.name))
    # Hugging Face's cache holds links to its blobs.
    within = folder.resolve(), folder.resolve().parent.parent / "blobs"
    for name in names:
        target = (folder / name).resolve()
        if not any(target.is_relative_to(each) for each in within):
            raise ValueError(f"{folder / name}: is a link that leads out of the folder; put the file itself there")
        yield name, read_file(target, limit=LIMITS.get(name, MAX_BYTES))


def _of_hub(repository: str, source: str, hub: HfApi) -> Iterator[tuple[str, bytes]]:
    with _said(source), tempfile.TemporaryDirectory() as cache:
        told = hub.model_info(repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in told.siblings or ()}
        for name in sorted(name for name in sizes if name in LIMITS or SUMMARY.fullmatch(name)):
            limit = LIMITS.get(name, MAX_BYTES)
            if sizes[name] > limit:
                raise ValueError(f"{source}: {name} has {sizes[name]} bytes; at most {limit} are taken")
            path = hub.hf_hub_download(repository, name, revision=told.sha, cache_dir=cache)
            yield name, read_file(path, limit=limit)


@contextmanager
def _said(address: str) -> Iterator[None]:
    """Whatever a hub's client raises, in one line with the way out."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{address}: is no possible name of a repository; give hf://OWNER/NAME") from error
    except UNREACHABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{address}: {reason}; is the name right, is there a network, and for a private repository or to push: did you "
            f"run `hf auth login`, or set HF_TOKEN?"
        ) from error


@contextmanager
def _whole(out: Path | None) -> Iterator[Path]:
    """A folder to fill, which becomes `out` if all goes well, and is gone otherwise; None: gone in any case.

    Raises:
        ValueError: if `out` holds something, or is a file.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} is there already; choose another folder, or remove it first")
        out.parent.mkdir(parents=True, exist_ok=True)
    near = None if out is None else out.parent
    stage = Path(tempfile.mkdtemp(prefix=".rareshot-", dir=near))
    try:
        yield stage
        if out is not None:
            stage.chmod(0o755)  # mkdtemp's is for one's own eyes
            if out.exists():
                out.rmdir()
            stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
