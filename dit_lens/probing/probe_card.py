"""The card of a probe: a page of markdown for people, made from nothing but the manifest.

When not to use: to read a probe by program. That is what ``probe.json`` is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dit_lens.probing.probe_manifest import WITH_PATTERNS

_MAX_CELL = 300
_LOAD = """\
## Use it

With dit_lens, which builds the pipeline from the numbers in `probe.safetensors` and runs nothing of the files:

```python
import dit_lens as dl

probe = dl.load_probe("path/to/this/folder")
probe.predict(activations)  # (..., {n} channels) from {address}
```

With scikit-learn alone:

```python
import hashlib, json, pathlib, pickle

folder = pathlib.Path("path/to/this/folder")
data = (folder / "probe.pkl").read_bytes()
facts = json.loads((folder / "probe.json").read_text())
assert hashlib.sha256(data).hexdigest() == facts["files"]["probe.pkl"]
pipeline = pickle.loads(data)  # sklearn Pipeline(StandardScaler, {estimator})
pipeline.predict(rows)  # (n, {n})
```

**Opening a pickle runs whatever is in it.** The checksum shows that the download is whole, not who made it. Use
`pickle.loads` only on a file whose origin you trust, and with about the versions of scikit-learn and numpy that are in
`probe.json`; otherwise use `dl.load_probe`, or the numbers themselves: `(x - mean) / scale @ coef.T + intercept`.

## When not to use it

On activations of another model, place or unit than above. And not as evidence that the model uses what the probe reads:
that takes an intervention (steering along the probe's direction, or erasing it).
"""


def card(facts: Mapping[str, Any]) -> str:
    """The card of a probe in markdown, with the scores beside their controls.

    Args:
        facts: The entries of its manifest (:mod:`.probe_manifest`).
    """
    about = {
        "reads": f"{facts['label']}, one answer for each {facts['unit']}",
        "at": facts["address"],
        "kind": f"{facts['estimator']} on {facts['n_features']} channels",
        "classes": ", ".join(map(str, facts["classes"])) or "none: a regression",
    }
    if facts["format"] == WITH_PATTERNS:
        about["pattern"] = "kept: how activations differ with the label, which is the direction to push along"
    parts = [
        "---\nlibrary_name: sklearn\ntags:\n- dit-lens\n- linear-probe\n- interpretability\n---",
        f"# Linear probe: {_cell(facts['label'])}",
        _table("", "", about.items()),
        "## Scores and controls",
        "A score means something only beside its controls; the intervals are over scenes.\n\n"
        + _table("measure", "value", _flat(facts["scores"]))
        if facts["scores"]
        else "None were stored with this probe.",
        "## Model and data",
        _table("", "", _flat(facts["about"])) if facts["about"] else "Nothing was stored about them.",
        _LOAD.format(n=facts["n_features"], address=_cell(facts["address"]), estimator=facts["estimator"]),
    ]
    return "\n\n".join(parts)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _table(left: str, right: str, rows: Any) -> str:
    lines = [f"| {left} | {right} |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """A value as text that stays in its cell, since names and prompts may hold any markup."""
    text = f"{value:.4g}" if isinstance(value, float) else "not measured" if value is None else str(value)
    text = " ".join(text.split())
    text = text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
    for mark, instead in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "[": "&#91;"}.items():
        text = text.replace(mark, instead)
    return text
