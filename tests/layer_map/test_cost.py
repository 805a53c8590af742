"""The cost of a map that is printed beforehand is what it takes."""

from __future__ import annotations

from typing import Any

import pytest

import dit_lens as dl
from dit_lens.layer_map.measurement import survey
from dit_lens.planted import LayerPlant, plant
from dit_lens.wan import blocks


@pytest.mark.parametrize("controls", [1, 3])
def test_what_is_planned_is_what_is_run(controls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], blocks.HookedBlock.forward

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        if self.__dict__.get(blocks.PASSED) is None:
            seen.append(1)
        return real(self, *args, **given)

    with plant(LayerPlant(layer=2, n_layers=5, n_steps=3)) as made:
        tasks = made.tasks(2)
        planned = survey(made.lens, tasks, 2, 0, (0, 2), 0, dl.Sampling(), controls, exact=True).cost()
        monkeypatch.setattr(blocks.HookedBlock, "forward", forward)
        found = dl.map(made.lens, tasks, steps=(0, 2), scenes=0, controls=controls, exact=True)
    assert planned.total == pytest.approx(len(seen), rel=0.25)
    assert found.about["cost"] == str(planned).split("\n")[0]


def test_more_controls_cost_more_and_a_step_is_timed() -> None:
    with plant(LayerPlant(layer=2, n_layers=5, n_steps=3)) as made:
        few, more = (survey(made.lens, made.tasks(2), 2, 0, (0,), 0, dl.Sampling(), c) for c in (1, 4))
        assert few.cost().total < more.cost().total < 4 * few.cost().total
        timed = few.cost(timed=True)
    assert timed.seconds > 0 and timed.total == few.cost().total and "not calibrated" in str(few.cost())
    assert timed.memory > 0 and timed.disk > 0 and timed.naive > timed.blocks
