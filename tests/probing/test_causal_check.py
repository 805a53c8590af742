"""The causal check, on directions that decide the answer by construction and on directions that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from families import FAMILIES, HEAD_DIM, HEADS
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dit_lens as dl
from dit_lens.address import Address
from dit_lens.errors import ProbeError
from dit_lens.interventions.erase import erase
from dit_lens.probing.causal_check import MEASURES, NO_PATTERN, _turned, causal, summary
from dit_lens.probing.concept_erasure import Eraser
from dit_lens.probing.linear_probe import Probe
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

D = HEADS * HEAD_DIM
FAMILY = FAMILIES["t2v21"]


def probe_along(normals: np.ndarray, at: str, scale: float = 1.0, **about: Any) -> Probe:
    """A probe with these normals, (d,) or (classes, d), in the activation's own coordinates."""
    rows = np.atleast_2d(normals)
    d, k = rows.shape[1], max(2, len(rows))
    x = np.eye(k, d) if k <= d else np.zeros((k, d))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, np.arange(k))
    pipeline[0].mean_, pipeline[0].scale_ = np.zeros(d), np.full(d, scale)
    pipeline[1].coef_ = rows * scale
    return Probe(pipeline, "planted", Address.parse(at), "token", tuple(range(k)), about=about)


# -- a lens whose answer depends on one direction alone

STEPS = 3
LAST = "step=2 hook=final_norm"
BAR = 0.06


class Reddish:
    """A puzzle in name: its answer is whether the finished video is redder than ``bar``."""

    def __init__(self, seed: int, bar: float = 0.5) -> None:
        task = dl.tasks.load("choose", seed)
        self.name, self.seed, self.prompt, self.image = "reddish", seed, task.prompt, task.image
        self.height, self.width, self.num_frames, self.bar = task.height, task.width, task.num_frames, bar

    def answer(self, video: np.ndarray) -> bool:
        return float(video[..., 0].mean()) > self.bar

    def score(self, video: np.ndarray) -> Any:
        return SimpleNamespace(value=float(video[..., 0].mean()))

    @property
    def solutions(self) -> tuple[bool, ...]:
        return (False,)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def rows(lab: Lens) -> np.ndarray:
    """What the projection after the blocks reads, (outputs, d): patch values of 4 places x 16 channels."""
    expert = lab.experts[lab.plan(num_inference_steps=STEPS).at(STEPS - 1).expert]
    return expert.transformer.proj_out.weight.detach().double().numpy()


@pytest.fixture(scope="module")
def reddish(lab: Lens) -> list[Reddish]:
    """Bars a little below what the bases give, so that all of them answer yes."""
    tasks = [Reddish(seed) for seed in range(3)]
    for i, task in enumerate(tasks):
        task.bar = task.score(lab.generate(task, seed=i, num_inference_steps=STEPS).video).value - BAR
    return tasks


@pytest.fixture(scope="module")
def planted(lab: Lens, rows: np.ndarray, reddish: list[Reddish]) -> xr.Dataset:
    """Along the sum of what writes red into the squares and discs of all places, at the last step."""
    red = np.isin(np.arange(64) % 16, (0, 3, 6, 9, 12))
    u = np.linalg.pinv(rows) @ red.astype(float)
    held = {"steps": STEPS - 1, "sampling": {"num_inference_steps": STEPS}, "target": lambda task: task}
    return causal(lab, probe_along(u, LAST), reddish, strengths=(1.0,), draws=1, **held)


def test_a_direction_that_decides_the_answer_is_found(planted: xr.Dataset) -> None:
    """More velocity along red means less red in x - sigma v: one push flips every answer, the other none."""
    found = planted.sel(when="once")
    np.testing.assert_array_equal(found["changed"].sel(kind="steer +1"), 1)
    np.testing.assert_array_equal(found["reached"].sel(kind="steer +1"), 1)
    np.testing.assert_array_equal(found["changed"].sel(kind="steer -1"), 0)
    assert (found["score"].sel(kind="steer +1") < -BAR).all() and (found["score"].sel(kind="steer -1") > 0.04).all()
    # Random directions are written into the latents as strongly, but not as red (a little by clipping to [0, 1]).
    steered = found.sel(kind=["steer +1", "steer -1"])
    assert not steered["changed_null"].any() and np.abs(steered["score_null"]).max() < 0.05
    assert float(steered["size_null"].mean()) > 0.5 * float(steered["size"].mean())
    s = summary(planted).sel(metric="changed", when="once", kind="steer +1")
    assert float(s["difference"]) == 1 == float(s["value"]) and float(s["null"]) == 0 and int(s["n"]) == 3
    assert np.isnan([s["low"], s["difference_low"]]).all(), "three tasks give no interval"


def test_the_result_says_what_it_is(planted: xr.Dataset, reddish: list[Reddish]) -> None:
    assert planted["changed"].dims == ("task", "when", "kind") and planted["changed_null"].dims[-1] == "draw"
    assert planted["kind"].values.tolist() == ["steer +1", "steer -1", "erase"]
    assert planted["task"].values.tolist() == [f"reddish {i}" for i in range(3)]
    assert planted.attrs["at"] == "step=2 branch=cond hook=final_norm" and planted.attrs["n_steps"] == STEPS
    assert all(planted[name].attrs["long_name"] and planted[name].attrs["units"] for name in MEASURES)
    np.testing.assert_allclose(planted["base_score"], [task.bar + BAR for task in reddish], atol=1e-6)
    # Held at the one step that it has: the same edit.
    np.testing.assert_array_equal(planted["size"].sel(when="held"), planted["size"].sel(when="once"))


def test_a_direction_that_nothing_reads_has_no_effect(lab: Lens, rows: np.ndarray, reddish: list[Reddish]) -> None:
    """Orthogonal to every row of the projection: pushed far and erased, the velocity stays as it is."""
    u = np.linalg.svd(rows)[2][-1]
    assert np.abs(rows @ u).max() < 1e-9
    found = causal(
        lab,
        probe_along(u, LAST),
        reddish[:1],
        strengths=(20.0,),
        steps=2,
        draws=1,
        sampling={"num_inference_steps": STEPS},
    )
    assert float(found["size"].max()) < 1e-5 and (found["size_null"] > 1e-3).all()
    assert not found["changed"].any() and np.abs(found["score"]).max() < 1e-5


# -- every arm is the intervention that it says (a tiny lens, without answers)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Lens]:
    with load(FAMILY.build()) as lens:
        yield lens


HOW = {k: v for k, v in FAMILY.call.items() if k != "prompt"} | {"num_inference_steps": 3, "guidance_scale": 5.0}
TASK = SimpleNamespace(prompt=FAMILY.call["prompt"])
AT = "step=1 layer=1 hook=resid_post"


def normal(seed: int = 0, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape or D)


def size(run: Run, base: Run) -> float:
    return float((run.final.double() - base.final.double()).norm() / base.final.double().norm())


def check(lens: Lens, probe: Probe, **more: Any) -> xr.Dataset:
    return causal(lens, probe, [TASK], seeds=[5], draws=1, sampling=HOW, **more).isel(task=0)


def test_steering_is_in_deviations_of_the_base_at_the_probes_place(tiny: Lens) -> None:
    u, m = normal(0), normal(1)
    signs = np.repeat([1, -1, 0], 8)
    found = check(
        tiny, probe_along(u, AT, 3.0), signs=lambda task, grid: signs, pattern=m, steps=[0, 2], layers=range(2)
    )
    base = tiny.generate(TASK, seed=5, record=dl.record("resid_post"), **HOW)
    for name, v in (("steer", u), ("pattern", m)):
        v = v / np.linalg.norm(v)
        sd = float((base[AT][signs != 0].double().numpy() @ v).std())
        assert float(found["sd"].sel(direction=name)) == pytest.approx(sd, rel=1e-5)
        for s in (2, -2):
            for when, where in (("once", {"step": 1, "layers": 1}), ("held", {"steps": [0, 2], "layers": range(2)})):
                edits = [dl.steer(v, side * s * sd, tokens=signs == side, **where) for side in (1, -1)]
                run = tiny.generate(TASK, seed=5, interventions=edits, **HOW)
                one = found.sel(when=when, kind=f"{name} {s:+d}")
                assert float(one["size"]) == pytest.approx(size(run, base), rel=1e-4)
                assert 0 < float(one["cosine"]) < 1
    assert np.isnan(found["changed"]).all() and np.isnan(found["score"]).all() and "reached" not in found
    assert summary(found.expand_dims("task"))["n"].sel(metric="changed").max() == 0


def test_relative_steering_is_in_norms(tiny: Lens) -> None:
    u = normal()
    found = check(tiny, probe_along(u, AT), strengths=(0.3,), relative=True, branches="cond", steps=1)
    base = tiny.generate(TASK, seed=5, **HOW)
    edit = dl.steer(u, 0.3, step=1, layers=1, relative=True, branches="cond")
    run = tiny.generate(TASK, seed=5, interventions=edit, **HOW)
    assert float(found["size"].sel(when="once", kind="steer +0.3")) == pytest.approx(size(run, base), rel=1e-5)
    assert found.attrs["unit"] == "norm"


def test_erasing_takes_the_eraser_of_each_place(tiny: Lens) -> None:
    place = Address.parse(AT)
    erasers = {
        replace(place, step=step, layer=layer): Eraser(normal(step, D, 2), 0.1 * normal(layer, 2, D), normal(9))
        for step, layer in ((1, 1), (1, 2), (2, 1))
    }
    base = tiny.generate(TASK, seed=5, **HOW)
    edits = {a: erase(e, step=a.step, layers=a.layer, branches="cond") for a, e in erasers.items()}
    found = check(tiny, probe_along(normal(), AT), eraser=erasers)["size"].sel(kind="erase")
    for when, chosen in (("once", [edits[place]]), ("held", list(edits.values()))):
        run = tiny.generate(TASK, seed=5, interventions=chosen, **HOW)
        assert float(found.sel(when=when)) == pytest.approx(size(run, base), rel=1e-6)
    one = check(tiny, probe_along(normal(), AT), eraser=erasers[place], steps=[0, 1])["size"].sel(kind="erase")
    run = tiny.generate(TASK, seed=5, interventions=erase(erasers[place], steps=[0, 1], layers=1), **HOW)
    assert float(one.sel(when="held")) == pytest.approx(size(run, base), rel=1e-6)


def test_without_an_eraser_all_normals_are_taken_out_about_the_training_mean(tiny: Lens) -> None:
    normals = normal(0, 2, D)
    normals = np.stack([*normals, normals[0] - normals[1]])  # three, of rank two
    probe = probe_along(normals, AT)
    probe.pipeline[0].mean_ = normal(4)
    found = check(tiny, probe, contrast=(0, 2))["size"].sel(kind="erase", when="once")
    q, _ = np.linalg.qr(normals[:2].T)
    base = tiny.generate(TASK, seed=5, **HOW)
    run = tiny.generate(TASK, seed=5, interventions=erase(q @ q.T, normal(4), step=1, layers=1), **HOW)
    assert float(found) == pytest.approx(size(run, base), rel=1e-3)


def test_a_contrast_is_the_difference_of_two_normals(tiny: Lens) -> None:
    normals = normal(0, 3, D)
    found = check(tiny, probe_along(normals, AT, 2.0), contrast=lambda task: (2, 0), relative=True, strengths=(0.5,))
    base = tiny.generate(TASK, seed=5, **HOW)
    edit = dl.steer(normals[0] - normals[2], 0.5, step=1, layers=1, relative=True)
    run = tiny.generate(TASK, seed=5, interventions=edit, **HOW)
    assert float(found["size"].sel(when="once", kind="steer +0.5")) == pytest.approx(size(run, base), rel=1e-5)


def test_a_regression_can_be_pushed_and_its_generation_is_the_default(tiny: Lens) -> None:
    x = normal(0, 30, D)
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(x, x[:, 0])
    about = {"fingerprint": tiny.fingerprint, "recipe": {"sampling": {**HOW, "scheduler": "a hash", "image": {"x": 1}}}}
    probe = Probe(pipeline, "number", Address.parse(AT), "token", about=about)
    found = causal(tiny, probe, [TASK], draws=1, steps=1)
    assert found.attrs["n_steps"] == 3 and (found["size"] > 0).all()


# -- the pattern


def test_the_probes_own_pattern_is_pushed_along_by_default(tiny: Lens) -> None:
    """The same numbers as when it is given, kind by kind and draw by draw."""
    probe = replace(probe_along(normal(0), AT, 3.0), patterns=7 * normal(1, 1, D))
    how: dict[str, Any] = {"steps": 1}
    found = check(tiny, probe, **how)
    by_hand = check(tiny, probe_along(normal(0), AT, 3.0), pattern=normal(1), **how)
    assert found["kind"].values.tolist() == ["steer +2", "steer -2", "pattern +2", "pattern -2", "erase"]
    assert found["direction"].values.tolist() == ["steer", "pattern"]
    xr.testing.assert_equal(found, by_hand)
    assert (found.attrs["pattern"], by_hand.attrs["pattern"]) == ("the probe's", "given")
    # One that is given stands before the probe's own.
    other = check(tiny, probe, pattern=lambda task: normal(2), **how)
    assert (other["size"].sel(kind="pattern +2") != found["size"].sel(kind="pattern +2")).all()
    assert other.attrs["pattern"] == "given"


def test_of_several_classes_the_difference_of_two_patterns_is_pushed_along(tiny: Lens) -> None:
    rows = normal(3, 3, D)
    probe = replace(probe_along(normal(0, 3, D), AT), patterns=rows)
    how: dict[str, Any] = {"contrast": lambda task: (2, 0), "relative": True, "kinds": ["pattern"], "strengths": (0.5,)}
    found = check(tiny, probe, **how)
    base = tiny.generate(TASK, seed=5, **HOW)
    run = tiny.generate(
        TASK, seed=5, interventions=dl.steer(rows[0] - rows[2], 0.5, step=1, layers=1, relative=True), **HOW
    )
    assert float(found["size"].sel(when="once", kind="pattern +0.5")) == pytest.approx(size(run, base), rel=1e-5)


def test_kinds_are_chosen_and_their_numbers_stay(tiny: Lens) -> None:
    probe = replace(probe_along(normal(0), AT), patterns=normal(1, 1, D))
    how: dict[str, Any] = {"steps": 1, "draws": 2, "sampling": HOW}
    full = causal(tiny, probe, [TASK], **how)
    for kinds in (["pattern"], ("erase", "steer")):
        some = causal(tiny, probe, [TASK], kinds=kinds, **how)
        names = [name for name in full["kind"].values if str(name).split()[0] in kinds]
        assert some["kind"].values.tolist() == names
        xr.testing.assert_equal(some, full.sel(kind=names))
    assert some.attrs["pattern"] == NO_PATTERN


def test_without_a_pattern_the_result_says_that_only_the_normal_was_pushed(tiny: Lens) -> None:
    found = check(tiny, probe_along(normal(0), AT), steps=1)
    assert found["kind"].values.tolist() == ["steer +2", "steer -2", "erase"]
    assert found.attrs["pattern"] == "none: only the normal was pushed, and that it does nothing says nothing"
    assert summary(found.expand_dims("task")).attrs["pattern"] == NO_PATTERN


# -- the null


def test_random_directions_may_be_drawn_by_the_user_and_are_orthogonal(tiny: Lens) -> None:
    u = np.eye(D)[0]
    found = check(tiny, probe_along(u, AT), strengths=(0.5,), relative=True, random=lambda rng: u + 3 * np.eye(D)[4])
    base = tiny.generate(TASK, seed=5, **HOW)
    run = tiny.generate(TASK, seed=5, interventions=dl.steer(np.eye(D)[4], 0.5, step=1, layers=1, relative=True), **HOW)
    null = found["size_null"].sel(when="once", kind="steer +0.5").item()
    assert null == pytest.approx(size(run, base), rel=1e-5)


@given(seed=st.integers(0, 99), k=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_turned_eraser_moves_every_token_as_far_and_elsewhere(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    eraser = Eraser(rng.normal(size=(30, k)), rng.normal(size=(k, 30)), rng.normal(size=30))
    x = rng.normal(size=(7, 30))
    own, other = eraser(x) - x, _turned(eraser, [seed, 1])(x) - x
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), np.linalg.norm(other, axis=1), atol=1e-9)
    assert _turned(eraser, None) is eraser and _turned(eraser, [seed, 1]) == _turned(eraser, [seed, 1])
    if k:
        cosine = (own * other).sum(1) / np.linalg.norm(own, axis=1) ** 2
        assert np.abs(cosine).mean() < 0.7


def made(effect: np.ndarray, null: np.ndarray) -> xr.Dataset:
    """A result with one measure: effect (task, when, kind), null (task, when, kind, draw)."""
    dims = ("task", "when", "kind")
    coords = {"when": ["once", "held"], "kind": [f"arm {i}" for i in range(effect.shape[2])]}
    return xr.Dataset({"score": (dims, effect), "score_null": ((*dims, "draw"), null)}, coords=coords)


def test_the_summary_is_paired_and_corrected_for_its_arms() -> None:
    rng = np.random.default_rng(0)
    level = 10 * rng.normal(size=(12, 1, 1))  # puzzles differ far more than the effect
    null = level[..., None] + rng.normal(size=(12, 2, 3, 2))
    effect = level + rng.normal(size=(12, 2, 3))
    effect[:, 1, 2] += 4
    s = summary(made(effect, null)).sel(metric="score")
    there = s.sel(when="held", kind="arm 2")
    assert float(there["difference_low"]) > 2 and float(there["p_corrected"]) < 0.01
    assert float(there["low"]) < float(there["null_high"])  # unpaired, nothing would be seen
    others = s["p_corrected"].values.ravel()[:-1]
    assert (others > 0.05).all()


def test_under_the_null_few_results_pass() -> None:
    """100 results of noise alone, 10 arms each: about one in twenty has any arm below 0.05."""
    rng, passed = np.random.default_rng(1), 0
    for _ in range(100):
        found = summary(made(rng.normal(size=(8, 2, 5)), rng.normal(size=(8, 2, 5, 1))))
        passed += bool((found["p_corrected"] < 0.05).any())
    assert passed <= 12  # P(more | 5 %) = 0.001


# -- mistakes


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"probe": probe_along(normal(), AT, fingerprint="another", model="big")}, "fitted on model 'big'.*fit one on"),
        ({"probe": probe_along(normal(), "step=1 layer=1 hook=q")}, "not one vector for each video token"),
        ({"probe": probe_along(normal(), "step=1 hook=text_embed")}, "not one vector for each video token"),
        ({"probe": probe_along(np.zeros(D), AT)}, "learned nothing"),
        ({"probe": probe_along(normal(0, 3, D), AT)}, r"name two of its classes, .*\[0, 1, 2\]"),
        ({"probe": probe_along(normal(0, 3, D), AT), "contrast": (0, 7)}, "name two of its classes"),
        ({"probe": probe_along(normal(0, 3, D), AT), "contrast": (1, 1)}, "name two of its classes"),
        ({"contrast": (0, 1)}, "one direction: leave it out"),
        ({"pattern": np.zeros(D)}, "non-zero vector"),
        ({"probe": replace(probe_along(normal(), AT), patterns=np.zeros((1, D)))}, "give pattern=, or a probe without"),
        ({"kinds": ["pattern"]}, "give pattern=, or fit the probe with dit_lens.probe"),
        ({"kinds": ["normal"]}, r"one or more of \['steer', 'erase'\]"),
        ({"kinds": "steer"}, "as a list"),
        ({"kinds": []}, "one or more of"),
        ({"kinds": ["steer"], "pattern": np.ones(D)}, "leave out one of the two"),
        ({"pattern": np.ones(3)}, r"non-zero vector \(24,\)"),
        ({"signs": lambda task, grid: np.zeros(24)}, "not all of them 0"),
        ({"signs": lambda task, grid: np.ones(3)}, "each of the 24 tokens"),
        ({"signs": lambda task, grid: np.arange(24) == 3}, "do not differ.*relative=True"),
        ({"random": lambda rng: np.ones(3)}, r"draws finite \(24,\)"),
        ({"random": lambda rng: -2 * normal()}, "draw from more directions"),
        ({"eraser": {}}, "no eraser for step=1 branch=cond layer=1"),
        ({"tasks": []}, "a seed for each task"),
        ({"seeds": [1, 2]}, "a seed for each task"),
        ({"draws": 0}, "at least one draw"),
        ({"strengths": (0.0,)}, "strengths above 0"),
        ({"strengths": ()}, "strengths above 0"),
    ],
)
def test_mistakes_are_told_with_their_remedy(tiny: Lens, change: dict[str, Any], remedy: str) -> None:
    how: dict[str, Any] = {"probe": probe_along(normal(), AT), "tasks": [TASK], "sampling": HOW, **change}
    with pytest.raises(ProbeError, match=remedy):
        causal(tiny, how.pop("probe"), how.pop("tasks"), **how)


def test_a_probe_of_another_width_is_refused(tiny: Lens) -> None:
    with pytest.raises(dl.DitLensError, match="12"):
        check(tiny, probe_along(np.ones(12), AT))


def test_progress_is_told_task_by_task(tiny: Lens) -> None:
    said: list[Any] = []
    causal(
        tiny,
        probe_along(normal(), AT),
        [TASK, TASK],
        draws=1,
        steps=1,
        sampling=HOW,
        progress=lambda *a: said.append(a),
    )
    assert [row[:2] for row in said] == [(0, 2), (1, 2), (2, 2)]
