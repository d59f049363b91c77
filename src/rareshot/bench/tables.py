"""The records of a bench as tables, for the terminal and for a Markdown page."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rareshot.report import Table
from rareshot.tables_text import markdown_rows

Record = dict[str, Any]
ORDERS = {True: "second order", False: "first order"}
RUNS_AS = {
    "intra-op": "1 x {} threads",
    "threads": "{} threads x 1",
    "processes": "{} processes x 1",
}
"""Tasks at a time, and threads of each."""


def tables(records: Sequence[Record]) -> list[Table]:
    """Steps of both orders, meta-test, scaling and the rest; a table whose measurements are not there yet is left out."""
    made = [_steps(records, order) for order in (True, False)]
    made += [_inexact(records), *(_device(records, order) for order in (True, False))]
    made += [_meta_test(records), _memory(records), _scaling(records), _others(records), _rates(records)]
    return [table for table in made if table.rows]


def describe(setting: Record) -> str:
    """Machine, versions and problem in a few lines."""
    problem, versions = setting["problem"], setting["versions"]
    gpu = setting["gpu"]
    return (
        f"{problem['size']} px, {problem['way']}-way, k = {problem['shot']}, {problem['query']} queries a class, "
        f"{problem['tasks']} tasks, T = {problem['steps']}, conv4 with {problem['width']} filters, fp32, "
        f"{setting['rounds']} rounds\n"
        f"{setting['cpu']}, {setting['threads']} threads, {setting['instructions']}; load at the start {setting['load']}\n"
        f"rareshot {versions['rareshot']} at {versions.get('commit') or 'an unknown commit'}, torch {versions['torch']}, "
        f"Python {versions['python']}; {setting['date']}\n"
        + (f"{gpu}, in tables of its own" if gpu else "no GPU here: nothing was measured on one")
    )


def markdown(table: Table) -> str:
    """A table for a Markdown page, under its caption."""
    return f"**{table.caption}**\n\n{markdown_rows(table.header, table.rows, escape=False)}\n"


def _steps(records: Sequence[Record], order: bool) -> Table:
    floors = [each for each in records if each["part"] == "floor" and each["second_order"] == order]
    threads = records[0]["threads"] if records else 0
    gated = {each["design"]: each for each in _of(records, "gate", second_order=order)}
    grown = {
        each["design"]: each["bytes"]
        for each in _of(records, "memory", steps=records[0]["problem"]["steps"] if records else 0)
        if "bytes" in each
    }
    rows = []
    for name, gate in gated.items():
        if not gate["exact"]:
            continue
        found = list(_of(records, "step", design=name, second_order=order))
        failed = gate.get("failed") or (found[0].get("failed") if found else None)
        label = f"{name} {gate['version']}" if gate["version"] else name
        memory = f"{grown[name] / 2**20:.0f} MB" if name in grown and order else "–"
        if failed:
            rows.append((label, str(failed), "–", "–", "–", "–"))
        elif found:
            step = found[0]
            seconds = statistics.median(step["seconds"])
            share = f"{floors[0]['seconds'] / seconds:.0%}"
            rows.append((label, _runs_as(step, threads), f"{seconds:.3f} s", _ratio(step["ratios"]), share, memory))
    told = f"; floor {floors[0]['seconds']:.3f} s for {floors[0]['gflop']:.1f} GFLOP" if floors else ""
    header = (
        "design",
        "runs as",
        "median step",
        _times(_of(records, "step", second_order=order)),
        "of floor",
        "memory, a task",
    )
    return Table(f"One training step, {ORDERS[order]}{told}", header, tuple(rows))


def _times(found: Iterable[Record]) -> str:
    """Heading of the ratios: they are to the first design that could be timed, ours unless it failed."""
    return f"x {next((each['to'] for each in found if 'to' in each), 'ours')} (min to max)"


def _inexact(records: Sequence[Record]) -> Table:
    """Designs that give up digits of the gradient, each within its own bound."""
    rows = []
    for gate in records:
        if gate["part"] != "gate" or gate["exact"]:
            continue
        found = list(_of(records, "step", design=gate["design"], second_order=gate["second_order"]))
        failed = gate.get("failed") or (found[0].get("failed") if found else None)
        if failed:
            rows.append((gate["design"], str(failed), "–", "–", "–"))
        elif found:
            seconds = f"{statistics.median(found[0]['seconds']):.3f} s"
            runs_as = _runs_as(found[0], records[0]["threads"])
            rows.append((gate["design"], runs_as, seconds, _ratio(found[0]["ratios"]), f"{gate['distance']:.0e}"))
    header = ("design", "runs as", "median step", _times(_of(records, "step", second_order=True)), "gradient off by")
    return Table("Not exact: one training step, second order", header, tuple(rows))


def _device(records: Sequence[Record], order: bool) -> Table:
    found = list(_of(records, "device", second_order=order))
    rows = []
    for each in found:
        label = f"{each['design']} {each['version']}".strip() + ("" if each["exact"] else " (not exact)")
        if "failed" in each:
            rows.append((label, each["failed"], "–", "–", "–"))
        else:
            seconds = f"{1000 * statistics.median(each['seconds']):.2f} ms"
            hours = f"{each['hours']:.2f} h"
            rows.append((label, seconds, _ratio(each["ratios"]), hours, f"{each['distance']:.0e}"))
    header = ("design", "median step", "x the first (min to max)", "3000 iterations", "gradient off by, in float64")
    return Table(f"One training step on {found[0]['device'] if found else ''}, {ORDERS[order]}", header, tuple(rows))


def _meta_test(records: Sequence[Record]) -> Table:
    rows = []
    for step in _of(records, "meta-test"):
        if "failed" in step:
            rows.append((step["design"], step["failed"], "–", "–"))
            continue
        per_task = 1000 * statistics.median(step["seconds"]) / step["tasks"]
        rows.append(
            (step["design"], _runs_as(step, records[0]["threads"]), f"{per_task:.0f} ms", _ratio(step["ratios"]))
        )
    header = ("design", "runs as", "median time a task", _times(_of(records, "meta-test")))
    return Table("Meta-test", header, tuple(rows))


def _memory(records: Sequence[Record]) -> Table:
    own = [each for each in _of(records, "memory") if each["design"].startswith("ours") and "bytes" in each]
    rows = [(each["design"], str(each["steps"]), f"{each['bytes'] / 2**20:.0f} MB") for each in own]
    return Table("Memory of a task in our designs", ("design", "T", "growth of a fresh process"), tuple(rows))


def _scaling(records: Sequence[Record]) -> Table:
    names = {"steps": "T", "shot": "k", "tasks": "tasks", "size": "pixels"}
    points = sorted(_of(records, "scaling"), key=lambda each: (list(names).index(each["what"]), each["value"]))
    rows = [(names[p["what"]], str(p["value"]), f"{statistics.median(p['seconds']):.3f} s") for p in points]
    return Table("Our second-order step as one thing changes", ("what", "value", "median step"), tuple(rows))


def _others(records: Sequence[Record]) -> Table:
    rows = [
        (f"support statistics over the batch's own, {each['what']}", _ratio(each["ratios"]))
        for each in _of(records, "inductive")
    ]
    rows += [
        ("sampling and augmentation, share of a training step", f"{each['share']:.1%}") for each in _of(records, "data")
    ]
    return Table("Around the step", ("what", "figure"), tuple(rows))


def _rates(records: Sequence[Record]) -> Table:
    rows = []
    for each in _of(records, "rate"):
        best = [f"{max(each[f'{direction}_gflops'].values()):.0f}" for direction in ("forward", "backward")]
        shape = f"{each['images']} x {each['inputs']} x {each['size']} x {each['size']}"
        rows.append((shape, *best))
    return Table(
        "Convolution rates, GFLOP/s on all cores", ("images x inputs x pixels", "forward", "backward"), tuple(rows)
    )


def _of(records: Sequence[Record], part: str, **wanted: Any) -> list[Record]:
    return [
        each for each in records if each["part"] == part and all(each[key] == value for key, value in wanted.items())
    ]


def _ratio(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _runs_as(step: Record, threads: int) -> str:
    return RUNS_AS[step["arrangement"]].format(threads) + ("" if step["channels_last"] else ", NCHW")
