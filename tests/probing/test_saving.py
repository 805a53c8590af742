"""Saved probes: what is read is what was written, for us and for anyone with scikit-learn alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import pickletools
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from stored import ABOUT, ESTIMATORS, SCORES, fitted, labels, probe, rewrite

from dit_lens.address import Address
from dit_lens.errors import ProbeError
from dit_lens.probing import probe_card, saving
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.safe_opening import load_probe
from dit_lens.probing.stored_numbers import export, numbers_of, pipeline_of


class Crash(Exception):
    """Something nobody expects."""


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    kept = probe()
    assert kept.save(tmp_path / "deep" / "wall") == tmp_path / "deep" / "wall"
    found = load_probe(tmp_path / "deep" / "wall")
    for name in ("label", "address", "unit", "classes", "scores", "about", "n_features"):
        assert getattr(found, name) == getattr(kept, name), name
    assert np.array_equal(found.direction, kept.direction)
    x = torch.randn(2, 5, kept.n_features)
    assert np.array_equal(found.predict(x), kept.predict(x)) and found.predict(x).shape == (2, 5)
    assert np.array_equal(found.decision(x), kept.decision(x))
    assert found.pipeline[-1].get_params() == kept.pipeline[-1].get_params()


@pytest.mark.parametrize("kind", [("logistic", 2), ("logistic", 3), ("ridge", 0)], ids=str)
def test_a_pattern_travels_with_its_probe(kind: tuple[str, int], tmp_path: Path) -> None:
    """Beside the four arrays of the pipeline: the pickle is the one without it, and so are other files' bytes."""
    pipeline = fitted(kind[0], classes=max(2, kind[1]))
    rows = np.random.default_rng(0).normal(size=(3 if kind[1] == 3 else 1, 6)) / 3
    kept, bare = probe(pipeline, patterns=rows), probe(pipeline)
    first, without = files(kept.save(tmp_path / "a")), files(bare.save(tmp_path / "b"))
    found = load_probe(tmp_path / "a")
    assert np.array_equal(found.patterns, rows) and found.patterns.dtype == np.float64
    assert load_probe(tmp_path / "b").patterns is None
    assert set(first) == set(without) and first["probe.pkl"] == without["probe.pkl"]
    assert files(found.save(tmp_path / "c")) == first
    facts, other = (json.loads(made["probe.json"]) for made in (first, without))
    assert (facts["format"], other["format"]) == (3, 2)
    assert {name for name in facts if facts[name] != other[name]} == {"format", "files", "digest"}
    assert "| pattern | kept" in first["README.md"].decode() and "pattern" not in without["README.md"].decode()
    x = torch.randn(4, 6)
    assert np.array_equal(found.predict(x), kept.predict(x))


@settings(max_examples=60, deadline=None)
@given(
    estimator=st.sampled_from([*ESTIMATORS]), kind=st.sampled_from(["int", "bool", "text", "object", "float"]),
    classes=st.integers(2, 5), d=st.integers(1, 12), seed=st.integers(0, 10**6), double=st.booleans(),
    params=st.fixed_dictionaries({}, optional={"fit_intercept": st.booleans(), "alpha": st.floats(0.1, 9)}),
)  # fmt: skip
def test_predictions_survive_for_every_estimator(
    estimator: str, kind: str, classes: int, d: int, seed: int, double: bool, params: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(40, d)) * rng.uniform(0.1, 9, d) + rng.normal(size=d)).astype("f8" if double else "f4")
    y = labels(kind, 40, 2 if kind == "bool" else classes, rng)
    if estimator == "ridge":
        y = rng.normal(size=(40,) if classes == 2 else (40, classes))
    made = ESTIMATORS[estimator]()
    made.set_params(**{name: value for name, value in params.items() if name in made.get_params()})
    pipeline = make_pipeline(StandardScaler(), made).fit(x, y)
    new = rng.normal(size=(30, d)).astype("f4") * 5
    facts, numbers = numbers_of(pipeline)
    found = pipeline_of(json.loads(json.dumps(facts)), numbers)
    assert numbers_of(found) == (facts, numbers)
    assert np.array_equal(probe(found).direction, probe(pipeline).direction, equal_nan=True)
    again = {"ours": found, "pickle": pickle.loads(export(found))}
    for name, other in again.items():
        assert np.array_equal(other.predict(new), pipeline.predict(new)), name
        assert other.predict(new).dtype == pipeline.predict(new).dtype, name
        if estimator != "ridge":
            assert np.array_equal(other.decision_function(new), pipeline.decision_function(new)), name
        assert other[-1].get_params() == pipeline[-1].get_params(), name


def of_other_strings() -> Any:
    """The usual pipeline, every name and text in it a string object of its own, so that pickle sees none twice."""
    pipeline = fitted()
    for _, part in pipeline.steps:
        own = {(k + "x")[:-1]: (v + "x")[:-1] if isinstance(v, str) else v for k, v in vars(part).items()}
        vars(part).clear()
        vars(part).update(own)
    assert pickle.dumps(pipeline, 5) != pickle.dumps(fitted(), 5)
    return pipeline


def test_the_same_probe_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also after loading, and whatever else the objects share: only values count."""
    shared = "wall"
    other = Probe(**{f.name: getattr(probe(), f.name) for f in dataclasses.fields(Probe)} | {"label": shared})
    first = files(probe().save(tmp_path / "a"))
    assert set(first) == {"probe.pkl", "probe.json", "probe.safetensors", "README.md"}
    assert files(other.save(tmp_path / "b")) == first
    assert files(load_probe(tmp_path / "a").save(tmp_path / "c")) == first
    assert files(probe(pickle.loads(first["probe.pkl"])).save(tmp_path / "d")) == first
    assert files(probe(of_other_strings()).save(tmp_path / "e")) == first
    assert files(probe().save(tmp_path / "a")) == first  # in place of an earlier one
    assert b"\x94" not in {opcode.code.encode("latin-1") for opcode, _, _ in pickletools.genops(first["probe.pkl"])}
    changed = files(probe(fitted(seed=1)).save(tmp_path / "f"))
    assert all(changed[name] != first[name] for name in ("probe.pkl", "probe.safetensors"))


@pytest.mark.slow
def test_the_same_probe_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    first = files(probe().save(tmp_path / "a"))
    script = f"""
import pickle
from pathlib import Path
pickle.loads(Path({str(tmp_path / "a" / "probe.pkl")!r}).read_bytes())  # decides which texts are one object from now on
from stored import probe
probe().save({str(tmp_path / "b")!r})
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], check=True, env=env, cwd=Path(__file__).parent)
    assert files(tmp_path / "b") == first


def test_a_saved_probe_needs_nothing_but_scikit_learn(tmp_path: Path) -> None:
    for name in ESTIMATORS:
        kept = probe(fitted(name))
        kept.save(tmp_path / name)
        x = np.random.default_rng(1).normal(size=(9, 6)).astype("f4")
        np.savez(tmp_path / f"{name}.npz", x=x, y=kept.predict(x))
    script = """
import pickle, sys, warnings
import numpy as np
warnings.simplefilter("error")
for name in sys.argv[1:]:
    with open(f"{name}/probe.pkl", "rb") as file:
        pipeline = pickle.load(file)
    stored = np.load(f"{name}.npz")
    assert type(pipeline).__module__ == "sklearn.pipeline"
    assert np.array_equal(pipeline.predict(stored["x"]), stored["y"]), name
loaded = {m.split(".")[0] for m in sys.modules}
assert not loaded & {"dit_lens", "torch", "diffusers", "xarray", "safetensors"}, loaded
print("opened", len(sys.argv) - 1)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *ESTIMATORS], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"opened {len(ESTIMATORS)}", done.stderr


def test_the_manifest_says_everything(tmp_path: Path) -> None:
    probe().save(tmp_path / "p")
    facts = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert facts["format"] == 2 and facts["address"] == "step=5 branch=cond layer=7 hook=resid_post"
    assert (facts["label"], facts["unit"], facts["n_features"]) == ("wall", "token", 6)
    assert facts["classes"] == ["class 0é", "class 1é", "class 2é"] and facts["estimator"] == "LogisticRegression"
    assert facts["params"] == {} and facts["dtype"] == "str"
    assert facts["scores"] == SCORES and facts["about"] == ABOUT
    assert facts["versions"]["scikit-learn"] == sklearn.__version__ and facts["versions"]["numpy"] == np.__version__
    for name in ("probe.pkl", "probe.safetensors"):
        assert facts["files"][name] == hashlib.sha256((tmp_path / "p" / name).read_bytes()).hexdigest()
    assert len((tmp_path / "p" / "probe.pkl").read_bytes()) < 3000  # a gallery of hundreds stays small


def test_values_of_other_libraries_become_json(tmp_path: Path) -> None:
    scores = {"a": np.float32(0.5), "n": np.int64(3), "curve": np.arange(3.0), "t": torch.ones(2), "bad": float("nan")}
    probe(scores=scores, about={"at": Address(1, "cond", 2, "z"), "file": Path("x"), "pair": (1, 2)}).save(
        tmp_path / "p"
    )
    found = load_probe(tmp_path / "p")
    assert found.scores == {"a": 0.5, "n": 3, "curve": [0.0, 1.0, 2.0], "t": [1.0, 1.0], "bad": None}
    assert found.about == {"at": "step=1 branch=cond layer=2 hook=z", "file": "x", "pair": [1, 2]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": {"a": object()}}, "scores.a is a object"),
        ({"about": {1: 2}}, "has the key 1"),
        ({"about": {"long": "x" * 2**21}}, "larger than 1 MB"),
        ({"about": {"half": "\ud800"}}, "cannot be saved"),
        ({"label": "wall\x1b[31m"}, "printable"),
        ({"label": ""}, "printable"),
        ({"classes": ("b", "a", "c")}, "in another order"),
        ({"classes": ()}, "names 0 classes and its pipeline 3"),
        ({"address": Address(1, "cond", 2, "a hook")}, "cannot be saved"),
    ],
)
def test_what_cannot_be_saved_says_why(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        probe(**change).save(tmp_path / "p")
    assert [*tmp_path.iterdir()] == []


def test_only_stock_pipelines_are_saved(tmp_path: Path) -> None:
    class Mine(Ridge):
        pass

    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    neither = StandardScaler(with_mean=False, with_std=False)
    wrong = {
        "MinMaxScaler": make_pipeline(MinMaxScaler(), Ridge()).fit(x, y),
        "Mine": make_pipeline(StandardScaler(), Mine()).fit(x, y),
        "not a pipeline of two steps": make_pipeline(StandardScaler(), FunctionTransformer(np.abs), Ridge()).fit(x, y),
        "it has no mean: not fitted": make_pipeline(StandardScaler(), Ridge()),
        "a Ridge is not a pipeline": Ridge().fit(x, y),
        "it has no mean: .* a scaler that does not scale": make_pipeline(neither, Ridge()).fit(x, y),
    }
    for says, pipeline in wrong.items():
        with pytest.raises(ProbeError, match=f"(?s){says}.*StandardScaler"):
            Probe(pipeline, "wall", Address(0, "cond", 0, "z"), "token").save(tmp_path / "p")
    odd = make_pipeline(StandardScaler(), LogisticRegression(random_state=np.random.RandomState(0))).fit(x, y)
    with pytest.raises(ProbeError, match=r"cannot be saved.*numbers and texts as its parameters"):
        probe(odd).save(tmp_path / "p")
    broken = fitted()
    broken[-1].coef_[0, 0] = np.nan
    with pytest.raises(ProbeError, match="expected finite floats"):
        probe(broken).save(tmp_path / "p")
    assert [*tmp_path.iterdir()] == []


def test_what_only_fitting_needs_is_not_kept(tmp_path: Path) -> None:
    """The covariance of 5,120 channels takes 200 MB, and predicting takes none of it."""
    kept = probe(fitted("mean difference", d=400))
    kept.save(tmp_path / "p")
    assert kept.pipeline[-1].covariance_.nbytes > 10**6
    assert sum(map(len, files(tmp_path / "p").values())) < 10**5
    found, x = load_probe(tmp_path / "p"), torch.randn(9, 400)
    assert np.array_equal(found.decision(x), kept.decision(x)) and not hasattr(found.pipeline[-1], "covariance_")
    assert found.pipeline[-1].get_params() == kept.pipeline[-1].get_params() != LogisticRegression().get_params()


def test_a_probe_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_BYTES", 1000)
    with pytest.raises(ProbeError, match="fit fewer classes"):
        probe(fitted(d=100)).save(tmp_path / "p")
    assert [*tmp_path.iterdir()] == []


def test_weights_of_classes_that_are_no_texts_are_kept(tmp_path: Path) -> None:
    """JSON has only texts as keys."""
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    weights = {0: 1.0, 1: np.float32(2.0)}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=np.float64(0.5), class_weight=weights)).fit(x, y)
    found = load_probe(probe(pipeline).save(tmp_path / "p"))
    assert found.pipeline[-1].class_weight == {0: 1.0, 1: 2.0} and found.pipeline[-1].C == 0.5
    assert [*map(type, found.pipeline[-1].class_weight)] == [int, int]


def test_the_mean_difference_is_the_difference_of_means() -> None:
    """Shrinkage 1 makes every covariance a multiple of the identity: the direction is that between the means."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + y[:, None] * rng.normal(size=5)
    pipeline = make_pipeline(StandardScaler(), ESTIMATORS["mean difference"]()).fit(x, y)
    z = pipeline[0].transform(x)
    means = z[y == 1].mean(0) - z[y == 0].mean(0)
    cosine = pipeline[-1].coef_[0] @ means / np.linalg.norm(means) / np.linalg.norm(pipeline[-1].coef_[0])
    assert cosine == pytest.approx(1, abs=1e-12)


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    kept = probe()
    kept.save(tmp_path / "p")
    (tmp_path / "p" / "more.txt").write_text("mine")
    for name in ("notes", "file", "p"):
        with pytest.raises(ProbeError, match="is not a saved probe: choose another folder"):
            kept.save(tmp_path / name)
    assert (tmp_path / "notes" / "README.md").read_text() == "mine" == (tmp_path / "p" / "more.txt").read_text()
    (tmp_path / "empty").mkdir()
    kept.save(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ProbeError, match="choose another folder"):
        kept.save(tmp_path / "link")
    with pytest.raises(ProbeError, match="choose a folder that can be written"):
        kept.save(tmp_path / "file" / "below")


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe().save(tmp_path / "p")
    before = files(tmp_path / "p")

    def crash(*args: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            probe(fitted(seed=1)).save(tmp_path / "p")
    assert files(tmp_path / "p") == before and [p.name for p in tmp_path.iterdir()] == ["p"]


def test_a_probe_of_other_versions_opens_without_a_warning(tmp_path: Path) -> None:
    """The installed scikit-learn builds the pipeline; parameters that it does not know are left out."""
    kept = probe()
    folder = kept.save(tmp_path / "p")
    for version in (sklearn.__version__ + ".post1", "0.24.2", "99.1.0", "nonsense"):
        rewrite(folder, versions={"scikit-learn": version}, params={"C": 0.5, "of_another_version": 1})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_probe(folder)
        x = torch.randn(9, 6)
        assert np.array_equal(found.decision(x), kept.decision(x)) and found.pipeline[-1].C == 0.5


def test_numbers_in_any_layout_are_kept(tmp_path: Path) -> None:
    """Big-endian, column-first and strided arrays, and an intercept that is Python's own number."""
    for estimator in ("ridge", "logistic"):
        pipeline = fitted(estimator)
        pipeline[0].mean_ = np.repeat(pipeline[0].mean_, 2)[::2]
        pipeline[-1].coef_ = np.asfortranarray(pipeline[-1].coef_).astype(">f4")
        if estimator == "ridge":
            pipeline[-1].intercept_ = 0.0
        found = load_probe(probe(pipeline).save(tmp_path / estimator)).pipeline
        x = np.random.default_rng(0).normal(size=(9, 6))
        assert np.array_equal(found.predict(x), pipeline.predict(x)) and found[-1].coef_.dtype == np.dtype("f4")
        assert found.predict(x).dtype == pipeline.predict(x).dtype


def test_one_row_of_coefficients_is_a_row() -> None:
    """scikit-learn 1.9 fits a RidgeClassifier of two classes to coefficients (d,), which 1.5 cannot apply."""
    pipeline = fitted("ridge classifier", classes=2)
    pipeline[-1].coef_ = pipeline[-1].coef_.ravel()
    again = pipeline_of(*numbers_of(pipeline))
    assert again[-1].coef_.shape == (1, 6)
    assert np.array_equal(again[-1].coef_[0], pipeline[-1].coef_)


def test_a_pipeline_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula of the numbers is the reference: an attribute, or a version, that changes the result is seen."""
    pipeline = fitted()
    stored = numbers_of(pipeline)
    pipeline[0].with_mean = False
    with pytest.raises(ProbeError, match="does not compute what its mean"):
        numbers_of(pipeline)
    monkeypatch.setattr(LogisticRegression, "decision_function", lambda self, x: x @ self.coef_.T)
    with pytest.raises(ProbeError, match="does not compute what its mean"):
        pipeline_of(*stored)
    monkeypatch.undo()
    monkeypatch.setattr(LogisticRegression, "predict", lambda self, x: self.classes_[np.zeros(len(x), int)])
    with pytest.raises(ProbeError, match="predicts other labels"):
        pipeline_of(*stored)


def test_the_card_says_what_how_and_when_not(tmp_path: Path) -> None:
    evil = "a|b\n# title <script>x</script> `code` [link](http://x)"
    page = (probe(about={"prompt": evil, "fingerprint": "ab"}).save(tmp_path / "p") / "README.md").read_text("utf-8")
    facts = json.loads((tmp_path / "p" / "probe.json").read_text("utf-8"))
    assert page == probe_card.card(facts)
    for words in (
        "# Linear probe: wall", "step=5 branch=cond layer=7 hook=resid_post", "class 0é, class 1é", "control.task",
        "| score | 0.91 |", "selectivity", "dl.load_probe", "Opening a pickle runs whatever is in it",
    ):  # fmt: skip
        assert words in page, words
    assert page.startswith("---\nlibrary_name: sklearn\n")
    row = next(line for line in page.splitlines() if line.startswith("| prompt"))
    assert row.count("|") == 3 and not set("<>`[") & set(row) and "\n# title" not in page
    assert "None were stored" in probe_card.card(facts | {"scores": {}})
    code = page.split("With scikit-learn alone:")[1].split("```python")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(tmp_path / "p"))
    space: dict[str, Any] = {"rows": np.zeros((2, 6))}
    exec(code, space)
    assert np.array_equal(space["pipeline"].predict(space["rows"]), probe().predict(space["rows"]))


def test_missing_folders_say_so(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ProbeError, match=r"holds no probe that can be read.*probe\.save"):
            load_probe(place)
