"""Runs on disk: what is read is what was written, to the bit, for any run."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from families import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from saving import STEPS, assert_same, go

import dit_lens as dl
from dit_lens.store.run_files import read_run, write_run
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

# -- whole runs


def test_every_field_comes_back(rich: Run, tmp_path: Path) -> None:
    assert write_run(rich.content(), tmp_path / "deep" / "run") == tmp_path / "deep" / "run"
    back = dl.load_run(tmp_path / "deep" / "run")
    assert_same(rich, back)
    assert len({a.hook for a in back.activations}) == 7 and rich.fired[1].remarks and rich.edited == (1,)
    assert not back.complete and back.task is None and repr(back) == repr(rich)
    assert back.array("q").identical(rich.array("q"))
    with pytest.raises(dl.RecordError, match=r"lens\.attach"):
        _ = back.video
    back.save(tmp_path / "again")
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
    paper = {"preset": "paper", "num_inference_steps": 3}
    for i, more in enumerate(({"scheduler": euler}, paper, {"guidance_scale_2": 2.0})):
        run = go(lens, **more)
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
        assert (
            back.task == task
            and back.task.split == "test/other_answer-0"
            and back.regions.keys() == begun.regions.keys()
        )
        whole = lens.generate(resume=begun)
        rest = lens.generate(resume=lens.attach(back))
        assert torch.equal(rest.final, whole.final) and rest.score == whole.score
        rest.save(tmp_path / "rest")
        assert lens.attach(dl.load_run(tmp_path / "rest")).score == whole.score
    assert Run.from_content(read_run(tmp_path / "run")).task is None, "the lower room knows no tasks"


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
