"""The tables of README.md and of the pages of docs/ that have figures, from the raw lines in results/.

    python experiments/tables.py --write

Each stands between `<!-- NAME -->` and `<!-- end -->`. Without `--write` it says which are not those of the lines.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from scipy import stats

from rareshot.checkpoint import load_learner, load_training_state
from rareshot.evaluated import Evaluation, same_episodes
from rareshot.evaluation import DRAWS, RUNS, Place, averaged, by_pair
from rareshot.experiments import TABLES, WAY, Row
from rareshot.gathered import Record, gather
from rareshot.reporting.lines import NOT_RUN, Part, parts_of
from rareshot.run_record import read_run
from rareshot.statistics import Interval, interval, paired
from rareshot.tables_text import markdown_rows

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("results", "baselines", "flatters", "certainty", "federated", "trust")
FILES = ("README.md", *(f"docs/{page}.md" for page in PAGES))
SEVERAL = 3
"""Training seeds from which an interval over them says something; two are given one by one."""

ROWS = {row.key: row for table in TABLES.values() for row in table.rows}
FAMILY = ("maml", "task-sampling", "daml")
DIFFERENCES = {
    "family-differences": [
        (scale, *pair, shot)
        for scale in ("laptop", "paper")
        for shot in (1, 3, 5)
        for pair in (("daml", "maml"), ("task-sampling", "maml"), ("daml", "task-sampling"))
    ],
    "table2-differences": [
        ("laptop", "maml-noaug", "maml", 5),
        ("paper", "maml-noaug", "maml", 5),
        ("laptop", "maml-resblocks-noaug", "maml-noaug", 5),
        ("laptop", "daml-eta1", "maml", 5),
        ("laptop", "daml-eta3", "maml", 5),
        ("laptop", "daml", "maml", 5),
        ("laptop", "daml-eta7", "maml", 5),
        ("paper", "daml-eta1", "maml", 5),
        ("paper", "daml-eta3", "maml", 5),
        ("paper", "daml", "maml", 5),
        ("paper", "daml-eta7", "maml", 5),
    ],
    "start-differences": [
        (scale, key, "untrained", shot)
        for scale in ("laptop", "paper")
        for shot in (1, 3, 5)
        for key in (*FAMILY, "anil")
    ],
    "plain-differences": [
        (scale, "logistic-conv4", key, shot) for scale in ("laptop", "paper") for shot in (1, 3, 5) for key in FAMILY
    ],
    "twin-differences": [
        ("laptop", "relation-transductive", "relation", 5),
        ("laptop", "maml-transductive", "maml", 5),
        ("laptop", "daml-transductive", "daml", 5),
    ],
    "imagenet-differences": [
        (scale, *pair, shot)
        for scale in ("laptop", "paper")
        for shot in (1, 3, 5)
        for pair in (("combined", "pretrained"), ("combined", "logistic-conv4"), ("transfer", "pretrained"))
    ],
    "anil-differences": [(scale, "anil", "maml", shot) for scale in ("laptop", "paper") for shot in (1, 3, 5)],
    "finetune-differences": [
        (scale, f"finetune-{net}", rule, shot)
        for scale, net, rule in (
            ("laptop", "conv4", "logistic-conv4"),
            ("laptop", "densenet", "logistic"),
            ("paper", "conv4", "logistic-conv4"),
        )
        for shot in (1, 3, 5)
    ],
    "phone-differences": [
        ("phone", key, "maml", shot)
        for key in ("daml", "task-sampling", "logistic-conv4", "pretrained", "transfer")
        for shot in (1, 3, 5)
    ],
}
"""Mark → part of `Lines`, row, the row that it is compared with, k: the differences that the text beside it speaks of."""

COMPARING = {
    "relation": "Relation Net, each pair by groups of channels, as it was",
    "relation, pairs by the support": "Relation Net, pairs by the support's, as it is",
    "relation, transductive": "Relation Net, transductive",
    "protonet": "ProtoNet",
}
"""Methods of unseen-disease.jsonl → what they are called."""


class Lines(NamedTuple):
    """What the tables are drawn from."""

    laptop: Part
    """The laptop scale's evaluations on ISIC 2018, 2-way, of what was trained there."""
    paper: Part
    """The same at the paper's scale."""
    phone: Part
    """The laptop scale's on PAD-UFES-20, which stands in for Table 3."""
    curves: Sequence[Record]
    """Lines of fig3.jsonl."""
    unseen: Sequence[Record]
    """Lines of unseen-disease.jsonl."""
    again: Sequence[Record]
    """Lines of again.jsonl."""
    rounding: Sequence[Record]
    """Lines of rounding.jsonl."""
    leak: Mapping[str, Record]
    """Lines of leak.jsonl at k = 5, by their row."""
    rates: Sequence[Record]
    """Lines of finetune-choice.jsonl."""
    imagenet: Sequence[Record]
    """Lines of imagenet-choice.jsonl."""
    federated: Sequence[Record]
    """Lines of federated.jsonl."""
    unequal: Sequence[Record]
    """Lines of unequal.jsonl."""
    trust: Sequence[Record]
    """Lines of trust-transfer.jsonl and trust.jsonl."""


def main(write: bool = False) -> None:
    """Check the tables, or write them.

    Args:
        write: put what the lines say in their place.
    """
    lines = read(ROOT / "results")
    for file in (ROOT / name for name in FILES):
        before = file.read_text()
        after = filled(before, lines)
        if before == after:
            continue
        print(
            f"{file.relative_to(ROOT)}: {'written' if write else 'its tables are not those of the raw lines; --write'}"
        )
        if write:
            file.write_text(after)


def read(results: Path) -> Lines:
    """What lies there of ISIC 2018 and PAD-UFES-20."""
    gathered = {name: gather(results / name) for name in ("laptop", "paper")}

    def part(folder: str, data: str) -> Part:
        for each in parts_of(gathered[folder]):
            if (each.data, each.trained_on, each.way) == (data, data, WAY):
                return each
        raise ValueError(f"{results / folder} has no evaluation of {data}, {WAY}-way")

    curves = [line for line in gathered["laptop"].fine_tuning if line["data"] == "isic2018"]

    def told(name: str) -> list[Record]:
        return [json.loads(line) for line in (results / f"{name}.jsonl").read_text().splitlines()]

    parts = (part("laptop", "isic2018"), part("paper", "isic2018"), part("laptop", "pad-ufes-20"))
    return Lines(
        *parts,
        curves,
        told("unseen-disease"),
        told("again"),
        told("rounding"),
        {line["row"]: line for line in told("leak") if line["shot"] == 5},
        told("finetune-choice"),
        told("imagenet-choice"),
        told("federated"),
        told("unequal"),
        told("trust-transfer") + told("trust"),
    )


def filled(text: str, lines: Lines) -> str:
    """The text with every table between its marks drawn anew."""
    for name, draw in BLOCKS.items():
        start = f"<!-- {name} -->\n"
        if start in text:
            head, _, tail = text.partition(start)
            text = head + start + draw(lines) + "<!-- end -->" + tail.partition("<!-- end -->")[2]
    return text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without a caption: its words stand around it."""
    return markdown_rows(header, rows, escape=False) + "\n"


def table(part: Part, key: str) -> str:
    """A table of the paper: rows by k, the paper's figure and ours."""
    shots = TABLES[key].shots
    header, rows = ["method", "backbone"], []
    for shot in shots:
        header += [f"k = {shot}: paper", "ours"]
    digits = 2 if key == "table1" else 1
    for row in TABLES[key].rows:
        cells = [row.label, row.backbone]
        for shot in shots:
            cells += [f"{row.paper[shot]:.{digits}f}" if shot in row.paper else "–", auc(part, row, shot)]
        rows.append(cells)
    return markdown(header, rows)


def stand_in(part: Part) -> str:
    """The rows of Table 3 on other data, seed 0: none of the paper's figures is about them."""
    shots = TABLES["table3"].shots
    header, rows = ["method", "backbone"], []
    for shot in shots:
        header += [f"k = {shot}, over draws", "over patients"]
    for row in TABLES["table3"].rows:
        cells = [row.label, row.backbone]
        for shot in shots:
            found = runs_of(part, row, shot, "paper")
            cells += [spanned(found[0].auc), over_lesions(found[0])] if found else [NOT_RUN, NOT_RUN]
        rows.append(cells)
    return markdown(header, rows)


def twins(part: Part) -> str:
    """Inductive beside transductive, seed 0, k = 5."""
    rows = {row.key: row for row in TABLES["twins"].rows}
    drawn = []
    for key, row in rows.items():
        twin = rows.get(f"{key}-transductive")
        rows_of = [runs_of(part, each, 5, "paper") for each in (row, twin) if each]
        found = [each for runs in rows_of for each in runs if not each.seed]
        if len(found) == 2:
            drawn.append([row.label, *(spanned(each.auc) for each in found)])
    return markdown(["method", "`support`: inductive", "the batch's own: transductive"], drawn)


def auc(part: Part, row: Row, shot: int, protocol: str = "paper") -> str:
    """AUC in %: the mean with its interval, over seeds where there are enough, else over draws or episodes of seed 0."""
    found = runs_of(part, row, shot, protocol)
    means = [each.auc.mean for each in found]
    if not found:
        return NOT_RUN
    mark = _fewer(min(found, key=lambda each: len(each.results)))
    if len(found) == 1:
        return spanned(found[0].auc, mark)
    if len(found) < SEVERAL:
        return f"{' and '.join(f'{100 * mean:.1f}' for mean in means)} (two seeds{mark})"
    return spanned(interval(means, "over training seeds"), f"; {len(found)} seeds{mark}")


def _fewer(evaluation: Evaluation) -> str:
    """What stands behind an interval of fewer episodes than the protocol's."""
    episodes = len(evaluation.results)
    return f"; {episodes} episodes" if episodes < DRAWS * RUNS else ""


def runs_of(part: Part, row: Row, shot: int, protocol: str) -> tuple[Evaluation, ...]:
    """One evaluation for each training seed.

    Raises:
        ValueError: if the row has variants, whose seeds must not be counted together.
    """
    lines = part.of(row.key)
    if len(lines) > 1:
        raise ValueError(
            f"{row.key} stands for {', '.join(line.label for line in lines)}; one of them belongs elsewhere"
        )
    return lines[0].at(shot, protocol) if lines else ()


def spanned(found: Interval, more: str = "") -> str:
    """In %: mean and interval."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}{more})"


def plain_seeds(part: Part) -> str:
    """The rules on a plainly trained conv4, seed by seed."""
    rows = [ROWS[f"{rule}-conv4"] for rule in ("knn", "svm", "logistic", "centroid")]
    found = {
        (shot, row.key): {each.seed: each for each in runs_of(part, row, shot, "paper")}
        for row in rows
        for shot in TABLES["table1"].shots
    }
    drawn = []
    for shot in TABLES["table1"].shots:
        for seed in sorted({seed for (k, _), each in found.items() if k == shot for seed in each}):
            cells = [found[shot, row.key].get(seed) for row in rows]
            drawn.append([str(shot), str(seed), *(f"{100 * each.auc.mean:.1f}" if each else NOT_RUN for each in cells)])
    return markdown(["k", "training seed", *(row.label for row in rows)], drawn)


def plain_apart(part: Part) -> str:
    """Plain training's best rule less the MAML family over training seeds, k = 5, paired by seed and not."""

    def means(key: str) -> list[float]:
        return [each.auc.mean for each in sorted(runs_of(part, ROWS[key], 5, "paper"), key=lambda each: each.seed)]

    drawn = []
    for key in FAMILY:
        one, other = means("logistic-conv4"), means(key)
        pair = paired(one, other, kind="over seeds")
        welch = stats.ttest_ind(one, other, equal_var=False)
        bounds = welch.confidence_interval(0.95)
        apart = Interval(pair.interval.mean, bounds.low, bounds.high, len(one), "over seeds")
        cells = [
            f"{spanned(each, f'; p = {p:.2f}')}" for each, p in ((pair.interval, pair.p_value), (apart, welch.pvalue))
        ]
        drawn.append([ROWS[key].label, *(cell.replace("-", "\N{MINUS SIGN}") for cell in cells)])
    return markdown(["features + logistic regression less", "paired by the seed's number", "unpaired (Welch)"], drawn)


def seeds(part: Part) -> str:
    """The three methods of the paper's claim, seed by seed, k = 5."""
    rows = [row for row in TABLES["table1"].rows if row.key in FAMILY]
    found = {row.key: {each.seed: each for each in runs_of(part, row, 5, "paper")} for row in rows}
    drawn = []
    for seed in sorted({seed for each in found.values() for seed in each}):
        cells = [spanned(found[row.key][seed].auc) if seed in found[row.key] else NOT_RUN for row in rows]
        pair = [found[key].get(seed) for key in ("daml", "maml")]
        drawn.append([str(seed), *cells, less_by_episode(*pair) if pair[0] and pair[1] else NOT_RUN])
    return markdown(["training seed", *(row.label for row in rows), "DAML less MAML, over episodes"], drawn)


def differences(lines: Lines, name: str) -> str:
    """Seed 0 of one row less seed 0 of another, on the same episodes: a row for each two, a column for each k."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for scale, key, less, shot in DIFFERENCES[name]:
        part: Part = getattr(lines, scale)
        one, other = (each for row in (key, less) for each in runs_of(part, ROWS[row], shot, "paper") if not each.seed)
        found.setdefault((part.scale, key, less), {})[shot] = less_by_episode(one, other)
    shots = sorted({shot for cells in found.values() for shot in cells})
    header = ["scale", "row, seed 0", "minus row", *(f"k = {shot}" for shot in shots)]
    keys = [ROWS[key] for _, *both, _ in DIFFERENCES[name] for key in both]
    backbones = len({row.backbone for row in keys}) > 1

    def called(key: str) -> str:
        return f"{ROWS[key].label}, {ROWS[key].backbone}" if backbones else ROWS[key].label

    drawn = [
        [scale, called(key), called(less), *(cells.get(shot, "") for shot in shots)]
        for (scale, key, less), cells in found.items()
    ]
    return markdown(header, drawn)


def less_by_episode(one: Evaluation, other: Evaluation) -> str:
    """In points: one less the other on the same episodes, as far as both go, with its interval over them.

    Raises:
        ValueError: if they did not meet the same.
    """
    if not same_episodes(one, other):
        raise ValueError(f"{one.file} and {other.file} are of other episodes")
    shorter = min(one, other, key=lambda each: len(each.results))
    areas = (each.aucs[: len(shorter.results)] for each in (one, other))
    found = paired(*areas, kind="over episodes").interval
    return spanned(found, _fewer(shorter)).replace("-", "\N{MINUS SIGN}")


def images(part: Part) -> str:
    """Lesions drawn beside images drawn, seed 0, k = 5."""
    drawn = []
    for row in TABLES["table1"].rows:
        found = [line.at(5, "paper", by_image=True) for line in part.of(row.key)]
        if found and found[0]:
            lesions = runs_of(part, row, 5, "paper")[0]
            drawn.append([row.label, row.backbone, spanned(lesions.auc), spanned(found[0][0].auc)])
    return markdown(["method", "backbone", "lesions drawn", "images drawn"], drawn)


def full(part: Part, key: str) -> str:
    """A table's rows, seed 0, by `full`, for each k that was run so, with intervals over lesions."""
    rows = TABLES[key].rows
    found = {
        (row.key, shot): each
        for row in rows
        for shot in TABLES[key].shots
        for each in runs_of(part, row, shot, "full")
        if not each.seed
    }
    shots = sorted({shot for _, shot in found})
    drawn = []
    for row in rows:
        cells = [row.label, row.backbone]
        for shot in shots:
            each = found.get((row.key, shot))
            told = f"{100 * each.auc.mean:.1f} ({over_lesions(each)}{_fewer(each)})" if each else NOT_RUN
            cells.append(told)
        drawn.append(cells)
    return markdown(["method", "backbone", *(f"k = {shot}" for shot in shots)], drawn)


def over_lesions(evaluation: Evaluation) -> str:
    """The interval over lesions alone: its mean is that of the cell beside it."""
    over = evaluation.over_lesions
    return f"{100 * over.low:.1f} to {100 * over.high:.1f}" if over else ""


def sites(part: Part) -> str:
    """Each pair of classes over all sites and within one, seed 0, k = 5."""
    found = {}
    for row in TABLES["table1"].rows:
        for each in runs_of(part, row, 5, "site"):
            if not each.seed:
                found[row.label, row.backbone] = by_pair(each.results)
    columns = sorted(next(iter(found.values())), key=lambda key: (key[1], key[0]))
    header = ["method", "backbone", *(site or f"{' and '.join(classes)}: all" for site, classes in columns)]
    rows = [[*names, *(f"{100 * cells[at].mean:.1f}" for at in columns)] for names, cells in found.items()]
    return markdown(header, rows)


def sites_apart(part: Part) -> str:
    """Within one site less over all, over lesions and episodes, seed 0, k = 5."""
    found = {
        (row.label, row.backbone): each.places
        for row in TABLES["table1"].rows
        for each in runs_of(part, row, 5, "site")
        if not each.seed and each.places
    }
    columns = sorted((place for place in next(iter(found.values())) if place[0]), key=lambda place: place[::-1])
    counted = next(iter(found.values()))
    header = ["method", "backbone"]
    for site, classes in columns:
        numbers = ", ".join(f"{number} {name}" for name, number in counted[site, classes].lesions.items())
        header.append(f"{' and '.join(classes)}: {site} ({numbers})")
    rows = []
    for names, places in found.items():
        apart = [places[place].apart for place in columns]
        rows.append([*names, *(spanned(each).replace("-", "\N{MINUS SIGN}") if each else NOT_RUN for each in apart)])
    return markdown(header, rows)


def sites_counted(part: Part) -> str:
    """Of how many methods a site is below all sites, and by intervals over lesions and episodes, seed 0, for each k."""
    drawn = []
    for shot in TABLES["table1"].shots:
        apart: dict[Place, list[Interval]] = {}
        for row in TABLES["table1"].rows:
            for each in runs_of(part, row, shot, "site"):
                for place, found in each.places.items():
                    if not each.seed and found.apart:
                        apart.setdefault(place, []).append(found.apart)
        for (site, classes), of_methods in sorted(apart.items(), key=lambda item: item[0][::-1]):
            means = [each.mean for each in of_methods]
            counts = (
                len(means),
                sum(mean < 0 for mean in means),
                sum(each.high < 0 for each in of_methods),
                sum(each.low > 0 for each in of_methods),
            )
            median = f"{100 * float(np.median(means)):+.1f}".replace("-", "\N{MINUS SIGN}")
            drawn.append([str(shot), f"{' and '.join(classes)}, {site}", median, *map(str, counts)])
    header = ["k", "pair and site", "median of the differences", "methods", "lower", "interval below 0", "above 0"]
    return markdown(header, drawn)


def scatter(lines: Lines) -> str:
    """How far the AUC of single runs lies apart, seed 0, and so a mean of the paper's 30 of them; and of differences."""
    drawn = []
    for scale in ("laptop", "paper"):
        for shot in TABLES["table1"].shots:
            maml, sampling, daml = (runs_of(getattr(lines, scale), ROWS[key], shot, "paper")[0].aucs for key in FAMILY)
            told = {
                "MAML": maml,
                "DAML": daml,
                "DAML less MAML, in the same runs": daml - maml,
                "DAML less task sampling, in the same runs": daml - sampling,
            }
            for name, areas in told.items():
                sd = float(areas.std(ddof=1))
                reach = 100 * float(stats.t.ppf(0.975, RUNS - 1)) * sd / math.sqrt(RUNS)
                drawn.append([scale, str(shot), name, f"{100 * sd:.1f}", f"±{reach:.1f}"])
    header = ["scale", "k", "method", "standard deviation of single runs", f"95 % interval of a mean of {RUNS}"]
    return markdown(header, drawn)


def moved(results: Path) -> str:
    """How far the outer loop took the weights after the warm-up, and how long a task's gradient was as it was counted."""
    drawn = []
    for scale, seed in itertools.product(("laptop", "paper"), range(SEVERAL)):
        runs = results / scale / "isic2018" / "runs"
        warm = load_training_state(runs / f"maml-5shot-seed{seed}" / "warmup.safetensors").weights
        cells = [scale, str(seed)]
        for key in ("maml", "daml-eta1", "daml-eta3", "daml", "daml-eta7"):
            run = runs / f"{key}-5shot-seed{seed}"
            if not (run / "learner.safetensors").is_file():
                cells.append(NOT_RUN)
                continue
            learnt = load_learner(run).state()
            far = math.sqrt(sum(float(((learnt[name] - warm[name]) ** 2).sum()) for name in warm))
            lengths = [
                min(task["weight"] * task["gradient_norm"], read_run(run).method.clip)
                for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())
                for task in line.get("tasks", [])
                if line["iteration"] > read_run(run).method.warmup
            ]
            cells.append(f"{far:.2f} ({np.mean(lengths):.2f})")
        drawn.append(cells)
    names = ["MAML", *(f"DAML, η = {eta}" for eta in (1, 3, 5, 7))]
    return markdown(["scale", "training seed", *names], drawn)


def again(lines: Lines) -> str:
    """Cells that a stranger trained again, on another machine."""
    drawn = []
    for line in lines.again:
        areas = [np.array(line[which]["aucs"]) for which in ("ours", "again")]
        cells = [spanned(averaged(each.tolist(), line["protocol"])) for each in areas]
        apart = spanned(paired(areas[1], areas[0], kind="over episodes").interval).replace("-", "\N{MINUS SIGN}")
        row = ROWS[line["row"]]
        used = line["again"].get("trained", line["again"]["versions"])
        on = used.get("gpu", used.get("cpu", "not recorded"))
        told = [row.label, row.backbone, str(line["shot"]), str(line["seed"])]
        drawn.append([*told, cells[0], on, cells[1], apart])
    header = [
        "method",
        "backbone",
        "k",
        "seed",
        "first training",
        "trained again on",
        "AUC",
        "difference, over episodes",
    ]
    return markdown(header, drawn)


def rounding(lines: Lines) -> str:
    """Which CPUs gave the same weights, by which instructions: a letter stands for one set of bits."""
    trained = {"features": "plain conv4", "protonet": "ProtoNet", "relation": "Relation Net", "daml": "DAML"}
    found: dict[str, list[str]] = {name: [] for name in trained}
    drawn = []
    for line in lines.rounding:
        asked = line["asked"]
        letters = []
        for name, digest in line["digests"].items():
            if digest not in found[name]:
                found[name].append(digest)
            letters.append("ABCDEFG"[found[name].index(digest)])
        vectors = asked["ATEN_CPU_CAPABILITY"].upper()
        by = f"{vectors}, MKL {asked['MKL_CBWR']}" if asked["MKL_CBWR"] else vectors
        drawn.append([line["cpu"], by, line["versions"]["torch"], *letters])
    return markdown(["CPU", "instructions", "torch", *trained.values()], drawn)


def fig3(lines: Lines) -> str:
    """Loss on the k images, and AUC on others, over the steps of fine-tuning."""
    drawn = []
    for shot in sorted({line["shot"] for line in lines.curves}):
        curve = sorted((line["step"], line["loss"], line["auc"]) for line in lines.curves if line["shot"] == shot)
        best = max(curve, key=lambda point: point[2])
        losses = ", ".join(f"{curve[at][1]:.2f}" for at in (0, 1, -1))
        first, early, last = (f"{100 * curve[at][2]:.1f}" for at in (0, 1, -1))
        areas = [first, early, f"{100 * best[2]:.1f} ({best[0]})", last]
        drawn.append([str(shot), losses, *areas])
    header = ["k", "loss: first, after 5 steps, last", "AUC: first", "after 5 steps", "at its best step", "last"]
    return markdown(header, drawn)


def unseen(lines: Lines) -> str:
    """Methods that compare, between two diseases that neither was trained on."""
    of_two = [line for line in lines.unseen if line["left_out"] == "bcc+mel"]
    times = sorted({line["iteration"] for line in of_two})
    runs: dict[str, dict[int, Record]] = {}
    for line in of_two:
        runs.setdefault(line["method"], {})[line["iteration"]] = line
    drawn = []
    for name, found in runs.items():
        both = [measured(found[at], "auc_both_unseen") if at in found else NOT_RUN for at in times]
        last = max(found)
        drawn.append([COMPARING[name], f"{measured(found[last], 'auc_seen')}, after {last}", *both])
    header = ["method", "nv and bkl, trained on", *(f"bcc and mel, after {at}" for at in times)]
    return markdown(header, drawn)


def leak(lines: Lines) -> str:
    """Photographs of the support's lesions beside photographs of others."""
    drawn = []
    for row in TABLES["table1"].rows:
        if line := lines.leak.get(row.key):
            drawn.append([row.label, row.backbone, *(measured(line, name) for name in ("others", "own", "difference"))])
    return markdown(["method", "backbone", "of other lesions", "of the support's lesions", "difference"], drawn)


def rates(lines: Lines, backbone: str) -> str:
    """Fine-tuning at several rates between two diseases that were left out of training, and a linear rule beside it."""
    found = {
        (line["left_out"], line["shot"], line["rate"]): line for line in lines.rates if line["backbone"] == backbone
    }

    def called(rate: float | None) -> str:
        return "features + logistic regression" if rate is None else f"fine-tuning, rate {rate:g}"

    return between_pairs({(pair, shot, called(rate)): line for (pair, shot, rate), line in found.items()})


def imagenet(lines: Lines) -> str:
    """What to do with ImageNet's weights, between two diseases that were left out of training."""

    def called(line: Record) -> str:
        if line["network"] != "efficientnet-lite0":
            return f"features of {line['network']}".replace("ImageNet's own", "ImageNet")
        return f"ImageNet's network trained on, rate {line['rate']:g}, {line['iterations']} iterations"

    return between_pairs({(line["left_out"], line["shot"], called(line)): line for line in lines.imagenet})


def between_pairs(found: Mapping[tuple[str, int, str], Record]) -> str:
    """Pair, k, and what was asked → its line: rows by pair and k, and their mean."""
    pairs = sorted({(pair, shot) for pair, shot, _ in found})
    drawn = []
    for name in dict.fromkeys(name for *_, name in found):
        own = [found[pair, shot, name] for pair, shot in pairs]
        mean = sum(line["auc"]["mean"] for line in own) / len(own)
        drawn.append([name, *(measured(line, "auc") for line in own), f"{100 * mean:.1f}"])
    header = ["", *(f"{pair.replace('+', ' and ')}, k = {shot}" for pair, shot in pairs), "mean"]
    return markdown(header, drawn)


def shared(lines: Lines) -> str:
    """DAML on all sites' images together, shared, and on each site's alone; less the first, which is as much work as sharing."""
    found = {line["training"]: line for line in lines.federated if line["seed"] == 0}
    first = max((name for name in found if name.startswith("together")), key=len)
    drawn = []
    for name in sorted(
        found, key=lambda name: (name != first, not name.startswith("shared"), name.startswith("alone"))
    ):
        line = found[name]
        there = line["clients"].get(name.removeprefix("alone, "), {})
        lesions = ", ".join(f"{disease} {count}" for disease, count in there.items()) or "all of these"
        apart = paired(line["areas"], found[first]["areas"], "over episodes").interval
        less = "" if name == first else spanned(apart).replace("-", "\N{MINUS SIGN}")
        tasks = (
            line["iterations"] * line["method"]["tasks"] * (len(line["clients"]) if name.startswith("shared") else 1)
        )
        drawn.append([name, lesions, str(tasks), measured(line, "auc"), less])
    return markdown(["training", "lesions, a fifth of them held out", "tasks", "AUC", "less the first"], drawn)


def unequal(lines: Lines) -> str:
    """All images at once, and the mean over equal parts, of held-out common lesions."""

    def cells(line: Record) -> list[str]:
        before, after = line["ways"]["as it is"], line["ways"]["equal parts"]
        shown = [f"{100 * before[name]:.1f} → {100 * after[name]:.1f}" for name in ("auc", "right", "largest")]
        return [*shown, f"{before['ece_tempered']:.3f} → {after['ece_tempered']:.3f}"]

    header = ["images", "learner", "AUC", "right, %", "called the largest, %", "ECE with the temperature"]
    return of_numbers(lines, "unequal", header, cells)


def unequal_suspects(lines: Lines) -> str:
    """Suspect images by the distances as they are, and as though every class had as many, of held-out common lesions."""

    def cells(line: Record) -> list[str]:
        before, after = line["ways"]["as they are"], line["ways"]["evenly"]
        shown = [
            f"{100 * before[name]:.1f} → {100 * after[name]:.1f}" for name in ("clean", "in_smallest", "in_largest")
        ]
        return [f"{100 * line['share_of_smallest']:.1f}", *shown]

    header = [
        "images",
        "learner",
        "share of the smallest, %",
        "the most suspect is of it, %",
        "planted there and found, %",
        "planted in the largest and found, %",
    ]
    return of_numbers(lines, "unequal suspects", header, cells)


def of_numbers(lines: Lines, what: str, header: list[str], cells: Callable[[Record], list[str]]) -> str:
    """A row for each list of numbers and learner."""
    found = [line for line in lines.unequal if line["what"] == what]
    order = sorted(found, key=lambda line: (len(line["counts"]), line["counts"]))
    return markdown(
        header, [[", ".join(map(str, line["counts"])), f"`{line['run']['folder']}`", *cells(line)] for line in order]
    )


def classes(lines: Lines) -> str:
    """Calibration by number of classes, on the rare ones where there are so many."""
    names = {line["learner"]: line["run"]["folder"] for line in lines.unequal}
    found = {}
    for line in lines.trust:
        what, _, number = line["what"].partition(", ")  # calibration, 3 classes
        if what == "calibration":
            found[names[line["learner"]], int(number.split()[0]) if number else WAY, line["shot"]] = line
    rows = []
    for (learner, way, shot), line in sorted(found.items(), key=lambda pair: (pair[0][1], pair[0][0], pair[0][2])):
        both = [
            f"{line[of]['raw']['ece']:.3f} → {line[of]['temperature']['ece']:.3f}"
            for of in ("all lesions", "as many of each class")
        ]
        rows.append([str(way), f"`{learner}`", str(shot), *both])
    return markdown(["classes", "learner", "k", "ECE, all lesions", "as many of each class"], rows)


def measured(line: Record, name: str) -> str:
    """A figure of an experiment's line with its interval, in %."""
    return spanned(Interval(**line[name], n=line["episodes"], kind="over episodes"))


BLOCKS: Mapping[str, Callable[[Lines], str]] = {
    "table1": lambda lines: table(lines.laptop, "table1"),
    "table2": lambda lines: table(lines.laptop, "table2"),
    "paper": lambda lines: table(lines.paper, "table1"),
    "paper-table2": lambda lines: table(lines.paper, "table2"),
    "paper-seeds": lambda lines: seeds(lines.paper),
    "plain-seeds": lambda lines: plain_seeds(lines.paper),
    "plain-apart": lambda lines: plain_apart(lines.paper),
    "moved": lambda _: moved(ROOT / "results"),
    "phone": lambda lines: stand_in(lines.phone),
    "twins": lambda lines: twins(lines.laptop),
    "seeds": lambda lines: seeds(lines.laptop),
    "full": lambda lines: full(lines.laptop, "table1"),
    "table2-full": lambda lines: full(lines.laptop, "table2"),
    "phone-full": lambda lines: full(lines.phone, "table3"),
    "sites": lambda lines: sites(lines.laptop),
    "site-differences": lambda lines: sites_apart(lines.laptop),
    "site-counts": lambda lines: sites_counted(lines.laptop),
    "images": lambda lines: images(lines.laptop),
    "scatter": scatter,
    "again": again,
    "rounding": rounding,
    "fig3": fig3,
    "unseen": unseen,
    "leak": leak,
    "rates": lambda lines: rates(lines, "conv4"),
    "rates-densenet": lambda lines: rates(lines, "densenet121"),
    "imagenet": imagenet,
    "shared": shared,
    "unequal": unequal,
    "unequal-suspects": unequal_suspects,
    "classes": classes,
    **{name: partial(differences, name=name) for name in DIFFERENCES},
}
"""Mark → what stands there."""


if __name__ == "__main__":
    tyro.cli(main)
