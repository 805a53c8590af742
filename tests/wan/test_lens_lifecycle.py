"""Opening, sharing, copying and dropping a lens: what goes wrong says so, and leaves the pipeline as it was."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import FAMILIES, HEAD_DIM, HEADS, Family, transformer
from pipeline_state import experts_of, state
from safetensors.torch import save_file

import dit_lens as dl
from dit_lens.errors import InterventionError, LoadError, MeasureError, SamplerError
from dit_lens.wan import drift_check
from dit_lens.wan.expert import Expert, release
from dit_lens.wan.fingerprint import Fingerprint
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

FAMILY = FAMILIES["i2v22"]  # two experts
HOW: dict[str, Any] = {**FAMILY.call, "num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return lens.generate(**HOW, seed=3)


# -- one thread at a time


def in_another_thread(act: Callable[[], Any]) -> BaseException | None:
    """What a second thread raises while the first is at work."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def acts(lens: Any, base: Run) -> dict[str, Callable[[], Any]]:
    def traced() -> None:
        with lens.trace(**HOW) as t:
            t.high.blocks[0].hook_resid_post.output  # noqa: B018

    return {
        "generate": lambda: lens.generate(**HOW),
        "resume": lambda: lens.generate(resume=base.until(1)),
        "replay": lambda: lens.replay(base, base.plan.at(0)),
        "run_with_cache": lambda: lens.run_with_cache(**HOW, names_filter="hook_velocity"),
        "trace": traced,
        "close": lens.close,
    }


@pytest.mark.parametrize("act", ["generate", "resume", "replay", "run_with_cache", "trace", "close"])
def test_a_second_thread_is_refused_and_harms_nothing(lens: Any, base: Run, act: str) -> None:
    said: list[BaseException | None] = []

    def meanwhile(x: torch.Tensor, hook: Any) -> None:
        if not said:
            said.append(in_another_thread(acts(lens, base)[act]))

    run = lens.run_with_hooks(**HOW, seed=3, fwd_hooks=[("blocks.1.hook_resid_post", meanwhile)])
    assert isinstance(said[0], SamplerError)
    assert "another thread" in str(said[0]) and "for each thread" in str(said[0]) and "Lock" in str(said[0])
    assert torch.equal(run.latents, base.latents)
    assert torch.equal(lens.generate(**HOW, seed=3).latents, base.latents)  # and it serves on


def test_threads_may_take_turns(lens: Any, base: Run) -> None:
    found: list[Run] = []
    assert in_another_thread(lambda: found.append(lens.generate(**HOW, seed=3))) is None
    assert torch.equal(found[0].latents, base.latents)


# -- copies


@pytest.mark.parametrize(
    ("act", "cure"),
    [
        (copy.copy, "Load another with dit_lens.load"),
        (copy.deepcopy, "Load another with dit_lens.load"),
        (pickle.dumps, "run.save"),
        (lambda lens: copy.deepcopy([lens]), "Load another with dit_lens.load"),
    ],
    ids=["copy", "deepcopy", "pickle", "inside a list"],
)
def test_a_lens_cannot_be_copied_and_stays_as_it_is(lens: Any, base: Run, act: Any, cure: str) -> None:
    with pytest.raises(LoadError, match=cure):
        act(lens)
    assert torch.equal(lens.generate(**HOW, seed=3).latents, base.latents)


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_run_can_be_copied(lens: Any, base: Run, act: Any) -> None:
    again = act(base)
    assert torch.equal(again.latents, base.latents) and again.plan == base.plan and again.meta == base.meta
    assert torch.equal(lens.generate(resume=again.until(1)).latents, base.latents)
    assert (lens.attach(again).video == base.video).all()


def test_a_copied_run_decodes_and_a_pickled_one_says_how(base: Run) -> None:
    assert (copy.deepcopy(base).video == base.video).all()
    with pytest.raises(dl.errors.RecordError, match=r"lens.attach\(run\)"):
        pickle.loads(pickle.dumps(base)).decode(base.final)


def test_a_copy_of_a_pipeline_under_a_lens_never_touches_the_original(base: Run) -> None:
    pipe = FAMILY.build()
    with load(pipe) as lens:
        twin = copy.deepcopy(pipe)
        with pytest.raises(LoadError, match="a copy of one that was under a lens"):
            release(twin)
        assert torch.equal(lens.generate(**HOW, seed=3).latents, base.latents)


# -- dropping and releasing


def used() -> Any:
    """A pipeline that has generated before: what diffusers keeps in it is there already."""
    pipe = FAMILY.build()
    pipe(**HOW, output_type="latent")
    return pipe


def test_a_lens_that_is_dropped_frees_its_pipeline() -> None:
    pipe = used()
    before, lens = state(pipe), load(pipe)
    run = lens.generate(**HOW, seed=3, record=dl.record("z"), interventions=dl.ablate(layers=1))
    gone = weakref.ref(lens)
    del lens
    assert gone() is None  # at once: nothing holds a lens but its user, not the run that it made either
    assert state(pipe) == before
    with load(pipe) as again:
        assert torch.equal(again.generate(**HOW, seed=3, interventions=dl.ablate(layers=1)).latents, run.latents)
    assert run.video.shape[0] == FAMILY.call["num_frames"]  # and it still decodes


def test_after_a_trace_a_cache_and_an_error_it_is_freed_too() -> None:
    def traced(lens: Any) -> torch.Tensor:  # apart: nnsight takes a picture of its caller's variables
        with lens.trace(**HOW) as t:
            for expert in t.at(step=0):
                kept = expert.blocks[0].hook_resid_post.output.save()
        return kept

    pipe = used()
    before, lens = state(pipe), load(pipe)
    kept = traced(lens)
    run, cache = lens.run_with_cache(**HOW, names_filter="blocks.1.attn.hook_z")
    with pytest.raises(ZeroDivisionError):
        lens.run_with_hooks(**HOW, fwd_hooks=[("hook_velocity", lambda x, hook: 1 / 0)])
    gone = weakref.ref(lens)
    del lens
    gc.collect()  # the error's frames
    assert gone() is None and state(pipe) == before
    assert kept.ndim == 3 and len(cache) and run.complete


def test_a_lens_in_a_circle_of_references_makes_room_for_the_next() -> None:
    pipe = FAMILY.build()
    circle: list[Any] = [load(pipe)]
    circle.append(circle)
    del circle
    load(pipe).close()


@pytest.mark.parametrize("drop", [False, True])
def test_release_takes_the_points_out_from_outside(drop: bool) -> None:
    pipe = used()
    before = state(pipe)
    lens = load(pipe)
    with pytest.raises(LoadError, match=r"dit_lens.release\(pipe\)"):
        load(pipe)
    dl.release(pipe)
    assert state(pipe) == before
    if not drop:
        with pytest.raises(dl.errors.BypassError, match="a closed lens"):
            lens.generate(**HOW)
        lens.close()  # does no harm
    dl.release(pipe)  # nor does a second time
    load(pipe).close()
    assert state(pipe) == before


# -- failures while opening


def test_one_model_for_both_experts_is_refused() -> None:
    pipe = FAMILY.build()
    pipe.transformer_2 = pipe.transformer
    before = state(pipe)
    with pytest.raises(LoadError, match=r"transformer and transformer_2 are the same model.*load the second"):
        load(pipe)
    assert state(pipe) == before


class Injected(Exception):
    """A failure that nothing in the package knows."""


def failing(real: Callable[..., Any], at: int) -> Callable[..., Any]:
    """``real``, which fails the ``at``-th time after it did its work."""
    count = [0]

    def act(*args: Any, **more: Any) -> Any:
        count[0] += 1
        found = real(*args, **more)
        if count[0] == at:
            raise Injected
        return found

    return act


STAGES: list[tuple[Any, str, int]] = [
    (Expert, "_swap", 1), (Expert, "_swap", 2), (Expert, "_swap", 8), (Expert, "_swap", 19), (Expert, "_tap", 1),
    (Expert, "_tap", 3), (Expert, "_tap", 4), (Expert, "_install", 1), (Expert, "_install", 2), (Expert, "setup", 2),
    (Expert, "_find", 5), (Fingerprint, "__init__", 1), (Fingerprint, "read", 1), (drift_check, "verify", 1),
    (drift_check, "verify", 2),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "at"), STAGES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_failure_at_any_stage_leaves_the_pipeline_untouched(
    owner: Any, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = FAMILY.build()
    before = state(pipe)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), at))
        with pytest.raises(Injected):
            load(pipe)
    assert state(pipe) == before
    with load(pipe) as lens:
        assert lens.generate(**HOW).complete


@pytest.mark.parametrize("part", ["proj_out", "patch_embedding", "condition_embedder"])
def test_a_module_that_takes_no_points_leaves_the_pipeline_untouched(part: str) -> None:
    """As quantised layers do: their class cannot be swapped, half of the points being in place."""
    pipe = FAMILY.build()

    class Closed(type(getattr(pipe.transformer_2, part))):  # type: ignore[misc]
        __slots__ = ("packed",)

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "__class__":
                raise TypeError("object layout differs")
            super().__setattr__(name, value)

    module = Closed.__new__(Closed)
    module.__dict__.update(getattr(pipe.transformer_2, part).__dict__)
    setattr(pipe.transformer_2, part, module)
    before = state(pipe)
    with pytest.raises(TypeError, match="layout differs"):
        load(pipe)
    assert state(pipe) == before and type(getattr(pipe.transformer_2, part)) is Closed


def lora_file(path: Any) -> Any:
    width, made = HEADS * HEAD_DIM, torch.Generator().manual_seed(0)
    shapes = {"lora_A": (2, width), "lora_B": (width, 2)}
    name = "transformer.blocks.0.attn1.to_q.{}.weight"
    save_file({name.format(k): torch.randn(*shape, generator=made) for k, shape in shapes.items()}, str(path))
    return path


@pytest.mark.parametrize("stage", ["verify", "offload", "second file"])
def test_a_failure_after_adapters_takes_them_out_again(
    stage: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = FAMILY.build()
    names = [[n for n, _ in model.named_parameters()] for model in experts_of(pipe)]
    files = [lora_file(tmp_path / "high.safetensors"), lora_file(tmp_path / "low.safetensors")]
    more: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        if stage == "verify":  # the first two are of the trial before anything is changed
            patch.setattr(drift_check, "verify", failing(drift_check.verify, 3))
        if stage == "offload":
            more = {"offload": "model"}
            patch.setattr(type(pipe), "enable_model_cpu_offload", failing(lambda self: None, 1))
        if stage == "second file":
            files[1].write_bytes(b"no weights")
        with pytest.raises((Injected, LoadError)):
            load(pipe, lora=files, **more)
    assert [[n for n, _ in model.named_parameters()] for model in experts_of(pipe)] == names
    assert not any(getattr(model, "peft_config", {}) for model in experts_of(pipe))
    load(pipe).close()


def test_what_cannot_be_wrapped_is_refused_before_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = FAMILY.build()
    before = state(pipe)
    with monkeypatch.context() as patch:
        patch.setattr(drift_check, "verify", failing(drift_check.verify, 1))
        with pytest.raises(Injected):
            load(pipe, dtype="bfloat16")
    assert state(pipe) == before and pipe.transformer.dtype == torch.float32


def test_what_holds_the_forwards_is_told_by_its_name() -> None:
    """Each of these was refused before with another's cure."""
    from nnsight import NNsight

    def hooked(pipe: Any) -> None:
        pipe.transformer.blocks[0].register_forward_hook(lambda module, args, out: out * 2)

    def grouped(pipe: Any) -> None:
        cpu = torch.device("cpu")
        pipe.transformer.enable_group_offload(cpu, cpu, offload_type="block_level", num_blocks_per_group=1)

    for act, cure in (
        (hooked, "forward hooks of your own.*handle.remove"),
        (lambda pipe: NNsight(pipe.transformer), "wrapped by NNsight.*lens.trace"),
        (grouped, "group offloading.*after dit_lens.load"),
    ):
        pipe = FAMILY.build()
        act(pipe)
        before = state(pipe)
        with pytest.raises(dl.errors.BypassError, match=cure):
            load(pipe)
        assert state(pipe) == before


# -- nnsight


def test_a_trace_leaves_nothing_on_objects(lens: Any, base: Run) -> None:
    backward = torch.Tensor.backward
    with lens.trace(**HOW, seed=3) as t:
        for expert in t.at(step=1, branch="cond"):
            kept = expert.blocks[1].hook_resid_post.output.save()
    assert not hasattr(3, "save") and torch.Tensor.backward is backward
    assert kept.ndim == 3 and torch.equal(t.run.latents, base.latents)


def test_also_when_an_exception_passes(lens: Any) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lens.trace(**HOW) as t:
            for expert in t.at(step=0):
                _ = expert.blocks[0].hook_resid_post.output.save()
                1 / 0  # noqa: B018
        assert not hasattr(object(), "save")


def test_in_a_fresh_process_and_beside_a_users_own_nnsight() -> None:
    """The first trace imports nnsight, which gives every object a ``save``; a user's own import keeps it."""
    head = "import sys; sys.path.insert(0, 'tests'); from families import FAMILIES; "
    tail = (
        "import torch; before = torch.Tensor.backward\n"
        "import dit_lens; lens = dit_lens.load(FAMILIES['t2v21'].build())\n"
        "with lens.trace(**FAMILIES['t2v21'].call, num_inference_steps=1) as t:\n"
        "    for e in t.at(step=0): x = e.blocks[0].hook_resid_post.output.save()\n"
        "print(hasattr(3, 'save'), x.ndim, torch.Tensor.backward is before)"
    )
    for first, expected in (("", "False 3 True"), ("import nnsight; ", "True 3 True")):
        code = f"{head}{first}\n{tail}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == expected, done.stderr[-2000:]


# -- hooks of the user's own


def test_a_hook_put_on_a_point_by_hand_is_in_the_run(lens: Any, base: Run, tmp_path: Any) -> None:
    point = lens.experts["low"].hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda x, hook: x * 1.5)
    try:
        run = lens.generate(**HOW, seed=3)
        resumed = lens.generate(resume=base.until(1))
    finally:
        point.remove_hooks()
    assert not torch.equal(run.latents, base.latents)
    for one in (run, resumed):
        assert one.meta["user hooks"] == ["low: blocks.1.hook_resid_post"]
        assert "put on points by hand: low: blocks.1.hook_resid_post" in repr(one)
    assert "user hooks" not in base.meta and "user hooks" not in lens.generate(**HOW).meta
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").meta["user hooks"] == run.meta["user hooks"]
    assert lens.generate(resume=run.until(2)).meta["user hooks"] == run.meta["user hooks"]
    with pytest.raises(MeasureError, match=r"interventions or hooks.*without them"):
        dl.Sweep(lens, run, base, steps=[0], layers=[0])


def test_hooks_put_on_by_hand_stay_the_users(lens: Any, base: Run) -> None:
    """A generation that listens at the same point takes its own hooks away, and no others."""
    path, seen = "blocks.1.hook_resid_post", []
    points = [expert.hook_dict[path] for expert in lens.experts.values()]
    for point in points:
        point.add_hook(lambda x, hook: seen.append(x), level=7001)  # the level that the lens uses, too
    try:
        lens.generate(**HOW, seed=3, record=dl.record("resid_post", reduce="token_norm"))
        lens.run_with_hooks(**HOW, seed=3, fwd_hooks=[(path, lambda x, hook: None)])
        before = len(seen)
        lens.replay(base, base.plan.at(0))
        assert before == 2 * len(base.plan) and len(seen) == before + 1
        assert [len(point.fwd_hooks) for point in points] == [1, 1]
    finally:
        for point in points:
            point.remove_hooks()
    assert "user hooks" not in lens.generate(**HOW).meta and len(seen) == before + 1


# -- a call inside a call


@pytest.mark.parametrize("inner", ["replay", "generate"])
def test_the_model_cannot_be_run_inside_a_hook(lens: Any, base: Run, inner: str) -> None:
    def late(x: torch.Tensor, hook: Any) -> None:
        if inner == "replay":
            lens.replay(base, base.plan.at(0))
        else:
            lens.generate(**HOW)

    with pytest.raises(InterventionError, match=r"inside|cannot run the model again.*prepare\(\)"):
        lens.run_with_hooks(**HOW, fwd_hooks=[("blocks.0.hook_resid_post", late)])
    assert torch.equal(lens.generate(**HOW, seed=3).latents, base.latents)


# -- families are not needed for any of this, but the smallest one opens too


def test_one_expert_is_freed_as_two_are() -> None:
    family: Family = FAMILIES["t2v21"]
    pipe = family.build()
    before = state(pipe)
    lens: Lens | None = load(pipe)
    assert lens is not None and lens.n_layers == 3
    lens = None
    assert state(pipe) == before
    assert transformer(16).config.num_layers == 3
