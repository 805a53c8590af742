"""Reading labelled arrays for drawing: the value, its interval, its count and its placebo, and their formats."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError

#: Variables of a Dataset that accompany the value instead of being one.
COMPANIONS = ("low", "high", "n", "null", "null_low", "null_high", "p", "p_corrected")
#: A cell stands out where its corrected p is at most this.
LEVEL = 0.05


@dataclass(frozen=True)
class Quantity:
    """One measured quantity with its interval, count and placebo; every array has the dims of ``value`` or fewer."""

    value: xr.DataArray
    low: xr.DataArray | None = None
    high: xr.DataArray | None = None
    n: xr.DataArray | None = None
    null: xr.DataArray | None = None
    null_low: xr.DataArray | None = None
    null_high: xr.DataArray | None = None
    p: xr.DataArray | None = None
    p_corrected: xr.DataArray | None = None
    no_mark: str = ""  # why nothing can stand out, where that is so

    @property
    def stands_out(self) -> xr.DataArray | None:
        """Cells that differ from the null after correction over all of them; None where nothing was tested."""
        if self.p_corrected is None or not np.isfinite(self.p_corrected.values.astype(float)).any():
            return None
        return (self.p_corrected <= LEVEL).broadcast_like(self.value)

    @property
    def label(self) -> str:
        """``long_name [units]``, HTML-escaped, for an axis or a colour bar."""
        return label(self.value)


def quantity(data: xr.DataArray | xr.Dataset, value: str | None = None) -> Quantity:
    """Split what the caller passed into value, interval, count and placebo.

    A DataArray may hold ``low``, ``high``, ``n`` as coordinates of its own dims; a Dataset holds them as variables, and
    its value is the variable ``value`` (or the one named, or the only other one). A count may also be in
    ``attrs["n"]``.

    Args:
        data: What is drawn.
        value: The name of the variable to draw.

    Returns:
        The quantity.

    Raises:
        FigureError: The value is ambiguous, not numeric, infinite, or nowhere finite.
    """
    if isinstance(data, xr.Dataset):
        names = [str(name) for name in data.data_vars if name not in COMPANIONS]
        name = value or ("value" if "value" in names else names[0] if len(names) == 1 else None)
        if name is None or name not in data.data_vars:
            raise FigureError(
                f"Cannot tell what to draw: asked for {value!r}, the dataset has {names}. Pass value=NAME."
            )
        array = data[name]
        if not array.attrs.get("n") and "n" in data.attrs:
            array = array.assign_attrs(n=data.attrs["n"])
        others = {key: data[key] for key in COMPANIONS if key in data.variables}
    elif isinstance(data, xr.DataArray):
        array = data
        others = {key: data.coords[key] for key in COMPANIONS if key in data.coords and key not in data.dims}
    else:
        raise FigureError(f"Expected an xarray DataArray or Dataset, got {type(data).__name__}. Name its dims first.")
    if "n" not in others and "n" in array.attrs:
        others["n"] = xr.DataArray(array.attrs["n"])
    if ("low" in others) != ("high" in others):
        raise FigureError("An interval needs both ends: give both `low` and `high`.")
    array = array.drop_vars([key for key in COMPANIONS if key in array.coords])
    others = {key: other.drop_vars([k for k in COMPANIONS if k in other.coords]) for key, other in others.items()}
    checked(array)
    return Quantity(array, **others, no_mark=str(data.attrs.get("no_mark", "")))


def checked(array: xr.DataArray) -> None:
    """Check that an array can be drawn.

    Raises:
        FigureError: It is not numeric, infinite, or nowhere finite.
    """
    name = array.name or "the array"
    if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
        raise FigureError(f"{name} holds {array.dtype}, not numbers.")
    numbers = np.asarray(array.values, dtype=float)
    if np.isinf(numbers).any():
        raise FigureError(
            f"{name} holds {int(np.isinf(numbers).sum())} infinite values: mask them (NaN draws as blank)."
        )
    if not np.isfinite(numbers).any():
        raise FigureError(f"{name} has no finite value (shape {array.shape}): there is nothing to draw.")


def require_same_cells(other: xr.DataArray, like: xr.DataArray, name: str) -> None:
    """Check that a companion has the dims and labels of the value; xarray would align or broadcast it silently.

    Raises:
        FigureError: They differ.
    """
    if not set(other.dims) <= set(like.dims):
        raise FigureError(f"{name} has dims {other.dims}, the value {like.dims}: they must agree.")
    for dim in other.dims:
        if ticks(other, str(dim)) != ticks(like, str(dim)):
            raise FigureError(f"{name} and the value differ in their {dim!r} labels: select the same cells of both.")


def label(array: xr.DataArray) -> str:
    """``long_name [units]`` of an array or coordinate, escaped; its name where attrs say nothing."""
    name = str(array.attrs.get("long_name") or array.name or "value")
    units = str(array.attrs.get("units") or "")
    return html.escape(f"{name} [{units}]" if units not in ("", "1") else name, quote=False)


def folded(text: str, width: int = 30) -> str:
    """A label for the short side of a figure: long ones break before their units, or near the middle."""
    if len(text) <= width or "<br>" in text:
        return text
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    units = text.rfind(" [")
    if not spaces:
        return text
    cut = units if units > 0 else min(spaces, key=lambda i: abs(i - len(text) / 2))
    return text[:cut] + "<br>" + text[cut + 1 :]


def axis_label(data: xr.DataArray, dim: str) -> str:
    """The label of a dim: its coordinate's long_name and units, else its own name."""
    return label(data.coords[dim]) if dim in data.coords else html.escape(dim, quote=False)


def ticks(data: xr.DataArray, dim: str) -> list:
    """The coordinate values along a dim as plain Python objects (positions where it has no coordinate)."""
    return data.coords[dim].values.tolist() if dim in data.coords else list(range(data.sizes[dim]))


def places(data: xr.DataArray, dim: str) -> list[str]:
    """A label for each position along a dim: its coordinate, and others along the same dim (sigma of a step)."""
    title = axis_label(data, dim)
    extra = {label(c): c.values.tolist() for name, c in data.coords.items() if name != dim and c.dims == (dim,)}
    said = []
    for i, at in enumerate(ticks(data, dim)):
        more = ", ".join(f"{key} {number(values[i])}" for key, values in extra.items())
        said.append(f"{title} {number(at)}" + (f" ({more})" if more else ""))
    return said


def hover(place: str, name: str, numbers: Mapping[str, float], null_name: str = "placebo") -> str:
    """The hover text of one point: place, then value, interval, placebo, p and n, as far as ``numbers`` has them."""
    value = float(numbers["value"])
    if np.isnan(value):
        return f"{place}<br>not measured"
    lines = [place, f"{name}: <b>{number(value)}</b>"]
    if "low" in numbers:
        lines[1] += " " + interval(numbers["low"], numbers["high"])
    if "null" in numbers:
        lines.append(f"{html.escape(null_name, quote=False)}: {number(float(numbers['null']))}")
    if np.isfinite(numbers.get("p_corrected", np.nan)):
        lines.append(p_values(numbers))
    if "n" in numbers:
        lines.append(f"n = {number(whole(numbers['n']))}")
    return "<br>".join(lines)


def hovers(part: Mapping[str, np.ndarray], where: Sequence[str], name: str, null_name: str = "placebo") -> list[str]:
    """:func:`hover` of every point of one series."""
    return [hover(at, name, {key: row[j] for key, row in part.items()}, null_name) for j, at in enumerate(where)]


def grids(q: Quantity, *dims: str) -> dict[str, np.ndarray]:
    """The value and its companions as plain floats, all over ``dims`` in that order."""
    found = {name: getattr(q, name) for name in ("value", *COMPANIONS)}
    return {
        name: np.asarray(array.broadcast_like(q.value).transpose(*dims).values, dtype=float)
        for name, array in found.items()
        if array is not None
    }


def intervals(q: Quantity, drawn: str) -> list[str]:
    """The sentence about intervals below a figure: "Bands are intervals.", or why there are none."""
    if q.low is None:
        return []
    if np.isfinite(q.low.values.astype(float)).any():
        return [f"{drawn} are intervals."]
    return ["No intervals: fewer than five tasks, or all values equal."]


def counts(q: Quantity, each: str) -> list[str]:
    """The sentence about n below a figure, where n is known: "n = 8 per cell"."""
    if q.n is None or not np.isfinite(q.n.values.astype(float)).any():
        return []
    n = np.unique(q.n.values[np.isfinite(q.n.values.astype(float))])
    return [f"n = {number(whole(n[0]))} per {each}." if len(n) == 1 else f"n = {n[0]:g} to {n[-1]:g} per {each}."]


def listed(
    q: Quantity, down: str, across: str | None = None, null_name: str = "placebo", flip: bool = False
) -> dict[str, list]:
    """The numbers of a figure as the head and rows of a table; each cell is a list of lines.

    Args:
        q: The quantity.
        down: The dim along the rows.
        across: The dim along the columns.
        null_name: What the placebo is called.
        flip: The last row first, as in a figure whose axis goes upwards.

    Returns:
        ``head`` and ``rows``.
    """
    dims = (down,) if across is None else (down, across)
    found = {name: grid.reshape(grid.shape[0], -1) for name, grid in grids(q, *dims).items()}
    same_n = "n" not in found or len(np.unique(found["n"])) == 1  # then the caption says it
    rows = []
    for i, name in enumerate(ticks(q.value, down)):
        row: list[list[str]] = [[_named(name)]]
        for j in range(found["value"].shape[1]):
            cell = {key: grid[i, j] for key, grid in found.items()}
            said = [number(cell["value"])]
            if "low" in cell and np.isfinite(cell["value"]):
                said.append(interval(cell["low"], cell["high"]))
            if "null" in cell:
                said.append(f"{null_name} {number(cell['null'])}")
            if np.isfinite(cell.get("p_corrected", np.nan)):
                said.append(p_values(cell))
            if not same_n:
                said.append(f"n = {number(whole(cell['n']))}")
            row.append(said)
        rows.append(row)
    columns = [html.unescape(q.label)] if across is None else [_named(at) for at in ticks(q.value, across)]
    head = [down if across is None else f"{down} ↓ {across} →", *columns]
    return {"head": head, "rows": rows[::-1] if flip else rows}


def _named(at: object) -> str:
    return html.unescape(number(at))


def whole(n: float) -> object:
    """A count as an integer, although NaN in some cells has made the counts floats."""
    return int(n) if np.isfinite(n) and float(n).is_integer() else float(n)


def number(value: object) -> str:
    """Format a number for hovers and tables: integers whole, others to three significant digits."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}" if abs(int(value)) >= 10_000 else str(int(value))
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        magnitude = abs(float(value))
        if magnitude and (magnitude < 1e-3 or magnitude >= 1e5):
            return f"{float(value):.2e}".replace("-", "−")
        if float(value).is_integer() and magnitude >= 1000:
            return f"{int(value):,}".replace("-", "−")
        digits = 3 if magnitude < 1 else 2 if magnitude < 100 else 1
        return f"{float(value):.{digits}f}".replace("-", "−")
    return html.escape(str(value), quote=False)


def p_values(numbers: Mapping[str, float]) -> str:
    """``corrected p = .03 (alone .002)``."""
    alone = f" (alone {number(float(numbers['p']))})" if "p" in numbers else ""
    return f"corrected p = {number(float(numbers['p_corrected']))}{alone}"


def outstanding(q: Quantity, null_name: str, each: str) -> str:
    """How many cells stand out, and why none can where that is so; empty where nothing was tested.

    "3 of 48 cells differ from the placebo (p ≤ .05, corrected over all)."
    """
    if (out := q.stands_out) is None:
        return ""
    many = int(out.sum())
    verb = "differs" if many == 1 else "differ"
    said = f"{many} of {out.size} {each}s {verb} from the {null_name} (p ≤ .05, corrected over all)."
    return f"{said} {q.no_mark}".strip()


def interval(low: float, high: float) -> str:
    """``[low, high]``, or "no interval"."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "no interval"
    return f"[{number(float(low))}, {number(float(high))}]"
