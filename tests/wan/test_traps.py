"""Law 3, never silently wrong: every known trap is handled exactly, or refused with an error that names the cure.

Two tables. A row of ``REFUSED`` is a situation, the error it must end in, and words of the cure that its message must
hold. A row of ``HANDLED`` is a situation in which a lens must still give what the bare pipeline gives.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import trap_rows_pipeline  # noqa: F401  # fills the tables
from diffusers import (
    DDIMScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from families import FAMILIES, image
from peft import LoraConfig
from trapping import HANDLED, REFUSED, WIDTH, Act, Case, Row, handled, refused

from dit_lens import errors
from dit_lens.errors import (
    AddressError,
    BypassError,
    DitLensError,
    InterventionError,
    LoadError,
    RecordError,
    SamplerError,
)
from dit_lens.wan import reduce
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record

# -- generations that do not fit


@refused(SamplerError, "use 512", "i2v21")
def text_length_beside_image_context(case: Case) -> None:
    case.generate(max_sequence_length=256)


@refused(SamplerError, "use 9")
def wrong_frame_count(case: Case) -> None:
    case.generate(num_frames=10)


@refused(SamplerError, "use 32 x 64")
def wrong_size(case: Case) -> None:
    case.generate(height=30)


@refused(SamplerError, "multiple of 32", "ti2v22")
def size_below_the_residual_vaes_grid(case: Case) -> None:
    case.generate(height=48)


@refused(SamplerError, r"\[3, 64, 4\] tokens.*positions for 32.*defaults=")
def size_beyond_the_positions(case: Case) -> None:
    case.generate(height=1024)


@refused(SamplerError, "leave image out")
def image_for_text_to_video(case: Case) -> None:
    case.generate(image=image(32, 64))


@refused(SamplerError, "pass image=", "i2v22")
def no_image_for_image_to_video(case: Case) -> None:
    case.generate(image=None)


@refused(SamplerError, "list of tasks")
def several_prompts_in_one(case: Case) -> None:
    case.generate(prompt=["red", "blue"])


@refused(SamplerError, "write prompt=")
def bare_string_as_task(case: Case) -> None:
    case.lens().generate("a red agent")


@refused(SamplerError, "give a task, or prompt=")
def nothing_to_generate_from(case: Case) -> None:
    case.lens().generate()


@refused(SamplerError, "one seed, or one for each task")
def seeds_that_do_not_match(case: Case) -> None:
    task = SimpleNamespace(prompt="red")
    case.generate(task=[task, task], prompt=None, seed=[1, 2, 3])


@refused(SamplerError, "use UniPCMultistepScheduler or")
def unsupported_scheduler(case: Case) -> None:
    case.pipe.scheduler = DDIMScheduler()
    case.generate()


@refused(SamplerError, "use_flow_sigmas=True")
def unipc_off_the_flow_path(case: Case) -> None:
    case.pipe.scheduler = UniPCMultistepScheduler()
    case.generate()


@refused(SamplerError, "low-noise expert.*leave it out")
def second_guidance_for_one_expert(case: Case) -> None:
    case.generate(guidance_scale_2=2.0)


@refused(SamplerError, "only preset is 'paper'")
def unknown_preset(case: Case) -> None:
    case.generate(preset="papr")


@refused(SamplerError, "at least one")
def no_steps(case: Case) -> None:
    case.generate(num_inference_steps=0)


@refused(SamplerError, "too strong")
def not_a_number(case: Case) -> None:
    case.generate(interventions=Act(lambda x, hook: x * float("nan")))


@refused(InterventionError, r"lens\.plan")
def edit_that_never_fired(case: Case) -> None:
    case.generate(interventions=[Act(None)])


# -- going on


@refused(SamplerError, r"run\.until\(step\)")
def resume_of_a_complete_run(case: Case) -> None:
    lens = case.lens()
    lens.generate(resume=case.generate(lens))


@refused(SamplerError, "the weights that began it")
def resume_under_another_model(case: Case) -> None:
    begun = case.generate(stop_after=0)
    load(case.family.build(seed=1)).generate(resume=begun)


@refused(SamplerError, "the weights that began it", "i2v22")
def resume_after_the_weights_changed(case: Case) -> None:
    lens = case.lens()
    begun = case.generate(lens, stop_after=0)
    with torch.no_grad():
        case.pipe.transformer_2.blocks[1].ffn.net[2].weight.mul_(1.5)
    lens.generate(resume=begun)


@refused(SamplerError, "plan no longer holds")
def resume_under_another_scheduler(case: Case) -> None:
    lens = case.lens()
    begun = case.generate(lens, stop_after=0)
    case.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    lens.generate(resume=begun)


@refused(SamplerError, "from 0 to 2")
def stop_outside_the_plan(case: Case) -> None:
    case.generate(stop_after=3)


@refused(SamplerError, "was not run")
def replay_of_a_step_not_run(case: Case) -> None:
    lens = case.lens()
    run = case.generate(lens, stop_after=0)
    lens.replay(run, run.plan.at(2))


@refused(AddressError, "did steps 0 to 0")
def x0_hat_of_a_step_not_run(case: Case) -> None:
    case.generate(stop_after=0).x0_hat(1)


# -- recordings that cannot be


@refused(AddressError, "use 0 to 2")
def step_outside_the_plan(case: Case) -> None:
    case.generate(record=record("resid_post", steps=[1, 3]))


@refused(AddressError, "use 0 to 2")
def layer_outside_the_model(case: Case) -> None:
    case.generate(record=record("resid_post", layers=3))


@refused(AddressError, "guidance <= 1 has no uncond")
def uncond_without_guidance(case: Case) -> None:
    case.generate(guidance_scale=1.0, record=record("resid_post", branches="uncond"))


@refused(AddressError, r"lens\.points\(\)")
def unknown_hook(case: Case) -> None:
    record("resid_pots")


@refused(RecordError, "only in Wan2.1 I2V", "i2v22")
def image_hook_without_image_context(case: Case) -> None:
    case.generate(record=record("cross_z_img"))


@refused(RecordError, "only in Wan2.1 I2V")
def image_embedding_without_image_context(case: Case) -> None:
    case.generate(record=record("image_embed"))


@refused(RecordError, "fewer steps or layers.*limit=")
def more_than_fits(case: Case) -> None:
    case.generate(record=record("resid_post"), limit=10_000)


@refused(RecordError, "name='...'")
def same_address_twice(case: Case) -> None:
    case.generate(record=[record("q", "z", steps=[0, 1]), record("z", steps=[1, 2])])


@refused(RecordError, "name='...'")
def one_name_for_two_kinds(case: Case) -> None:
    case.generate(record=[record("z", steps=0), record("z", steps=1, reduce="token_norm")])


@refused(RecordError, r"one record\(\.\.\.\) per hook")
def one_name_for_two_hooks(case: Case) -> None:
    record("q", "k", name="qk")


@refused(RecordError, "use reduce='raw'")
def video_reducer_on_text_tokens(case: Case) -> None:
    case.generate(record=record("cross_k", reduce="frame_mean"))


@refused(RecordError, "region_mean.*token_norm")
def unknown_reducer(case: Case) -> None:
    record("z", reduce="mean")


@refused(RecordError, "give some of 0 to 23")
def tokens_outside_the_grid(case: Case) -> None:
    case.generate(record=record("z", reduce=reduce.Tokens((0, 24))))


@refused(RecordError, r"regions=\{'name': mask\}")
def region_that_is_not_named(case: Case) -> None:
    case.generate(record=record("z", reduce=reduce.RegionMean(("goal",))), regions={"path": np.ones((32, 64), bool)})


@refused(RecordError, r"give \(d, k\)")
def basis_of_another_width(case: Case) -> None:
    case.generate(record=record("resid_post", reduce=reduce.Project(np.ones((WIDTH + 1, 2)))))


@refused(AddressError, "give bool")
def region_mask_of_another_size(case: Case) -> None:
    case.generate(regions={"path": np.ones((16, 16), bool)})


@refused(AddressError, "recorded hooks: \\['z'\\]")
def reading_what_was_not_recorded(case: Case) -> None:
    _ = case.generate(record=record("z"))["step=0 layer=0 hook=q"]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_refused(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[row.family]
    pipe = family.build()
    assert row.error is not None and issubclass(row.error, DitLensError)
    with pytest.raises(row.error, match=row.cure) as caught:
        row.act(Case(family, pipe, tmp_path, monkeypatch))
    assert type(caught.value) is row.error, "the precise error, not a child"


# -- and those that are handled: what is generated equals the bare pipeline in the same situation


@handled("i2v22")
def lora_given_at_loading(case: Case) -> Any:
    file = case.lora("diffusion_model.blocks.0.self_attn.q.{}.weight")
    plain = case.bare()
    lens = case.lens(lora=[file, file])
    assert not torch.equal(case.bare(), plain), "both experts changed"
    return lens


@handled("t2v21")
def second_lora_on_the_same_layers(case: Case) -> Any:
    file = str(case.lora("diffusion_model.blocks.0.self_attn.q.{}.weight"))
    case.pipe.load_lora_weights(file, adapter_name="first")
    return case.lens(lora=file)


@handled("t2v21")
def lora_inside_blocks_after(case: Case) -> Any:
    lens = case.lens()
    case.pipe.load_lora_weights(
        str(case.lora("diffusion_model.blocks.1.ffn.0.{}.weight".replace("ffn.0", "self_attn.o")))
    )
    return lens


@handled("t2v21")
def lora_on_the_last_projection_before(case: Case) -> Any:
    case.pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["proj_out"], init_lora_weights=False))
    return case.lens()


@handled("i2v22")
def group_offload_after(case: Case) -> Any:
    lens = case.lens()
    cpu = torch.device("cpu")
    case.pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return lens


def cast(case: Case, compute: torch.dtype = torch.float32) -> None:
    for model in (case.pipe.transformer, case.pipe.transformer_2):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)


@handled("i2v22")
def layerwise_casting_before(case: Case) -> Any:
    cast(case)
    return case.lens()


@handled("i2v22")
def layerwise_casting_after(case: Case) -> Any:
    lens = case.lens()
    cast(case)
    return lens


@handled("i2v22")
def layerwise_casting_in_bf16(case: Case) -> Any:
    case.pipe.save_pretrained(case.folder / "pipe")
    case.pipe = type(case.pipe).from_pretrained(case.folder / "pipe", dtype=torch.bfloat16)
    cast(case, torch.bfloat16)
    return case.lens()


@refused(LoadError, r"dtype='bfloat16'.*compute_dtype=torch\.float32", "i2v22")
def layerwise_casting_to_another_dtype(case: Case) -> None:
    cast(case, torch.bfloat16)
    case.lens()


@refused(LoadError, r"dtype='bfloat16'.*compute_dtype=torch\.float32", "i2v22")
def layerwise_casting_to_another_dtype_after(case: Case) -> None:
    lens = case.lens()
    cast(case, torch.bfloat16)
    case.generate(lens)


@handled("i2v22")
def gradient_checkpointing_without_gradients(case: Case) -> Any:
    case.pipe.transformer.enable_gradient_checkpointing()
    return case.lens()


@handled("i2v22")
def cache_enabled_and_disabled_again(case: Case) -> Any:
    case.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    case.pipe.transformer.disable_cache()
    return case.lens()


@handled("i2v22")
def feature_cache_after(case: Case) -> Any:
    """diffusers knows blocks by their class, and so refuses a hooked one before anything is in place."""
    lens = case.lens()
    with pytest.raises(ValueError, match="not registered"):
        case.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    return lens


@handled("i2v22")
def sequential_offload_after_and_removed(case: Case) -> Any:
    lens = case.lens()
    accelerate.cpu_offload(case.pipe.transformer, execution_device=torch.device("cpu"))
    accelerate.hooks.remove_hook_from_module(case.pipe.transformer, recurse=True)
    case.generate(lens)
    lens.close()
    return case.lens()


@handled("i2v21")
def a_pipeline_saved_and_loaded(case: Case) -> Any:
    case.pipe.save_pretrained(case.folder / "pipe")
    lens = load(case.folder / "pipe")
    case.pipe = lens.pipe
    return lens


@pytest.mark.parametrize("row", HANDLED, ids=lambda row: row.name)
def test_handled(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[row.family]
    case = Case(family, family.build(), tmp_path, monkeypatch)
    lens = row.act(case)
    idle = case.generate(lens)
    watched = case.generate(lens, record=record("resid_post", "z", "mlp_post", "final_norm", "velocity", "update"))
    lens.close()
    bare = case.bare()
    assert torch.equal(idle.final, bare)
    assert torch.equal(watched.final, bare)
    assert len(watched.activations) == 3 * 2 * (4 * lens.n_layers + 2)


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    """A lens that could not be made has taken its points out again."""
    family = FAMILIES["i2v22"]
    pipe = family.build()
    types = [type(m) for m in pipe.transformer.modules()]
    pipe.transformer_2.blocks[2].compile()
    with pytest.raises(BypassError):
        load(pipe)
    with pytest.MonkeyPatch.context() as patch:
        original = WanTransformerBlock.forward
        patch.setattr(WanTransformerBlock, "forward", lambda self, *args: original(self, *args) * 1.001)
        pipe.transformer_2 = family.build().transformer_2
        with pytest.raises(errors.DriftError):
            load(pipe)
    assert [type(m) for m in pipe.transformer.modules()] == types


def test_the_table_is_long_enough() -> None:
    assert len(REFUSED) >= 18 and len({row.name for row in REFUSED + HANDLED}) == len(REFUSED) + len(HANDLED)
