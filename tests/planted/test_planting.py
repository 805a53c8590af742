"""A planted pipeline computes what its causal model says, bit for rounding, and answers its tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from plants import SMALL, SPECS, named

from dit_lens.errors import MeasureError, TaskError
from dit_lens.planted import LayerPlant, PlantTask, plant
from dit_lens.planted.mechanism import COMPONENTS, run
from dit_lens.planted.weights import AMPLITUDE


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_the_pipeline_is_its_causal_model(spec: Any) -> None:
    with plant(spec, seed=1) as made:
        for task in made.tasks(2, seed=3):
            video = made.lens.generate(task, seed=5)
            velocity = np.asarray(video.velocity).reshape(spec.n_steps, 16, 2, 3, 2, 4, 2)  # steps, C, F, row, col
            expected = run(made.truth.network, task).velocity.reshape(spec.n_steps, 2, 3, 4, 2)
            for colour in range(2):  # red and green; blue is never written
                found = -velocity[:, 12 + colour] / AMPLITUDE
                np.testing.assert_allclose(found, expected[:, :, :, None, :, None, colour] + 0 * found, atol=1e-5)
            np.testing.assert_allclose(velocity[:, [2, 14, 15]], 0, atol=1e-6)
            assert task.answer(video.video) == task.label and video.score.solved


def test_nothing_is_done_to_the_bare_pipeline() -> None:
    made = plant(LayerPlant(layer=2, **SMALL), seed=0)
    task = made.tasks(1)[0]
    mine = made.lens.generate(task, seed=3)
    pipe = made.lens.pipe
    made.lens.close()
    bare = pipe(
        prompt=task.prompt, image=task.image, height=task.height, width=task.width, num_frames=task.num_frames,
        num_inference_steps=2, guidance_scale=1.0, generator=torch.Generator().manual_seed(3), output_type="latent",
        max_sequence_length=6,
    ).frames  # fmt: skip
    assert torch.equal(bare[0], mine.final)


def test_a_plant_is_made_of_its_seed_alone() -> None:
    state = torch.get_rng_state()
    prints = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(prints))
        with plant(LayerPlant(layer=2, rest=0.5, **SMALL), seed) as made:
            prints.append(made.lens.fingerprint)
    torch.set_rng_state(state)
    assert prints[0] == prints[1] != prints[2]


def test_nothing_outside_the_mechanism_adds_anything() -> None:
    with plant(LayerPlant(layer=2, component="mlp", **SMALL)) as made:
        for layer, block in enumerate(made.lens.pipe.transformer.blocks):
            outs = (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2])
            silent = [not out.weight.any() and not out.bias.any() for out in outs]
            assert silent == [True, True, layer != 2], (layer, COMPONENTS)


@pytest.mark.parametrize("rest", [0.25, 1.0])
def test_the_rest_is_as_strong_as_it_says(rest: float) -> None:
    """A component outside the mechanism adds vectors about as long as `rest`."""
    with plant(LayerPlant(layer=2, component="mlp", rest=rest, n_layers=4, n_steps=1)) as made:
        hooks = ("attn_gated", "cross_attn_out", "mlp_gated")
        _, cache = made.lens.run_with_cache(
            made.tasks(1)[0], names_filter=[f"blocks.0.hook_{hook}" for hook in hooks]
        )
        lengths = [float(x.float().norm(dim=-1).pow(2).mean().sqrt()) for x in cache.values()]
    assert len(lengths) == 3 and all(rest / 3 < length < rest * 3 for length in lengths), lengths


@pytest.mark.parametrize("wrong", [{"layer": 4}, {"layer": -1}, {"layer": 1, "n_steps": 0}, {"layer": 1, "rest": -1}])
def test_impossible_plants_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MeasureError, match=r"raise n_layers|one step or more"):
        LayerPlant(**{**SMALL, **wrong})


def test_pictures_hold_what_they_say() -> None:
    task = PlantTask(seed=0, label=-1, unused=1, scene=3)
    red, green, blue = task.cells.T
    assert (red[green > 0] == -1).all() and (red[blue > 0] == 1).all() and not ((green > 0) & (blue > 0)).any()
    assert (green > 0).sum() == (blue > 0).sum() == 4
    pixels = np.asarray(task.image).reshape(3, 16, 4, 16, 3)
    assert (pixels == pixels[:, :1, :, :1]).all()
    np.testing.assert_array_equal(pixels[:, 0, :, 0].reshape(12, 3) / 127.5 - 1, task.cells)
    assert task.regions["key"].sum() == 4 and task.regions["later"].sum() == 12
    twin = task.twin("other_answer")
    assert twin.label == 1 and (twin.cells != task.cells).sum() == 4
    with pytest.raises(TaskError, match="choose 'other_answer'"):
        task.twin("another")
    with pytest.raises(TaskError, match="generate with the lens's own defaults"):
        task.answer(np.zeros((1, 16, 16, 3)))
    assert task.score(np.ones((5, 48, 64, 3))).solved is False
