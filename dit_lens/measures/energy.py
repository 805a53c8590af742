"""Layer energy (paper, layer-wise token activation): where on the picture a layer's tokens are large.

e(l, s, f, row, col) = ||h||_2 over channels, of the token at (f, row, col) after layer l at step s. Raw norms grow with
depth, so what is compared is the ratio *within* one layer and step, as its logarithm::

    ratio(l, s) = log2 ( mean of e over the foreground / mean of e over the rest )

0 means no preference, 1 that a foreground token is twice as large, a negative number that the background is larger. The
null is the same ratio for a mask of the same size in every frame at random places (``shuffled_mask``).

When not to use: as evidence of what a layer computes. A large token is not an important one; that is what patches ask.
The norm is also dominated by a few channels wherever a model has massive activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError, RecordError
from dit_lens.measures.token_masks import proper, shuffled_mask
from dit_lens.wan.run import Run

KINDS = ["region", "null"]


def region_energy(run: Run, regions: Sequence[str], hook: str = "resid_post", seed: int = 0) -> xr.DataArray:
    """log2 of the energy ratio of each region to the rest, beside a random-mask null.

    Args:
        run: Recorded with ``dl.record(hook, reduce="token_norm")``.
        regions: Names of regions.
        hook: The recorded hook.
        seed: Seed of the random masks.

    Returns:
        (step, branch, layer, region, kind), in log2. ``kind`` is ``"region"``, or ``"null"``: the same ratio for the
        region's tokens shuffled within each frame, which keeps its size in every frame.

    Raises:
        RecordError: ``hook`` was not recorded with ``token_norm``.
        MeasureError: Regions that this video does not have, that are empty, or that are everything.
    """
    energy = _recorded(run, hook)
    unknown = [name for name in regions if name not in run.regions]
    if unknown or not regions:
        raise MeasureError(
            f"regions {unknown or 'are missing'}: this run has {sorted(run.regions)}; choose some of these, or pass "
            "generate(regions={'name': mask})"
        )
    rng = np.random.default_rng(seed)
    rows = []
    for name in regions:
        mask = proper(run.regions[name], f"the region {name!r}")
        rows.append([_ratio(energy.values, m) for m in (mask, shuffled_mask(mask, run.grid, rng))])
    stacked = np.stack([np.stack(pair, -1) for pair in rows], -2)  # (step, branch, layer, region, kind)
    return _labelled(stacked, energy, {"region": list(regions), "kind": KINDS}, "region / rest")


def energy_ratio(run: Run, mask: np.ndarray, hook: str = "resid_post", draws: int = 20, seed: int = 0) -> xr.DataArray:
    """log2 of the foreground's energy over the rest's, beside a random-mask null.

    Args:
        run: Recorded with ``dl.record(hook, reduce="token_norm")``.
        mask: bool (n_tokens,), from :mod:`dit_lens.measures.token_masks`.
        hook: The recorded hook.
        draws: Shuffled masks.
        seed: Seed of the shuffled masks.

    Returns:
        (step, branch, layer, kind), in log2. ``kind`` is ``"region"``, or ``"null"``: the mean of ``draws`` shuffled
        masks. Points outside the blocks (``patch_embed``) have no ``layer`` axis.

    Raises:
        RecordError: ``hook`` was not recorded with ``token_norm``.
        MeasureError: A mask that does not fit, is empty, or is everything.
    """
    energy = _recorded(run, hook)
    mask = np.asarray(mask)
    if mask.shape != (run.grid.n_tokens,) or mask.dtype != bool or draws < 1:
        raise MeasureError(
            f"a {mask.dtype} mask of shape {mask.shape} with draws={draws} does not fit: give bool "
            f"({run.grid.n_tokens},), as measures.given_mask(run, mask) makes it, and draws of at least 1"
        )
    rng = np.random.default_rng(seed)
    found = _ratio(energy.values, proper(mask, "the mask"))
    null = np.mean([_ratio(energy.values, shuffled_mask(mask, run.grid, rng)) for _ in range(draws)], axis=0)
    return _labelled(np.stack([found, null], -1), energy, {"kind": KINDS}, "foreground / rest")


def layer_energy(run: Run, hook: str = "resid_post", normalise: bool = False) -> xr.DataArray:
    """Mean token norm by layer, step and frame.

    Args:
        run: Recorded with ``dl.record(hook, reduce="token_norm")``.
        hook: The recorded hook.
        normalise: Divide by the mean over all tokens of the same layer and step, so that layers can be compared.

    Returns:
        (step, branch, layer, frame).

    Raises:
        RecordError: ``hook`` was not recorded with ``token_norm``.
    """
    energy = energy_map(run, hook, normalise).mean(["row", "col"])
    units = "of the layer's mean" if normalise else "L2 norm"
    return energy.assign_attrs(long_name="token energy", units=units)


def energy_map(run: Run, hook: str = "resid_post", normalise: bool = False) -> xr.DataArray:
    """Token norms as pictures.

    Args:
        run: Recorded with ``dl.record(hook, reduce="token_norm")``.
        hook: The recorded hook.
        normalise: As in :func:`layer_energy`.

    Returns:
        (step, branch, layer, frame, row, col).

    Raises:
        RecordError: ``hook`` was not recorded with ``token_norm``.
    """
    energy, grid = _recorded(run, hook), run.grid
    values = energy.values.reshape(*energy.shape[:-1], grid.frames, grid.rows, grid.cols)
    if normalise:
        values = values / values.mean((-3, -2, -1), keepdims=True)
    return xr.DataArray(
        values,
        dims=(*energy.dims[:-1], "frame", "row", "col"),
        coords=energy.coords,
        name="energy",
        attrs={"long_name": "token energy", "units": "of the layer's mean" if normalise else "L2 norm"},
    )


def profile_stability(ratio: xr.DataArray, pairs: Literal["all", "within", "across"] = "all") -> xr.DataArray:
    """How alike the layer profiles of different steps are: mean Pearson correlation over pairs of steps.

    Args:
        ratio: Dims ``step`` and ``layer`` and any others, which are kept.
        pairs: All pairs of steps, or only those within one expert, or only those across experts (needs the coordinate
            ``expert`` on ``step``).

    Returns:
        The other dims. 1 means that every step has the same profile up to scale and offset; NaN where a profile is
        constant.

    Raises:
        MeasureError: Missing axes, fewer than three layers, or no pair of steps.
    """
    if not {"step", "layer"} <= set(ratio.dims) or ratio.sizes["layer"] < 3:
        raise MeasureError(
            f"a layer profile needs the dims step and layer with at least three layers, found {dict(ratio.sizes)}: "
            "record all layers"
        )
    if pairs != "all" and "expert" not in ratio.coords:
        raise MeasureError(f"pairs={pairs!r} needs the coordinate 'expert' on step: add it, or take pairs='all'")
    experts = ratio["expert"].values if "expert" in ratio.coords else [""] * ratio.sizes["step"]
    wanted = [
        (a, b)
        for a, b in combinations(range(ratio.sizes["step"]), 2)
        if pairs == "all" or (experts[a] == experts[b]) == (pairs == "within")
    ]
    if not wanted:
        raise MeasureError(f"there is no pair of steps {pairs!r} among {ratio.sizes['step']}: record more steps")
    profile = ratio.transpose(..., "step", "layer")
    values = profile.values - profile.values.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values / np.linalg.norm(values, axis=-1, keepdims=True)
    r = np.mean([(values[..., a, :] * values[..., b, :]).sum(-1) for a, b in wanted], axis=0)
    return profile.isel(step=0, layer=0, drop=True).copy(data=r).rename("stability")


def _recorded(run: Run, hook: str) -> xr.DataArray:
    energy = run.array(hook)
    if energy.dims[-1] != "token" or energy.sizes["token"] != run.grid.n_tokens:
        raise RecordError(
            f"{hook!r} was not recorded with reduce='token_norm' in this run: record video tokens with "
            f"dit_lens.record({hook!r}, reduce='token_norm')"
        )
    return energy


def _labelled(values: np.ndarray, energy: xr.DataArray, more: dict[str, list[str]], what: str) -> xr.DataArray:
    kept = {k: v for k, v in energy.coords.items() if k != "token"}
    return xr.DataArray(
        values,
        dims=(*energy.dims[:-1], *more),
        coords={**kept, **more},
        name="energy",
        attrs={"long_name": f"token energy, {what}", "units": "log2 ratio"},
    )


def _ratio(energy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.log2(energy[..., mask].mean(-1) / energy[..., ~mask].mean(-1))
