"""`rareshot bench`: how fast is the meta-gradient here, beside the machine's limit and every library that is installed?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rareshot import report
from rareshot.bench.picture import draw_roofline
from rareshot.bench.problem import Problem
from rareshot.bench.run import Plan, Record, run
from rareshot.bench.tables import describe, markdown, tables
from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, stages
from rareshot.machine import round_alike, use_threads


@dataclass(frozen=True)
class Bench:
    """Measure the meta-gradient on this machine's CPU, and its GPU if there is one: ours, and every peer that is installed.

    First the floor (convolution rates, exact operation counts), then the gate (each design's gradient in float64), then
    time, memory, scaling, data path and meta-test. Leaves results.jsonl, table.md, roofline.svg and roofline.png in --out.
    Let nothing else run meanwhile; the whole takes a quarter of an hour on two cores. benchmarks/README.md says how to
    install the peers: learn2learn, higher, torchopt.

    Example: rareshot bench --quick
    """

    size: int = 84
    """Image size in pixels, at least 16."""
    shot: int = 5
    """Support images a class, k."""
    steps: int = 5
    """Inner steps, T."""
    rounds: int = 7
    """Steps of each design; a ratio is taken within a round."""
    quick: bool = False
    """Two rounds of 28 pixels and one step, to see that all works: no figure to quote."""
    out: Path = Path("bench")
    """Folder of the results."""


def bench(args: Sequence[str]) -> None:
    """Parse and run `rareshot bench`."""
    options = parse(Bench, args, "rareshot bench")
    plan = plan_of(options)
    round_alike()
    use_threads(None)
    options.out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    raw, measuring = (
        options.out / "results.jsonl",
        options.out / "results.jsonl.part",
    )  # an earlier one stays until then
    with measuring.open("w", encoding="utf-8") as lines, stages() as show:
        for record in run(plan, observe=show):
            records.append(record)
            lines.write(json.dumps(record) + "\n")
            lines.flush()
    measuring.replace(raw)
    made = tables(records)
    pages = [describe(records[0]).replace("\n", "  \n") + "\n", *map(markdown, made)]
    (options.out / "table.md").write_text("\n".join(pages), encoding="utf-8")
    draw_roofline(records, options.out / "roofline.svg", options.out / "roofline.png")
    CONSOLE.print(describe(records[0]), markup=False)
    for table in made:
        CONSOLE.print(_rich(table))
    CONSOLE.print(f"results, tables and picture: {options.out}", markup=False)


def plan_of(options: Bench) -> Plan:
    """What the options ask for; `--quick` leaves only the parts as they are."""
    if options.quick:
        points = (("steps", (2,)), ("size", (42,)))
        tiny = Problem(size=28, shot=options.shot, steps=1, tasks=2)
        return Plan(tiny, rounds=2, test_steps=2, rate_seconds=0.005, repeats=1, points=points)
    return Plan(Problem(size=options.size, shot=options.shot, steps=options.steps), rounds=options.rounds)


def _rich(table: report.Table) -> Table:
    rich = Table(title=table.caption, title_justify="left")
    for column in table.header:
        rich.add_column(column)
    for row in table.rows:
        rich.add_row(*row)
    return rich
