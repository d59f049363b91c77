"""The tables of README.md and of the pages with figures are those of the committed raw lines."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rareshot import machine

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("results", "baselines", "flatters", "certainty", "federated", "trust")


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
def lines(tables: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of what is committed: a run of yours may be writing to results/ just now."""
    results = tmp_path_factory.mktemp("committed") / "results"
    told = [
        "results/laptop",
        "results/paper",
        "results/unseen-disease.jsonl",
        "results/leak.jsonl",
        "results/again.jsonl",
        "results/rounding.jsonl",
        "results/finetune-choice.jsonl",
        "results/imagenet-choice.jsonl",
        "results/federated.jsonl",
        "results/unequal.jsonl",
        "results/trust.jsonl",
        "results/trust-transfer.jsonl",
    ]
    asked = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *told]
    files = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if name.endswith(".json") or name.endswith(".jsonl"):
            (results.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, results.parent / name)
    if not results.is_dir():
        pytest.skip("only a git checkout says which lines are committed")
    return tables.read(results)


@pytest.mark.parametrize("file", ["README.md", *(f"docs/{page}.md" for page in PAGES)])
def test_the_tables_are_those_of_the_raw_lines(tables: ModuleType, lines: Any, file: str) -> None:
    text = (ROOT / file).read_text()
    assert file in tables.FILES
    assert len(tables.FILES) == 1 + len(PAGES)
    assert "<!-- end -->" in text
    assert text == tables.filled(text, lines), f"{file}: run `python experiments/tables.py --write`"


def test_a_figure_changed_by_hand_is_found(tables: ModuleType, lines: Any) -> None:
    text = (ROOT / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| MAML |"))
    changed = text.replace(row, row.replace("81.20 | 8", "81.20 | 9"))
    assert changed != text
    assert tables.filled(changed, lines) == tables.filled(text, lines) != changed


def test_seeds_and_fewer_episodes_are_said(tables: ModuleType, lines: Any) -> None:
    rows = {row.key: row for row in tables.TABLES["table1"].rows}
    assert tables.auc(lines.laptop, rows["finetune-conv4"], 5).endswith("; 90 episodes)")
    assert tables.auc(lines.laptop, rows["maml"], 5).endswith("; 3 seeds)")
    assert tables.auc(lines.laptop, rows["maml"], 2) == tables.NOT_RUN
    (line,) = lines.laptop.of("maml")
    assert tables.auc(lines.laptop, rows["maml"], 5, "full") == tables.spanned(line.at(5, "full")[0].auc)


def test_two_kinds_of_cpu_with_the_same_instructions_train_alike() -> None:
    file = ROOT / "results" / "again.jsonl"
    if not file.is_file():
        pytest.skip("results/ comes with the repository, not with the package")
    trained: dict[tuple[str, int], list[list[float]]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        trained.setdefault((line["row"], line["shot"]), []).append(line["again"]["aucs"])
    for cell in (("logistic-conv4", 5), ("protonet", 1)):
        on_avx2, kept_to_avx2 = trained[cell][:2]
        assert on_avx2 == kept_to_avx2
        assert len(on_avx2) == 600


def test_a_cell_trained_again_by_the_same_rounding_is_the_same() -> None:
    file = ROOT / "results" / "again.jsonl"
    if not file.is_file():
        pytest.skip("results/ comes with the repository, not with the package")
    alike = [
        line
        for line in map(json.loads, file.read_text().splitlines())
        if all(
            versions.get("cpu") == "x86_64 AVX2, MKL COMPATIBLE"
            for which in ("ours", "again")
            for versions in (line[which]["versions"], line[which].get("trained", line[which]["versions"]))
        )
    ]
    assert {(line["row"], line["shot"]) for line in alike} >= {("logistic-conv4", shot) for shot in (1, 3, 5)}
    assert all(line["ours"]["aucs"] == line["again"]["aucs"] for line in alike)


def test_cpus_of_two_makers_round_alike_by_what_a_command_sets() -> None:
    file = ROOT / "results" / "rounding.jsonl"
    if not file.is_file():
        pytest.skip("results/ comes with the repository, not with the package")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    alike = [line for line in lines if line["asked"] == machine.INSTRUCTIONS]
    assert {line["cpu"].split("-")[0].split(",")[0] for line in alike} >= {
        "AMD EPYC",
        "Haswell",
        "Intel(R) Xeon(R) Processor",
    }
    assert len({line["versions"]["torch"] for line in alike}) > 1
    assert all(line["digests"] == alike[0]["digests"] for line in alike)
    assert any(line["digests"] != alike[0]["digests"] for line in lines)  # what was asked for made the difference


def test_two_hundred_iterations_on_real_images_are_the_same_on_cpus_of_two_makers() -> None:
    folder = ROOT / "results" / "conv4-200-iterations"
    if not folder.is_dir():
        pytest.skip("results/ comes with the repository, not with the package")
    amd, intel = (folder / name for name in ("amd", "intel"))
    assert (amd / "learner.safetensors").read_bytes() == (intel / "learner.safetensors").read_bytes()
    logs = [(each / "log.jsonl").read_text().splitlines() for each in (amd, intel)]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 200
    settings = [json.loads((each / "run.json").read_bytes()) for each in (amd, intel)]
    assert settings[0].pop("versions")["torch"] != settings[1].pop("versions")["torch"]
    assert settings[0] == settings[1]


def test_every_table_has_its_place(tables: ModuleType) -> None:
    texts = "".join((ROOT / file).read_text() for file in tables.FILES)
    assert [name for name in tables.BLOCKS if f"<!-- {name} -->\n" not in texts] == []
