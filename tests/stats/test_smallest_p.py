"""The smallest p: known numbers, and results that say when nothing can stand out."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.stats import max_statistic, paired, summarise
from dit_lens.stats.smallest_p import of_controls, of_shuffles, of_tasks


def test_known_numbers() -> None:
    assert [of_tasks(n).value for n in (0, 1, 2, 5, 6, 12, 13)] == [1, 1, 0.5, 1 / 16, 1 / 32, 2**-11, 1e-4]
    assert [of_controls(k).value for k in (1, 19, 20)] == [1 / 2, 1 / 20, 1 / 21]
    assert [of_shuffles(*given).value for given in ((99,), (49, 3), (1, 5))] == [0.01, 0.06, 1.0]
    assert [one.reaches for one in (of_tasks(5), of_tasks(6), of_shuffles(49, 3), of_shuffles(59, 3))] == [
        False, True, False, True
    ]  # fmt: skip


def test_what_cannot_be_reached_is_said() -> None:
    assert str(of_tasks(5)) == (
        "With 5 tasks no p lies below 0.0625, so that nothing can stand out at 0.05: take 6 tasks or more."
    )
    assert "With 1 task no p" in str(of_tasks(1)) and str(of_tasks(3, "seed")).endswith("take 6 seeds or more.")
    assert "With 49 shuffles of each of 3 labels no p lies below 0.06" in str(of_shuffles(49, 3))
    assert str(of_shuffles(49, 3)).endswith("take permutations=59 or more.")


@pytest.mark.parametrize("n", [5, 6, 13])
def test_it_is_the_smallest_that_the_tests_give(n: int) -> None:
    """The clearest effect there can be."""
    clear = xr.DataArray(1 + 1e-3 * np.arange(n)[:, None] * np.ones(3), dims=("task", "layer"))
    least = of_tasks(n).value
    for found in (max_statistic(clear), summarise(clear, 0 * clear), paired(clear, 0 * clear)):
        p = found["p_corrected"] if "p_corrected" in found else found["p"]
        assert found.attrs["smallest_p"] == least <= float(p.min()) <= 5 * least
        assert ("no_mark" in found.attrs) == (n < 6)


def test_tasks_that_are_missing_do_not_count() -> None:
    x = xr.DataArray(np.random.default_rng(0).normal(size=(9, 2)), dims=("task", "layer"))
    x[4:] = np.nan
    assert max_statistic(x).attrs["smallest_p"] == 1 / 8


def test_an_exact_binomial_test_can_be_below() -> None:
    """All of five tasks against a known share of .1: no sign flips, and no sentence about them."""
    ones = xr.DataArray(np.ones(5), dims="task")
    found = paired(ones, 0.1, bounds=(0, 1))
    assert float(found["p"]) < 0.001 and "no_mark" not in found.attrs
