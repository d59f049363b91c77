"""How training went: validation curves side by side, the difficulty of each pair, Eq. (3) itself, fine-tuning on few images."""

from collections.abc import Iterator, Sequence

from rareshot.figures import difficulty_over_time
from rareshot.gathered import Log, Record
from rareshot.paper_figures import difficulty_loss, fine_tuning, validation_curves
from rareshot.report import Section
from rareshot.reporting.lines import DAML, Line, Part

SHOWN = ("maml", "task-sampling", DAML)
"""Rows whose training stands in one picture."""
SAME = ("method", "seed", "size", "data")
"""What the header of an evaluation and run.json have in common, if it is of that run."""
Run = tuple[Line, Log]


def training_sections(part: Part) -> list[Section]:
    """Learning curves of one training seed and k, and where the difficulty lay; nothing without the runs' logs."""
    runs = list(_runs(part))
    if not runs:
        return []
    shot, seed = _best(runs)
    runs = [(line, log) for line, log in runs if _key(log) == (shot, seed)]
    begins = {_warmup(log) for line, log in runs if line.row == DAML}
    curves = {line.label: points for line, log in runs if len(points := _validation(_whole(log, runs)[0])) > 1}
    told = f"{part.name}, k = {shot}, training seed {seed}"
    figures = []
    if curves:
        words = f"{told}. The {part.group}s are of the common classes and were kept from training."
        figures.append(validation_curves(curves, begins.pop() if len(begins) == 1 else 0, words))
    for line, log in runs:
        if line.row != DAML:
            continue
        records, joined = _whole(log, runs)
        tasks = [record for record in records if any("loss" in task for task in record.get("tasks", ()))]
        if tasks:
            words = (
                f"{told}, {line.label}. Mean query loss of each pair of common classes, hardest on top; dark is hard."
            )
            figures.append(difficulty_over_time(tasks, _warmup(log), words + joined))
    if not figures:
        return []
    text = f"""
    MAML and DAML of one training seed are one run until the warm-up ends; from then on Eq. (3) weighs the tasks. The curves show
    the AUC on {part.group}s of the common classes that were kept from training, the map which pairs of classes are hard, and
    when.
    """
    return [Section(f"Training ({part.name})", text, figures)]


def loss_section() -> Section:
    """Fig. 2, drawn from the loss itself."""
    text = """
    The loss of the outer loop, Eq. (3), against the query loss L of a task after adaptation, and its slope, which says how much
    the task counts beside the others: 1 for cross-entropy, as in MAML. The larger η, the less easy tasks count. The form
    paper is Eq. (3) as printed, whose slope has no bound near L = 1; smooth goes on as a straight line from L = 0.9. With
    three classes chance lies at ln 3, beyond 1; normalised moves it back to where it lies for two.
    """
    figures = [
        difficulty_loss(
            "paper", "Form paper: Eq. (3) as printed; two classes. As in the paper's Fig. 2, L within [0, 1]."
        ),
        difficulty_loss("smooth", "Form smooth, the default of this package; two classes."),
        difficulty_loss("smooth", "Form smooth, normalised, for three classes.", normalised=True, way=3),
    ]
    return Section("Fig. 2: Eq. (3) and its slope", text, figures)


def fine_tuning_sections(lines: Sequence[Record]) -> list[Section]:
    """Fig. 3, for each row, scale and data set in lines of fig3.jsonl."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for line in lines:
        found.setdefault((line["data"], line["scale"], line["row"]), []).append(line)
    text = """
    A network trained on the common diseases is fine-tuned on k images of each of two rare ones. Where the loss on them falls and
    the AUC on other images does not rise with it, the network has learnt the k images, not the diseases.
    """
    figures = [
        fine_tuning(own, f"{data}, scale {scale}. Row {row} of fig3.jsonl, mean of {own[0]['runs']} runs.")
        for (data, scale, row), own in sorted(found.items())
    ]
    return [Section("Fig. 3: fine-tuning on few images", text, figures)] if figures else []


def _runs(part: Part) -> Iterator[Run]:
    """Logs of the runs that the lines in SHOWN were evaluated from."""
    for row in SHOWN:
        for line in part.of(row):
            evaluated = [[each.header["run"][name] for name in SAME] for each in line.evaluations]
            logs = [log for log in part.logs if [log.run[name] for name in SAME] in evaluated and log.records]
            # The same method and seed give the same run; a second copy shows nothing new.
            yield from {_key(log): (line, log) for log in reversed(logs)}.values()


def _best(runs: Sequence[Run]) -> tuple[int, int]:
    """k and seed with the most runs; the largest k, the lowest seed."""
    counts: dict[tuple[int, int], int] = {}
    for _, log in runs:
        counts[_key(log)] = counts.get(_key(log), 0) + 1
    return max(counts, key=lambda key: (counts[key], key[0], -key[1]))


def _key(log: Log) -> tuple[int, int]:
    return int(log.run["method"].get("shot", 0)), int(log.run["seed"])


def _warmup(log: Log) -> int:
    return int(log.run["method"].get("warmup", 0))


def _validation(records: Sequence[Record]) -> list[tuple[int, float]]:
    return [(r["iteration"], r["validation_auc"]) for r in records if "validation_auc" in r]


def _whole(log: Log, runs: Sequence[Run]) -> tuple[tuple[Record, ...], str]:
    """The records from the first iteration on: a run that took over MAML's warm-up wrote down only what came after it."""
    begins = log.records[0]["iteration"]
    if begins == 1:
        return log.records, ""
    for line, other in runs:
        alike = all(other.run[name] == log.run[name] for name in ("seed", "size", "data"))
        later = {"meta_loss": None, "decay": None}  # what may differ in a run that shares a warm-up: used after it
        alike &= {**other.run["method"], **later} == {**log.run["method"], **later}
        before = tuple(record for record in other.records if record["iteration"] < begins)
        if line.row == "maml" and alike and before and before[0]["iteration"] == 1:
            return before + log.records, f" The first {begins - 1} iterations are those of the run of {line.label}."
    return log.records, f" The log begins at iteration {begins}."
