"""What looking costs: ratios to the bare diffusers pipeline, beside nnsight and TransformerLens on the same model.

    python benchmarks/overhead.py --write docs/benchmarks.md

The model is the size of `lab` with random weights (time does not depend on them). Every way of looking has a pipeline
of its own, built from one seed; a second bare pipeline (`twin`) shows how far 1.00 scatters on this machine. The ways
take turns within each round, and a ratio is taken within its round, so that slow drift of the machine falls out.
Imports are timed the same way, each in a fresh interpreter. A way whose latents differ from the bare ones stops the
program.

All ways keep the same thing, the norm of every token after every block at every call, except TransformerLens' own
`run_with_cache`: it keeps whole tensors, and each step overwrites the one before it.

Not a test: numbers depend on the machine. Keep it otherwise idle while this runs.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HOUSE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOUSE / "tests"))

import families  # noqa: E402  (the tiny parts of the test pipelines)
import page as section  # noqa: E402
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel  # noqa: E402

import dit_lens  # noqa: E402
from dit_lens.lab.training.spec import LAB  # noqa: E402

STEPS = 8
CALL: dict[str, Any] = {
    "prompt": "a red agent goes to the green goal",
    "negative_prompt": "blurry",
    "image": families.image(96, 96),
    "height": 96,
    "width": 96,
    "num_frames": 13,  # 4 latent frames of 6 x 6 tokens
    "max_sequence_length": 64,
}
SAMPLING: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 5.0}
Way = Callable[[], Any]


def pipeline() -> WanImageToVideoPipeline:
    """A two-expert image-to-video pipeline of lab's size."""
    config = LAB.transformer() | {"text_dim": families.TEXT}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = WanImageToVideoPipeline(
            tokenizer=families.tokenizer(), text_encoder=families.text_encoder(), vae=families.vae(),
            transformer=WanTransformer3DModel(**config), transformer_2=WanTransformer3DModel(**config),
            scheduler=families.SCHEDULERS["unipc"](), boundary_ratio=LAB.boundary,
        )  # fmt: skip
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(call: Callable[..., Any]) -> torch.Tensor:
    """One generation by ``pipe`` or anything called like it."""
    generator = torch.Generator().manual_seed(0)
    return call(**CALL, **SAMPLING, generator=generator, output_type="latent").frames


# -- the ways


def bare() -> dict[str, Way]:
    pipe, twin = pipeline(), pipeline()
    return {"bare pipeline": lambda: generate(pipe), "bare pipeline, twin": lambda: generate(twin)}


def with_lens() -> dict[str, Way]:
    pipe = pipeline()
    lens = dit_lens.load(pipe)
    norms = dit_lens.record("resid_post", reduce="token_norm")

    def idle() -> torch.Tensor:
        return lens.generate(**CALL, seed=0, num_inference_steps=STEPS, guidance_scale=5.0).latents[-1][None]

    def record() -> torch.Tensor:
        return lens.generate(**CALL, seed=0, num_inference_steps=STEPS, guidance_scale=5.0, record=norms).latents[-1][
            None
        ]

    def cache() -> torch.Tensor:
        names = lambda name: name.endswith("hook_resid_post")  # noqa: E731
        run, _ = lens.run_with_cache(**CALL, seed=0, num_inference_steps=STEPS, guidance_scale=5.0, names_filter=names)
        return run.latents[-1][None]

    return {
        "dit_lens idle, pipe(...)": lambda: generate(pipe),
        "dit_lens idle, lens.generate": idle,
        "dit_lens record, token norms": record,
        "dit_lens run_with_cache, whole tensors": cache,
    }


class Root(torch.nn.Module):
    """A pipeline as the module that nnsight wraps."""

    def __init__(self, pipe: WanImageToVideoPipeline) -> None:
        super().__init__()
        self.pipeline = pipe
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                self.add_module(name, part)

    def forward(self, **kwargs: Any) -> Any:
        return self.pipeline(**kwargs)


def with_nnsight() -> dict[str, Way]:
    from nnsight import NNsight

    pipe = pipeline()
    model = NNsight(Root(pipe))
    calls = {"transformer": 0, "transformer_2": 0}
    counting = [
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
        for name in calls
    ]
    generate(pipe)
    for handle in counting:
        handle.remove()

    def read() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        kept = []
        with model.trace(**CALL, **SAMPLING, generator=generator, output_type="latent") as tracer:
            for name in calls:
                expert = model.get(name)
                for _ in tracer.iter[: calls[name]]:
                    for block in expert.blocks:
                        kept.append(block.output.norm(dim=-1))
            frames = model.output.frames.save()
        assert len(kept) == sum(calls.values()) * len(pipe.transformer.blocks)
        return frames

    return {"nnsight idle, pipe(...)": lambda: generate(pipe), "nnsight trace, token norms": read}


def with_transformer_lens() -> dict[str, Way]:
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule

    class HookedBlock(WanTransformerBlock):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.hook_resid_post(super().forward(*args, **kwargs))

    class HookedPipeline(HookedRootModule):
        def __init__(self, pipe: WanImageToVideoPipeline) -> None:
            super().__init__()
            self.__dict__["pipeline"] = pipe
            self.experts = torch.nn.ModuleList([pipe.transformer, pipe.transformer_2])
            for expert in self.experts:
                for block in expert.blocks:
                    block.hook_resid_post = HookPoint()
                    block.__class__ = HookedBlock
            self.setup()

        def forward(self, **kwargs: Any) -> Any:
            return self.pipeline(**kwargs)

    model = HookedPipeline(pipeline())

    def cache() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        call = dict(CALL, **SAMPLING, generator=generator, output_type="latent")
        names = lambda name: name.endswith("hook_resid_post")  # noqa: E731
        return model.run_with_cache(**call, names_filter=names)[0].frames

    return {
        "TransformerLens idle, pipe(...)": lambda: generate(model),
        "TransformerLens run_with_cache, whole tensors": cache,
    }


# -- measuring


def rounds(ways: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; the ways take turns and the first one rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    gc.collect()
    gc.disable()
    try:
        for i in range(repeats):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                start = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - start)
                gc.collect()
    finally:
        gc.enable()
    return seconds


IMPORTS = {
    "from diffusers import WanImageToVideoPipeline": "from diffusers import WanImageToVideoPipeline",
    "import dit_lens": "import dit_lens",
    "import dit_lens; dit_lens.Lens": "import dit_lens; dit_lens.Lens",
    "import nnsight": "import nnsight",
    "import transformer_lens": "import transformer_lens",
}


def import_way(statement: str) -> Way:
    """A way that runs a statement in a fresh interpreter and gives the seconds it took there."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}

    def way() -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        return float(done.stdout.split()[-1])

    return way


def import_rounds(repeats: int) -> dict[str, list[float]]:
    ways = {name: import_way(statement) for name, statement in IMPORTS.items()}
    for way in ways.values():
        way()  # bytecode and the file cache
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


# -- reporting


def table(seconds: dict[str, list[float]], base: str, calls: int = 0) -> str:
    """Rows of min, median and max of the ratio to `base` within each round, and seconds."""
    per_call = " overhead a call (ms) |" if calls else ""
    lines = [
        f"| | min | **median** | max | median seconds |{per_call}",
        "|---|---|---|---|---|" + ("---|" if calls else ""),
    ]
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[base], strict=True)]
        over = statistics.median(a - b for a, b in zip(values, seconds[base], strict=True))
        more = f" {1000 * over / calls:+.2f} |" if calls else ""
        lines.append(
            f"| {name} | {min(ratios):.3f} | **{statistics.median(ratios):.3f}** | {max(ratios):.3f} | "
            f"{statistics.median(values):.3f} |{more}"
        )
    return "\n".join(lines)


def machine() -> str:
    """Processor, threads, date and the versions that matter."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    parts = ("torch", "diffusers", "transformers", "nnsight", "transformer-lens")
    versions = ", ".join([f"dit-lens {dit_lens.__version__}", *(f"{part} {version(part)}" for part in parts)])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{today}; {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used, {platform.system()}; "
        f"load average {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}; {versions}."
    )


PAGE = """## What looking costs

Written by `python benchmarks/overhead.py --write docs/benchmarks.md`; its docstring says how it measures. Aims: an idle
lens 1.01, recording reduced outputs of all blocks 1.05, `import dit_lens` at most 1.1 of importing the pipeline.

{machine}

### One generation

{steps} steps with guidance ({calls} denoiser calls of {layers} blocks, width {width}, {tokens} tokens), {repeats}
rounds. Ratios to the first row, within each round. The row `twin` is a second bare pipeline: what lies inside its
range is no difference. The last column is what a ratio cannot say: a call of a 14 B model takes seconds, so there the
same milliseconds are far below one per cent.

{generation}

### Imports

Fresh interpreters, {imports_repeats} rounds; `dit_lens.Lens` brings torch, diffusers and TransformerLens.

{imports}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="rounds of generations")
    parser.add_argument("--imports", type=int, default=5, help="rounds of imports")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; one is the steadiest")
    parser.add_argument("--write", type=Path, help="write the page to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    ways = bare() | with_lens() | with_nnsight() | with_transformer_lens()
    expected = ways["bare pipeline"]()
    for name, way in ways.items():
        got = way()  # also the warm-up
        if not torch.equal(got, expected):
            raise SystemExit(f"{name!r} generates something else than the bare pipeline: its time means nothing")

    config, calls = LAB, 2 * STEPS
    page = PAGE.format(
        machine=machine(), steps=STEPS, calls=calls, layers=config.layers, width=config.heads * config.head_dim,
        tokens=4 * 6 * 6, repeats=options.repeats, imports_repeats=options.imports,
        generation=table(rounds(ways, options.repeats), "bare pipeline", calls),
        imports=table(import_rounds(options.imports), next(iter(IMPORTS))),
    )  # fmt: skip
    print(page)
    if options.write:
        section.write(options.write, "overhead", page)


if __name__ == "__main__":
    main()
