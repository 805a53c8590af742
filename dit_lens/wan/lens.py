"""The lens: a Wan pipeline whose every activation has an address.

``Lens(pipe)`` puts points into the pipeline's own modules; ``close()`` takes them out. In between, ``generate`` samples
exactly as the bare pipeline does, and records or changes what it is told to.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from dit_lens.address import Branch, Call, Select
from dit_lens.errors import AddressError, SamplerError
from dit_lens.wan import bypass_guards, drift_check, request, sampler
from dit_lens.wan import conditions as cond
from dit_lens.wan.advance import advance, replayed, start_of
from dit_lens.wan.call_plan import Plan, build, preset
from dit_lens.wan.defaults import Defaults
from dit_lens.wan.editing import Intervention, one_depth
from dit_lens.wan.exclusive import Exclusive
from dit_lens.wan.expert import Expert, Hook
from dit_lens.wan.fingerprint import Fingerprint
from dit_lens.wan.gradients import Gradients
from dit_lens.wan.model_identity import identity_of
from dit_lens.wan.points import table, there
from dit_lens.wan.recording import DEFAULT_LIMIT, Extent, Record, check_limit, extent_of, needed_bytes
from dit_lens.wan.reuse import Replay, Reuse
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling, SamplingArguments, SamplingLike, merged, of_arguments
from dit_lens.wan.token_grid import Grid, grid_of_size, token_regions
from dit_lens.wan.versions import versions


class Lens(Exclusive):
    """A wrapped pipeline. Make one with :func:`dit_lens.load`.

    One thread at a time: a second one is refused. A lens can be neither copied nor pickled, since its points are in one
    pipeline; dropped without :meth:`close`, it takes them out again.

    Attributes:
        pipe: The pipeline, which samples with its own modules.
        name: What the model is called.
        defaults: What :meth:`generate` takes when it is not told otherwise.
        experts: ``high`` and, where there is one, ``low``.
    """

    def __init__(self, pipe: Any, defaults: Defaults | None = None, name: str = "") -> None:
        bypass_guards.check_pipeline(pipe)
        self.pipe = pipe
        self.name = name or getattr(pipe.config, "_name_or_path", "") or type(pipe).__name__
        self.defaults = defaults or Defaults()
        self._working = 0  # how many of _loaded() are open
        super().__init__()
        self._decode = partial(sampler.decode, pipe)  # no method: a run that is kept does not keep the lens
        self.experts: dict[str, Expert] = {}
        models = {"high": pipe.transformer, "low": getattr(pipe, "transformer_2", None)}
        calls: list[str] = []
        try:
            for which, model in models.items():
                if model is not None:
                    self.experts[which] = Expert(which, model, calls)
            self._depths = {which: expert.n_layers for which, expert in self.experts.items()}
            self._weights = Fingerprint({which: expert.transformer for which, expert in self.experts.items()})
            for expert in self.experts.values():
                drift_check.verify(expert)
            _ = self.fingerprint  # now, while no offload hides the weights
        except BaseException:
            self.close()
            raise
        # What undoes the points knows neither the lens nor its experts, so that dropping the lens frees the pipeline.
        for expert in self.experts.values():
            weakref.finalize(self, expert.take_out).atexit = False

    # -- what there is

    @property
    def n_layers(self) -> int:
        """Layers of every expert.

        Raises:
            AddressError: Where the experts have different numbers of layers.
        """
        return one_depth(self.experts)

    @property
    def fingerprint(self) -> str:
        """A short hash of the weights: :mod:`dit_lens.wan.fingerprint` says what it notices."""
        return self._weights.read()

    def points(self) -> str:
        """The table of all points: name, path, shape, meaning."""
        return table(self.experts["high"].image_context, max(e.n_layers for e in self.experts.values()))

    def sampling(self, sampling: SamplingLike | None = None, **given: Unpack[SamplingArguments]) -> Sampling:
        """The resolved sampling of a generation with these arguments.

        What is given goes before its preset, and that before the lens's defaults. Without ``height``, ``width`` and
        ``num_frames`` these are the model's own; a task may bring others.

        Args:
            sampling: Sampling arguments as one value.
            **given: The same, flat.

        Raises:
            SamplerError: For unknown names, a name in both, and wrong values.
        """
        asked, d = merged(sampling, given, Lens.sampling), self.defaults
        base = Sampling(
            d.num_inference_steps, d.guidance_scale, None, d.negative_prompt, d.height, d.width, d.num_frames,
            d.max_sequence_length,
        )  # fmt: skip
        if asked.preset is not None:
            named = preset(asked.preset)
            base = base.but(**named.given())
            if "low" not in self.experts:
                base = replace(base, boundary_ratio=None, guidance_scale_2=None)
        return base.but(**asked.given())

    def plan(self, sampling: SamplingLike | None = None, **given: Unpack[SamplingArguments]) -> Plan:
        """Every denoiser call of a generation, before it happens.

        Args:
            sampling: Sampling arguments as one value.
            **given: The same, flat.

        Raises:
            SamplerError: For wrong sampling arguments, and a scheduler that is not supported.
        """
        resolved = self.sampling(merged(sampling, given, Lens.plan))
        return build(self.pipe, resolved, "cpu")[0]  # numbers only, so wherever the model is

    def plan_of(self, **arguments: Any) -> Plan:
        """The plan of what ``generate(task, **arguments)`` makes: of its arguments, those that concern the sampling."""
        return self.plan(**of_arguments(arguments))

    def grid(self, size: cond.Size) -> Grid:
        """The token grid of a video size."""
        return grid_of_size(self.pipe, size.num_frames, size.height, size.width)

    def grid_of(
        self, task: Any = None, sampling: SamplingLike | None = None, **given: Unpack[SamplingArguments]
    ) -> Grid:
        """The token grid of what ``generate(task, ...)`` makes, before it is made.

        Args:
            task: A task, whose own size goes before the model's.
            sampling: Sampling arguments as one value.
            **given: The same, flat.
        """
        return self.grid(request.size_for(task, merged(sampling, given, Lens.grid_of), self.defaults))

    # -- generating

    def generate(
        self,
        task: Any = None,
        *,
        prompt: Any = None,
        image: Any = None,
        seed: int | Sequence[int] | None = None,
        sampling: SamplingLike | None = None,
        regions: Mapping[str, Any] | None = None,
        interventions: Sequence[Intervention] | Intervention = (),
        record: Sequence[Record] | Record = (),
        limit: int = DEFAULT_LIMIT,
        stop_after: int | None = None,
        resume: Run | None = None,
        batch: int | None = None,
        **given: Unpack[SamplingArguments],
    ) -> Any:
        """Generate, and record or change what is asked for.

        With no intervention a run equals ``pipe(...)`` bit for bit. Batched and single results agree only within
        rounding; ``batch=1`` gives each item's single result bit for bit.

        Args:
            task: Anything with ``prompt``, ``image`` and perhaps ``regions``, ``score``, ``height``, ``width`` and
                ``num_frames``, or a list of such; or pass ``prompt`` and ``image``.
            prompt: A text, or embeddings (1, M, width).
            image: The first frame, for image-to-video.
            seed: Of the noise, 0 by default. A list of tasks, of seeds, or both gives a list of runs with a seed per
                item.
            sampling: Sampling arguments as one :class:`dit_lens.Sampling`.
            regions: Name -> bool mask per pixel (frames, H, W) or (H, W), or per token; those of the task by default.
            interventions: What to change, such as ``dl.patch(...)``.
            record: What to keep, as ``dl.record(...)`` returns it.
            limit: Bytes that the recordings of all items may hold.
            stop_after: The last step to do.
            resume: A run to go on from, e.g. ``run.until(5)``, under its own prompt, seed, sampling and regions.
            batch: The largest number of items in one denoiser call; all at once by default.
            **given: Sampling arguments under diffusers' names: ``num_inference_steps``, ``guidance_scale``,
                ``preset="paper"``, ...

        Returns:
            A :class:`Run`, or a list of them.

        Raises:
            SamplerError: For arguments that do not fit together or the model, and latents that become NaN or infinite.
            AddressError: For a place outside the plan or the model.
            RecordError: The recordings hold more than ``limit``.
            InterventionError: An intervention that never fires, or that ``batch`` would part.
            BypassError: Something done to the pipeline since would run around the points.
        """
        asked = merged(sampling, given, Lens.generate)
        records = (record,) if isinstance(record, Record) else tuple(record)
        edits = tuple(interventions) if isinstance(interventions, Sequence) else (interventions,)
        if resume is not None:
            own = {"task": task, "prompt": prompt, "image": image, "seed": seed, "regions": regions, "batch": batch}
            request.check_resumed(own | asked.given())
            bypass_guards.check_ready(self.pipe)
            with torch.no_grad():
                return self.fork(resume, edits, records, limit, stop_after)
        first_seed = 0 if seed is None else seed
        with self._alone(), torch.no_grad(), self._loaded():
            bypass_guards.check_ready(self.pipe)
            items, many = request.items_of(task, prompt, image, first_seed, regions, cond.is_image_to_video(self.pipe))
            at_once = request.at_once(batch, len(items), edits)
            size = request.size_of(items, asked, self.defaults).check(self.pipe)
            used = self.sampling(asked).but(height=size.height, width=size.width, num_frames=size.num_frames)
            device, dtype, meta = self.pipe._execution_device, self.pipe.transformer.dtype, self.about
            plan, ready = build(self.pipe, used, device)
            rows = [
                cond.encode(
                    self.pipe, i.prompt, used.negative_prompt or "", i.image, size, i.seed, "uncond" in plan.branches,
                    request.first(used.max_sequence_length), device, dtype,
                )
                for i in items
            ]  # fmt: skip
            grid = self.grid(size)
            blank = [
                Run(
                    plan, used, size, grid, i.seed, i.prompt if isinstance(i.prompt, str) else "(embeddings)",
                    noise.cpu(), noise[:, None][:0].cpu(), conditions.to("cpu"),
                    regions=token_regions(grid, i.regions), task=i.task, meta=meta, _decode=self._decode,
                )
                for i, (conditions, noise) in zip(items, rows, strict=True)
            ]  # fmt: skip
            chunks = [slice(n, n + at_once) for n in range(0, len(items), at_once)]
            if len(chunks) > 1:  # refused now, not when half is done: all are kept together
                masks = request.stack_regions([run.regions for run in blank])
                extent = self._extent(cond.stack([row[0] for row in rows]), grid)
                check_limit(needed_bytes(records, plan, self._depths, extent, grid, masks), limit)
            runs: list[Run] = []
            for some in chunks:
                conditions = cond.stack([row[0] for row in rows[some]])
                noise = torch.cat([row[1] for row in rows[some]])
                fresh = copy.deepcopy(ready) if len(chunks) > 1 else ready
                runs += advance(self, blank[some], fresh, conditions, noise, edits, records, limit, stop_after, dtype)
        return runs if many else runs[0]

    def fork(
        self,
        run: Run,
        edits: Sequence[Intervention] = (),
        records: Sequence[Record] = (),
        limit: int = DEFAULT_LIMIT,
        stop_after: int | None = None,
        reuse: Reuse | None = None,
        replay: Replay | None = None,
    ) -> Run:
        """Go on from a stopped run, as ``generate(resume=run)``.

        Args:
            run: The stopped run.
            edits: Interventions.
            records: What to keep.
            limit: Bytes that the recordings may hold.
            stop_after: The last step to do.
            reuse: Kept parts of its next calls; the result is the same, bit for bit.
            replay: What edits replay recorded calls with; :meth:`replay` by default.

        Raises:
            SamplerError: The run is complete, was made with other weights, or is not that of ``reuse``.
        """
        if run.complete:
            raise SamplerError("this run is complete: fork it first, lens.generate(resume=run.until(step))")
        if run.meta.get("fingerprint") != self.fingerprint:
            raise SamplerError(
                f"this run was made by a model with fingerprint {run.meta.get('fingerprint')}, and this lens has "
                f"{self.fingerprint}: resume it with the weights that began it"
            )
        if reuse is not None:
            reuse.check(run)
        starts = {} if reuse is None else reuse.starts
        if run.n_steps not in starts:
            starts[run.n_steps] = start_of(self, run)
        scheduler, latents, given, dtype = starts[run.n_steps]
        with self._alone(), self._loaded():
            return advance(
                self, [run], copy.deepcopy(scheduler), given, latents, edits, records, limit, stop_after, dtype, reuse,
                replay or self.replay,
            )[0]  # fmt: skip

    def replay(self, runs: Sequence[Run] | Run, call: Call, hooks: Sequence[Hook] = ()) -> Tensor:
        """Run one recorded call again on the run's own latents, with hooks.

        Exact: without hooks it equals what happened. Gradients flow from what a hook makes a leaf, never to weights.

        Args:
            runs: A run, or several of one plan as a batch.
            call: The call.
            hooks: Pairs of a path and ``fn(activation, hook)``.

        Returns:
            The call's velocity (B, C, F, h, w), before guidance.

        Raises:
            SamplerError: For a step that was not run, a changed plan, and a second thread.
            InterventionError: Inside a hook of a running call.
        """
        with self._alone():
            return replayed(self, [runs] if isinstance(runs, Run) else list(runs), call, hooks)

    # -- the two engines

    def run_with_cache(
        self,
        task: Any = None,
        *,
        names_filter: Any = None,
        steps: Any = "all",
        branches: Any = "all",
        reduce: Any = "raw",
        **arguments: Any,
    ) -> Any:
        """TransformerLens's ``run_with_cache`` over a generation.

        Args:
            task: As of :meth:`generate`.
            names_filter: A path (``blocks.3.hook_resid_post``), a list, a predicate on the path, or None for all
                points.
            steps: Steps to keep.
            branches: Branches to keep.
            reduce: How activations are reduced, as of ``dl.record``.
            **arguments: As of :meth:`generate`.

        Returns:
            ``(run, cache)``, where ``cache`` is keyed by address:
            :class:`dit_lens.wan.activation_cache.AddressedCache`.

        Raises:
            AddressError: For a filter that matches nothing.
            RecordError: The cache cannot fit.
        """
        from dit_lens.wan.activation_cache import run_with_cache

        return run_with_cache(self, task, names_filter, steps, branches, reduce, arguments)

    def run_with_hooks(
        self,
        task: Any = None,
        *,
        fwd_hooks: Sequence[tuple[Any, Any]],
        steps: Any = "all",
        branches: Any = "all",
        **arguments: Any,
    ) -> Any:
        """TransformerLens's ``run_with_hooks`` over a generation.

        ``hook.ctx["call"]`` is the call being run. Hooks are gone afterwards, also when one raises.

        Args:
            task: As of :meth:`generate`.
            fwd_hooks: Pairs of a path or filter and ``fn(activation, hook)``, which returns a new activation or None.
            steps: Steps in which they act.
            branches: Branches in which they act.
            **arguments: As of :meth:`generate`.

        Returns:
            A run, or a list of them.
        """
        from dit_lens.wan.activation_cache import Hooks

        given = arguments.pop("interventions", ())
        edits = tuple(given) if isinstance(given, Sequence) else (given,)
        hooks = Hooks(tuple(fwd_hooks), Select(steps=steps, branches=branches))
        return self.generate(task, interventions=(*edits, hooks), **arguments)

    def trace(self, task: Any = None, *, step: int | None = None, branch: Branch = "cond", **arguments: Any) -> Any:
        """Trace a generation with nnsight: ``with lens.trace(task, seed=0) as t``.

        ``for expert in t.at(step=5, branch="cond"): h = expert.blocks[7].hook_resid_post.output.save()`` reads or, by
        assignment, changes a point; ``t.run`` is the run. ``lens.trace(run, step=5)`` traces one recorded call instead,
        and ``t.run`` is then its velocity. See :mod:`dit_lens.wan.nnsight_tracing`.

        Args:
            task: As of :meth:`generate`, or a recorded run.
            step: The call of a recorded run.
            branch: Likewise.
            **arguments: As of :meth:`generate`, but for ``batch``.

        Raises:
            AddressError: For ``batch``, a ``step`` without a run, and other arguments beside a run.
        """
        from dit_lens.wan.nnsight_mounting import unmounted

        with unmounted():
            from dit_lens.wan.nnsight_tracing import trace

        if arguments.get("batch") is not None:
            raise AddressError(
                "a trace shows each call of the plan once, and batch= would run it once for every part of the items: "
                "leave batch out, or trace the items one by one"
            )
        return trace(self, task, step, branch, arguments)

    def gradients(self, run: Run, step: int, branch: Branch = "cond") -> Gradients:
        """One recorded call with its graph kept, for gradients with respect to activations: see :class:`Gradients`.

        Args:
            run: The recorded run.
            step: The call's step.
            branch: The call's branch.

        Raises:
            AddressError: For a call outside the run's plan.
        """
        return Gradients(self, run, run.plan.at(step, branch))

    def attach(self, run: Run) -> Run:
        """Give a loaded run this lens's decoder."""
        return replace(run, _decode=self._decode)

    # -- parts

    def _extent(self, conditions: cond.Conditions, grid: Grid) -> Extent:
        return extent_of(self.pipe.transformer.config, conditions, grid, self.experts["high"].image_context)

    @property
    def about(self) -> dict[str, Any]:
        """Model, fingerprint of its weights, frames a second, and the versions of what computes."""
        return {"model": self.name, "fingerprint": self.fingerprint, "fps": self.defaults.fps, **versions()}

    def identity(self, scheduler: Any = None) -> dict[str, Any]:
        """What numbers of this lens depend on: weights, scheduler, defaults, arithmetic and versions.

        Args:
            scheduler: The scheduler that samples; the pipeline's by default.

        Returns:
            Plain JSON values.
        """
        return identity_of(self, scheduler)

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """The pipeline at work; after the outermost of these, offloaded models go back to where they wait."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self.pipe.maybe_free_model_hooks()

    # -- life

    def close(self) -> None:
        """Take every point out again; the pipeline is then as it was found.

        Raises:
            SamplerError: While the lens is at work in another thread.
        """
        with self._alone():
            for expert in self.experts.values():
                expert.close()

    def __enter__(self) -> Lens:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        experts = ", ".join(
            f"{n}: {e.n_layers} layers x {e.cfg.n_heads} heads x {e.cfg.d_head}" for n, e in self.experts.items()
        )
        kinds = len(there(self.experts["high"].image_context))
        return f"Lens({self.name}; {type(self.pipe).__name__}; {experts}; {kinds} kinds of points)"

    def _repr_html_(self) -> str:
        from dit_lens.display.lens_and_run import lens_html

        return lens_html(self)

    def __str__(self) -> str:
        return f"{self!r}\n{self.points()}"
