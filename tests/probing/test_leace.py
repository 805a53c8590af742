"""LEACE: what it promises, against what is known beforehand about it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression

from dit_lens.errors import ProbeError
from dit_lens.probing.concept_erasure import Eraser, Leace, leace


def rows(
    n: int = 300, d: int = 8, classes: int = 3, seed: int = 0, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated channels about a far mean, which differ by class."""
    rng = np.random.default_rng(seed)
    z = np.arange(n) % classes
    x = noise * rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(classes, d))[z] + 7
    return x, z


def covariance(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Cov(x, z) with z as columns, in units of each channel's spread before: at most 1."""
    z = np.eye(int(z.max()) + 1)[z] if z.ndim == 1 and z.dtype.kind in "iu" else z.reshape(len(z), -1)
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


# -- the guarantee


@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(1, 12),
    classes=st.integers(2, 5),
    seed=st.integers(0, 999),
    shrinkage=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_nothing_is_left_for_a_linear_probe(d: int, classes: int, seed: int, shrinkage: float) -> None:
    x, z = rows(100, d, classes, seed)
    erased = leace(x, z, shrinkage)(x)
    before, after = (np.abs(covariance(rows, z)).max() for rows in (x, erased))
    assert after < 1e-10 * np.abs(x).max() and before > 1e6 * after  # before: as small as chance makes it for d = 1
    if d >= classes:  # else nothing but rounding is left
        z = np.eye(classes)[z]
        found = LinearRegression().fit(erased, z).predict(erased)
        np.testing.assert_allclose(found, np.broadcast_to(z.mean(0), z.shape), atol=1e-7)


def test_no_classifier_does_better_than_a_constant_one() -> None:
    x, z = rows(300, 8, 2, noise=0.3)
    erased = leace(x, z)(x)
    assert LogisticRegression(max_iter=1000).fit(x, z).score(x, z) > 0.95
    found = LogisticRegression(max_iter=1000).fit(erased, z)
    np.testing.assert_allclose(found.predict_proba(erased), 0.5, atol=1e-3)


def test_more_channels_than_rows_and_channels_that_do_not_move() -> None:
    x, z = rows(20, 40, 2)
    x[:, 3], x[:, 5] = 4.0, x[:, 6]
    eraser = leace(x, z)
    erased = eraser(x)
    assert np.abs(covariance(erased, z)).max() < 1e-9 and (erased[:, 3] == 4).all()
    np.testing.assert_allclose(erased[:, 5], erased[:, 6])


def test_a_trace_in_a_channel_a_million_times_smaller_is_erased_too() -> None:
    x, z = rows(200, 6, 2)
    x[:, 2] = 1e-6 * (z + 0.01 * np.random.default_rng(0).normal(size=200))
    assert np.abs(np.corrcoef(leace(x, z)(x)[:, 2], z)[0, 1]) < 1e-6


def test_numbers_lose_their_linear_trace() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2))
    x = rng.normal(size=(200, 5)) + z @ rng.normal(size=(2, 5))
    eraser = leace(x, z)
    assert eraser.rank == 2 and np.abs(covariance(eraser(x), z)).max() < 1e-12
    assert leace(x, z[:, 0]).rank == 1


def test_a_label_without_any_trace_takes_nothing_out() -> None:
    x = np.array([[1.0, 2.0], [3.0, 5.0], [1.0, 2.0], [3.0, 5.0]])
    eraser = leace(x, np.array([0, 0, 1, 1]))
    assert eraser.rank == 0
    np.testing.assert_array_equal(eraser(x), x)


# -- the least change


def test_it_is_the_closed_form_of_the_paper() -> None:
    """For an invertible Sigma_xx: P = Sigma_xz (Sigma_zx Sigma_xx^-1 Sigma_xz)^+ Sigma_zx Sigma_xx^-1."""
    for classes in (2, 4):
        x, z = rows(500, 6, classes, seed=3)
        xx, xz = np.cov(x.T), covariance(x, z)
        inverse = np.linalg.inv(xx)
        expected = xz @ np.linalg.pinv(xz.T @ inverse @ xz, rcond=1e-10) @ xz.T @ inverse
        eraser = leace(x, z)
        np.testing.assert_allclose(eraser.matrix, expected, atol=1e-9)
        np.testing.assert_allclose(eraser.mean, x.mean(0))
        assert eraser.rank == classes - 1


def test_two_channels_by_hand() -> None:
    """z = +-1 moves the first channel by 1; the second follows noise of the first: 4 points, all sums by hand."""
    x = np.array([[2.0, 1.0], [0.0, -1.0], [0.0, 1.0], [-2.0, -1.0]])  # first = z + noise, second = noise
    z = np.array([1.0, 1.0, -1.0, -1.0])
    # Sigma_xx = [[2, 1], [1, 1]], Sigma_xz = (1, 0): Sigma_xx^-1 Sigma_xz = (1, -1), so P = (1, 0) (1, -1)'.
    np.testing.assert_allclose(leace(x, z).matrix, [[1.0, -1.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(leace(x, z)(x), [[1, 1], [-1, -1], [1, 1], [-1, -1]], atol=1e-12)


@given(seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_no_other_affine_erasure_changes_less(seed: int) -> None:
    x, z = rows(200, 6, 2, seed)
    eraser, xx = leace(x, z), np.cov(x.T)

    def moved(p: np.ndarray) -> float:
        """E |P (x - mu)|^2 in the Mahalanobis norm."""
        return float(np.trace(p.T @ np.linalg.inv(xx) @ p @ xx))

    xz = (x[z == 1].mean(0) - x[z == 0].mean(0))[:, None]
    m = xz / np.linalg.norm(xz)
    least = moved(eraser.matrix)
    assert least == pytest.approx(1) and least <= moved(m @ m.T) + 1e-9  # the plain projection erases as well
    rng = np.random.default_rng(seed)
    other = rng.normal(size=(6, 6)) @ (np.eye(6) - m @ m.T)  # nothing of it acts on Sigma_xz
    for size in (1e-3, 1.0):
        p = eraser.matrix + size * other
        assert np.abs(covariance(x - (x - x.mean(0)) @ p.T, z)).max() < 1e-9 and moved(p) > least


def test_it_does_not_depend_on_the_coordinates() -> None:
    x, z = rows(300, 5, 3)
    a, shift = np.random.default_rng(1).normal(size=(5, 5)), np.arange(5.0)
    np.testing.assert_allclose(leace(x @ a + shift, z)(x @ a + shift), leace(x, z)(x) @ a + shift, atol=1e-8)


def test_erasing_twice_is_erasing_once() -> None:
    x, z = rows()
    eraser = leace(x, z)
    np.testing.assert_allclose(eraser(eraser(x)), eraser(x), atol=1e-10)
    np.testing.assert_allclose(eraser.right @ eraser.left, np.eye(eraser.rank), atol=1e-10)
    np.testing.assert_allclose(eraser(x).mean(0), x.mean(0))


# -- streaming


@given(cuts=st.lists(st.integers(1, 299), min_size=1, max_size=5, unique=True))
@settings(max_examples=25, deadline=None)
def test_batches_give_what_all_rows_at_once_give(cuts: list[int]) -> None:
    x, z = rows()
    x = x + 1e4  # a mean far beside the spread
    stream = Leace(classes=[0, 1, 2])
    for part in np.split(np.arange(300), sorted(cuts)):
        stream.update(x[part], z[part])
    assert stream.n == 300 and stream.scatter.shape == (8 + 3, 8)
    np.testing.assert_allclose(stream.eraser().matrix, leace(x, z).matrix, atol=1e-7)


def test_rows_may_stand_in_any_shape() -> None:
    x, z = rows(120, 4, 2)
    a, b = leace(x, z), leace(torch.from_numpy(x).reshape(2, 60, 4).float(), torch.from_numpy(z).reshape(2, 60))
    np.testing.assert_allclose(a.matrix, b.matrix, atol=1e-5)
    names = np.array(["left", "right"])[z]
    assert leace(x, names) == a and leace(x, z.astype(bool)) == a


# -- as a value


def test_the_pattern_is_how_the_classes_differ() -> None:
    x, z = rows(300, 8, 2)
    towards = x[z == 1].mean(0) - x[z == 0].mean(0)
    np.testing.assert_allclose(leace(x, z).pattern, towards / np.linalg.norm(towards), atol=1e-9)
    np.testing.assert_allclose(leace(x, z.astype(float)).pattern, leace(x, z).pattern, atol=1e-9)
    np.testing.assert_allclose(leace(x, 1.0 - z).pattern, -leace(x, z).pattern, atol=1e-9)
    with pytest.raises(ProbeError, match=r"2 directions, not one pattern: take the difference"):
        _ = leace(*rows()).pattern


def test_an_eraser_is_compared_by_content_and_keeps_kind_and_dtype() -> None:
    x, z = rows()
    one, two = leace(x, z), leace(x, z)
    assert one == two and hash(one) == hash(two) and one != leace(x, z, 0.5) and one != "a string"
    assert pickle.loads(pickle.dumps(one)) == one and str(one) == "Eraser of 2 of 8 directions, fitted on 300 rows"
    half = torch.from_numpy(x).to(torch.bfloat16)
    assert one(half).dtype == torch.bfloat16 and one(x.astype(np.float32)).dtype == np.float32
    torch.testing.assert_close(one(torch.from_numpy(x)), torch.from_numpy(one(x)))
    assert Eraser(np.zeros((8, 0)), np.zeros((0, 8)), np.zeros(8))(x).tolist() == x.tolist()


# -- mistakes


@pytest.mark.parametrize(
    ("do", "remedy"),
    [
        (lambda x, z: leace(x, np.zeros(300, int)), "at least two classes"),
        (lambda x, z: leace(x, np.zeros(300)), "never changes: give rows of at least two"),
        (lambda x, z: leace(x, z[:-1]), "give one a row"),
        (lambda x, z: leace(np.where(x > 9, np.nan, x), z), "NaN or infinity"),
        (lambda x, z: leace(x, z, 1.5), "from 0 .* to 1"),
        (lambda x, z: Leace([0]), "at least two labels"),
        (lambda x, z: Leace([0, 1]).update(x, z), r"labels \['2'\] are none of .*name all of them"),
        (lambda x, z: Leace([0, 1, 2]).update(x, z).update(x[:, :3], z), "batches of one hook"),
        (lambda x, z: Leace([0, 1, 2]).update(x, np.stack([z, z], 1)), "give one a row"),
        (lambda x, z: Leace([0, 1]).eraser(), "0 rows"),
        (lambda x, z: leace(x, z)(x[:, :3]), "fitted on 8 channels, found .*fit one"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_remedy(do: Any, remedy: str) -> None:
    with pytest.raises(ProbeError, match=remedy):
        do(*rows())
