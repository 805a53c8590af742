"""nnsight over the same points: ``with lens.trace(task, seed=0) as t:``.

The body runs interleaved with ``lens.generate``, so a trace samples through the same code as every other run. nnsight
counts visits, and counting starts over at the second expert and doubles under guidance; ``t.at(step, branch)`` turns an
address into that count and refuses what the plan does not have::

    with lens.trace(task, seed=0, num_inference_steps=20) as t:
        for expert in t.at(step=5, branch="cond"):
            h = expert.blocks[7].hook_resid_post.output.save()
            expert.blocks[8].attn.hook_z.output[:, :, 0] = 0
    t.run.video  # t.run, not t.result.save(): a Run has a save of its own

Order at one point: nnsight acts inside its forward and hooks after it, so a trace sees a point before ``interventions``
change it, and recordings see what the trace wrote. Modules are wrapped when the block ends and unwrapped before control
returns. Edits made in a trace are not listed in ``run.fired``; ``run.meta["traced"]`` says that there was a body.

When not to use: inside library code. A trace needs readable source and reads points in execution order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import CodeType
from typing import Any

from greenlet import getcurrent
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import Interleaver, Mediator
from nnsight.intervention.source import STATE, Controller
from nnsight.intervention.tracer import InterleavingTracer
from torch import nn

from dit_lens.address import Branch, Call
from dit_lens.errors import AddressError
from dit_lens.wan.blocks import HookedBlock
from dit_lens.wan.expert import RENAME
from dit_lens.wan.nnsight_mounting import mounted
from dit_lens.wan.run import Run


class _Root(NNsight):
    """The tree that a trace sees: ``high`` and, where there is one, ``low``."""

    device = None  # inputs are placed by the pipeline: the first parameter may be offloaded (meta)


class _Block(Envoy):
    """A block in a trace. Its input and output are its first and last point; its own forward is left alone."""

    @property
    def input(self) -> Any:
        """The stream that enters the block, (B, N, d)."""
        return self.hook_resid_pre.output

    @input.setter
    def input(self, value: Any) -> None:
        self.hook_resid_pre.output = value

    @property
    def output(self) -> Any:
        """The stream that leaves the block, (B, N, d)."""
        return self.hook_resid_post.output

    @output.setter
    def output(self, value: Any) -> None:
        self.hook_resid_post.output = value

    @property
    def inputs(self) -> Any:
        """Refused: a block is read by its points."""
        raise self._refusal("inputs")

    @property
    def source(self) -> Any:
        """Refused: a block is read by its points."""
        raise self._refusal("source")

    def skip(self, replacement: Any) -> None:
        """Refused: a block is undone by its points."""
        raise self._refusal("skip")

    def _refusal(self, what: str) -> AddressError:
        return AddressError(
            f"a block has no .{what} in a trace: use its points (block.hook_attn_out.output, ...; lens.points() lists "
            "them); to undo a block, write x = block.input and then block.output = x"
        )


class _Calls(Interleaver):
    """nnsight's scheduler, strict: a read that would slip into another denoiser call is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.place: tuple[Call, int] | None = None  # the call that ``at`` is in, and its number in its expert

    def instrument(self, envoy: Any) -> None:
        """Leave blocks alone: they are read by their points."""
        if not isinstance(envoy._module, HookedBlock):
            super().instrument(envoy)

    def done(self, call: Call) -> int:
        """How many calls of the call's expert are over."""
        return self.counts.get(f"model.{call.expert}.output", 0)

    def begun(self, call: Call) -> int:
        """How many calls of the call's expert began."""
        return self.counts.get(f"model.{call.expert}.input", 0)

    def check_dangling_mediators(self) -> None:
        """Name the call in which a read that was never served waited."""
        for mediator in self.mediators:
            if mediator.alive and self.place is not None and mediator.pending is not None:
                mediator.worker.throw(_missed(self.place[0], mediator.pending.provider))
        super().check_dangling_mediators()


def _over() -> Any:
    raise AddressError("this trace is over: open another with lens.trace(...)")


def _missed(call: Call, location: Any) -> AddressError:
    where = str(location).removeprefix("model.")
    return AddressError(
        f"{where} does not run any more in step={call.step} {call.branch} (expert {call.expert}): inside t.at(...) "
        "read points in the order in which the model runs them, and those of that expert only"
    )


class Trace(InterleavingTracer):
    """What ``lens.trace`` returns.

    Attributes:
        run: The traced run, once the block is done (None after ``t.stop()``).
        calls: The denoiser calls that the trace runs, in order.
    """

    def __init__(self, lens: Any, calls: tuple[Call, ...], fn: Callable[[], Any]) -> None:
        super().__init__(None, self._call, True)
        self.lens, self.calls, self.make = lens, calls, fn
        self.run: Any = None

    def at(self, step: int, branch: Branch = "cond") -> Iterator[Any]:
        """The expert that runs at a step and branch, positioned there: ``for expert in t.at(step=5): ...``.

        Args:
            step: A step of the plan.
            branch: ``cond`` or ``uncond``.

        Raises:
            AddressError: For a call outside the plan, one that is over, and reads out of order.
        """
        call = self._find(step, branch)
        return self._within(call, [c for c in self.calls if c.expert == call.expert].index(call))

    @property
    def high(self) -> Any:
        """The high-noise expert as an nnsight envoy; outside ``at``, this expert's first call, as in nnsight."""
        return self.envoy.high

    @property
    def low(self) -> Any:
        """The low-noise expert, likewise."""
        return self.envoy.low

    def execute(self, code: CodeType) -> None:
        """Run the body of the trace, with modules wrapped meanwhile."""
        with ExitStack() as stack:
            stack.enter_context(self.lens._alone())
            stack.enter_context(mounted())
            for expert in self.lens.experts.values():
                stack.enter_context(expert.watching())
            self.envoy = stack.enter_context(_wrapped(self.lens))
            stack.enter_context(_replays_unwatched(self.lens, self.envoy.interleaver))
            try:
                super().execute(code)
            finally:
                self.lens, self.make = None, _over  # a trace that is kept does not keep the model

    # -- parts

    def _call(self, _: bool) -> Any:
        self.run = self.make()
        return self.run

    def _find(self, step: int, branch: Branch) -> Call:
        for call in self.calls:
            if (call.step, call.branch) == (step, branch):
                return call
        steps = sorted({c.step for c in self.calls})
        raise AddressError(
            f"this trace has no call at step={step} branch={branch!r}: it runs steps {steps} and "
            f"branches {sorted({c.branch for c in self.calls})}; lens.plan(...) lists them"
        )

    def _within(self, call: Call, number: int) -> Iterator[Any]:
        calls: _Calls = self.envoy.interleaver
        mediator: Any = Mediator.current("t.at()")
        expert = getattr(self.envoy, call.expert)
        if calls.done(call) > number:
            raise AddressError(f"step={call.step} {call.branch} is over: take t.at(...) in the order of lens.plan(...)")
        previous = mediator.iteration, calls.place
        try:
            if calls.begun(call) <= number:  # wait for the call to begin
                mediator.iteration = number
                Mediator.value(f"{expert.path}.input")
            mediator.iteration, calls.place = None, (call, number)
            mediator.handle = lambda provider, value: self._serve(mediator, provider, value)
            yield expert
        finally:
            mediator.iteration, calls.place = previous
            if calls.place is None:
                mediator.__dict__.pop("handle", None)

    def _serve(self, mediator: Any, provider: str, value: Any) -> Any:
        """Serve a read of the current call; throw into the body one that would get another call's value."""
        calls: _Calls = self.envoy.interleaver
        if calls.place is not None:
            call, number = calls.place
            inside = provider.startswith(f"model.{call.expert}.") and calls.done(call) == number
            if not inside and provider.startswith("model."):
                mediator.worker.parent = getcurrent()
                mediator.pending = mediator.worker.throw(_missed(call, provider))
                return value
        return Mediator.handle(mediator, provider, value)


@contextmanager
def _wrapped(lens: Any) -> Iterator[Any]:
    """The tree of nnsight over the experts; afterwards every module has the forward that it had."""
    root = nn.Module()
    for name, expert in lens.experts.items():
        root.add_module(name, expert.transformer)
    ours = [(m, m.__dict__.get("forward")) for m in root.modules() if STATE not in m.__dict__]
    try:
        yield _Root(root, rename=dict(RENAME), envoys={HookedBlock: _Block}, interleaver=_Calls())
    finally:
        for module, forward in ours:
            module.__dict__.pop(STATE, None)
            # Where an offload hook put its forward back meanwhile, that one stays.
            if isinstance(module.__dict__.get("forward"), Controller):
                del module.__dict__["forward"]
                if forward is not None:
                    module.__dict__["forward"] = forward


@contextmanager
def _replays_unwatched(lens: Any, interleaver: Interleaver) -> Iterator[None]:
    """Calls that an intervention replays are not calls of the plan: the trace must not count them."""
    replay = lens.replay

    def quietly(*args: Any, **kwargs: Any) -> Any:
        before, interleaver.interleaving = interleaver.interleaving, False
        try:
            return replay(*args, **kwargs)
        finally:
            interleaver.interleaving = before

    lens.__dict__["replay"] = quietly
    try:
        yield
    finally:
        lens.__dict__.pop("replay", None)


def trace(lens: Any, task: Any, step: int | None, branch: Branch, arguments: dict[str, Any]) -> Trace:
    """Open a trace; arguments and result are those of :meth:`Lens.trace`."""
    if isinstance(task, Run):
        if step is None or arguments:
            raise AddressError(
                "to trace a recorded run, name the one call to replay and nothing else: lens.trace(run, step=5, "
                "branch='cond'); to trace a generation that goes on from it, lens.trace(resume=run.until(5))"
            )
        call, replay = task.plan.at(step, branch), lens.replay
        return Trace(lens, (call,), lambda: replay(task, call))
    if step is not None:
        raise AddressError(
            "step= chooses the call of a recorded run, lens.trace(run, step=5); in a generation write t.at(step=5)"
        )
    before, last = arguments.get("resume"), arguments.get("stop_after")
    plan = lens.plan_of(**arguments) if before is None else before.plan
    begin = 0 if before is None else before.n_steps
    end = plan.n_steps if last is None else last + 1

    def generate() -> Any:
        out = lens.generate(task, **arguments)
        runs = [replace(run, meta={**run.meta, "traced": True}) for run in (out if isinstance(out, list) else [out])]
        return runs if isinstance(out, list) else runs[0]

    return Trace(lens, tuple(c for c in plan if begin <= c.step < end), generate)
