"""Pickles that are wrong, huge or mean in a way that leaves no mark: ``DEAD``. (Those that act are in ``hostile``.)"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from hostile import PROTO, STOP, Build, Does, dumped, name, shell, text, with_
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from stored import fitted

DEAD: dict[str, Build] = {}


def dead(build: Build) -> Build:
    DEAD[build.__name__] = build
    return build


@dead
def newobj_with_keywords(mark: Path) -> bytes:
    keywords = b"}" + text("args") + b"]" + text("touch") + b"a" + text(str(mark)) + b"as"
    return PROTO + name("subprocess", "Popen") + b")" + keywords + b"\x92" + STOP


def unframed(data: bytes) -> bytes:
    """Without its frame, whose length is no longer true."""
    frame = data.index(b"\x95")
    return data[:frame] + data[frame + 9 :]


@dead
def empty(mark: Path) -> bytes:
    return b""


@dead
def no_pickle(mark: Path) -> bytes:
    return b"This is not a pickle at all."


@dead
def dictionary(mark: Path) -> bytes:
    return dumped({"pipeline": 1})


@dead
def a_number(mark: Path) -> bytes:
    return dumped(1)


@dead
def only_a_class(mark: Path) -> bytes:
    return dumped(Pipeline)


@dead
def function_transformer_as_a_step(mark: Path) -> bytes:
    return dumped(Pipeline([("function", FunctionTransformer(os.system)), *fitted().steps[1:]]))


@dead
def a_tree_as_a_step(mark: Path) -> bytes:
    tree = DecisionTreeClassifier().fit(np.eye(3), [0, 1, 2])
    return dumped(Pipeline([*fitted().steps[:1], ("tree", tree)]))


@dead
def joblib_array_wrapper(mark: Path) -> bytes:
    stream = io.BytesIO()
    joblib.dump(fitted(), stream)
    return stream.getvalue()


@dead
def persistent_id(mark: Path) -> bytes:
    return PROTO + text("file") + b"Q" + STOP


@dead
def persistent_id_as_text(mark: Path) -> bytes:
    return b"Pfile\n."


@dead
def two_pickles(mark: Path) -> bytes:
    return dumped(fitted()) + dumped(Does(os.system, shell(mark)))


for _name, _pack in {"gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress, "zlib": zlib.compress}.items():
    DEAD[f"{_name}_bomb"] = lambda mark, pack=_pack: pack(bytes(20 * 2**20))
    DEAD[f"{_name}_of_an_honest_probe"] = lambda mark, pack=_pack: pack(dumped(fitted()))

for _name, _opcode in {
    "bytearray": b"\x96" + struct.pack("<Q", 10 * 2**30), "bytes": b"B" + struct.pack("<I", 2**32 - 1),
    "long_bytes": b"\x8e" + struct.pack("<Q", 10 * 2**30), "text": b"X" + struct.pack("<I", 2**32 - 1),
    "long_text": b"\x8d" + struct.pack("<Q", 10 * 2**30), "integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "frame": b"\x95" + struct.pack("<Q", 10 * 2**30) + b"N", "memo": b"Nr" + struct.pack("<I", 2**31),
    "memo_read": b"j" + struct.pack("<I", 2**32 - 1), "negative": b"\x96" + struct.pack("<q", -1),
}.items():  # fmt: skip
    DEAD[f"huge_{_name}"] = lambda mark, o=_opcode: PROTO + o + STOP


@dead
def deep_lists(mark: Path) -> bytes:
    return PROTO + b"]" * 300_000 + b"a" * 299_999 + STOP


@dead
def deep_tuple_as_a_key(mark: Path) -> bytes:
    """Hashing a tuple takes a piece of the stack for each level: a crash, not an error, if there are many."""
    return PROTO + b"}" + b")" + b"\x85" * 2_000_000 + b"N" + b"s" + STOP


@dead
def deep_tuple_as_a_key_within_the_limit(mark: Path) -> bytes:
    return PROTO + b"}" + b")" + b"\x85" * 9_900 + b"N" + b"s" + STOP


@dead
def deep_records(mark: Path) -> bytes:
    scaler = name("sklearn.preprocessing._data", "StandardScaler") + b"\x94"
    return PROTO + scaler + b")" + b"h\x00" * 2_000 + b")R" + b"\x85R" * 1_999 + STOP


@dead
def laughs(mark: Path) -> bytes:
    """Each list holds the one before it ten times: a hundred of them have no end when they are spelled out."""
    lists = b"]\x94" + b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"e\x94" for i in range(100))
    return PROTO + lists + STOP


@dead
def laughs_as_an_attribute(mark: Path) -> bytes:
    value: Any = []
    for _ in range(60):
        value = [value] * 10
    return with_("coef_", value)


@dead
def endless_attribute(mark: Path) -> bytes:
    value: list[Any] = []
    value.append(value)
    return with_("tol", value)


@dead
def pipeline_in_itself(mark: Path) -> bytes:
    pipeline = fitted()
    pipeline.steps[1] = ("self", pipeline)
    return dumped(pipeline)


@dead
def state_twice(mark: Path) -> bytes:
    """An honest probe, but that its pipeline is given an empty state before its own."""
    return unframed(dumped(fitted()).replace(b")\x81\x94", b")\x81\x94}b", 1))


@dead
def state_of_a_class(mark: Path) -> bytes:
    return PROTO + name("sklearn.pipeline", "Pipeline") + b"}" + text("predict") + b"Nsb" + STOP


def array_of(dtype: bytes, shape: bytes, data: bytes = b"C\x08abcdefgh") -> bytes:
    return name("numpy._core.numeric", "_frombuffer") + b"(" + data + dtype + shape + text("C") + b"tR"


def dtype_of(code: str, state: bytes = b"") -> bytes:
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + state


def with_pickled(attribute: str, value: bytes) -> bytes:
    """An honest probe whose scaler has one attribute more, its value in opcodes."""
    data = dumped(fitted())
    start = data.index(b"\x8c\x10_sklearn_version")
    return unframed(data[:start] + text(attribute) + value + data[start:])


EIGHT = b"K\x01\x85"
for _name, _value in {
    "array_shape": array_of(dtype_of("f8"), b"\x8a\x05\x00\x00\x00\x00\x02\x85"),
    "array_shape_below_zero": array_of(dtype_of("f8"), b"J\xff\xff\xff\xff\x85"),
    "array_of_objects": array_of(dtype_of("O8"), EIGHT),
    "array_of_impossible_letters": array_of(dtype_of("U2"), EIGHT),
    "array_of_void": array_of(dtype_of("V8"), EIGHT),
    "array_of_records": array_of(dtype_of("f4,f4"), EIGHT),
    "dtype_size": array_of(dtype_of("f8", b"(K\x03" + text("<") + b"NNNM\x00\x10K\x08K\x00tb"), EIGHT),
    "dtype_flags": array_of(dtype_of("f8", b"(K\x03" + text("<") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K?tb"), EIGHT),
    "scalar_object": name("numpy._core.multiarray", "scalar") + dtype_of("O8") + b"C\x08abcdefgh\x86R",
    "new_array": name("numpy", "ndarray") + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R",
    "subclass": name("numpy._core.multiarray", "_reconstruct")
    + name("sklearn.pipeline", "Pipeline") + b"K\x00\x85C\x01b\x87R",
}.items():  # fmt: skip
    DEAD[_name] = lambda mark, v=_value: with_pickled("extra", v)

for _name, _attribute, _value in (
    ("a_method_hidden", "predict", 1), ("another_method_hidden", "score", 1),
    ("the_class_changed", "__class__", 1), ("dictionary_changed", "__dict__", {}),
    ("dunder", "__getattr__", 1), ("tags", "__sklearn_tags__", 1), ("no_name", "a b", 1),
    ("nan", "coef_", np.full((3, 6), np.nan)),
    ("infinite", "intercept_", np.full(3, np.inf)), ("integers", "coef_", np.ones((3, 6), dtype=int)),
    ("narrow", "coef_", np.ones((3, 5))), ("one_class", "classes_", np.array(["a"])),
    ("equal_classes", "classes_", np.array(["a"] * 3)), ("matrix_of_classes", "classes_", np.array([["a", "b", "c"]])),
    ("objects_as_classes", "classes_", np.array([1, None, "c"], dtype=object)),
    ("channels", "n_features_in_", 7), ("channels_as_text", "n_features_in_", "6"), ("no_coefficients", "coef_", None),
    ("impossible_letters", "classes_", np.arange(0x7FFFFFF0, 0x7FFFFFF3).astype("u4").view("U1")),
    ("masked", "coef_", np.ma.masked_array(np.ones((3, 6)))),
    ("record", "coef_", np.rec.array(np.ones((3, 6)))),
    ("date", "C", np.datetime64("2020-01-01")), ("complex", "C", 1j), ("set", "C", {1}), ("path", "C", Path("x")),
):  # fmt: skip
    DEAD[f"attribute_{_name}"] = lambda mark, a=_attribute, v=_value: with_(a, v)
for _name, _attribute, _value in (
    ("scale_zero", "scale_", np.zeros(6)), ("scale_below_zero", "scale_", -np.ones(6)), ("no_scale", "scale_", None),
    ("other_mean", "with_mean", False), ("mean_as_a_column", "mean_", np.ones((6, 1))),
):  # fmt: skip
    DEAD[f"scaler_{_name}"] = lambda mark, a=_attribute, v=_value: with_(a, v, step=0)

for _share in (0.1, 0.5, 0.9, 0.999):
    DEAD[f"cut_at_{_share}"] = lambda mark, s=_share: (lambda data: data[: int(len(data) * s)])(dumped(fitted()))

# Names that a reader of the honest list might let through: right module and wrong name, or the other way round.
for _module, _attribute in (
    ("sklearn.pipeline", "make_pipeline"), ("sklearn.pipeline", "Memory"), ("numpy", "load"), ("numpy", "fromfile"),
    ("numpy._core.multiarray", "fromfile"), ("sklearn.externals", "joblib"), ("SKLEARN.PIPELINE", "Pipeline"),
    ("sklearn.pipeline ", "Pipeline"), ("builtins", "getattr"), ("dit_lens.probing.safe_opening", "load_probe"),
    ("", ""),
):  # fmt: skip
    DEAD[f"name_{_module}_{_attribute}"] = lambda mark, m=_module, a=_attribute: PROTO + name(m, a) + STOP
DEAD["name_of_numbers"] = lambda mark: PROTO + b"K\x01K\x02\x93" + STOP
DEAD["name_of_an_unhashable"] = lambda mark: PROTO + b"]]\x93" + STOP
