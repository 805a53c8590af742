"""Results of experiments with known numbers planted in them, for tests of what reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.experiments.noise_kinds import KINDS
from dit_lens.layer_map.evidence import EVIDENCE
from dit_lens.replication import TABLE, Claim, judge
from dit_lens.replication.row import SHARE
from dit_lens.stats import Verdict


def enrichment(early: float, later: float, spread: float = 0.0, named: float = 1.0) -> xr.Dataset:
    """Enrichment of the foreground ``early`` and ``later`` in 40 layers, of everything else 1; the null is always 1."""
    keys = ["foreground", "rest", "named", "other", "named first", "other first"]
    dims = ("task", "step", "layer", "head", "query", "key", "kind")
    values = xr.DataArray(
        np.ones((6, 2, 40, 3, 2, len(keys), 2)), dims=dims,
        coords={"task": [f"maze {i}" for i in range(6)], "family": ("task", ["maze"] * 6), "layer": range(40),
                "depth": ("layer", np.arange(40) / 40), "query": ["all", "rest"], "key": keys,
                "kind": ["region", "null"]},
    )  # fmt: skip
    values.loc[{"key": "foreground", "kind": "region", "layer": slice(0, 8)}] = early
    values.loc[{"key": "foreground", "kind": "region", "layer": slice(9, 39)}] = later
    values.loc[{"key": "named", "kind": "region", "layer": slice(9, 39)}] = named
    wobble = 2.0 ** (spread * np.random.default_rng(0).standard_normal((6, 2)))
    return (values * xr.DataArray(wobble, dims=("task", "kind"))).to_dataset(name="enrichment")


def noise_map(peak_at: float, n: int = 12, noise_level: float = 0.02, early: float = 0.8) -> xr.Dataset:
    """A map whose unit noise does most harm at ``peak_at`` of 20 steps, and whose other kinds do none."""
    rng = np.random.default_rng(0)
    step, later = np.arange(0, 20, 2), np.arange(21)
    harm = np.exp(-(((step / 20 - peak_at) / 0.15) ** 2))
    far = np.zeros((n, 5, len(step), 21, 1, 2))
    far[:, 0] = harm[:, None, None, None] * (later >= step[:, None])[..., None, None]
    far[:, 0, step <= 4] = (later <= 12)[:, None, None] * early  # lasts, and recovers in the closing phase
    lost = np.zeros((n, 5, len(step)))
    lost[:, 0] = harm
    lost += noise_level * rng.normal(size=lost.shape)
    far += noise_level * rng.normal(size=far.shape)
    return xr.Dataset(
        {
            "score": (("task", "kind", "step"), 1 - lost),
            "clean_score": ("task", np.ones(n)),
            "dissimilarity": (("task", "kind", "step", "other_step", "hook", "metric"), far),
        },
        coords={
            "kind": list(KINDS),
            "step": step,
            "other_step": later,
            "hook": ["latents"],
            "metric": ["biased", "debiased"],
        },
        attrs={"n_steps": 20},
    )


def evidence(levels: dict[str, list[float]], seed: int, n: int = 8, n_layers: int = 12) -> xr.Dataset:
    """(task, expert, layer) with the given level in each third of the layers."""
    rng = np.random.default_rng(seed)
    data = {}
    for name in EVIDENCE:
        level = np.repeat(levels.get(name, [0, 0, 0]), n_layers // 3)
        values = level + 0.1 * rng.normal(size=(n, 1, n_layers)) + 0.1 * rng.normal(size=(1, 1, n_layers))
        data[name] = (("task", "expert", "layer"), values)
    return xr.Dataset(data, coords={"expert": ["high"], "layer": range(n_layers)})


def every_row(experiment: str, measured: Mapping[str, Any]) -> list[Claim]:
    """Every row of an experiment with its verdict on this page, also those that are one number."""
    page = judge({experiment: measured})
    rows = {row.id: row for row in TABLE[experiment]}
    found = {id: rows[id].read(measured) for id in page}
    claims = [rows[id].claim(found[id], one if isinstance(one, Verdict) else None) for id, one in page.items()]
    for claim in claims:
        if rows[claim.id].bounds == SHARE:
            assert not beyond(claim.remark), f"{claim.id}: an interval of a share leaves 0 to 1: {claim.remark}"
    return claims


def beyond(remark: str) -> list[str]:
    """Ends of intervals in a remark on shares that no share, and no difference of two, can have."""
    others = re.sub("summed contrast[^;]*", "", remark)  # of two answers
    return [end for pair in re.findall(r"\[(-?[\d.]+), (-?[\d.]+)\]", others) for end in pair if abs(float(end)) > 1]


def supported(claims: Sequence[Claim]) -> list[bool]:
    """Which of them are."""
    return [claim.verdict == "supported" for claim in claims]
