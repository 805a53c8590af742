"""The grid finds what was planted, where it was planted, and nothing where nothing is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES
from planting import planted

import dit_lens as dl
from dit_lens.errors import AddressError, DitLensError, ProbeError
from dit_lens.probing import collect, from_runs, grid, label, probe
from dit_lens.probing.controls import control_task, shuffles
from dit_lens.probing.features import _input
from dit_lens.probing.splits import folds_of

FAMILY = FAMILIES["i2v22"]
STEP, LAYER = 1, 1


def halves(scenes: int, units: int, seed: int = 0) -> np.ndarray:
    """A label that differs within scenes."""
    return np.random.default_rng(seed).integers(0, 2, (scenes, units))


# -- planted


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def written(lens: Any) -> tuple[list[Any], np.ndarray]:
    """Runs of a model into which the label is written at one step and layer, and the label."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(24)
    labels = rng.integers(0, 2, 20)
    runs = []
    for i, bit in enumerate(labels):
        edit = dl.steer(direction, 8.0 * (1 if bit else -1), step=STEP, layers=LAYER)
        runs.append(
            lens.generate(**FAMILY.call, seed=i, num_inference_steps=3, guidance_scale=5.0, interventions=edit,
                          record=dl.record("resid_post", reduce="frame_mean"))
        )  # fmt: skip
    return runs, labels


def test_the_grid_finds_exactly_where_a_label_starts(written: tuple[list[Any], np.ndarray]) -> None:
    runs, labels = written
    features = from_runs(runs, "resid_post")
    # The family's picture is one and the same: every scene is its own group here.
    features = apart(features)
    found = grid(features, {"written": np.array(["no", "yes"])[labels]}, permutations=99).sel(
        label="written", hook="resid_post"
    )
    shown = found["p"].values <= 0.05  # (step, layer)
    assert (found["score"].values[STEP, LAYER:] == 1).all()
    assert not shown[:STEP].any() and not shown[STEP, :LAYER].any()
    assert shown[STEP, LAYER:].all()
    assert found["input"].sel(step=STEP) < 0.8


def apart(features: Any) -> Any:
    return replace(features, scenes=tuple(replace(s, group=str(i)) for i, s in enumerate(features.scenes)))


def test_scenes_with_one_picture_are_one_group(written: tuple[list[Any], np.ndarray]) -> None:
    with pytest.raises(ProbeError, match="give more scenes"):
        grid(from_runs(written[0], "resid_post"), {"written": written[1]})


def test_a_label_within_scenes_is_found_where_it_is(tmp_path: Path) -> None:
    y = halves(30, 24)
    v = np.array([1.5, 0, 0, 0, 0, 0])
    features = planted(tmp_path, add=lambda i, s, layer: y[i][:, None] * v if (s, layer) == (1, 1) else 0)
    found = grid(features, {"y": y}, permutations=39).sel(label="y", hook="resid_post")
    assert str(found["metric"].values) == "auc"
    assert found["score"].sel(step=1, layer=1) > 0.8 and found["p"].sel(step=1, layer=1) == 1 / 40
    rest = found["score"].values[[0, 0, 1], [0, 1, 0]]
    assert (np.abs(rest - 0.5) < 0.08).all()
    assert found["low"].sel(step=1, layer=1) > found["input"].sel(step=1) + 0.2
    assert found["plain"].sel(baseline="majority") == found["plain"].sel(baseline="sigma") == 0.5


def test_a_number_is_found_by_regression(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal(40)
    v = np.array([0.0, 3, 0, 0, 0, 0])
    features = planted(tmp_path, 40, units=1, add=lambda i, s, layer: values[i] * v if s == 1 else 0)
    found = grid(features, {"size": values}, permutations=39, alpha=1.0).sel(label="size", hook="resid_post")
    assert str(found["metric"].values) == "r2"
    assert (found["score"].sel(step=1) > 0.4).all() and (found["score"].sel(step=0) < 0.2).all()


# -- nulls


@pytest.mark.parametrize("kind", ["within scenes", "between scenes"])
def test_random_labels_pass_no_more_often_than_they_may(tmp_path: Path, kind: str) -> None:
    """The best of four places passes the corrected test at 5 % in 5 % of draws: at most 9 of 60 here (p < .002)."""
    passed = 0
    rng = np.random.default_rng(1)
    shift = rng.standard_normal((20, 1, 6))  # scenes differ, as real ones do
    features = planted(tmp_path, 20, units=8, add=lambda i, s, layer: shift[i])
    for draw in range(60):
        y = halves(20, 8, draw) if kind == "within scenes" else rng.permutation(np.arange(20) % 2)
        passed += bool((grid(features, {"y": y}, permutations=19, seed=draw)["p"] <= 0.05).any())
    assert passed <= 9


def test_p_is_corrected_over_labels_too(tmp_path: Path) -> None:
    """Times their number; and where so many labels and so few shuffles mark nothing, that is said."""
    y = {name: np.random.default_rng(i).permutation(np.arange(20) % 2) for i, name in enumerate("abc")}
    features = planted(tmp_path, 20, units=1)
    found = grid(features, y, permutations=19)
    np.testing.assert_allclose(found["p_corrected"], np.minimum(1, 3 * found["p"]))
    assert found.attrs["smallest_p"] == 3 / 20 and found.attrs["no_mark"].endswith("take permutations=59 or more.")
    one = grid(features, {"a": y["a"]}, permutations=19)
    np.testing.assert_array_equal(one["p"], one["p_corrected"])
    assert "no_mark" not in one.attrs and one.attrs["permutations"] == 19


def test_shuffles_are_as_many_as_the_labels_need(tmp_path: Path) -> None:
    y = {name: np.random.default_rng(i).permutation(np.arange(20) % 2) for i, name in enumerate("abc")}
    features = planted(tmp_path, 20, units=1, steps=(0,), layers=(0,))
    assert [grid(features, dict(list(y.items())[:n])).attrs["permutations"] for n in (1, 3)] == [49, 59]
    assert "no_mark" not in grid(features, y).attrs


def test_a_shuffle_that_is_the_label_itself_is_a_tie(tmp_path: Path) -> None:
    """Seven scenes, two of one class: one shuffle in 21 is the same labels, and rounding makes it no smaller."""
    y = np.array([1, 0, 0, 1, 0, 0, 0])
    features = planted(tmp_path, 7, units=1)
    same = (shuffles(features, label(features, y), 199, seed=1)[:, 0] == y[:, None]).all(0).sum()
    found = grid(features, {"y": y}, permutations=199, folds=7)
    assert same > 3 and float(found["p"].min()) >= (1 + same) / 200 - 1e-12


def test_a_place_that_every_scene_shares_is_no_finding(tmp_path: Path) -> None:
    """A label that stands at the same units in all scenes is read from the unit's position: the null says so."""
    y = np.tile(np.arange(24) < 12, (30, 1)).astype(int)
    v = np.ones(6)
    features = planted(tmp_path, add=lambda i, s, layer: y[i][:, None] * v)
    found = grid(features, {"y": y}, permutations=19).sel(label="y", hook="resid_post")
    assert (found["score"] > 0.9).all() and (found["p"] == 1).all()
    assert found["plain"].sel(baseline="position") == 1


def test_scene_memory_shows_in_the_control_task(tmp_path: Path) -> None:
    """Features that name their scene let a probe memorise it; features without scenes do not."""
    y = halves(30, 24)
    named = np.random.default_rng(0).standard_normal((30, 1, 40)) * 3
    knows = planted(tmp_path, d=40, add=lambda i, s, layer: named[i], fingerprint="knows")
    blind = planted(tmp_path, d=40, fingerprint="blind")
    known, unknown = (float(grid(f, {"y": y}, permutations=0)["control"].mean()) for f in (knows, blind))
    assert known > 0.95 and abs(unknown - 0.5) < 0.1


# -- parts


def test_folds_never_part_a_group() -> None:
    groups = np.array(list("aabbccddeeff"))
    fold = folds_of(groups, 3)
    assert all(len(set(fold[groups == g])) == 1 for g in groups) and set(fold) == {0, 1, 2}


def test_shuffles_keep_units_and_exchange_whole_scenes(tmp_path: Path) -> None:
    features = planted(tmp_path, 6, units=4)
    labels = label(features, halves(6, 4))
    rows = {tuple(row) for row in labels.codes}
    mixed = shuffles(features, labels, 5)
    assert all(tuple(mixed[i, :, k]) in rows for i in range(6) for k in range(5))
    assert all(sorted(map(tuple, mixed[..., k])) == sorted(map(tuple, labels.codes)) for k in range(5))
    assert np.array_equal(mixed, shuffles(features, labels, 5))


def test_labels_that_count_different_units_are_turned_round(tmp_path: Path) -> None:
    features = planted(tmp_path, 6, units=6)
    y = halves(6, 6).astype(object)
    for i in range(6):
        y[i, i] = None
    labels = label(features, y)
    mixed = shuffles(features, labels, 30)
    for i in range(6):
        kinds = {tuple(mixed[i, :, k]) for k in range(30)}
        turned = tuple(np.where(labels.codes[i] < 0, -1, 1 - labels.codes[i]))
        assert kinds == {tuple(labels.codes[i]), turned}


def test_runs_of_one_group_share_their_control_class(tmp_path: Path) -> None:
    features = planted(tmp_path, 12, units=1, group=lambda i: str(i // 2))
    codes, fold = control_task(features, label(features, np.arange(12) % 2))
    assert all(codes[2 * g] == codes[2 * g + 1] and fold[2 * g] != fold[2 * g + 1] for g in range(6))


def test_without_further_units_there_is_no_control(tmp_path: Path) -> None:
    features = planted(tmp_path, 12, units=1)
    assert np.isnan(grid(features, {"y": np.arange(12) % 2}, folds=3, permutations=0)["control"]).all()


def test_finished_steps_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = halves(30, 24)
    features = planted(tmp_path)
    first = grid(features, {"y": y}, permutations=3, folder=tmp_path / "grid")
    monkeypatch.setattr("dit_lens.probing.probe_grid._block", lambda *a: pytest.fail("done again"))
    assert grid(features, {"y": y}, permutations=3, folder=tmp_path / "grid").identical(first)
    for other in ({"labels": {"y": 1 - y}}, {"permutations": 4}, {"alpha": 1.0}, {"seed": 1}, {"folds": 3}):
        given = {"labels": {"y": y}, "permutations": 3, **other}
        with pytest.raises(dl.StoreError, match=rf"begun under other parameters.*\n  .*{min(other)[:5]}"):
            grid(features, **given, folder=tmp_path / "grid")


def test_untrained_features_stand_beside(tmp_path: Path) -> None:
    y = halves(30, 24)
    v = np.array([2.0, 0, 0, 0, 0, 0])
    trained = planted(tmp_path, add=lambda i, s, layer: y[i][:, None] * v)
    blank = planted(tmp_path, fingerprint="blank")
    found = grid(trained, {"y": y}, permutations=0, untrained=blank)
    assert (found["score"] - found["untrained"] > 0.3).all()
    with pytest.raises(ProbeError, match="another lens"):
        grid(trained, {"y": y}, permutations=0, untrained=trained)
    with pytest.raises(ProbeError, match="steps"):
        grid(trained, {"y": y}, untrained=planted(tmp_path, steps=(0,), fingerprint="short"))


# -- one place


def test_a_probe_says_what_it_measured(tmp_path: Path) -> None:
    y = halves(30, 24)
    v = np.array([2.0, 0, 0, 0, 0, 0])
    features = planted(tmp_path, add=lambda i, s, layer: y[i][:, None] * v)
    found = probe(features, np.where(y, "in", "out"), "step=1 layer=0 hook=resid_post", permutations=19)
    assert found.classes == ("in", "out") and found.n_features == 6
    assert abs(found.direction[0]) > 0.95  # the planted channel, in the activation's own coordinates
    x = features.cell("resid_post", 1, 0)
    assert (found.predict(x) == np.where(y, "in", "out")).mean() > 0.8
    assert found.scores["score"] > 0.85 and found.scores["p"] == 1 / 20 and found.scores["random"] < 0.6
    assert np.array(found.scores["confusion"]).sum() == y.size
    assert found.about["scenes"] == 30 and found.about["fingerprint"] == "planted"


def test_a_probe_reads_a_run_and_refuses_another_model(written: tuple[list[Any], np.ndarray]) -> None:
    runs, bits = written
    features = apart(from_runs(runs, "resid_post"))
    found = probe(features, bits, f"step={STEP} layer={LAYER} hook=resid_post", permutations=9)
    seen = found.read(runs[0])
    assert seen.dims == ("frame",) and (np.sign(seen) == (1 if bits[0] else -1)).all()
    other = replace(runs[0], meta={**runs[0].meta, "fingerprint": "another"})
    with pytest.raises(ProbeError, match="fit one on runs of that model"):
        found.read(other)


# -- features


def test_collecting_goes_on_and_refuses_other_parameters(lens: Any, tmp_path: Path) -> None:
    tasks = [dl.tasks.load("maze", seed=i) for i in range(3)]
    call = {"sampling": {"num_inference_steps": 2, "guidance_scale": 1.0}, "folder": tmp_path, "steps": [1]}
    told: list[int] = []
    first = collect(lens, tasks, "attn_out", **call, progress=lambda done, total, what: told.append(done))
    next((tmp_path / "items").glob("scene-00001.*")).unlink()
    again = collect(lens, tasks, "attn_out", **call, progress=lambda done, total, what: told.append(done))
    assert told == [0, 1, 2, 1]
    assert np.array_equal(first.block("attn_out", 1), again.block("attn_out", 1))
    assert first.block("attn_out", 1).shape == (3, 3, first.grid.n_tokens, 24)
    run = lens.generate(tasks[1], seed=1, num_inference_steps=2, guidance_scale=1.0, record=dl.record("attn_out"))
    assert np.array_equal(first.cell("attn_out", 1, 2)[1], run["step=1 layer=2 hook=attn_out"].float().numpy())
    with pytest.raises(dl.StoreError, match="branch: 'cond' -> 'uncond'") as refused:
        collect(lens, tasks, "attn_out", **{**call, "branch": "uncond"})
    assert "another folder" in str(refused.value)


def test_a_preset_is_honoured(lens: Any) -> None:
    """Steps and noise levels are those of the preset's 50, which is how the scenes are made."""
    task = dl.tasks.load("maze", seed=0)
    features = collect(lens, [task], steps=[1, 2], layers=[0], preset="paper", stop_after=2)
    run = lens.generate(task, preset="paper", stop_after=2, record=dl.record("resid_post", layers=0))
    assert features.sigmas == run.sigmas[1:3] and run.plan.n_steps == 50
    assert np.array_equal(features.cell("resid_post", 2, 0)[0], run["step=2 layer=0 hook=resid_post"].float().numpy())


def test_per_video_is_the_mean_over_units(tmp_path: Path) -> None:
    features = planted(tmp_path, 12)
    pooled = features.per_video()
    assert (pooled.unit, pooled.units) == ("video", (0,)) and features.unit == "token"
    rows = features.cell("resid_post", 1, 0)
    assert np.array_equal(pooled.cell("resid_post", 1, 0), rows.mean(1, keepdims=True))
    assert np.array_equal(pooled.block("resid_post", 1)[0], rows.mean(1, keepdims=True))


def test_a_full_disk_loses_only_what_is_in_flight(tmp_path: Path, lens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir()
    tasks, features = [dl.tasks.load("maze", seed=i) for i in range(2)], planted(tmp_path / "planted")
    works = [
        lambda: collect(lens, tasks, steps=[0], sampling={"num_inference_steps": 2}, folder=tmp_path / "features"),
        lambda: grid(features, {"y": np.arange(30) % 2}, permutations=0, folder=tmp_path / "scan"),
    ]

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for work in works:
        with monkeypatch.context() as m:
            m.setattr(os, "replace", full)
            with pytest.raises(dl.StoreError, match=r"No space left on device.* room"):
                work()
        work()
    assert {path.name for path in tmp_path.rglob(".*")} == {".claims"}
    for i, name in enumerate(("features/items/scene-00001.*", "scan/items/resid_post-0.*")):
        (kept,) = tmp_path.glob(name)
        kept.write_bytes(kept.read_bytes()[:50])
        works[i]()
        assert sorted(path.name for path in tmp_path.glob(name))[0] == kept.name, "the same was made again"
        assert len(list(tmp_path.glob(f"{name}.damaged-*"))) == 1


def test_other_defaults_of_the_lens_are_other_parameters(tmp_path: Path) -> None:
    tasks = [dl.tasks.load("maze", seed=0)]
    with dl.load(FAMILY.build()) as lens:
        lens.defaults = replace(lens.defaults, num_inference_steps=2, guidance_scale=1.0)
        collect(lens, tasks, steps=[1], folder=tmp_path)
        lens.defaults = replace(lens.defaults, num_inference_steps=3)
        with pytest.raises(dl.StoreError, match="sigmas"):
            collect(lens, tasks, steps=[1], folder=tmp_path)


def test_the_input_is_what_the_patch_embedding_sees(lens: Any) -> None:
    """The model's own linear map of ``input`` is its patch embedding: nothing else enters."""
    run = lens.generate(**FAMILY.call, seed=0, num_inference_steps=2, record=dl.record("patch_embed", "resid_post"))
    x = _input(run, 0).numpy()
    y = run["step=0 hook=patch_embed"].float().numpy()
    conv = lens.pipe.transformer.patch_embedding
    flat = conv.weight.reshape(conv.weight.shape[0], -1).float().numpy()
    np.testing.assert_allclose(x @ flat.T + conv.bias.float().numpy(), y, atol=1e-5)


# -- mistakes


@pytest.mark.parametrize(("given", "says"), [
    ({"y": np.zeros(30, int)}, "1 class"),
    ({"y": np.zeros((4, 2), int)}, "one per scene"),
    ({"y": np.full(30, np.nan)}, "does not vary"),
    (["no such label"], "unknown label"),
    ([], "no labels"),
    ({"y": np.array([1] + [0] * 29)}, "one fold"),
    ({"y": np.arange(30) % 2}, None),
])  # fmt: skip
def test_mistakes_in_labels(tmp_path: Path, given: Any, says: str | None) -> None:
    features = planted(tmp_path)
    if says is None:
        grid(features, given, permutations=0)
        return
    with pytest.raises(ProbeError, match=says) as caught:
        grid(features, given, permutations=0)
    assert isinstance(caught.value, DitLensError)


def test_mistakes_in_features(tmp_path: Path, lens: Any) -> None:
    with pytest.raises(ProbeError, match="more scenes"):
        grid(planted(tmp_path, 3), {"y": np.array([0, 1, 0])})
    with pytest.raises(ProbeError, match="NaN"):
        grid(planted(tmp_path, add=lambda i, s, layer: np.nan), {"y": np.arange(30) % 2}, permutations=0)
    features = planted(tmp_path)
    with pytest.raises(ProbeError, match="layers \\[0, 1\\] were"):
        probe(features, np.arange(30) % 2, "step=1 layer=7 hook=resid_post")
    with pytest.raises(ProbeError, match="collect the other one"):
        probe(features, np.arange(30) % 2, "step=1 layer=1 hook=resid_post branch=uncond")
    with pytest.raises(AddressError):
        probe(features, np.arange(30) % 2, "layer=1")
    with pytest.raises(ProbeError, match="no tasks"):
        collect(lens, [])
    run = lens.generate(**FAMILY.call, seed=0, num_inference_steps=2, record=dl.record("resid_post"))
    short = lens.generate(**FAMILY.call, seed=0, num_inference_steps=3, record=dl.record("resid_post"))
    with pytest.raises(ProbeError, match="do not fit together"):
        from_runs([run, short], "resid_post")
    with pytest.raises(ProbeError, match="was not recorded"):
        from_runs([run], "attn_out")
