"""Figures of labelled arrays and frames: plotly figures, film strips, and one offline HTML report.

    fig = heatmap(effects, null=placebos, title="Effect of patching one block's update")     # xarray in, plotly out
    fig = lines(effects, x="step", by="region")
    fig = forest(scores, title="Ensembles of three seeds", chance=0.5)                       # one row a condition
    fig = decodability(dl.probing.grid(features, labels), "path")                             # of probes
    report = Report("A map of lab", summary=["Block 2 writes the answer: effect 0.95 [0.91, 0.98], n = 32."])
    report.table("Layers", layers).figure(fig, caption="...").generation(title="maze 3", prompt=prompt, film=film)
    report.write("report.html")
    write_run(run, "run.html")                                          # one generation: film, clip, score, methods

Arrays carry their own names and units in ``attrs`` (``long_name``, ``units``), their uncertainty as variables ``low``
and ``high``, their count as ``n`` and their placebo as ``null``. Nothing here knows a model, a run or a task, except
the pages of a run, a folder, a map and a sweep.

When not to use: for statistics. A figure draws numbers that were computed elsewhere, and refuses what cannot be drawn.

plotly, jinja2, Pillow and ffmpeg are imported by the first call that needs them.
"""

from dit_lens.errors import FigureError
from dit_lens.figures.film_folder import film_folder
from dit_lens.figures.forest import forest
from dit_lens.figures.frames import FilmStrip, SpriteSheet, film_strip, mp4, sprite_sheet
from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.lines import lines
from dit_lens.figures.probe_figures import best_places, confusion, decodability, selectivity, similar
from dit_lens.figures.report import Report
from dit_lens.figures.run_page import write_run
from dit_lens.figures.tables import layer_table
from dit_lens.figures.theme import template

__all__ = [
    "FigureError",
    "FilmStrip",
    "Report",
    "SpriteSheet",
    "best_places",
    "confusion",
    "decodability",
    "film_folder",
    "film_strip",
    "forest",
    "heatmap",
    "layer_table",
    "lines",
    "mp4",
    "selectivity",
    "similar",
    "sprite_sheet",
    "template",
    "write_run",
]
