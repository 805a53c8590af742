"""Models that learned nothing, of the same build: what depth does by itself.

Two kinds in turn. *Shuffled*: the entries of every weight tensor permuted, so that norms are those of training.
*Re-initialised*: weights as the architecture draws them before any training. One control is one draw; a band needs
several. Each needs the memory of the experts once more, so that only one is open at a time.

When not to use: as a null of one hypothesis about a trained model; an untrained one differs in everything at once.
"""

from __future__ import annotations

from dit_lens.wan.lens import Lens
from dit_lens.wan.shuffled_weights import reinitialised, shuffled_weights

KINDS = ("shuffled", "re-initialised")


def control_kind(index: int) -> str:
    """The kind of a control, by its number."""
    return KINDS[index % len(KINDS)]


def control_model(lens: Lens, index: int, seed: int = 0) -> Lens:
    """A control by its number: shuffled weights for even ones, re-initialised for odd ones.

    Args:
        lens: The model, which is left as it is.
        index: Which control.
        seed: The first seed; the second control of a kind has the next one.

    Returns:
        A lens of its own, to be closed.
    """
    make = shuffled_weights if index % 2 == 0 else reinitialised
    return make(lens, seed + index // 2)


class OpenControl:
    """The control that is open; asking for another closes it.

    Args:
        lens: The model.
        seed: The first seed of the controls.
    """

    def __init__(self, lens: Lens, seed: int) -> None:
        self._lens, self._seed = lens, seed
        self._open: tuple[int, Lens] | None = None

    def __call__(self, index: int) -> Lens:
        """The control of this number."""
        if self._open is None or self._open[0] != index:
            self.close()
            self._open = index, control_model(self._lens, index, self._seed)
        return self._open[1]

    def close(self) -> None:
        """Close the one that is open, and free its memory."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def __enter__(self) -> OpenControl:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
