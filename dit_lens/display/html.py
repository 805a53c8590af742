"""HTML parts for notebooks: a table of facts, a table of rows, a small clip. Plain HTML, everything escaped.

Only :class:`markupsafe.Markup` that is made here goes in unescaped: a prompt that holds a script tag stays text. No
colours are set, so that light and dark notebooks both read well.

When not to use: for figures and pages; those are ``dit_lens.figures``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from dit_lens.display.video import as_frames, data_uri, mp4, shrink

#: Frames are reduced by a whole factor until their longer side is at most this, so that notebooks stay small.
SIDE = 480
_CELL = Markup('<td style="text-align:left;vertical-align:top">{}</td>')
_HEAD = Markup('<th style="text-align:left;vertical-align:top">{}</th>')
_ROW = Markup("<tr>{}</tr>")


def facts(title: Any, rows: Mapping[str, Any], *below: Markup) -> str:
    """A heading, one row for each fact (None and '' are left out), and further parts below.

    Args:
        title: The heading.
        rows: Name -> value.
        *below: Markup below the table.

    Returns:
        HTML.
    """
    said = [(k, v) for k, v in rows.items() if v not in (None, "")]
    lines = _joined(_ROW.format(_HEAD.format(name) + _CELL.format(value)) for name, value in said)
    return str(Markup("<div><b>{}</b><table>{}</table>{}</div>").format(title, lines, _joined(below)))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], title: Any = "") -> Markup:
    """A table of rows; with a title it is folded until it is clicked.

    Args:
        head: Headings of the columns.
        rows: The rows.
        title: What the folded table is called.

    Returns:
        HTML.
    """
    body = _joined(_ROW.format(_joined(_CELL.format(value) for value in row)) for row in rows)
    made = Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(
        _ROW.format(_joined(_HEAD.format(name) for name in head)), body
    )
    return Markup("<details><summary>{}</summary>{}</details>").format(title, made) if title else made


def clip(frames: np.ndarray, fps: float, said: str) -> Markup:
    """A small video that plays without a network.

    Args:
        frames: (F, H, W, 3), uint8 or floats in [0, 1].
        fps: Frames per second.
        said: Text for readers who cannot see the video.

    Returns:
        HTML.

    Raises:
        FigureError: Frames that cannot be encoded.
    """
    small = as_frames(frames, 4, "clip")
    factor = -(-max(small.shape[1:3]) // SIDE)
    uri = data_uri(mp4(shrink(small, factor) if factor > 1 else small, fps=fps), "video/mp4")
    return Markup('<video controls loop muted playsinline src="{}" aria-label="{}"></video>').format(uri, said)


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
