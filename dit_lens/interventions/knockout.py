"""Attention knockout: cut what one region reads from another, exactly.

For queries n in ``from_`` and keys in ``to``, the weights p_nk are set to zero. With ``renormalise`` the rest is
scaled to one again, as if those keys were not there (the softmax runs over the other keys only)::

    z_n <- softmax_{k not in to}(q_n . k_k / sqrt(D)) v        renormalise=True
    z_n <- sum_{k not in to} p_nk v_k                          renormalise=False: the others keep their weights

No N x N mask is needed: the queries attend once more, to the other keys only. All other tokens and heads keep their
activations bit for bit.

Put knockouts before other interventions on z: the attention of the queries is computed again, which discards earlier
changes of their z.

When not to use: to say that information *cannot* pass. It still flows through other tokens, layers and steps, and on
image-conditioned models every token sees the first frame in its own channels. The placebo is a knockout of random
tokens of the same number: ``knockout(..., to=indices)``.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from dit_lens.address import Address, Call, Depth, Indices, Places, Select
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, described, select
from dit_lens.wan.attention_sets import (
    PARTS,
    Kind,
    TextSeen,
    Tokens,
    attend,
    by_index,
    check_kind,
    frozen,
    key_mask,
    video_mask,
)
from dit_lens.wan.editing import Context
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import point

_CUTS = "dit_lens_cuts"  # on a point: what this call's knockouts have cut there so far


@dataclass(frozen=True)
class Knockout:
    """Cut attention of ``kind`` from the queries ``from_`` to the keys ``to`` at ``where``."""

    from_: Tokens
    to: Tokens
    where: Select
    kind: Kind = "self"
    renormalise: bool = True

    def bind(self, context: Context) -> _Cut:
        """Prepare the edit for one generation."""
        return _Cut(self, context)

    def __str__(self) -> str:
        edge = f"{_short(self.from_)} -> {_short(self.to)}"
        return f"knockout({edge}, {self.kind}, {described(self.where)})"


def knockout(
    from_: Tokens,
    to: Tokens,
    *,
    steps: Indices | None = None,
    layers: Indices | Depth | None = None,
    kind: Kind = "self",
    renormalise: bool = True,
    **places: Unpack[Places],
) -> Knockout:
    """Specify a knockout: ``knockout(from_="agent", to="goal", layers=range(4, 8))``.

    Args:
        from_: Queries, video tokens: names, or several for their union (:mod:`dit_lens.wan.attention_sets`).
        to: Keys: video tokens (``kind="self"``), text tokens (``"cross"``: ``"pad"``, ``"text"`` or indices) or CLIP
            tokens (``"image"``, indices).
        steps: As of :func:`dit_lens.patch`.
        layers: As of :func:`dit_lens.patch`.
        kind: Which attention.
        renormalise: Whether the other weights are scaled to one again.
        **places: ``heads`` (all by default), ``branches``, ``experts``, and singular names as of
            :func:`dit_lens.patch`; ``kind`` sets the hook, and ``from_`` and ``to`` set the tokens.

    Returns:
        The intervention.

    Raises:
        AddressError: When it is used, unknown names.
        InterventionError: Hooks or tokens are given. When it is used, a region without tokens, and a knockout of every
            key, which leaves nothing to attend to (``ablate(hook="z")`` does that).
    """
    where = select(steps=steps, layers=layers, **places)
    if where.hooks or where.tokens is not None:
        raise InterventionError(
            "kind= sets the hook of a knockout, from_= and to= set its tokens: leave hooks= and tokens= out"
        )
    return Knockout(frozen(from_), frozen(to), where, kind, renormalise)


class _Cut(ActivationEdit):
    def __init__(self, spec: Knockout, context: Context) -> None:
        check_kind(spec.kind, context, InterventionError)
        *self.read, out = PARTS[spec.kind]
        super().__init__(str(spec), context, spec.where.but(hooks=(out,)))
        self.spec = spec
        self.queries = _places(video_mask(spec.from_, context))
        self.text = TextSeen(context) if spec.kind == "cross" else None
        uncond = any(c.branch == "uncond" for c in context.plan.calls if c.index in self.calls)
        if self.text is not None and uncond and by_index(spec.to):
            raise InterventionError(
                "token indices of a prompt mean nothing in the uncond branch, which has another prompt: pass "
                "branches='cond', or to='text' or 'pad'"
            )
        self.others: dict[Any, tuple[Tensor, ...]] = {}  # keys that stay, by row, once their number is known
        if spec.kind == "self":
            self._others("cond", context.grid.n_tokens)  # so that a mistake is reported before the first step
        self.seen: dict[str, Tensor] = {}
        self.mine = (
            [set(rows.tolist()) for rows in self.queries],
            set(range(context.n_heads) if self.heads is None else self.heads),
        )

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        found = super().hooks(call, latents)
        return [*self.text.hooks(call), *found] if found and self.text is not None else found

    def _plain(self, at: Address) -> list[Hook]:
        call = self.context.plan.at(at.step, at.branch)

        def see(name: str) -> Any:
            def keep(x: Tensor, hook: Any) -> None:
                self.seen[name] = x

            return keep

        def change(z: Tensor, hook: Any) -> Tensor:
            q, k, v = (self.seen.pop(name) for name in self.read)
            self._check_alone(call, hook)
            self.fired[at] += 1
            return self._cut(call, q, k, v, z)

        return [*((point(name).at(at.layer), see(name)) for name in self.read), (point(at.hook).at(at.layer), change)]

    def _check_alone(self, call: Call, hook: Any) -> None:
        """Refuse two knockouts of one query: each computes its attention anew, so the second would undo the first."""
        owner, earlier, cuts = hook.ctx.get(_CUTS, (None, None, ()))
        if owner is None or owner() is not self.context or earlier != call:
            cuts = ()
        mine, heads = self.mine
        for label, theirs, their_heads in cuts:
            if heads & their_heads and any(a & b for a, b in zip(mine, theirs, strict=True)):
                raise InterventionError(
                    f"{self.label} and {label} cut the same queries at the same place, and the second would undo the "
                    "first: write one knockout with all keys, to=('goal', 'walls')"
                )
        hook.ctx[_CUTS] = (weakref.ref(self.context), call, (*cuts, (self.label, mine, heads)))

    def _cut(self, call: Call, q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
        if q.shape[1] != self.context.grid.n_tokens:
            raise InterventionError(
                f"this call holds {q.shape[1]} of {self.context.grid.n_tokens} video tokens: a knockout needs all of "
                "them on one device, so switch context parallelism off"
            )
        heads = torch.arange(q.shape[2]) if self.heads is None else torch.tensor(self.heads)
        heads, new = heads.to(q.device), z.clone()
        for b, (rows, keys) in enumerate(zip(self.queries, self._others(call.branch, k.shape[1]), strict=True)):
            rows, keys = rows.to(q.device), keys.to(q.device)
            q_b, k_b, v_b = q[b, rows][None, :, heads], k[b][None, :, heads], v[b][None, :, heads]  # (1, n or M, h, D)
            left = attend(q_b, k_b[:, keys], v_b[:, keys])
            if not self.spec.renormalise:
                left = left * _kept(q_b, k_b, keys)
            new[b, rows[:, None], heads] = left[0].to(z.dtype)
        return new

    def _others(self, branch: Any, size: int) -> tuple[Tensor, ...]:
        """The keys that stay, by row, (m,) each."""
        if branch in self.others:
            return self.others[branch]
        spec = self.spec
        padding = None if self.text is None else self.text.padding[branch]
        cut = key_mask(spec.kind, spec.to, self.context, size, padding)
        if not bool(cut.any(-1).all()):
            raise InterventionError(
                f"{self.label}: {spec.to!r} holds no key in the {branch} branch, so nothing would be cut; leave the "
                "knockout out, or choose branches= where it has some"
            )
        if bool(cut.all(-1).any()):
            raise InterventionError(
                f"{self.label} would cut every key, and a softmax over nothing has no value: leave some keys, or take "
                f"the whole attention out with dit_lens.ablate(hook={self.points[0].name!r})"
            )
        self.others[branch] = _places(~cut)
        return self.others[branch]


def _short(tokens: Tokens) -> str:
    if isinstance(tokens, str):
        return tokens
    return f"{len(tokens)} tokens" if by_index(tokens) else " + ".join(map(str, tokens))


def _places(mask: Tensor) -> tuple[Tensor, ...]:
    """Indices of the selected tokens of every row."""
    return tuple(row.nonzero()[:, 0] for row in mask)


def _kept(q: Tensor, k: Tensor, keys: Tensor) -> Tensor:
    """The attention mass on ``keys`` of every query, (B, n, H, 1): the same kernel over their indicator."""
    indicator = torch.zeros(k.shape[1], dtype=k.dtype, device=k.device)
    indicator[keys] = 1
    column = F.pad(indicator[:, None], (0, k.shape[-1] - 1))  # (M, D), as wide as v: other widths are not fused
    return attend(q, k, column[None, :, None].expand_as(k))[..., :1]
