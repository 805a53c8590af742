"""Claims about noise at a step and at a frame (paper, noise perturbation, Fig. 3)."""

from __future__ import annotations

from functools import partial

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.experiments.noise_injection import noise_at_frame, noise_at_step, peak, score_lost, sensitivity
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import DIFFERENCE, HALF_UP, SHARE, SMALLEST, Estimate, Measured, Reading, Row, text
from dit_lens.wan.lens import Lens

SCORE = "score, 0 to 1"
WINDOW = (0.4, 0.6)  # of the schedule: the paper's steps 20 to 30 of 50
RESTART, RENEWED = "nothing changed, sampler restarted", "own content, other noise"


def measured(lens: Lens, n: int = 16, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks, of all families together.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        Noise at ``steps`` (all kinds), at ``frames`` held to the end, and at ``one`` of the frames of a step (kinds
        unit and renewed, some of the steps).
    """
    tasks = puzzles.batch(puzzles.names(), n, seed)
    last = lens.plan().n_steps - 1
    at = sorted({round(q * last) for q in (0, 0.2, 0.4, 0.5, 0.65, 0.75, 0.85, 0.95, 1)})
    steps = noise_at_step(lens, tasks, at, seed=seed, progress=progress)
    frames = noise_at_frame(lens, tasks, kinds=("unit", "foreign", "restart"), seed=seed, progress=progress)
    late, central = [s for s in at if s > last / 2], [frames.sizes["frame"] // 2]
    one = noise_at_step(lens, tasks, late, ("unit", "renewed"), frames=central, seed=seed, progress=progress)
    return {"steps": steps, "frames": frames, "one": one}


def _against_frames(m: Measured, score: str) -> Reading:
    lost = score_lost(m["steps"]).mean("step")
    held = score_lost(m["frames"], score).mean("frame")
    if score == "score":
        remark = (
            "Held to the end, a frame gets noise in the last step too, which no step repairs, and this scorer demands "
            "every frame."
        )
    else:
        remark = f"What noise at a frame does to the others: {text(held.sel(kind='unit'), DIFFERENCE)}."
    return Reading.along(lost - held, "kind", ("unit", "restart"), remark, {"steps": _list(m["steps"]["step"])})


def _same_step(m: Measured) -> Reading:
    all_frames = score_lost(m["steps"]).sel(step=m["one"]["step"])
    lost = (all_frames - score_lost(m["one"])).mean("step")
    return Reading.along(lost, "kind", ("unit", "renewed"), words={"steps": _list(m["one"]["step"])})


def _peak(m: Measured) -> Reading:
    steps = m["steps"]
    n, total = steps.sizes["task"], steps.attrs["n_steps"]
    whole = sensitivity(steps).sel(metric="biased")
    some = whole.sel(step=whole["step"] + whole.attrs["lag"] <= total)  # the others have no state at this lag
    curve = some.sel(hook="latents")
    # Each puzzle's own curve: a mean of places would lie in the middle wherever the places are.
    highest = curve.idxmax("step") / total
    inside = ((highest >= WINDOW[0]) & (highest <= WINDOW[1])).where(highest.notnull())
    curves = {"this curve": curve, "the drop in score": score_lost(steps)}
    curves |= {f"1 - CKA of {h}": some.sel(hook=h) for h in some["hook"].values if h == "x0_hat"}
    told = "; ".join(f"{k} {Estimate(*peak(v.sel(kind='unit'), total), n)}" for k, v in curves.items())
    steps_inside = curve["step"].where((curve["step"] / total >= WINDOW[0]) & (curve["step"] / total <= WINDOW[1]))
    return Reading.along(
        inside, "kind", ("unit", "renewed"),
        f"Where the means over puzzles are highest, of the schedule: {told}. Of equal steps the first is taken.",
        {"lag": whole.attrs["lag"], "steps": _list(curve["step"]), "inside": _list(steps_inside.dropna("step"))},
    )  # fmt: skip


def _persists(m: Measured) -> Reading:
    steps = m["steps"]
    total = steps.attrs["n_steps"]
    early = steps.sel(step=steps["step"] <= total / 5, hook="latents", metric="biased")
    middle = early["dissimilarity"].where((early["other_step"] > early["step"]) & (early["other_step"] <= 0.6 * total))
    return Reading.along(
        middle.mean(("step", "other_step")),
        "kind",
        ("unit", "renewed"),
        f"Score lost to these injections: {text(score_lost(early).mean('step').sel(kind='unit'), DIFFERENCE)}. What "
        "persists is the noise: a redraw that keeps the content gives the same map.",
    )


def _list(values: xr.DataArray) -> str:
    return ", ".join(str(int(v)) for v in values)


ROWS = (
    Row(
        "noise/step-against-frame",
        "Noise at a step (all frames) costs far more than noise at a frame (all steps): final score .685 to below "
        ".3 against a small drop (Fig. 3).",
        "drop in score by unit noise at a step (mean over steps {steps}) minus at a frame held to the end (mean over "
        "frames)",
        SCORE, RESTART, partial(_against_frames, score="score"),
        smallest=SMALLEST["score"], zero_null=True,
    ),
    Row(
        "noise/step-against-other-frames",
        "Noise at a step costs more than noise at a frame, because bidirectional attention rebuilds a bad frame.",
        "the same, where the noised frame's own pixels are taken from the clean run: drop at a step (mean over steps "
        "{steps}) minus what noise at a frame does to the other frames",
        SCORE, RESTART, partial(_against_frames, score="elsewhere"),
        smallest=SMALLEST["score"], zero_null=True,
    ),
    Row(
        "noise/same-step",
        "Noise in all frames costs more than in one (the fair pair: the same step, the same time to recover).",
        "drop in score by unit noise in all frames minus in one, mean over steps {steps}",
        SCORE, RENEWED, _same_step,
        smallest=SMALLEST["score"], nothing=0.0,
    ),
    Row(
        "noise/peak",
        "Sensitivity rises, peaks at steps 20-30 of 50 (.4 to .6 of the schedule), and falls (Fig. 3c).",
        "puzzles in which unit noise has its largest effect, 1 - CKA of the latents {lag} steps after injection, at "
        "step {inside}, of steps {steps}",
        "share of puzzles", RENEWED, _peak,
        within=HALF_UP, bounds=SHARE, compared=False,
    ),
    Row(
        "noise/persists",
        "Noise injected early persists over the whole trajectory, with almost no recovery until the closing phase.",
        "1 - CKA of the latents, noised to clean: injections in the first fifth, states up to .6 of the schedule",
        "1 - CKA", RENEWED, _persists,
        smallest=SMALLEST["correlation"], nothing=0.0,
    ),
)  # fmt: skip
