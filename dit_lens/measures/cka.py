"""How alike two states are: linear-kernel CKA, as it is written and debiased.

X (n, p) and Y (n, q) hold the same n samples in two states; here a sample is a token (one place of the latent grid) and
a feature a channel. With the columns centred, linear CKA (Kornblith et al. 2019, eq. 4 and section 3) is::

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) = ||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F),    K = XX', L = YY'

1 for states equal up to rotation, shift and isotropic scale; never below 0. That HSIC is biased: CKA of *independent*
X and Y is not 0 but about sqrt(p q) / n, so with many channels and few tokens everything looks alike. The unbiased
HSIC_1 (Song et al. 2012, eq. 5; used so by Nguyen et al. 2021), with K~, L~ the Gram matrices with zero diagonal::

    HSIC_1(K, L) = [ tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1 ] / (n (n-3))

gives the debiased CKA, whose mean is about 0 for independent samples (single values may be below 0). All terms are
computed in float64, from p x q products where tokens outnumber channels, so that a long video needs no n x n matrix.
Dissimilarity is 1 - CKA (paper, Fig. 3c).

When not to use: over unlike times. Of two changes, compare states equally many steps later
(:func:`dit_lens.experiments.sensitivity`): what has had longer to recover differs less. As a measure of damage: two
seeds of one task, both solved, differ by as much as a state and noise do, since at high noise a latent *is* its noise.
And neighbouring tokens are not independent samples, so even debiased CKA of two unrelated videos is above 0: show it
beside that of an unrelated run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange

from dit_lens.address import Address, Branch
from dit_lens.errors import MeasureError
from dit_lens.wan.run import Run

ESTIMATORS = ("biased", "debiased")


def linear_cka(x: Any, y: Any) -> float:
    """Linear-kernel CKA of two states of the same samples.

    Args:
        x: (n, p).
        y: (n, q).

    Returns:
        0 to 1.

    Raises:
        MeasureError: Other shapes, fewer than two samples, or features that are all constant.
    """
    x, y = _pair(x, y, 2)
    return float(_trace(x, y) / np.sqrt(_trace(x, x) * _trace(y, y)))


def debiased_cka(x: Any, y: Any) -> float:
    """CKA from the unbiased HSIC_1 of two states of the same samples.

    Args:
        x: (n, p).
        y: (n, q).

    Returns:
        At most 1, and about 0 in the mean for independent samples.

    Raises:
        MeasureError: Other shapes, fewer than four samples, or features that are all constant.
    """
    x, y = _pair(x, y, 4)
    own_x, own_y = _hsic1(x, x), _hsic1(y, y)
    # Equidistant samples: HSIC_1 is what rounding leaves of tr(KK), which is at most 1 here.
    if min(own_x * len(x) ** 2, own_y * len(y) ** 2) <= 1e-13:
        raise MeasureError(
            "all samples of a state are equally far from each other, so its debiased CKA is 0 / 0: use more tokens, or "
            "linear_cka"
        )
    return float(_hsic1(x, y) / np.sqrt(own_x * own_y))


def dissimilarity(
    run: Run,
    other: Run,
    of: str | Sequence[str] = ("latents", "x0_hat"),
    steps: Sequence[int] | None = None,
    branch: Branch = "cond",
    layer: int | None = None,
) -> xr.DataArray:
    """1 - CKA of two runs' states, step by step.

    Samples are tokens: places of the latent grid, 16 channels each, for latents and x0_hat; recorded tokens for a hook.

    Args:
        run: A run.
        other: Another of the same size and schedule.
        of: ``"latents"`` (entering the step), ``"x0_hat"``, or names of recorded hooks.
        steps: The steps that both runs did by default. The step ``plan.n_steps`` stands for the finished latents, and
            holds no hook (NaN).
        branch: Branch of recorded hooks.
        layer: Layer of recorded hooks; needed when several were recorded.

    Returns:
        (step, hook, metric) with the metrics ``biased`` and ``debiased``.

    Raises:
        MeasureError: Runs of other sizes or schedules, unrecorded hooks, or several layers.
    """
    if run.grid != other.grid or not run.plan.same_schedule(other.plan):
        raise MeasureError("two runs are compared step by step: give runs of the same size and the same schedule")
    names = (of,) if isinstance(of, str) else tuple(of)
    done = min(run.n_steps, other.n_steps)
    whole = run.complete and other.complete
    chosen = list(range(done + whole) if steps is None else steps)
    if not chosen or min(chosen) < 0 or max(chosen) >= done + whole:
        raise MeasureError(f"steps={chosen}: these runs can be compared at steps 0 to {done + whole - 1}")
    values = np.full((len(chosen), len(names), 2), np.nan)
    for i, step in enumerate(chosen):
        for j, name in enumerate(names):
            if step == run.plan.n_steps and name not in ("latents", "x0_hat"):
                continue
            x, y = (_state(r, name, step, branch, layer) for r in (run, other))
            same = x.shape == y.shape and np.array_equal(x, y)
            values[i, j] = (0.0, 0.0) if same else (1 - linear_cka(x, y), 1 - debiased_cka(x, y))
    return xr.DataArray(
        values,
        dims=("step", "hook", "metric"),
        coords={
            "step": chosen,
            "hook": list(names),
            "metric": list(ESTIMATORS),
            "sigma": ("step", [run.sigmas[s] for s in chosen]),
        },
        name="dissimilarity",
        attrs={"long_name": "1 - linear CKA", "units": "0 = same up to rotation and scale"},
    )


def _state(run: Run, name: str, step: int, branch: Branch, layer: int | None) -> np.ndarray:
    """The tokens of a state, (n, channels)."""
    if name == "latents" or (name == "x0_hat" and step == run.plan.n_steps):
        return rearrange(run.latents[step].float().numpy(), "c f h w -> (f h w) c")
    if name == "x0_hat":
        return rearrange(run.x0_hat(step).float().numpy(), "c f h w -> (f h w) c")
    layers = sorted({a.layer for a in run.activations if a.hook == name})
    if not layers:
        raise MeasureError(
            f"{name!r} is neither 'latents', 'x0_hat' nor a recorded hook: pass record=dit_lens.record({name!r}, ...) "
            "to lens.generate"
        )
    if layer is None and len(layers) > 1:
        raise MeasureError(f"{name!r} was recorded at layers {layers}: say which with layer=")
    place = Address(step, branch, layers[0] if layer is None else layer, name)
    if place not in run.activations:
        raise MeasureError(f"nothing was recorded at {place}: record it in both runs, or choose other steps")
    return run.activations[place].float().numpy().reshape(len(run.activations[place]), -1)


def _pair(x: Any, y: Any, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Two checked states in float64, columns centred, scaled to unit norm (which CKA does not see)."""
    found = []
    for state in (x, y):
        a = np.asarray(state, dtype=np.float64)
        if a.ndim != 2 or len(a) < least:
            raise MeasureError(
                f"CKA compares states (samples, features) of at least {least} samples, found shape {a.shape}: flatten "
                "frames, rows and columns into one axis of tokens"
            )
        if not np.isfinite(a).all():
            raise MeasureError("a state holds NaN or infinity: record it at the steps and layers that are compared")
        centred = a - a.mean(0)
        norm = np.linalg.norm(centred)
        # Rounding of a constant column leaves about 1e-16 of its size.
        if norm <= 1e-12 * max(1.0, float(np.linalg.norm(a))):
            raise MeasureError("all samples of a state are equal, so its CKA is 0 / 0: choose other tokens")
        found.append(centred / norm)
    if len(found[0]) != len(found[1]):
        raise MeasureError(f"the states hold {len(found[0])} and {len(found[1])} samples: give the same tokens of both")
    return found[0], found[1]


def _trace(x: np.ndarray, y: np.ndarray) -> float:
    """tr(KL) = ||X'Y||_F^2, by the smaller of the two products."""
    if len(x) < min(x.shape[1], y.shape[1]):
        return float(((x @ x.T) * (y @ y.T)).sum())
    return float(((x.T @ y) ** 2).sum())


def _hsic1(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 of the linear kernels of centred x and y; K~ = XX' - diag(k)."""
    n = len(x)
    k, m = (x * x).sum(1), (y * y).sum(1)  # diagonals of K and L, (n,)
    row_k, row_m = x @ x.sum(0) - k, y @ y.sum(0) - m  # K~1, L~1, (n,)
    total = row_k.sum() * row_m.sum() / ((n - 1) * (n - 2))
    return float((_trace(x, y) - k @ m + total - 2 / (n - 2) * (row_k @ row_m)) / (n * (n - 3)))
