"""Fit the gallery again: one linear probe a label, for the lab model, each in a folder of its own.

    python probes/refit.py                     # the places in places.json, on fresh scenes; some minutes on one core
    python probes/refit.py --labels path wall  # some of them
    python probes/refit.py --choose            # choose the places again first: the full grid, an hour on one core

A place is chosen on scenes 0-59 of each task, as that where the score lies highest above what the network's input says
at the same step (ties: the earliest layer, then step). The probe is fitted, and its scores and controls are measured,
on other scenes (100-159), so that the choice does not flatter them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import dit_lens as dl
from dit_lens.probing import Features, Probe, collect, grid

HERE = Path(__file__).resolve().parent
PLACES = HERE / "places.json"
LABELS = ("wall", "agent", "goal", "path", "route", "agent_now", "hidden")
SCENE_LABELS = (
    "named_colour",
)  # one a scene: read from the mean over tokens. first_move was tried, and cannot be read
FAMILIES = ("maze", "choose", "occlude")
HEAD = """# The gallery

Linear probes of the lab model, one a label. Each folder holds `probe.safetensors` (the numbers), `probe.pkl` (a plain
scikit-learn pipeline), `probe.json` (what it is, what was measured, checksums) and a card. Open one with

```python
import dit_lens as dl

probe = dl.load_probe("probes/path")
```

or, with scikit-learn alone, `pickle.load(open("probes/path/probe.pkl", "rb"))`: a pickle can run code when it is
opened, so do that with files you trust. `dl.load_probe` opens the numbers and reads no pickle.

Refit them with `python probes/refit.py`, whose first lines say how places and scenes are chosen. The table is written
by it. *score*: out of fold, over scenes, with a 95 % interval; *null*: shuffled labels; *input*: what the network is
given at that step; *position*: where the unit lies. How to read them: [docs/probes.md](../docs/probes.md).

"""


def scenes(first: int, n: int) -> list[dl.tasks.Task]:
    """``n`` scenes of each family."""
    return [dl.tasks.load(family, seed=i) for i in range(first, first + n) for family in FAMILIES]


def chosen(found: xr.Dataset) -> dict[str, dict[str, int]]:
    """The place of each label."""
    out = {}
    for name in found["label"].values:
        part = found.sel(label=name).isel(hook=0)
        above = (part["score"] - part["input"]).transpose("layer", "step").round(3).values
        layer, step = np.unravel_index(int(np.nanargmax(above)), above.shape)  # the first of the largest
        out[str(name)] = {"step": int(part["step"][step]), "layer": int(part["layer"][layer])}
    return out


def fit(lens: dl.Lens, places: dict[str, dict[str, int]], n: int, folder: Path | None) -> list[Probe]:
    """Probes of these places on fresh scenes."""
    features: Features = collect(
        lens, scenes(100, n), steps=sorted({p["step"] for p in places.values()}),
        layers=sorted({p["layer"] for p in places.values()}), seed=1000, folder=folder,
        progress=lambda done, total, what: print(f"{done}/{total} {what}", end="\r", flush=True),
    )  # fmt: skip
    out = []
    for name, at in places.items():
        rows = features.per_video() if name in SCENE_LABELS else features
        out.append(dl.probe(rows, name, f"step={at['step']} layer={at['layer']} hook=resid_post", mdl=True))
        print(out[-1], flush=True)
    return out


def choose(lens: dl.Lens, n: int, folder: Path | None) -> dict[str, dict[str, int]]:
    """The places of all labels, from the full grid on scenes of their own."""
    features = collect(lens, scenes(0, n), folder=folder)
    return chosen(grid(features, LABELS, permutations=0)) | chosen(
        grid(features.per_video(), SCENE_LABELS, permutations=0)
    )


def index(probes: Sequence[Probe]) -> str:
    """The page."""
    lines = ["| probe | kind | place | measure | score | n | null (p) | control | input | position | code gain |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for p in probes:
        s = p.scores
        place = f"step {p.address.step}, layer {p.address.layer}"
        lines.append(
            f"| [{p.label}]({p.label}) | {p.about['kind']} | {place} | {s['metric']} | "
            f"{s['score']:.3f} [{s['low']:.3f}, {s['high']:.3f}] | {s['n']:.0f} | {s['null']:.3f} ({s['p']:.3f}) | "
            f"{s['control']:.3f} | {s['input']:.3f} | {s['position']:.3f} | {s['gain']:.2f} |"
        )
    made = {k: v for k, v in probes[0].about.items() if k in ("dit-lens", "torch", "diffusers", "fingerprint")}
    lines += ["", "Made with " + ", ".join(f"{k} {v}" for k, v in made.items()) + "."]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Choose, fit, save, and write the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = (*LABELS, *SCENE_LABELS)
    parser.add_argument("--labels", nargs="+", choices=every, default=every)
    parser.add_argument("--choose", action="store_true", help="choose the places again")
    parser.add_argument("--scenes", type=int, default=60, help="of each of three tasks")
    parser.add_argument("--folder", type=Path, help="where features are kept, to go on after an interruption")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    with dl.load("lab") as lens:
        if asked.choose:
            kept = None if asked.folder is None else asked.folder / "choosing"
            PLACES.write_text(json.dumps(choose(lens, asked.scenes, kept), indent=1) + "\n")
        places = {k: v for k, v in json.loads(PLACES.read_text()).items() if k in asked.labels}
        probes = fit(lens, places, asked.scenes, None if asked.folder is None else asked.folder / "fitting")
    for probe in probes:
        probe.save(asked.out / probe.label)
    if set(asked.labels) == set(every):
        (asked.out / "README.md").write_text(index(probes), encoding="utf-8")


if __name__ == "__main__":
    main()
