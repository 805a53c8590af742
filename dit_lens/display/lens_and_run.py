"""The HTML of a lens and of a run in a notebook: their properties, and a run's video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.display import html
from dit_lens.errors import DitLensError
from dit_lens.wan.points import there

if TYPE_CHECKING:
    from dit_lens.wan.lens import Lens
    from dit_lens.wan.run import Run

#: What points are said by, one word each.
COLUMNS = ("name", "path", "shape", "meaning")
#: What a task says of a video.
WORDS = ("solved", "failed")


def lens_html(lens: Lens) -> str:
    """Family, experts, layers, the default number of steps, and a folded table of the points."""
    d = lens.defaults
    try:
        plan = lens.plan()
        steps = f"{plan.n_steps}, {plan.scheduler}, guidance {_scales(plan)}"
        on = {name: sum(c.expert == name and c.branch == "cond" for c in plan.calls) for name in lens.experts}
    except DitLensError as error:  # a display shows the error and does not fail
        steps, on = str(error), {}
    rows: dict[str, Any] = {
        "family": type(lens.pipe).__name__,
        "weights": lens.fingerprint,
        "steps": steps,
        "video": f"{d.num_frames} frames of {d.height} x {d.width}, {d.fps} a second, by default",
    }
    for name, expert in lens.experts.items():
        cfg = expert.cfg
        rows[f"expert {name}"] = (
            f"{cfg.n_layers} layers x {cfg.n_heads} heads x {cfg.d_head}, width {cfg.d_model}, feed-forward {cfg.d_mlp}"
            + (f"; {on[name]} of the steps" if on else "")
        )
    if not all(expert.installed for expert in lens.experts.values()):
        rows["points"] = "taken out: this lens is closed"
        return html.facts(f"Lens on {lens.name}", rows)
    listed = points(lens)
    title = f"{len(listed)} kinds of points (i: 0 to {lens.n_layers - 1})"
    return html.facts(
        f"Lens on {lens.name}", rows, html.table(COLUMNS, ([p[c] for c in COLUMNS] for p in listed), title)
    )


def points(lens: Lens) -> list[dict[str, str]]:
    """The points that this model has, one dictionary each."""
    found = there(lens.experts["high"].image_context)
    return [{column: getattr(p, column) for column in COLUMNS} for p in found]


def run_html(run: Run) -> str:
    """Prompt, seed, sampling, interventions, recordings, the score, and the video where it can be decoded."""
    size, plan = run.size, run.plan
    done = "" if run.complete else f"; stopped after {run.n_steps}, so the video is of the last x0_hat"
    hooks = sorted({a.hook for a in run.activations})
    clip, missing = _video(run)
    rows = {
        "prompt": run.prompt,
        "model": run.meta.get("model"),
        "seed": str(run.seed),
        "steps": f"{plan.n_steps}, {plan.scheduler}, guidance {_scales(plan)}{done}",
        "video": f"{size.num_frames} frames of {size.height} x {size.width} ({run.grid})",
        "score": _score(run) if clip else "",
        "changed": "; ".join(map(str, run.fired)),
        "recorded": f"{len(run.activations)} activations of {', '.join(hooks)}" if hooks else "",
        "not shown": missing,
    }
    return html.facts("Run", rows, clip)


def _video(run: Run) -> tuple[Markup, str]:
    """The clip, or nothing and the reason."""
    try:
        return html.clip(run.video, run.meta.get("fps") or 8, f"Video of: {run.prompt}"), ""
    except DitLensError as error:
        return Markup(), str(error)


def judged(run: Run) -> tuple[Any, str]:
    """The score of a finished run and its verdict: one of ``WORDS``, or the score itself where it is only a number.

    Without a task that has a scorer, (None, ""); where the scorer fails, None and the reason.
    """
    if not run.complete or not hasattr(run.task, "score"):
        return None, ""
    try:
        score = run.score
    except DitLensError as error:  # a video of another length than the task's, say
        return None, str(error)
    solved = getattr(score, "solved", score if isinstance(score, bool) else None)
    return score, str(score) if solved is None else WORDS[not solved]


def _score(run: Run) -> str:
    score, words = judged(run)
    value = getattr(score, "value", None)
    return words if words not in WORDS or value is None else f"{words}, value {value:.2f}"


def _scales(plan: Any) -> str:
    low = any(call.expert == "low" for call in plan.calls)
    two = low and plan.guidance_scale_2 != plan.guidance_scale
    return f"{plan.guidance_scale:g}" + (f" and {plan.guidance_scale_2:g} (low)" if two else "")
