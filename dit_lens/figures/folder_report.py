"""The output folder of a command as a page: tables as heatmaps or rows, saved runs as films.

    write_folder("map", "map/tables.html", load=lambda folder: lens.attach(dit_lens.load_run(folder)))

CSV has no place for units, long names and the name of a null: ``tables.json`` beside the tables holds them.

When not to use: in place of the reports that ``map`` and ``sweep`` write themselves. Those hold what tables cannot:
clips behind cells, the sentences of the summary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dit_lens.errors import FigureError, StoreError
from dit_lens.figures.frames import spread
from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.labelled_arrays import COMPANIONS, outstanding, quantity
from dit_lens.figures.report import Report
from dit_lens.figures.run_page import about, add_run, write_run
from dit_lens.store.atomic import new_file

if TYPE_CHECKING:
    from dit_lens.wan.run import Run

#: Columns that say where a number was measured; the others are numbers and what belongs to them.
AXES = ("label", "hook", "head", "region", "branch", "expert", "step", "layer")
#: What the tables' columns mean: table -> column ("" for the table itself) -> attribute -> value.
MEANINGS = "tables.json"
#: At most so many heatmaps of one table.
MOST = 12


def runs_in(folder: Path) -> list[Path]:
    """The saved runs in a folder that ``generate`` or ``map`` wrote: itself, ``run``, or those in ``runs``."""
    places = [folder, folder / "run", *sorted((folder / "runs").glob("*"))]
    return [place for place in places if (place / "run.json").is_file()]


def write_tables(folder: Path, tables: Mapping[str, xr.Dataset]) -> None:
    """Write labelled arrays as CSV files, row by row, and the meaning of their columns as ``tables.json``.

    Args:
        folder: The folder.
        tables: Name -> table.

    Raises:
        StoreError: The folder cannot be written.
    """
    said = {
        name: {"": table.attrs, **{str(column): array.attrs for column, array in table.variables.items()}}
        for name, table in tables.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            with new_file(folder / f"{name}.csv") as scratch:
                table.to_dataframe().reset_index().to_csv(scratch, index=False)
        with new_file(folder / MEANINGS) as scratch:
            scratch.write_text(json.dumps(said, indent=1, default=_plain), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write tables to {folder}: {error}; choose a folder that can be written") from error


def write_folder(folder: str | Path, path: str | Path, *, load: Callable[[Path], Run], films: int = 6) -> Path:
    """Write the page of a folder.

    Args:
        folder: The folder.
        path: The page.
        load: Reads a saved run and gives it a decoder.
        films: At most so many runs are shown with their film.

    Returns:
        The page's path.

    Raises:
        StoreError: A folder without tables and runs.
    """
    folder, path = Path(folder), Path(path)
    places, tables = runs_in(folder), sorted(folder.glob("*.csv"))
    if not places and not tables:
        raise StoreError(
            f"{folder} holds no saved run and no table: give a folder that `dit-lens generate`, `map` or `sweep` wrote "
            "(a sweep writes its table when it ends; the same command continues a stopped one)"
        )
    if len(places) == 1 and not tables:
        return write_run(load(places[0]), path)
    report = Report(f"Results in {folder.resolve().name}", "Made from the tables and runs of this folder")
    summary, meanings = [], _read(folder / MEANINGS)
    for table in tables:
        summary += add_table(report, table, meanings.get(table.stem, {}))
    for place in [places[i] for i in spread(len(places), films)] if places else []:
        run = load(place)
        add_run(report, run, title=place.name)
        report.methods = report.methods or about(run)
    report.summary = summary or [f"{len(places)} runs."]
    report.methods = {**report.methods, **_parameters(folder)}
    return report.write(path)


def add_table(report: Report, path: Path, meanings: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Add a CSV file to a report: heatmaps where it has values by step and layer, else its rows.

    Args:
        report: The report.
        path: The file.
        meanings: Attributes of its columns, and of the table under "".

    Returns:
        Sentences about it, for the summary.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors, and those of wrong bytes, are ValueErrors
        raise FigureError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0]}): save it as CSV in UTF-8 with a row of "
            "names, or take it out of the folder"
        ) from error
    data = labelled(frame)
    if data is not None:
        data.attrs.update(meanings.get("", {}))
        for name in set(meanings) & set(map(str, data.variables)):
            data[name].attrs.update(meanings[name])
    if data is None or "value" not in data or not {"step", "layer"} <= set(data.dims):
        report.table(path.stem, frame if data is None or set(data.dims) - {"layer", "expert"} else data)
        return []
    others = [dim for dim in data["value"].dims if dim not in ("step", "layer")]
    said = []
    shown = data[["value", *(name for name in COMPANIONS if name in data)]]
    for at in list(np.ndindex(*(data.sizes[dim] for dim in others)))[:MOST]:
        part = shown.isel(dict(zip(others, at, strict=True)))
        place = ", ".join(f"{dim} {part[dim].item()}" for dim in others)
        part = part.drop_vars(others)
        if not np.isfinite(part["value"]).any():
            continue
        title = f"{path.stem}: {place}" if place else path.stem
        report.figure(heatmap(part, title=title), caption=f"From {path.name}, as it was written.")
        said.append(f"{title}: {_largest(part)}")
    return said


def labelled(frame: pd.DataFrame) -> xr.Dataset | None:
    """A table as labelled arrays over its :data:`AXES`, in the order of its rows; None where rows are not unique."""
    axes = [name for name in AXES if name in frame.columns]
    if "step" in axes and "expert" in axes:  # then it only says which expert a step runs on
        axes.remove("expert")
    axes = [name for name in axes if name in ("step", "layer") or frame[name].nunique() > 1]
    if not axes or frame.duplicated(axes).any() or frame[axes].isna().any(axis=None):
        return None
    data = frame.drop(columns=[c for c in AXES if c in frame.columns and c not in (*axes, "expert")])
    return data.set_index(axes).to_xarray().reindex({dim: frame[dim].unique() for dim in axes})


def _largest(part: xr.Dataset) -> str:
    values = part["value"].transpose("step", "layer")
    step, layer = np.unravel_index(int(np.nanargmax(np.abs(values.values))), values.shape)
    cell = part.isel(step=step, layer=layer)
    text = f"largest at step {cell['step'].item()}, layer {cell['layer'].item()}: {cell['value'].item():.3g}"
    if "low" in cell and "high" in cell and np.isfinite(cell["low"].item()):
        text += f" [{cell['low'].item():.3g}, {cell['high'].item():.3g}]"
    if "null" in cell:
        text += f", {part.attrs.get('null_name', 'placebo')} {cell['null'].item():.3g}"
    if "n" in cell:
        text += f", n = {int(cell['n'].item())}"
    if said := outstanding(quantity(part), part.attrs.get("null_name", "placebo"), "cell"):
        return f"{text}. {said}"
    return f"{text}; of {values.size} cells, so large by selection, too."


def _parameters(folder: Path) -> Mapping[str, Any]:
    """The parameters of a sweep in this folder."""
    found = _read(folder / "sweep.json")
    if not found:
        return {}
    return {"sweep": {k: v if isinstance(v, str | int | float) else json.dumps(v)[:400] for k, v in found.items()}}


def _read(file: Path) -> Mapping[str, Any]:
    """A JSON file; empty where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FigureError(f"{file} cannot be read ({error}): write the results in its folder again") from error


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
