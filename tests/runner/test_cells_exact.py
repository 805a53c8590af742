"""Every cell equals the same cell generated from scratch, bit for bit, and costs what the plan says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sweeping import counted, lens_and_puzzle, naive, quiet, runs  # noqa: F401  (a fixture)

import dit_lens as dl
from dit_lens.interventions.knockout import knockout
from dit_lens.runner import Sweep
from dit_lens.runner.cells import Cell
from dit_lens.runner.metrics import Item
from dit_lens.wan.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:patching the whole stream")

Runs = dict[Cell, tuple[Item, Run]]
DIRECTION = torch.arange(24.0) - 7


def steer(**place: Any) -> Any:
    return dl.steer(DIRECTION, 3.0, **place)


def noise(steps: Any, **_: Any) -> Any:
    return dl.noise(steps=steps, seed=1)


#: What a sweep may be, and the arguments that make it so. "own": edits that take from no source.
KINDS: dict[str, dict[str, Any]] = {
    "update": {"steps": [0, 2], "horizon": "final"},
    "update, windows": {"steps": [(0, 1), (1, 2), (0, 2)], "layers": [1, (1, 2)], "horizon": "final"},
    "update, local window": {"steps": [(0, 1)], "layers": [0, 2], "horizon": "local"},
    "component": {"hooks": ["cross_attn_out", "mlp_gated"], "steps": [1], "layers": [1, 2], "horizon": 1},
    "head": {"hooks": ["z", "q"], "heads": [1], "steps": [1], "layers": [0, 2], "horizon": "local"},
    "text head": {"hooks": "cross_v", "heads": [0], "steps": [2], "layers": [2], "horizon": "final"},
    "region": {"regions": ["left"], "steps": [0, 1], "layers": [2], "horizon": 1},
    "whole stream": {"hooks": ["resid_post", "resid_pre"], "steps": [1], "layers": [1, 2], "horizon": "final"},
    "outside": {"hooks": ["text_embed", "time_embed", "patch_embed"], "steps": [1], "horizon": "final"},
    "after the blocks": {"hooks": ["final_norm", "velocity", "update"], "steps": [0], "layers": [1], "horizon": 1},
    "cond": {"branches": "cond", "steps": [0, (0, 1)], "layers": [1], "horizon": "final"},
    "each branch": {"branches": ["cond", "uncond", "all"], "steps": [1], "layers": [2], "horizon": "local"},
    "ablate": {"edit": dl.ablate, "own": True, "steps": [0], "layers": [1, (0, 2)], "horizon": 1},
    "ablate one branch": {"edit": dl.ablate, "own": True, "branches": "uncond", "steps": [1], "horizon": "final"},
    "steer": {"edit": steer, "own": True, "hooks": "resid_mid", "regions": "left", "steps": [1], "horizon": "final"},
    "noise": {"edit": noise, "own": True, "hooks": None, "steps": [0, 2, (1, 2)], "horizon": "final"},
}  # fmt: skip
MODELS = [("t2v21", "unipc"), ("i2v22", "euler"), ("t2v21", "euler"), ("i2v22", "unipc")]


@pytest.fixture(scope="module", params=MODELS[2:], ids="-".join)
def model(request: pytest.FixtureRequest) -> Any:
    """One expert and two, Euler and UniPC."""
    found = lens_and_puzzle(*request.param)
    yield found
    found[0].close()


@pytest.fixture(scope="module")
def one_model() -> Any:
    found = lens_and_puzzle("i2v22")
    yield found
    found[0].close()


def make(model: Any, own: bool = False, **arguments: Any) -> Sweep:
    lens, puzzle, sampling = model
    source = {"source": None, "placebo": "none"} if own else {"source": "other_answer"}
    return Sweep(lens, puzzle, **{**source, "seeds": 3, "sampling": sampling, **arguments})


def check(sweep: Sweep, runs: Runs) -> None:  # noqa: F811
    runs.clear()
    with counted() as blocks:
        sweep.run(progress=quiet)
    assert blocks[0] == sweep.plan(calibrate=False).total
    assert set(runs) == set(sweep.cells)
    for cell, (item, run) in runs.items():
        expected = naive(sweep, cell, item)
        assert torch.equal(run.latents, expected.latents), cell
        assert torch.equal(run.velocity, expected.velocity), cell
        assert torch.equal(run.final, expected.final), cell
        assert run.n_steps == expected.n_steps
        assert run.fired[0].touched == expected.fired[0].touched


def _half() -> list[Any]:
    """Every kind on one of the two models; on the other one it is slow-marked, for time."""
    pairs = [(kind, i, (n + i) % 2) for n, kind in enumerate(KINDS) for i in (0, 1)]
    return [
        pytest.param(kind, MODELS[2 + i], marks=[pytest.mark.slow] * odd, id=f"{kind}-{'-'.join(MODELS[2 + i])}")
        for kind, i, odd in pairs
    ]


@pytest.mark.parametrize(("kind", "model"), _half(), indirect=["model"], scope="module")
def test_cells_equal_naive_ones(kind: str, model: Any, runs: Runs) -> None:  # noqa: F811
    check(make(model, **KINDS[kind]), runs)


@pytest.mark.parametrize("which", MODELS[:2], ids="-".join)
def test_the_other_pairs_of_model_and_sampler(which: tuple[str, str], runs: Runs) -> None:  # noqa: F811
    model = lens_and_puzzle(*which)
    with model[0]:
        for kind in ("update, windows", "cond", "noise"):
            check(make(model, **KINDS[kind]), runs)


@pytest.mark.parametrize("family", ["i2v21", "t2v22", "ti2v22"])
def test_the_other_families(family: str, runs: Runs) -> None:  # noqa: F811
    """Image context, another pair of experts, a timestep for each token."""
    model = lens_and_puzzle(family)
    with model[0]:
        check(make(model, steps=[1, (0, 1)], layers=[1], horizon="final"), runs)
        hooks = ["image_embed", "cross_z_img"] if family == "i2v21" else ["modulation", "attn_out"]
        check(make(model, hooks=hooks, steps=[1], layers=[2], horizon=1), runs)


def test_knockouts_are_cells_too(one_model: Any, runs: Runs) -> None:  # noqa: F811
    def cut(hook: str, **place: Any) -> Any:
        return knockout("left", "frame 1", **place)

    check(make(one_model, own=True, edit=cut, hooks="z", steps=[1], layers=[1, 2], horizon="final"), runs)


def test_without_guidance_there_is_one_branch(one_model: Any, runs: Runs) -> None:  # noqa: F811
    lens, puzzle, sampling = one_model
    check(make((lens, puzzle, {**sampling, "guidance_scale": 1.0}), steps=[0], layers=[2], horizon="final"), runs)


def test_a_run_as_base(one_model: Any, runs: Runs) -> None:  # noqa: F811
    """Its sampling and size are taken over, and nothing of it is generated again."""
    lens, puzzle, sampling = one_model
    base = lens.generate(puzzle, seed=3, **sampling)
    source = lens.generate(puzzle.twin(""), seed=3, **sampling)
    sweep = Sweep(
        lens, base, source, steps=[1], layers=[2], horizon="final", placebo="none",
        sampling={k: sampling[k] for k in ("negative_prompt", "max_sequence_length")},
    )  # fmt: skip
    with counted() as blocks:
        sweep.run(progress=quiet)
    L = lens.n_layers
    assert blocks[0] == sweep.plan(calibrate=False).total == 2 * 1 + 2 * L + 2 * 2 * L
    ((_, run),) = runs.values()
    edit = dl.patch(step=1, layers=2, source=source)
    assert torch.equal(run.final, lens.generate(puzzle, seed=3, interventions=[edit], **sampling).final)


@pytest.mark.parametrize(("horizon", "formula"), [("final", "S L (S L + 1)"), ("local", "S L (L + 1)")])
def test_the_formulas(horizon: str, formula: str, one_model: Any) -> None:
    """All (step, layer) cells of one kind, and each stated baseline."""
    sweep = make(one_model, horizon=horizon, placebo="none")
    S, L = sweep.model_plan.n_steps, sweep.lens.n_layers
    with counted() as blocks:
        sweep.run(progress=quiet)
    cells = {"S L (S L + 1)": S * L * (S * L + 1), "S L (L + 1)": S * L * (L + 1)}[formula]
    generations, captures = 2 * 2 * S * L, S * (2 * L + 2 * L)  # base and source; streams and activations at each step
    plan = sweep.plan(calibrate=False)
    assert (plan.blocks, plan.baselines, plan.naive) == (cells, generations + captures, 2 * S**2 * L**2)
    assert blocks[0] == cells + generations + captures


@pytest.mark.parametrize("memory", [0, 20_000, 1 << 30])
def test_little_memory_costs_more_and_changes_nothing(memory: int, one_model: Any, runs: Runs) -> None:  # noqa: F811
    sweep = make(one_model, steps=[1], hooks=["update", "attn_out"], horizon="local", memory=memory)
    check(sweep, runs)
    dear, cheap = (sweep.but(memory=m).plan(calibrate=False) for m in (0, 1 << 30))
    assert dear.baselines > cheap.baselines and dear.blocks == cheap.blocks
    assert sweep.plan(calibrate=False).memory <= max(memory, dear.memory)


def test_memory_is_what_is_held(one_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's bytes against the tensors that are really kept."""
    from dit_lens.runner import cell_engine

    held: list[int] = []

    class Watched(cell_engine.Remembered):
        def __call__(self, *args: Any) -> Any:
            found = super().__call__(*args)
            tensors = [t for kept in self._kept.values() for t in kept.values()]
            own = {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors}
            held.append(sum(own.values()))
            return found

    streams: list[int] = []
    real = cell_engine.capture

    def capture(*args: Any) -> Any:
        kept = real(*args)
        streams.append(sum(t.numel() * t.element_size() for call in kept.streams.values() for t in call.values()))
        return kept

    monkeypatch.setattr(cell_engine, "Remembered", Watched)
    monkeypatch.setattr(cell_engine, "capture", capture)
    for hooks in ("update", ["z", "mlp_post", "mlp_gated"], ["text_embed", "cross_v"]):
        held.clear(), streams.clear()
        sweep = make(one_model, steps=[1], hooks=hooks, horizon="local")
        sweep.run(progress=quiet)
        assert max(held) + max(streams) == sweep.plan(calibrate=False).memory, hooks


@pytest.mark.parametrize("family", ["i2v21", "ti2v22"])
def test_bytes_of_each_activation(family: str) -> None:
    """Before anything ran, also of image context and of timesteps for each token."""
    lens, puzzle, sampling = lens_and_puzzle(family)
    with lens:
        hooks = ("resid_pre", "z", "text_embed", "cross_v", "time_embed", "velocity")
        hooks += ("image_embed", "cross_v_img") if family == "i2v21" else ()
        run = lens.generate(puzzle, **sampling, stop_after=0, record=dl.record(*hooks, layers=0, branches="cond"))
        sweep = Sweep(lens, puzzle, "other_answer", sampling=sampling)
        found = {a.hook: t.numel() * t.element_size() for a, t in run.activations.items()}
        assert found == {hook: sweep.size(hook) for hook in hooks}


def test_reuse_of_another_run_is_refused(one_model: Any) -> None:
    from dit_lens.wan.reuse import capture

    lens, puzzle, sampling = one_model
    one, other = (lens.generate(puzzle, seed=seed, **sampling) for seed in (0, 1))
    kept = capture(lens.replay, one, {one.plan.at(1): {1}}, lens.n_layers)
    with pytest.raises(dl.SamplerError, match="capture them from the run that is forked"):
        lens.fork(other.until(1), reuse=kept)
    lens.fork(one.until(1), reuse=kept)


def test_reuse_is_needed_for_nothing(one_model: Any) -> None:
    """A fork that begins from a kept stream, without any edit, is the run itself, and runs fewer blocks."""
    from dit_lens.wan.reuse import capture

    lens, puzzle, sampling = one_model
    run = lens.generate(puzzle, seed=0, **sampling)
    call = run.plan.at(1)
    kept = capture(lens.replay, run, {call: {1, lens.n_layers}}, lens.n_layers)
    kept.velocities.clear()
    with counted() as blocks:
        again = lens.fork(run.until(1), stop_after=1, reuse=kept)
    assert blocks[0] == lens.n_layers  # uncond alone
    assert torch.equal(again.latents, run.latents[:3])


def test_offload_hooks_see_every_block(runs: Runs) -> None:  # noqa: F811
    """Blocks that are passed over still go through their own forward, on which prefetching offload relies."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    seen: list[int] = []

    class Mover(ModelHook):
        def __init__(self, layer: int) -> None:
            self.layer = layer

        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.layer)
            return args, kwargs

    lens, puzzle, sampling = lens_and_puzzle()
    with lens:
        for layer, block in enumerate(lens.pipe.transformer.blocks):
            add_hook_to_module(block, Mover(layer))
        sweep = make((lens, puzzle, sampling), steps=[1], layers=[2], horizon="local", placebo="none")
        sweep.run(progress=quiet)
        assert len(seen) % lens.n_layers == 0 and seen == list(range(lens.n_layers)) * (len(seen) // lens.n_layers)
        ((cell, (item, run)),) = runs.items()
        assert torch.equal(run.velocity, naive(sweep, cell, item).velocity)
        for block in lens.pipe.transformer.blocks:
            remove_hook_from_module(block)
    assert lens._working == 0
