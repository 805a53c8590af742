"""A probe: one linear read-out of one place in the model, with its scores, controls and origin.

    y_hat = w . (x - mu) / sd + b

``x`` is an activation at the probe's address, per unit (token, frame, region or video); mu and sd are those of the
training scenes, inside the pipeline. The pipeline holds stock scikit-learn estimators only, so that a saved probe opens
without this package.

Beside the normals w / sd, which read, a probe keeps the patterns, how activations differ with the label in its training
rows (:mod:`.label_pattern`): the direction to push along.

When not to use: as evidence that the model uses what a probe reads; see :mod:`.causal_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from sklearn.pipeline import Pipeline

from dit_lens.address import Address
from dit_lens.errors import ProbeError
from dit_lens.probing.label_pattern import pattern_shape
from dit_lens.probing.saving import write_probe


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted read-out of ``label`` from ``address``.

    Attributes:
        pipeline: Scaler and linear estimator of scikit-learn.
        label: What it reads.
        address: Where it reads.
        unit: What one row is: "token", "frame", "region" or "video".
        classes: Labels of a classifier, in the pipeline's order; empty for a regression.
        scores: What was measured at the fit, by name (see :func:`dit_lens.probe`).
        about: Model, fingerprint, versions, generation and data recipe; plain JSON values.
        patterns: How activations differ with the label in the training rows (:func:`.label_pattern.patterns`), (k, d)
            as ``normals``, float64; None where it is not known, as of a pipeline alone or a probe of an older folder.

    Raises:
        ProbeError: Patterns of another shape, or not finite.
    """

    pipeline: Pipeline = field(repr=False)
    label: str
    address: Address
    unit: str
    classes: tuple[Any, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)
    patterns: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.patterns is None:
            return
        values, wanted = np.array(self.patterns, dtype=np.float64), pattern_shape(self.classes, self.n_features)
        if values.shape != wanted or not np.isfinite(values).all():
            raise ProbeError(
                f"patterns of shape {values.shape} do not fit this probe: give finite numbers {wanted}, as "
                "dit_lens.probing.patterns(x, y, classes) makes them from the training rows, or leave them out"
            )
        values.flags.writeable = False
        object.__setattr__(self, "patterns", values)

    @property
    def n_features(self) -> int:
        """Number of channels that it reads."""
        return int(self.pipeline[0].n_features_in_)

    @property
    def normals(self) -> np.ndarray:
        """Normals in the activation's own coordinates (scaling undone), (k, d), with the lengths of the decision.

        k is 1 for two classes or a regression, else the number of classes.
        """
        scale = getattr(self.pipeline[0], "scale_", None)  # None: it only centres
        return np.atleast_2d(self.pipeline[-1].coef_) / (1.0 if scale is None else scale)

    @property
    def direction(self) -> np.ndarray:
        """The normals as unit vectors, (d,) for one, else (classes, d), as :func:`dit_lens.steer` takes them."""
        rows = self.normals / np.linalg.norm(self.normals, axis=1, keepdims=True)
        return rows[0] if len(rows) == 1 else rows

    @property
    def pattern(self) -> np.ndarray:
        """The patterns as unit vectors, (d,) for one, else (classes, d), as :func:`dit_lens.steer` takes them.

        Raises:
            ProbeError: The probe has none.
        """
        if self.patterns is None:
            raise ProbeError(
                f"this probe of {self.label!r} does not keep how activations differ with its label: fit it anew with "
                "dit_lens.probe(...), or give Probe(patterns=dit_lens.probing.patterns(x, y, classes)) from its rows"
            )
        rows = self.patterns / np.linalg.norm(self.patterns, axis=1, keepdims=True)
        return rows[0] if len(rows) == 1 else rows

    def predict(self, x: Any) -> np.ndarray:
        """Labels of activations.

        Args:
            x: (..., d), an array, tensor or labelled array.

        Returns:
            (...).
        """
        flat, shape = self._rows(x)
        return self.pipeline.predict(flat).reshape(shape)

    def decision(self, x: Any) -> np.ndarray:
        """Decision values of activations.

        Args:
            x: (..., d), an array, tensor or labelled array.

        Returns:
            (...) for two classes or a regression, (..., classes) for more.
        """
        flat, shape = self._rows(x)
        score = self.pipeline.decision_function if self.classes else self.pipeline.predict
        values = np.asarray(score(flat))
        return values.reshape(*shape, *values.shape[1:])

    def read(self, run: Any) -> xr.DataArray:
        """Decision values of a run that recorded the probe's address, over the run's own units.

        Args:
            run: The run.

        Raises:
            ProbeError: A run of another model.
            AddressError: Nothing was recorded at the address.
        """
        self.check_model(run.meta)
        values = self.decision(run[self.address])
        dims = [*run.dims.get(self.address.hook, {})][: run[self.address].ndim - 1]  # all but the channel
        if values.ndim > len(dims):
            dims.append("class")
        coords = {"class": [str(c) for c in self.classes]} if "class" in dims else {}
        return xr.DataArray(values, dims=dims, coords=coords, name=f"decision for {self.label}")

    def check_model(self, other: Mapping[str, Any]) -> None:
        """Refuse another model than the one it was fitted on.

        Args:
            other: ``lens.about`` or ``run.meta``.

        Raises:
            ProbeError: Both fingerprints are known and differ.
        """
        wanted, found = self.about.get("fingerprint"), other.get("fingerprint")
        if wanted and found and wanted != found:
            raise ProbeError(
                f"this probe was fitted on model {self.about.get('model')!r} ({wanted!s:.12}) and this is "
                f"{other.get('model')!r} ({found!s:.12}): fit one on runs of that model with dit_lens.probe(...)"
            )

    def save(self, folder: str | Path) -> Path:
        """Write numbers, pickle, manifest and card; :func:`dit_lens.load_probe` reads them safely.

        Args:
            folder: A folder of its own; an earlier probe there is replaced, anything else is refused.

        Returns:
            The folder.

        Raises:
            ProbeError: A pipeline of other estimators, a value that JSON does not have, or a place that cannot be
                written.
        """
        return write_probe(
            folder, self.pipeline, self.classes, self.patterns, label=self.label, unit=self.unit,
            address=self.address, scores=self.scores, about=self.about,
        )  # fmt: skip

    def _rows(self, x: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        values = np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
        if values.shape[-1:] != (self.n_features,):
            raise ProbeError(
                f"this probe reads {self.n_features} channels of {self.address}, found an array of shape "
                f"{values.shape}: record that hook of the same model"
            )
        if not np.isfinite(values).all():
            raise ProbeError("the activations hold NaN or infinity: a region without tokens, or a broken run")
        return values.reshape(-1, self.n_features), values.shape[:-1]

    def _repr_html_(self) -> str:
        """Where it reads, and its scores beside their controls."""
        from dit_lens.display import html

        about = {
            "at": str(self.address),
            "reads": f"one answer for each {self.unit}: {', '.join(map(str, self.classes)) or 'a number'}",
            "kind": f"{type(self.pipeline[-1]).__name__} on {self.n_features} channels",
            "model": self.about.get("model"),
        }
        numbers = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in self.scores.items() if k != "confusion"}
        return html.facts(f"Probe of {self.label}", about, html.table(("score", "value"), numbers.items()))

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.classes else "regression"
        main = ("score", "low", "high", "null", "p", "control", "input", "position")
        shown = ", ".join(f"{k} {self.scores[k]:.3f}" for k in main if isinstance(self.scores.get(k), float))
        return (
            f"Probe of {self.label!r} at {self.address}, per {self.unit}, {kind}, {self.n_features} channels: {shown}"
        )
