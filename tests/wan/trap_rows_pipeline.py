"""Traps of pipelines: what runs the model around its points, and pipelines that are not what they seem."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import accelerate
import torch
from diffusers import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    WanVideoToVideoPipeline,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformerBlock
from peft import LoraConfig
from trapping import Case, OtherProcessor, refused

from dit_lens import errors
from dit_lens.errors import (
    BypassError,
    LoadError,
    SamplerError,
)
from dit_lens.wan.loading import load

# -- things that run the model around its points


@refused(BypassError, r"disable_cache\(\)")
def feature_cache_before(case: Case) -> None:
    case.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    case.lens()


@refused(BypassError, r"disable_cache\(\)")
def attention_cache_after(case: Case) -> None:
    lens = case.lens()
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500,
        spatial_attention_block_identifiers=("blocks",),
    )  # fmt: skip
    case.pipe.transformer.enable_cache(config)
    case.generate(lens)


@refused(BypassError, "diffusers hook 'fbc_block_hook'.*disable_cache")
def half_enabled_cache(case: Case) -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    lens = case.lens()
    HookRegistry.check_if_exists_or_initialize(case.pipe.transformer.blocks[1]).register_hook(
        ModelHook(), "fbc_block_hook"
    )
    case.generate(lens)


@refused(BypassError, "without torch.compile")
def compiled_block_before(case: Case) -> None:
    case.pipe.transformer.blocks[1].compile()
    case.lens()


@refused(BypassError, "without torch.compile", "i2v22")
def compiled_block_after_in_the_second_expert(case: Case) -> None:
    lens = case.lens()
    case.pipe.transformer_2.blocks[1].compile()
    case.generate(lens)


@refused(BypassError, "without torch.compile")
def compiled_model_before(case: Case) -> None:
    case.pipe.transformer = torch.compile(case.pipe.transformer)
    case.lens()


@refused(BypassError, "without torch.compile")
def compiled_model_after(case: Case) -> None:
    lens = case.lens()
    case.pipe.transformer = torch.compile(case.pipe.transformer)
    case.generate(lens)


@refused(BypassError, "wrap first, then offload")
def sequential_offload_before(case: Case) -> None:
    accelerate.cpu_offload(case.pipe.transformer, execution_device=torch.device("cpu"))
    case.lens()


@refused(BypassError, "interventions=", "i2v22")
def forward_of_its_own_after(case: Case) -> None:
    lens = case.lens()
    block = case.pipe.transformer_2.blocks[1]
    block.forward = lambda *args: args[0]
    case.generate(lens)


@refused(BypassError, r"set_default_attn_processor\(\)")
def other_processor_before(case: Case) -> None:
    case.pipe.transformer.set_attn_processor(OtherProcessor())
    case.lens()


@refused(BypassError, "processor or backend first")
def other_processor_after(case: Case) -> None:
    lens = case.lens()
    case.pipe.transformer.set_attn_processor(WanAttnProcessor())
    case.generate(lens)


@refused(BypassError, "close the lens")
def lora_on_the_last_projection_after(case: Case) -> None:
    lens = case.lens()
    case.pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["proj_out"]))
    case.generate(lens)


@refused(BypassError, r"disable_gradient_checkpointing\(\)")
def gradients_under_checkpointing(case: Case) -> None:
    lens = case.lens()
    run = case.generate(lens)
    case.pipe.transformer.enable_gradient_checkpointing()
    with lens.gradients(run, step=1) as call:
        call("resid_post", [0])


@refused(BypassError, r"dit_lens\.load\(pipe\)|load the lens again")
def closed_lens(case: Case) -> None:
    lens = case.lens()
    lens.close()
    case.generate(lens)


@refused(LoadError, r"lens\.close\(\)")
def hooked_twice(case: Case) -> None:
    held = case.lens()
    case.lens()
    held.close()


@refused(errors.DriftError, "constraints")
def another_diffusers(case: Case) -> None:
    original = WanTransformerBlock.forward

    def newer(self: Any, *args: Any) -> Any:
        return original(self, *args) * 1.001

    case.patch.setattr(WanTransformerBlock, "forward", newer)
    case.lens()


# -- pipelines that are not what they seem


@refused(LoadError, r"register_to_config\(boundary_ratio=None\)")
def boundary_without_second_expert(case: Case) -> None:
    case.pipe.register_to_config(boundary_ratio=0.9)
    case.lens()


@refused(LoadError, r"register_to_config\(boundary_ratio=0\.9\)", "i2v22")
def second_expert_without_boundary(case: Case) -> None:
    case.pipe.register_to_config(boundary_ratio=None)
    case.lens()


@refused(SamplerError, r"register_to_config\(boundary_ratio=None\)|load the missing expert")
def boundary_set_after_loading(case: Case) -> None:
    lens = case.lens()
    case.pipe.register_to_config(boundary_ratio=0.9)
    case.generate(lens)


@refused(LoadError, "give a diffusers WanPipeline")
def not_a_wan_pipeline(case: Case) -> None:
    load(SimpleNamespace(transformer=torch.nn.Linear(2, 2)))


@refused(LoadError, "use one of")
def another_wan_pipeline(case: Case) -> None:
    parts = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    load(WanVideoToVideoPipeline(**{p: getattr(case.pipe, p) for p in parts}))


@refused(LoadError, "folder with model_index.json")
def folder_that_is_not_there(case: Case) -> None:
    case.patch.setenv("HF_HUB_OFFLINE", "1")
    load(case.folder / "nowhere")


@refused(LoadError, "folder with model_index.json")
def folder_without_a_pipeline(case: Case) -> None:
    load(case.folder)


@refused(LoadError, "this pipeline is already built")
def loading_options_for_a_built_pipeline(case: Case) -> None:
    case.lens(revision="main")


@refused(LoadError, "model.*sequential")
def unknown_offload(case: Case) -> None:
    case.lens(offload="disk")


@refused(LoadError, "Without one, leave it out")
def offload_without_an_accelerator(case: Case) -> None:
    def none(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("`enable_model_cpu_offload` requires accelerator, but not found")

    case.patch.setattr(type(case.pipe), "enable_model_cpu_offload", none)
    case.lens(offload="model")


@refused(LoadError, "0 of 1 LoRA layers found a place in this model")
def lora_that_loads_nothing(case: Case) -> None:
    case.lens(lora=case.lora("layer.0.to_q.{}.weight"))


@refused(LoadError, "Known forms: DiffSynth")
def lora_of_a_deeper_model(case: Case) -> None:
    case.lens(lora=case.lora("blocks.9.self_attn.q.{}.default.weight"))


@refused(LoadError, "one file per expert")
def two_loras_for_one_expert(case: Case) -> None:
    file = case.lora("diffusion_model.blocks.0.self_attn.q.{}.weight")
    case.lens(lora=[file, file])


@refused(LoadError, "pip install ftfy", "i2v22")
def missing_ftfy(case: Case) -> None:
    lens = case.lens()
    case.patch.setitem(sys.modules, "ftfy", None)
    case.generate(lens)
