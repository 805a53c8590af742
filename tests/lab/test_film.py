"""Counting the routes that a decoded x0_hat shows, on planted videos."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dit_lens import tasks
from dit_lens.errors import LoadError
from dit_lens.lab import CoupledLabVAE
from dit_lens.lab.film import candidates, count, several, trail_strength
from dit_lens.tasks import palette, walk


def routes_apart(task):
    """Two shortest routes that share no cell that is not on every route, or None."""
    common = set(task.solutions[0]).intersection(*task.solutions)
    pairs = ((a, b) for a in task.solutions for b in task.solutions if a < b)
    return next(((a, b) for a, b in pairs if set(a) & set(b) == common), None)


@pytest.mark.parametrize("strength", [0.5, 0.3])
def test_a_blend_of_two_routes_shows_two_candidates(strength):
    found = 0
    for task in several(12):
        if pair := routes_apart(task):
            found += 1
            a, b = (
                palette.render(walk.draw(task.scene.walls, {task.scene.goal: palette.GREEN}, route)) / 255
                for route in pair
            )
            assert candidates(task, a) == 1
            assert candidates(task, (1 - strength) * a + strength * b) >= 2
            assert candidates(task, 0.9 * a + 0.1 * b) == 1
    assert found >= 3


def test_a_nonlinear_codec_is_not_counted():
    with pytest.raises(LoadError, match=r"dit_lens\.measures\.candidates"):
        count(SimpleNamespace(vae=CoupledLabVAE()), {}, 1)


def test_strength_runs_from_floor_to_trail():
    task = tasks.load("maze", 0)
    strength = trail_strength(task.frames)
    trail, floor = (task.cell_regions[k][-1] for k in ("trail", "background"))
    assert np.allclose(strength[trail], 1)
    assert np.allclose(strength[floor], 0)


def test_several_finds_long_mazes_with_a_choice():
    for task in several(3, seed=5, moves=7):
        assert len(task.solutions) > 1
        assert len(task.truth) - 1 >= 7
