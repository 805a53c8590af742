"""Minimum description length: bits needed to send the labels, given the activations (Voita and Titov 2020).

Scenes stand in a random order that sender and receiver share, cut in blocks 1 .. S. The first block's labels are sent
by the uniform code over K classes, each later block's with a probe fitted on all blocks before it (their online code):

    L_online = n_1 log2 K - sum_{i=2}^{S} log2 p_{theta_{i-1}}(y_i | x_i),      compression = n log2 K / L_online

A label that is easy to read makes short codes early, so that compression counts the effort of reading as well as the
success: two probes of equal accuracy can differ much. Above 1 the activations say something, at 1 nothing; below 1 the
probe is misled by what it saw. ``prior`` is the same code from the frequencies of earlier labels alone: an uneven label
is compressed by it without any activation, so a gain is read off ``prior / bits``, not off compression.

Blocks hold whole scenes, so that no probe predicts tokens of a scene that it was fitted on. Two additions keep the code
decodable, since the receiver can do them as well: classes that were not sent yet share a probability of
1 / (1 + scenes sent); and of several strengths of regularisation each block uses the one that was best on the last.

When not to use: to compare labels with different numbers or shares of classes without ``prior``; or with few scenes,
where most of the code is the uniform beginning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.errors import ProbeError
from dit_lens.stats.intervals import mean_interval

#: Shares of the scenes at which the probe is fitted anew; the last one ends the message.
FRACTIONS = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
STRENGTHS = (1e-4, 1e-2, 1.0)  # C of logistic regression: strongest regularisation first


def online_code(
    x: Any,
    y: Any,
    groups: Any,
    *,
    fractions: Sequence[float] = FRACTIONS,
    orders: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> xr.Dataset:
    """Online code length of labels, given activations.

    Args:
        x: Activations (n, d).
        y: Labels (n,).
        groups: Scene of each row, (n,).
        fractions: Shares of the scenes at which the probe is fitted again, rising to 1; shares that round to the same
            number of scenes are one.
        orders: Number of random orders of the scenes.
        strengths: C of the logistic probe; the first is used until there is a choice, and one value is the code of the
            paper.
        seed: Seed of the orders.

    Returns:
        ``bits`` and ``prior`` (draw, task), a draw being an order of the scenes; ``uniform`` (task,); ``compression``
        and ``gain`` (prior / bits), (draw,), each with its mean over orders and a 95 % interval over scenes:
        ``<name>_mean, _low, _high``.

    Raises:
        ProbeError: Lengths that differ, one class, fewer than four scenes, NaN, or fractions that do not rise to 1.
    """
    x, y, groups = np.asarray(x, np.float64), np.asarray(y), np.asarray(groups)
    classes, labels = np.unique(y, return_inverse=True)
    scenes, scene = np.unique(groups, return_inverse=True)
    _check(x, y, groups, len(classes), len(scenes), fractions, strengths, orders)
    rows = [np.flatnonzero(scene == g) for g in range(len(scenes))]
    stops = sorted({max(1, round(f * len(scenes))) for f in fractions})
    bits, prior = np.zeros((2, orders, len(scenes)))
    uniform = np.array([len(r) * np.log2(len(classes)) for r in rows])
    for o in range(orders):
        order = np.random.default_rng([seed, o]).permutation(len(scenes))
        first = order[: stops[0]]
        bits[o, first] = prior[o, first] = uniform[first]
        last = np.zeros(len(strengths))  # what each strength would have cost: known to both sides
        for begin, end in pairwise(stops):
            sent = np.concatenate([rows[g] for g in order[:begin]])
            coming = np.concatenate([rows[g] for g in order[begin:end]])
            costs = [_cost(x, labels, sent, coming, len(classes), begin, c) for c in strengths]
            chosen = int(last.argmin())  # the first where nothing is known yet
            last = np.array([c.sum() for c in costs])
            np.add.at(bits[o], scene[coming], costs[chosen])
            np.add.at(prior[o], scene[coming], _cost(None, labels, sent, coming, len(classes), begin, 1.0))
    found = xr.Dataset(
        {
            "bits": (("draw", "task"), bits, {"long_name": "online code length", "units": "bits"}),
            "prior": (("draw", "task"), prior, {"long_name": "code length without activations", "units": "bits"}),
            "uniform": ("task", uniform, {"long_name": "uniform code length", "units": "bits"}),
        },
        coords={"draw": range(orders), "task": scenes},
        attrs={"classes": len(classes), "rows": len(y), "scenes": len(scenes), "blocks": stops, "seed": seed},
    )
    return found.assign(_ratios(found))


def _cost(
    x: np.ndarray | None, labels: np.ndarray, sent: np.ndarray, coming: np.ndarray, k: int, scenes: int, strength: float
) -> np.ndarray:
    """Bits of each coming label by a probe fitted on what was sent, or by its frequencies for no ``x``: (rows,)."""
    seen, count = np.unique(labels[sent], return_counts=True)
    log_p = np.full((len(coming), k), -np.inf)
    new = 1 / (1 + scenes) if len(seen) < k else 0.0
    if x is None or len(seen) == 1:
        score = np.broadcast_to(np.log(count), (len(coming), len(seen)))
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        with warnings.catch_warnings():  # probabilities of a fit that has not converged still make a valid code
            warnings.simplefilter("ignore", ConvergenceWarning)
            score = model.fit(x[sent], labels[sent]).decision_function(x[coming])
        if score.ndim == 1:
            score = np.stack([np.zeros(len(score)), score], axis=1)
    log_p[:, seen] = log_softmax(score, axis=1) + np.log1p(-new)
    missing = np.setdiff1d(np.arange(k), seen)
    if len(missing):
        log_p[:, missing] = np.log(new / len(missing))
    return -log_p[np.arange(len(coming)), labels[coming]] / np.log(2)


def _ratios(found: xr.Dataset) -> dict[str, Any]:
    """Compression and gain: per order, and their mean with an interval over scenes."""
    out: dict[str, Any] = {}
    below = found["bits"].values
    for name, long_name, above in (
        ("compression", "uniform code / online code", np.broadcast_to(found["uniform"].values, below.shape)),
        ("gain", "code without activations / online code", found["prior"].values),
    ):
        about = {"long_name": long_name, "units": "ratio"}
        out[name] = ("draw", above.sum(1) / below.sum(1), about)
        # A ratio of sums, made linear: what each scene adds to it. The same scenes in every order.
        ratio = above.sum(1, keepdims=True) / below.sum(1, keepdims=True)  # (draw, 1)
        adds = (above - ratio * below) / below.mean(1, keepdims=True)  # (draw, task), mean 0
        each = mean_interval(xr.DataArray((ratio + adds).mean(0), dims="task"))
        parts = {"mean": float(ratio.mean()), "low": float(each["low"]), "high": float(each["high"])}
        out |= {f"{name}_{part}": ((), value, about) for part, value in parts.items()}
    return out


def _check(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, classes: int, scenes: int, fractions: Sequence[float],
    strengths: Sequence[float], orders: int,
) -> None:  # fmt: skip
    if x.ndim != 2 or y.shape != (len(x),) or groups.shape != (len(x),):
        raise ProbeError(
            f"features {x.shape}, labels {y.shape} and scenes {groups.shape}: give (rows, d), (rows,) and (rows,)"
        )
    if not np.isfinite(x).all():
        raise ProbeError("features hold NaN or infinity: a region without tokens, or a place that was not recorded")
    if classes < 2:
        raise ProbeError(f"all {len(y)} labels are of one class, which takes no bits at all: give a label that varies")
    if scenes < 4:
        raise ProbeError(f"{scenes} scenes make no message: give at least 4, better 20; groups= names each row's scene")
    rising = all(a < b for a, b in pairwise(fractions))
    if len(fractions) < 2 or not rising or fractions[0] <= 0 or fractions[-1] != 1:
        raise ProbeError(f"fractions={tuple(fractions)}: give at least two, rising from above 0 to 1")
    if orders < 1 or not len(strengths) or min(strengths) <= 0:
        raise ProbeError(f"orders={orders}, strengths={tuple(strengths)}: give at least one of each, strengths above 0")
