"""The tables of README.md and docs/results.md are those of the committed raw lines."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rareshot.reporting.lines import Part

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    if not (ROOT / "results" / "laptop").is_dir():
        pytest.skip("results/ comes with the repository, not with the package")
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        return __import__("tables")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def part(tables: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Of what is committed: a run of yours may be writing to results/ just now."""
    results = tmp_path_factory.mktemp("committed") / "results"
    asked = ["git", "-C", str(ROOT), "ls-files", "-z", "--", "results/laptop"]
    files = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if name.endswith(".json") or name.endswith(".jsonl"):
            (results.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, results.parent / name)
    if not results.is_dir():
        pytest.skip("only a git checkout says which lines are committed")
    found: Part = tables.laptop(results)
    return found


@pytest.mark.parametrize("file", ["README.md", "docs/results.md"])
def test_the_tables_are_those_of_the_raw_lines(tables: ModuleType, part: Part, file: str) -> None:
    text = (ROOT / file).read_text()
    assert "<!-- table1 -->" in text
    assert text == tables.filled(text, part), f"{file}: run `python experiments/tables.py --write`"


def test_a_figure_changed_by_hand_is_found(tables: ModuleType, part: Part) -> None:
    text = (ROOT / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| MAML |"))
    changed = text.replace(row, row.replace("81.20 | 8", "81.20 | 9"))
    assert changed != text
    assert tables.filled(changed, part) == tables.filled(text, part) != changed


def test_seeds_and_fewer_episodes_are_said(tables: ModuleType, part: Part) -> None:
    rows = {row.key: row for row in tables.TABLES["table1"].rows}
    assert tables.auc(part, rows["finetune-conv4"], 5).endswith("; 90 episodes)")
    assert tables.auc(part, rows["maml"], 5).endswith("; 3 seeds)")
    assert tables.auc(part, rows["maml"], 2) == tables.NOT_RUN
    (line,) = part.of("maml")
    assert tables.auc(part, rows["maml"], 5, "full") == tables.spanned(line.at(5, "full")[0].auc)
