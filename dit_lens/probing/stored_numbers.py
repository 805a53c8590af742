"""A stored probe's numbers, checked, and the stock scikit-learn pipeline built from them.

    z = (x - mean_) / scale_                 s = z . coef_^T + intercept_

A stored probe is ``Pipeline([StandardScaler, one of LINEAR])`` and nothing else. Its records (:mod:`.inert`) hold plain
values only: the real estimators are made new, the values put in, and the result is run once on a few made-up rows,
where it has to give ``s`` by the formula above. So a probe of another scikit-learn version computes what it should, or
is refused.

When not to use: as a check that a probe is any good. It says that it is what it claims to be.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler

from dit_lens.probing.pickle_tree import KINDS, Inert, Refused, read, short

CLASSIFIERS: tuple[type, ...] = (LogisticRegression, RidgeClassifier, LinearDiscriminantAnalysis)
LINEAR: tuple[type, ...] = (*CLASSIFIERS, Ridge)
_DTYPE = re.compile(r"[fiu][248]|[iu]1|b1|U[1-9]\d{0,3}|O8?")
_ATTRIBUTE = re.compile(r"_?[A-Za-z][A-Za-z0-9_]*")
_MAX_ITEMS = 10_000
_ROWS = 4


def pipeline_from(data: bytes) -> Pipeline:
    """The pipeline in pickle bytes, opened without running anything of theirs. Errors: :class:`ProbeError`."""
    tree = read(data)
    try:
        pipeline = _pipeline(tree)
    except Refused:
        raise
    except Exception as error:  # records can be of any shape
        raise _wrong(f"the probe's parts do not fit together ({type(error).__name__})") from error
    check(pipeline)
    return pipeline


def check(pipeline: Any) -> None:
    """That a pipeline is one of ours, fitted, whole, finite, and computes what its numbers say.

    Errors: :class:`ProbeError` naming the part that is not.
    """
    try:
        _check(pipeline)
    except Refused:
        raise
    except Exception as error:  # values can be of any kind
        raise _wrong(f"the probe's values do not fit together ({type(error).__name__})") from error


def _check(pipeline: Any) -> None:
    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        raise _wrong(f"a {type(pipeline).__name__} is not a pipeline of two steps")
    scaler, linear = (part for _, part in pipeline.steps)
    if type(scaler) is not StandardScaler or type(linear) not in LINEAR:
        raise _wrong(f"the probe's steps are {type(scaler).__name__} and {type(linear).__name__}")
    width = n_features(pipeline)
    centre, scale = (_numbers(scaler, name, (width,)) for name in ("mean_", "scale_"))
    if not (scale > 0).all():
        raise _wrong("the probe's scale_ is not above zero everywhere")
    classes = classes_of(pipeline)
    rows = _outputs(linear, classes)
    coef = _numbers(linear, "coef_", (rows, width), (width,) if rows == 1 else None)
    intercept = _numbers(linear, "intercept_", (), (rows,), (1,))
    x = centre + scale * np.random.default_rng(0).standard_normal((_ROWS, width))
    with np.errstate(all="ignore"):
        expected = ((x - centre) / scale) @ np.atleast_2d(coef).T + intercept
        _computes(pipeline, x, expected, classes)


def n_features(pipeline: Pipeline) -> int:
    width = getattr(pipeline[0], "n_features_in_", None)
    if not isinstance(width, int | np.integer) or not 0 < width == getattr(pipeline[1], "n_features_in_", None):
        raise _wrong("the probe's two steps do not say how many channels they read, or not the same")
    return int(width)


def classes_of(pipeline: Pipeline) -> tuple[Any, ...]:
    """The classes of a classifier as plain values, in its order; () for a regression."""
    linear = pipeline[-1]
    if type(linear) not in CLASSIFIERS:
        return ()
    classes = getattr(linear, "classes_", None)
    if (
        not isinstance(classes, np.ndarray)
        or classes.ndim != 1
        or len(classes) < 2
        or classes.dtype.kind not in "biufUO"
    ):
        raise _wrong("the probe's classes_ are not a list of at least two labels")
    found = tuple(classes.tolist())
    if len(set(found)) != len(found) or any(type(c) not in (str, int, bool, float) or c != c for c in found):
        raise _wrong("the probe's classes_ are not different numbers or texts")
    return found


def _computes(pipeline: Pipeline, x: np.ndarray, expected: np.ndarray, classes: tuple[Any, ...]) -> None:
    try:
        given = pipeline.decision_function(x) if classes else pipeline.predict(x)
        given = np.asarray(given, dtype=np.float64).reshape(expected.shape)
        named = pipeline.predict(x).tolist()
    except Exception as error:
        raise _wrong(f"the probe cannot be applied to {_ROWS} made-up rows ({type(error).__name__})") from error
    size = 1 + float(np.abs(expected).max())
    if not (np.isfinite(expected).all() and np.abs(given - expected).max() <= 1e-4 * size):
        raise _wrong("the probe does not compute what its mean_, scale_, coef_ and intercept_ say")
    if classes:
        best = given.argmax(-1) if expected.shape[-1] > 1 else (given[:, 0] > 0).astype(int)
        if named != [classes[i] for i in best]:
            raise _wrong("the probe predicts other labels than its decisions say")


def _outputs(linear: Any, classes: tuple[Any, ...]) -> int:
    """How many rows of coefficients there are to be."""
    if classes:
        return 1 if len(classes) == 2 else len(classes)
    coef = getattr(linear, "coef_", None)
    return len(coef) if isinstance(coef, np.ndarray) and coef.ndim == 2 else 1


def _numbers(estimator: Any, name: str, *shapes: tuple[int, ...] | None) -> np.ndarray:
    found = getattr(estimator, name, None)
    values = np.asarray(found if isinstance(found, np.ndarray | np.floating | float) else None)
    if values.dtype.kind != "f" or values.shape not in shapes or not np.isfinite(values).all():
        kind = f"{values.dtype} {values.shape}" if values.dtype.kind != "O" else type(found).__name__
        raise _wrong(
            f"{name} of the probe's {type(estimator).__name__} is {kind}, expected finite floats of shape "
            + " or ".join(str(s) for s in shapes if s is not None)
        )
    return values.astype(np.float64)


# ---- from records to the real thing


def _pipeline(tree: Any) -> Pipeline:
    state = _state(tree, "Pipeline")
    unknown = set(state) - {"steps", "memory", "verbose", "transform_input", "_sklearn_version"}
    if unknown or state.get("memory") is not None or state.get("transform_input") is not None:
        raise _wrong("the probe's Pipeline holds more than two steps")
    steps = state.get("steps")
    if type(steps) is not list or len(steps) != 2 or any(type(s) is not tuple or len(s) != 2 for s in steps):
        raise _wrong("the probe's Pipeline has no two named steps")
    names = [name for name, _ in steps]
    if any(type(n) is not str or not _ATTRIBUTE.fullmatch(n) or "__" in n for n in names) or names[0] == names[1]:
        raise _wrong("the names of the two steps are not names")
    linear = next((kind for kind in LINEAR if type(steps[1][1]) is KINDS[kind.__name__]), None)
    if linear is None:
        raise _wrong(f"the probe's last step is a {type(steps[1][1]).__name__} and no linear estimator that probes use")
    parts = [_estimator(steps[0][1], StandardScaler), _estimator(steps[1][1], linear)]
    named = [(sys.intern(name), part) for name, part in zip(names, parts, strict=True)]
    return Pipeline(named, verbose=state.get("verbose") is True)


def _estimator(record: Any, kind: type) -> Any:
    """A new estimator that holds a record's values. No ``__setstate__`` is called, no attribute of the class hidden."""
    made = kind()
    values: dict[str, Any] = {}
    for name, value in _state(record, kind.__name__).items():
        if name == "_sklearn_version" or (name == "classes_" and isinstance(getattr(kind, name, None), property)):
            continue
        if not _ATTRIBUTE.fullmatch(name) or "__" in name or hasattr(kind, name):
            raise _wrong(f"{short(name)} is no value that a {kind.__name__} holds")
        if name == "_label_binarizer" and kind is RidgeClassifier:
            values[name] = _binarizer(value)
        else:
            values[sys.intern(name)] = _value(value, name)
    if "_label_binarizer" in values:  # until scikit-learn 1.6 the classes were there only
        own = values["_label_binarizer"].classes_
        if not isinstance(getattr(kind, "classes_", None), property):
            values.setdefault("classes_", own.astype(own.dtype.str))
        if "classes_" in values and not np.array_equal(values["classes_"], own):
            raise _wrong("the probe's classifier and its label binarizer name different classes")
    coef = values.get("coef_")
    if kind in CLASSIFIERS and isinstance(coef, np.ndarray) and coef.ndim == 1:
        values["coef_"] = coef[None]  # scikit-learn 1.9 leaves out the axis that every other version needs
    vars(made).update(values)
    return made


def _binarizer(record: Any) -> LabelBinarizer:
    made = _estimator(record, LabelBinarizer)
    if getattr(made, "y_type_", None) not in ("binary", "multiclass") or type(made.classes_) is not np.ndarray:
        raise _wrong("the probe's label binarizer is not for one label of several classes")
    return made


def _state(record: Any, kind: str) -> dict[str, Any]:
    if type(record) is not KINDS[kind] or record.args or type(record.state) is not dict:
        raise _wrong(f"a {type(record).__name__} stands where a {kind} is expected")
    if any(type(name) is not str for name in record.state):
        raise _wrong(f"the state of the {kind} is not by name")
    return record.state


def _value(value: Any, name: str) -> Any:
    """A plain value: none, a number, a text, a flat sequence of these, an array of numbers or of texts."""
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        return sys.intern(value)
    if type(value) in (list, tuple) and len(value) <= _MAX_ITEMS and not any(_nested(v) for v in value):
        return type(value)(_value(v, name) for v in value)
    if type(value) is dict and len(value) <= _MAX_ITEMS and not any(map(_nested, (*value, *value.values()))):
        return {_value(k, name): _value(v, name) for k, v in value.items()}
    if isinstance(value, Inert):
        return _array(value, name)
    raise _wrong(f"{short(name)} is a {type(value).__name__}, not a number, a text or an array")


def _nested(value: Any) -> bool:
    return type(value) not in (type(None), bool, int, float, str)


def _array(record: Inert, name: str) -> Any:
    """The array or number in a record of one of numpy's three ways to pickle it."""
    order, axes = "C", None
    if type(record) is KINDS["_frombuffer"] and record.state is None:
        data, form, shape, order = record.args[:4]
        axes = record.args[4] if record.args[4:] else None
    elif type(record) is KINDS["scalar"] and record.state is None:
        (form, data), shape = record.args, ()
    elif type(record) is KINDS["_reconstruct"] and record.args[0] is KINDS["ndarray"]:
        _, shape, form, column_first, data = record.state
        order = "F" if column_first is True else "C"
    else:
        raise _wrong(f"{short(name)} is not an array")
    dtype = _dtype(form)
    if type(shape) is not tuple or len(shape) > 3 or any(type(n) is not int or n < 0 for n in shape):
        raise _wrong(f"the shape of {short(name)} is not up to three numbers")
    if order not in ("C", "F") and not (order == "K" and type(axes) is tuple and all(type(a) is int for a in axes)):
        raise _wrong(f"the order of {short(name)} is unknown")
    if dtype.kind == "O":
        if type(record) is not KINDS["_reconstruct"] or type(data) is not list or {*map(type, data)} - {str}:
            raise _wrong(f"{short(name)} holds objects; only class names may be objects, and only as text")
        return np.array([sys.intern(text) for text in data], dtype=object).reshape(shape)
    if type(data) not in (bytes, bytearray) or len(data) != math.prod(shape) * dtype.itemsize:
        raise _wrong(f"{short(name)} has not the number of bytes that its shape and dtype say")
    flat = np.frombuffer(bytes(data), dtype=dtype)
    if dtype.kind == "U" and (flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > sys.maxunicode).any():
        raise _wrong(f"{short(name)} holds letters that there are not")
    if type(record) is KINDS["scalar"]:
        return flat[0]
    if axes is not None:
        return np.ascontiguousarray(flat.reshape(shape).transpose(axes))
    return flat.reshape(shape, order=order).copy(order="K")  # type: ignore[call-overload]


def _dtype(record: Any) -> np.dtype[Any]:
    """One of numpy's own dtypes, and no other: the record's state has to be the one that numpy gives it."""
    args = record.args if type(record) is KINDS["dtype"] else (None,)
    if type(args[0]) is not str or not _DTYPE.fullmatch(args[0]) or args[1:] != (False, True):
        raise _wrong("an array of the probe has a dtype that is neither number, truth value nor text")
    dtype = np.dtype(args[0])
    if record.state is not None:
        state = record.state
        if type(state) is not tuple or any(type(v) not in (type(None), int, str) for v in state):
            raise _wrong("a dtype of the probe is not as numpy writes it")
        if state[1:2] == (">",):
            dtype = dtype.newbyteorder(">")
        known = dtype.__reduce__()[2]
        if state != known:
            raise _wrong("a dtype of the probe is not as numpy writes it")
    return dtype


def _wrong(what: str) -> Refused:
    kinds = ", ".join(kind.__name__ for kind in LINEAR)
    return Refused(f"{what} (a probe is a StandardScaler and one of {kinds})")
