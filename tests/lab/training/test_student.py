"""The student: its noise levels are the teacher's, its targets lead along the teacher's path, and it opens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline

from dit_lens.lab.training import student
from dit_lens.lab.training.data import Puzzles
from dit_lens.lab.training.fit import Log, fit, phase
from dit_lens.lab.training.machine import Way
from dit_lens.lab.training.pipeline import sample, states
from dit_lens.lab.training.recipe import prepare, train
from dit_lens.lab.training.spec import LAB40, Spec

TINY = Spec(
    layers=1, ffn=64, tokens=4 * 144, text_iterations=2, trunk_iterations=1, expert_iterations=1, warmup=1,
    student_walks=2, student_iterations=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    out = tmp_path_factory.mktemp("student")
    prepare(TINY, out, Log(out))
    for name in ("trunk", "high", "low"):
        fit(TINY, phase(name, TINY), out, Log(out))
    student.walk(TINY, out, Log(out), 1.5, Way(torch.float32, False))
    return out


def test_the_students_noise_levels_are_those_of_its_sampler():
    for spec in (TINY, LAB40):
        made = student.sampler(spec)
        made.set_timesteps(student.SEGMENTS)
        assert torch.allclose(made.sigmas, student.levels(spec), atol=1e-6)
        assert student.levels(spec)[-1] == 0


def test_its_phases_share_the_noise_levels_and_each_has_some():
    high, low = student.phases(LAB40)
    levels = student.levels(LAB40)[:-1]
    assert (high.parent, low.parent) == ("high", "low")
    assert 0 < sum(high.low <= s for s in levels) < len(levels)
    assert high.low == low.high


def test_four_steps_along_the_targets_follow_the_teachers_path(taught):
    """With the targets as its velocity the student's sampler visits the teacher's own states."""
    batch = Puzzles(TINY, **json.loads((taught / "statistics.json").read_text())).batch(student.OFFSET)
    path = torch.load(taught / "walks" / "00000.pt", weights_only=True).float()  # (5, B, 16, T, h, w)
    s = student.levels(TINY)
    targets = [(path[k + 1] - path[k]) / (s[k + 1] - s[k]) for k in range(student.SEGMENTS)]
    text = torch.zeros(len(batch.names), 64, 64)

    def follow(how):
        left = iter(targets)
        return how(
            lambda x, t, e: next(left), batch, text, text[0], TINY, student.OFFSET, student.SEGMENTS,
            unipc=student.sampler(TINY),
        )  # fmt: skip

    seen = list(follow(states))
    assert len(seen) == len(path)
    for k, (mine, teachers) in enumerate(zip(seen, path, strict=True)):
        assert torch.allclose(mine, teachers, atol=5e-3), k  # the path is kept in half precision
    assert torch.equal(seen[-1], follow(sample))


def test_an_iteration_draws_only_its_experts_levels(taught):
    from dit_lens import tasks
    from dit_lens.lab.training.text import Words

    puzzles = Puzzles(TINY, **json.loads((taught / "statistics.json").read_text()))
    words = Words(list(tasks.prompts(TINY.mixture)), taught)
    for what in student.phases(TINY):
        step = student.draw(taught / "walks", TINY, what, 0, puzzles, words)
        assert all((what.low <= s < what.high) or s == what.high == 1 for s in step.sigma.tolist())
        assert step.x.shape[1] == 36 and step.velocity.shape[1] == 16
        again = student.draw(taught / "walks", TINY, what, 0, puzzles, words)
        assert torch.equal(step.x, again.x) and torch.equal(step.velocity, again.velocity)


def test_a_walk_resumes_and_the_student_opens_as_a_pipeline(taught):
    kept = {p.name: p.stat().st_mtime_ns for p in (taught / "walks").iterdir()}
    folder = train(TINY, taught, phases=("walks", "student", "save-student"), guidance=1.5, compiled=False)
    assert {p.name: p.stat().st_mtime_ns for p in (taught / "walks").iterdir()} == kept
    settings = json.loads((folder / "lab.json").read_text())
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == (4, 1.0)
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert pipe.scheduler.config.solver_order == 1
    weight = "blocks.0.attn1.to_q.weight"
    ema = torch.load(taught / "student-low.pt", weights_only=True)["ema"][weight]
    assert torch.equal(pipe.transformer_2.state_dict()[weight], ema.half().float())
    again = replace(TINY, student_iterations=3)  # a longer student is the same recipe
    assert train(again, taught, phases=()) == taught
