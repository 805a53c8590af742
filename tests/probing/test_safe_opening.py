"""Files made to do harm: nothing of theirs runs, each is refused with a way out, in little time and memory."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from hostile import EXTENSION, LIVE, Does, dumped, shell, text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from malformed import DEAD, EIGHT, array_of, dtype_of, with_pickled
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from stored import fitted, forge, probe, rewrite, sign

from dit_lens.errors import DitLensError, ProbeError
from dit_lens.probing import pickle_tree, probe_manifest
from dit_lens.probing.safe_opening import load_probe
from dit_lens.probing.stored_numbers import LINEAR, pipeline_from

SECONDS = 1.5  # of this process; the largest file takes about 0.1
MEGABYTES = 40  # above the file itself
REMEDY = r"get the probe again|fit it anew|fit one|give a folder|copy the folder|open the pickle|choose|version"


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything that is imported late is here before anything hostile is; what was registered goes away again."""
    folder = probe().save(tmp_path_factory.mktemp("warm") / "p")
    load_probe(folder), load_probe(folder, twin=True)
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


def refused(folder: Path, **how: Any) -> str:
    with pytest.raises(ProbeError, match=REMEDY) as error:
        load_probe(folder, **how)
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize("name", LIVE)
def test_nothing_of_a_file_runs(name: str, tmp_path: Path, bounded: None) -> None:
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", LIVE[name](mark))
    refused(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", LIVE)
def test_the_same_file_runs_where_it_is_trusted(name: str, tmp_path: Path) -> None:
    """The files above are what they claim: without the allow-list each leaves its mark."""
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", LIVE[name](mark))
    with suppress(ProbeError):
        load_probe(folder, trust=True)
    for _ in range(100):  # a process that was started may take its time
        if mark.exists():
            break
        time.sleep(0.02)
    assert mark.exists()


@pytest.mark.parametrize("name", DEAD)
def test_wrong_huge_and_mean_files_are_refused(name: str, tmp_path: Path, bounded: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = DEAD[name](tmp_path / "mark")
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ProbeError, match=REMEDY) as error:
            pipeline_from(data)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000 and time.process_time() - start < SECONDS
    assert not (tmp_path / "mark").exists()


def test_honest_values_put_in_the_same_way_open() -> None:
    """What is refused above is refused for what it is, not for how it was put there."""
    letters = b"C\x08" + "ab".encode("utf-32-le")
    for value, expected in (
        (b"K\x01", 1),
        (array_of(dtype_of("f8"), EIGHT), np.frombuffer(b"abcdefgh")),
        (array_of(dtype_of("f8", b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"), EIGHT), ...),
        (array_of(dtype_of("U2"), EIGHT, letters), np.array(["ab"])),
    ):
        found = pipeline_from(with_pickled("extra", value))[0].extra
        assert expected is ... or np.array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in LIVE if name != "extension_code"])
def test_the_stand_ins_hold_without_the_scan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fences, each of which holds alone."""
    monkeypatch.setattr(pickle_tree, "scan", lambda data: None)
    with pytest.raises(ProbeError):
        pipeline_from(LIVE[name](tmp_path / "mark"))
    assert not (tmp_path / "mark").exists()


def test_the_scan_is_what_holds_extension_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python hands a cached extension to a pickle without asking for its name: only the opcode can be refused."""
    data = LIVE["extension_code"](tmp_path / "mark")
    with pytest.raises(ProbeError, match="EXT1"):
        pipeline_from(data)
    monkeypatch.setattr(pickle_tree, "scan", lambda data: None)
    with pytest.raises(ProbeError):
        pipeline_from(data)
    for _ in range(100):
        if (tmp_path / "mark").exists():
            break
        time.sleep(0.02)
    assert (tmp_path / "mark").exists()


def test_there_are_many_of_them() -> None:
    assert len(LIVE) > 30 and len(DEAD) > 80


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["ridge", "logistic", "ridge classifier"]))
def test_any_changed_byte_is_an_error_or_a_probe(data: Any, estimator: str) -> None:
    """Whatever is changed in an honest pickle: a probe of our kind comes out, or our error does."""
    honest = bytearray(_HONEST[estimator])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(honest) - 1))
        honest[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        found = pipeline_from(bytes(honest))
    except ProbeError:
        return
    assert type(found) is Pipeline and type(found[0]) is StandardScaler and type(found[1]) in LINEAR
    assert np.isfinite(found[1].coef_).all()


_HONEST = {name: dumped(fitted(name)) for name in ("ridge", "logistic", "ridge classifier")}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
@example(b"")
@example(b".")
def test_any_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(ProbeError):
        pipeline_from(b"\x80\x05" + data)


def test_the_names_that_are_known_are_these() -> None:
    """A name more is a decision, not an accident."""
    assert len(pickle_tree.NAMES) == 15
    modules = {module for module, _ in pickle_tree.NAMES}
    assert all(m.split(".")[0] in ("numpy", "sklearn") for m in modules) and "builtins" not in modules
    assert all(issubclass(stand_in, pickle_tree.Inert) for stand_in in pickle_tree.NAMES.values())
    assert not {"GLOBAL", "INST", "OBJ", "EXT1", "PERSID", "BINPERSID", "NEWOBJ_EX", "PUT"} & pickle_tree._OPCODES


def test_an_honest_pickle_asks_for_no_more_than_half_of_what_is_allowed() -> None:
    import pickletools

    for data in _HONEST.values():
        assert sum(1 for _ in pickletools.genops(data)) < pickle_tree.MAX_OPCODES / 10


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


# ---- folders


def test_a_wrong_hash_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = probe().save(tmp_path / "p")
    (folder / "probe.pkl").write_bytes(dumped(Does(os.system, shell(tmp_path / "mark"))))
    monkeypatch.setattr(pickle_tree, "scan", lambda data: pytest.fail("was looked into"))
    for how in ({}, {"trust": True}):
        assert "is not what probe.json says was written" in refused(folder, **how)
    assert not (tmp_path / "mark").exists()


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    elsewhere = probe().save(tmp_path / "elsewhere")
    for name in ("probe.pkl", "probe.json", "probe.skops"):
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


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    with (folder / "probe.pkl").open("wb") as file:
        file.truncate(10 * 2**40)  # a hole of 10 TB
    tracemalloc.start()
    try:
        assert "larger than the 64 MB" in refused(folder)
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
        ({"classes": ["class 0é", "class 1é"]}, "do not belong together"),
        ({"classes": ["class 1é", "class 0é", "class 2é"]}, "other classes"),
        ({"classes": []}, "do not belong together"),
        ({"classes": [{}]}, "numbers or texts"),
        ({"n_features": 7}, "7 channels"),
        ({"n_features": True}, "wrong entries"),
        ({"n_features": 10**5000}, "damaged"),
        ({"estimator": "Ridge"}, "speaks of a Ridge"),
        ({"address": "step=1"}, "holds no address"),
        ({"address": "step=1 hook=z"}, "which reads as"),
        ({"address": "step=" + "9" * 400 + " hook=z"}, "no address|reads as"),
        ({"label": "a\nb"}, "printable"),
        ({"unit": 3}, "wrong entries"),
        ({"format": 99}, "has format 99"),
        ({"format": "1"}, "not the manifest"),
        ({"scores": ...}, "wrong entries"),
        ({"more": 1}, "unknown"),
        ({"x" * 10_000: 1}, "unknown"),
        ({"files": {}}, "which files"),
        ({"files": {"probe.pkl": None, "probe.skops": None}}, "which files"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 0}, "probe.pkl": None}}, "which files"),
        ({"versions": {}}, "unknown version"),
        ({"versions": {"scikit-learn": "1.\x1b[2J"}}, "none"),
        ({"versions": {"scikit-learn": 1}}, "none"),
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
    with pytest.raises(ProbeError, match=says) as error:
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


# ---- the skops twin


def twin(folder: Path, data: bytes) -> Path:
    probe().save(folder)
    (folder / "probe.skops").write_bytes(data)
    rewrite(folder)
    return folder


def schema_of(data: bytes, old: str, new: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            if member == "schema.json":
                assert old in content.decode()
                content = content.decode().replace(old, new).encode()
            target.writestr(member, content)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name.replace("__", "."), content)
    return out.getvalue()


def test_hostile_twins_are_refused_and_never_tried_as_a_pickle(tmp_path: Path, bounded: None) -> None:
    honest = skops.io.dumps(fitted())
    npy = io.BytesIO()
    np.save(npy, np.ones(3))
    header = npy.getvalue().replace(b"(3,), }         ", b"(9999999999,), }", 1)
    assert len(header) == len(npy.getvalue()) and header != npy.getvalue()
    objects = io.BytesIO()
    np.save(objects, np.array([Does(os.system, shell(tmp_path / "mark"))], dtype=object), allow_pickle=True)
    files = {
        "a pickle": dumped(Does(os.system, shell(tmp_path / "mark"))),
        "an honest pickle": dumped(fitted()),
        "nothing": b"",
        "a type of the system": schema_of(honest, '"Pipeline"', '"system"').replace(b"sklearn.pipeline", b"os\0"),
        "os.system": schema_of(schema_of(honest, '"sklearn.pipeline"', '"os"'), '"Pipeline"', '"system"'),
        "a function": schema_of(honest, '"ObjectNode"', '"FunctionNode"'),
        "a method": schema_of(honest, '"ObjectNode"', '"MethodNode"'),
        "an operator": schema_of(honest, '"ObjectNode"', '"OperatorFuncNode"'),
        "a loader of none": schema_of(honest, '"ObjectNode"', '"Nothing"'),
        "a module": schema_of(honest, '"sklearn.pipeline"', '"sklearn.pipeline.os"'),
        "a type that skops trusts": skops.io.dumps(
            Pipeline([("a", StandardScaler()), ("b", DecisionTreeClassifier())])
        ),
        "a transformer": skops.io.dumps(Pipeline([("a", FunctionTransformer(np.exp)), ("b", fitted()[1])])),
        "a dictionary": skops.io.dumps({"a": 1}),
        "other numbers": skops.io.dumps(Pipeline([("a", StandardScaler()), ("b", fitted()[1])])),
        "a bomb": zipped(schema__json=bytes(30 * 2**20)),
        "a bomb beside": zipped(schema__json=b"{}", x__npy=bytes(65 * 2**20)),
        "deep": zipped(schema__json=b'{"a":' * 10**5),
        "no schema": zipped(a=b""),
        "many": zipped(**{f"a{i}": b"" for i in range(300)}),
        "a long array": zipped(schema__json=b"{}", x__npy=header),
        "objects in an array": zipped(schema__json=b"{}", x__npy=objects.getvalue()),
        "cut": honest[:-300],
    }
    named_before_skops_sees_them = {
        "os.system", "a function", "a method", "an operator", "a loader of none", "a module", "a transformer",
        "a type that skops trusts",
    }  # fmt: skip
    for i, (name, data) in enumerate(files.items()):
        folder = twin(tmp_path / str(i), data)
        tracemalloc.start()
        try:
            said = refused(folder, twin=True)
            assert ("asks for" in said) == (name in named_before_skops_sees_them), (name, said)
            assert ("not whole" in said) == ("array" in name), (name, said)
            assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 2**20, name
        finally:
            tracemalloc.stop()
        assert load_probe(folder).label == "wall"  # the pickle beside it is another file, and honest
    assert not (tmp_path / "mark").exists()


def test_the_twin_has_to_be_what_was_written(tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    (folder / "probe.skops").write_bytes(skops.io.dumps(fitted(seed=1)))
    for how in ({}, {"twin": True}):
        assert "probe.skops in" in refused(folder, **how)
    facts = json.loads((folder / "probe.json").read_text())
    facts["files"]["probe.skops"] = None
    sign(folder, facts)
    assert "somebody added" in refused(folder)
    (folder / "probe.skops").unlink()
    assert load_probe(folder).label == "wall"


def test_errors_are_of_one_kind() -> None:
    assert issubclass(ProbeError, DitLensError) and pickle.DEFAULT_PROTOCOL <= pickle_tree.PROTOCOL
    assert set(probe_manifest.FILES) == {"probe.pkl", "probe.json", "probe.skops", "README.md"}
