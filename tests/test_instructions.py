"""That the command line computes by the same instructions on every PC."""

import os
import subprocess
import sys

import pytest
import torch

from rareshot.machine import INSTRUCTIONS, round_alike

COMMANDS = (
    "fit daml --data nowhere --out never",
    "adapt nowhere --support nowhere --out never",
    "predict nowhere nowhere",
)
TELL = (
    "import sys; from rareshot.cli import main; main(sys.argv[1:]); "
    "import torch; print(torch.backends.cpu.get_cpu_capability())"
)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in INSTRUCTIONS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def _used(command: str = COMMANDS[0], **chosen: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in INSTRUCTIONS} | chosen
    code = [sys.executable, "-c", TELL, *command.split()]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="this CPU has no AVX2")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compute_by_avx2_even_where_the_cpu_has_more(command: str) -> None:
    assert _used(command) == "AVX2"


def test_who_has_chosen_other_instructions_keeps_them() -> None:
    assert _used(ATEN_CPU_CAPABILITY="default") in ("DEFAULT", "NO AVX")


def test_a_cpu_without_avx2_is_left_as_it_is(untouched: pytest.MonkeyPatch) -> None:
    untouched.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    assert not round_alike()
    assert not any(name in os.environ for name in INSTRUCTIONS)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_one_variable_of_the_users_is_enough_to_have_chosen(untouched: pytest.MonkeyPatch, name: str) -> None:
    untouched.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    untouched.setenv(name, "anything")
    assert not round_alike()
    assert [each for each in INSTRUCTIONS if each in os.environ] == [name]


def test_all_three_are_set(untouched: pytest.MonkeyPatch) -> None:
    untouched.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    for name, value in INSTRUCTIONS.items():
        untouched.setenv(name, value)
        untouched.delenv(name)
    assert round_alike()
    assert {name: os.environ[name] for name in INSTRUCTIONS} == INSTRUCTIONS
