"""Which tokens are foreground: three sources of a token mask, and the random mask that is its null.

* **Task regions** (``region_mask``): the task's own truth, exact, and only there for tasks that have one.
* **A mask the user gives** (``given_mask``): per pixel or per token, for instance from a segmentation model.
* **First against final frame** (``change_mask``): a place is foreground when the video ends there otherwise than it
  began. Per token (row, col), with pixels p of its patch and RGB in [0, 1]::

      D(row, col) = mean over p and RGB of | final frame - first frame |

  The threshold is Otsu's: the one that splits the values of D into the two groups with the largest variance between
  them, w0 w1 (m1 - m0)^2. ``share=.1`` takes the tenth of the places that changed most instead. Either way a place that
  changed by less than ``least`` is never foreground, so that the noise of a still video does not become an object.

When not to use ``change_mask``: under a moving camera (everything changes), or for things that matter and stay where
they are (a goal, a wall). It comes from the run's own output, so it says what the model did move, never what it should
have moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import rearrange

from dit_lens.errors import MeasureError
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid


def region_mask(run: Run, names: Sequence[str]) -> np.ndarray:
    """Union of those of the named regions that this video has.

    Args:
        run: The run.
        names: Names of regions.

    Returns:
        bool (n_tokens,).

    Raises:
        MeasureError: The video has none of them, or the union is empty or everything.
    """
    found = [run.regions[name] for name in names if name in run.regions]
    if not found:
        raise MeasureError(
            f"this run has none of the regions {list(names)}, only {sorted(run.regions)}: generate from a task, pass "
            "generate(regions={'name': mask}), or take measures.change_mask(run)"
        )
    return proper(np.any(found, axis=0), f"the regions {list(names)}")


def given_mask(run: Run, mask: np.ndarray) -> np.ndarray:
    """A user's mask as tokens.

    Args:
        run: The run.
        mask: bool per token (n_tokens,), per token of the grid (frames, rows, cols), per pixel (pixel frames, H, W), or
            (H, W) for all frames.

    Returns:
        bool (n_tokens,).

    Raises:
        MeasureError: An empty or full mask.
        AddressError: A mask that does not fit the video.
    """
    mask, grid = np.asarray(mask), run.grid
    if mask.shape in ((grid.n_tokens,), (grid.frames, grid.rows, grid.cols)):
        tokens = mask.astype(bool).reshape(-1)
    else:
        tokens = grid.tokens(mask)
    return proper(tokens, "the given mask")


def change_mask(
    run: Run, video: np.ndarray | None = None, share: float | None = None, least: float = 0.02
) -> np.ndarray:
    """Places where the final frame differs from the first, in all frames.

    Args:
        run: The run.
        video: float in [0, 1] (pixel frames, H, W, 3); the run's own by default.
        share: Take this share of the places instead of Otsu's threshold, between 0 and 1.
        least: The smallest change that can count, 0 to 1.

    Returns:
        bool (n_tokens,).

    Raises:
        MeasureError: A one-frame video, one in which nothing or everything changed, NaN, or a bad share.
    """
    grid = run.grid
    frames = np.asarray(run.video if video is None else video, dtype=np.float64)
    if frames.shape != (grid.n_pixel_frames, *grid.size, 3) or len(frames) < 2:
        raise MeasureError(
            f"a video of shape {frames.shape} has no first and final frame to compare on this grid: give float "
            f"{(grid.n_pixel_frames, *grid.size, 3)} with two frames or more"
        )
    if share is not None and not 0 < share < 1:
        raise MeasureError(
            f"share={share} must lie between 0 and 1, for example 0.1; leave it out for Otsu's threshold"
        )
    if not np.isfinite(frames[[0, -1]]).all():
        raise MeasureError("the video holds NaN or infinity, so nothing can be said to have changed: generate it again")
    change = np.abs(frames[-1] - frames[0]).mean(-1)
    change = rearrange(change, "(r a) (c b) -> r c (a b)", a=grid.pixel_rows, b=grid.pixel_cols).mean(-1)
    if change.max() < least:
        raise MeasureError(
            f"nothing changed between the first and the final frame (at most {change.max():.4f}, least={least}): this "
            "video has no foreground of this kind; use region_mask or given_mask, or lower least="
        )
    edge = otsu(change) if share is None else np.quantile(change, 1 - share)
    flat = (change > edge) if share is None else (change >= edge)
    mask = np.broadcast_to(flat & (change >= least), (grid.frames, grid.rows, grid.cols)).reshape(-1)
    return proper(mask, "what changed")


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold: values above it and values up to it are the two groups with most variance between them."""
    ordered = np.sort(np.ravel(values))
    low = np.arange(1, len(ordered))  # size of the lower group
    total = np.cumsum(ordered)
    gap = (total[-1] - total[:-1]) / (len(ordered) - low) - total[:-1] / low
    between = low * (len(ordered) - low) * gap**2
    return float(ordered[int(np.argmax(between))]) if len(low) else float(ordered[0])


def shuffled_mask(mask: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """The mask's tokens put at random places of the same frame: the null that keeps its size in every frame."""
    return np.concatenate([rng.permutation(frame) for frame in mask.reshape(grid.frames, -1)])


def proper(mask: np.ndarray, what: str) -> np.ndarray:
    """The mask; refused when it holds no token or all of them, since there would be nothing to compare."""
    if not mask.any() or mask.all():
        raise MeasureError(
            f"{what} holds {'no' if not mask.any() else 'every'} token of this video, so there is no "
            f"{'foreground' if not mask.any() else 'rest'} to compare: choose other regions, mask or threshold"
        )
    return mask
