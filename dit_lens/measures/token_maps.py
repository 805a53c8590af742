"""PCA maps and channel variance of a layer's tokens (the pictures of the paper's tools), from stored reductions.

**PCA maps.** Tokens h of a layer, mean m and leading principal directions V (d, k): the map is (h - m) V, k numbers a
token, shown as red, green and blue after scaling each to [0, 1]. Two ways to record::

    run = lens.generate(task, record=dl.record("resid_post", layers=5, branches="cond"))       # raw: any size of fit
    pca = fit_components([run], layer=5)
    dl.record("resid_post", layers=5, reduce=pca.reducer, name="pca")                           # k numbers a token

**Channel variance.** For a region R and each channel c, Var_R(c) over the tokens of R. What is compared is the total
over channels (the trace of the covariance), within one layer and step, as log2 ( Var in R / Var in the rest ).
``ChannelMoments`` keeps means and variances inside the hook, so that no token is stored.

When not to use: PCA directions of one layer, step or video mean nothing in another, and signs and colours are
arbitrary: compare shapes, never hues, unless one ``Components`` made both. A region of unlike things (agent and goal)
has a high variance at every layer because it is a mixture; read the change over layers beside the random mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens.address import Branch
from dit_lens.errors import MeasureError, RecordError
from dit_lens.wan.reduce import Masks, Project, chosen_regions
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

# -- channel variance

_ROWS = ("in mean", "in variance", "rest mean", "rest variance")


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and variance of each channel over the tokens of each region, and over the rest: a reducer, (B, 4 R, d).

    Args:
        names: Regions; when the reducer is used, :class:`RecordError` refuses one that the video does not have, one
            without tokens, and one without a rest. By default all that the video has, with NaN for the last two.
    """

    names: tuple[str, ...] | None = None
    tokens: bool = field(default=True, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """Reduce an activation (B, N, d) to (B, 4 R, d)."""
        shape, x = x.shape[2:], x.float().flatten(2)  # (B, N, .)
        centre = x.mean(1, keepdim=True)
        x = x - centre  # or E[x^2] - E[x]^2 would cancel where a channel is large everywhere
        rows = []
        for name in self._names(masks):
            for chosen in (masks[name], ~masks[name]):
                share = chosen.float() / chosen.sum(-1, keepdim=True)  # 0/0 = NaN: nothing there
                weight = share.to(x.device)[:, None]  # (B, 1, N)
                mean = torch.bmm(weight, x)  # (B, 1, .)
                rows += [mean + centre, (torch.bmm(weight, x.square()) - mean.square()).clamp_min(0)]
        return torch.cat(rows, dim=1).unflatten(2, shape)

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """Names and sizes of the axes of the reduced activation."""
        return {"moment": tuple(f"{name}: {row}" for name in self._names(masks) for row in _ROWS), "channel": None}

    def _names(self, masks: Masks) -> tuple[str, ...]:
        chosen = chosen_regions("ChannelMoments", self.names, masks)
        bad = [n for n in chosen if not bool(masks[n].any(-1).all()) or bool(masks[n].all(-1).any())]
        if bad and self.names is not None:
            raise RecordError(
                f"ChannelMoments: regions {bad} hold no token of this video, or every one, so there is nothing to "
                "compare: leave them out of names="
            )
        return chosen


def channel_variance(run: Run, name: str = "moments") -> xr.DataArray:
    """Variance of each channel over the tokens of each region.

    Args:
        run: Recorded with ``dl.record("resid_post", reduce=ChannelMoments(), name="moments")``.
        name: Name of the recording.

    Returns:
        (step, branch, layer, region, part, channel); ``part`` is ``"in"`` the region, or the ``"rest"``.

    Raises:
        RecordError: There is no such recording.
    """
    moments = run.array(name)
    if "moment" not in moments.dims:
        raise RecordError(
            f"{name!r} holds no channel moments: use dit_lens.record('resid_post', reduce=ChannelMoments(), "
            f"name={name!r})"
        )
    labels = [str(label).rsplit(": ", 1) for label in moments["moment"].values]
    regions = list(dict.fromkeys(region for region, _ in labels))
    axis = moments.dims.index("moment")
    values = moments.values.reshape(*moments.shape[:axis], len(regions), 2, 2, *moments.shape[axis + 1 :])
    values = np.take(values, 1, axis=axis + 2)  # of (mean, variance)
    kept = {k: v for k, v in moments.coords.items() if k != "moment"}
    return xr.DataArray(
        values,
        dims=(*moments.dims[:axis], "region", "part", *moments.dims[axis + 1 :]),
        coords={**kept, "region": regions, "part": ["in", "rest"]},
        name="variance",
        attrs={"long_name": "channel variance over tokens", "units": "squared activation"},
    )


def variance_ratio(run: Run, name: str = "moments") -> xr.DataArray:
    """log2 of total channel variance in each region over that in the rest.

    Record the same region at random places (``shuffled_mask``) as another region: that is the null.

    Args:
        run: As of :func:`channel_variance`.
        name: Name of the recording.

    Returns:
        (step, branch, layer, region), in log2.
    """
    variance = channel_variance(run, name).sum("channel", skipna=False)
    ratio = variance.sel(part="in", drop=True) / variance.sel(part="rest", drop=True)
    ratio = ratio.where((ratio > 0) & np.isfinite(ratio))  # one token has no variance, and so no ratio
    ratio = ratio.copy(data=np.log2(ratio.values)).rename("variance")
    return ratio.assign_attrs(long_name="channel variance, region / rest", units="log2 ratio")


def top_channels(variance: xr.DataArray, k: int = 20) -> xr.DataArray:
    """The channels of highest variance (the ranking of the paper's tools).

    Args:
        variance: Any dims with ``channel``.
        k: How many.

    Returns:
        The same with ``rank``, highest first, in place of ``channel``.

    Raises:
        MeasureError: An array without channels, or with fewer than ``k``.
    """
    if "channel" not in variance.dims or not 0 < k <= variance.sizes["channel"]:
        raise MeasureError(
            f"k={k} channels cannot be chosen from {dict(variance.sizes)}: give an array with a channel axis and a "
            "smaller k"
        )
    last = variance.transpose(..., "channel")
    order = np.argsort(-last.values, axis=-1, kind="stable")[..., :k]
    found = last.isel(channel=slice(k)).rename(channel="rank").drop_vars("channel", errors="ignore")
    return (
        found.copy(data=order).rename("channel").assign_attrs(long_name="channels of highest variance", units="index")
    )


# -- PCA maps


@dataclass(frozen=True, eq=False)
class Components:
    """Principal directions of a layer's tokens: ``basis`` (d, k), ``mean`` (d,), ``explained`` shares of variance."""

    hook: str
    layer: int
    basis: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    explained: tuple[float, ...] = ()

    @property
    def reducer(self) -> Project:
        """The reducer for ``dl.record(..., reduce=...)`` that keeps k numbers a token."""
        return Project(self.basis, self.mean)


def fit_components(
    runs: Sequence[Run], layer: int, hook: str = "resid_post", k: int = 3, branch: Branch = "cond"
) -> Components:
    """PCA of one layer's raw tokens, pooled over the runs and all their recorded steps.

    Args:
        runs: Runs that recorded ``hook`` without a reduction.
        layer: The layer.
        hook: The hook.
        k: Number of components.
        branch: The branch.

    Returns:
        The components.

    Raises:
        MeasureError: ``hook`` was not recorded raw, or there are fewer tokens than components.
    """
    tokens = []
    for run in runs:
        array = run.array(hook, branch)
        if array.dims[-2:] != ("token", "channel"):
            raise MeasureError(
                f"{hook!r} was not recorded raw, so there are no channels to fit: "
                f"dit_lens.record({hook!r}, layers={layer}, branches={branch!r})"
            )
        if "layer" in array.dims:
            if layer not in array["layer"]:
                raise MeasureError(f"layer {layer} of {hook!r} was not recorded, only {array['layer'].values.tolist()}")
            array = array.sel(layer=layer)
        flat = array.values.reshape(-1, array.shape[-1])
        tokens.append(flat[np.isfinite(flat).all(-1)])
    stacked = np.concatenate(tokens) if tokens else np.zeros((0, 0))
    if not 0 < k <= min(stacked.shape):
        raise MeasureError(f"k={k} components of {stacked.shape} tokens x channels: give more tokens, or a smaller k")
    from sklearn.decomposition import PCA  # takes half a second, and only this needs it

    pca = PCA(k, svd_solver="full").fit(stacked.astype(np.float64))
    return Components(
        hook,
        layer,
        pca.components_.T.astype(np.float32),
        pca.mean_.astype(np.float32),
        tuple(float(e) for e in pca.explained_variance_ratio_),
    )


def pca_map(run: Run, name: str = "resid_post", components: Components | None = None) -> xr.DataArray:
    """Coordinates of every token on principal directions.

    Args:
        run: The run.
        name: A recording made with ``reduce=components.reducer``; or a raw one of the layer that ``components`` was
            fitted on, which is projected here.
        components: Needed for a raw recording.

    Returns:
        (step, branch, layer, frame, row, col, component).

    Raises:
        MeasureError: The recording is neither, or the layer is missing.
    """
    array, grid = run.array(name), run.grid
    if components is not None and array.dims[-2:] == ("token", "channel"):
        if "layer" in array.dims:
            if components.layer not in array["layer"]:
                raise MeasureError(f"layer {components.layer} of {name!r} was not recorded: record it, or fit another")
            array = array.sel(layer=[components.layer])
        basis, mean = components.basis.astype(np.float64), components.mean.astype(np.float64)
        values = (array.values.astype(np.float64) - mean) @ basis
    elif components is None and array.dims[-2:] == ("token", "component"):
        values = array.values
    else:
        raise MeasureError(
            f"{name!r} has axes {list(array.dims)}: record it with reduce=fit_components(...).reducer and leave "
            "components out, or record it raw and give components=fit_components(...)"
        )
    values = values.reshape(*values.shape[:-2], grid.frames, grid.rows, grid.cols, values.shape[-1])
    return xr.DataArray(
        values.astype(np.float32),
        dims=(*array.dims[:-2], "frame", "row", "col", "component"),
        coords={k: v for k, v in array.coords.items() if k not in ("token", "channel", "component")},
        name="pca",
        attrs={"long_name": "principal components of tokens", "units": "activation"},
    )


def rgb(maps: xr.DataArray) -> xr.DataArray:
    """A map of three components as colours: each component scaled from its least to its largest value in one video.

    Args:
        maps: From :func:`pca_map`, with k = 3.

    Returns:
        The same dims, in [0, 1].

    Raises:
        MeasureError: There are not exactly three components.
    """
    if maps.dims[-1] != "component" or maps.sizes["component"] != 3:
        raise MeasureError(
            f"colours need exactly three components, found {dict(maps.sizes)}: use fit_components(..., k=3)"
        )
    space = ["frame", "row", "col"]
    low, high = maps.min(space), maps.max(space)
    scaled = (maps - low) / (high - low).where(high > low, 1)  # a constant component is black
    return (
        scaled.transpose(*maps.dims).rename("rgb").assign_attrs(long_name="principal components as colours", units="")
    )
