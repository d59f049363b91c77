"""The command line, end to end on made data: fit, kill, resume, evaluate, compare, and the user's mistakes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_results import write_evaluation
from PIL import Image
from rich.table import Table

from rareshot.checkpoint import last_training_state, load_learner, state_hash
from rareshot.cli import main
from rareshot.commands.terminal import CONSOLE, STATUS
from rareshot.data.synthetic import separable

TINY = (
    "--size",
    "28",
    "--width",
    "8",
    "--query",
    "5",
    "--tasks",
    "2",
    "--steps",
    "2",
    "--test-steps",
    "2",
    "--inner-lr",
    "0.05",
    "--threads",
    "2",
)
SHORT = ("--iterations", "40", "--warmup", "20", "--validate-every", "40", *TINY)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of separable made lesions: path, label, group, site."""
    root = tmp_path_factory.mktemp("made")
    images = separable(lesions=40)
    rows = ["path,label,group,site"]
    sites = images.columns["site"]
    for i in range(len(images)):
        Image.fromarray(np.asarray(images.pixels[i])).save(root / f"{images.ids[i]}.png")
        rows.append(f"{images.ids[i]}.png,{images.classes[images.labels[i]]},g{images.groups[i]},{sites[i]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


@pytest.fixture(scope="module")
def rare() -> tuple[str, ...]:
    """The options that name the rare classes."""
    return tuple(word for name in separable(lesions=40).card.rare for word in ("--rare", name))


@pytest.fixture(scope="module")
def run(made: Path, rare: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short, unbroken run of MAML."""
    out = tmp_path_factory.mktemp("runs") / "maml"
    assert main(["fit", "maml", "--data", str(made), "--out", str(out), *SHORT, *rare]) == 0
    return out


def _fit(name: str, made: Path, out: Path, rare: tuple[str, ...], *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import sys; from rareshot.cli import main; sys.exit(main())", "fit", name]
    command += ["--data", str(made), "--out", str(out), *rare, *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _wait_for_checkpoint(out: Path, process: subprocess.Popen[bytes], beyond: int) -> None:
    while process.poll() is None:
        state = last_training_state(out) if out.is_dir() else None
        if state is not None and state.iteration > beyond:
            return
        time.sleep(0.02)


def test_fit_leaves_a_learner_and_a_log_line_for_every_iteration(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 41))
    assert {"classes", "loss", "auc", "weight"} <= lines[0]["tasks"][0].keys()
    assert load_learner(run).size == 28


def test_a_killed_fit_resumes_to_the_same_weights(run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = _fit("maml", made, out, rare, *SHORT)
    _wait_for_checkpoint(out, process, 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = last_training_state(out)
    assert state is not None
    assert 0 < state.iteration < 40
    assert main(["fit", "maml", "--data", str(made), "--out", str(out), "--resume", *rare]) == 0
    assert state_hash(load_learner(out).state()) == state_hash(load_learner(run).state())
    assert len((out / "log.jsonl").read_text().splitlines()) == 40


def test_a_refused_fit_leaves_no_run_to_be_resumed(
    made: Path, rare: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "maml", "--data", str(made), "--out", str(tmp_path / "run"), *SHORT, *rare]
    assert main([*command, "--shot", "30"]) == 2
    assert "each class needs shot" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()
    assert main([*command, "--iterations", "2", "--warmup", "0"]) == 0


def test_a_run_is_resumed_with_its_own_settings_or_not_at_all(
    run: Path, made: Path, rare: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "maml", "--data", str(made), "--out", str(run), "--resume", *rare]
    assert main([*command, *SHORT]) == 0
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, *SHORT, "--iterations", "50", "--seed", "7"]) == 2
    told = capsys.readouterr().err
    assert "iterations=50 is asked for and the run has 40, seed=7 is asked for and the run has 0" in told
    assert main([*command, "--iterations", "3000"]) == 2  # what a new run would have
    assert "iterations=3000 is asked for and the run has 40" in capsys.readouterr().err


def test_a_run_with_a_setting_of_later_versions_is_resumed(made: Path, rare: tuple[str, ...], tmp_path: Path) -> None:
    short = (*SHORT, "--iterations", "2", "--warmup", "0", "--hessian", "bfloat16")
    command = ["fit", "maml", "--data", str(made), "--out", str(tmp_path / "run"), *short, *rare]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0


def test_a_set_without_an_unseen_class_is_not_sent_to_evaluate(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = (*SHORT, "--iterations", "2", "--warmup", "0")
    assert main(["fit", "maml", "--data", str(made), "--out", str(tmp_path / "run"), *short]) == 0
    told = capsys.readouterr()
    assert "caution: no class is kept unseen" in told.err
    assert f"next: rareshot adapt {tmp_path / 'run'} --support PHOTOGRAPHS" in told.out


@pytest.mark.long
def test_twenty_kills_at_random_points_change_nothing(made: Path, rare: tuple[str, ...], tmp_path: Path) -> None:
    more = ("--iterations", "400", "--warmup", "200", "--validate-every", "100", *TINY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _fit("daml", made, whole, rare, *more).wait() == 0
    draw = random.Random(0)
    process = _fit("daml", made, broken, rare, *more)
    for _ in range(20):
        state = last_training_state(broken) if broken.is_dir() else None
        _wait_for_checkpoint(broken, process, state.iteration if state else 0)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = last_training_state(broken)
        assert state is not None
        assert state.iteration > 0
        process = _fit("daml", made, broken, rare, "--resume")
    assert process.wait() == 0
    assert state_hash(load_learner(broken).state()) == state_hash(load_learner(whole).state())


def test_sigterm_leaves_a_checkpoint_and_says_so(made: Path, rare: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = _fit("maml", made, out, rare, "--iterations", "5000", "--warmup", "30", *TINY)
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    state = last_training_state(out)
    assert state is not None
    assert state.iteration == len((out / "log.jsonl").read_text().splitlines())


def test_daml_branches_from_the_end_of_mamls_warmup(
    run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path
) -> None:
    branched, whole = tmp_path / "branched", tmp_path / "whole"
    shared = ["fit", "daml", "--data", str(made), *SHORT, *rare]
    assert main([*shared, "--out", str(branched), "--branch-from", str(run)]) == 0
    assert main([*shared, "--out", str(whole)]) == 0
    assert state_hash(load_learner(branched).state()) == state_hash(load_learner(whole).state())
    assert len((branched / "log.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize("protocol", ["paper", "full", "site"])
def test_evaluate_writes_a_line_an_episode_and_goes_on_where_it_stopped(
    protocol: str, run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(run), "--data", str(made), "--protocol", protocol, "--shot", "2", "--out", str(tmp_path)]
    command += ["--episodes", "6", *rare]
    assert main(command) == 0
    file = tmp_path / f"{protocol}-2way-2shot.jsonl"
    first = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(file.read_text().splitlines()[:4]) + '\n{"protocol": "pa')
    assert main(command) == 0
    second = [json.loads(line) for line in file.read_text().splitlines()]
    for line in (*first, *second):
        line.pop("seconds", None)
    assert first == second
    assert len(first) == 1 + (
        6 if protocol != "site" else 6 * len({(line["site"], *sorted(line["classes"])) for line in first[1:]})
    )
    assert "AUC" in capsys.readouterr().out


def test_compare_pairs_two_runs(
    run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more in (("trained", []), ("other", ["--test-steps", "1"])):
        command = ["evaluate", str(run), "--data", str(made), "--protocol", "paper", "--episodes", "30"]
        assert main([*command, "--out", str(tmp_path / name), *more, *rare]) == 0
    assert main(["compare", str(tmp_path / "trained"), str(tmp_path / "other")]) == 0
    assert "paper-2way-5shot" in capsys.readouterr().out


def test_a_report_writes_over_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "results", "maml", 1.0)
    page, notes = tmp_path / "report.html", tmp_path / "report.md"
    notes.write_text("# My own\n")
    assert main(["report", str(tmp_path / "results"), "--out", str(page)]) == 2
    assert f"{notes} is there already and is no report" in capsys.readouterr().err
    assert notes.read_text() == "# My own\n"
    assert not page.exists()
    notes.unlink()
    for _ in range(2):  # its own it draws anew
        assert main(["report", str(tmp_path / "results"), "--out", str(page)]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "no command 'nonsense'"),
        (["fit"], "fit needs a method first"),
        (["fit", "gpt"], "no method 'gpt'; choose from maml"),
        (["fit", "maml", "--data", "DATA", "--out", "RUN"], "holds a run already"),
        (["fit", "daml", "--data", "DATA", "--out", "RUN", "--resume"], "is a run of maml, not of daml"),
        (["fit", "maml", "--data", "nowhere", "--out", "OUT"], "nowhere: no such folder or file"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--shot", "0"], "shot=0: a task needs at least 1"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--shot", "30"], "each class needs shot"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--shot", "9"], "held_out leaves 8 groups"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--backbone", "nonet"], "no backbone 'nonet'"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--device", "tpu"], "device='tpu'"),
        (
            ["fit", "maml", "--data", "DATA", "--out", "OUT", "--size", "1200"],
            "--size 1200: images have 1 to 1024 pixels",
        ),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--size", "0"], "--size 0: images have 1 to 1024 pixels"),
        (["fit", "maml", "--data", "DATA", "--out", "OUT", "--seed", str(2**63)], "must be at least 0 and below 2^63"),
        (["fit", "maml", "--data", "DATA", "--out", ""], "an argument is empty (an unset variable?)"),
        (["fit", "maml", "--data", "DATA", "--out="], "--out= is empty (an unset variable?)"),
        (["evaluate", "RUN", "--data", "DATA", "--seed", "-1"], "seed=-1 must be at least 0"),
        (["evaluate", "OUT", "--data", "DATA"], "holds no run"),
        (
            ["evaluate", "RUN", "--data", "DATA", "--protocol", "site", "--way", "3"],
            "way=3: the site protocol is of pairs",
        ),
        (["evaluate", "RUN", "--data", "DATA", "--by-image"], "by_image belongs to the paper protocol"),
        (["evaluate", "RUN", "--data", "DATA", "--shot", "1000"], "each class needs shot"),
        (["evaluate", "RUN", "--data", "DATA", "--episodes", "0"], "episodes=0"),
        (["evaluate", "RUN", "--data", "DATA", "--shot", "0"], "shot=0"),
        (["evaluate", "RUN", "--data", "DATA", "--test-steps", "0"], "test_steps=0"),
        (
            ["evaluate", "RUN", "--data", "DATA", "--episodes", "1", "--out", "RUN/run.json"],
            "is a file where a folder is",
        ),
        (["compare", "RUN", "OUT"], "is not a folder"),
        (["compare", "RUN", "RUN", "--metric", "f1"], "f1 is not measured"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    args: list[str],
    message: str,
    run: Path,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rare: tuple[str, ...],
) -> None:
    places = {"DATA": str(made), "RUN": str(run), "RUN/run.json": f"{run}/run.json", "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in args]
    if args[0] == "fit" and len(args) > 2:
        words += rare if "--size" in args else (*rare, "--size", "28")
    words += rare if args[0] == "evaluate" else ()
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rareshot: ")
    assert message in said


def test_help_for_a_command_that_begins_with_a_method_lists_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["fit"], ["federate", "simulate"]):
        with pytest.raises(SystemExit) as left:
            main([*words, "--help"])
        assert left.value.code == 0
        told = capsys.readouterr().out
        assert "METHOD one of maml, " in told
        assert f"more: rareshot {' '.join(words)} maml --help" in told


def test_a_set_without_a_rare_class_has_nothing_to_evaluate_on(
    run: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--data", str(made), "--episodes", "2"]) == 2
    assert "name the classes that the run was not trained on with --rare" in " ".join(capsys.readouterr().err.split())


def test_a_strangers_names_reach_the_terminal_as_text(
    run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Path(shutil.copytree(run, tmp_path / "theirs"))
    told = json.loads((theirs / "run.json").read_text())
    (theirs / "run.json").write_text(json.dumps({**told, "name": "\x1b[2Jmaml"}))
    assert main(["evaluate", str(theirs), "--data", str(made), "--episodes", "2", *rare]) == 0
    assert main(["compare", f"{tmp_path}/no\x1b[2J", str(run)]) == 2
    out, err = capsys.readouterr()
    assert "\\x1b[2Jmaml" in out
    assert "/no\\x1b[2J is not a folder" in err
    assert "\x1b[2J" not in out + err


def test_a_message_is_one_line_whatever_a_file_is_called(
    run: Path, made: Path, rare: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\nb").write_text("")
    words = ["evaluate", str(run), "--data", str(made), "--episodes", "1", "--out", str(tmp_path / "a\nb"), *rare]
    assert main(words) == 2
    assert "/a b is a file where a folder is needed" in capsys.readouterr().err


def test_an_untrained_network_needs_images_of_common_classes(
    run: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((run / "run.json").read_text())
    theirs = Path(shutil.copytree(run, tmp_path / "theirs"))
    (theirs / "run.json").write_text(json.dumps({**told, "data": {**told["data"], "common": []}}))
    every = [word for name in separable(lesions=40).classes for word in ("--rare", name)]
    assert main(["evaluate", str(theirs), "--data", str(made), "--untrained", "--episodes", "2", *every]) == 2
    assert "has no image of a common class" in capsys.readouterr().err


def test_help_needs_no_torch_and_names_every_command() -> None:
    code = "import sys; from rareshot.cli import main; main(['--help']); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip().endswith("False")
    for command in ("demo", "data check|prepare|fetch", "fit", "evaluate", "compare"):
        assert f"rareshot {command}" in told


def test_a_name_is_printed_as_it_is() -> None:
    for console in (CONSOLE, STATUS):
        with console.capture() as told:
            console.print("photo:a:1.jpg [bold]x")
        assert told.get() == "photo:a:1.jpg [bold]x\n"


def test_what_a_terminal_would_obey_is_printed_with_escapes() -> None:
    table = Table("site")
    table.add_row("\x1b]0;theirs\x07\u202e")
    for console in (CONSOLE, STATUS):
        with console.capture() as told:
            console.print("a\x1b[2Jb\nc d é")
            console.print(table)
        assert "a\\x1b[2Jb\nc d é\n" in told.get()
        assert "\\x1b]0;" in told.get()
        assert not {"\x1b", "\x07", "\u202e"} & set(told.get())


def test_python_m_rareshot_is_rareshot() -> None:
    told = subprocess.run([sys.executable, "-m", "rareshot", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("rareshot ")
