"""Pickle bytes read as a tree of inert values: no import, no call, no code of the file's choosing.

A pickle is a program for a small machine. Three fences keep it from doing anything:

1. ``scan`` walks the opcodes with :mod:`pickletools`, which runs none of them, and lets pass only those that Python
   writes for a fitted pipeline (protocol 5), in bounded number and with lengths that the file really holds.
2. Of all the names a pickle could ask for, the reader knows the dozen in ``NAMES``; it looks nothing up, and so no
   dotted path, extension code or module leads anywhere else.
3. What those names stand for is not the real thing either but an :class:`Inert` record, which keeps what it was given.
   :mod:`.stock` checks the records and then builds the real estimator from the numbers in them.

When not to use: for anything but probes; a pipeline with one step more is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

from dit_lens.errors import ProbeError

PROTOCOL = 5
MAX_BYTES = 64 * 2**20  # a probe of 100 classes on 5,120 channels takes 4 MB
MAX_OPCODES = 10_000  # a probe takes about 400; also bounds how deep values can nest
MAX_TEXT = 4096
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BYTEARRAY8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS",
}  # fmt: skip
REMEDY = (
    "do not open it in another way: get the probe again from where it was published, or fit it anew with "
    "dit_lens.probe(...)"
)


class Refused(ProbeError):
    """A file that is not opened; ``reason`` without the advice."""

    def __init__(self, reason: str, more: str = "") -> None:
        super().__init__(f"{reason}: {REMEDY}{more}")
        self.reason = reason


class Inert:
    """What a name in a pickle turns into: the arguments it was called with and the state it was given."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise Refused("the pickle gives one object two states, which none of ours does")
        self.state = state


def _stand_in(name: str) -> type[Inert]:
    return type(name, (Inert,), {"__slots__": ()})


#: Module of each scikit-learn class that may be in a probe.
MODULES = {
    "Pipeline": "sklearn.pipeline",
    "StandardScaler": "sklearn.preprocessing._data",
    "LabelBinarizer": "sklearn.preprocessing._label",
    "LogisticRegression": "sklearn.linear_model._logistic",
    "Ridge": "sklearn.linear_model._ridge",
    "RidgeClassifier": "sklearn.linear_model._ridge",
    "LinearDiscriminantAnalysis": "sklearn.discriminant_analysis",
}
_NUMPY = {
    "dtype": ["numpy"],
    "ndarray": ["numpy"],
    "_reconstruct": ["numpy.core.multiarray", "numpy._core.multiarray"],  # before and since numpy 2
    "scalar": ["numpy.core.multiarray", "numpy._core.multiarray"],
    "_frombuffer": ["numpy.core.numeric", "numpy._core.numeric"],
}
#: Every kind of record, by its plain name.
KINDS = {name: _stand_in(name) for name in (*MODULES, *_NUMPY)}
#: Everything a pickle may name: (module, name) -> what it becomes here.
NAMES = {(module, name): KINDS[name] for name, module in MODULES.items()}
NAMES |= {(module, name): KINDS[name] for name, modules in _NUMPY.items() for module in modules}


def read(data: bytes) -> Any:
    """The tree of records in pickle bytes. Errors: :class:`ProbeError` for whatever is not one of our pickles."""
    scan(data)
    try:
        return _Reader(io.BytesIO(data)).load()
    except Refused:
        raise
    except Exception as error:  # the machine meets a wrong program in many ways
        raise Refused(f"the pickle is damaged or not one of ours ({type(error).__name__})") from error


def scan(data: bytes) -> None:
    """Look at every opcode and run none. Errors: :class:`ProbeError`."""
    if len(data) > MAX_BYTES:
        raise Refused(f"the pickle is larger than {MAX_BYTES >> 20} MB, more than a linear probe needs")
    end = count = 0
    try:
        for opcode, arg, place in pickletools.genops(data):
            end, count = place or 0, count + 1
            if opcode.name not in _OPCODES:
                _refuse(f"uses the opcode {opcode.name}, which no probe of ours needs")
            if (opcode.name == "PROTO") != (count == 1) or (count == 1 and arg != PROTOCOL):
                _refuse(f"is not in pickle protocol {PROTOCOL}")
            if count > MAX_OPCODES:
                _refuse(f"has more than {MAX_OPCODES} instructions")
            if opcode.name == "FRAME" and end + 9 + int(arg or 0) > len(data):
                _refuse("says it is longer than it is")
            if isinstance(arg, str) and len(arg) > MAX_TEXT:
                _refuse(f"holds a text longer than {MAX_TEXT} characters")
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"the file is cut short or no pickle at all ({type(error).__name__})") from error
    if end + 1 != len(data):
        _refuse("goes on after its end")


class _Reader(pickle.Unpickler):
    """An unpickler that knows only the stand-ins."""

    def find_class(self, module: Any, name: Any) -> Any:
        found = NAMES.get((module, name)) if type(module) is str and type(name) is str else None
        if found is None:
            raise Refused(
                f"the pickle asks for {short(module)} {short(name)}, which no probe needs",
                ". (A file of your own opens with load_probe(folder, trust=True), which runs whatever is in it)",
            )
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        _refuse("refers to something outside itself")


def short(value: Any) -> str:
    """A text for a message: what a file holds may be endless, or refer to itself."""
    return repr(value[:80]) if type(value) is str else type(value).__name__


def _refuse(what: str) -> NoReturn:
    raise Refused(f"the pickle {what}")
