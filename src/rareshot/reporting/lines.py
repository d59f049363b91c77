"""The lines of the tables: evaluations of one scale and data set, put together by row, and told apart where a row has two."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rareshot.data.cards import GROUP_NAMES
from rareshot.evaluated import EPISODES as EPISODE_FIELDS
from rareshot.evaluated import Evaluation
from rareshot.evaluation import DRAWS, RUNS
from rareshot.experiments import TABLES, TRANSDUCTIVE, WAY, Row, Table
from rareshot.gathered import Gathered, Log
from rareshot.methods import LABELS
from rareshot.scales import SCALES

EPISODES = DRAWS * RUNS
"""Of a whole evaluation."""
ORDER = (*SCALES, "own")
SMOKE = "smoke"
"""The scale whose figures mean nothing: none of the paper's stands beside them."""
DAML = "daml"
"""The row that all others are compared with."""
NOT_RUN = "not\N{NO-BREAK SPACE}run"
FREE = ("shot", "kind")
"""Fields that do not make another line: k has columns of its own, and the kinds' names say nothing that their fields do not."""


@dataclass(frozen=True, eq=False)
class Line:
    """One method of a table, at every k and with every seed that was run."""

    row: str
    """Its key in TABLES, where it has one."""
    name: str
    """For readers."""
    variant: str
    """What sets it apart from other lines of its row, in brackets; empty if it is the only one."""
    evaluations: tuple[Evaluation, ...]

    @property
    def label(self) -> str:
        """Name and variant."""
        return self.name + self.variant

    def at(self, shot: int, protocol: str, *, by_image: bool = False) -> tuple[Evaluation, ...]:
        """One evaluation for each training seed, in their order; one that is still short of the others is none yet (`begun`)."""
        cell = (shot, protocol, by_image)
        found = [each for each in self.evaluations if (each.shot, each.protocol, each.by_image) == cell]
        lengths = [len(each.results) for each in found]
        finished = [length for length, each in zip(lengths, found, strict=True) if each.finished]
        enough = min(finished) if finished else max(lengths, default=0)
        return tuple(each for each in found if len(each.results) >= enough)

    @property
    def begun(self) -> tuple[Evaluation, ...]:
        """Evaluations that go on and have fewer episodes than another seed's."""
        return tuple(
            each for each in self.evaluations if each not in self.at(each.shot, each.protocol, by_image=each.by_image)
        )

    def is_twin_of(self, other: "Line") -> bool:
        """Are the two the same in all that both wrote down, but for the norm?"""
        ours, theirs = (_identity(line.evaluations[0]) for line in (self, other))
        return all(str(ours[name]) == str(theirs[name]) for name in (ours.keys() & theirs.keys()) - {"norm"})

    def mean(self, shot: int, protocol: str) -> float | None:
        """AUC in %, the mean over seeds; None where nothing was run."""
        found = self.at(shot, protocol)
        return 100 * sum(each.auc.mean for each in found) / len(found) if found else None


@dataclass(frozen=True, eq=False)
class Part:
    """All of one scale, data set and way; figures of two parts never stand in one table."""

    scale: str
    data: str
    """That was evaluated on."""
    trained_on: str
    """The data set of the common classes: most often the same."""
    way: int
    lines: tuple[Line, ...]
    logs: tuple[Log, ...]
    """Of the runs of that scale, on whatever data."""

    @property
    def name(self) -> str:
        """For headings and captions: no figure without its scale."""
        trained = "" if self.trained_on == self.data else f", trained on {self.trained_on}"
        return f"{self.data}{trained}, scale {self.scale}{'' if self.way == WAY else f', {self.way}-way'}"

    @property
    def group(self) -> str:
        """What is never on both sides of an episode: a lesion, a patient, or the plain word where the data are one's own."""
        return GROUP_NAMES.get(self.data, "group")

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Of all lines."""
        return tuple(each for line in self.lines for each in line.evaluations)

    @property
    def shots(self) -> tuple[int, ...]:
        """Every k that was run."""
        return tuple(sorted({each.shot for each in self.evaluations}))

    def of(self, row: str) -> tuple[Line, ...]:
        """The lines of a row: none, one, or several that differ in their labels."""
        return tuple(line for line in self.lines if line.row == row)

    @property
    def reference(self) -> Line | None:
        """DAML; of several the one with the most episodes."""
        return max(self.of(DAML), key=_episodes, default=None)

    def reference_of(self, line: Line) -> Line | None:
        """The DAML that a line is compared with: of several the one that has the line's γ, decay and whatever sets them apart."""
        damls = self.of(DAML)
        if line in damls:
            return self.reference if line is not self.reference else None
        if not damls or line.evaluations[0].method.get("kind") != damls[0].evaluations[0].method.get("kind"):
            return self.reference  # fields of another kind mean something else
        identities = [_identity(daml.evaluations[0]) for daml in damls]
        apart = {n for i in identities for n in i if len({str(other.get(n)) for other in identities}) > 1}
        own = _identity(line.evaluations[0])
        alike = [
            daml
            for daml, values in zip(damls, identities, strict=True)
            if all(str(own[name]) == str(values.get(name)) for name in apart & own.keys())
        ]
        return max(alike, key=_episodes, default=None)

    def tables(self) -> Iterator[tuple[Table, bool]]:
        """The paper's tables that stand for this data set, and whether the paper's figures are about it."""
        for table in self.tables_begun():
            if any(row.paper for row in table.rows):
                same = self.data == table.data and table.is_about(self.trained_on) and self.way == WAY
                yield table, same and self.scale != SMOKE

    def tables_begun(self) -> Iterator[Table]:
        """The tables that stand for this data set, and of which a row was run that makes them: the paper's rows, or a twin."""
        for table in TABLES.values():
            made_of = [row for row in table.rows if row.paper or row.key.endswith(TRANSDUCTIVE)]
            if (self.data == table.data or self.data in table.stand_ins) and any(self.of(row.key) for row in made_of):
                yield table


def parts_of(gathered: Gathered) -> list[Part]:
    """The parts in order of scale, data sets and way.

    Raises:
        ValueError: if two files hold the same cell, and nothing that is said of them tells them apart.
    """
    keys = sorted(
        {_key(each) for each in gathered.evaluations},
        key=lambda key: (ORDER.index(key[0]) if key[0] in ORDER else len(ORDER), key),
    )
    return [
        Part(
            scale,
            data,
            trained_on,
            way,
            _lines([each for each in gathered.evaluations if _key(each) == (scale, data, trained_on, way)]),
            tuple(log for log in gathered.logs if log.run["scale"] == scale),
        )
        for scale, data, trained_on, way in keys
    ]


def _key(evaluation: Evaluation) -> tuple[str, str, str, int]:
    trained_on = str(evaluation.header["run"]["data"].get("name", evaluation.data))
    return evaluation.scale, evaluation.data, trained_on, int(evaluation.header["way"])


def _episodes(line: Line) -> int:
    return sum(len(each.results) for each in line.evaluations)


def label_of(row: Row) -> str:
    """Of a table's row, with the backbone where the name alone would stand for two."""
    known = _rows().values()
    return f"{row.label}, {row.backbone}" if sum(row.label == other.label for other in known) > 1 else row.label


def _rows() -> dict[str, Row]:
    """Key → the row as the first table has it."""
    rows: dict[str, Row] = {}
    for table in TABLES.values():
        for row in table.rows:
            rows.setdefault(row.key, row)
    return rows


def _lines(evaluations: Sequence[Evaluation]) -> tuple[Line, ...]:
    known = {_learner(each): each.row for each in evaluations if each.header.get("row")}
    filled = {_cell(each) for each in evaluations if each.header.get("row")}
    # `rareshot evaluate` of a run that fills a cell says the same once more.
    evaluations = [each for each in evaluations if each.header.get("row") or _cell(each) not in filled]
    rows: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        rows.setdefault(known.get(_learner(each), _row(each)), []).append(each)
    order = list(_rows())
    lines = []
    for row in sorted(rows, key=lambda row: (order.index(row) if row in order else len(order), row)):
        identities = [_identity(each) for each in rows[row]]
        # A field that an earlier version did not write down cannot tell two evaluations apart.
        shared = set.intersection(*(set(values) for values in identities))
        differ = [name for name in identities[0] if name in shared and len({str(v[name]) for v in identities}) > 1]
        variants: dict[str, list[Evaluation]] = {}
        for each, values in zip(rows[row], identities, strict=True):
            variants.setdefault(
                ", ".join(f"{name}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{_short(values[name])}" for name in differ), []
            ).append(each)
        for words, found in sorted(variants.items()):
            cells = sorted(found, key=lambda each: (each.seed, each.shot, each.protocol))
            lines.append(Line(row, _label(row), f" ({words})" if words else "", tuple(cells)))
    for line in lines:
        _check_once(line)
    return tuple(lines)


def _check_once(line: Line) -> None:
    seen: dict[tuple[Any, ...], Evaluation] = {}
    for each in line.evaluations:
        cell = (each.shot, each.protocol, each.by_image, each.seed)
        if cell in seen:
            raise ValueError(
                f"{seen[cell].file} and {each.file} both hold {line.label}, {each.protocol} protocol, k = {each.shot}, seed "
                f"{each.seed}; move one of them away"
            )
        seen[cell] = each


def _learner(evaluation: Evaluation) -> str:
    """What a plain evaluation of a row's run has in common with those of the row."""
    return json.dumps([evaluation.method, evaluation.untrained], sort_keys=True)


def _cell(evaluation: Evaluation) -> str:
    """What two evaluations of one learner on the same episodes have in common."""
    run = evaluation.header["run"]
    return json.dumps([_learner(evaluation), run["seed"], run["data"], *(evaluation.header[n] for n in EPISODE_FIELDS)])


def _row(evaluation: Evaluation) -> str:
    """The key in TABLES; that of a plain run is made as theirs are."""
    name = evaluation.row
    if evaluation.header.get("row") is not None:
        return name
    if evaluation.untrained:
        return "untrained" if name == "maml" else f"untrained-{name}"
    return name if evaluation.inductive else name + TRANSDUCTIVE


def _label(row: str) -> str:
    known = _rows()
    if row in known:
        return label_of(known[row])
    name = row.removeprefix("untrained-")
    if name != row:
        return f"random start of {_label(name)}"
    name = row.removesuffix(TRANSDUCTIVE)
    return f"{_label(name)}, transductive" if name != row else LABELS.get(row, row)


def _identity(evaluation: Evaluation) -> dict[str, Any]:
    """All that makes two evaluations of a row different lines, as flat JSON values."""
    values = dict(_flat(evaluation.method))
    run = evaluation.header["run"]
    clients = run["data"].get("clients")
    values |= {
        "image size": run["size"],
        "training images": run["data"].get("fingerprint"),
        "hospitals": len(clients) if isinstance(clients, dict) else 1,
        "seed of the episodes": evaluation.header["seed"],
        "evaluated images": evaluation.header["data"]["fingerprint"],
    }
    return values


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif name not in FREE:
            yield name, value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
