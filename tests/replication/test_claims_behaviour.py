"""Claims of self-correction and of perception before action: verdicts on planted films."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.measures.answers_over_steps import RIGHT, WRONG
from dit_lens.replication import judge
from dit_lens.replication.row import Untestable
from dit_lens.stats.verdict import PLACEBO_TOO, Verdict


def seen_with(lag: int, n: int = 12, steps: int = 8) -> xr.Dataset:
    """Movers that are identified at step 1 and move ``lag`` later; half of them have one solution."""
    early, late = np.arange(steps) >= 1, np.arange(steps) >= 1 + lag
    together = np.stack([early, early])
    curves = {"identified": together, "arrived": together, "motion": np.stack([late, early])}
    data: dict[str, Any] = {k: (("task", "kind", "step"), np.stack([v] * n).astype(float)) for k, v in curves.items()}
    data["solutions"] = ("task", [1, 2] * (n // 2))
    return xr.Dataset(data, {"kind": ["x0_hat", "fade-in"], "step": range(steps)}, {"n_steps": steps - 1})


def wrong_with(recovered: bool, n: int = 12) -> xr.Dataset:
    outcome = np.zeros((3, n, 1, 3), bool)
    outcome[0, :, :, 0 if recovered else 1] = outcome[1, :, :, 1] = outcome[2, :, :, 0] = True
    return xr.Dataset(
        {
            "outcome": (("kind", "task", "step", "ending"), outcome),
            "shows": (("task", "step"), np.ones((n, 1), bool)),
        },
        {"kind": ["planted", "kept", "own"], "step": [2], "ending": ["own", "twin", "neither"]},
    )


def answers_with(wrong: int, corrected: int, blended: int = 0, n: int = 60, ends: int = RIGHT) -> xr.Dataset:
    """Of n generations so many show a wrong answer at first, some of which are corrected; others begin as a blend that
    ends as told. The ideal denoiser blends wherever the network does and ends right."""
    start = [WRONG] * (wrong + blended) + [RIGHT] * (n - wrong - blended)
    end = [RIGHT] * corrected + [WRONG] * (wrong - corrected) + [ends] * blended + [RIGHT] * (n - wrong - blended)
    blend = np.zeros((n, 4), bool)
    blend[wrong : wrong + blended, :2] = True
    verdict = np.stack([start, start, end, end], 1)
    ideal = np.where(blend, WRONG, RIGHT)
    along = ("task", "step")
    return xr.Dataset(
        {"verdict": (along, verdict), "blend": (along, blend), "ideal_verdict": (along, ideal),
         "ideal_blend": (along, blend)},
        coords={"step": range(4)},
    )  # fmt: skip


def outcome(name: str, answers: xr.Dataset) -> Verdict | Untestable:
    found = judge({"behaviour": {"seen": seen_with(0), "answers": answers, "wrong": wrong_with(True)}})
    return found[f"behaviour/{name}"]


@pytest.mark.parametrize("there", [True, False])
def test_verdicts_follow_the_numbers(there: bool) -> None:
    answers = answers_with(20, 20 if there else 0)
    seen = seen_with(3 if there else 0)
    found = every_row("behaviour", {"seen": seen, "answers": answers, "wrong": wrong_with(there)})
    corrected, sharpened, planted, lag, fixed = found
    assert supported([corrected, planted, lag, fixed]) == [there] * 4
    assert corrected.value == there and corrected.n == 20
    assert sharpened.verdict == "cannot be tested on this model"
    assert planted.value == there and planted.null == 0 and planted.n == 12
    assert lag.value == (3 if there else 0) and lag.null == 0 and lag.n == 12
    assert fixed.value == lag.value and fixed.n == 6
    assert all(claim.rule and claim.null_name for claim in (corrected, planted, lag, fixed))


def test_without_errors_there_is_nothing_to_correct() -> None:
    """Four wrong answers among sixty, all corrected: too few to say anything; the sixty do not stand in for them."""
    found = outcome("corrected", answers_with(4, 4))
    assert isinstance(found, Untestable) and "4 of 60" in found.why and "4 end right" in found.why
    found = outcome("corrected", answers_with(0, 0, blended=40))
    assert isinstance(found, Untestable) and "0 of 60" in found.why, "a blend is no wrong answer"


def test_generations_without_an_error_do_not_dilute_it() -> None:
    """The share is of those that erred, whatever their number among all; it was 18 / 30 and 18 / 200."""
    for n in (30, 200):
        measured = {"seen": seen_with(0), "answers": answers_with(20, 18, n=n), "wrong": wrong_with(True)}
        corrected = every_row("behaviour", measured)[0]
        assert corrected.value == pytest.approx(0.9) and corrected.n == 20 and corrected.null < 0.7


def test_blends_that_end_right_do_so_in_the_ideal_denoiser_too() -> None:
    found = outcome("sharpened", answers_with(0, 0, blended=40))
    assert isinstance(found, Verdict) and found.outcome == PLACEBO_TOO and found.n == 40
    lost = outcome("sharpened", answers_with(0, 0, blended=40, ends=WRONG))
    assert isinstance(lost, Verdict) and lost.outcome == "contradicted"
    none = outcome("sharpened", answers_with(20, 20))
    assert isinstance(none, Untestable) and "0 of 60" in none.why
