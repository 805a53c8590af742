"""Models of depth: no stages in what is smooth, stages where they were planted, and what cannot be asked said so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.layer_map.depth_models import FEWEST, Comparison, compare
from dit_lens.layer_map.smooth_models import Fitter, noise, whitener

E = 4
NULLS = [(shape, rho) for shape in ("flat", "ramp") for rho in (0.0, 0.3, 0.6)]


def profile(shape: str, n: int, height: float) -> np.ndarray:
    x = (np.arange(n) + 0.5) / n
    stage = np.searchsorted((0.225, 0.75), x, side="right")
    shapes = {
        "flat": [0 * x] * E, "ramp": [1 - x, x, x, x], "bow": [x * x, 1 - x * x, 4 * x * (1 - x), x],
        "three": [stage == 0, stage == 1, stage == 2, stage == 0], "two": [x < 0.5, x >= 0.5, x >= 0.5, x >= 0.5],
        "one": [np.arange(n) == n // 2] * E,
    }  # fmt: skip
    return height * np.stack(shapes[shape], 1).astype(float)


def made(shape: str, n: int, height: float, rho: float, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, n])
    return profile(shape, n, height) + noise(count, n, (1 - rho**2) * np.eye(E), rho, rng)


def rate(shape: str, n: int, rho: float, count: int, draws: int = 99) -> float:
    """Share of smooth profiles in which structure is announced at level .05; ramps rise by 3 standard deviations."""
    work, rng = Comparison(range(n), n), np.random.default_rng(1)
    found = [work.test(one, draws, rng, 0.05)[0] <= 0.05 for one in made(shape, n, 3.0, rho, count)]
    return float(np.mean(found))


def labelled(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims=("layer", "evidence"))


def test_false_rate() -> None:
    """Neither stages nor a place are announced in more than 6 % of flat and ramp profiles, rho 0, .3 and .6."""
    rates = [rate(shape, 12, rho, 50) for shape, rho in NULLS]
    rates += [rate(shape, 40, rho, 8, draws=39) for shape, rho in NULLS]
    assert np.average(rates, weights=[50] * 6 + [8] * 6) <= 0.06, rates


@pytest.mark.slow  # half an hour
@pytest.mark.parametrize("n", [12, 40])
@pytest.mark.parametrize(("shape", "rho"), NULLS)
def test_false_rate_of_every_null(shape: str, rho: float, n: int) -> None:
    assert rate(shape, n, rho, 600 if n == 12 else 200) <= 0.06


@pytest.mark.parametrize(
    ("shape", "n", "starts"),
    [("three", 12, (0, 3, 9)), ("three", 40, (0, 9, 30)), ("two", 12, (0, 6)), ("two", 40, (0, 20)), ("one", 12, (6,))],
)
def test_what_was_planted_is_found_where_it_is(shape: str, n: int, starts: tuple[int, ...]) -> None:
    found = compare(labelled(made(shape, n, 8.0, 0.0, 1, seed=3)[0]), draws=99, heights=())
    assert found.found and (found.kind, found.starts) == (shape, starts), found
    runs = found.runs()
    assert (len(runs) == 1 and list(runs[0]) == [6]) if shape == "one" else sum(map(len, runs)) == n
    said = str(found)
    assert said.startswith("one place, layer 6" if shape == "one" else f"{shape} stages, early 0-{starts[1] - 1}")
    assert "p = 0.0" in said and len(found.words()) == len(runs)


def test_three_stages_need_more_than_two() -> None:
    """Of two planted stages of 4 SD at most one in ten is called three."""
    found = [compare(labelled(one), draws=59, heights=()).kind for one in made("two", 12, 4.0, 0.0, 20)]
    assert found.count("two") >= 10 and found.count("three") <= 2, found


def test_what_is_smooth_is_called_so() -> None:
    for shape, kind, said in (("flat", "flat", "level over depth"), ("ramp", "ramp", "a ramp"), ("bow", "bow", "bow")):
        found = compare(labelled(made(shape, 40, 12.0, 0.0, 1)[0]), draws=39, heights=())
        assert found.kind == kind and not found.found and found.p > 0.05, found
        assert said in str(found) and "no stages and no single place found" in str(found)
        assert found.runs() == found.words() == ()


def test_power_is_said_and_grows_with_height() -> None:
    found = compare(labelled(made("flat", 16, 0.0, 0.0, 1)[0]), draws=39, heights=(0.0, 12.0))
    (none, share, *ends), (_, much, *_) = found.power
    assert none == 0 and share <= 0.1 and ends[0] <= share <= ends[1] and much > 0.9
    assert f"of 0 SD in {share:.0%}, of 12 SD in {much:.0%}" in str(found)


def test_correlated_noise_costs_power() -> None:
    """Of the noise that is there: what is found beside correlated neighbours is found more often beside independent."""
    work, rng = Comparison(range(12), 12), np.random.default_rng(0)
    rates = [
        np.mean([work.test(one, 39, rng, 0.05)[0] <= 0.05 for one in made(shape, 12, height, rho, 30)])
        for shape, height, rho in (("three", 4.0, 0.0), ("three", 2.0, 0.0))
    ]
    assert rates[0] > rates[1] + 0.2


def test_a_missing_layer_is_lost_and_not_the_evidence() -> None:
    values = made("three", 12, 8.0, 0.0, 1, seed=3)[0]
    values[5, 1] = np.nan
    found = compare(labelled(values), draws=99, heights=())
    assert (found.kind, found.starts, found.missing) == ("three", (0, 3, 9), (5,))
    assert "without layers 5, where an evidence is missing" in str(found)
    values[:7, 1] = np.nan  # more than half of an evidence: it is lost, the layers are not
    assert compare(labelled(values), draws=99, heights=()).missing == ()


def test_what_cannot_be_asked_is_said() -> None:
    few = compare(labelled(made("three", FEWEST - 1, 8.0, 0.0, 1)[0]))
    assert few.kind == "few" and not few.found and np.isnan(few.p) and "too few layers with evidence" in str(few)
    nothing = compare(labelled(np.full((12, 2), np.nan)))
    assert nothing.kind == "few" and not nothing.found
    same = compare(labelled(np.ones((12, 2))))
    assert same.kind == "flat" and same.p == 1.0 and same.power == ()


def test_an_evidence_more_that_is_constant_changes_nothing() -> None:
    values = made("three", 12, 3.0, 0.0, 1)[0]
    more = np.column_stack([values, np.ones(12), np.full(12, np.nan)])
    assert compare(labelled(more), draws=39) == compare(labelled(values), draws=39)


def test_the_scale_and_the_seed() -> None:
    values = made("ramp", 12, 3.0, 0.3, 1)[0]
    scaled = values * [1, 100, 1e-6, 5] + [0, 3, -1, 7]
    assert compare(labelled(values), draws=99, heights=()).p == pytest.approx(
        compare(labelled(scaled), draws=99, heights=()).p, abs=0.03
    )
    assert compare(labelled(values), draws=39, seed=1) == compare(labelled(values), draws=39, seed=1)


# -- smooth models


def test_the_whitener_whitens() -> None:
    made = noise(20_000, 6, np.array([[1.0, 0.5], [0.5, 2.0]]), 0.6, np.random.default_rng(0))
    assert np.corrcoef(made[:, 2, 0], made[:, 3, 0])[0, 1] == pytest.approx(0.6, abs=0.02)
    white = whitener(6, 0.6) @ made
    np.testing.assert_allclose(np.cov(white[..., 0].T), np.eye(6), atol=0.05)
    np.testing.assert_allclose(np.cov(white[:, 4].T), [[1, 0.5], [0.5, 2]], atol=0.06)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_rho_is_estimated_without_much_bias_on_twelve_layers(rho: float) -> None:
    fitter = Fitter(np.arange(12), 12, 1)
    found = [fitter.fit(one).rho for one in made("ramp", 12, 3.0, rho, 200)]
    assert np.mean(found) == pytest.approx(rho, abs=0.1)


def test_the_fit_follows_the_profile() -> None:
    fitted = Fitter(np.arange(40), 40, 2).fit(profile("bow", 40, 5.0) + 1e-3 * made("flat", 40, 0, 0, 1)[0])
    np.testing.assert_allclose(fitted.mean, profile("bow", 40, 5.0), atol=0.01)
    assert fitted.draw(3, np.random.default_rng(0)).shape == (3, 40, E) and (fitted.spread < 2e-3).all()
