"""Files made to do harm: nothing of theirs runs, each is refused with a way out, in little time and memory."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import struct
import sys
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import EXTENSION, LIVE, Does, dumped, shell
from hypothesis import example, given, settings
from hypothesis import strategies as st
from malformed import DEAD
from safetensors.numpy import load, save
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from stored import fitted, forge, forge_numbers, probe, rewrite, sign

from dit_lens.errors import DitLensError, ProbeError
from dit_lens.probing import probe_manifest, safe_opening
from dit_lens.probing.safe_opening import load_probe
from dit_lens.probing.stored_numbers import LINEAR, numbers_of, pipeline_of

SECONDS = 1.5  # of this process; the largest file takes about 0.1
MEGABYTES = 40  # above the file itself
REMEDY = r"get the probe again|fit it anew|fit one|give a folder|give that folder|copy the folder|version"
HONEST = {name: numbers_of(fitted(name)) for name in ("ridge", "logistic", "ridge classifier", "lda")}
_events: list[str] | None = None


def _listen(event: str, args: Any) -> None:
    if _events is not None and event.startswith(("pickle.", "os.system", "exec", "import", "subprocess.", "marshal.")):
        _events.append(event)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything that is imported late is here before anything hostile is; what was registered goes away again."""
    sys.addaudithook(_listen)  # cannot be removed; it listens to nothing after the tests
    for name in ("logistic", "ridge classifier"):
        load_probe(probe(fitted(name)).save(tmp_path_factory.mktemp("warm") / "p"))
    yield
    if copyreg._extension_registry.get(("os", "popen")) == EXTENSION:  # type: ignore[attr-defined]
        copyreg.remove_extension("os", "popen", EXTENSION)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Little time, no new module of anyone's choosing, and the numbers of numpy as they were."""
    before, start = set(sys.modules), time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert set(sys.modules) - before == set()
    assert np.dtype("f8").itemsize == 8 and not np.dtype("f8").hasobject and np.ones(2).sum() == 2


def refused(folder: Path) -> str:
    """The error of a folder; while it is read, Python reports no unpickling, no import and no command."""
    global _events
    tracemalloc.start()
    try:
        with pytest.raises(ProbeError, match=REMEDY) as error:
            _events = []
            load_probe(folder)
        assert _events == []
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 2**20
    finally:
        _events = None
        tracemalloc.stop()
    assert len(str(error.value)) < 1000
    return str(error.value)


# ---- pickles


@pytest.mark.parametrize("name", LIVE)
def test_nothing_of_a_file_runs(name: str, tmp_path: Path, bounded: None) -> None:
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", LIVE[name](mark))
    assert "is not the pickle that probe.safetensors gives" in refused(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", LIVE)
def test_the_same_file_runs_where_it_is_unpickled(name: str, tmp_path: Path) -> None:
    """The files above are what they claim: opened as a pickle each leaves its mark."""
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", LIVE[name](mark))
    with suppress(Exception):
        pickle.loads((folder / "probe.pkl").read_bytes())
    for _ in range(100):  # a process that was started may take its time
        if mark.exists():
            break
        time.sleep(0.02)
    assert mark.exists()


@pytest.mark.parametrize("name", DEAD)
def test_wrong_huge_and_mean_files_are_refused(name: str, tmp_path: Path, bounded: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = forge(tmp_path / "p", DEAD[name](tmp_path / "mark"))
    start = time.process_time()
    assert "is not the pickle that probe.safetensors gives" in refused(folder)
    assert time.process_time() - start < SECONDS and not (tmp_path / "mark").exists()


def test_there_are_many_of_them() -> None:
    assert len(LIVE) > 30 and len(DEAD) > 80


def test_every_changed_byte_of_a_pickle_is_seen(tmp_path: Path) -> None:
    """It has to be the one that was written: another pickle of the same pipeline is refused as well."""
    honest = (probe().save(tmp_path / "p") / "probe.pkl").read_bytes()
    for place in range(0, len(honest), 37):
        changed = bytearray(honest)
        changed[place] ^= 1
        assert "is not the pickle" in refused(forge(tmp_path / "p", bytes(changed)))
    assert "is not the pickle" in refused(forge(tmp_path / "p", dumped(pickle.loads(honest), protocol=4)))
    assert load_probe(forge(tmp_path / "p", honest)).label == "wall"


def test_a_pickle_of_other_versions_is_neither_compared_nor_read(tmp_path: Path) -> None:
    """The limit of the comparison: a forger may claim other versions. The numbers are opened, and nothing runs."""
    global _events
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", LIVE["eval_"](mark))
    facts = json.loads((folder / "probe.json").read_text())
    rewrite(folder, versions=facts["versions"] | {"numpy": "1.26.0"})
    _events = []
    try:
        found = load_probe(folder)
        assert _events == []
    finally:
        _events = None
    assert np.array_equal(found.direction, probe().direction) and not mark.exists()


def test_a_pickle_alone_is_not_opened(tmp_path: Path) -> None:
    """It says what to do with one's own, and that works."""
    file = probe().save(tmp_path / "p") / "probe.pkl"
    assert "runs whatever is in it" in refused(file)
    (tmp_path / "own.pkl").write_bytes(dumped(fitted()))
    assert ".save(folder)" in refused(tmp_path / "own.pkl")
    with (tmp_path / "own.pkl").open("rb") as opened:
        kept = probe(pickle.load(opened))
    assert np.array_equal(load_probe(kept.save(tmp_path / "own")).direction, kept.direction)


# ---- numbers


def with_(estimator: str = "logistic", **changes: Any) -> bytes:
    """The numbers of an honest probe, some of them changed or, for None, left out."""
    arrays = load(HONEST[estimator][1]) | changes
    return save({name: np.asarray(values) for name, values in arrays.items() if values is not None})


def header(text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def one(name: str = "mean", dtype: str = "F64", shape: str = "[6]", offsets: str = "[0,48]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


NUMBERS = {
    "nothing": b"",
    "a pickle": dumped(Does(os.system, ":")),
    "an honest pickle": dumped(fitted()),
    "cut": HONEST["logistic"][1][:-8],
    "goes on after its end": HONEST["logistic"][1] + b"\0",
    "header of 8 EB": struct.pack("<Q", 2**63 - 1) + b"{}",
    "header longer than needed": header("{" + " " * 5000 + "}"),
    "deep header": header("[" * 4000),
    "deep header in a name": header('{"a":' * 800),
    "no JSON": header("\0" * 100),
    "no arrays": header("{}"),
    "an array past the end": header("{" + one(offsets="[0,4800000000]") + "}", bytes(48)),
    "an array of other length": header("{" + one(shape="[99999999999]") + "}", bytes(48)),
    "a shape that overflows": header("{" + one(shape="[4294967296,4294967296,6]") + "}", bytes(48)),
    "a shape below zero": header("{" + one(shape="[-6]") + "}", bytes(48)),
    "two arrays in one place": header("{" + one() + "," + one("scale") + "}", bytes(48)),
    "one name twice": header("{" + one() + "," + one(offsets="[48,96]") + "}", bytes(96)),
    "a dtype that numpy has not": header("{" + one(dtype="BF16", shape="[24]") + "}", bytes(48)),
    "a dtype of nobody": header("{" + one(dtype="O") + "}", bytes(48)),
    "no mean": with_(mean=None),
    "one array more": with_(extra=np.ones(3)),
    "thousands of arrays": save({f"a{i}": np.ones(1) for i in range(5000)}),
    "nan": with_(coef=np.full((3, 6), np.nan)),
    "infinite": with_(intercept=np.full(3, np.inf)),
    "overflow": with_(coef=np.full((3, 6), 1e308)),
    "integers": with_(coef=np.ones((3, 6), dtype=int)),
    "half precision": with_(coef=np.ones((3, 6), dtype="f2")),
    "narrow": with_(coef=np.ones((3, 5))),
    "more classes": with_(coef=np.ones((4, 6)), intercept=np.ones(4)),
    "flat": with_(coef=np.ones(18)),
    "a column": with_(mean=np.ones((6, 1))),
    "other intercepts": with_(intercept=np.ones(2)),
    "scale zero": with_(scale=np.zeros(6)),
    "scale below zero": with_(scale=-np.ones(6)),
    "no channels": with_(mean=np.ones(0), scale=np.ones(0), coef=np.ones((3, 0))),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_wrong_and_mean_numbers_are_refused(name: str, tmp_path: Path, bounded: None) -> None:
    folder = forge_numbers(tmp_path / "p", NUMBERS[name])
    assert "do not make a probe" in refused(folder)


PATTERNED: dict[str, Any] = {
    "of nan": np.full((3, 6), np.nan),
    "of infinity": np.full((3, 6), np.inf),
    "narrow": np.ones((3, 5)),
    "of one class": np.ones((1, 6)),
    "flat": np.ones(18),
    "of integers": np.ones((3, 6), dtype=int),
    "of half precision": np.ones((3, 6), dtype="f2"),
    "missing": None,
}


@pytest.mark.parametrize("name", PATTERNED)
def test_wrong_patterns_are_refused(name: str, tmp_path: Path, bounded: None) -> None:
    folder = forge_numbers(tmp_path / "p", with_(patterns=PATTERNED[name]), format=3)
    assert "do not make a probe: it" in refused(folder)


def test_patterns_that_the_manifest_does_not_name_are_refused(tmp_path: Path, bounded: None) -> None:
    folder = forge_numbers(tmp_path / "p", with_(patterns=np.ones((3, 6))))
    assert "it holds patterns, and its manifest says otherwise" in refused(folder)
    rewrite(folder, format=3)
    assert np.array_equal(load_probe(folder).patterns, np.ones((3, 6)))  # refused for what it was


@pytest.mark.parametrize(
    ("estimator", "facts"),
    [
        ("logistic", {"classes": ["a", "b"]}),
        ("logistic", {"classes": ["a", "b", "b"]}),
        ("logistic", {"classes": ["a", "b", 3]}),
        ("logistic", {"classes": [1.5, 2.5, float(10**300)], "dtype": "float32"}),
        ("logistic", {"classes": [1, 2, 3]}),
        ("logistic", {"classes": [1, 2, 300], "dtype": "uint8"}),
        ("logistic", {"classes": ["a", "b", "c"], "dtype": "V8"}),
        ("logistic", {"classes": ["a", "b", "c"], "dtype": "U1000000000"}),
        ("logistic", {"classes": [], "dtype": ""}),
        ("logistic", {"dtype": ""}),
        ("logistic", {"n_features": 7}),
        ("logistic", {"n_features": -6}),
        ("logistic", {"estimator": "Ridge"}),
        ("logistic", {"estimator": "Pipeline"}),
        ("logistic", {"estimator": "os.system"}),
        ("logistic", {"params": {"class_weight": {"keys": [[]], "values": [1]}}}),
        ("logistic", {"params": {"class_weight": {"call": "os.system"}}}),
        ("ridge", {"classes": ["a", "b"], "dtype": "str"}),
        ("ridge", {"estimator": "RidgeClassifier"}),
        ("ridge classifier", {"classes": [0.5, 1.5, 2.5], "dtype": "float64"}),
    ],
)
def test_entries_that_do_not_fit_the_numbers_are_refused(
    estimator: str, facts: dict[str, Any], tmp_path: Path, bounded: None
) -> None:
    folder = forge_numbers(tmp_path / "p", HONEST[estimator][1], estimator, **facts)
    assert "do not make a probe" in refused(folder)


def test_honest_numbers_and_entries_put_in_the_same_way_open(tmp_path: Path) -> None:
    """What is refused above is refused for what it is, not for how it was put there."""
    for estimator in HONEST:
        assert load_probe(forge_numbers(tmp_path / "p", with_(estimator), estimator)).label == "wall"
    changed = forge_numbers(
        tmp_path / "p", with_(coef=np.ones((3, 6), "f4")), classes=[1, 2, 3], dtype="uint8",
        params={"C": 3.0, "class_weight": {"keys": [1, 2], "values": [0.5, 2]}, "predict": 1, "__class__": 2},
    )  # fmt: skip
    found = load_probe(changed)
    assert found.classes == (1, 2, 3) and found.pipeline[-1].coef_.dtype == np.float32
    assert found.pipeline[-1].get_params()["class_weight"] == {1: 0.5, 2: 2}
    assert callable(found.pipeline[-1].predict)  # no parameter, and left out


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([*HONEST]))
def test_any_changed_byte_is_an_error_or_a_probe(data: Any, estimator: str) -> None:
    """Whatever is changed in honest numbers: a probe of our kind comes out, or our error does."""
    facts, numbers = HONEST[estimator]
    honest = bytearray(numbers)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(honest) - 1))
        honest[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        found = pipeline_of(facts, bytes(honest))
    except Exception:
        return
    assert type(found) is Pipeline and type(found[0]) is StandardScaler and type(found[1]) in LINEAR.values()
    assert np.isfinite(found[1].coef_).all() and (found[0].scale_ > 0).all()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
@example(b"")
@example(b".")
def test_any_bytes_are_an_error(data: bytes) -> None:
    facts = HONEST["logistic"][0]
    for numbers in (data, header("", data), header(data.decode("latin-1"))):
        with pytest.raises(Exception):  # noqa: B017
            pipeline_of(facts, numbers)


def test_the_estimators_that_are_known_are_these() -> None:
    """One more is a decision, not an accident."""
    assert set(LINEAR) == {"LogisticRegression", "RidgeClassifier", "LinearDiscriminantAnalysis", "Ridge"}
    assert set(probe_manifest.FILES) == {"probe.pkl", "probe.json", "probe.safetensors", "README.md"}
    assert issubclass(ProbeError, DitLensError)


def test_many_classes_and_channels_open(tmp_path: Path) -> None:
    """The limits are far from what a 14B model's probes take."""
    pipeline = fitted("logistic", classes=3)
    rng = np.random.default_rng(0)
    pipeline[0].mean_, pipeline[0].scale_, pipeline[0].var_ = rng.random(5120), rng.random(5120) + 1, rng.random(5120)
    pipeline[0].n_features_in_ = pipeline[1].n_features_in_ = 5120
    pipeline[1].classes_ = np.array([f"c{i}" for i in range(100)], dtype=object)
    pipeline[1].coef_, pipeline[1].intercept_ = rng.random((100, 5120)), rng.random(100)
    kept = probe(pipeline)
    found = load_probe(kept.save(tmp_path / "p"))
    assert found.classes == kept.classes and np.array_equal(found.pipeline[1].coef_, pipeline[1].coef_)
    assert (tmp_path / "p" / "probe.safetensors").stat().st_size < probe_manifest.MAX_BYTES / 10


# ---- folders


def test_a_wrong_hash_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_opening, "pipeline_of", lambda facts, data: pytest.fail("was looked into"))
    for name in ("probe.pkl", "probe.safetensors"):
        folder = probe().save(tmp_path / name)
        (folder / name).write_bytes(dumped(Does(os.system, shell(tmp_path / "mark"))))
        assert "is not what probe.json says was written" in refused(folder)
    assert not (tmp_path / "mark").exists()


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    elsewhere = probe().save(tmp_path / "elsewhere")
    for name in ("probe.pkl", "probe.json", "probe.safetensors"):
        folder = probe().save(tmp_path / f"link to {name}")
        (folder / name).unlink()
        (folder / name).symlink_to(elsewhere / name)
        assert "is a link" in refused(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)  # waits for a writer for ever, if it is opened like a file
        assert "is not a file" in refused(folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        assert "holds no probe that can be read" in refused(folder)


@pytest.mark.parametrize("name", ["probe.pkl", "probe.safetensors"])
def test_a_file_that_is_too_large_is_not_read(name: str, tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    with (folder / name).open("wb") as file:
        file.truncate(10 * 2**40)  # a hole of 10 TB
    tracemalloc.start()
    try:
        with pytest.raises(ProbeError, match="larger than the 64 MB"):
            load_probe(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def edited(folder: Path, **changes: Any) -> Path:
    facts = json.loads((folder / "probe.json").read_text()) | changes
    sign(folder, {name: value for name, value in facts.items() if value is not ...})
    return folder


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    words = (folder / "probe.json").read_text()
    (folder / "probe.json").write_text(words.replace("0.91", "0.99"))
    assert "was changed after it was written" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 3}, "it holds no patterns, and its manifest says otherwise"),
        ({"classes": ["class 0é", "class 1é"]}, "do not make a probe.*shape"),
        ({"classes": ["class 1é", "class 0é", "class 2é"]}, "is not the pickle that"),
        ({"classes": []}, "do not make a probe"),
        ({"classes": [{}]}, "numbers or texts"),
        ({"classes": ["x" * 501, "b", "c"]}, "numbers or texts"),
        ({"classes": [*range(10_001)]}, "numbers or texts"),
        ({"n_features": 7}, r"mean is float64 \(6,\), expected finite floats of shape \(7,\)"),
        ({"n_features": True}, "wrong entries"),
        ({"n_features": 10**5000}, "damaged"),
        ({"params": {"C": 2.0}}, "is not the pickle that"),
        ({"params": []}, "wrong entries"),
        ({"estimator": "Ridge"}, "a regression has no classes"),
        ({"address": "step=1"}, "holds no address"),
        ({"address": "step=1 hook=z"}, "which reads as"),
        ({"address": "step=" + "9" * 400 + " hook=z"}, "no address|reads as"),
        ({"label": "a\nb"}, "printable"),
        ({"unit": 3}, "wrong entries"),
        ({"format": 99}, "has format 99"),
        ({"format": 1}, "has format 1 .*fit it anew"),
        ({"format": "1"}, "not the manifest"),
        ({"scores": ...}, "wrong entries"),
        ({"more": 1}, "unknown"),
        ({"x" * 10_000: 1}, "unknown"),
        ({"files": {}}, "which files"),
        ({"files": {"probe.pkl": None, "probe.safetensors": None}}, "is not what probe.json says"),
        ({"files": {"../../etc/passwd": "", "probe.pkl": ""}}, "which files"),
        ({"versions": 1}, "wrong entries"),
    ],
)
def test_a_forged_manifest_is_refused(changes: dict[str, Any], says: str, tmp_path: Path, bounded: None) -> None:
    folder = probe().save(tmp_path / "p")
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        edited(folder, **changes)
    finally:
        sys.set_int_max_str_digits(limit)
    with pytest.raises(ProbeError, match=f"(?s){says}") as error:
        load_probe(folder)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "words",
    ["", "null", "[]", "{", "[" * 10**6, '{"format":' * 10**5, '{"format": NaN}', "\xff", '{"format": 1}', " " * 2**21,
     '{"a":' + "9" * 10**5 + "}"],
    ids=range(11),
)  # fmt: skip
def test_a_manifest_that_is_no_json_of_ours_is_refused(words: str, tmp_path: Path, bounded: None) -> None:
    folder = probe().save(tmp_path / "p")
    (folder / "probe.json").write_bytes(words.encode("latin-1"))
    refused(folder)


def test_texts_in_a_manifest_are_texts(tmp_path: Path) -> None:
    """A prompt is somebody's words; nothing is done with it."""
    words = {"prompt": "{0.__class__} %s $(id) `id` <script>alert(1)</script>", "fingerprint": "../../etc"}
    found = load_probe(edited(probe().save(tmp_path / "p"), about=words))
    assert found.about == words and "__class__" not in repr(found)
