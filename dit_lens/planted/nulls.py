"""Networks without a mechanism: random ones, and planted ones with their weights shuffled.

What makes them nulls is also what they are asked: tasks whose label and regions are drawn by themselves
(``tasks(n, linked=False)``), so that no network can know them. Whatever a method finds there is false.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

from dit_lens.errors import MeasureError
from dit_lens.planted.mechanism import COMPONENTS
from dit_lens.planted.planting import Planted, plant
from dit_lens.planted.specs import BranchPlant, LayerPlant, Spec
from dit_lens.planted.whole_specs import Nothing, NothingGuided
from dit_lens.wan.shuffled_weights import shuffled_weights

Kind = Literal["random", "shuffled"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SIZE: dict[str, Any] = {"n_layers": 3, "n_steps": 1, "rest": 1.0}


@contextmanager
def null_model(kind: Kind, seed: int, guided: bool = False) -> Iterator[Planted]:
    """A network without a mechanism; closed at the end of the block.

    Args:
        kind: "random", every component random; "shuffled", a planted network in a rest of strength 1 with the entries
            of each weight tensor shuffled.
        seed: Which one.
        guided: Whether it is sampled with guidance, so that it has two branches.

    Raises:
        MeasureError: For an unknown kind.
    """
    if kind not in KINDS:
        raise MeasureError(f"unknown null {kind!r}: choose from {list(KINDS)}")
    if kind == "random":
        with plant((NothingGuided if guided else Nothing)(**_SIZE), seed) as made:
            yield made
        return
    spec: Spec = LayerPlant(layer=1, component=COMPONENTS[seed % 3], **_SIZE)
    if guided:
        spec = BranchPlant(branch="cond" if seed % 2 else "uncond", layer=1, **_SIZE)
    with plant(spec, seed) as made, shuffled_weights(made.lens, seed) as lens:
        yield replace(made, lens=lens)
