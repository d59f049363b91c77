"""`rareshot fit METHOD`: meta-train on the common diseases of a data set."""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from rareshot.backbones.efficientnet import imagenet
from rareshot.checkpoint import last_training_state, warmup_state
from rareshot.commands.events import tensorboard_writer
from rareshot.commands.options import Machine, load_images, parse, size_of
from rareshot.commands.terminal import CONSOLE, STATUS, Stop, progress, stoppable
from rareshot.data.collection import LabelledImages
from rareshot.methods import LABELS, METHODS, taught_by
from rareshot.run_record import Run, read_run, refuse_seed, versions
from rareshot.runs import fit_run, share_a_warmup
from rareshot.scales import SCALES, at_scale
from rareshot.types import Learner, Method, Observe, Progress, TrainingState

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Fit(Generic[M]):
    """Train a method on the common diseases of a data set and leave a run's folder.

    The folder holds run.json, log.jsonl, two checkpoints, and at the end learner.safetensors. Stop it when you like
    (Ctrl-C, SIGTERM, even kill -9): the same command with --resume goes on bit-identically.

    Example: rareshot fit METHOD --data isic2018/ --out runs/METHOD --scale laptop
    """

    data: Path
    """A data set: folder, table, .npz or store; see `rareshot data check`."""
    out: Path
    """The run's folder, new or with --resume."""
    method: tyro.conf.OmitArgPrefixes[tyro.conf.AvoidSubcommands[M]]
    scale: Literal["paper", "laptop"] = "paper"
    """Preset of image size, iterations and warm-up. paper: 84 px, 3000, 1500. laptop: 64 px, 1000, 500."""
    size: int | None = None
    """Image size in pixels a side, mostly 28 to 224; None: the scale's."""
    seed: int = 0
    """Of weights, episodes and augmentation."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class to keep unseen; say it once for each. None: as the data set's card says."""
    resume: bool = False
    """Go on from the last checkpoint in --out; method, size and seed are the run's."""
    branch_from: Path | None = None
    """A run of the same data and seed that differs in the loss of Eq. (3) or --decay alone: begin where its warm-up ended."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tensorboard`)."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def fit(args: Sequence[str]) -> None:
    """Parse and run `rareshot fit`."""
    name, scale = method_name(args, "fit"), scale_of(args)
    default: Fit[Any] = Fit(tyro.MISSING, tyro.MISSING, at_scale(METHODS[name], scale), scale)
    begun = _begun(args)
    if begun is not None and begun.name == name:
        own: Any = begun.scale if begun.scale in SCALES and told(args, "--scale") is None else scale
        default = replace(default, method=begun.method, scale=own, size=begun.size, seed=begun.seed)
    kind: Any = Fit
    options: Fit[Any] = parse(kind[type(default.method)], args[1:], f"rareshot fit {name}", default=default)
    refuse_seed(options.seed)
    options.machine.start()
    size = size_of(options.size, scale)
    run = _run_of(options, name, size)
    if taught_by(run.method, ""):
        imagenet()  # where its extra is missing, that is said now and not after the training
    images = load_images(options.data, run.size, options.rare)
    common = images.common()
    facts: dict[str, Any] = {
        "name": images.card.name,
        "common": list(common.classes),
        "fingerprint": common.fingerprint(),
    }
    if not images.card.rare:
        STATUS.print(
            "caution: no class is kept unseen, so nothing will be there to evaluate on; --rare NAME keeps one",
            soft_wrap=True,
        )
    resume = _resume_point(options, facts)
    first = resume.iteration if resume else 0
    if options.resume:
        _refuse_other_data(run, facts, options.out)
    else:
        run = replace(run, data=facts)
    STATUS.print(
        f"{LABELS[name]} on {', '.join(common.classes)} of {images.card.name}, {run.size} px, from iteration {first}"
    )
    with stoppable() as stop, progress(f"fit {name}", run.method.iterations) as show:
        observe = _observer(options, stop, show)
        learner = fit_run(options.out, run, common, resume=resume, observe=observe, asked=lambda: bool(stop.number))
    CONSOLE.print(f"learner: {options.out / 'learner.safetensors'}", soft_wrap=True)
    say_next(options.out, learner, options.data, options.rare, images)


def say_next(run: Path, learner: Learner, data: Path, rare: Sequence[str], images: LabelledImages) -> None:
    """What is to be done with a learner: to evaluate it, where there is something that it has not seen."""
    if not images.card.rare and not learner.inductive:
        return  # `adapt` takes none whose answers depend on other patients
    words = ["evaluate", str(run), "--data", str(data), *(word for name in rare for word in ("--rare", name))]
    if not images.card.rare:
        words = ["adapt", str(run), "--support", "PHOTOGRAPHS", "--out", "FILE"]
    CONSOLE.print(f"next: {shlex.join(['rareshot', *words])}", markup=False, soft_wrap=True)


def method_name(args: Sequence[str], command: str, names: Collection[str] = METHODS) -> str:
    """The method that a command begins with."""
    known = ", ".join(names)
    if args and args[0] in ("-h", "--help"):
        CONSOLE.print(f"rareshot {command} METHOD, with METHOD one of {known}", markup=False)
        CONSOLE.print(f"more: rareshot {command} {next(iter(names))} --help", markup=False)
        raise SystemExit(0)
    if not args or args[0].startswith("-"):
        raise ValueError(f"{command} needs a method first: rareshot {command} METHOD ..., with METHOD one of {known}")
    if args[0] not in METHODS:
        raise ValueError(f"no method {args[0]!r}; choose from {known}")
    return args[0]


def scale_of(args: Sequence[str]) -> Literal["paper", "laptop"]:
    """The preset decides the defaults of other options, so it is read before them; tyro reads and checks it again."""
    return "laptop" if told(args, "--scale") == "laptop" else "paper"


def told(args: Sequence[str], flag: str) -> str | None:
    """What stands behind a flag on the command line, the last of several; None: it is not there."""
    found = [after for name, after in pairwise(args) if name == flag]
    found += [word.removeprefix(f"{flag}=") for word in args if word.startswith(f"{flag}=")]
    return found[-1] if found else None


def _begun(args: Sequence[str]) -> Run | None:
    """The run that is to be resumed, whose own settings hold where nothing is asked for; None: there is none."""
    out = told(args, "--out")
    return (
        read_run(Path(out)) if out is not None and "--resume" in args and (Path(out) / "run.json").is_file() else None
    )


def _run_of(options: Fit[Any], name: str, size: int) -> Run:
    out = options.out
    if options.resume and options.branch_from:
        raise ValueError("--resume goes on with --out and --branch-from begins a new run there; give one of them")
    if options.resume:
        run = read_run(out)
        if run.name != name:
            raise ValueError(f"{out} is a run of {run.name}, not of {name}; resume it with `rareshot fit {run.name}`")
        _refuse_other_settings(options, run)
        return run
    if (out / "run.json").exists():
        raise ValueError(f"{out} holds a run already; go on with it by --resume, or choose another --out")
    scale = options.scale if size == SCALES[options.scale].size else "own"
    if at_scale(options.method, options.scale) != options.method:
        scale = "own"
    return Run(options.method, name, options.seed, size, scale, {}, versions())


def _refuse_other_settings(options: Fit[Any], run: Run) -> None:
    """What is asked for with --resume is the run's own: `fit` gives the options the run's values where nothing is."""
    names = [each.name for each in fields(run.method)]
    other = {name: (getattr(options.method, name), getattr(run.method, name)) for name in names}
    other |= {"size": (options.size, run.size), "seed": (options.seed, run.seed)}
    if run.scale in SCALES:
        other["scale"] = options.scale, run.scale
    told = [
        f"{name}={value} is asked for and the run has {its}" for name, (value, its) in other.items() if value != its
    ]
    if told:
        raise ValueError(
            f"{options.out}: {', '.join(told)}; a run is resumed as it was begun: leave it out, or choose another --out"
        )


def _resume_point(options: Fit[Any], facts: dict[str, Any]) -> TrainingState | None:
    if options.resume:
        return last_training_state(options.out)
    if options.branch_from is None:
        return None
    folder = options.branch_from
    other = read_run(folder)
    _refuse_other_data(other, facts, folder)
    if not share_a_warmup(options.method, other.method) or other.seed != options.seed:
        raise ValueError(
            f"--branch-from {folder}: that run differs in more than meta_loss and decay, so no part is shared"
        )
    return warmup_state(folder)


def _refuse_other_data(run: Run, facts: dict[str, object], folder: Path) -> None:
    if dict(run.data) != facts:
        raise ValueError(
            f"{folder} was fitted on {run.data.get('name')} with fingerprint {run.data.get('fingerprint')}; the data now are "
            f"{facts['name']} with {facts['fingerprint']}: a run goes on with its own data only"
        )


def _observer(options: Fit[Any], stop: Stop, show: Callable[..., None]) -> Observe:
    events = tensorboard_writer(options.out) if options.tensorboard else None
    seconds: list[float] = []

    def observe(now: Progress) -> None:
        if events is not None:
            events(now.record)
        seconds.append(now.record["seconds"])
        show(now.iteration, note=note_of(now.record, seconds[-20:]))
        if now.iteration < now.iterations:
            stop.raise_if_asked()

    return observe


def note_of(record: Mapping[str, Any], seconds: Sequence[float]) -> str:
    """What stands beside the progress bar."""
    tasks = record.get("tasks", ())
    aucs = [task["auc"] for task in tasks if "auc" in task]
    told = [f"loss {record['loss']:.3f}" if record["loss"] is not None else "no finite task"]
    told += [f"AUC {sum(aucs) / len(aucs):.2f}"] if aucs else []
    told += [f"{len(tasks) * len(seconds) / sum(seconds):.1f} tasks/s"] if tasks else []
    told += [f"{record['skipped']} skipped"] if record.get("skipped") else []
    return "  ".join(told)
