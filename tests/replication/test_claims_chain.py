"""Claims on steps: verdicts follow planted numbers, and what the ideal denoiser shows as well is no finding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.replication import judge
from dit_lens.replication.table import rows_of
from dit_lens.stats.verdict import PLACEBO_TOO, Verdict

N, STEPS = 120, 20  # many, as shares of 0 and 1 among few tasks exclude little
SHAPE = (N, 2, STEPS)
ALONG = ("task", "seed", "reference", "step")
YES, NO = "supported", "contradicted"


def made(**numbers: Any) -> xr.Dataset:
    """A chain of 120 puzzles, the last 40 with one right answer. Network and ideal alike unless numbers are given: the
    motion of the scene, the first answer from the start, one candidate and never a wrong one."""
    own = np.zeros((N, 2, 3, STEPS))
    own[:, :, 0] = 1
    rng = np.random.default_rng(0)
    plain: dict[str, Any] = {
        "motion": 0.95 + rng.normal(0, 0.005, (N, 2, 3, STEPS)), "leads": own, "fewest": np.ones(SHAPE),
        "share": np.ones(SHAPE), "kind": np.full(SHAPE, "one"), "together": np.ones(SHAPE), "bound": np.ones(SHAPE),
        "wrong": np.zeros(SHAPE), "support": np.ones(SHAPE), "blind_support": np.ones(SHAPE),
        "apart": np.zeros(SHAPE), "agree": np.ones(SHAPE),
    }  # fmt: skip
    both = ("motion", "leads", "fewest", "share", "kind", "together", "bound")
    plain["ideal_likeliest"] = own
    values = plain | {f"ideal_{name}": plain[name] for name in both} | numbers
    solutions = np.where(np.arange(N) < 80, 3, 1)
    dims = {name: ALONG for name in values if name.endswith(("motion", "leads", "likeliest"))}
    return xr.Dataset(
        {name: (dims.get(name, ("task", "seed", "step")), value) for name, value in values.items()}
        | {"solutions": ("task", solutions), "decoys": ("task", solutions)},
        coords={"reference": ["final", "other seed", "other task"], "step": range(STEPS)},
    )


def outcomes(data: xr.Dataset) -> dict[str, str]:
    found = judge({"chain": {"films": data}})
    assert all(isinstance(one, Verdict) for one in found.values())
    return {name.partition("/")[2]: one.outcome for name, one in found.items() if isinstance(one, Verdict)}


def early(value: Any, usual: Any, steps: int = 8) -> np.ndarray:
    """One value for the first steps, another after."""
    found = np.full(SHAPE, usual, dtype="U16" if isinstance(usual, str) else float)
    found[..., :steps] = value
    return found


def motion(own: float, seed: float, other: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    found = np.stack([np.full((N, 2, STEPS), x) for x in (own, seed, other)], 2)
    return found + rng.normal(0, 0.01, found.shape)


def test_where_nothing_happens_nothing_is_supported() -> None:
    found = outcomes(made())
    assert YES not in found.values()
    assert found["choice"] == PLACEBO_TOO  # decided from the start, and so it is for an average
    assert found["unfolds"] == NO


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [
        ((0.96, 0.3, 0.3), YES),
        ((0.96, 0.95, 0.3), NO),  # the scene's doing: the same puzzle at another seed moves alike, other puzzles do not
        ((0.85, 0.3, 0.3), NO),  # not settled
    ],
)
def test_motion_is_settled_against_the_same_puzzle_at_another_seed(numbers: Any, outcome: str) -> None:
    data = made(motion=motion(*numbers))
    assert outcomes(data)["motion"] == outcome
    row = rows_of("chain")[0]
    assert "another seed" in row.null_name and float(row.read({"films": data}).null.mean()) == pytest.approx(  # type: ignore[union-attr]
        numbers[1], abs=0.01
    )


def test_what_the_ideal_denoiser_shows_too_is_told_so() -> None:
    """Several candidates, pruned to one, at separate places: a network that only averages over right answers."""
    kinds, two = early("multi-path", "one"), early(2.0, 1.0)
    same = made(fewest=two, ideal_fewest=two, kind=kinds, ideal_kind=kinds)
    found = outcomes(same)
    assert [found[name] for name in ("several", "pruned", "multi-path")] == [PLACEBO_TOO] * 3
    blurred = early("superposition", "one")
    assert outcomes(made(kind=blurred, ideal_kind=blurred))["superposition"] == PLACEBO_TOO


def test_what_the_ideal_denoiser_does_not_show_is_supported() -> None:
    two = early(2.0, 1.0)
    found = outcomes(made(fewest=two, kind=early("multi-path", "one")))
    assert [found[name] for name in ("several", "pruned", "multi-path")] == [YES] * 3
    assert found["superposition"] == NO
    assert outcomes(made(kind=early("superposition", "one")))["superposition"] == YES


def test_fewer_candidates_than_an_average_is_no_finding() -> None:
    two, kinds = early(2.0, 1.0), early("multi-path", "one")
    found = outcomes(made(ideal_fewest=two, ideal_kind=kinds))
    assert [found[name] for name in ("several", "pruned", "multi-path")] == [NO] * 3


def test_a_choice_made_later_than_the_state_tells_is_none() -> None:
    chance = np.zeros((N, 2, 3, STEPS))
    chance[::2, :, 0] = 1
    ideal = np.zeros_like(chance)
    ideal[:, :, 0] = 1
    assert outcomes(made(leads=chance, ideal_leads=ideal))["choice"] == NO
    assert outcomes(made(leads=ideal, ideal_leads=chance))["choice"] == YES


def test_support_counts_against_not_knowing_the_task() -> None:
    rng = np.random.default_rng(2)
    half = 0.5 + rng.normal(0, 0.02, SHAPE)
    assert outcomes(made(blind_support=half))["support"] == YES
    assert outcomes(made(support=half, blind_support=half + rng.normal(0, 0.02, SHAPE)))["support"] == NO


def test_more_than_a_mixture_is_read_from_contrast() -> None:
    """Two full drawings have 2, half-way to which a mixture never comes; a little above 1 is none."""
    assert outcomes(made(together=early(1.9, np.nan)))["beyond"] == YES
    assert outcomes(made(together=early(1.2, np.nan), kind=early("multi-path", "one")))["beyond"] == NO


def test_an_answer_that_is_missing_at_first_unfolds() -> None:
    assert outcomes(made(share=early(0.0, 1.0)))["unfolds"] == YES


def test_claims_need_both_kinds_of_puzzle() -> None:
    data = made()
    for some in (slice(0, 10), slice(80, 90)):
        with pytest.raises(MeasureError, match="raise n"):
            outcomes(data.isel(task=some))
