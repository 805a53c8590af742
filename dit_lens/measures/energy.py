"""Layer energy by region (paper, layer-wise token activation): where on the picture a layer's tokens are large.

e(l, s, token) = ||h||_2 over channels. Raw norms grow with depth, so what is compared is the ratio
mean over the region / mean over the rest *within* one layer and step, as its logarithm: 0 means no preference.

When not to use: as evidence of what a layer computes. A large token is not an important one; that is what patches ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens.errors import RecordError
from dit_lens.wan.run import Run


def region_energy(run: Run, regions: Sequence[str], hook: str = "resid_post", seed: int = 0) -> xr.DataArray:
    """log2 of the energy ratio of each region to the rest, (step, branch, layer, region), and a random-mask null.

    ``run`` was recorded with ``dl.record(hook, reduce="token_norm")``. The coordinate ``null`` of the extra axis
    ``kind`` (``"region"``, ``"null"``) holds the same ratio for the region's tokens shuffled within each frame, so that
    it keeps its size in every frame. Regions without tokens, or without a rest, give NaN.
    """
    energy = run.array(hook)
    if energy.dims[-1] != "token":
        raise RecordError(f"{hook!r} was not recorded with reduce='token_norm' in this run")
    rng = np.random.default_rng(seed)
    grid = run.grid
    rows = []
    for name in regions:
        mask = run.regions.get(name, np.zeros(grid.n_tokens, bool))
        shuffled = np.concatenate([rng.permutation(frame) for frame in mask.reshape(grid.frames, -1)])
        rows.append([_ratio(energy.values, m) for m in (mask, shuffled)])
    stacked = np.stack([np.stack(pair, -1) for pair in rows], -2)  # (step, branch, layer, region, kind)
    coords = {k: energy.coords[k] for k in ("step", "branch", "layer", "sigma")}
    return xr.DataArray(
        stacked,
        dims=("step", "branch", "layer", "region", "kind"),
        coords={**coords, "region": list(regions), "kind": ["region", "null"]},
        name="energy",
        attrs={"long_name": "token energy, region / rest", "units": "log2 ratio"},
    )


def _ratio(energy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not mask.any() or mask.all():
        return np.full(energy.shape[:-1], np.nan)
    return np.log2(energy[..., mask].mean(-1) / energy[..., ~mask].mean(-1))
