"""The tables of docs/results.md from the summaries that `rareshot evaluate` left: python experiments/table.py results/laptop"""

import json
import sys
from pathlib import Path
from typing import Any

ROWS = (
    ("MAML before training", "maml", "untrained-"),
    ("MAML", "maml", ""),
    ("DAML", "daml", ""),
)


def shown(interval: dict[str, Any]) -> str:
    """Mean and interval in percent, and over what."""
    kind = (
        interval["kind"]
        if any(c.isdigit() for c in interval["kind"])
        else interval["kind"].replace("over ", f"over {interval['n']} ")
    )
    return f"{100 * interval['mean']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f}, {kind})"


def main(folder: Path) -> None:
    """Print the tables as Markdown."""
    for protocol in ("paper", "full"):
        print(f"\n`{protocol}` protocol, AUC in %:\n")
        print("| learner | mean (95 % interval) | over lesions | ECE | Brier |\n|---|---|---|---|---|")
        for label, run, prefix in ROWS:
            file = folder / run / f"{prefix}{protocol}-2way-5shot.summary.json"
            if file.exists():
                told = json.loads(file.read_text())
                metrics = told["metrics"]
                rest = f"{metrics['ece']['mean']:.3f} | {metrics['brier']['mean']:.3f}"
                print(f"| {label} | {shown(metrics['auc'])} | {shown(told['auc_over_lesions'])} | {rest} |")
    print("\nby pair of classes, AUC in %:\n\n| protocol | classes | site | MAML | DAML |\n|---|---|---|---|---|")
    for protocol in ("full", "site"):
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for _, run, prefix in ROWS[1:]:
            file = folder / run / f"{prefix}{protocol}-2way-5shot.summary.json"
            for pair in json.loads(file.read_text())["pairs"] if file.exists() else ():
                cells.setdefault((" and ".join(pair["classes"]), pair["site"] or "all"), {})[run] = shown(pair["auc"])
        for (classes, site), cell in sorted(cells.items()):
            print(f"| {protocol} | {classes} | {site} | {cell.get('maml', '')} | {cell.get('daml', '')} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
