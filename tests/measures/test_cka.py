"""CKA: laws that hold for all inputs, the null of independence, an implementation by Gram matrices, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from dit_lens.errors import MeasureError
from dit_lens.measures.cka import debiased_cka, dissimilarity, linear_cka
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record

BOTH = pytest.mark.parametrize("cka", [linear_cka, debiased_cka])


def gaussian(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# -- against an implementation by n x n matrices, written from the definitions


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Biased: HSIC(K, L) = tr(KHLH), H = I - 11'/n."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ h @ m @ h))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def u_centred_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased, by U-centring (Szekely and Rizzo 2014): HSIC_1 is the off-diagonal inner product / (n (n - 3))."""

    def centre(k: np.ndarray) -> np.ndarray:
        n = len(k)
        k = k * (1 - np.eye(n))
        rows = k.sum(0) / (n - 2)
        k = k - rows[None] - rows[:, None] + k.sum() / ((n - 1) * (n - 2))
        return k * (1 - np.eye(n))

    a, b = centre(x @ x.T), centre(y @ y.T)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


SHAPES = st.tuples(st.integers(4, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000))


@given(SHAPES, st.floats(-50, 50))
@settings(deadline=None)
def test_equal_to_gram_matrices(shape: tuple[int, int, int, int], offset: float) -> None:
    n, p, q, seed = shape
    x, y = gaussian(seed, n, p) + offset, gaussian(seed + 1, n, q)
    y[:, 0] += x[:, 0]  # so that there is something to find
    assert linear_cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-8)
    assert debiased_cka(x, y) == pytest.approx(u_centred_cka(x, y), abs=1e-6)


def test_formula_of_hsic_1_term_by_term() -> None:
    """Song et al. 2012, eq. 5, as it stands in the module's text."""
    x, y = gaussian(0, 9, 3), gaussian(1, 9, 5)
    n, one = 9, np.ones(9)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = (c @ c.T * (1 - np.eye(n)) for c in (a, b))
        total = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    assert debiased_cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)), abs=1e-10)


# -- laws


@BOTH
@given(shape=SHAPES)
@settings(deadline=None, max_examples=30)
def test_like_itself_and_symmetric(cka: Any, shape: tuple[int, int, int, int]) -> None:
    n, p, q, seed = shape
    x, y = gaussian(seed, n, p), gaussian(seed + 1, n, q)
    assert cka(x, x) == pytest.approx(1, abs=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-9)
    assert cka(x, y) <= 1 + 1e-9
    assert linear_cka(x, y) >= 0


@BOTH
@given(shape=SHAPES, scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(deadline=None, max_examples=30)
def test_blind_to_rotation_scale_and_shift(
    cka: Any, shape: tuple[int, int, int, int], scale: float, shift: float
) -> None:
    n, p, q, seed = shape
    x, y = gaussian(seed, n, p + 1), gaussian(seed + 1, n, q)
    turned = scale * x @ ortho_group(p + 1, seed=seed).rvs() + shift
    assert cka(turned, y) == pytest.approx(cka(x, y), abs=1e-7)


@BOTH
def test_not_blind_to_other_linear_maps_nor_to_order(cka: Any) -> None:
    x = gaussian(0, 200, 6)
    assert cka(x, x * [10, 1, 1, 1, 1, 1]) < 0.8
    assert cka(x, x[::-1]) < 0.3


# -- the null: independent Gaussians


def test_independent_states() -> None:
    """Biased: far above 0, near sqrt(p q) / n when n is large. Debiased: 0 in the mean, on both sides of it."""
    pairs = [(gaussian(2 * i, 60, 20), gaussian(2 * i + 1, 60, 20)) for i in range(300)]
    biased = np.array([linear_cka(x, y) for x, y in pairs])
    debiased = np.array([debiased_cka(x, y) for x, y in pairs])
    assert biased.min() > 0.15
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(len(pairs))
    assert (debiased < 0).mean() == pytest.approx(0.5, abs=0.2)
    many = [linear_cka(gaussian(i, 4000, 20), gaussian(i + 999, 4000, 20)) for i in range(10)]
    assert np.mean(many) == pytest.approx(20 / 4000, rel=0.2)


def test_known_share() -> None:
    """Y = X beside independent noise of the same size: covariance is shared by half of Y's channels."""
    x, noise = gaussian(0, 20_000, 5), gaussian(1, 20_000, 5)
    assert debiased_cka(x, np.hstack([x, noise])) == pytest.approx(np.sqrt(0.5), abs=0.01)


# -- refusals


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.ones((8, 3)), gaussian(0, 8, 3), "all samples of a state are equal"),
        (gaussian(0, 8, 3), np.full((8, 2), 1e6) + 0.1, "all samples of a state are equal"),
        (gaussian(0, 3, 2), gaussian(1, 3, 2), "at least 4 samples"),
        (gaussian(0, 8), gaussian(1, 8, 2), "flatten"),
        (gaussian(0, 2, 8, 3), gaussian(1, 2, 8, 3), "flatten"),
        (gaussian(0, 8, 3), gaussian(1, 9, 3), "same tokens"),
        (gaussian(0, 8, 3) * np.nan, gaussian(1, 8, 3), "NaN"),
        (np.eye(8), gaussian(1, 8, 3), "0 / 0"),
    ],
)
def test_degenerate_states_are_refused(x: np.ndarray, y: np.ndarray, says: str) -> None:
    with pytest.raises(MeasureError, match=says):
        debiased_cka(x, y)


def test_the_remedies() -> None:
    assert linear_cka(np.eye(8), gaussian(1, 8, 3)) > 0  # equidistant samples: only the biased one exists
    assert linear_cka(gaussian(0, 3, 2), gaussian(1, 3, 2)) >= 0
    with pytest.raises(MeasureError, match="at least 2 samples"):
        linear_cka(gaussian(0, 1, 2), gaussian(1, 1, 2))


# -- two runs


@pytest.fixture(scope="module")
def runs() -> Iterator[Any]:
    family = FAMILIES["i2v22"]
    with load(family.build()) as lens:

        def go(seed: int, **more: Any) -> Any:
            kept = record("resid_post", layers=[0, 2])
            return lens.generate(
                **{**family.call, "seed": seed, "num_inference_steps": 3, "guidance_scale": 5.0, "record": kept, **more}
            )

        yield go(0), go(1), go


def test_states_of_two_runs(runs: Any) -> None:
    a, b, _ = runs
    found = dissimilarity(a, b, ["latents", "x0_hat", "resid_post"], layer=2)
    assert found.dims == ("step", "hook", "metric") and list(found.step.values) == [0, 1, 2, 3]
    for step in range(3):
        x, y = (r.latents[step].permute(1, 2, 3, 0).reshape(-1, 16).numpy() for r in (a, b))
        assert float(found.sel(step=step, hook="latents", metric="biased")) == pytest.approx(
            1 - gram_cka(x, y), abs=1e-6
        )
        x, y = (r.x0_hat(step).flatten(1).T.numpy() for r in (a, b))
        assert float(found.sel(step=step, hook="x0_hat", metric="biased")) == pytest.approx(
            1 - gram_cka(x, y), abs=1e-6
        )
        x, y = (r[f"step={step} layer=2 hook=resid_post"].numpy() for r in (a, b))
        value = found.sel(step=step, hook="resid_post", metric="debiased")
        assert float(value) == pytest.approx(1 - u_centred_cka(x, y), abs=1e-5)
    end = found.sel(step=3)
    assert np.isnan(end.sel(hook="resid_post")).all()
    assert torch.equal(a.latents[3], a.final) and np.array_equal(end.sel(hook="latents"), end.sel(hook="x0_hat"))


def test_a_run_and_itself(runs: Any) -> None:
    assert (dissimilarity(runs[0], runs[0]) == 0).all()


def test_runs_that_cannot_be_compared(runs: Any) -> None:
    a, b, go = runs
    with pytest.raises(MeasureError, match="same schedule"):
        dissimilarity(a, go(0, num_inference_steps=2))
    with pytest.raises(MeasureError, match=r"recorded at layers \[0, 2\]"):
        dissimilarity(a, b, "resid_post")
    with pytest.raises(MeasureError, match="record"):
        dissimilarity(a, b, "z")
    with pytest.raises(MeasureError, match="nothing was recorded at"):
        dissimilarity(a, b, "resid_post", layer=1)
    with pytest.raises(MeasureError, match="steps 0 to 3"):
        dissimilarity(a, b, steps=[4])
    half = go(0, stop_after=1)
    assert list(dissimilarity(half, b).step.values) == [0, 1]
