"""The sampler's memory: rebuilt from a stored run as it was, edits included."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES

import dit_lens as dl
from dit_lens.wan.loading import load


@pytest.mark.parametrize("edited", [1, 2])
def test_a_run_with_edited_latents_goes_on_from_its_file_as_if_it_had_not_stopped(edited: int) -> None:
    """UniPC forgets at an edit. Resumed at a later step, it has to have forgotten at that same step."""
    family = FAMILIES["i2v22"]
    how = {**family.call, "seed": 3, "num_inference_steps": 5, "guidance_scale": 1.0}
    with load(family.build("unipc")) as lens:
        run = lens.generate(**how, interventions=dl.noise(edited, seed=1))
        assert run.edited == (edited,)
        for step in range(edited + 1, 5):
            resumed = lens.generate(resume=run.until(step))
            assert torch.equal(resumed.latents, run.latents), f"resumed at step {step}"
