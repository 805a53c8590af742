"""Every kind of long work: killed with kill -9 at random moments it goes on, and ends with the numbers of one that
nobody disturbed; two processes on one folder end with one complete result.

Every victim is a copy of this process (``os.fork``), which has torch and the model already: a kill costs no import.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens import replication
from dit_lens.layer_map import measurement
from dit_lens.probing import collect, grid
from dit_lens.replication.claim import Claim
from dit_lens.runner import resumable_generation
from dit_lens.store.folder import FolderStore
from dit_lens.store.identity import checksum, describe
from dit_lens.wan.lens import Lens

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
SAMPLING = {
    "num_inference_steps": 2, "guidance_scale": 5.0, "height": 32, "width": 64, "num_frames": 9,
    "max_sequence_length": 16,
}  # fmt: skip
FINDINGS = Path(__file__).resolve().parent.parent / "benchmarks" / "findings.py"


@dataclass(frozen=True, eq=False)
class Puzzle:
    """The least that all kinds of work take; the size comes from the sampling."""

    seed: int
    prompt: str = "a red agent goes to the green goal"
    name: str = "own"
    image: Any = field(default_factory=lambda: families.image(32, 64))
    regions: Any = field(default_factory=lambda: {"object": np.arange(24) % 4 < 2})

    def twin(self, kind: str) -> Puzzle:
        return Puzzle(self.seed, "a blue agent goes to the goal")


PUZZLES = [Puzzle(i) for i in range(6)]


# -- the kinds of work: a folder in, what was found out


def map_(lens: Lens, folder: Path | None) -> Any:
    found = dl.map(lens, tasks=PUZZLES[:2], seed=5, steps=(0,), scenes=2, controls=1, sampling=SAMPLING, folder=folder)
    tables = {name: table.to_dict() for name, table in found.tables().items()}
    clips = {str(place): dict(clips) for place, clips in found.clips.items()}
    return [tables, clips, [(run.latents, run.velocity) for run in found.runs], found.summary()]


def sweep(lens: Lens, folder: Path | None) -> Any:
    return dl.sweep(
        lens, tasks=PUZZLES[:2], source="other_answer", steps=[0, 1], layers="all", horizon="final", sampling=SAMPLING,
        folder=folder, progress=lambda *_: None,
    ).to_dict()  # fmt: skip


def features(lens: Lens, folder: Path | None) -> Any:
    found = collect(lens, PUZZLES, "attn_out", sampling=SAMPLING, folder=folder)
    return [found.block("attn_out", 1), found.block("input", 0), [scene.group for scene in found.scenes]]


@cache
def collected(lens: Lens) -> Any:
    """Each scene its own group: their pictures are the same."""
    from dataclasses import replace

    found = collect(lens, PUZZLES, "resid_post", "attn_out", sampling=SAMPLING)
    return replace(found, scenes=tuple(replace(s, group=str(i)) for i, s in enumerate(found.scenes)))


def probe_grid(lens: Lens, folder: Path | None) -> Any:
    labels = {"y": np.random.default_rng(0).integers(0, 2, (6, 24))}
    return grid(collected(lens), labels, folds=3, permutations=9, folder=folder).to_dict()


def generation(lens: Lens, folder: Path | None) -> Any:
    arguments = {"task": PUZZLES[0], "seed": 3, **SAMPLING, "num_inference_steps": 12}
    if folder is None:
        run = lens.generate(**arguments)
    else:
        with resumable_generation.resumable_generation(lens, folder, arguments) as work:
            run = work.finish()
        assert torch.equal(dl.load_run(folder / "run").latents, run.latents)
    return [run.latents, run.velocity, run.video, dict(run.meta)]


def experiment(lens: Lens, folder: Path | None) -> Any:
    """Noise at steps, with its placebo and a clean run of every task."""
    moved = {"moved": lambda run: float((run.final - run.latents[0]).std())}
    return dl.experiments.noise_at_step(
        lens, PUZZLES[:4], [0, 1], ("unit", "renewed"), scores=moved, sampling=SAMPLING, folder=folder,
        progress=lambda *_: None,
    ).to_dict()  # fmt: skip


def findings_page() -> Any:
    sys.path.insert(0, str(FINDINGS.parent))  # it imports the page's text
    spec = importlib.util.spec_from_file_location("findings", FINDINGS)
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def entries(page: Any, lens: Lens, names: list[str], folder: Path | None) -> Any:
    found = page.measure_all(lens, names, folder)
    return {name: {k: v for k, v in entry.items() if k != "minutes"} for name, entry in found.items()}


def claims(lens: Lens, folder: Path | None) -> Any:
    """The findings page of two experiments as they are, on two tasks each."""
    page = findings_page()
    page.replication = SimpleNamespace(claims=partial(replication.claims, n=2), TABLE=replication.TABLE)
    return entries(page, lens, ["energy", "attention"], folder)


def findings(lens: Lens, folder: Path | None) -> Any:
    """The whole page, with a stand-in for each claim that takes a generation."""
    page = findings_page()

    def claims(lens: Lens, name: str, **arguments: Any) -> list[Claim]:
        run = lens.generate(PUZZLES[0], seed=len(name), **SAMPLING)
        value = float(run.latents.double().mean())
        zero = np.float32(0)
        return [Claim(name, name, "mean", "", value, value, value, 1, zero, 0, 0, "", "", None)]  # type: ignore[arg-type]

    page.replication = SimpleNamespace(claims=claims, TABLE=replication.TABLE)
    return entries(page, lens, list(page.ASKED["lab"]), folder)


WORK: dict[str, Callable[[Lens, Path | None], Any]] = {
    "map": map_, "sweep": sweep, "features": features, "probe grid": probe_grid, "experiment": experiment,
    "generation": generation, "findings": findings, "claims": claims,
}  # fmt: skip
SHORT = [kind for kind in WORK if kind != "claims"]  # which takes a quarter of a minute


# -- the harness


def opened() -> Lens:
    """What the claims are measured on, whose tasks say all of the sampling but this."""
    few = {"num_inference_steps": 2, "guidance_scale": 1.0, "max_sequence_length": 16}
    return dl.load(families.FAMILIES["i2v22"].build(), defaults=few)


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    """A tiny model with as many layers as a map can cut in three; what is kept now and then is kept at every step."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(families, "LAYERS", 5)
        m.setattr(resumable_generation, "EVERY", 0.0)
        m.setattr(measurement, "FEWEST", 2)
        with opened() as lens:
            collected(lens)
            yield lens
            collected.cache_clear()


@cache
def undisturbed(lens: Lens, kind: str) -> tuple[str, float]:
    """What is found without a folder, and how long it takes."""
    began = time.perf_counter()
    return found(lens, kind, None), time.perf_counter() - began


def found(lens: Lens, kind: str, folder: Path | None) -> str:
    return checksum(describe(WORK[kind](lens, folder)))


def started(lens: Lens, kind: str, folder: Path, answer: Path) -> int:
    """A process that does the work and writes what it found."""
    pid = os.fork()
    if pid:
        return pid
    try:
        answer.write_text(found(lens, kind, folder))
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def items(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "items").glob("[!.]*")}


def campaign(lens: Lens, kind: str, tmp_path: Path, kills: int) -> None:
    """Kill until it was done ``kills`` times; on a new folder where the work came to its end before."""
    rng = random.Random(kind)
    expected, seconds = undisturbed(lens, kind)
    killed = number = 0
    before: dict[str, bytes] = {}
    while killed < kills:
        folder = tmp_path / str(number)
        pid = started(lens, kind, folder, tmp_path / "answer")
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        code = code_of(pid)
        assert code in (0, -signal.SIGKILL)
        if kind != "generation":  # which keeps its last steps only
            assert before.items() <= items(folder).items(), "nothing lost, nothing changed"
        killed += code != 0
        if code == 0:
            assert (tmp_path / "answer").read_text() == expected
            number += 1
        before = items(folder) if code else {}
    folder = tmp_path / str(number)
    assert found(lens, kind, folder) == expected
    assert found(lens, kind, folder) == expected, "read, not made"
    assert not list(folder.rglob("*.damaged-*"))


@pytest.mark.parametrize("kind", SHORT)
def test_two_kills(lens: Lens, kind: str, tmp_path: Path) -> None:
    campaign(lens, kind, tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORK)
def test_ten_kills(lens: Lens, kind: str, tmp_path: Path) -> None:
    campaign(lens, kind, tmp_path, kills=10)


@pytest.mark.parametrize("kind", SHORT)
def test_two_processes_on_one_folder(lens: Lens, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share it, or one waits; both end with all of it, which is there once."""
    expected, _ = undisturbed(lens, kind)
    real, log = FolderStore.put, tmp_path / "log"

    def noted(self: FolderStore, key: str, value: Any) -> None:
        with log.open("a") as out:
            out.write(f"{self.place} {key}\n")
        real(self, key, value)

    monkeypatch.setattr(FolderStore, "put", noted)
    pids = [started(lens, kind, tmp_path / "folder", tmp_path / f"answer-{i}") for i in range(2)]
    assert [code_of(pid) for pid in pids] == [0, 0]
    assert [(tmp_path / f"answer-{i}").read_text() for i in range(2)] == [expected] * 2
    made = log.read_text().splitlines()
    assert len(made) == len(set(made)), "nothing was made twice"


FRESH = """
import sys
sys.path[:0] = {path!r}
import pytest, families, test_killed_work as work
from pathlib import Path
with pytest.MonkeyPatch.context() as m:
    m.setattr(families, "LAYERS", 5)
    m.setattr(work.measurement, "FEWEST", 2)
    with work.opened() as lens:
        print(work.found(lens, {kind!r}, Path({folder!r})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORK)
def test_another_process_goes_on(lens: Lens, kind: str, tmp_path: Path) -> None:
    """A new interpreter, with another hash seed and the scheduler built anew, takes up what a killed one left."""
    expected, seconds = undisturbed(lens, kind)
    pid = started(lens, kind, tmp_path / "folder", tmp_path / "answer")
    time.sleep(seconds * 0.6)
    os.kill(pid, signal.SIGKILL)
    code_of(pid)
    script = FRESH.format(path=[str(Path(__file__).parent)], kind=kind, folder=str(tmp_path / "folder"))
    for seed in (1, 2):
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == expected
