"""The same pipeline without a pickle: a skops file, written so that equal probes give equal bytes.

A skops file is a zip of ``schema.json`` (which classes, which attributes) and ``.npy`` arrays. skops writes memory
addresses and the time into it; both are replaced here. On opening, every class that the schema names has to be one of
ours before skops sees the file, the arrays have to be as long as they say, and what skops builds is then written out
and read again by the same rules as the pickle (:mod:`.stock`).

When not to use: where skops is not installed. The pickle is enough; the twin is for those who open no pickles.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from dit_lens.errors import ProbeError
from dit_lens.probing.pickle_tree import MAX_BYTES, MODULES, PROTOCOL, Refused, short
from dit_lens.probing.stored_numbers import pipeline_from

_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
_MAX_SCHEMA, _MAX_MEMBERS = 2**20, 200
_LOADERS = {"ObjectNode", "DictNode", "ListNode", "TupleNode", "JsonNode", "TypeNode", "NdArrayNode"}
_PLAIN = {("builtins", name) for name in ("dict", "list", "tuple", "str", "int", "float", "bool", "NoneType")}
_NUMBERS = ("ndarray", "bool", "bool_", "str_") + tuple(
    f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)
)
_CLASSES = _PLAIN | {("numpy", name) for name in _NUMBERS} | {(module, name) for name, module in MODULES.items()}
_INSTALL = 'install it with `pip install "dit-lens[skops]"`, or open the pickle with load_probe(folder)'


def twin_of(pipeline: Pipeline) -> bytes | None:
    """The bytes of a skops file of a checked pipeline, or None where skops is not installed."""
    try:
        from skops.io import dumps
    except ImportError:
        return None
    with zipfile.ZipFile(io.BytesIO(dumps(pipeline))) as source:
        schema = json.loads(source.read(_SCHEMA))
        names = _renumber(schema)
        arrays = {new: source.read(old) for old, new in names.items()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, data in {**arrays, _SCHEMA: json.dumps(schema, separators=(",", ":")).encode()}.items():
            target.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def pipeline_from_twin(data: bytes) -> Pipeline:
    """The pipeline in the bytes of a skops file. Errors: :class:`ProbeError` for anything but one of our probes."""
    try:
        from skops.io import loads
    except ImportError:
        raise ProbeError(f"the skops file of a probe needs skops: {_INSTALL}") from None
    try:
        _inspect(data)
        again = pickle.dumps(loads(data, trusted=[]), protocol=PROTOCOL)
    except Refused:
        raise
    except Exception as error:  # zip, JSON, npy and skops each complain in their own way
        raise Refused(f"the skops file is damaged or not one of ours ({type(error).__name__})") from error
    return pipeline_from(again)


def _inspect(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = source.infolist()
        sizes = {m.filename: m.file_size for m in members}
        if len(sizes) != len(members) or len(members) > _MAX_MEMBERS or sum(sizes.values()) > MAX_BYTES:
            raise Refused("the skops file holds too much, or one name twice")
        if sizes.get(_SCHEMA, _MAX_SCHEMA + 1) > _MAX_SCHEMA:
            raise Refused(f"the skops file has no {_SCHEMA} of a probe's size")
        for node in _nodes(json.loads(source.read(_SCHEMA))):
            named = (node["__module__"], node["__class__"])
            if named not in _CLASSES or node["__loader__"] not in _LOADERS:
                raise Refused(
                    f"the skops file asks for {short(named[0])} {short(named[1])} (as {short(node['__loader__'])}), "
                    "which no probe needs"
                )
        for name in sizes.keys() - {_SCHEMA}:
            _inspect_array(source.read(name))


def _inspect_array(data: bytes) -> None:
    """An array whose header says more than the file holds would be made before it is filled."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise Refused(f"the skops file holds an array in the npy format {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise Refused("the skops file holds an array of objects, or one that is not whole")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary that names a class, in order of appearance, without recursion."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if {"__class__", "__module__", "__loader__"} & value.keys():
                yield value
            waiting += reversed([*value.values()])
        elif isinstance(value, list):
            waiting += reversed(value)


def _renumber(schema: dict[str, Any]) -> dict[str, str]:
    """Count objects from 1 in place of their addresses. Returns the arrays' old file names -> new ones."""
    seen: dict[int, int] = {}
    files: dict[str, str] = {}
    for node in _nodes(schema):
        node["__id__"] = seen.setdefault(node["__id__"], len(seen) + 1)
        if "file" in node:
            node["file"] = files.setdefault(node["file"], f"{len(files) + 1}.npy")
    return files
