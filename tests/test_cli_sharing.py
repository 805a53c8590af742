"""Several processes on one folder: how many, what they do, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dit_lens.cli import sharing
from dit_lens.cli.sharing import processes, shared


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait(for_what, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not for_what():
        assert time.monotonic() < until
        time.sleep(0.05)


def note(folder: str) -> None:
    """Work that says who does it, and does not end by itself."""
    (Path(folder) / f"{os.getpid()}").write_text(str(torch.get_num_threads()))
    print("nobody reads this")
    time.sleep(600)


@pytest.mark.parametrize(
    ("model", "device", "jobs", "many"),
    [("lab", None, 0, 3), ("lab", "cpu", 0, 3), ("lab", "cuda", 0, 1), ("a/b", None, 0, 1), ("a/b", None, 2, 2)],
)
def test_the_cores_are_for_small_models_on_the_cpu(model, device, jobs, many, monkeypatch) -> None:
    monkeypatch.setattr(sharing, "_cores", lambda: 3)
    assert processes(model, device, jobs) == many
    monkeypatch.setattr(sharing, "_cores", lambda: 64)
    assert processes("lab", None, 0) == sharing.MOST


def test_one_process_is_this_one() -> None:
    with shared(1, note, "nowhere"):
        assert torch.multiprocessing.active_children() == []


def test_others_work_while_the_block_runs_and_end_with_it(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(sharing, "_cores", lambda: 6)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="of the block"), shared(3, note, str(tmp_path)):
        assert torch.get_num_threads() == 2
        wait(lambda: len([p for p in tmp_path.iterdir() if p.read_text()]) == 2)
        raise RuntimeError("of the block")
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert os.getpid() not in pids and {path.read_text() for path in tmp_path.iterdir()} == {"2"}
    assert all(map(gone, pids)) and torch.get_num_threads() == before
    assert "nobody" not in "".join(capfd.readouterr())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_none_is_left_where_the_first_is_killed(tmp_path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cli_sharing import note
from dit_lens.cli.sharing import shared
if __name__ == "__main__":
    with shared(2, note, {str(tmp_path / "notes")!r}):
        time.sleep(600)
"""
    (tmp_path / "notes").mkdir()
    (tmp_path / "first.py").write_text(code)
    first = subprocess.Popen([sys.executable, str(tmp_path / "first.py")])
    try:
        wait(lambda: any((tmp_path / "notes").iterdir()))
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (one,) = (tmp_path / "notes").iterdir()
    wait(lambda: gone(int(one.name)), 20)
