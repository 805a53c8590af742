"""kill -9 at any moment: no finished cell is lost, measured twice or changed.

Every victim is a copy of this process (``os.fork``), which has torch and the model already: a kill costs no import.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeping import lens_and_puzzle, quiet

from dit_lens.runner import Sweep
from dit_lens.runner.cell_engine import Engine
from dit_lens.store.manifest import CLAIMS, ITEMS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def model() -> Any:
    lens, puzzle, sampling = lens_and_puzzle("i2v22")
    yield lens, lens.generate(puzzle, seed=3, **sampling), lens.generate(puzzle.twin(""), seed=3, **sampling)
    lens.close()


def make(model: Any, folder: Path | None) -> Sweep:
    lens, base, source = model
    hooks = ["update", "attn_out", "mlp_out"]
    return Sweep(lens, base, source, hooks=hooks, placebo="none", horizon=1, folder=folder)


def victim(model: Any, folder: Path, log: Path) -> int:
    """A process that sweeps, noting each cell that it begins to measure and whether it stood there already."""
    pid = os.fork()
    if pid:
        return pid
    try:
        real, sweep = Engine.run, make(model, folder)

        def noted(self: Engine, item: Any, cell: Any, *rest: Any) -> Any:
            there = any((folder / ITEMS).glob(f"{cell.key}.*"))
            handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, f"{cell.key} {'again' if there else 'new'}\n".encode())
            os.close(handle)
            return real(self, item, cell, *rest)

        Engine.run = noted  # type: ignore[method-assign]
        sweep.run(progress=quiet)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def stored(folder: Path) -> dict[str, bytes]:
    """The finished cells: what has its name. Scratch files of the dead begin with a dot."""
    cells = folder / ITEMS
    return {f.name: f.read_bytes() for f in cells.glob("[!.]*")} if cells.exists() else {}


def killed(model: Any, folder: Path, log: Path, before: dict[str, bytes], wait: Callable[[], float]) -> bool:
    """Start a victim, kill it after ``wait()`` seconds; whether it was killed before it was done. Checks the folder."""
    pid = victim(model, folder, log)
    time.sleep(wait())
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    after = stored(folder)
    assert {name: after.get(name) for name in before} == before  # nothing lost, nothing changed
    before.clear()
    before.update(after)
    return code != 0


def finish(model: Any, folder: Path, log: Path, before: dict[str, bytes], kills: int) -> None:
    """Let the sweep end, and compare it with one that nobody disturbed."""
    found = make(model, folder).run(progress=quiet)
    assert found.equals(make(model, None).run(progress=quiet))
    after, sweep = stored(folder), make(model, None)
    assert {name: after[name] for name in before} == before
    keys = [name.partition(".")[0] for name in after]
    assert sorted(keys) == sorted(cell.key for cell in sweep.cells)  # all there once, none set aside
    noted = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    assert all(how == "new" for _, how in noted)  # what was stored was never measured again
    assert len(noted) - len({key for key, _ in noted}) <= kills  # at most the cell in flight, once a kill


def campaign(model: Any, tmp_path: Path, kills: int, seed: int) -> list[int]:
    """Kill until it was done ``kills`` times, on new folders where a sweep came to its end; cells stored at each."""
    rng = random.Random(seed)
    began = time.perf_counter()
    make(model, None).run(progress=quiet)
    whole = time.perf_counter() - began
    found: list[int] = []
    number = here = 0
    before: dict[str, bytes] = {}
    folder, log = tmp_path / "0", tmp_path / "0.log"
    while len(found) < kills:
        if killed(model, folder, log, before, lambda: rng.uniform(0, whole)):
            found.append(len(before))
            here += 1
        else:
            finish(model, folder, log, before, here)
            number, here, before = number + 1, 0, {}
            folder, log = tmp_path / str(number), tmp_path / f"{number}.log"
    finish(model, folder, log, before, here)
    return found


def test_a_few_kills(model: Any, tmp_path: Path) -> None:
    assert len(campaign(model, tmp_path, kills=4, seed=0)) == 4


@pytest.mark.slow
def test_a_hundred_kills(model: Any, tmp_path: Path) -> None:
    found = campaign(model, tmp_path, kills=100, seed=1)
    assert len(found) == 100
    assert len(set(found)) > 10, found  # at many different moments of a sweep


@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "half a file", "the head"])
def test_death_at_the_worst_moments(moment: str, model: Any, tmp_path: Path) -> None:
    """The moments that a random kill seldom meets."""
    folder, log = tmp_path / "sweep", tmp_path / "log"
    pid = os.fork()
    if pid == 0:
        name, call = ("link", os.link) if moment == "the head" else ("replace", os.replace)

        def die(source: Any, target: Any) -> None:
            if moment == "half a file":
                Path(source).write_text(Path(source).read_text()[:20])
            if moment != "before the rename" and moment != "half a file":
                call(source, target)
            if moment == "the head" or len(stored(folder)) >= 2 or not moment.startswith("after"):
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, die)
        make(model, folder).run(progress=quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    before = stored(folder)
    assert len(before) == (2 if moment == "after the rename" else 0)
    finish(model, folder, log, before, 1)


def test_a_dead_process_gives_its_claim_back(model: Any, tmp_path: Path) -> None:
    """Locks end with the process, so that a resumed sweep never waits for a dead one."""
    folder, log = tmp_path / "sweep", tmp_path / "log"
    before: dict[str, bytes] = {}
    assert killed(model, folder, log, before, lambda: _until_claimed(folder))
    began = time.perf_counter()
    finish(model, folder, log, before, 1)
    assert time.perf_counter() - began < 60


def _until_claimed(folder: Path) -> float:
    """Wait until a victim holds a group of cells."""
    end = time.time() + 30
    while time.time() < end and not list((folder / CLAIMS).glob("*.lock")):
        time.sleep(0.005)
    return 0.0
