"""The map: which layers and steps of a model do what, from tasks with known answers.

Evidence for every (step, layer): token energy by region against shuffled masks, attention to the foreground against
random masks, local effects of a block's update against the same scene at another seed, the layer lens; and effects of a
quarter of the layers held over *all* steps on the finished video, since one step often moves x0_hat and not the video.
Linear probes show what can be read of the scene and of the decision after each layer, on further tasks.
``dit_lens.layer_map.roles`` turns the evidence into one table beside several models that learned nothing, says which
model of depth describes it (stages, one place, or a smooth profile) and where each role lies. Every number is a mean
over tasks with an interval, of five tasks or more.

With ``folder=`` a map can be stopped and continued: every task is kept as it is finished, in the model and in the
controls, and so is every scene of the probes. The parts: :mod:`dit_lens.layer_map.measurement`.

When not to use: as a test of one hypothesis. The map shows where to look; measure the question itself on more tasks.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr

from dit_lens.display import html
from dit_lens.display.lens_and_run import WORDS, judged
from dit_lens.layer_map.controls import control_kind
from dit_lens.layer_map.decodability import gains
from dit_lens.layer_map.evidence import by_control, by_layer, with_probes
from dit_lens.layer_map.measurement import PROBE_SEED, summary_of, survey
from dit_lens.layer_map.roles import Roles, roles
from dit_lens.progress import Progress, silent
from dit_lens.runner.sweep import PLACEBO_SEED
from dit_lens.store.base import Store
from dit_lens.store.folder import open_store
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged


@dataclass(frozen=True, eq=False)
class Map:
    """A finished map.

    Attributes:
        layers: The table, (expert, layer), one column per evidence.
        roles: The model of depth of each expert, and where each role lies.
        effects: Local effects (step, layer).
        held: Effects on the video of updates held over all steps (layer).
        energy: Token energy (step, layer, region).
        decodable: Scores of probes (label, step, layer), with the input's, and the control's as null.
        ensembles: Scores of latents shared by three seeds (kind), if asked for.
        clips: The videos behind the largest effects of the first task, (step, layer) -> name -> uint8 (F, H, W, 3).
        runs: The base runs.
        about: Every parameter.
    """

    effects: xr.Dataset
    held: xr.Dataset
    energy: xr.Dataset
    decodable: xr.Dataset
    layers: xr.Dataset
    ensembles: xr.Dataset
    roles: Roles
    clips: Mapping[tuple[int, int], Mapping[str, np.ndarray]] = field(repr=False)
    runs: Sequence[Run] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    def tables(self) -> dict[str, xr.Dataset]:
        """The labelled arrays by name, as ``write`` names their files."""
        names = ("layers", "effects", "held", "energy", "decodable", "ensembles")
        tables = {name: getattr(self, name) for name in names}
        return {name: table for name, table in tables.items() if table.data_vars}

    def summary(self) -> list[str]:
        """The findings in sentences: every effect beside its placebo, with interval and n."""
        said = [f"{self.about['solved']} tasks solved by {self.about['model']}.", *self.roles.sentences()]
        best = self.effects["value"].stack(place=("step", "layer"))
        if np.isfinite(best.values).any():
            step, layer = best["place"].values[int(np.nanargmax(best.values))]
            cell = _effect(self.effects.sel(step=step, layer=layer))
            said.append(f"Largest local effect: step {step}, layer {layer}: {cell}.")
        if np.isfinite(self.held["value"].values).any():
            held = self.held.isel(layer=int(np.nanargmax(self.held["value"].values)))
            cell = f"layers {held['layer'].item()}: {_effect(held)}"
            said.append(f"Largest effect on the finished video, held over all steps: {cell}.")
        for what, table in (("Effects", self.effects), ("Layers beside the controls", self.layers)):
            if "no_mark" in table.attrs:
                said.append(f"{what}: {_lower(table.attrs['no_mark'])}")
        return said

    def write(self, folder: str | Path) -> Path:
        """Write tables as CSV, metadata as JSON, runs as safetensors, and ``report.html``; return the report's path."""
        from dit_lens.figures.folder_report import write_tables
        from dit_lens.figures.map_report import write_report

        folder = Path(folder)
        write_tables(folder, self.tables())
        for i, run in enumerate(self.runs):
            name = f"{getattr(run.task, 'name', 'task')}-{getattr(run.task, 'seed', run.seed)}"
            run.save(folder / "runs" / f"{i:02d}-{name}")
        return write_report(self, folder / "report.html")

    def __repr__(self) -> str:
        return "\n  ".join([f"Map of {self.about['model']}: {self._puzzles()}", *self.summary()])

    def _repr_html_(self) -> str:
        about, names = self.about, [str(name) for name in self.layers.data_vars if f"{name}_null" in self.layers]
        steps, scale = about["num_inference_steps"], about["guidance_scale"]
        rows = {
            "puzzles": self._puzzles(),
            "sampling": f"{steps} steps, {about['scheduler']}, guidance {scale:g}",
            "found": html.table((), ([line] for line in self.summary())),
            "controls": about["controls"],
        }
        cells = self.layers.stack(place=("expert", "layer"))
        lines = (
            [*place, *(_number(cells.isel(place=i), name) for name in names)]
            for i, place in enumerate(cells["place"].values)
        )
        table = html.table(("expert", "layer", *names), lines, "Layer by layer, above each evidence's own null")
        return html.facts(f"Map of {about['model']}", rows, table)

    def _puzzles(self) -> str:
        return f"{self.about['puzzles']} tasks of {', '.join(self.about['tasks'])}"


def map(
    lens: Lens,
    tasks: Sequence[Any] | None = None,
    n: int = 2,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    scenes: int = 24,
    ensembles: bool = False,
    progress: Progress = silent,
    sampling: SamplingLike | None = None,
    folder: str | Path | Store | None = None,
    controls: int = 4,
    exact: bool = False,
    **given: Unpack[SamplingArguments],
) -> Map:
    """Measure which layers and steps do what, beside models that learned nothing.

    The same seed gives the same tables.

    Args:
        lens: The model.
        tasks: Families by name (``["maze"]``; all by default), of which ``n`` tasks each are drawn, or your own tasks
            with ``regions`` and ``twin(kind)``.
        n: Tasks of each family.
        seed: The first seed.
        steps: Steps to patch and read (six over the schedule by default); every second of them is also measured in the
            controls.
        scenes: Further tasks, of the same families, that probes are fitted on (0: no probes; your own tasks are probed
            themselves, if they are eight or more).
        ensembles: Also score latents shared by three seeds in the third quarter of the layers at step 0, beside the
            same seeds alone (half a minute more a task).
        progress: Called as ``progress(done, total, what)`` before each task that is left to do.
        sampling: Sampling of every generation (:class:`dit_lens.Sampling`).
        folder: Finished tasks (and the ensembles as one part) are kept there, and the same map with the same folder
            continues; it can be deleted once the map is written.
        controls: Models that learned nothing, whose weights are shuffled and re-initialised in turn. Each costs three
            generations and the local effects of every second step, for each task; one is in memory at a time.
        exact: Local effects one patch at a time, bit for bit as ``dl.patch``. Otherwise several layers of a small model
            share a batch: less time, other last digits.
        **given: The fields of ``sampling``, one by one.

    Returns:
        The map.

    Raises:
        TaskError: Too few tasks, or tasks without twins.
        MeasureError: Tasks without foreground.
        AddressError: Steps outside the plan.
        StoreError: A folder of other parameters; the message shows the difference.
    """
    began = time.time()
    work = survey(lens, tasks, n, seed, steps, scenes, merged(sampling, given, map), controls, exact)
    kept = open_store(folder, "map", work.parameters)
    with kept.stoppable():
        found = work.run(kept, ensembles, progress)
    plan = work.plan
    trained, nothing = by_layer(found.trained), by_control(found.controls)
    if found.decodable.sizes.get("label"):
        more = gains(found.decodable, [plan.at(s).expert for s in work.few])
        trained, nothing = with_probes(trained, more[0]), with_probes(nothing, more[1])
    table, places = roles(trained, nothing, seed=seed)
    words = [judged(run)[1] for run in found.runs]
    about = {
        "model": lens.name, "weights": lens.fingerprint, "tasks": work.families, "puzzles": len(work.tasks),
        "first seed": seed, "scheduler": plan.scheduler,
        "num_inference_steps": plan.n_steps, "guidance_scale": plan.guidance_scale,
        "video": f"{found.runs[0].size.num_frames} frames of {found.runs[0].size.height} x {found.runs[0].size.width}",
        "steps patched": list(work.steps), "steps of the layer table": list(work.few),
        "placebo": f"same scene, seed + {PLACEBO_SEED}",
        "controls": ", ".join(f"{control_kind(c)} (seed {seed + c // 2})" for c in range(controls))
        + "; same tasks, the steps of the layer table; probes beside the first of them",
        "puzzles probed": len(work.probed), "seeds probed": f"from {seed + PROBE_SEED}",
        "solved": f"{words.count('solved')} of {sum(word in WORDS for word in words)}",
        "cost": str(work.cost()).split("\n")[0],
        "seconds": round(time.time() - began, 1), "parts kept before": kept.found,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {torch.get_num_threads()} threads",
        **{k: v for k, v in found.runs[0].meta.items() if k not in ("model", "fingerprint", "fps")},
    }  # fmt: skip
    return Map(
        summary_of(found.effects, "effect", "placebo"), summary_of(found.held, "effect", "placebo"),
        summary_of(found.energy, "region", "null").assign_attrs(null_name="shuffled masks"),
        _scores(found.decodable), table, found.ensembles, places, _by_cell(found.clips), found.runs, about,
    )  # fmt: skip


def _scores(found: xr.Dataset) -> xr.Dataset:
    """Scores of probes for the report, beside the input's and the control's."""
    if not found.data_vars:
        return xr.Dataset()
    names = {"score": "value", "untrained": "null"}
    kept = found[["score", "low", "high", "n", "untrained", "input"]].rename(names)
    kept = kept.drop_vars([c for c in kept.coords if c not in ("label", "step", "layer", "kind", "metric", "sigma")])
    kept["value"].attrs = {"long_name": "area under the ROC curve within scenes", "units": "chance 0.5"}
    return kept.assign_attrs(null_name="control")


def _by_cell(clips: xr.DataArray) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """Clips (place, clip, ...) as ``Map.clips`` has them."""
    return {
        (int(place["step"]), int(place["layer"])): {str(one["clip"].item()): one.values for one in place}
        for place in clips
    }


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _effect(cell: xr.Dataset) -> str:
    p = float(cell["p_corrected"])
    told = f", corrected p = {p:.3f}" if np.isfinite(p) else ""
    placebo, n = float(cell["null"]), int(cell["n"])
    return f"{_interval(cell, '{}')}, placebo {placebo:.2f}, n = {n}{told} (0 = base, 1 = source)"


def _number(cell: xr.Dataset, name: str) -> str:
    least, greatest = (float(cell[f"{name}_null_{end}"]) for end in ("low", "high"))
    said = _interval(cell.rename({name: f"{name}_value"}), name + "_{}")
    return f"{said}, controls {least:.2f} to {greatest:.2f}, n = {int(cell[f'{name}_n'])}"


def _interval(cell: xr.Dataset, names: str) -> str:
    """A value with its interval, where it has one."""
    value, low, high = (float(cell[names.format(k)]) for k in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else f"{value:.2f}"
