"""The numbers of a linear probe, and the scikit-learn pipeline that they make.

    z = (x - mean) / scale                 s = z @ coef.T + intercept

A stored probe is ``Pipeline(StandardScaler, one of LINEAR)``: four arrays, the estimator's name, its parameters and its
classes; the probe's patterns (:mod:`.label_pattern`) stand beside them. ``numbers_of`` takes them from a fitted
pipeline, ``pipeline_of`` builds an equal pipeline with the installed scikit-learn, whatever version fitted the first.
Both check that the pipeline computes what the formula says.

Only what prediction needs is kept. Covariances, variances and iteration counts of the fit are not: predictions under
one version of scikit-learn are the same bits, but ``LinearDiscriminantAnalysis.transform`` and ``partial_fit`` need a
new fit. Steps get the names of ``make_pipeline``.

When not to use: as a check that a probe is any good; see the scores for that.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler

from dit_lens.errors import ProbeError
from dit_lens.probing.label_pattern import pattern_shape
from dit_lens.probing.probe_manifest import plain

ARRAYS = ("mean", "scale", "coef", "intercept")
PATTERNS = "patterns"
_KINDS = (LogisticRegression, RidgeClassifier, LinearDiscriminantAnalysis, Ridge)
#: The estimators that may stand behind the scaler, by name. ``Ridge`` is the only regression.
LINEAR: dict[str, Any] = {kind.__name__: kind for kind in _KINDS}
#: What classes may be stored as.
DTYPES = ("bool", "str", "object", "float32", "float64", *(f"{u}int{8 * n}" for u in ("", "u") for n in (1, 2, 4, 8)))
_ROWS = 4
_MAX_HEADER = 4096  # bytes; that of five arrays takes about 330


def numbers_of(pipeline: Pipeline, patterns: np.ndarray | None = None) -> tuple[dict[str, Any], bytes]:
    """Take a fitted pipeline apart.

    Args:
        pipeline: The pipeline.
        patterns: The probe's patterns (k, d), kept beside it.

    Returns:
        The entries ``estimator``, ``params`` (those that differ from the defaults), ``classes``, ``dtype``,
        ``n_features`` and ``order`` of a manifest; and the arrays mean (d,), scale (d,), coef (d,) or (k, d) and
        intercept () or (k,), and patterns if given, as the bytes of a safetensors file.

    Raises:
        ProbeError: The pipeline is not a fitted linear probe, or holds parameters that JSON does not.
    """
    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        raise ProbeError(f"a {type(pipeline).__name__} is not a pipeline of two steps")
    scaler, linear = (part for _, part in pipeline.steps)
    if type(scaler) is not StandardScaler or type(linear) not in LINEAR.values():
        raise ProbeError(f"its steps are {type(scaler).__name__} and {type(linear).__name__}")
    classes = np.zeros(0) if type(linear) is Ridge else np.asarray(getattr(linear, "classes_", None))
    owners = zip(ARRAYS, (scaler, scaler, linear, linear), strict=True)
    found = {name: getattr(owner, f"{name}_", None) for name, owner in owners}
    if missing := [name for name, values in found.items() if values is None]:
        raise ProbeError(f"it has no {missing[0]}: not fitted, or a scaler that does not scale and centre")
    arrays = {name: np.array(values, order="C") for name, values in found.items()}
    arrays = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in arrays.items()}
    if classes.size and arrays["coef"].ndim == 1:
        arrays["coef"] = arrays["coef"][None]  # scikit-learn 1.9 leaves out an axis that other versions need
    if isinstance(found["intercept"], int | float) and not isinstance(found["intercept"], np.generic):
        arrays["intercept"] = arrays["intercept"].astype(arrays["coef"].dtype)  # fitted without one: it is zero
    default = type(linear)().get_params(deep=False)
    params = {name: _written(value, name) for name, value in linear.get_params(deep=False).items()}
    facts = {
        "estimator": type(linear).__name__,
        "params": {name: value for name, value in params.items() if repr(value) != repr(plain(default[name], name))},
        "classes": classes.tolist(),
        "dtype": {"U": "str", "O": "object"}.get(classes.dtype.kind, classes.dtype.name) if classes.size else "",
        "n_features": int(arrays["mean"].size),
        "order": "F" if np.isfortran(np.asarray(found["coef"])) else "C",  # decides the last bit of sums over it
    }
    _check(pipeline, facts, arrays)
    if patterns is not None:
        arrays[PATTERNS] = np.array(patterns, dtype=np.float64, order="C")
        _check_patterns(arrays[PATTERNS], facts)
    return facts, save(arrays)


@np.errstate(all="ignore")
def pipeline_of(facts: Mapping[str, Any], data: bytes) -> Pipeline:
    """Build the pipeline of stored numbers with the installed scikit-learn.

    Parameters that this version of scikit-learn does not know are left out; they belong to fitting.

    Args:
        facts: The entries that :func:`numbers_of` returns, of any origin.
        data: The bytes of a safetensors file, of any origin.

    Returns:
        A pipeline that was run on made-up rows, where it computed what the formula says.

    Raises:
        Exception: Of any kind, where the entries and arrays are not those of a probe; a ``ProbeError`` says what.
    """
    if int.from_bytes(data[:8], "little") > _MAX_HEADER:
        raise ProbeError("its header is longer than five arrays need")
    stored = load(data)
    if stored.keys() - {PATTERNS} != {*ARRAYS}:
        raise ProbeError(f"it holds {len(stored)} arrays, not {', '.join(ARRAYS)}")
    arrays = {name: stored[name].copy() for name in ARRAYS}
    if facts["estimator"] not in LINEAR or facts["dtype"] not in ("", *DTYPES):
        raise ProbeError(f"its estimator is none of {', '.join(LINEAR)}, or its classes are of no dtype for labels")
    kind, scaler = LINEAR[facts["estimator"]], StandardScaler()
    known = kind().get_params(deep=False)
    linear = kind(**{name: _read(value) for name, value in facts["params"].items() if name in known})
    scaler.mean_, scaler.scale_ = arrays["mean"], arrays["scale"]
    linear.coef_, linear.intercept_ = np.array(arrays["coef"], order=facts["order"]), arrays["intercept"][()]
    scaler.n_features_in_ = linear.n_features_in_ = facts["n_features"]
    if kind is not Ridge:
        classes = np.array(facts["classes"], dtype=facts["dtype"])
        if kind is RidgeClassifier:
            linear._label_binarizer = LabelBinarizer(pos_label=1, neg_label=-1).fit(classes)
        if not isinstance(getattr(kind, "classes_", None), property):  # RidgeClassifier's are its binarizer's
            linear.classes_ = classes
    pipeline = make_pipeline(scaler, linear)
    _check(pipeline, facts, arrays)
    return pipeline


def patterns_of(facts: Mapping[str, Any], data: bytes, *, wanted: bool) -> np.ndarray | None:
    """The patterns among stored numbers.

    Args:
        facts: The entries that :func:`numbers_of` returns, of any origin.
        data: The bytes of a safetensors file that :func:`pipeline_of` took.
        wanted: Whether the manifest says that there are some.

    Returns:
        (k, d), or None where there are none.

    Raises:
        ProbeError: They are missing, unasked for, of another shape, or not finite.
    """
    values = load(data).get(PATTERNS)
    if (values is not None) != wanted:
        raise ProbeError(f"it holds {'no ' if wanted else ''}patterns, and its manifest says otherwise")
    if values is None:
        return None
    _check_patterns(values, facts)
    return values


def export(pipeline: Pipeline) -> bytes:
    """Pickle a pipeline that :func:`pipeline_of` built: equal numbers and versions give equal bytes.

    Without a memo (``fast``): whether two equal texts are one object depends on what the process did before.

    Args:
        pipeline: The pipeline.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5)
    pickler.fast = True
    pickler.dump(pipeline)
    return stream.getvalue()


@np.errstate(all="ignore")  # what overflows is refused
def _check(pipeline: Pipeline, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Compare a pipeline with its entries and arrays, and with the formula on made-up rows."""
    d, classes, regression = facts["n_features"], facts["classes"], facts["estimator"] == "Ridge"
    if regression != (not classes) or regression != (facts["dtype"] == ""):
        raise ProbeError("a regression has no classes, and a classifier has some")
    if not regression:
        kinds = {*map(type, classes)}
        if not kinds <= {bool, int, float, str} or len(kinds) > 1 or not 1 < len({*classes}) == len(classes):
            raise ProbeError("its classes are not at least two different numbers or texts, all of one kind")
        if [*map(repr, pipeline[-1].classes_.tolist())] != [*map(repr, classes)]:
            raise ProbeError("its classes are not of their dtype, or in another order")
    k = len(arrays["coef"]) if regression and arrays["coef"].ndim == 2 else len(classes) if len(classes) > 2 else 1
    coef = [(k, d), (d,)] if regression else [(k, d)]
    shapes: dict[str, list[Any]] = {"mean": [(d,)], "scale": [(d,)], "coef": coef, "intercept": [(), (k,)]}
    for name, values in arrays.items():
        if values.dtype not in ("f4", "f8") or values.shape not in shapes[name] or not np.isfinite(values).all():
            wanted = " or ".join(map(str, shapes[name]))
            raise ProbeError(f"its {name} is {values.dtype} {values.shape}, expected finite floats of shape {wanted}")
    if not (d > 0 and (arrays["scale"] > 0).all()):
        raise ProbeError("its scale is not above zero everywhere")
    mean, scale, coefs = (arrays[name].astype(np.float64) for name in ("mean", "scale", "coef"))
    x = mean + scale * np.random.default_rng(0).standard_normal((_ROWS, d))
    expected = ((x - mean) / scale) @ np.atleast_2d(coefs).T + arrays["intercept"]  # (rows, k)
    score = pipeline.predict if regression else pipeline.decision_function
    given = np.asarray(score(x), dtype=np.float64).reshape(expected.shape)
    if not np.abs(given - expected).max() <= 1e-4 * (1 + np.abs(expected).max()):  # also for NaN
        raise ProbeError("it does not compute what its mean, scale, coef and intercept say")
    if not regression:
        best = given.argmax(1) if k > 1 else (given[:, 0] > 0).astype(int)
        if pipeline.predict(x).tolist() != [classes[i] for i in best]:
            raise ProbeError("it predicts other labels than its decisions say")


def _check_patterns(values: np.ndarray, facts: Mapping[str, Any]) -> None:
    shape = pattern_shape(facts["classes"], facts["n_features"])
    if values.dtype != "f8" or values.shape != shape or not np.isfinite(values).all():
        raise ProbeError(f"its patterns are {values.dtype} {values.shape}, expected finite float64 of shape {shape}")


def _written(value: Any, name: str) -> Any:
    """A parameter as JSON; a mapping such as ``class_weight`` as two lists, since its keys need not be texts."""
    if isinstance(value, Mapping):
        return {"keys": plain([*value], name), "values": plain([*value.values()], name)}
    return plain(value, name)


def _read(value: Any) -> Any:
    return dict(zip(value["keys"], value["values"], strict=True)) if isinstance(value, dict) else value
