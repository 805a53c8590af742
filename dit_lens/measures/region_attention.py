"""Attention by region, read from a generation or from a recorded run (:mod:`dit_lens.measures.attention` defines it).

Read it while generating, at the cost of one more attention a layer, or from any run, by replaying its calls::

    watch = watch_attention(queries="all", keys=("agent", "goal", "background"))
    run = lens.generate(task, seed=0, interventions=[watch])
    watched_attention(run).enrichment                      # (step, branch, layer, head, query, key)
    region_attention(lens, run, queries="agent", keys="frames", steps=5)

When not to use: ``region_attention`` on a run with interventions on activations, which replay does not repeat. Watch
such a run while it is generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens import checks
from dit_lens.address import ALL, Address, Branch, Call, Depth, Indices, Places, Select, select
from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.measures.attention import Regions, prepare, random_masks, region_mass, region_parts
from dit_lens.measures.attention_written import attention_gate, projection, region_written
from dit_lens.wan.attention_sets import (
    PARTS,
    Kind,
    TextSeen,
    Tokens,
    by_index,
    check_kind,
    frozen,
    key_mask,
    named,
    video_mask,
)
from dit_lens.wan.editing import Context, Edit, Fired
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.points import point
from dit_lens.wan.recording import DEFAULT_LIMIT
from dit_lens.wan.run import Run


@dataclass(frozen=True)
class WatchAttention:
    """Reads attention by region while a generation runs, and changes nothing; make one with :func:`watch_attention`.

    Put it last in ``interventions=`` to read queries and keys after the other interventions.
    """

    queries: Any
    keys: Any
    where: Select
    kind: Kind = "self"
    contribution: bool = False
    draws: int = 3
    seed: int = 0
    limit: float = DEFAULT_LIMIT
    written: bool = False

    def bind(self, context: Context) -> _Watch:
        """Prepare the watch for one generation."""
        return _Watch(self, context)


def watch_attention(
    queries: str | Sequence[str] | Mapping[str, Tokens] = "all",
    keys: str | Sequence[str] | Mapping[str, Tokens] | None = None,
    *,
    kind: Kind = "self",
    steps: Indices | None = None,
    layers: Indices | Depth | None = None,
    contribution: bool = False,
    written: bool = False,
    draws: int = 3,
    seed: int = 0,
    limit: float = DEFAULT_LIMIT,
    **places: Unpack[Places],
) -> WatchAttention:
    """Specify which attention to read: from regions of queries to regions of keys.

    Args:
        queries: Names, or a mapping from names to token indices or masks (:mod:`dit_lens.wan.attention_sets`);
            ``"frames"`` stands for every frame.
        keys: Likewise; by default every region of the video that has tokens, or ``("text", "pad")`` for ``"cross"``.
        kind: ``"self"``, ``"cross"`` (to text) or ``"image"``.
        steps: All by default.
        layers: All by default.
        contribution: Also read share and norm, for about two attentions more.
        written: Also read what each head, and the layer, writes of each region into the stream
            (:mod:`dit_lens.measures.attention_written`), for one output projection more a region.
        draws: Random masks for each region of keys; they cost nothing while regions x (1 + draws) is at most the head
            width.
        seed: Seed of the random masks.
        limit: Bytes that the result may hold.
        **places: ``branches``, ``experts``, and singular names as of :func:`dit_lens.patch`; all heads are read.

    Returns:
        The watch, for ``interventions=``.

    Raises:
        MeasureError: What cannot be read.
        AddressError: When it is used, unknown names.
    """
    limit, seed = number(limit, "limit", 0, error=MeasureError), checks.seed(seed, error=MeasureError)
    if draws < 1:
        raise MeasureError(
            f"draws={draws}: an enrichment needs at least one random mask as its null, so give draws=1 or more"
        )
    where = select(steps=steps, layers=layers, **places)
    if where.hooks or where.heads is not None or where.tokens is not None:
        raise MeasureError(
            "kind= sets the hook, queries= and keys= set the tokens, and all heads are read: leave hooks, tokens, "
            "heads out"
        )
    return WatchAttention(_frozen(queries), _frozen(keys), where, kind, contribution, draws, seed, limit, written)


def _frozen(wanted: Any) -> Any:
    if isinstance(wanted, np.ndarray | Tensor):
        raise MeasureError("a set of tokens needs a name here: {'name': mask or indices}")
    if isinstance(wanted, Mapping):
        return tuple((str(name), frozen(tokens)) for name, tokens in wanted.items())
    return wanted if wanted is None or isinstance(wanted, str) else tuple((w, w) for w in wanted)


@dataclass(frozen=True, eq=False)
class Watched(Fired):
    """What a watch read: one dataset per row of the batch."""

    watch: WatchAttention | None = None
    rows: tuple[xr.Dataset, ...] = ()

    def __str__(self) -> str:
        steps = sorted({a.step for a in self.touched})
        return f"{self.label}: {sum(self.touched.values())} attentions read at steps {steps}; watched_attention(run)"


class _Watch(Edit):
    """One watch in one generation."""

    def __init__(self, watch: WatchAttention, context: Context) -> None:
        super().__init__(f"watch_attention({watch.kind}, steps={watch.where.steps}, layers={watch.where.layers})")
        check_kind(watch.kind, context, MeasureError)
        self.watch, self.context = watch, context
        self.parts = [point(name) for name in PARTS[watch.kind]]
        calls = watch.where.calls_of(context.plan.calls)
        self.calls = {call.index for call in calls}
        self.steps = tuple(sorted({call.step for call in calls}))
        self.branches: tuple[Branch, ...] = tuple(dict.fromkeys(call.branch for call in calls))
        self.layers = watch.where.layers_of(context.n_layers)
        self.queries = named(_spelled(watch.queries), context)
        regions = tuple(name for name, mask in context.masks.items() if bool(mask.any(-1).all()))  # those with tokens
        every = regions if watch.kind == "self" else ("text", "pad") if watch.kind == "cross" else None
        if watch.keys is None and not every:
            raise MeasureError(
                "keys=None stands for the regions of the video or of the text, and there are none here: give keys=, or "
                "generate from a task or with regions={'name': mask}"
            )
        self.keys = named(_spelled(every if watch.keys is None else watch.keys), context, frames=watch.kind == "self")
        if watch.kind == "cross" and "uncond" in self.branches and any(by_index(t) for _, t in self.keys):
            raise MeasureError(
                "token indices of a prompt mean nothing in the uncond branch, which has another prompt: pass "
                "branches='cond', or keys among 'text', 'pad', 'all'"
            )
        self.query_masks = torch.stack([video_mask(tokens, context) for _, tokens in self.queries], 1)  # (B, R, N)
        self.text = TextSeen(context) if watch.kind == "cross" else None
        self.shares: dict[Branch, np.ndarray] = {}  # |key region| / M, (B, K)
        self.ready: dict[tuple[Branch, Any, Any], Regions] = {}
        self.seen: dict[str, Tensor] = {}
        self.pending: list[tuple[Call, int, dict[str, Tensor]]] = []
        self.values = {"mass": self._room(1 + watch.draws)}
        if watch.contribution:
            self.values |= {"share": self._room(2), "norm": self._room(2)}
        if watch.written:
            self.values |= {"head_written": self._room(2), "written": self._room(2)[..., 0, :, :, :]}

    def _room(self, copies: int) -> np.ndarray:
        """NaN of the result's shape; the first axis of keys counts the region itself and its random masks."""
        rows, heads = len(self.context.seeds), self.context.n_heads
        shape = (rows, len(self.steps), len(self.branches), len(self.layers), heads, len(self.queries))
        size = 4 * int(np.prod(shape)) * copies * len(self.keys)
        if size > self.watch.limit:
            raise MeasureError(
                f"reading this attention holds {size / 2**30:.2f} GiB, more than the limit of "
                f"{self.watch.limit / 2**30:.2f} GiB: choose fewer steps, layers, regions or draws, or raise limit="
            )
        return np.full((*shape, copies, len(self.keys)), np.nan, np.float32)

    # -- during a call

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        self._file()
        if call.index not in self.calls:
            return ()
        found = self.text.hooks(call) if self.text is not None else []
        needed = 4 if self.watch.contribution or self.watch.written else 2
        if self.watch.written:
            found.append((point("modulation").path, self._see("modulation")))
        for layer in self.layers:
            if self.watch.written:
                found.append((point("resid_pre").at(layer), self._see("resid_pre")))
            *before, last = self.parts[:needed]
            found += [(p.at(layer), self._see(p.name)) for p in before]
            found.append((last.at(layer), self._read(call, layer)))
        return found

    def _see(self, name: str) -> Any:
        def see(x: Tensor, hook: Any) -> None:
            self.seen[name] = x

        return see

    def _read(self, call: Call, layer: int) -> Any:
        q_, k_, v_, _ = (p.name for p in self.parts)

        def read_mass(k: Tensor, hook: Any) -> None:
            q = self.seen.pop(q_)
            self.pending.append((call, layer, {"mass": region_mass(q, k, self._regions(call, q, k))}))

        def read_parts(z: Tensor, hook: Any) -> None:
            q, k, v = (self.seen.pop(name) for name in (q_, k_, v_))
            # Contributions of the regions and of their first random masks: columns are in this order.
            regions, first = self._regions(call, q, k), 2 * len(self.keys)
            found = {}
            if self.watch.contribution:
                found = dict(zip(("mass", "share", "norm"), region_parts(q, k, v, z, regions, first), strict=True))
            else:
                found["mass"] = region_mass(q, k, regions)
            if self.watch.written:
                found |= self._written(call, layer, (q, k, v), regions, first)
            self.pending.append((call, layer, found))

        return read_parts if self.watch.contribution or self.watch.written else read_mass

    def _written(
        self, call: Call, layer: int, qkv: tuple[Tensor, Tensor, Tensor], regions: Regions, first: int
    ) -> dict[str, Tensor]:
        block: Any = self.context.experts[call.expert].transformer.blocks[layer]
        own = self.watch.kind == "self"
        gate = attention_gate(block, self.seen["modulation"]) if own else None
        weight = projection(block.attn1 if own else block.attn2).to(qkv[0].device)
        heads, whole = region_written(*qkv, regions, weight, gate, self.seen.pop("resid_pre"), first)
        return {"head_written": heads, "written": whole}

    def _file(self) -> None:
        """Copy the last call's numbers to the arrays: once a call, so that no layer waits for the device."""
        for call, layer, found in self.pending:
            place = self.steps.index(call.step), self.branches.index(call.branch), self.layers.index(layer)
            for what, values in found.items():
                split = values.unflatten(-1, (-1, len(self.keys)))  # (B, H, R, copies, K)
                self.values[what][:, *place] = split.cpu().numpy()
            last = self.parts[3 if self.watch.contribution or self.watch.written else 1].name
            self.fired[Address(call.step, call.branch, layer, last)] += 1
        self.pending.clear()

    def _regions(self, call: Call, q: Tensor, k: Tensor) -> Regions:
        key: tuple[Branch, Any, Any] = (call.branch if self.text is not None else "cond", q.device, q.dtype)
        if key not in self.ready:
            if q.shape[1] != self.context.grid.n_tokens:
                raise MeasureError(
                    f"this call holds {q.shape[1]} of {self.context.grid.n_tokens} video tokens: attention by region "
                    "needs all of them on one device, so switch context parallelism off"
                )
            own, strata = self._key_masks(call, k.shape[1])
            self.shares[key[0]] = own.mean(-1)
            masks = []
            for mask, layer in zip(own, strata, strict=True):
                rng = np.random.default_rng(self.watch.seed)  # the same for all rows: a batch equals its singles
                drawn = [
                    random_masks(one[None], where, self.watch.draws, rng)[:, 0]
                    for one, where in zip(mask, layer, strict=True)
                ]
                masks.append(np.stack([mask, *np.stack(drawn, 1)]).reshape(-1, k.shape[1]))  # ((1 + draws) K, M)
            self.ready[key] = prepare(self.query_masks, torch.from_numpy(np.stack(masks)), q)
        return self.ready[key]

    def _key_masks(self, call: Call, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the key regions (B, K, M), and the strata that each is shuffled within (B, K, M)."""
        padding = None if self.text is None else self.text.padding[call.branch]
        kind, context = self.watch.kind, self.context
        masks = torch.stack([key_mask(kind, tokens, context, size, padding) for _, tokens in self.keys], 1)
        strata = np.zeros(masks.shape, int)
        if kind == "self":
            # A region of whole frames stays itself when shuffled within them: it is shuffled among all tokens.
            framed = masks.unflatten(-1, (context.grid.frames, -1))
            whole = (framed.all(-1) | ~framed.any(-1)).all(-1, keepdim=True)  # (B, K, 1)
            strata = np.where(whole.numpy(), 0, np.arange(size) // (size // context.grid.frames))
        elif padding is not None:
            # Words are shuffled among words; "text" and "pad" among all.
            words = np.array([by_index(tokens) for _, tokens in self.keys])
            strata = words[None, :, None] * padding.numpy()[:, None]
        return masks.numpy(), strata

    # -- afterwards

    def finish(self, complete: bool = True) -> Fired:
        self._file()
        plain = super().finish(complete)
        rows = tuple(self._dataset(row) for row in range(len(self.context.seeds))) if self.fired else ()
        return Watched(plain.label, plain.touched, plain.remarks, self.watch, rows)

    def _dataset(self, row: int) -> xr.Dataset:
        done = sorted({a.step for a in self.fired})
        at = [self.steps.index(step) for step in done]
        shared = self.text is None
        share = np.stack([self.shares["cond" if shared else b][row] for b in self.branches])  # (branch, key)
        dims = ("step", "branch", "layer", "head", "query", "key")
        mass = self.values["mass"][row][at]  # (step, branch, layer, head, query, copies, key)
        relative = mass / share[None, :, None, None, None, None, :]
        found: dict[str, Any] = {
            "mass": (dims, mass[..., 0, :], {"long_name": "attention mass", "units": "share of a query's attention"}),
            "enrichment": (dims, relative[..., 0, :], {"long_name": "attention / size", "units": "1 = as its size"}),
            "null": (
                (*dims, "draw"),
                np.moveaxis(relative[..., 1:, :], -2, -1),
                {
                    "long_name": "attention / size of random masks of the same size per frame",
                    "units": "1 = as its size",
                },
            ),
        }
        for name, units in (("share", "share of |z|^2, by projection"), ("norm", "norm of z_r")):
            if name in self.values:
                values = self.values[name][row][at]
                found[name] = (dims, values[..., 0, :], {"long_name": f"contribution to z: {name}", "units": units})
                about = {"long_name": f"{name} of a random mask of the same size", "units": units}
                found[f"{name}_null"] = (dims, values[..., 1, :], about)
        for name in ("head_written", "written"):
            if name in self.values:
                values, of = self.values[name][row][at], dims if name == "head_written" else dims[:3] + dims[4:]
                units = "share of the stream's norm"
                found[name] = (of, values[..., 0, :], {"long_name": f"written into the stream: {name}", "units": units})
                about = {"long_name": f"{name} of a random mask of the same size", "units": units}
                found[f"{name}_null"] = (of, values[..., 1, :], about)
        coords = {
            "step": done, "branch": list(self.branches), "layer": list(self.layers),
            "head": list(range(self.context.n_heads)), "query": [n for n, _ in self.queries],
            "key": [n for n, _ in self.keys], "draw": list(range(self.watch.draws)),
            "sigma": ("step", [self.context.plan.sigmas[s] for s in done]),
            "expert": ("step", [self.context.plan.at(s).expert for s in done]),
            "depth": ("layer", [layer / self.context.n_layers for layer in self.layers]),
            "size": (("branch", "key"), share, {"long_name": "tokens of the region / all keys"}),
        }  # fmt: skip
        return xr.Dataset(found, coords, {"kind": self.watch.kind, "seed": self.watch.seed})


def watched_attention(run: Run, watch: WatchAttention | None = None, row: int | None = None) -> xr.Dataset:
    """What a watch read while ``run`` was generated.

    A run that was loaded from disk no longer holds it: save the Dataset with ``.to_netcdf``.

    Args:
        run: The run.
        watch: Which watch, if there were several.
        row: Which item, if the run is one of a batch.

    Returns:
        Variables over (step, branch, layer, head, query, key): ``mass``, ``enrichment``, ``null`` (enrichment of the
        random masks, one more dim ``draw``), and with ``contribution`` also ``share``, ``norm`` and the same of the
        first random mask, ``share_null``, ``norm_null``; with ``written`` also ``head_written`` and, without ``head``,
        ``written``, with their ``_null``.

    Raises:
        MeasureError: The run had no watch, several, or several rows.
    """
    found = [f for f in run.fired if isinstance(f, Watched) and f.rows and (watch is None or f.watch == watch)]
    if not found:
        raise MeasureError(
            "this run was not watched: lens.generate(..., interventions=[watch_attention(...)]), or read it by replay, "
            "region_attention(lens, run, ...)"
        )
    if len({f.label for f in found}) > 1 or len({f.watch for f in found}) > 1:
        raise MeasureError(f"this run was watched in {len(found)} ways: say which with watch=, {[*map(str, found)]}")
    rows = len(found[0].rows)
    if rows > 1 and row is None:
        raise MeasureError(f"this run is one of a batch of {rows}: say which with row=0 to {rows - 1}")
    if row is not None and not -rows <= row < rows:
        raise MeasureError(f"row {row} is outside a batch of {rows}: give 0 to {rows - 1}")
    parts = [f.rows[row or 0] for f in found]  # several where a run was resumed
    return parts[0] if len(parts) == 1 else xr.concat(parts, "step", data_vars="minimal", coords="minimal")


def region_attention(lens: Lens, run: Run, watch: WatchAttention | None = None, **spec: Any) -> xr.Dataset:
    """Attention by region of any recorded run, by replaying the chosen calls on its own latents.

    No recording is needed. Interventions on activations that the run was made with are not repeated.

    Args:
        lens: The model.
        run: The run.
        watch: What to read; or give its arguments as ``spec``.
        **spec: The arguments of :func:`watch_attention`.

    Returns:
        As :func:`watched_attention`.

    Raises:
        MeasureError: What cannot be read, or both ``watch`` and ``spec``.
        AddressError: Unknown names.
        SamplerError: A step that the run has not done.
    """
    if watch is not None and spec:
        raise MeasureError(f"give watch= or {sorted(spec)}, not both")
    masks = {name: torch.from_numpy(np.array(mask))[None] for name, mask in run.regions.items()}
    context = Context(run.plan, lens.experts, run.grid, masks, (run.seed,), lens.fingerprint, lens.replay)
    edit = _Watch(watch_attention(**spec) if watch is None else watch, context)
    with torch.no_grad():
        for call in run.plan.calls:
            undone = call.step >= run.n_steps and edit.watch.where.steps == ALL  # "all" means all that were done
            if call.index in edit.calls and not undone:
                lens.replay(run, call, edit.hooks(call, run.latents[call.step][None]))
    result = edit.finish()
    assert isinstance(result, Watched)
    return result.rows[0]


def _spelled(wanted: Any) -> Any:
    """Convert the frozen form, pairs, to a mapping."""
    return dict(wanted) if isinstance(wanted, tuple) and wanted and isinstance(wanted[0], tuple) else wanted
