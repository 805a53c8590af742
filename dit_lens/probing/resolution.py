"""Channels that vary by no more than float32 rounding, which a scaler would blow up to the size of all others.

A stream of root mean square r is rounded to about eps r, eps = 2^-23. A channel whose whole range is below a few of
that holds what rounding left (a gate that is closed to one part in 1e8, a sum that cancels), and no layer that reads
the stream through its norm can tell it from a constant. Scaled to unit variance it can still be decoded perfectly, and
would count as a finding.

When not to use: for half-precision models, whose rounding is far above this limit, so that nothing is removed.
"""

from __future__ import annotations

import numpy as np

LIMIT = 4 * float(np.finfo(np.float32).eps)


def resolved(x: np.ndarray) -> np.ndarray:
    """Set channels whose range is rounding to their mean.

    Args:
        x: Activations (..., d), as they were recorded: not centred, not scaled.

    Returns:
        The same array where every channel is constant or varies by more than rounding, else a copy.
    """
    flat = x.reshape(-1, x.shape[-1])  # (rows, d)
    if not len(flat) or not np.issubdtype(flat.dtype, np.floating):
        return x
    spread = flat.max(0) - flat.min(0)  # NaN where a row is NaN, which counts as resolved
    size = np.sqrt(np.einsum("nd,nd->", flat, flat, dtype=np.float64) / flat.size)
    quiet = (spread > 0) & (spread <= LIMIT * size)
    if not quiet.any():
        return x
    found = np.array(x)
    found[..., quiet] = flat[:, quiet].mean(0)
    return found
