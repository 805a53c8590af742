"""What attention by region costs: ratios to a bare generation, and peak memory as videos grow.

    python benchmarks/attention.py

Time: generations of the lab model that take turns within each round; a ratio is taken within its round, so that slow
drift of the machine falls out, and a second bare pipeline (`twin`) shows how far 1.00 scatters. Every way reads all
layers, steps and branches; `explicit softmax` gets the same numbers from all N x N weights. A way whose latents differ
from the bare ones, or whose masses differ from the explicit ones, stops the program. Processor seconds stand beside
wall seconds: on a machine that does other things, too, they are the steadier ones.

Memory: one layer at growing numbers of tokens, each in a fresh process: the peak of the process above what it held with
queries and keys in place. The exponent is the slope of log memory over log tokens: 1 is linear, 2 is N x N.

Not a test: numbers depend on the machine. Keep it otherwise idle while this runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HOUSE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOUSE / "benchmarks"))

from overhead import machine  # noqa: E402

import dit_lens  # noqa: E402
from dit_lens.measures import region_attention  # noqa: E402
from dit_lens.measures.attention import Regions, prepare, region_mass  # noqa: E402
from dit_lens.measures.region_attention import WatchAttention, watch_attention, watched_attention  # noqa: E402

KEYS = ("agent", "goal", "other_goal", "path", "walls", "background")
HEADS, WIDTH, REGIONS = 4, 64, 8  # of the memory rows
TOKENS = (1024, 2048, 4096, 8192)
Way = Callable[[], Any]


def explicit_mass(q: Tensor, k: Tensor, regions: Regions, chunk: int = 0) -> Tensor:
    """What ``region_mass`` gives, from all weights."""
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    keys = torch.cat([column[:, :1] for column in regions.columns], -1)[..., : regions.n_keys]  # (B, 1, M, C)
    return regions.weights @ (logits.softmax(-1) @ keys)


# -- time


def ways() -> dict[str, Way]:
    lenses = [dit_lens.load("lab") for _ in range(2)]
    task = dit_lens.tasks.load("choose", seed=0)
    picture = {"prompt": task.prompt, "image": task.image, "height": 96, "width": 96, "num_frames": 13}
    names = ("num_inference_steps", "guidance_scale", "max_sequence_length")
    sampling = {name: getattr(lenses[0].defaults, name) for name in names}

    def bare(lens: Any) -> Way:
        def generate() -> Tensor:
            generator = torch.Generator().manual_seed(0)
            return lens.pipe(**picture, **sampling, generator=generator, output_type="latent").frames[0]

        return generate

    def watched(*watches: WatchAttention, mass: Any = region_mass) -> Way:
        def generate() -> Any:
            region_attention.region_mass = mass
            try:
                return lenses[0].generate(task, seed=0, interventions=list(watches))
            finally:
                region_attention.region_mass = region_mass

        return generate

    own = watch_attention("all", KEYS)
    return {
        "bare pipeline": bare(lenses[0]),
        "bare pipeline, twin": bare(lenses[1]),
        "lens.generate, nothing read": watched(),
        "self-attention by region": watched(own),
        "the same, explicit softmax": watched(own, mass=explicit_mass),
        "self and text by region": watched(own, watch_attention("all", kind="cross")),
        "self by region, with contributions": watched(watch_attention("all", KEYS, contribution=True)),
    }


def check(found: dict[str, Way]) -> None:
    """The same video from every way, and the same masses from the explicit softmax; also the warm-up."""
    latents: dict[str, Any] = {name: way() for name, way in found.items()}
    expected = latents["bare pipeline"]
    for name, got in latents.items():
        if not torch.equal(got if isinstance(got, Tensor) else got.final, expected) and "twin" not in name:
            raise SystemExit(f"{name!r} generates something else than the bare pipeline: its time means nothing")
    ours, all_weights = (latents[n] for n in ("self-attention by region", "the same, explicit softmax"))
    off = float(abs(watched_attention(ours).mass - watched_attention(all_weights).mass).max())
    if off > 1e-5:
        raise SystemExit(f"masses differ from the explicit softmax by {off:.1e}")
    print(f"Largest difference of a mass from the explicit softmax, over the whole generation: {off:.1e}.\n")


def rounds(found: dict[str, Way], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of every way in every round; the ways take turns and the first one rotates."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    names = list(found)
    gc.collect()
    gc.disable()
    try:
        for i in range(repeats):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                wall, cpu = time.perf_counter(), time.process_time()
                found[name]()
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
                gc.collect()
    finally:
        gc.enable()
    return seconds


def time_table(seconds: dict[str, list[tuple[float, float]]]) -> str:
    lines = [
        "| | wall: min | **median** | max | processor: **median** | median wall seconds |",
        "|---|---|---|---|---|---|",
    ]
    base = seconds["bare pipeline"]
    for name, values in seconds.items():
        wall, cpu = ([v[i] / b[i] for v, b in zip(values, base, strict=True)] for i in (0, 1))
        lines.append(
            f"| {name} | {min(wall):.3f} | **{statistics.median(wall):.3f}** | {max(wall):.3f} | "
            f"**{statistics.median(cpu):.3f}** | {statistics.median(v[0] for v in values):.3f} |"
        )
    return "\n".join(lines)


# -- memory


def peak() -> float:
    """The most memory this process held at once since the last reset, MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def one_layer(tokens: int, fused: bool) -> tuple[float, float]:
    """(peak MiB above the start, seconds) of one layer; to be run in a process of its own. Linux only."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, tokens, HEADS, WIDTH, generator=generator) for _ in range(2))
    keys = torch.arange(tokens)[None, None] % REGIONS == torch.arange(REGIONS)[None, :, None]
    mass = region_mass if fused else explicit_mass
    small = [x[:, :64] for x in (q, k)]
    mass(*small, prepare(torch.ones(1, 1, 64, dtype=torch.bool), keys[..., :64], q))  # what a first call loads
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
    before, start = peak(), time.perf_counter()
    mass(q, k, prepare(torch.ones(1, 1, tokens, dtype=torch.bool), keys, q))
    return peak() - before, time.perf_counter() - start


def memory(tokens: int, fused: bool) -> tuple[float, float]:
    args = [sys.executable, __file__, "--one", str(tokens), "fused" if fused else "explicit"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    peak, seconds = done.stdout.split()[-2:]
    return float(peak), float(seconds)


def memory_table(tokens: Sequence[int]) -> str:
    lines = [f"| | {' | '.join(f'N = {n}' for n in tokens)} | exponent |", "|---|" + "---|" * (len(tokens) + 1)]
    for name, fused in (("by region", True), ("explicit softmax", False)):
        found = [memory(n, fused) for n in tokens]
        peaks = [max(high, 0.01) for high, _ in found]
        slope = np.polyfit(np.log(tokens), np.log(peaks), 1)[0]
        lines.append(f"| {name}, peak MiB | {' | '.join(f'{p:.1f}' for p in peaks)} | {slope:.2f} |")
        lines.append(f"| {name}, seconds | {' | '.join(f'{s:.2f}' for _, s in found)} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12, help="rounds of generations")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; one is the steadiest")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        with torch.no_grad():
            print(*one_layer(int(options.one[0]), options.one[1] == "fused"))
        return
    print(machine(), "\n")
    found = ways()
    with torch.no_grad():
        check(found)
        print(time_table(rounds(found, options.repeats)), "\n")
        print(f"One layer of {HEADS} heads x {WIDTH}, fp32, {REGIONS} regions:\n")
        print(memory_table(TOKENS))


if __name__ == "__main__":
    main()
