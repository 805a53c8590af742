"""Features of a planted network: orthonormal directions of its residual stream, each with a known meaning.

The stream (d = 48) has three sets of channels, so that a modulation per channel can treat features differently:

    unread   0-23    what the network knows; the output projection has zero weights here, the timestep lives here, too
    read    24-35    what the output projection reads
    gated   36-47    what it reads as well, but only steps whose gate is open can write here

Within its set a direction is random, drawn from the plant's seed, and orthogonal to the vector of ones: the mean that
LayerNorm subtracts is zero, and a normalised stream is the stream times one number per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDTH = 48
UNREAD, READ, GATED = slice(0, 24), slice(24, 36), slice(36, 48)

#: name -> channels. `constant` is the same everywhere; `later` is there in later frames only, and makes all tokens
#: equally long; `red`, `green`, `blue` are the first picture's cell at a token; `word` and `flag` come from the text.
FEATURES: dict[str, slice] = {
    "constant": UNREAD, "later": UNREAD, "red": UNREAD, "green": UNREAD, "blue": UNREAD, "word": UNREAD,
    "flag": UNREAD, "a": UNREAD, "b": UNREAD, "loud": UNREAD, "note": GATED, "answer": READ, "clutter": READ,
    "late": GATED,
}  # fmt: skip
NAMES = tuple(FEATURES)
INDEX = {name: i for i, name in enumerate(NAMES)}
#: Length of the constant feature: what is written (length 1) changes the length of a token by an eighth of a percent.
CONSTANT = 20.0
#: Length of a token that holds its picture and nothing else, squared: constant, and three colours or `later`.
LENGTH_SQUARED = CONSTANT**2 + 3.0


@dataclass(frozen=True, eq=False)
class Directions:
    """``basis`` (features, d): one orthonormal row per feature, in the order of ``NAMES``."""

    basis: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """The direction of a feature, (d,)."""
        return self.basis[INDEX[name]]


def draw(seed: int) -> Directions:
    """Directions of a seed."""
    rng = np.random.default_rng([seed, 48])
    basis = np.zeros((len(NAMES), WIDTH))
    for channels in (UNREAD, READ, GATED):
        mine = [i for i, name in enumerate(NAMES) if FEATURES[name] == channels]
        size = channels.stop - channels.start
        drawn = rng.standard_normal((len(mine), size))
        ones = np.ones((1, size))
        orthogonal = np.linalg.qr(np.concatenate([ones, drawn]).T)[0].T[1 : 1 + len(mine)]
        basis[mine, channels] = orthogonal
    return Directions(basis)
