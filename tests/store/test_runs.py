"""Runs on disk: what is read is what was written, to the bit; whatever is not whole is refused; nothing is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from families import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dit_lens as dl
from dit_lens.store import runs
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS = 3
FAMILY = FAMILIES["i2v22"]


def go(lens: Any, family: Family = FAMILY, **more: Any) -> Any:
    return lens.generate(**{**family.call, "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more})


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def rich(lens: Any) -> Run:
    """A run with something in every field, stopped in the middle."""
    regions = {"left": np.arange(24) % 4 < 2, "nothing": np.zeros(24, dtype=bool), "a.b c": np.ones(24, dtype=bool)}
    records = [
        dl.record("resid_post", "text_embed"), dl.record("z", reduce="region_mean", layers=1),
        dl.record("z", reduce=dl.reduce.Tokens((1, 2)), name="some heads, two tokens", steps=0),
        dl.record("update", reduce="frame_mean", name="step=9 hook=x"), dl.record("q", reduce="token_norm"),
        dl.record("mlp_out", reduce=dl.reduce.Project(np.eye(24, 2)), steps=-2),
    ]  # fmt: skip
    other = go(lens, seed=4)
    with pytest.warns(UserWarning, match="whole stream"):
        edits = [dl.noise(step=1), dl.patch(step=0, hook="resid_post", source=other), dl.ablate(steps=[0, 2], layers=1)]
        return go(lens, interventions=edits, record=records, regions=regions, stop_after=1)


def same_tensor(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    nan = (a != a) & (b != b) if a.shape == b.shape else torch.tensor(False)  # a region without tokens has mean NaN
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | nan).all())


def assert_same(a: Run, b: Run) -> None:
    for name in ("plan", "size", "grid", "seed", "prompt", "edited", "fired", "dims", "meta"):
        assert getattr(a, name) == getattr(b, name), name
    drop = {"scheduler": None}
    assert dataclasses.replace(a.sampling, **drop) == dataclasses.replace(b.sampling, **drop)
    assert type(a.sampling.scheduler) is type(b.sampling.scheduler)
    if a.sampling.scheduler is not None:
        assert dict(a.sampling.scheduler.config) == dict(b.sampling.scheduler.config)
    assert same_tensor(a.latents, b.latents) and same_tensor(a.velocity, b.velocity)
    assert all(same_tensor(v, b.conditions.items()[k]) for k, v in a.conditions.items().items())
    assert a.activations.keys() == b.activations.keys()
    assert all(same_tensor(v, b.activations[k]) for k, v in a.activations.items())
    assert a.regions.keys() == b.regions.keys()
    assert all(v.dtype == b.regions[k].dtype and np.array_equal(v, b.regions[k]) for k, v in a.regions.items())
    for hook, dims in a.dims.items():
        assert list(dims) == list(b.dims[hook]), "the order of axes"


# -- whole runs


def test_every_field_comes_back(rich: Run, tmp_path: Path) -> None:
    assert runs.save_run(rich, tmp_path / "deep" / "run") == tmp_path / "deep" / "run"
    back = dl.load_run(tmp_path / "deep" / "run")
    assert_same(rich, back)
    assert len({a.hook for a in back.activations}) == 7 and rich.fired[1].remarks and rich.edited == (1,)
    assert not back.complete and back.task is None and repr(back) == repr(rich)
    assert back.array("q").identical(rich.array("q"))
    with pytest.raises(dl.RecordError, match=r"lens\.attach"):
        _ = back.video
    runs.save_run(back, tmp_path / "again")
    names = ("run.json", "run.safetensors")
    assert all((tmp_path / "again" / n).read_bytes() == (tmp_path / "deep" / "run" / n).read_bytes() for n in names)


def test_every_family_and_scheduler(family: Family, scheduler: str, tmp_path: Path) -> None:
    """A stopped run is stored, loaded, resumed: the uninterrupted run, bit for bit."""
    with load(family.build(scheduler)) as lens:
        edit = dl.noise(step=0, frames=1)
        whole = go(lens, family, interventions=edit, record=dl.record("resid_post", layers=1))
        for stop in range(STEPS - 1):
            begun = go(lens, family, interventions=edit, record=dl.record("resid_post", layers=1), stop_after=stop)
            begun.save(tmp_path / f"{stop}")
            back = dl.load_run(tmp_path / f"{stop}")
            assert_same(begun, back)
            rest = lens.generate(resume=back, record=dl.record("resid_post", layers=1))
            assert torch.equal(rest.latents, whole.latents) and torch.equal(rest.velocity, whole.velocity)
            assert all(torch.equal(v, rest.activations[a]) for a, v in whole.activations.items())
        whole.save(tmp_path / "whole")
        back = dl.load_run(tmp_path / "whole")
        assert np.array_equal(lens.attach(back).video, whole.video)
        assert torch.equal(lens.generate(resume=back.until(1)).final, whole.final)
        patched = [go(lens, family, interventions=dl.patch(step=1, source=s)).final for s in (whole, back)]
        assert torch.equal(*patched)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_activations(dtype: torch.dtype, tmp_path: Path) -> None:
    family = FAMILIES["t2v21"]
    pipe = family.build()
    pipe.transformer.to(dtype)
    with load(pipe) as lens:
        run = go(lens, family, record=dl.record("resid_post", "update"))
        run.save(tmp_path / "run")
        back = dl.load_run(tmp_path / "run")
        assert_same(run, back)
        at = "step=0 layer=0 hook=resid_post"
        assert back[at].dtype == dtype and back.conditions.prompt.dtype == dtype
        assert torch.equal(lens.generate(resume=back.until(1)).final, run.final)


def test_schedulers_of_a_run_come_back(lens: Any, tmp_path: Path) -> None:
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    runs = [go(lens, scheduler=euler), go(lens, preset="paper", num_inference_steps=3), go(lens, guidance_scale_2=2.0)]
    for i, run in enumerate(runs):
        run.save(tmp_path / str(i))
        back = dl.load_run(tmp_path / str(i))
        assert_same(run, back)
        assert torch.equal(lens.generate(resume=back.until(1)).final, run.final)

    class Mine(diffusers.FlowMatchEulerDiscreteScheduler):
        pass

    mine = go(lens, scheduler=Mine(shift=3.0), stop_after=0)
    with pytest.raises(dl.StoreError, match=r"Mine of your own cannot be stored.*FlowMatchEuler"):
        mine.save(tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and len(list(tmp_path.iterdir())) == 3


def test_a_run_that_has_not_begun(rich: Run, lens: Any, tmp_path: Path) -> None:
    rich.until(0).save(tmp_path / "run")
    back = dl.load_run(tmp_path / "run")
    assert back.n_steps == 0 and len(back.latents) == 1 and back.velocity.shape == (0, *rich.velocity.shape[1:])
    assert torch.equal(lens.generate(resume=back).latents[0], rich.latents[0])


def test_tensors_that_share_memory(rich: Run, tmp_path: Path) -> None:
    some = next(iter(rich.activations))
    shared = rich.latents.transpose(1, 2)
    run = dataclasses.replace(rich, velocity=rich.latents[1:], activations={some: shared, **rich.until(1).activations})
    run.save(tmp_path / "run")
    assert_same(run, dl.load_run(tmp_path / "run"))


# -- any run


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5) | st.none() | st.booleans()
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])


@st.composite
def tensors(draw: Any) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    bits = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))) * 3
    return bits.to(draw(DTYPES))


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"])),
    hooks=st.dictionaries(NAMES, tensors(), max_size=4),
    regions=st.dictionaries(NAMES, st.lists(st.booleans(), min_size=24, max_size=24), max_size=3),
    meta=st.dictionaries(NAMES, NUMBERS | st.lists(NUMBERS, max_size=2), max_size=4),
    seed=st.integers(0, 2**63),
)
def test_any_names_and_values_come_back(
    rich: Run, prompt: str, hooks: dict[str, torch.Tensor], regions: dict[str, Any], meta: dict[str, Any], seed: int
) -> None:
    run = dataclasses.replace(
        rich, prompt=prompt, meta=meta, seed=seed,
        activations={dl.Address(1, "uncond", -1, name): value for name, value in hooks.items()},
        regions={name: np.array(mask) for name, mask in regions.items()},
        fired=tuple(
            dataclasses.replace(f, touched={dl.Address(0, "cond", 2, name): 3 for name in hooks}) for f in rich.fired
        ),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run.save(Path(folder, "run"))
        assert_same(run, dl.load_run(Path(folder, "run")))


# -- tasks


def test_a_lab_run_scores_and_goes_on(tmp_path: Path) -> None:
    task = dl.tasks.load("maze", seed=3).twin("other_answer")
    with dl.load("lab") as lens:
        means = dl.record("resid_post", reduce="region_mean")
        begun = lens.generate(task, seed=0, num_inference_steps=2, stop_after=0, record=means)
        begun.save(tmp_path / "run")
        back = dl.load_run(tmp_path / "run")
        assert back.task == task and back.task.split == "test/other_answer-0"
        assert back.regions.keys() == begun.regions.keys()
        whole = lens.generate(resume=begun)
        rest = lens.generate(resume=lens.attach(back))
        assert torch.equal(rest.final, whole.final) and rest.score == whole.score
        rest.save(tmp_path / "rest")
        assert lens.attach(dl.load_run(tmp_path / "rest")).score == whole.score
    assert runs.load_run(tmp_path / "run").task is None, "the lower room knows no tasks"


@dataclasses.dataclass
class Foreign:
    """A task of somebody else's that happens to have the three words."""

    name: str = "chess"
    seed: int = 1
    split: str = "test"
    prompt: str = "mate in two"
    image: Any = None


@pytest.mark.parametrize("name", ["chess", "maze"])
def test_a_task_that_cannot_be_made_again(rich: Run, name: str, tmp_path: Path) -> None:
    """Unknown here, or another puzzle under that name: never the wrong one in silence, and never a lost run."""
    dataclasses.replace(rich, task=Foreign(name)).save(tmp_path / "run")
    with pytest.warns(UserWarning, match=rf"without its task \('{name}', seed 1.*replace\(run, task=") as seen:
        back = dl.load_run(tmp_path / "run")
    assert seen[0].filename == __file__
    assert back.task is None
    assert_same(rich, back)


def test_a_task_without_a_name_is_its_prompt(rich: Run, tmp_path: Path) -> None:
    dataclasses.replace(rich, task=object()).save(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dl.load_run(tmp_path / "run").task is None


# -- damage


@pytest.fixture
def saved(rich: Run, tmp_path: Path) -> Path:
    rich.save(tmp_path / "run")
    return tmp_path / "run"


def edit(folder: Path, **changes: Any) -> None:
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, **changes}))


def retensor(folder: Path, **changes: Any) -> None:
    """Other tensors, with a checksum that fits them."""
    tensors = {k: v for k, v in {**load_file(folder / "run.safetensors"), **changes}.items() if v is not None}
    save_file(tensors, folder / "run.safetensors")
    edit(folder, tensors=hashlib.sha256((folder / "run.safetensors").read_bytes()).hexdigest())


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, tuple[Any, str]] = {
    "no tensors": (lambda f: (f / "run.safetensors").unlink(), "holds no run: it needs run.json and run.safetensors"),
    "no json": (lambda f: (f / "run.json").unlink(), "holds no run"),
    "tensors cut": (lambda f: cut(f / "run.safetensors", 0.9), "damaged.*generate it again"),
    "tensors empty": (lambda f: cut(f / "run.safetensors", 0), "damaged"),
    "one bit": (lambda f: flip(f / "run.safetensors"), "not what was written"),
    "json cut": (lambda f: cut(f / "run.json", 0.7), "damaged"),
    "json empty": (lambda f: cut(f / "run.json", 0), "damaged"),
    "json is a list": (lambda f: (f / "run.json").write_text("[1, 2]"), "damaged"),
    "json is not text": (lambda f: (f / "run.json").write_bytes(b"\xff\xfe\x00{"), "damaged"),
    "no format": (lambda f: (f / "run.json").write_text("{}"), "damaged"),
    "newer": (lambda f: edit(f, format=99), "format 99 .*reads 3: load it with the version that wrote it"),
    "older": (lambda f: edit(f, format=1), "format 1 "),
    "a field less": (lambda f: edit(f, plan={"calls": []}), "damaged"),
    "a field too many": (lambda f: edit(f, size={"height": 1, "width": 1, "num_frames": 1, "depth": 1}), "damaged"),
    "wrong kind": (lambda f: edit(f, fired=3), "damaged"),
    "no latents": (lambda f: retensor(f, latents=None), "damaged"),
    "lengths": (lambda f: retensor(f, latents=torch.zeros(9, 2)), "do not fit"),
    "bad address": (lambda f: retensor(f, **{"activation.step=1": torch.zeros(1)}), "damaged"),
    "unknown condition": (lambda f: retensor(f, **{"conditions.sound": torch.zeros(1)}), "damaged"),
    "not safetensors": (
        lambda f: (
            (f / "run.safetensors").write_bytes(b"x" * 99),
            edit(f, tensors=hashlib.sha256(b"x" * 99).hexdigest()),
        ),
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(saved: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(saved)
    with pytest.raises(dl.StoreError, match=message):
        dl.load_run(saved)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_gets_through(rich: Run, data: Any) -> None:
    """Any one byte of the tensors changed, or either file cut anywhere: an error of ours, never another run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        rich.save(folder)
        file = folder / data.draw(st.sampled_from(["run.json", "run.safetensors"]))
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if file.suffix == ".safetensors" and data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            del content[at:]
        file.write_bytes(content)
        with pytest.raises(dl.StoreError):
            dl.load_run(folder)


def test_places_that_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises(dl.StoreError, match="holds no run"):
            dl.load_run(place)
    (tmp_path / "odd" / "run.json").mkdir(parents=True)
    with pytest.raises(dl.StoreError, match="cannot read"):
        dl.load_run(tmp_path / "odd")


# -- overwriting, and being interrupted


def test_a_run_replaces_a_run_and_nothing_else(rich: Run, saved: Path) -> None:
    other = dataclasses.replace(rich, prompt="another", activations={})
    other.save(saved)
    assert dl.load_run(saved).prompt == "another" and [p.name for p in saved.parent.iterdir()] == ["run"]
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(dl.StoreError, match="is not a saved run: choose another folder"):
        rich.save(saved)
    assert (saved / "notes.txt").read_text() == "mine" and dl.load_run(saved).prompt == "another"
    (saved.parent / "file").write_text("mine")
    with pytest.raises(dl.StoreError, match="choose another folder"):
        rich.save(saved.parent / "file")
    (saved.parent / "empty").mkdir()
    rich.save(saved.parent / "empty")
    with pytest.raises(dl.StoreError, match=r"cannot write a run .*can be written"):
        rich.save(saved.parent / "file" / "below")
    full = mock.Mock(side_effect=runs.SafetensorError("No space left on device (os error 28)"))  # which is no OSError
    with mock.patch.object(runs, "save_file", full), pytest.raises(dl.StoreError, match=r"No space.*can be written"):
        rich.save(saved.parent / "empty")


class Crash(BaseException):
    """As sudden as a signal: no handler of ours catches it."""


@pytest.mark.parametrize("before", [True, False], ids=["over a run", "new"])
def test_a_crash_at_any_point_leaves_the_old_run_or_none(
    rich: Run, tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = dataclasses.replace(rich, prompt="new")
    place = tmp_path / "run"
    if before:
        rich.save(place)

    def crash(*args: Any, **kwargs: Any) -> Any:
        raise Crash

    half = runs.save_file

    def crash_in_the_middle(tensors: Any, file: Path) -> None:
        half(tensors, file)
        cut(file, 0.5)
        raise Crash

    moves = []

    def crash_at_the_second_move(a: Path, b: Path, move: Any = os.replace) -> None:
        moves.append((a, b))
        if Path(a).name.count("old") == 0 and Path(b) == place:
            raise Crash
        move(a, b)

    for target, name, how in (
        (runs, "save_file", crash_in_the_middle), (Path, "write_text", crash), (runs, "_digest", crash),
        (os, "replace", crash_at_the_second_move),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(target, name, how)
            with pytest.raises(Crash):
                new.save(place)
        assert [p.name for p in tmp_path.iterdir()] == (["run"] if before else []), name
        if before:
            assert_same(rich, dl.load_run(place))
    assert len(moves) == (3 if before else 1)  # away, in (fails), back
    new.save(place)
    assert dl.load_run(place).prompt == "new"


def test_killed_without_a_chance_to_tidy(rich: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with kill -9, nothing is cleaned: what lies there is hidden, is no run, and hinders nobody."""

    def crash(*args: Any, **kwargs: Any) -> Any:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(Path, "write_text", crash)
        with pytest.raises(Crash):
            rich.save(tmp_path / "run")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".run-") and (left / "run.safetensors").is_file()
    with pytest.raises(dl.StoreError, match="holds no run"):
        dl.load_run(left)
    rich.save(tmp_path / "run")
    assert_same(rich, dl.load_run(tmp_path / "run"))


def test_what_json_cannot_say_is_refused_and_not_written_as_text(rich: Run, tmp_path: Path) -> None:
    numbers = {"a": np.float32(0.5), "b": np.arange(2), "c": torch.tensor(3), "d": tmp_path, "e": True}
    dataclasses.replace(rich, meta=numbers).save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").meta == {"a": 0.5, "b": [0, 1], "c": 3, "d": str(tmp_path), "e": True}
    with pytest.raises(dl.StoreError, match="hold a object cannot be stored: keep numbers and text"):
        dataclasses.replace(rich, meta={"x": object()}).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


# -- opening runs nothing


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"{tempfile.gettempdir()}/dit_lens_bomb_{os.getpid()}",)


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a pickle was opened")

    bomb = pickle.dumps(Bomb())
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    dl.load_run(saved)
    (saved / "run.safetensors").write_bytes(bomb)
    edit(saved, tensors=hashlib.sha256(bomb).hexdigest())
    with pytest.raises(dl.StoreError, match="damaged"):
        dl.load_run(saved)
    assert not Path(tempfile.gettempdir(), f"dit_lens_bomb_{os.getpid()}").exists()


@pytest.mark.parametrize(
    "name", ["trap_module.Scheduler", "os.system", "DDIMScheduler", "__import__", "UniPCMultistepScheduler "]
)
def test_no_name_in_a_file_is_imported(saved: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("import os\nos.environ['DIT_LENS_TRAPPED'] = '1'\nclass Scheduler: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(saved, scheduler={"class": name, "config": {"_class_name": name}}, meta={"model": "trap_module"})
    with pytest.raises(dl.StoreError, match="unknown scheduler"):
        dl.load_run(saved)
    edit(saved, scheduler=None, task={"name": "trap_module", "seed": 0, "split": "test", "content": ""})
    with pytest.warns(UserWarning, match="unknown task 'trap_module'"):
        assert dl.load_run(saved).task is None
    known = {"class": "UniPCMultistepScheduler", "config": {"_class_name": name, "auto_map": {"x": name}}}
    edit(saved, scheduler=known, task=None)
    assert type(dl.load_run(saved).sampling.scheduler) is diffusers.UniPCMultistepScheduler
    assert "trap_module" not in sys.modules and "DIT_LENS_TRAPPED" not in os.environ
