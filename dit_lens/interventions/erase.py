"""Erasing: remove a concept from an activation by an affine map, x <- x - P (x - mean).

P (d, d) is what is removed; an eraser of :mod:`dit_lens.probing.concept_erasure` holds it as two thin factors. For one
direction u, P = u u^T is what :func:`dit_lens.steer` does with ``remove=True``, but about a mean, so that activations
keep their usual level along u.

When not to use: with one eraser over many steps or layers. Means and directions differ between places, and a wrong mean
adds an error of its own: fit an eraser for each place, and give one ``erase`` each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dit_lens.address import Address, Places, Select
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, described, select
from dit_lens.wan.editing import Context


@dataclass(frozen=True, eq=False)
class Erase:
    """x <- x - left right (x - mean) where ``where`` selects; ``right`` None stands for one. Compared by content."""

    where: Select
    left: Tensor = field(repr=False)  # (d, k)
    right: Tensor | None = field(repr=False)  # (k, d)
    mean: Tensor = field(repr=False)  # (d,)

    def bind(self, context: Context) -> ActivationEdit:
        """Prepare the edit for one generation."""
        return _EraseEdit(self, context)

    def _key(self) -> tuple[Any, ...]:
        right = None if self.right is None else self.right.numpy().tobytes()
        return self.where, self.left.shape, self.left.numpy().tobytes(), right, self.mean.numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Erase) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        rank = f"{self.left.shape[1]} directions" if self.right is not None else "a matrix"
        return f"erase({rank} from {', '.join(self.where.hooks)}, {described(self.where)})"


def erase(
    eraser: Any,
    mean: Any = None,
    *,
    steps: Any = None,
    layers: Any = None,
    **places: Unpack[Places],
) -> Erase:
    """Specify an erasure: ``erase(leace(x, labels), step=3, layer=6)``.

    Args:
        eraser: An object with ``left`` (d, k), ``right`` (k, d) and ``mean`` (d,), or a matrix P (d, d). A zero matrix
            changes nothing, bit for bit.
        mean: (d,), for a matrix; zero by default.
        steps: As of :func:`dit_lens.patch`.
        layers: As of :func:`dit_lens.patch`.
        **places: As of :func:`dit_lens.patch`; ``hooks="resid_post"`` by default.

    Returns:
        The intervention.

    Raises:
        InterventionError: Shapes that do not fit together, or values that are not finite.
    """
    left: Any
    right: Any
    if all(hasattr(eraser, name) for name in ("left", "right", "mean")):
        if mean is not None:
            raise InterventionError("this eraser has its own mean: leave mean= out, or give its matrix instead")
        left, right, mean = _tensor(eraser.left), _tensor(eraser.right), _tensor(eraser.mean)
    else:
        left, right = _tensor(eraser), None
        mean = torch.zeros(left.shape[:1]) if mean is None else _tensor(mean)
    d = len(left) if left.ndim else 0
    k = left.shape[1] if left.ndim == 2 else -1
    if left.ndim != 2 or mean.shape != (d,) or (k != d if right is None else right.shape != (k, d)):
        shapes = [None if t is None else tuple(t.shape) for t in (left, right, mean)]
        raise InterventionError(
            f"left, right and mean have shapes {shapes}: give a matrix (d, d) with a mean (d,), or an eraser as "
            "dit_lens.probing.leace(x, z) makes it; for one direction u, numpy.outer(u, u)"
        )
    if not all(bool(torch.isfinite(t).all()) for t in (left, right, mean) if t is not None):
        raise InterventionError("the eraser holds NaN or infinity: fit it on finite activations")
    where = select(Select(hooks=("resid_post",)), steps=steps, layers=layers, **places)
    return Erase(where, left, right, mean)


def _tensor(values: Any) -> Tensor:
    """A copy in fp32, so that later changes of the argument have no effect."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return torch.tensor(array, dtype=torch.float32)


class _EraseEdit(ActivationEdit):
    def __init__(self, spec: Erase, context: Context) -> None:
        super().__init__(str(spec), context, spec.where)
        self.spec = spec

    def value(self, at: Address, x: Tensor) -> Tensor:
        spec = self.spec
        if len(spec.mean) != x.shape[-1]:
            raise InterventionError(
                f"the eraser has {len(spec.mean)} channels and {at.hook} has {x.shape[-1]}: use one that was fitted "
                "at this hook of this model"
            )
        wide = x.float()
        found = wide - spec.mean.to(x.device)
        if spec.right is not None:
            found = found @ spec.right.to(x.device).T
        return (wide - found @ spec.left.to(x.device).T).type_as(x)
