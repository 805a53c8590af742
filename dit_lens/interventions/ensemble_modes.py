"""Named ways for K seeds to share hidden states, and two averages as controls (paper, training-free ensemble).

With h_l(i) the stream of member i after block l, and a window of layers L to L'::

    lockstep   h_l(i) <- mean_j h_l(j)                       for l = L, ..., L', one block after the other
    cached     h_l(i) <- mean_j h*_l(j)                      h* from the members left alone
    alpha      h_l(i) <- (1 - alpha) h_l(i) + alpha mean_j h_l(j)
    updates    u_l(i) <- mean_j u_l(j)                       u_l = h_l - h_(l-1)
    velocity   v(i)   <- mean_j v(j)                         no layer: the control that averages what leaves the model
    noise      eps(i) <- sum_j Q_ij eps(j)                   Q orthogonal, Q_0j = 1 / sqrt(K): row 0 is the mean of the
                                                             K noises at unit variance, the others are its contrasts

In two of them only one layer of the window counts, because the members share weights, text and timestep. In *lockstep*
all members are equal after layer L, so the rest of the window has no effect. In *cached* each layer overwrites the one
before, so the result is the mean at layer L' alone. Only ``alpha`` and ``updates`` use the window as a window.

When not to use: members with different prompts or pictures; their mean is the state of neither scene.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from scipy.linalg import helmert
from torch import Tensor

from dit_lens.address import ALL, Address, Call, Places, Select
from dit_lens.checks import number
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, select
from dit_lens.interventions.ensemble import PAPER_WINDOW, Ensemble
from dit_lens.interventions.patch import Patch
from dit_lens.wan.editing import Context, Edit
from dit_lens.wan.run import Run

Mode = Literal["lockstep", "cached", "alpha", "updates", "velocity"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class EnsembleMode:
    """One named mode at ``where``. ``sources``: finished runs to take the cached mean from, instead of the batch."""

    mode: Mode
    where: Select
    alpha: float = 1.0
    rescale: bool = False
    sources: tuple[Run, ...] = field(default=(), repr=False)

    @property
    def together(self) -> bool:
        """Whether the rows of a batch are mixed, so that it cannot be split."""
        return not self.sources

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation, with one remark on what the mode does."""
        with warnings.catch_warnings():
            # The parts warn about whole streams; the remark below replaces those warnings for this mode.
            warnings.filterwarnings("ignore", message=r"(sharing|patching) the whole stream")
            edit = self._bind(context)
        edit.label = str(self)
        remark = self.remark(context.n_layers)
        if remark:
            edit.remarks[:] = [remark]
            warnings.warn(remark, stacklevel=2)
        return edit

    def _bind(self, context: Context) -> Edit:
        if self.sources:
            return _CachedEdit(self, context)
        where, hook = self.where, "resid_post"
        if self.mode == "cached":
            where = where.but(layers=self.only_layer(context.n_layers))
        elif self.mode == "updates":
            hook = "update"
        elif self.mode == "velocity":
            where, hook = where.but(layers=ALL), "velocity"
        return Ensemble(where.but(hooks=(hook,)), self.alpha, self.rescale).bind(context)

    def only_layer(self, n_layers: int) -> int | None:
        """The one layer of the window that counts (lockstep: the first, cached: the last), or None where all do."""
        layers = self.where.layers_of(n_layers)
        if self.mode == "lockstep" and not self.rescale:
            return layers[0]
        return layers[-1] if self.mode == "cached" else None

    def remark(self, n_layers: int) -> str:
        """A warning about a window in which only one layer counts; empty where all do."""
        layers, only = self.where.layers_of(n_layers), self.only_layer(n_layers)
        if only is None or len(layers) == 1:
            return ""
        why = (
            "the members are equal after it, and blocks with the same text and timestep keep them equal"
            if self.mode == "lockstep"
            else "each overwrite of the whole stream wipes out the one before"
        )
        return (
            f"{self.mode} mean over layers {layers[0]}-{layers[-1]} is the mean at layer {only} alone: {why}. Use "
            "mode='updates' or 'alpha' to ask about a window"
        )

    def __str__(self) -> str:
        layers = "" if self.mode == "velocity" else f", layers={self.where.layers}"
        alpha = f", alpha={self.alpha}" if self.mode == "alpha" else ""
        return f"ensemble_mode({self.mode}, steps={self.where.steps}{layers}{alpha}{', rescaled' * self.rescale})"


def ensemble_mode(
    mode: str,
    steps: Any = None,
    layers: Any = None,
    *,
    alpha: float | None = None,
    rescale: bool = False,
    sources: Sequence[Run] = (),
    **places: Unpack[Places],
) -> EnsembleMode:
    """Specify an ensemble by the name of its mode; by default at step 0 and layers 20-29 of 40 (by depth elsewhere).

    Args:
        mode: ``"lockstep"``, ``"cached"``, ``"alpha"``, ``"updates"`` or ``"velocity"``.
        steps: As of :func:`dit_lens.patch`; the first by default.
        layers: As of :func:`dit_lens.patch`; ``PAPER_WINDOW`` by default.
        alpha: The share of the mean, for ``"alpha"`` only.
        rescale: Give the mean each member's own norm, token by token.
        sources: For ``"cached"``, finished runs of the same task whose own calls give the means; then a single run may
            take them. Without it the cache is that of the batch at the same call, which is the same as long as one step
            is chosen.
        **places: ``branches``, ``experts``, and the singular names of :func:`dit_lens.patch`; the mode sets the hook.

    Returns:
        The intervention.

    Raises:
        InterventionError: An unknown mode, an alpha outside 0-1 or where it has no meaning, a hook, heads or tokens,
            and fewer than two members or equal ones.
    """
    if mode not in MODES:
        raise InterventionError(f"ensemble mode {mode!r} is unknown: choose from {list(MODES)}")
    if mode == "alpha":
        alpha = 0.5 if alpha is None else alpha
        if not 0 < number(alpha, "alpha", error=InterventionError) < 1:
            raise InterventionError(f"alpha={alpha}: 0 changes nothing and 1 is mode='lockstep'; give one in between")
    elif alpha is not None:
        raise InterventionError(f"mode={mode!r} takes no alpha, it replaces by the mean: use mode='alpha'")
    if sources and mode != "cached":
        raise InterventionError(
            f"sources= is for mode='cached' and here mode={mode!r}: leave sources= out; the batch gives the members"
        )
    where = select(Select(steps=0, layers=PAPER_WINDOW), steps=steps, layers=layers, **places)
    if where.hooks or where.heads is not None or where.tokens is not None:
        raise InterventionError(
            f"mode={mode!r} shares whole activations of its own hook: leave hooks=, heads= and tokens= out, or write "
            "dit_lens.ensemble(hooks=...)"
        )
    return EnsembleMode(mode, where, 1.0 if alpha is None else alpha, rescale, tuple(sources))


class _CachedEdit(ActivationEdit):
    """Overwrite every layer of the window by the mean of finished runs, each recomputed from its own latents."""

    def __init__(self, spec: EnsembleMode, context: Context) -> None:
        where = spec.where.but(hooks=("resid_post",))
        super().__init__(str(spec), context, where)
        different_members(spec.sources)
        self.rescale = spec.rescale
        self.parts = [Patch(where, run).bind(context) for run in spec.sources]

    def prepare(self, call: Call, latents: Tensor) -> None:
        for part in self.parts:
            part.prepare(call, latents)

    def value(self, at: Address, x: Tensor) -> Tensor:
        taken = torch.stack([part.value(at, x).float() for part in self.parts])  # (K, B, N, d)
        mean = taken.mean(0)
        if self.rescale:
            mean = mean * x.float().norm(dim=-1, keepdim=True) / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return mean.type_as(x)


def different_members(runs: Sequence[Run]) -> None:
    """Check that there are at least two runs, and that no two begin from the same noise.

    Raises:
        InterventionError: There are fewer, or two begin from the same noise.
    """
    if len(runs) < 2:
        raise InterventionError(
            f"an ensemble needs at least two members, found {len(runs)}: give runs of several seeds"
        )
    for a, b in combinations(runs, 2):
        if torch.equal(a.latents[0], b.latents[0]):
            raise InterventionError(
                f"members with seeds {a.seed} and {b.seed} begin from the same latents, and their mean is either of "
                "them: give runs of different seeds"
            )


@dataclass(frozen=True)
class NoiseMean:
    """The control that averages the K initial noises: the batch starts from Q eps (module docstring)."""

    together: ClassVar[bool] = True

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation.

        Raises:
            InterventionError: Fewer than two members, or members with equal seeds.
        """
        if len(set(context.seeds)) < max(2, len(context.seeds)):
            raise InterventionError(
                f"averaging noise needs at least two members with different seeds, found {list(context.seeds)}: "
                "lens.generate(task, seed=[0, 1, 2], interventions=[...])"
            )
        return _NoiseMeanEdit(str(self))

    def __str__(self) -> str:
        return "noise_mean()"


def noise_mean() -> NoiseMean:
    """Specify the mixing of a batch's initial noises; each stays unit-variance noise, so no effect is expected."""
    return NoiseMean()


class _NoiseMeanEdit(Edit):
    def latents(self, step: int, x: Tensor) -> Tensor:
        if step:
            return x
        mix = torch.from_numpy(helmert(len(x), full=True)).to(x)  # (K, K), orthogonal
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return torch.einsum("ij,j...->i...", mix, x)
