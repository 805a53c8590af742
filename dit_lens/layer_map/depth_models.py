"""Which model of depth describes a map: flat, a ramp, one place, two stages or three.

*Structured* models have a level for each evidence in each run of layers, with cuts that all evidences share: three
runs, two runs, or one layer against all others. *Smooth* models are polynomials over depth of degree 0 to 3
(:mod:`dit_lens.layer_map.smooth_models`). Noise of both is AR(1) over layers, its correlation rho fitted. With L
layers, E evidences, RSS_e the residual sum of squares after whitening with rho, and k coefficients for an evidence::

    loglik = -L/2 sum_e log RSS_e + E/2 log(1 - rho^2)        (the profile likelihood, maximised over rho)
    C      = loglik - E k/2 log L
    T_d    = max over structured models of C  -  C of the polynomial of degree d
    p_d    = (1 + #{T_d of profiles drawn from the fitted polynomial >= T_d}) / (1 + draws)
    p      = max_d p_d

Before all of it, in profiles and in draws alike, an evidence is limited to 10 robust standard deviations (1.48 median
absolute deviations) around its median, and to 3 at layers where no other evidence is more than 3 away: one wild value
does not speak for all evidence, and a layer that does everything has several.

T compares models that are not nested, so that its distribution is simulated from the null (Cox 1962; the parametric
bootstrap of Williams 1970). Structure is announced only if *every* smooth model is rejected (an intersection-union
test, Berger 1982), so that the false rate holds whichever of them is true. Which structured model is announced is the
one that T chose; but three stages only if two are rejected, by the likelihood ratio of the best of each and profiles
drawn from the best two. Where none is announced: the smooth model with the least ``-2 loglik + E k log L``.

The false rates and the power are in docs/map.md, by ``benchmarks/depth_models.py``. "Not announced" is no evidence of
absence: :func:`power` says how often stages of a given height would have been found, with these layers and this noise.

When not to use: on quantities that accumulate over layers (norms of the stream, cosines with the final velocity), whose
noise is a random walk. Use what each layer *adds*, above a control model. With heavy-tailed noise one wild layer is
announced as "one place" more often than the level says (docs/map.md): look at the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
import xarray as xr

from dit_lens.layer_map.smooth_models import DEGREES, RHOS, Fitter, Smooth, noise, whitener
from dit_lens.stats.shares import share_ends

Kind = Literal["flat", "ramp", "bow", "wave", "one", "two", "three", "few"]
SMOOTH: tuple[Kind, ...] = ("flat", "ramp", "bow", "wave")
#: Fewer layers cannot tell stages from a smooth profile.
FEWEST = 8
#: Height of the planted stages, in standard deviations of the noise of layers, and how often each is planted.
HEIGHTS, PLANTED = (1.0, 2.0, 3.0), 60
#: Where the planted stages are cut, in depth; the paper's layer 9 of 40 and its last quarter.
PLANTED_CUTS = (0.225, 0.75)
_CHUNK = 32
#: Limits of an evidence, in robust standard deviations around its median: where it stands out alone, and where another
#: evidence stands out by the first of them at the same layer.
LIMIT_ALONE, LIMIT_SHARED = 3.0, 10.0


@dataclass(frozen=True)
class DepthModel:
    """The model of depth that describes a profile.

    Attributes:
        kind: "flat", "ramp", "bow", "wave" (smooth), "one" (place), "two", "three" (stages), or "few": too few layers
            to ask.
        starts: First layer of each run of "two" and "three"; the layer of "one"; else empty.
        n_layers: Number of layers.
        p: Of "the profile is smooth"; NaN for "few".
        level: Level at which smooth profiles are rejected.
        rho: Correlation of neighbouring layers.
        evidences: Of "one": those in which that layer alone makes half of the variance over layers.
        missing: Layers at which some evidence is NaN, and which are left out.
        power: Height of planted stages, in standard deviations of the noise -> (share found, low, high).
    """

    kind: Kind
    starts: tuple[int, ...]
    n_layers: int
    p: float
    level: float = 0.05
    rho: float = 0.0
    evidences: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    power: tuple[tuple[float, float, float, float], ...] = field(default=())

    @property
    def found(self) -> bool:
        """Whether stages or one place were found."""
        return self.kind in ("one", "two", "three")

    def runs(self) -> tuple[range, ...]:
        """The layers of each run; of "one" only that layer; none for a smooth profile."""
        if self.kind == "one":
            return (range(self.starts[0], self.starts[0] + 1),)
        ends = (*self.starts[1:], self.n_layers)
        return tuple(range(a, b) for a, b in zip(self.starts, ends, strict=True)) if self.starts else ()

    def words(self) -> tuple[str, ...]:
        """The name of each run."""
        return {"one": ("place",), "two": ("early", "late"), "three": ("early", "middle", "late")}.get(self.kind, ())

    def __str__(self) -> str:
        said = self._found()
        if self.missing:
            said += f"; without layers {', '.join(map(str, self.missing))}, where an evidence is missing"
        return f"{said}{self._power()}"

    def _found(self) -> str:
        if self.kind == "few":
            return f"too few layers with evidence to tell stages from a smooth profile ({FEWEST} or more are needed)"
        smooth = f"p = {self.p:.3f} of a smooth profile"
        if self.kind == "one":
            said = f", in {', '.join(self.evidences)}" if self.evidences else ""
            return f"one place, layer {self.starts[0]}{said} ({smooth})"
        if self.found:
            parts = ", ".join(f"{n} {r[0]}-{r[-1]}" for n, r in zip(self.words(), self.runs(), strict=True))
            return f"{self.kind} stages, {parts} ({smooth})"
        shape = {"flat": "level over depth", "ramp": "a ramp over depth", "bow": "a smooth bow over depth",
                 "wave": "a smooth wave over depth"}[self.kind]  # fmt: skip
        return f"no stages and no single place found, {shape} describes the layers ({smooth})"

    def _power(self) -> str:
        if not self.power:
            return ""
        said = [f"of {height:g} SD in {share:.0%}" for height, share, *_ in self.power]
        return f". Three stages, with these layers and this noise, would have been found: {', '.join(said)}"


class Comparison:
    """Structured against smooth models for profiles of the same layers.

    Args:
        layers: Positions of the layers that are there.
        n_layers: Number of layers in all.
    """

    def __init__(self, layers: Sequence[int], n_layers: int) -> None:
        self.layers, self.n_layers, self.n = np.asarray(layers), n_layers, len(layers)
        self.smooth = [Fitter(self.layers, n_layers, degree) for degree in DEGREES]
        self.models = _structured(self.n)
        designs = [_design(kind, cuts, self.n) for kind, cuts in self.models]
        self.sizes = np.array([d.shape[1] for d in designs])
        self.bases = []
        self.whiteners = [whitener(self.n, rho) for rho in RHOS]
        for w in self.whiteners:
            q = np.zeros((len(designs), 3, self.n), np.float32)
            for row, design in zip(q, designs, strict=True):
                row[: design.shape[1]] = np.linalg.qr(w @ design)[0].T
            self.bases.append(q.reshape(-1, self.n))

    def structured(self, profiles: np.ndarray, kind: Kind | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best structured model of each profile.

        Args:
            profiles: (n, L, E).
            kind: Only models of this kind.

        Returns:
            Its penalised log likelihood (n,), and its index (n,).
        """
        found = [self._structured(profiles[i : i + _CHUNK], kind) for i in range(0, len(profiles), _CHUNK)]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _structured(self, profiles: np.ndarray, kind: Kind | None) -> tuple[np.ndarray, np.ndarray]:
        count, n, evidences = profiles.shape
        best = np.full((len(self.models), count), -np.inf)
        for rho, w, basis in zip(RHOS, self.whiteners, self.bases, strict=True):
            z = (w @ profiles).astype(np.float32)  # (n, L, E)
            along = basis @ z.transpose(1, 0, 2).reshape(n, -1)
            along = along.reshape(len(self.models), 3, count, evidences)
            total = (z**2).sum(1)
            rss = np.maximum(total - (along**2).sum(1), 1e-6 * total)  # (models, n, E)
            best = np.maximum(best, evidences / 2 * np.log(1 - rho**2) - n / 2 * np.log(rss).sum(-1))
        best -= evidences * self.sizes[:, None] / 2 * np.log(n)
        if kind is not None:
            best[[name != kind for name, _ in self.models]] = -np.inf
        return best.max(0), best.argmax(0)

    def against(self, degree: int, profiles: np.ndarray, best: np.ndarray) -> np.ndarray:
        """T_d of the module's text, (n,), of profiles whose best structured model has the likelihood ``best``."""
        plain = self.smooth[degree].likelihood(profiles)[0]
        return best - (plain - profiles.shape[2] * (degree + 1) / 2 * np.log(self.n))

    def test(self, profile: np.ndarray, draws: int, rng: np.random.Generator, level: float = 1.0) -> tuple[float, int]:
        """Test one profile.

        Args:
            profile: (L, E), standardised.
            draws: Profiles drawn from each smooth model.
            rng: Source of randomness.
            level: Smooth models after the first that is not rejected at this level are not asked.

        Returns:
            p, and the index of the best structured model.
        """
        profile = limited(profile)
        best, at = self.structured(profile[None])
        p = 0.0
        for degree in DEGREES:
            found = self.against(degree, profile[None], best)[0]
            drawn = limited(self.smooth[degree].fit(profile).draw(draws, rng))
            null = self.against(degree, drawn, self.structured(drawn)[0])
            p = max(p, float((1 + (null >= found).sum()) / (1 + draws)))
            if p > level:
                break
        return p, int(at[0])

    def stages(self, profile: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[float, int]:
        """Test two stages against three.

        Args:
            profile: (L, E), standardised.
            draws: Profiles drawn from the best model of two.
            rng: Source of randomness.

        Returns:
            p that two are enough, and the index of the best two.
        """
        two, at = self.structured(profile[None], "two")
        found = self.structured(profile[None], "three")[0] - two
        kind, cuts = self.models[at[0]]
        design = _design(kind, cuts, self.n)
        fitted = design @ np.linalg.lstsq(design, profile, rcond=None)[0]
        drawn = fitted + noise(draws, self.n, *self.noise_of(profile, int(at[0])), rng)
        null = self.structured(drawn, "three")[0] - self.structured(drawn, "two")[0]
        return float((1 + (null >= found).sum()) / (1 + draws)), int(at[0])

    def simplest(self, profile: np.ndarray) -> Smooth:
        """The smooth model of a profile (L, E) with the least information criterion."""
        cost = [
            profile.shape[1] * (degree + 1) * np.log(self.n) / 2 - fitter.likelihood(profile[None])[0][0]
            for degree, fitter in zip(DEGREES, self.smooth, strict=True)
        ]
        return self.smooth[int(np.argmin(cost))].fit(profile)

    def noise_of(self, profile: np.ndarray, model: int | None) -> tuple[np.ndarray, float]:
        """Covariance of innovations and rho around a structured model, or around the simplest smooth one."""
        if model is None:
            found = self.simplest(profile)
            return found.covariance, found.rho
        kind, cuts = self.models[model]
        design = _design(kind, cuts, self.n)
        left = profile - design @ np.linalg.lstsq(design, profile, rcond=None)[0]
        # What is left has no mean in any run: a flat model is fitted for its noise alone.
        fitted = self.smooth[0].fit(left)
        lost = (self.n - 1) / max(1, self.n - design.shape[1])
        return fitted.covariance * lost, fitted.rho


@lru_cache(maxsize=8)
def comparison(layers: tuple[int, ...], n_layers: int) -> Comparison:
    """The :class:`Comparison` of these layers, made once."""
    return Comparison(layers, n_layers)


def compare(
    profile: xr.DataArray, draws: int = 999, seed: int = 0, level: float = 0.05, heights: Sequence[float] = HEIGHTS
) -> DepthModel:
    """Find the model of depth that describes a map's evidence.

    Args:
        profile: (layer, evidence). A layer at which an evidence is not finite is left out; so is an evidence that is
            constant, or missing at more than half of the layers.
        draws: Profiles drawn from each smooth model.
        seed: Of the draws.
        level: Level at which smooth profiles are rejected.
        heights: Heights of planted stages, in standard deviations, whose power is computed; none: no power.

    Returns:
        The model, with its p and its power.
    """
    stacked = profile.transpose("layer", "evidence")
    names = np.array([str(name) for name in stacked["evidence"].values])
    data = stacked.values.astype(float)  # (L, E)
    n_layers = len(data)
    kept = np.isfinite(data).mean(0) >= 0.5
    data, names = data[:, kept], names[kept]
    there = np.flatnonzero(np.isfinite(data).all(1))
    missing = tuple(int(i) for i in np.setdiff1d(np.arange(n_layers), there)) if data.shape[1] else ()
    data = data[there]
    if len(data) < FEWEST or not data.shape[1]:
        return DepthModel("few", (), n_layers, float("nan"), level, missing=missing)
    kept = np.ptp(data, axis=0) > 1e-9 * np.abs(data).max(0)
    data, names = data[:, kept], names[kept]
    if not data.size:  # every evidence is the same at all layers
        return DepthModel("flat", (), n_layers, 1.0, level, missing=missing)
    data = limited(data)
    data = (data - data.mean(0)) / data.std(0)
    work = comparison(tuple(int(i) for i in there), n_layers)
    rng = np.random.default_rng(seed)
    p, at = work.test(data, draws, rng)
    found = p <= level
    if found and work.models[at][0] == "three":
        enough, two = work.stages(data, min(draws, 199), rng)
        at = two if enough > level else at
    kind, cuts = work.models[at]
    covariance, rho = work.noise_of(data, at if found else None)
    told = tuple(power(work, covariance, rho, height, level, rng) for height in heights)
    if not found:
        return DepthModel(SMOOTH[work.simplest(data).degree], (), n_layers, p, level, rho, (), missing, told)
    starts = tuple(int(there[c]) for c in cuts)
    if kind == "one":
        here = tuple(names[data[cuts[0]] ** 2 >= 0.5 * (data**2).sum(0)].tolist())
        return DepthModel(kind, starts, n_layers, p, level, rho, here, missing, told)
    return DepthModel(kind, (0, *starts), n_layers, p, level, rho, (), missing, told)


def power(
    work: Comparison, covariance: np.ndarray, rho: float, height: float, level: float, rng: np.random.Generator,
    planted: int = PLANTED, draws: int | None = None,
) -> tuple[float, float, float, float]:  # fmt: skip
    """How often three stages of a height are found.

    The evidences take turns to be raised in the first, the second and the third stage, by ``height`` standard
    deviations of the noise.

    Args:
        work: The layers.
        covariance: Of the noise's innovations, (E, E).
        rho: Correlation of neighbouring layers.
        height: In standard deviations.
        level: Level of the test.
        rng: Source of randomness.
        planted: How many profiles are planted.
        draws: Profiles drawn from each smooth model, for each; by default the fewest that can reach the level twice.

    Returns:
        The height, the share found as stages, and its 95 % interval.
    """
    draws = int(np.ceil(2 / level)) - 1 if draws is None else draws
    depth = (work.layers + 0.5) / work.n_layers
    stage = np.searchsorted(PLANTED_CUTS, depth, side="right")  # (L,)
    sd = np.sqrt(np.diag(covariance) / (1 - rho**2))
    raised = stage[:, None] == np.arange(len(covariance)) % 3  # (L, E)
    hits = 0
    for profile in height * sd * raised + noise(planted, work.n, covariance, rho, rng):
        p, at = work.test(profile, draws, rng, level)
        hits += p <= level and work.models[at][0] != "one"
    low, high = share_ends(np.array(hits), np.array(planted), 0.95)
    return height, hits / planted, float(low), float(high)


def limited(profiles: np.ndarray) -> np.ndarray:
    """Profiles (..., L, E) with each evidence limited around its median; as they are where most layers are alike."""
    middle = np.median(profiles, axis=-2, keepdims=True)
    away = profiles - middle
    unit = 1.4826 * np.median(np.abs(away), axis=-2, keepdims=True)
    out = np.abs(away) > LIMIT_ALONE * unit
    shared = out.sum(-1, keepdims=True) > out  # another evidence stands out as well
    reach = unit * np.where(shared, LIMIT_SHARED, LIMIT_ALONE)
    return np.asarray(np.where(unit > 0, middle + np.clip(away, -reach, reach), profiles))


def _structured(n: int) -> list[tuple[Kind, tuple[int, ...]]]:
    """Structured models of ``n`` layers: kind and cuts; runs have a tenth of the layers, or two."""
    shortest = max(2, n // 10)
    inner = range(shortest, n - shortest + 1)
    pairs = combinations(inner, 2)
    found: list[tuple[Kind, tuple[int, ...]]] = [("three", c) for c in pairs if c[1] - c[0] >= shortest]
    found += [("two", (c,)) for c in inner]
    return found + [("one", (c,)) for c in range(n)]


def _design(kind: Kind, cuts: tuple[int, ...], n: int) -> np.ndarray:
    """Indicators of the runs of a model, (n, runs)."""
    at = np.arange(n)
    run = (at == cuts[0]).astype(int) if kind == "one" else np.searchsorted(cuts, at, side="right")
    return np.asarray(run[:, None] == np.arange(run.max() + 1), float)
