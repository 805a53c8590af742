"""Noise seeds derived from (seed, task): one place, no two tasks alike, the same task always the same."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from dit_lens import tasks
from dit_lens.runner import noise_seed


def test_a_seed_belongs_to_a_task_and_a_seed() -> None:
    every = [tasks.load(name, i) for name in tasks.names() for i in range(50)]
    found = {noise_seed(s, task, i) for s, (i, task) in itertools.product(range(5), enumerate(every))}
    assert len(found) == 5 * len(every)
    assert all(0 <= seed < 2**32 for seed in found)
    task = tasks.load("maze", 3)
    assert noise_seed(1, task, 0) == noise_seed(1, tasks.load("maze", 3), 7), "wherever it stands"
    assert noise_seed(1, task, 0) != noise_seed(1, task.twin("other_answer"), 0), "a twin is another task"
    # seed + i would give task 1 under seed 0 what task 0 has under seed 1.
    assert noise_seed(0, every[1], 1) != noise_seed(1, every[0], 0)
    assert noise_seed(0, task, 0) == 1164039387, "kept: published numbers rest on it"


def test_tasks_without_a_name_go_by_their_place() -> None:
    bare = SimpleNamespace(prompt="x")
    assert noise_seed(0, bare, 1) == noise_seed(0, SimpleNamespace(prompt="y"), 1)
    assert len({noise_seed(s, bare, i) for s in range(4) for i in range(4)}) == 16
