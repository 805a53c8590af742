"""The layer lens: any layer's stream read out as a velocity, as if the network stopped there.

The stream h_l after block l goes through the model's *own* last steps, with the call's own timestep embedding::

    shift, scale = table + temb
    v_l = unpatchify( proj_out( norm_out(h_l) (1 + scale) + shift ) )        per branch
    v_l = v_l,uncond + g (v_l,cond - v_l,uncond)                             after guidance
    x0_hat_l = x - sigma v_l                                                 "the video if the network stopped here"

At the last layer this is the model's velocity, bit for bit. The *raw* read-out asks a layer to speak the last layer's
language; the *translated* one first maps h_l by an affine translator fitted on other tasks (``tuned_lens.py``; tuned
lens, Belrose et al. 2023). Layer -1 is the stream that enters block 0: what a read-out knows before any layer ran.

Measures, against the model's own velocity v of the same call: ``cosine`` of v_l and v; ``error`` ||v_l - v|| / ||v||
(which is also ||x0_hat_l - x0_hat|| / ||x0_hat - x||); ``x0_cosine`` of the two x0_hat.

When not to use: as proof that the model "knows" the answer at a layer. A translator can find what the model itself
never uses, and at high noise the velocity is mostly the noise that entered, which every layer still holds: read
``cosine`` beside layer -1 and beside the same model with shuffled weights, and ``x0_cosine`` where the noise is high.
All three are dominated by what most of the picture shows, a still scene; whether the *answer* is there is asked by
``answers=True``: which of several drawn answers is shown (``choice``), and whether it is shown cleanly (``answer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from torch import Tensor

from dit_lens.address import Call, Depth, Indices, Select
from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.measures.tuned_lens import Translators, task_key
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import guided, x0_hat

INPUT = -1  # the "layer" before block 0
RAW, TRANSLATED = "raw", "translated"


def layer_velocity(
    lens: Lens,
    run: Run,
    step: int,
    layers: Indices | Depth = "all",
    translators: Translators | None = None,
    entry: bool = False,
) -> Tensor:
    """Velocity read out of each layer at one step, after guidance.

    Args:
        lens: The model.
        run: The run whose calls are replayed.
        step: The step.
        layers: All by default.
        translators: Translate each stream before it is read.
        entry: Also read the stream that enters block 0, and put it first.

    Returns:
        (layers, C, F, h, w), in the order of ``layers``.

    Raises:
        MeasureError: The translators belong to another model or lack a layer.
    """
    chosen = _layers(lens, layers, entry)
    read, _ = _read(lens, run, step, chosen, translators)
    return torch.cat([read[TRANSLATED if translators is not None else RAW, layer] for layer in chosen])


def layer_lens(
    lens: Lens,
    run: Run,
    steps: Indices = "all",
    layers: Indices | Depth = "all",
    translators: Translators | None = None,
    entry: bool = True,
    answers: bool = False,
) -> xr.Dataset:
    """How far each layer's read-out is from the model's own velocity.

    Args:
        lens: The model.
        run: The run whose calls are replayed.
        steps: All by default.
        layers: All by default.
        translators: Also read translated streams.
        entry: Also read the stream that enters block 0 (layer -1).
        answers: Also compare the read-out's decoded x0_hat with the model's x0_hat of that step, in two ways.

    Returns:
        ``cosine``, ``error`` and ``x0_cosine`` over (step, layer, readout), with ``readout`` ``"raw"``, and
        ``"translated"`` where translators are given. With ``answers`` also ``answer``: 1 where the task reads the same
        answer from both, NaN where it reads none from the model's (strict, since every cell counts); and ``choice``: 1
        where both are nearest (L2 over the video) to the same one of up to ten drawn answers, ``task.solutions`` and
        ``task.decoys(5)``, NaN where the task cannot draw two.

    Raises:
        MeasureError: The translators belong to another model, lack a layer, or were fitted on this very task; or
            ``answers`` is asked of a run without a task that reads answers.
    """
    if translators is not None and task_key(run) in translators.tasks:
        raise MeasureError(
            "these translators were fitted on this task, so the numbers would be too good: measure on runs of other "
            "tasks, or fit on others"
        )
    if answers and not hasattr(run.task, "answer"):
        raise MeasureError(
            "answers=True needs a run made from a task with answer(video), e.g. dit_lens.tasks.load(...)"
        )
    chosen = _layers(lens, layers, entry)
    at = Select(steps=steps).steps_of(run.n_steps)
    kinds = [RAW] if translators is None else [RAW, TRANSLATED]
    names = ["cosine", "error", "x0_cosine", *(["answer", "choice"] if answers else [])]
    drawn = _drawn(run.task) if answers else np.zeros(0)
    values = np.full((len(names), len(at), len(chosen), len(kinds)), np.nan, dtype=np.float64)
    for i, step in enumerate(at):
        read, final = _read(lens, run, step, chosen, translators)
        clean = _clean(run, step, final)
        video = run.decode(clean) if answers else None
        said = None if video is None else run.task.answer(video)
        for j, layer in enumerate(chosen):
            for k, kind in enumerate(kinds):
                v = read[kind, layer]
                mine = _clean(run, step, v)
                away = float(torch.linalg.vector_norm(v - final) / torch.linalg.vector_norm(final))
                values[:3, i, j, k] = _cosine(v, final), away, _cosine(mine, clean)
                if video is not None:
                    shown = run.decode(mine)
                    values[3, i, j, k] = np.nan if said is None else run.task.answer(shown) == said
                    if len(drawn) > 1:
                        values[4, i, j, k] = _nearest(shown, drawn) == _nearest(video, drawn)
    units = {"cosine": "cosine", "error": "relative L2", "x0_cosine": "cosine", "answer": "share", "choice": "share"}
    long = {
        "cosine": "read-out velocity against the model's",
        "error": "read-out velocity, distance from the model's",
        "x0_cosine": "read-out x0_hat against the model's",
        "answer": "read-out gives the model's answer",
        "choice": "read-out is nearest to the answer that the model's is nearest to",
    }
    n = lens.n_layers
    return xr.Dataset(
        {
            name: (("step", "layer", "reading"), values[i], {"long_name": long[name], "units": units[name]})
            for i, name in enumerate(names)
        },
        coords={
            "step": list(at),
            "layer": list(chosen),
            "reading": kinds,
            "sigma": ("step", [run.sigmas[s] for s in at]),
            "expert": ("step", [run.plan.at(s).expert for s in at]),
            "depth": ("layer", [layer / n for layer in chosen]),
        },
    )


def layer_film(
    lens: Lens,
    run: Run,
    steps: Sequence[int],
    layers: Indices | Depth = "all",
    translators: Translators | None = None,
) -> np.ndarray:
    """The decoded x0_hat of each layer at each step.

    Memory is layers x steps videos: choose few of both on a large model.

    Args:
        lens: The model.
        run: The run whose calls are replayed.
        steps: The steps.
        layers: All by default.
        translators: Translate each stream before it is read.

    Returns:
        float32 in [0, 1], (layer, step, frame, H, W, 3). The last layer's row is ``run.film(steps)``.
    """
    chosen = _layers(lens, layers, False)
    columns = []
    for step in steps:
        velocity = layer_velocity(lens, run, step, chosen, translators)
        columns.append([run.decode(_clean(run, step, v[None])) for v in velocity])
    return np.stack([np.stack(column) for column in columns], axis=1)


def settles(cosine: xr.DataArray, threshold: float = 0.9) -> xr.DataArray:
    """Depth (layer / n_layers) of the first layer from which on the read-out stays above a threshold.

    Args:
        cosine: Any axes with ``layer`` and its coordinate ``depth``.
        threshold: The threshold.

    Returns:
        The axes of ``cosine`` without ``layer``; NaN where the last layer is not above the threshold. The stream before
        block 0 has a negative depth: it is above the threshold before any layer.

    Raises:
        MeasureError: ``layer`` or ``depth`` is missing, or the layers are not in order.
    """
    if "layer" not in cosine.dims or "depth" not in cosine.coords or (np.diff(cosine["depth"]) <= 0).any():
        raise MeasureError(
            "settles() needs an axis layer in rising order with the coordinate depth, as layer_lens gives it"
        )
    values = cosine.transpose(..., "layer").values
    threshold = number(threshold, "threshold", error=MeasureError)
    tail = np.logical_and.accumulate((values > threshold)[..., ::-1], axis=-1)[..., ::-1]  # above from here to the end
    depth = np.where(tail.any(-1), cosine["depth"].values[tail.argmax(-1)], np.nan)
    template = cosine.transpose(..., "layer").isel(layer=0, drop=True).drop_vars("depth", errors="ignore")
    return template.copy(data=depth).assign_attrs(long_name=f"depth from which cosine > {threshold}", units="layer / L")


# -- parts


def _layers(lens: Lens, layers: Any, entry: bool) -> tuple[int, ...]:
    chosen = Select(layers=layers).layers_of(lens.n_layers)
    return (INPUT, *chosen) if entry else chosen


def _read(
    lens: Lens, run: Run, step: int, layers: Sequence[int], translators: Translators | None
) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """Guided velocities by (reading, layer), and the model's own, each (1, C, F, h, w) on the CPU."""
    if translators is not None:
        translators.check(lens, run.plan.at(step).expert, layers)
    branches: dict[str, dict[tuple[str, int], Tensor]] = {}
    finals: dict[str, Tensor] = {}
    with torch.no_grad():
        for call in run.plan.of_step(step):
            tokens: dict[tuple[str, int], Tensor] = {}
            finals[call.branch] = lens.replay(run, call, _hooks(lens, call, layers, translators, tokens))
            branches[call.branch] = {key: _video(lens, run, t) for key, t in tokens.items()}
        call = run.plan.at(step)
        read = {
            key: guided(run.plan, call, v, branches["uncond"][key] if "uncond" in branches else None).cpu()
            for key, v in branches["cond"].items()
        }
        return read, guided(run.plan, call, finals["cond"], finals.get("uncond")).cpu()


def _hooks(
    lens: Lens,
    call: Call,
    layers: Sequence[int],
    translators: Translators | None,
    found: dict[tuple[str, int], Tensor],
) -> list[Hook]:
    """Hooks that read every layer out inside the forward, where offloaded weights are loaded, and keep p per token."""
    transformer: Any = lens.experts[call.expert].transformer
    temb: list[Tensor] = []

    def time(x: Tensor, hook: Any) -> None:
        temb[:] = [x]

    def leave(x: Tensor, hook: Any, layer: int) -> None:
        found[RAW, layer] = _project(transformer, x, temb[0])
        if translators is not None:
            found[TRANSLATED, layer] = _project(transformer, translators[call.expert, layer](x), temb[0])

    hooks: list[Hook] = [("hook_time_embed", time)]
    for layer in layers:
        path = "blocks.0.hook_resid_pre" if layer == INPUT else f"blocks.{layer}.hook_resid_post"
        hooks.append((path, lambda x, hook, at=layer: leave(x, hook, at)))
    return hooks


def _project(transformer: Any, x: Tensor, temb: Tensor) -> Tensor:
    """The model's own last steps: norm, modulation by the timestep, projection; (B, N, d) to (B, N, p)."""
    table = transformer.scale_shift_table
    if temb.ndim == 3:  # (B, N, d): each token has its own timestep (Wan2.2 TI2V)
        pair = (table.unsqueeze(0).to(temb.device) + temb.unsqueeze(2)).chunk(2, dim=2)
        shift, scale = pair[0].squeeze(2), pair[1].squeeze(2)
    else:
        shift, scale = (table.to(temb.device) + temb.unsqueeze(1)).chunk(2, dim=1)
    shift, scale = shift.to(x.device), scale.to(x.device)
    return transformer.proj_out((transformer.norm_out(x.float()) * (1 + scale) + shift).type_as(x))


def _video(lens: Lens, run: Run, tokens: Tensor) -> Tensor:
    """Unpatchify: (B, N, patch values) to (B, C, F, h, w)."""
    grid = run.grid
    t, r, c = lens.pipe.transformer.config.patch_size
    return rearrange(
        tokens, "b (f h w) (t r c o) -> b o (f t) (h r) (w c)", f=grid.frames, h=grid.rows, w=grid.cols, t=t, r=r, c=c
    )


def _clean(run: Run, step: int, velocity: Tensor) -> Tensor:
    return x0_hat(run.latents[step][None], velocity, run.sigmas[step], run.conditions)[0]


def _drawn(task: Any, most: int = 5) -> np.ndarray:
    """Right and wrong answers of a task as videos, (answers, F, H, W, 3) in [0, 1]; empty where it cannot draw them."""
    if not all(hasattr(task, name) for name in ("solutions", "render", "decoys")):
        return np.zeros(0)
    answers = [*task.solutions[:most], *task.decoys(most)]
    return np.stack([np.asarray(task.render(answer), np.float32) / 255 for answer in answers])


def _nearest(video: np.ndarray, drawn: np.ndarray) -> int:
    return int(np.square(drawn - video).sum((1, 2, 3, 4)).argmin())


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(a @ b / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)))
