"""The command line: thin, helpful, and without a traceback for a user's mistake."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dit_lens.cli import app, main


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it: its own process."""
    env = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "dit_lens.cli", *words], capture_output=True, text=True, env=env)


@pytest.mark.parametrize("words", [[], ["--help"], ["map", "--help"], ["points", "--help"], ["plan", "--help"]])
def test_help(words) -> None:
    told = CliRunner().invoke(app, words)
    assert told.exit_code == (0 if words else 2)  # no command at all: help, and a failure for scripts
    assert "Usage" in told.output and (words[:1] or ["map"])[0].strip("-") in told.output


@pytest.mark.parametrize(("part", "option"), [("train", "--out"), ("evaluate", "--n")])
def test_help_of_the_lab_reaches_its_own_options(part, option, capsys) -> None:
    told = CliRunner().invoke(app, ["lab", part, "--help"])
    assert told.exit_code == 0 and option in told.output


def test_plan_and_points_of_lab() -> None:
    plan = CliRunner().invoke(app, ["plan", "lab", "--steps", "3"])
    assert plan.exit_code == 0
    assert plan.output.count("call ") == 6
    points = CliRunner().invoke(app, ["points"])
    assert points.exit_code == 0 and "hook_resid_post" in points.output


def test_a_sweep_tells_its_cost_and_runs_nothing(tmp_path) -> None:
    words = ["sweep", "lab", "--task", "choose", "--n", "2", "--steps", "0,3-5", "--layers", "1,0-5", "--plan"]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "s")])
    assert told.exit_code == 0, told.output
    assert "16 cells" in told.output and "block evaluations" in told.output
    assert not (tmp_path / "s").exists()


def test_a_small_sweep_writes_its_table(tmp_path) -> None:
    words = ["sweep", "lab", "--task", "choose", "--n", "2", "--steps", "0", "--layers", "1,11", "--out", str(tmp_path)]
    words.append("--no-report")  # tests/sweeps/test_sweep_report.py
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    lines = (tmp_path / "effects.csv").read_text().splitlines()
    assert len(lines) == 3 and "null" in lines[0]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 8


def test_a_group_that_cannot_be_read_is_refused() -> None:
    told = CliRunner().invoke(app, ["sweep", "lab", "--steps", "a-b", "--plan"])
    assert told.exit_code == 2 and "8-19" in told.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["map", "nowhere/at-all"], "Give 'lab', a folder"),
        (["map", "lab", "--n", "1"], "n >= 2"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(words, told, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # main() sets two of them for its process
    monkeypatch.setattr(sys, "argv", ["dit-lens", *words, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said


def test_loading_is_quiet() -> None:
    done = command("plan", "lab", "--steps", "2")
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.slow  # most of a minute; a smaller one is in test_map.py
def test_a_whole_map(tmp_path) -> None:
    """From the command to the files, with the model's own steps; one task, as small as a map can be."""
    done = command("map", "lab", "--n", "2", "--task", "choose", "--out", str(tmp_path / "m"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "report.html").stat().st_size > 100_000
    assert str(tmp_path / "m" / "report.html") in done.stdout.replace("\n", "")
