"""Plans, plain generations, what a run holds and keeps, and the two engines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

import dit_lens as dl
from dit_lens.measures import ChannelMoments
from golden_items.table import Numbers, direction, flat, item, puzzle, puzzles

RAW = (  # every point of the table that the lab model has
    "patch_embed", "time_embed", "modulation", "text_embed", "resid_pre", "attn_out", "attn_gated", "resid_mid",
    "cross_attn_out", "resid_mid2", "mlp_in", "mlp_post", "mlp_out", "mlp_gated", "resid_post", "q", "k", "v", "z",
    "cross_q", "cross_k", "cross_v", "cross_z", "final_norm", "velocity", "update",
)  # fmt: skip


def of_run(run: Any) -> dict[str, Any]:
    return {"latents": run.latents, "velocity": run.velocity, "final": run.final}


@item
def plain(lens: Any) -> Numbers:
    """Twenty steps with no intervention: latents, velocities, video, score, x0_hat."""
    run = lens.generate(puzzle(), seed=0, steps=20)
    return flat({
        **of_run(run), "video": run.video, "film": run.film([0, 5, 19]), "x0_hat": run.x0_hat(5),
        "score": [run.score.solved, run.score.value], "sigmas": run.sigmas, "regions": run.regions,
    })  # fmt: skip


@item
def plans(lens: Any) -> Numbers:
    """Steps, sigmas, timesteps, experts and guidance of several samplings."""
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = {
        "few": lens.plan(), "twenty": lens.plan(20, 2.0), "none": lens.plan(8, 1.0), "paper": lens.plan(preset="paper"),
        "euler": lens.plan(10, scheduler=euler, guidance_2=2.5),
    }  # fmt: skip
    return flat({
        name: {
            "calls": np.array([
                [c.index, c.step, c.sigma, c.timestep, c.expert == "low", c.branch == "uncond"] for c in plan
            ]),
            "sigmas": plan.sigmas, "guidance": [plan.guidance, plan.guidance_2],
        }
        for name, plan in found.items()
    })  # fmt: skip


@item
def samplings(lens: Any) -> Numbers:
    """Guidance, schedulers, presets, sizes, prompts, dtypes, a LoRA, and weights that learned nothing."""
    task, euler = puzzle(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    ways: dict[str, dict[str, Any]] = {
        "guidance": {"guidance": 3.0}, "guidances": {"guidance": 2.0, "guidance_2": 1.0}, "none": {"guidance": 1.0},
        "euler": {"scheduler": euler}, "paper": {"preset": "paper", "steps": 4},
        "negative": {"negative_prompt": "maze"},
        "longer": {"num_frames": 17, "regions": {}}, "smaller": {"height": 64, "width": 80, "regions": {}},
        "short_text": {"max_sequence_length": 32},
    }  # fmt: skip
    found = {name: of_run(lens.generate(task, seed=3, **how)) for name, how in ways.items()}
    other = lens.generate(prompt=task.prompt, image=task.twin("same_answer").image, seed=2)
    with dl.load("lab", dtype="bfloat16") as narrow:
        found["bfloat16"] = {
            name: value.float() for name, value in of_run(narrow.generate(task, seed=3, steps=4)).items()
        }
    with dl.experiments.shuffled_weights(lens, 5) as nothing:
        found["shuffled"] = of_run(nothing.generate(task, seed=3))
    with tempfile.TemporaryDirectory() as folder:
        a, b = (torch.from_numpy(direction(128, i)).float() for i in (0, 1))
        files = [f"{folder}/{expert}_noise.safetensors" for expert in ("high", "low")]
        for scale, file in enumerate(files, 2):
            layer = "blocks.4.self_attn.q"
            save_file({f"{layer}.lora_A.weight": a[None] * scale, f"{layer}.lora_B.weight": b[:, None]}, file)
        with dl.load("lab", lora=files) as adapted:
            found["lora"] = of_run(adapted.generate(task, seed=3, steps=4))
    return flat({**found, "no_task": of_run(other)})


@item
def batches(lens: Any) -> Numbers:
    """Several tasks and seeds at once, all together and one by one; stopping, forking, going on."""
    tasks = puzzles(("choose", "maze"), 4)
    together = lens.generate(tasks, seed=[0, 1, 2, 3])
    single = lens.generate(tasks[0], seed=[4, 5, 6], batch=1)
    stopped = lens.generate(tasks[0], seed=0, stop_after=2)
    noisy = dl.noise(step=2, seed=3)
    on = {
        "stopped": stopped, "resumed": lens.generate(resume=stopped), "until": together[1].until(3),
        "forked": lens.generate(resume=together[1].until(2), interventions=noisy),
    }  # fmt: skip
    found = {name: of_run(run) for name, run in on.items()}
    return flat({
        "together": [of_run(run) for run in together], "single": [of_run(run) for run in single], **found,
        "early": stopped.video,
    })  # fmt: skip


@item
def recordings(lens: Any) -> Numbers:
    """Every point raw at one place, and every reducer of the stream and of heads."""
    reduce = dl.reduce
    named: dict[str, Any] = {
        "norm": "token_norm", "region": "region_mean", "frame": "frame_mean", "video": "video_mean",
        "some": reduce.Tokens((0, 7, 143)), "one_region": reduce.RegionMean(("goal",)), "moments": ChannelMoments(),
        "basis": reduce.Project(np.stack([direction(128, i) for i in range(3)], 1), direction(128, 9)),
    }  # fmt: skip
    run = lens.generate(puzzle(), seed=0, record=[
        dl.record(*RAW, steps=1, layers=5),
        *(dl.record("resid_post", reduce=how, name=name, layers=(2, 7)) for name, how in named.items()),
        dl.record("z", reduce="region_mean", name="heads", layers=7, branches="cond"),
    ])  # fmt: skip
    found = {name: run.array(name) for name in (*RAW, *named, "heads")}
    return flat({**found, "one": run["step=1 layer=5 hook=resid_post branch=uncond"]})


@item
def saved(lens: Any) -> Numbers:
    """A run with recordings and an intervention, written, read, attached and gone on with."""
    record = [dl.record("resid_post", reduce="token_norm"), dl.record("update", layers=3, steps=2)]
    run = lens.generate(puzzle("maze", 3), seed=4, record=record, interventions=dl.ablate(step=1, layers=4))
    with tempfile.TemporaryDirectory() as folder:
        run.save(Path(folder) / "run")
        again = dl.load_run(Path(folder) / "run")
    attached = lens.attach(again)
    more = lens.generate(resume=attached.until(3))
    return flat({
        **of_run(again), "video": attached.video, "norm": again.array("resid_post"), "update": again.array("update"),
        "score": [attached.score.solved, attached.score.value], "regions": again.regions, "edited": again.edited,
        "fired": [sum(f.touched.values()) for f in again.fired], "more": of_run(more), "sigmas": again.sigmas,
        "seed": again.seed,
    })  # fmt: skip


@item
def engines(lens: Any) -> Numbers:
    """run_with_cache, run_with_hooks, nnsight over a generation and over one call, replay and gradients."""
    task = puzzle()

    def half(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return x * 0.5

    names = ["blocks.3.hook_resid_post", "blocks.8.attn.hook_z"]
    run, cache = lens.run_with_cache(task, names_filter=names, steps=[1, 3], branches="cond", seed=0)
    hooked = lens.run_with_hooks(task, fwd_hooks=[("blocks.6.hook_mlp_out", half)], steps=2, seed=0)
    with lens.trace(task, seed=0) as t:
        for expert in t.at(step=3, branch="cond"):
            seen = expert.blocks[2].hook_resid_post.output.save()
            expert.blocks[5].attn.hook_z.output[:, :, 0] = 0
    with lens.trace(run, step=1) as one:
        for expert in one.at(step=1):
            middle = expert.blocks[7].hook_attn_out.output.save()
    with lens.gradients(run, step=2) as call:
        velocity, acts = call("update", layers=[4, 9])
        slopes = torch.autograd.grad((velocity**2).sum(), list(acts.values()))
    return flat({
        "cache": {f"{a.step}-{a.layer}-{a.hook}": cache[a] for a in cache}, "hooked": of_run(hooked),
        "at": cache.at(3)["blocks.3.hook_resid_post"], "traced": of_run(t.run), "seen": seen, "call": one.run,
        "middle": middle, "slopes": dict(enumerate(slopes)), "velocity": velocity,
        "replayed": lens.replay(run, run.plan.at(4, "uncond")),
    })  # fmt: skip
