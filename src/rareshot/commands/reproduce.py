"""`rareshot reproduce TABLE`: every row of a table of the paper by one command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro
from rich import box
from rich.progress import Progress
from rich.table import Table as Shown

from rareshot.atomic import write_atomically
from rareshot.cells import Step, Todo, fill, found, learner_of, survey
from rareshot.checkpoint import last_training_state
from rareshot.commands.fit import note_of
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, STATUS, columns, stoppable
from rareshot.curves import curves, missing, read_curves
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import synthetic
from rareshot.evaluation import PROTOCOLS, RUNS, Protocol
from rareshot.experiments import TABLES, Cell, Row, Table, cells_of
from rareshot.methods.supervised import SupervisedLearner
from rareshot.report import Section, page
from rareshot.reporting.training import fine_tuning_sections, loss_section
from rareshot.scales import SCALES
from rareshot.setting import Setting, possible
from rareshot.statistics import Interval
from rareshot.training import TrainingDivergedError

LEAD = "A figure of the DAML paper (Li et al., MICCAI 2020), drawn by rareshot. A research tool, not a medical device."
SMOKE_LESIONS = 60
"""Of each class of the synthetic set."""


@dataclass(frozen=True)
class Reproduce:
    """Fill a table of the paper: fit and evaluate what is missing, then print it beside the paper's figures.

    table1 (all methods, k = 1, 3, 5), table2 (backbone, augmentation, eta), table3 (Dermofit; PAD-UFES-20 may stand in),
    twins (methods beside their transductive twins); fig2 (Eq. 3, needs no data), fig3 (fine-tuning, step by step). What
    is done is not done again, and tables share cells: stop it when you like (Ctrl-C, SIGTERM, even kill -9), and the same
    command goes on. For a table it may be started again beside itself, say once a core with --threads 1, or a few times on one
    GPU: the processes share the work, where the file system has locks (not on Windows and some network disks).

    Example: rareshot reproduce table1 --data isic2018/ --rows maml --rows daml --shots 5
    """

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """table1, table2, table3, twins, fig2 or fig3."""
    data: Path | None = None
    """A data set: folder, table, .npz or store; see `rareshot data check`. None: synthetic pictures, at the smoke scale only."""
    train_data: Path | None = None
    """Train on the common classes of this data set instead: for table3, the other reading of the paper (the ISIC classes)."""
    scale: Literal["smoke", "laptop", "paper"] = "laptop"
    """paper: 84 px, 3000 iterations, warm-up 1500. laptop: 64 px, 1000, 500. smoke: 32 px, 20, 10, narrow networks, 20 episodes:
    shows in minutes that everything runs; its numbers mean nothing."""
    seeds: int | None = None
    """Training seeds 0 to seeds - 1. With several, an interval is over them. None: 3; 1 at the smoke scale."""
    rows: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A row, by its key; say it once for each. None: all. --dry-run lists them."""
    shots: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """A k; say it once for each. None: all of the table's."""
    protocol: Annotated[tuple[Protocol, ...], tyro.conf.UseAppendAction] = ()
    """How to evaluate, see `rareshot evaluate`; say it once for each. None: paper, full and, where the data allow it, site;
    paper alone at the smoke scale."""
    by_image: bool = False
    """Draw images instead of lesions, so that photographs of one may stand on both sides: in the paper protocol, beside what was
    drawn by lesion, and `rareshot report` shows both. Not for reporting as the result."""
    out: Path = Path("results")
    """Results go to OUT/SCALE/DATA/."""
    dry_run: bool = False
    """Compute nothing: list the cells in the order of work with what they share and lack, and print the table as it stands."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def reproduce(args: Sequence[str]) -> None:
    """Parse and run `rareshot reproduce`."""
    options = parse(Reproduce, args, "rareshot reproduce")
    if options.table not in (*TABLES, *FIGURES):
        raise ValueError(f"no table {options.table!r}; choose from {', '.join((*TABLES, *FIGURES))}")
    if options.table in FIGURES:
        _refuse_unused(options)
        FIGURES[options.table](options)
        return
    table = TABLES[options.table]
    seeds = SCALES[options.scale].seeds if options.seeds is None else options.seeds
    cells = cells_of(table, seeds=seeds, rows=options.rows, shots=options.shots)
    options.machine.start()
    size = SCALES[options.scale].size
    train = load_images(options.train_data, size, ()) if options.train_data else None
    setting = Setting.of(table, options.out, options.scale, _images(options, size), train, by_image=options.by_image)
    asked: Sequence[Protocol] = [each for each in PROTOCOLS if each in options.protocol]
    if options.by_image:
        if set(asked) - {"paper"}:
            raise ValueError(
                f"--by-image draws episodes of the paper protocol, not of {', '.join(asked)}; leave --protocol out"
            )
        asked = ["paper"]
    shots = sorted({cell.shot for cell in cells})
    protocols = possible(setting, asked or SCALES[options.scale].protocols, shots, strict=bool(asked))
    rows = {cell.row.key: cell.row for cell in cells}
    empty: Mapping[str, Exception] = {}
    if options.dry_run:
        _show_todos(survey(setting, cells, protocols), setting)
    else:
        with stoppable() as stop, _bars(options.table) as show:

            def observe(step: Step) -> None:
                show(step)
                stop.raise_if_asked()

            empty = fill(setting, cells, protocols, observe=observe, asked=lambda: bool(stop.number))
    for protocol in protocols:
        if protocol != "site":
            _show(table, setting, protocol, rows, shots, seeds)
    _close(setting, empty)


def _refuse_unused(options: Reproduce) -> None:
    """Refuse what is for tables alone.

    Raises:
        ValueError: naming the option.
    """
    plain = Reproduce(options.table)
    unused = ("train_data", "seeds", "rows", "shots", "protocol", "by_image")
    for name in (*unused, "data", "scale") if options.table == "fig2" else unused:
        if getattr(options, name) != getattr(plain, name):
            option, given = f"--{name.replace('_', '-')}", getattr(options, name)
            told = " ".join(map(str, given)) if isinstance(given, tuple) else given
            raise ValueError(f"{option} {told}: {options.table} is a figure and knows no such option; leave it out")


def _fig2(options: Reproduce) -> None:
    """Eq. (3) itself: nothing is computed from data."""
    if options.dry_run:
        CONSOLE.print("fig2: draw Eq. (3), from no data")
        return
    _write(options.out / "fig2.html", "The difficulty-aware loss", [loss_section()])


def _fig3(options: Reproduce) -> None:
    """Fine-tuning the conv4 row of Table 1."""
    options.machine.start()
    images = _images(options, SCALES[options.scale].size)
    setting = Setting.of(TABLES["table1"], options.out, options.scale, images)
    row = next(row for row in TABLES["table1"].rows if row.key == "finetune-conv4")
    file = setting.folder / "fig3.jsonl"
    cell = Cell(row, 5, 0)
    if options.dry_run:
        name, _ = setting.run_of(cell)
        work = [] if (setting.run_folder(name) / "learner.safetensors").exists() else [f"fit {name}"]
        work += [f"fine-tune and judge {RUNS} runs at k = {shot}" for shot in missing(file)]
        CONSOLE.print(f"{file}: {'; '.join(work) or 'done'}", soft_wrap=True)
        return
    with stoppable() as stop, _bars("fig3") as show:

        def tell(part: str, done: int, total: int, record: Mapping[str, Any]) -> None:
            show(Step(part, done, total, record, 0, 2))
            stop.raise_if_asked()

        def observe(done: int, total: int) -> None:
            show(Step(f"fine-tuning, {RUNS} runs of each k", done, total, {}, 1, 2))
            stop.raise_if_asked()

        learner = learner_of(setting, cell, tell, lambda: bool(stop.number))
        fitted = cast(SupervisedLearner, learner)
        curves(
            file,
            row.key,
            fitted,
            setting.rare,
            scale=setting.scale,
            data=setting.data,
            runs=RUNS,
            observe=observe,
        )
    title = f"Fine-tuning on few images{', smoke scale: its figures mean nothing' if options.scale == 'smoke' else ''}"
    _write(setting.folder / "fig3.html", title, fine_tuning_sections(read_curves(file)))
    CONSOLE.print(f"raw lines: {file}", soft_wrap=True)


FIGURES = {"fig2": _fig2, "fig3": _fig3}


def _write(file: Path, title: str, sections: Sequence[Section]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page(title, LEAD, sections).encode())
    CONSOLE.print(f"page: {file}", soft_wrap=True)


def _images(options: Reproduce, size: int) -> LabelledImages:
    if options.data is not None:
        return load_images(options.data, size, ())
    if options.scale != "smoke":
        raise ValueError(
            f"--data: the {options.scale} scale needs a data set, for instance from `rareshot data fetch`; without one, "
            "--scale smoke draws synthetic pictures"
        )
    STATUS.print("synthetic pictures: no patient, and no claim about one")
    return synthetic(size, lesions=SMOKE_LESIONS)


@contextmanager
def _bars(title: str) -> Iterator[Callable[[Step], None]]:
    """A bar over all that is missing, with the time left if parts go on taking as long as those so far; and one for the part."""
    with Progress(*columns(), console=STATUS, speed_estimate_period=3600) as bars:
        whole = bars.add_task(f"{title}, runs and evaluations", total=None, note="", visible=False)
        part = bars.add_task("", total=None, note="", visible=False)
        now = ""
        seconds: list[float] = []

        def show(step: Step) -> None:
            nonlocal now
            if step.part != now:
                now = step.part
                seconds.clear()
                bars.reset(part, description=f"  {now}", total=step.total, visible=True)
            seconds.append(step.record.get("seconds", 0.0))
            note = _note(step.record, seconds[-20:])
            bars.update(part, completed=step.done, note=note)
            bars.update(whole, completed=step.parts_done + step.done / step.total, total=step.parts, visible=True)

        yield show


def _note(record: Mapping[str, Any], seconds: Sequence[float]) -> str:
    if "loss" in record:
        return note_of(record, seconds)
    return f"AUC {record['auc']:.3f}" if "auc" in record else ""


def _show_todos(todos: Sequence[Todo], setting: Setting) -> None:
    """What would be done, a line a cell, in order; and how much that is."""
    CONSOLE.print(f"{setting.folder}, in the order of work:", soft_wrap=True)
    iterations = episodes = 0
    for cell, run, fit, begins, protocols in todos:
        told = {"start": f"fit {run}", "checkpoint": f"go on with {run}"}
        work = [told.get(begins, f"fit {run} from the end of the warm-up of {begins}")] if fit else []
        judged = f" on {run}" if run and not fit else ""
        work += [f"evaluate {protocol}{judged}" for protocol in protocols]
        iterations += _iterations(setting, cell, begins) if fit else 0
        episodes += sum(len(setting.plans(cell, protocol)) for protocol in protocols)
        CONSOLE.print(f"{cell.name}: {'; '.join(work) or 'done'}", soft_wrap=True)
    runs, evaluations = sum(todo.fit for todo in todos), sum(len(todo.protocols) for todo in todos)
    CONSOLE.print(
        f"left: {runs} runs to fit, {iterations:,} iterations; {evaluations} evaluations, {episodes:,} episodes "
        f"(how long such took: docs/results.md, benchmarks/README.md)",
        soft_wrap=True,
    )


def _iterations(setting: Setting, cell: Cell, begins: str) -> int:
    """Of the run that a cell lacks: all, those behind its checkpoint, or those behind the warm-up that it shares."""
    name, run = setting.run_of(cell)
    whole, warmup = (int(getattr(run.method, field, 0)) for field in ("iterations", "warmup"))
    if begins == "checkpoint":
        state = last_training_state(setting.run_folder(name))
        return whole - (state.iteration if state else 0)
    return whole if begins == "start" else whole - warmup


def _show(
    table: Table, setting: Setting, protocol: Protocol, rows: Mapping[str, Row], shots: Sequence[int], seeds: int
) -> None:
    """Rows by k, with the paper's figures where they are about the same data and protocol."""
    judged, smoke = setting.rare.card.name, setting.scale == "smoke"
    trained_on = setting.common.card.name
    compared = (
        protocol == "paper" and judged == table.data and table.is_about(trained_on) and not (smoke or setting.by_image)
    )
    drawn = ", drawn by image" if setting.by_image else ""
    CONSOLE.print(f"\n{table.title}: {setting.data}, {setting.scale} scale, {protocol} protocol{drawn}", soft_wrap=True)
    beside = "; beside the paper's figure, ours less the paper's" if compared else ""
    CONSOLE.print(f"AUC in %, mean (95 % interval), over what{beside}", soft_wrap=True)
    shown = Shown(show_lines=True, box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for column in ("method", *(f"k = {shot}" for shot in shots)):
        shown.add_column(column, no_wrap=column != "method", overflow="fold")
    for row in table.rows:
        if row.key in rows:
            cells = [
                _text(found(setting, row, shot, protocol, seeds), row.paper.get(shot) if compared else None)
                for shot in shots
            ]
            is_cut = row.episodes is not None and setting.count(row, protocol) == row.episodes
            fewer = f"\nfirst {row.episodes} episodes" if is_cut else ""
            shown.add_row(f"{row.label}\n{row.backbone}{fewer}", *cells)
    CONSOLE.print(shown)
    if smoke:
        CONSOLE.print("smoke scale: these numbers show that everything runs, and nothing else")


def _text(ours: Interval | None, paper: float | None) -> str:
    """A cell in percent: the mean and its interval, over what; the paper's figure, and the mean less that."""
    lines = ["empty"]
    if ours is not None:
        what = ours.kind.removeprefix("over ")
        over = what if what[:1].isdigit() else f"{ours.n} {what}"
        lines = [f"{100 * ours.mean:.1f} ({100 * ours.low:.1f} to {100 * ours.high:.1f})", over]
    if paper is not None:
        lines.append(f"paper {paper:.2f}" + (f", {100 * ours.mean - paper:+.1f}" if ours is not None else ""))
    return "\n".join(lines)


def _close(setting: Setting, empty: Mapping[str, Exception]) -> None:
    """Say what stays empty and why, and where the raw lines are.

    Raises:
        TrainingDivergedError: if a run did.
        NoWeightsError: if cells lack ImageNet's weights.
    """
    reasons: dict[str, list[str]] = {}
    for name, error in empty.items():
        reasons.setdefault(str(error), []).append(name)
    for reason, names in reasons.items():
        CONSOLE.print(f"empty: {', '.join(names)}: {reason}", soft_wrap=True)
    CONSOLE.print(f"raw lines: {setting.folder / 'cells'}; runs: {setting.folder / 'runs'}", soft_wrap=True)
    if empty:
        raise min(empty.values(), key=lambda error: not isinstance(error, TrainingDivergedError))
