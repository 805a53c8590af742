"""One offline HTML page of tables, figures and generations, with everything it needs inside.

The page loads nothing: scripts, styles, pictures and clips are inlined, and its content security policy forbids the
rest. Text that comes from outside (prompts, file names, parameters) is escaped everywhere, also inside JSON.

When not to use: for real-resolution films of many steps; a page is refused beyond ``max_bytes``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError, StoreError
from dit_lens.figures.frames import SpriteSheet, as_frames, data_uri, factor_for, mp4, shrink, spread, sprite_sheet
from dit_lens.figures.tables import layer_table, plain_table, value_table
from dit_lens.store.atomic import new_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

#: Sprites longer than this are reduced by a whole factor, said below the picture.
MAX_SPRITE = 192
_GOOD = {"solved", "correct", "valid", "passed", "yes"}
_BAD = {"failed", "wrong", "unsolved", "incorrect", "invalid", "no"}


@dataclass
class Report:
    """A page under construction: add to it in reading order, then ``write``.

        report = Report("A map of lab", summary=["..."], methods={"seeds": [0, 1], "versions": {"torch": "2.13.0"}})
        report.section("Layers", "Which block does what.")
        report.table("Layer map", layers, note="Evidence with 95 % intervals.")
        report.figure(heatmap(effects), caption="...", cells={(5, 7): {"base": clip, "patched": other}})
        report.generation(title="maze 3", prompt="...", film=film, sigmas=sigmas, clip=video, truth=answer)
        report.write("report.html")

    Args:
        title: The heading.
        subtitle: A line below it.
        summary: Findings in words with their numbers, one string each.
        methods: Every parameter, version and seed, as a mapping; mappings inside it become tables of their own.
    """

    title: str
    summary: Sequence[str] = ()
    methods: Mapping[str, object] = field(default_factory=dict)
    subtitle: str = ""
    _sections: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)
    _sheets: dict[str, SpriteSheet] = field(default_factory=dict, init=False, repr=False)
    _names: set[str] = field(default_factory=set, init=False, repr=False)

    def section(self, title: str, text: str = "") -> Report:
        """Open a section: a heading, an entry of the contents, an optional paragraph. Later parts go into it."""
        self._sections.append({"id": self._id(title), "title": title, "text": text, "items": [], "implied": False})
        return self

    def table(self, name: str, data: xr.Dataset | xr.DataArray | pd.DataFrame, *, note: str = "") -> Report:
        """Add a table: a Dataset over (expert,) layer as a layer map (``layer_table``), anything else row by row."""
        if isinstance(data, xr.Dataset) and "layer" in data.dims and not set(data.dims) - {"layer", "expert"}:
            html = layer_table(data)
        else:
            html = plain_table(data)
        return self._add("table", "Tables", {"name": name, "html": html, "note": note})

    def figure(
        self,
        fig: go.Figure,
        *,
        caption: str = "",
        alt: str = "",
        cells: Mapping[tuple, Mapping[str, np.ndarray]] | None = None,
        fps: float = 8,
    ) -> Report:
        """Add a plotly figure; its title (or its label) becomes the heading, and it follows the page's colours.

        Args:
            fig: The figure.
            caption: A line below it.
            alt: Text for readers who cannot see the picture (a sentence by default; figures of this package also have
                their numbers as a table).
            cells: Clips behind cells of a ``heatmap``, {(step, layer): {"base": (F, H, W, 3), "patched": ...}}, keys in
                the order of the drawn array's dims. A click on the cell, or the list below the figure, opens them side
                by side.
            fps: Frames per second of the clips.

        Returns:
            The report.

        Raises:
            FigureError: Cells on a figure that is not a ``heatmap``, or that its axes do not have.
        """
        spec = json.loads(fig.to_json())
        layout = spec["layout"]
        layout.pop("template", None)
        meta = layout.get("meta") if isinstance(layout.get("meta"), dict) else {}
        table = meta.pop("table", None)
        title = _plain(layout.pop("title", {}).get("text") or "")
        if title:
            layout.setdefault("margin", {})["t"] = max(10, layout.get("margin", {}).get("t", 60) - 30)
        linked = self._link(spec, meta, cells) if cells else None
        item = {
            "name": title or meta.get("name") or "Figure",
            "caption": caption,
            "notes": meta.get("notes", []),
            "alt": alt or meta.get("alt") or caption or title or "Figure",
            "spec": spec,
            "numbers": value_table(table) if table else "",
            "height": layout.get("height", 450),
            "cells": linked,
            "fps": fps,
        }
        return self._add("figure", "Results", item)

    def generation(
        self,
        *,
        title: str,
        prompt: str,
        film: np.ndarray,
        sigmas: Sequence[float] | None = None,
        steps: Sequence[int] | None = None,
        clip: np.ndarray | None = None,
        truth: np.ndarray | str | None = None,
        verdict: str = "",
        details: Mapping[str, object] | None = None,
        fps: float = 8,
    ) -> Report:
        """Add one generation: a scrubber over step x frame of x0_hat, the final clip and the truth, and a film strip.

        Args:
            title: The heading.
            prompt: The prompt.
            film: x0_hat of each step, (S, F, H, W, 3).
            sigmas: The noise level of each.
            steps: Their numbers where not all are given.
            clip: The final video, (F, H, W, 3).
            truth: The right answer as frames (F, H, W, 3), or in words.
            verdict: The scorer's verdict ("solved", "failed", ...).
            details: Further facts, shown beside the pictures.
            fps: Frames per second of the clips.

        Returns:
            The report.

        Raises:
            FigureError: Frames, steps and sigmas that do not fit together, or that are more than a page holds.
        """
        film = as_frames(film, 5, "film")
        s, f = film.shape[:2]
        for name, numbers in (("sigmas", sigmas), ("steps", steps)):
            if numbers is not None and len(numbers) != s:
                raise FigureError(
                    f"Generation {title!r}: the film has {s} steps, but {len(numbers)} {name} were given."
                )
        said = truth if isinstance(truth, str) else ""
        given = {"final clip": clip, "truth": None if isinstance(truth, str) else truth}
        clips = {name: as_frames(frames, 4, name) for name, frames in given.items() if frames is not None}
        for name, frames in clips.items():
            if len(frames) != f:
                raise FigureError(f"Generation {title!r}: the film has {f} frames, but {name} has {len(frames)}.")
        factor = factor_for(film, MAX_SPRITE)
        panes = [{"name": "x0_hat at this step", "kind": "film", "sheet": self._sheet(film, factor)}]
        panes += [{"name": name, "kind": "clip", "sheet": self._sheet(c, factor)} for name, c in clips.items()]
        video = data_uri(mp4(clips["final clip"], fps=fps), "video/mp4") if "final clip" in clips else ""
        labels = [str(i) for i in (range(s) if steps is None else steps)]
        item = {
            "name": title,
            "prompt": prompt,
            "panes": [pane | {"shape": self._sheets[pane["sheet"]]} for pane in panes],
            "steps": labels,
            "sigmas": [f"{float(sigma):.2f}" for sigma in sigmas] if sigmas is not None else [],
            "frames": f,
            "factor": factor,
            "strip": {"steps": spread(s, 10), "frames": sorted({f // 2, f - 1})},
            "truth": said,
            "verdict": verdict,
            "tone": "good" if verdict.lower() in _GOOD else "bad" if verdict.lower() in _BAD else "plain",
            "details": [(str(key), _said(value)) for key, value in (details or {}).items()],
            "video": video,
            "fps": fps,
        }
        return self._add("task", "Generations", item)

    def html(self) -> str:
        """The whole page as text."""
        import jinja2
        from markupsafe import Markup

        env = jinja2.Environment(
            loader=jinja2.PackageLoader("dit_lens.figures", "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )

        def asset(name: str) -> Markup:
            source, _, _ = env.loader.get_source(env, name)  # type: ignore[union-attr]
            return Markup(source)  # our own files, no user text in them

        has_figures = any(item["kind"] == "figure" for section in self._sections for item in section["items"])
        plotly_js, templates = _plotly() if has_figures else ("", {})
        general = {str(key): _said(v) for key, v in self.methods.items() if not isinstance(v, Mapping)}
        grouped = {"parameters": general} if general else {}
        for name, value in self.methods.items():
            if isinstance(value, Mapping):
                grouped.setdefault(str(name), {}).update((str(key), _said(v)) for key, v in value.items())
        return env.get_template("report.html.j2").render(
            report=self,
            sections=self._sections,
            sheets=self._sheets,
            templates=templates,
            plotly_js=Markup(plotly_js),
            css=asset("report.css"),
            js=asset("report.js"),
            methods=grouped,
        )

    def write(self, path: str | Path, *, max_bytes: int = 30_000_000) -> Path:
        """Write the page as one file, whole or not at all.

        Args:
            path: The file.
            max_bytes: The largest page that is written.

        Returns:
            The path.

        Raises:
            FigureError: The page is larger than ``max_bytes``.
            StoreError: The file cannot be written.
        """
        page = self.html().encode("utf-8")
        if len(page) > max_bytes:
            pictures = sum(len(sheet.png) for sheet in self._sheets.values()) * 4 // 3
            raise FigureError(
                f"The report would be {len(page) / 1e6:.1f} MB, {pictures / 1e6:.1f} MB of it frames; the limit is "
                f"{max_bytes / 1e6:.1f} MB. Show fewer generations or cells, or fewer steps of each film (film[::2])."
            )
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as scratch:
                scratch.write_bytes(page)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}; make room, or choose another place") from error
        return path

    def _add(self, kind: str, implied: str, item: dict[str, Any]) -> Report:
        # without sections of the caller's, things of one kind gather under one heading
        if not self._sections or (self._sections[-1]["implied"] and self._sections[-1]["title"] != implied):
            self.section(implied)
            self._sections[-1]["implied"] = True
        self._sections[-1]["items"].append({"kind": kind, "id": self._id(item["name"]), **item})
        return self

    def _id(self, text: str) -> str:
        """A page-wide unique anchor made of harmless letters only."""
        base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "part"
        name, count = base, 1
        while name in self._names or name in ("summary", "methods", "top"):
            count += 1
            name = f"{base}-{count}"
        self._names.add(name)
        return name

    def _sheet(self, frames: np.ndarray, factor: int = 1) -> str:
        """Store frames once, however often they are shown; returns the picture's id."""
        sheet = sprite_sheet(shrink(frames, factor))
        key = "sheet-" + hashlib.sha256(sheet.png + bytes(f"{sheet.rows}x{sheet.columns}", "ascii")).hexdigest()[:16]
        self._sheets.setdefault(key, sheet)
        return key

    def _link(self, spec: dict, meta: dict, cells: Mapping[tuple, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Sheets of all linked cells, and rings on the figure where only some cells have clips."""
        if meta.get("kind") != "heatmap":
            raise FigureError("cells= needs a figure made by figures.heatmap: other axes do not name cells.")
        dims: list[str] = meta["key"]
        trace = spec["data"][0]
        known = {meta["x"]: _listed(trace["x"]), meta["y"]: _listed(trace["y"])}
        entries = []
        for key, clips in cells.items():
            key = key if isinstance(key, tuple) else (key,)
            if len(key) != 2 or any(str(part) not in known[dim] for part, dim in zip(key, dims, strict=True)):
                raise FigureError(f"Cell {key} is not on the figure, whose cells are {tuple(dims)}.")
            arrays = {str(name): as_frames(frames, 4, f"cell {key} {name}") for name, frames in clips.items()}
            lengths = {len(a) for a in arrays.values()}
            if len(lengths) != 1:
                raise FigureError(f"The clips of cell {key} have different numbers of frames: {sorted(lengths)}.")
            factor = max(factor_for(a, MAX_SPRITE) for a in arrays.values())
            label = ", ".join(f"{dim} {part}" for dim, part in zip(dims, key, strict=True))
            panes = [{"name": name, "sheet": self._sheet(a, factor)} for name, a in arrays.items()]
            at = [known[dim].index(str(part)) for part, dim in zip(key, dims, strict=True)]
            entries.append(
                (at, {"key": [str(p) for p in key], "label": label, "panes": panes, "frames": lengths.pop()})
            )
        entries.sort(key=lambda entry: entry[0])
        total = len(known[meta["x"]]) * len(known[meta["y"]])
        if 2 * len(entries) < total:
            spec["data"] += _rings([entry for _, entry in entries], dims, meta, trace)
        return {
            "dims": dims,
            "x": meta["x"],
            "y": meta["y"],
            "known": known,
            "entries": [entry for _, entry in entries],
        }


def _rings(entries: list[dict], dims: list[str], meta: dict, trace: dict) -> list[dict[str, Any]]:
    """Open squares on the cells that can be opened: white on dark, so that they show on every colour of every scale."""
    ring = {
        "type": "scatter",
        "mode": "markers",
        "x": [entry["key"][dims.index(meta["x"])] for entry in entries],
        "y": [entry["key"][dims.index(meta["y"])] for entry in entries],
        "xaxis": trace.get("xaxis", "x"),
        "yaxis": trace.get("yaxis", "y"),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    rims = ((4, "#1f2328"), (1.6, "#ffffff"))
    marker = {"symbol": "square-open", "size": 11}
    return [ring | {"marker": marker | {"color": c, "line": {"width": width, "color": c}}} for width, c in rims]


def _listed(values: Any) -> list[str]:
    """Axis values of a plotly JSON trace as text; plotly packs numeric arrays as base64."""
    if isinstance(values, dict):
        import base64

        return [str(v) for v in np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()]
    return [str(v) for v in values]


def _plotly() -> tuple[str, dict[str, Any]]:
    """Plotly's script, and the templates of both modes as plain data."""
    from plotly.offline import get_plotlyjs
    from plotly.utils import PlotlyJSONEncoder

    from dit_lens.figures.theme import template

    made = {mode: template(mode).to_plotly_json() for mode in ("light", "dark")}
    return get_plotlyjs(), json.loads(json.dumps(made, cls=PlotlyJSONEncoder))


def _plain(text: str) -> str:
    """A plotly title as plain text: it may hold <br>, and `heatmap` escaped what the caller gave."""
    import html

    return html.unescape(re.sub(r"<br\s*/?>", " ", text))


def _run_of(values: Sequence[Any]) -> list[int]:
    """The whole numbers from the first value on, as many as there are values; empty where the first is not one."""
    first = values[0]
    return list(range(first, first + len(values))) if isinstance(first, (int, np.integer)) else []


def _said(value: object) -> str:
    """A parameter in words: lists joined (whole numbers in a row as "0 to 31"), mappings as JSON."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, (list, tuple, range)) and len(value) > 3 and list(value) == _run_of(value):
        return f"{value[0]} to {value[-1]}"
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return ", ".join(_said(v) for v in value)
    return "–" if value is None else str(value)
