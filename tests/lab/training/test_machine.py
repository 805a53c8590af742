"""The quickest way of computing is found by timing, and a missing compiler is no obstacle."""

from __future__ import annotations

import pytest
import torch

from dit_lens.lab.training import machine
from dit_lens.lab.training.machine import Way, choose
from dit_lens.lab.training.spec import Spec

HALF, SINGLE = torch.bfloat16, torch.float32


def timed(monkeypatch, times):
    def seconds(spec, way):
        if isinstance(times[way], Exception):
            raise times[way]
        return times[way]

    monkeypatch.setattr(machine, "seconds", seconds)


@pytest.mark.parametrize(("half", "single", "compiled", "best"), [
    (1.0, 2.0, 0.7, Way(HALF, True)),
    (1.0, 2.0, 1.1, Way(HALF, False)),
    (9.0, 2.0, 1.5, Way(SINGLE, True)),  # bfloat16 is emulated
])  # fmt: skip
def test_the_quickest_is_taken_and_logged(monkeypatch, half, single, compiled, best):
    other = HALF if half < single else SINGLE
    timed(monkeypatch, {Way(HALF, False): half, Way(SINGLE, False): single, Way(other, True): compiled})
    lines = []
    assert choose(Spec(), lines.append) == best
    assert f"{best} chosen" in lines[0]
    assert all(f"{t:.3f} s" in lines[0] for t in (half, single, compiled))


def test_what_cannot_compile_runs_without(monkeypatch):
    times = {Way(HALF, False): 1.0, Way(SINGLE, False): 2.0, Way(HALF, True): RuntimeError("no compiler")}
    timed(monkeypatch, times)
    lines = []
    assert choose(Spec(), lines.append) == Way(HALF, False)
    assert "install a C++ compiler" in lines[0]
    del times[Way(HALF, True)]
    assert choose(Spec(), lines.append, compiled=False) == Way(HALF, False)


def test_timing_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    assert 0 < machine.seconds(Spec(tokens=144, ffn=64, heads=1), Way(SINGLE, False)) < 60
    assert torch.equal(torch.rand(1), wanted)
