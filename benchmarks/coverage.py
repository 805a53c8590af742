"""How often intervals hold the truth, and what paired tests find: the tables of docs/statistics.md.

    python benchmarks/coverage.py            # ten minutes on one core; writes the page's sections
    python benchmarks/coverage.py probes     # one section alone, or several
    python benchmarks/coverage.py --quick    # a tenth of the draws, printed only

Nothing here runs a model: outcomes are drawn from distributions whose mean is known (``dit_lens.stats.OUTCOMES``).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from page import write
from scipy.optimize import brentq
from scipy.stats import beta, binom, bootstrap

from dit_lens.planted import PlantTask
from dit_lens.probing import grid
from dit_lens.probing.features import INPUT, Features, Scene
from dit_lens.stats import OUTCOMES, against_controls, coverage, max_statistic, mean_interval, verdict
from dit_lens.stats.methods import wilson_ends
from dit_lens.stats.shares import clustered_ends, share_ends
from dit_lens.wan.token_grid import Grid

PAGE = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
SIZES, RESAMPLES, CHUNK = (8, 16, 30), 999, 200


def by_chunks(ends: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[xr.DataArray], xr.Dataset]:
    """An interval of samples (draws, n) as one of values (task, draw)."""

    def interval(values: xr.DataArray) -> xr.Dataset:
        x = values.values.T
        found = [ends(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        low, high = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        return xr.Dataset({"low": ("draw", low), "high": ("draw", high)})

    return interval


def percentile(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap."""
    return _scipy(x, "percentile")


def bca(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated bootstrap."""
    return _scipy(x, "BCa")


def _scipy(x: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal values: no interval
        ci = bootstrap((x,), np.mean, axis=1, n_resamples=RESAMPLES, method=method, rng=rng).confidence_interval
    return ci.low, ci.high


def bootstrap_t(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap: the resamples' own t statistics in place of Student's quantiles."""
    n = x.shape[1]
    mean, error = x.mean(1), x.std(1, ddof=1) / np.sqrt(n)
    again = x[:, np.random.default_rng(0).integers(0, n, (RESAMPLES, n))]  # (draws, resamples, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (again.mean(2) - mean[:, None]) / (again.std(2, ddof=1) / np.sqrt(n))
    t = np.sort(np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf), axis=1)
    last = round(0.975 * (RESAMPLES + 1)) - 1
    return mean - t[:, last] * error, mean - t[:, RESAMPLES - 1 - last] * error


METHODS: dict[str, Callable[[xr.DataArray], xr.Dataset]] = {
    "skewed t": mean_interval, "t": partial(mean_interval, normal=True), "percentile": by_chunks(percentile),
    "BCa": by_chunks(bca), "bootstrap-t": by_chunks(bootstrap_t),
}  # fmt: skip


def intervals(draws: int) -> str:
    """Coverage and median width of the library's interval, and the coverage of others."""
    rows = ["| outcome | n | ours | width | " + " | ".join(METHODS) + " |", "|---|---|---|---|" + "---|" * len(METHODS)]
    for name, outcome in OUTCOMES.items():
        for n in SIZES:
            own = coverage(outcome, n, draws)
            cells = [f"**{own.covered:.3f}**", f"{own.width:.2f}"]
            for method in METHODS.values():
                found = coverage(outcome, n, draws, interval=method)
                cells.append(f"{np.nan_to_num(found.covered) * (1 - found.missing):.3f}")
            rows.append(f"| {name} | {n} | " + " | ".join(cells) + " |")
            print(rows[-1], flush=True)
    return "\n".join(rows)


def jeffreys(hits: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the posterior under Jeffreys' prior."""
    low, high = (beta.ppf(q, hits + 0.5, n - hits + 0.5) for q in (0.025, 0.975))
    return np.where(hits == 0, 0.0, low), np.where(hits == n, 1.0, high)


def mid_p(hits: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's, which counts half of the outcome's own chance only."""

    def low(k: int, size: int) -> float:
        if k == 0:
            return 0.0
        tail = lambda p: binom.sf(k, size, p) + binom.pmf(k, size, p) / 2 - 0.025  # noqa: E731
        return float(brentq(tail, 1e-12, 1 - 1e-12))

    ends = [(low(k, size), 1 - low(size - k, size)) for k, size in zip(hits.tolist(), n.tolist(), strict=True)]
    return tuple(np.array(ends).T)  # type: ignore[return-value]


SHARES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Blaker (ours)": lambda hits, n: share_ends(hits, n, 0.95),
    "Wilson": lambda hits, n: wilson_ends(hits / n, n, 0.95),
    "Jeffreys": jeffreys,
    "mid-P": mid_p,
    "Clopper-Pearson": lambda hits, n: clustered_ends(hits / n, n, 0.95),
}


def shares(draws: int) -> str:
    """Exact coverage and mean width of intervals of a share, over shares of .005 to .995; nothing is drawn."""
    some = np.linspace(0.005, 0.995, 991)
    rows = ["| n | method | least | at .5 | at .02 | mean | mean width |", "|---|---|---|---|---|---|---|"]
    for n in SIZES:
        hits = np.arange(n + 1)
        chance = binom.pmf(hits[:, None], n, some)
        for name, method in SHARES.items():
            low, high = method(hits, np.full(n + 1, n))
            held = (chance * ((low[:, None] <= some) & (some <= high[:, None]))).sum(0)
            at = [held[np.abs(some - p).argmin()] for p in (0.5, 0.02)]
            width = (chance * (high - low)[:, None]).sum(0).mean()
            numbers = " | ".join(f"{x:.3f}" for x in (held.min(), *at, held.mean(), width))
            rows.append(f"| {n} | {name} | {numbers} |")
            print(rows[-1], flush=True)
    return "\n".join(rows)


def arms(rng: np.random.Generator, n: int, shift: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Two arms that correlate by .8, the first higher by ``shift`` standard deviations."""
    common = np.sqrt(0.8) * rng.normal(size=n)
    a, b = (common + np.sqrt(0.2) * rng.normal(size=n) for _ in range(2))
    return xr.DataArray(a + shift, dims="task"), xr.DataArray(b, dims="task")


def verdicts(draws: int) -> str:
    """How often the paired verdict says what, and how often unpaired intervals lie apart on the same data."""
    rows = ["| shift | n | supported | contradicted | undecided | unpaired rule |", "|---|---|---|---|---|---|"]
    for shift in (0.6, 0.3, 0.0, -0.6):
        for n in SIZES:
            rng = np.random.default_rng(n)
            outcomes, apart = [], 0
            for _ in range(draws):
                pair = arms(rng, n, shift)
                outcomes.append(verdict(*pair, smallest=0.3).outcome)
                a, b = (mean_interval(arm) for arm in pair)
                apart += bool(a["low"] > b["high"])
            said = [outcomes.count(word) / draws for word in ("supported", "contradicted", "undecided")]
            rows.append(f"| {shift:g} | {n} | " + " | ".join(f"{s:.3f}" for s in (*said, apart / draws)) + " |")
            print(rows[-1], flush=True)
    return "\n".join(rows)


def cells(draws: int) -> str:
    """Sweeps of 48 cells without any effect: share with any cell below .05."""
    rows = ["| correlation of cells | n | plain p | corrected p |", "|---|---|---|---|"]
    for rho in (0.0, 0.5, 0.9):
        for n in (8, 12, 16):
            rng = np.random.default_rng(n)
            plain = held = 0
            for i in range(draws):
                x = np.sqrt(rho) * rng.normal(size=(n, 1)) + np.sqrt(1 - rho) * rng.normal(size=(n, 48))
                found = max_statistic(xr.DataArray(x, dims=("task", "cell")), seed=i)
                plain += bool((found["p"] <= 0.05).any())
                held += bool((found["p_corrected"] <= 0.05).any())
            rows.append(f"| {rho:g} | {n} | {plain / draws:.3f} | {held / draws:.3f} |")
            print(rows[-1], flush=True)
    return "\n".join(rows)


@dataclass(frozen=True, eq=False)
class Drawn(Features):
    """Features of random numbers, (layers, scenes, units, d), and another such array as the input."""

    values: Any = None
    entering: Any = None

    def block(self, hook: str, step: int) -> np.ndarray:
        """All layers of a hook."""
        return self.entering if hook == INPUT else self.values

    def cell(self, hook: str, step: int, layer: int = -1) -> np.ndarray:
        """One layer."""
        return self.block(hook, step)[layer if hook != INPUT else 0]

    def identity(self) -> dict[str, Any]:
        """Nothing is kept of them."""
        return {}


def drawn(rng: np.random.Generator, scenes: int, units: int, layers: int = 3, width: int = 48) -> Drawn:
    """Layers that each add random numbers to the one before, as a stream does."""
    values = rng.standard_normal((layers, scenes, units, width)).astype(np.float32).cumsum(0)
    entering = rng.standard_normal((1, scenes, units, 4)).astype(np.float32)
    there = tuple(Scene(PlantTask(i, 1), i, None, str(i), Path()) for i in range(scenes))
    unit = "video" if units == 1 else "token"
    return Drawn(
        there, Grid(1, 1, units), (0,), (1.0,), tuple(range(layers)), ("resid_post",), "cond", unit,
        tuple(range(units)), {}, values=values, entering=entering,
    )  # fmt: skip


def probes(draws: int) -> str:
    """Grids of probes on random numbers, two labels that say nothing: share with any place below .05."""
    labels: dict[str, tuple[int, int, Callable[[np.random.Generator], np.ndarray]]] = {
        "one a scene, 16 of 32 each": (32, 1, lambda rng: rng.permutation(np.arange(32) % 2)),
        "one a scene, 11 of 32": (32, 1, lambda rng: rng.permutation((np.arange(32) < 11).astype(int))),
    }  # fmt: skip
    rows = ["| labels | p, one label | p, any of two | p_corrected, any of two | 95 % |", "|---|---|---|---|---|"]
    for name, (scenes, units, label) in labels.items():
        rng = np.random.default_rng(0)
        p = np.empty((draws, 2))
        for i in range(draws):
            found = grid(
                drawn(rng, scenes, units), {"a": label(rng), "b": label(rng)}, folds=4, permutations=99, seed=i
            )  # fmt: skip
            p[i] = found["p"].min(("hook", "step", "layer"))
        called = (2 * p <= 0.05).any(1)
        low, high = (float(end) for end in share_ends(called.sum(), np.array(draws), 0.95))
        numbers = ((p <= 0.05).mean(), (p <= 0.05).any(1).mean(), called.mean())
        rows.append(f"| {name} | {' | '.join(f'{x:.3f}' for x in numbers)} | {low:.3f} to {high:.3f} |")
        print(rows[-1], flush=True)
    return "\n".join(rows)


def among(draws: int) -> str:
    """A network that is one of its controls, six layers: share with any layer below .05, by two ways of testing."""
    rows = ["| control networks | exact | over networks | one control, over tasks |", "|---|---|---|---|"]
    for count in (20, 24, 39):
        rng = np.random.default_rng(count)
        ranked = alone = 0
        for i in range(draws):
            level = rng.exponential(size=(count + 1, 1, 6)) + rng.standard_normal((count + 1, 1, 1))
            x = xr.DataArray(level + 0.3 * rng.standard_normal((count + 1, 8, 6)), dims=("control", "task", "layer"))
            found = against_controls(x[0].mean("task"), x[1:].mean("task"))
            ranked += bool((found["p_corrected"] <= 0.05).any())
            if i < draws // 10:
                alone += bool((max_statistic(x[0], x[1], seed=i)["p_corrected"] <= 0.05).any())
        exact = (count + 1) // 20 / (count + 1)
        rows.append(f"| {count} | {exact:.3f} | {ranked / draws:.3f} | {alone / (draws // 10):.3f} |")
        print(rows[-1], flush=True)
    return "\n".join(rows)


def main() -> None:
    """Simulate, print, and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws, printed only")
    parser.add_argument("sections", nargs="*", help="all by default")
    given = parser.parse_args()
    quick = given.quick
    tables: dict[str, tuple[Callable[[int], str], int]] = {
        "intervals": (intervals, 4000), "shares": (shares, 0), "verdicts": (verdicts, 2000), "cells": (cells, 500),
        "among": (among, 2000), "probes": (probes, 400),
    }  # fmt: skip
    if unknown := set(given.sections) - set(tables):
        parser.error(f"unknown: {sorted(unknown)}; choose from {list(tables)}")
    for name, (table, draws) in tables.items():
        if given.sections and name not in given.sections:
            continue
        began = time.time()
        text = table(draws // 10 if quick else draws)
        print(f"{name}: {time.time() - began:.0f} s", flush=True)
        if not quick:
            how = f"{draws:,} draws a row" if draws else "exact, nothing drawn"
            made = f"`python benchmarks/coverage.py`, {date.today()}, {how}."
            write(PAGE, name, f"{text}\n\n{made}")


if __name__ == "__main__":
    main()
