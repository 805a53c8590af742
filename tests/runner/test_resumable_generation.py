"""A generation that is stopped: nothing that is done is lost, and what comes of it has the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import dit_lens as dl
from dit_lens.cli import app, inspect_commands
from dit_lens.runner import resumable_generation
from dit_lens.store import items
from dit_lens.wan import sampler
from dit_lens.wan.run import Run

STEPS = 30
WORDS = ["generate", "lab", "--task", "maze", "--seed", "3", "--num-inference-steps", str(STEPS), "--out"]
#: The command, telling every step; without a terminal it would tell one in 15 seconds. Where the tests were started in
#: the background (nohup), SIGINT is ignored, and Python leaves it so unless it is told otherwise.
TELLING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from dit_lens.cli import common, main
common.EVERY = 0
main()
"""


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture
def loaded(lens: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(inspect_commands, "load", lambda *_: lens)
    return lens


def whole(lens: Any, **more: Any) -> Any:
    return lens.generate(dl.tasks.load("maze", seed=3), **{"seed": 3, "num_inference_steps": STEPS, **more})


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were computed, one number each."""
    steps: list[int] = []
    sample = sampler.sample

    def counting(*arguments: Any, **more: Any) -> Iterator[Any]:
        for step in sample(*arguments, **more):
            steps.append(step.step)
            yield step

    monkeypatch.setattr(sampler, "sample", counting)
    return steps


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("[!.]*"))


def unfinished(folder: Path) -> Run:
    """The steps that are kept."""
    (file,) = (folder / "items").iterdir()
    return Run.from_content(items.read(file))


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(loaded: Any, tmp_path: Path, counted: Any) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # as many threads as here: the same bits
    command = [sys.executable, "-c", TELLING, *WORDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as child:
        assert child.stderr is not None and child.stdout is not None
        for line in child.stderr:
            if line.startswith("generate: 3 of 30"):
                child.send_signal(signal.SIGINT)
                break
        told = child.stderr.read()
        assert child.wait() == 130 and child.stdout.read() == ""
    assert f"what is done is kept in {tmp_path}: the same command continues there" in told and "Traceback" not in told
    assert files(tmp_path) == ["items", "manifest.json"]
    kept = unfinished(tmp_path)
    assert 3 <= kept.n_steps < STEPS and f"stopped after {kept.n_steps} of 30 steps" in told

    again = run(*WORDS, tmp_path)
    assert again.exit_code == 0, again.output
    assert f"going on after {kept.n_steps} of 30 steps" in again.stderr
    assert counted == list(range(kept.n_steps, STEPS)), "no step twice"
    assert files(tmp_path) == ["film.png", "manifest.json", "run", "video.mp4"]
    made, plain = dl.load_run(tmp_path / "run"), whole(loaded)
    assert torch.equal(made.latents, plain.latents) and torch.equal(made.velocity, plain.velocity)
    assert made.meta == plain.meta and made.task == plain.task and made.fired == ()
    assert f"maze 3: {'solved' if plain.score else 'failed'}" in again.stdout


@pytest.fixture
def stopped(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose generation was stopped before step 4."""
    sample = sampler.sample

    def impatient(*arguments: Any, **more: Any) -> Iterator[Any]:
        for step in sample(*arguments, **more):
            if step.step == 4:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "sample", impatient)
        told = run(*WORDS, tmp_path)
    assert told.exit_code == 130 and "stopped after 4 of 30 steps" in told.stderr
    return tmp_path


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["--num-inference-steps", "20"], "num_inference_steps: 30 -> 20"),
        (["--guidance-scale", "2"], "guidance_scale: absent -> 2.0"),
        (["--task-seed", "4"], "task.seed: 3 -> 4"),
        (["--preset", "paper"], "preset: absent -> 'paper'"),
        (["--image", "first.png"], "image: "),
    ],
    ids=str,
)
def test_other_parameters_are_refused_with_the_difference(
    stopped: Path, other: list[str], difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stopped)
    dl.tasks.load("maze", seed=5).image.save("first.png")
    told = run(*WORDS, stopped, *other)
    assert told.exit_code == 1 and difference in told.stderr and "another folder to begin anew" in told.stderr
    assert unfinished(stopped).n_steps == 4
    assert run(*WORDS, stopped / "new", *other).exit_code == 0  # the cure


def test_other_weights_are_refused(stopped: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(loaded), "fingerprint", "0" * 16)
    told = run(*WORDS, stopped)
    assert told.exit_code == 1 and f"-> '{'0' * 16}'" in told.stderr


def test_damaged_steps_are_set_aside_and_computed_again(stopped: Path, loaded: Any, counted: Any) -> None:
    (file,) = (stopped / "items").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert run(*WORDS, stopped).exit_code == 0 and counted == list(range(STEPS))
    assert torch.equal(dl.load_run(stopped / "run").latents, whole(loaded).latents)


def test_a_stop_while_decoding_computes_no_step_again(
    loaded: Any, tmp_path: Path, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dit_lens.figures.frames.mp4", never)
        told = run(*WORDS, tmp_path)
    assert told.exit_code == 130 and "stopped after 30 of 30 steps" in told.stderr
    assert run(*WORDS, tmp_path).exit_code == 0
    assert counted == list(range(STEPS)) and files(tmp_path) == ["film.png", "manifest.json", "run", "video.mp4"]


def test_a_long_generation_is_kept_now_and_then(
    loaded: Any, tmp_path: Path, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no handler sees, such as a machine that goes away, costs minutes only."""
    monkeypatch.setattr(resumable_generation, "EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("dit_lens.figures.frames.mp4", None)
        assert run(*WORDS, tmp_path).exit_code == 1
    assert unfinished(tmp_path).n_steps == STEPS
    assert run(*WORDS, tmp_path).exit_code == 0 and counted == list(range(STEPS))


def test_the_same_command_reads_what_is_finished_and_others_replace_it(
    loaded: Any, tmp_path: Path, counted: Any
) -> None:
    """A finished folder belongs to what it was made under; it is ours to replace, and a damaged run is made again."""
    assert run(*WORDS, tmp_path).exit_code == 0
    counted.clear()
    again = run(*WORDS, tmp_path)
    assert again.exit_code == 0 and counted == [] and "going on after 30 of 30 steps" in again.stderr
    (tmp_path / "run" / "run.safetensors").write_bytes(b"")
    assert run(*WORDS, tmp_path).exit_code == 0 and counted == list(range(STEPS))
    assert run(*WORDS, tmp_path, "--num-inference-steps", 3).exit_code == 0
    assert dl.load_run(tmp_path / "run").n_steps == 3
    assert files(tmp_path) == ["film.png", "manifest.json", "run", "video.mp4"]


@pytest.mark.parametrize("name", ["video.mp4", "film.png", "notes.txt", "run"])
def test_a_users_own_file_is_never_overwritten(loaded: Any, tmp_path: Path, name: str) -> None:
    if name == "run":
        whole(loaded, num_inference_steps=2).save(tmp_path / name)
    else:
        (tmp_path / name).write_text("mine")
    told = run(*WORDS, tmp_path)
    assert told.exit_code == 1 and "something else than a generation: choose an empty folder" in told.stderr
    assert files(tmp_path) == [name]
    assert dl.load_run(tmp_path / name).n_steps == 2 if name == "run" else (tmp_path / name).read_text() == "mine"
