"""Online code length: labels whose cost is known, and labels that nothing can be said about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.errors import ProbeError
from dit_lens.probing.description_length import online_code


def data(
    scenes: int = 40, per: int = 8, d: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(scenes * per, d)), np.repeat(np.arange(scenes), per), rng


def test_a_label_that_can_be_read_is_cheap() -> None:
    x, groups, rng = data()
    y = rng.integers(0, 2, len(x))
    x[:, 0] += 8 * y
    found = online_code(x, y, groups, orders=3)
    assert (found["compression"] > 6).all() and float(found["gain_mean"]) > 5 > float(found["gain_low"]) > 4.5
    assert float(found["uniform"].sum()) == len(x)  # one bit a label
    assert (
        found.attrs["scenes"] == 40 and found.attrs["rows"] == 320 and found.attrs["blocks"] == [1, 2, 3, 6, 13, 26, 40]
    )


def test_random_labels_cost_what_they_cost_without_activations() -> None:
    """Over many draws: never a gain, whether labels are drawn row by row, unevenly, or scene by scene."""
    for seed in range(3):
        x, groups, rng = data(seed=seed)
        for y in (
            rng.integers(0, 2, len(x)),
            (rng.random(len(x)) < 0.1).astype(int),
            rng.integers(0, 4, 40)[groups],
        ):
            found = online_code(x, y, groups, orders=2, seed=seed)
            assert 0.8 < float(found["gain_mean"]) < 1.02, seed
    assert float(found["compression_mean"]) < 1.05  # by scene, evenly


def test_an_uneven_label_is_compressed_by_its_frequency_alone() -> None:
    x, groups, rng = data()
    y = rng.random(len(x)) < 0.1
    found = online_code(x, y, groups, orders=3)
    assert float(found["compression_mean"]) > 1.5 and float(found["gain_mean"]) < 1.02


def test_scenes_are_never_parted() -> None:
    """Features that tell the scene and nothing else: a code that saw other rows of a scene would be short."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 12)
    x = np.eye(40)[groups]
    y = rng.permutation(np.arange(40) % 2)[groups]
    assert float(online_code(x, y, groups, orders=3)["compression_mean"]) < 1.05
    assert float(online_code(x, y, np.arange(480), orders=3)["compression_mean"]) > 2  # every row a scene of its own


def test_the_formula_by_hand() -> None:
    """Two blocks, one strength: uniform for the first, a probe fitted on it for the second."""
    x, groups, rng = data(10, 5, 3)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 50)]
    x[y == "a", 0] += 2
    found = online_code(x, y, groups, fractions=(0.4, 1), strengths=(0.3,), orders=4, seed=7)
    assert found.attrs["blocks"] == [4, 10]
    for o in range(4):
        cost = found["bits"].values[o]
        first = np.flatnonzero(np.isclose(cost, 5 * np.log2(3), rtol=1e-12))
        assert len(first) == 4
        inside = np.isin(groups, first)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=300)).fit(x[inside], y[inside])
        log_p = model.predict_log_proba(x[~inside])[np.arange(30), np.searchsorted(model.classes_, y[~inside])]
        expected = 20 * np.log2(3) - log_p.sum() / np.log(2)
        assert cost.sum() == pytest.approx(expected, rel=1e-9)
        assert float(found["compression"][o]) == pytest.approx(50 * np.log2(3) / expected, rel=1e-9)
        share = {c: (y[inside] == c).mean() for c in "abc"}
        prior = 20 * np.log2(3) - sum(np.log2(share[c]) for c in y[~inside])
        assert float(found["prior"][o].sum()) == pytest.approx(prior, rel=1e-9)


def test_classes_that_come_late_cost_a_finite_price() -> None:
    """Four scenes of one label each, one a block: what is unseen shares 1 / (1 + scenes sent)."""
    x, groups = np.zeros((4, 1)), np.arange(4)
    found = online_code(x, np.arange(4), groups, fractions=(0.25, 0.5, 0.75, 1), strengths=(1.0,), orders=1)
    # Uniform over 4; then 1/2 between 3 missing, 1/3 between 2, 1/4 for the last.
    assert sorted(found["bits"].values[0]) == pytest.approx(sorted(np.log2([4, 6, 6, 4])))


def test_of_several_strengths_the_one_that_did_best_on_the_last_block_is_used() -> None:
    """Each block costs what one strength alone costs there: the first one, then the best of the block before."""
    x, groups, rng = data(30, 6, 20)
    y = rng.integers(0, 2, 180)
    x[:, 0] += 3 * y
    how: dict[str, Any] = {"fractions": (0.1, 0.3, 0.6, 1), "orders": 2, "seed": 5}
    strengths = (1e-4, 1e-2, 1.0)
    alone = np.stack([online_code(x, y, groups, strengths=(c,), **how)["bits"].values for c in strengths])
    mixed = online_code(x, y, groups, strengths=strengths, **how)["bits"].values
    for o in range(2):
        order = np.random.default_rng([5, o]).permutation(30)
        past, chosen = np.zeros(3), []
        for begin, end in ((3, 9), (9, 18), (18, 30)):
            costs = alone[:, o, order[begin:end]].sum(1)
            chosen.append(int(past.argmin()))
            assert mixed[o, order[begin:end]].sum() == pytest.approx(costs[chosen[-1]])
            past = costs
        assert chosen[0] == 0 and chosen[-1] > 0


@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_scale_and_shift_of_activations_do_not_matter(seed: int) -> None:
    x, groups, _ = data(12, 4, 3, seed)
    y = np.arange(48) % 2
    one = online_code(x, y, groups, orders=1, strengths=(0.1,))
    two = online_code(x * [1, 100, 0.01] + [0, 5, -5], y, groups, orders=1, strengths=(0.1,))
    np.testing.assert_allclose(one["bits"], two["bits"], rtol=1e-3)
    constant = online_code(np.ones_like(x), y, groups, orders=1, strengths=(0.1,))
    np.testing.assert_allclose(constant["bits"], constant["prior"], rtol=1e-4)


def test_the_same_seed_gives_the_same_message_and_scenes_may_have_names() -> None:
    x, groups, rng = data(10, 4)
    y = rng.integers(0, 2, 40)
    named = np.array([f"scene {g:02d}" for g in groups])
    one, two = online_code(x, y, groups), online_code(x, y, named)
    np.testing.assert_array_equal(one["bits"], two["bits"])
    assert list(two["task"].values[:2]) == ["scene 00", "scene 01"]
    assert len({round(float(b), 6) for b in one["bits"].sum("task")}) == 5  # orders differ
    assert float(one["compression_low"]) <= float(one["compression_mean"]) <= float(one["compression_high"])


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"y": np.zeros(40, int)}, "give a label that varies"),
        ({"y": np.zeros(39, int)}, r"give \(rows, d\)"),
        ({"x": np.full((40, 2), np.nan)}, "NaN or infinity"),
        ({"x": np.zeros((2, 40, 2))}, r"give \(rows, d\)"),
        ({"groups": np.arange(40) % 3}, "at least 4, better 20"),
        ({"fractions": (0.5, 0.25, 1)}, "rising from above 0 to 1"),
        ({"fractions": (0.5,)}, "at least two"),
        ({"orders": 0}, "at least one of each"),
        ({"strengths": ()}, "at least one of each"),
        ({"strengths": (0.0,)}, "strengths above 0"),
    ],
)
def test_mistakes_are_told_with_their_remedy(change: dict[str, Any], remedy: str) -> None:
    given_: dict[str, Any] = {"x": np.zeros((40, 2)), "y": np.arange(40) % 2, "groups": np.arange(40) // 4, **change}
    with pytest.raises(ProbeError, match=remedy):
        online_code(given_.pop("x"), given_.pop("y"), given_.pop("groups"), **given_)
