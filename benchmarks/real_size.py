"""What the lens costs at the size of the real models: Wan2.2-I2V-A14B (two experts) and Wan2.1-T2V-1.3B.

    python benchmarks/real_size.py --config lab                                    # any machine, a minute
    python benchmarks/real_size.py --config a14b --num-frames 5                    # a rehearsal on the GPU, small video
    python benchmarks/real_size.py --config a14b --write docs/benchmarks.md        # 480 x 832 x 81: 32,760 tokens

Nothing is downloaded: weights are random (time does not depend on them) and are made in bf16 on the device itself, with
the few fp32 parts that diffusers keeps (benchmarks/real_models.py); a denoiser call has its real shape. A generation is
two steps of the real sampler, one call of each expert, without guidance: an uncond call costs what a cond call does.

The rows, each a ratio to the bare diffusers pipeline:

    bare call              one call of the denoiser alone, on inputs of its own
    twin                   a second bare pipeline: how far 1.00 scatters here
    idle lens              nothing recorded, by pipe(...) and by lens.generate
    recording              the norm of every token after every block of every call
    region attention       self-attention by six regions, every layer, head and call
    one local sweep row    the update of one block at step 0, for each of the L blocks in turn, taken from a source run
                           and read in x0_hat of that step; its cost is in bare calls, of L block evaluations each:

                               L (L + 1) / 2 + 2 L c     block evaluations

                           The cell of block l runs the blocks l .. L-1. Base and source are run once more, L blocks
                           each, for each of the c parts that the device's memory cuts the row into.

All pipelines share one set of weights and have modules of their own, so that a lens on one leaves the others bare. The
rows take turns within each round, and a ratio is taken within its round. Seconds are the wall's, after the device is
done; on a CPU the processor's, which are steadier on a machine that does other things, too. Latents are compared bit by
bit with the bare ones, and one cell of the sweep row with its plain patched generation: what differs is said in the
table, and the program ends with an error. Before anything is timed, everything runs once on a video of five frames,
where attention by region is compared with the explicit softmax, too.

Memory: 28.6 GB of weights an expert at 14 B. Where both do not fit beside the activations, the second is left out, and
the page says so. A row that runs out of memory says that, and the others go on. Peak memory is the allocator's and is
measured on CUDA devices only.

Time: others report 4.6 s for a 14 B call at this size on an H100 (diffusers pull request 11605; 365 TFLOP/s). The
defaults (three rounds) are the time of about 70 such calls, and a minute to build and rehearse: six to seven minutes on
an H100, two for 1.3 B.

Not a test: numbers depend on the machine. Keep it otherwise idle while this runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import overhead
import page
import torch
from real_models import GIB, SETUPS, Setup, beside, build, experts_that_fit, reuse_bytes
from torch import Tensor

import dit_lens as dl
from dit_lens.errors import SamplerError
from dit_lens.measures.attention import CHUNK, prepare, region_mass
from dit_lens.measures.region_attention import watch_attention
from dit_lens.runner import Sweep, metrics
from dit_lens.wan.conditions import Size

H100 = 365e12  # FLOP a second that a 14 B call was reported to reach
OUT = "out of memory"
STEPS, SMALL = 2, 5  # steps of a generation, frames of the rehearsal
SECONDS = {"cuda": "Seconds are the wall's.", "cpu": "Seconds are the processor's."}
MASS_ERROR = 2e-3  # bf16 kernels round what they return
BARE, CALL = "bare pipeline", "bare call"
Way = Callable[[], Any]


@dataclass
class Row:
    """What was seen of one way: seconds and peak bytes a round, and its latents against the bare ones."""

    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    bits: str = ""
    failed: str = ""


def timed(way: Way, device: torch.device, row: Row) -> Any:
    """Run a way, and note seconds and peak memory; None where memory does not suffice."""
    gpu = device.type == "cuda"
    if gpu:
        gc.collect()  # so that the peak is this row's own
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    try:
        found = way()
        if gpu:
            torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        row.failed = OUT
        print(f"  {error}", file=sys.stderr)
        return None
    row.seconds.append(clock() - start)
    if gpu:
        row.peak.append(torch.cuda.max_memory_allocated(device))
    return found


# -- the ways


@dataclass(frozen=True)
class Bench:
    """The pipelines over one set of weights, and what is done with them at one size."""

    setup: Setup
    device: torch.device
    pipe: Any
    twin: Any
    lens: Any

    def at(self, size: Size) -> Bench:
        return replace(self, setup=replace(self.setup, size=size))

    def ways(self) -> dict[str, Way]:
        call, lens, regions = self.setup.call, self.lens, self.regions()
        norms, watch = dl.record("resid_post", reduce="token_norm"), watch_attention("all", tuple(regions))

        def bare(pipe: Any) -> Way:
            more = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "latent"}
            return lambda: pipe(**call, **more, generator=torch.Generator().manual_seed(0)).frames[0]

        def ours(**more: Any) -> Way:
            return lambda: lens.generate(**call, seed=0, num_inference_steps=STEPS, guidance_scale=1.0, **more)

        return {
            CALL: self.one_call(),
            BARE: bare(self.pipe),
            "bare pipeline, twin": bare(self.twin),
            "idle lens, pipe(...)": bare(lens.pipe),
            "idle lens, lens.generate": ours(),
            "recording, token norms of all blocks": ours(record=norms),
            "region attention, all layers": ours(regions=regions, interventions=[watch]),
        }

    def regions(self) -> dict[str, np.ndarray]:
        """Six tiles that cover the picture, bool (H, W)."""
        high, wide = self.setup.size.height, self.setup.size.width
        tiles = np.arange(high)[:, None] * 2 // high * 3 + np.arange(wide)[None] * 3 // wide  # 2 x 3 of them
        return {f"tile_{i}": tiles == i for i in range(6)}

    def attention_error(self) -> float:
        """The largest difference of a region's mass from all N x N weights, over the heads of the middle layer."""
        layer = self.lens.n_layers // 2
        run = self.lens.generate(
            **self.setup.call, num_inference_steps=STEPS, guidance_scale=1.0, stop_after=0, regions=self.regions(),
            record=dl.record("q", "k", steps=[0], layers=[layer]),
        )  # fmt: skip
        q, k = (run[f"step=0 layer={layer} hook={x} branch=cond"][None].to(self.device) for x in "qk")  # (1, N, H, D)
        keys = torch.from_numpy(np.stack(list(run.regions.values())))  # (R, N)
        fused = region_mass(q, k, prepare(torch.ones(1, 1, q.shape[1], dtype=torch.bool), keys[None], q))[0, :, 0]
        explicit = []
        for head in range(q.shape[2]):
            logits = q[0, :, head].float() @ k[0, :, head].float().T / q.shape[-1] ** 0.5
            explicit.append(logits.softmax(-1).mean(0) @ keys.T.to(logits))  # (R,)
        return float((fused - torch.stack(explicit)).abs().max())

    def one_call(self) -> Way:
        """The first expert alone, its velocity (C, F, h, w)."""
        model, size = self.pipe.transformer, self.setup.size
        shape = (model.config.in_channels, (size.num_frames - 1) // 4 + 1, size.height // 8, size.width // 8)
        x, text = torch.randn(1, *shape), torch.randn(1, self.setup.text, model.config.text_dim)
        x, text = (value.to(self.device, torch.bfloat16) for value in (x, text))
        t = torch.tensor([999], device=self.device)
        return lambda: model(hidden_states=x, timestep=t, encoder_hidden_states=text, return_dict=False)[0][0]

    def sweep(self) -> tuple[Sweep, Way]:
        """The sweep row, and the effect of its middle cell by a plain patched generation."""
        lens, layer = self.lens, self.lens.n_layers // 2
        asked = {**self.setup.call, "num_inference_steps": STEPS, "guidance_scale": 1.0, "stop_after": 0}
        base, source = (lens.generate(**asked, seed=seed) for seed in (0, 1))
        sweep = Sweep(
            lens, base, source, steps=[0], layers="all", placebo="none", horizon="local",
            memory=reuse_bytes(self.setup, self.device),
        )  # fmt: skip

        def plain() -> float:
            patch = dl.patch(step=0, layers=[layer], source=source)
            return metrics.projection(lens.generate(**asked, seed=0, interventions=[patch]), base, source)

        return sweep, plain


def swept(sweep: Sweep) -> Tensor:
    """The effects of all layers."""
    found = sweep.run(progress=lambda done, total, what: None)["raw_effect"].squeeze(["task", "seed", "step"])
    return torch.from_numpy(found.values.reshape(-1))


def expected_blocks(n_layers: int, parts: int) -> int:
    """Block evaluations of the sweep row: see the top of this file."""
    return n_layers * (n_layers + 1) // 2 + 2 * n_layers * parts


def latents(found: Any) -> Tensor:
    """The final latents of a way, (C, F, h, w), on the CPU."""
    return (found if isinstance(found, Tensor) else found.latents[-1]).cpu()


def against(got: Tensor, expected: Tensor) -> str:
    if torch.equal(got, expected):
        return "same bits"
    return f"differ by {float((got.float() - expected.float()).abs().max()):.1e}"


def rehearse(bench: Bench) -> str:
    """Everything once on a short video, so that kernels are loaded and a mistake costs seconds; what it found."""
    size = bench.setup.size
    small = bench.at(replace(size, num_frames=min(SMALL, size.num_frames)))
    for name, way in small.ways().items():
        found = way()
        if not bool(latents(found).isfinite().all()):
            raise SystemExit(f"{name!r} gives NaN or infinity with these weights: its time means nothing")
    swept(small.sweep()[0])
    off = small.attention_error()
    if not off < MASS_ERROR:  # NaN, too
        raise SystemExit(f"attention by region is {off:.1e} off the explicit softmax: its time means nothing")
    return (
        f"Attention by region is at most {off:.1e} off the explicit softmax (all heads of the middle layer, "
        f"{small.setup.tokens:,} tokens)."
    )


def measure(bench: Bench, rounds: int, sweeps: int, say: Callable[[str], None]) -> tuple[dict[str, Row], Row, str]:
    """Rounds of all ways, then the sweep row; and what the page says below the table."""
    checked = rehearse(bench)
    say(f"rehearsed on a short video. {checked}")
    ways = bench.ways()
    expected = latents(ways[BARE]())  # also the warm-up at this size
    rows = {name: Row() for name in ways}
    names = list(ways)
    for i in range(rounds):
        gc.collect()
        for name in names[i % len(names) :] + names[: i % len(names)]:
            row = rows[name]
            found = None if row.failed else timed(ways[name], bench.device, row)
            if found is None:
                if name in (CALL, BARE):
                    raise SystemExit(f"the {name} ran {OUT}: give a smaller --height, --width or --num-frames")
                continue
            if name != CALL and row.bits in ("", "same bits"):
                row.bits = against(latents(found), expected)
            say(f"round {i + 1}, {name}: {row.seconds[-1]:.2f} s {row.bits}")
            del found
    row, swept_text = sweep_row(bench, sweeps, statistics.median(rows[CALL].seconds), say)
    return rows, row, f"{calls_in(bench.setup, rows)} {checked}\n\n{swept_text}"


def sweep_row(bench: Bench, sweeps: int, call: float, say: Callable[[str], None]) -> tuple[Row, str]:
    """Time the sweep row. ``call``: seconds of a bare call."""
    row, n_layers = Row(), bench.lens.n_layers
    try:
        sweep, plain = bench.sweep()
        for _ in range(sweeps):
            effects = timed(lambda: swept(sweep), bench.device, row)
            if effects is None:
                break
            say(f"sweep row: {row.seconds[-1]:.2f} s")
        else:
            row.bits = against(effects[n_layers // 2], torch.tensor(plain(), dtype=effects.dtype))
    except torch.OutOfMemoryError:
        row.failed = OUT
    if row.failed:
        return row, f"The local sweep row ran {row.failed}."
    cells, parts, total = len(sweep.cells), len(sweep.chunks(sweep.mine)), sweep.plan(calibrate=False).total
    ratios = [seconds / call for seconds in row.seconds]
    ratio, bound = statistics.median(ratios), total / n_layers
    return row, (
        f"One local sweep row: {cells} cells, c = {parts}; L (L + 1) / 2 + 2 L c = "
        f"{expected_blocks(n_layers, parts):,} block evaluations ({total:,} planned), {bound:.2f} calls. Times are in "
        f"bare calls. The middle cell against its plain patched generation: {row.bits}.\n\n"
        "| expected | min | **median** | max | median / expected | median seconds | peak memory |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {bound:.2f} | {min(ratios):.2f} | **{ratio:.2f}** | {max(ratios):.2f} | {ratio / bound:.3f} | "
        f"{statistics.median(row.seconds):.2f} | {peaks(row)} |"
    )


# -- reporting


def peaks(row: Row) -> str:
    return f"{max(row.peak) / GIB:.2f} GiB" if row.peak else "not measured"


def table(rows: Mapping[str, Row], calls: int) -> str:
    lines = [
        "| | min | **median** | max | median seconds | overhead a call (ms) | peak memory | latents |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = rows[BARE].seconds
    for name, row in rows.items():
        if name == CALL:
            continue
        if row.failed or not row.seconds:
            lines.append(f"| {name} | | {row.failed} | | | | | |")
            continue
        pairs = list(zip(row.seconds, base, strict=False))
        ratios, over = [a / b for a, b in pairs], statistics.median(a - b for a, b in pairs)
        lines.append(
            f"| {name} | {min(ratios):.3f} | **{statistics.median(ratios):.3f}** | {max(ratios):.3f} | "
            f"{statistics.median(row.seconds):.3f} | {1000 * over / calls:+.2f} | {peaks(row)} | {row.bits} |"
        )
    return "\n".join(lines)


def calls_in(setup: Setup, rows: Mapping[str, Row]) -> str:
    """What a bare call takes, and how much of a generation the calls are."""
    call, whole = (statistics.median(rows[name].seconds) for name in (CALL, BARE))
    return (
        f"A bare call takes {call:.4g} s ({setup.flops() / call / 1e12:.3g} TFLOP/s); its peak memory: "
        f"{peaks(rows[CALL])}. The {STEPS} of them are {STEPS * call / whole:.2f} of a bare generation."
    )


INTRO = """## At real size

Written by `python benchmarks/real_size.py --config ... --write docs/benchmarks.md`; its docstring says how it measures
and what the rows are. Weights are random, so the numbers are about time and memory, and the videos mean nothing.

What to run when a GPU is at hand, in this order (`python benchmarks/real_size.py` with these arguments):

| arguments | card | expected | what it shows |
|---|---|---|---|
| `--config lab --device cuda` | any | under a minute | that all of it runs on CUDA |
| `--config 1.3b --write docs/benchmarks.md` | 12 GB | {small} | 32,760 tokens, one expert |
| `--config a14b --num-frames 5` | 80 GB, or 40 GB with one expert | two minutes | 14 B weights, a short video |
| `--config a14b --write docs/benchmarks.md` | 80 GB, or 40 GB with one expert | {large} | 32,760 tokens |

The times are expectations and not measurements: {flops:.0f} TFLOP a call of 14 B by arithmetic, at the 365 TFLOP/s that
others reached on an H100 (4.6 s a call: diffusers pull request 11605). Where the second expert does not fit, it is left
out and the section says so. The sweep row holds what the card has left, and recomputes the rest: fewer parts, fewer
calls.

Look at first: that every row says `same bits` (kernels that are not repeatable show in the row `twin`, too); that the
peak memory of region attention lies near the others' (a kernel that fell back to explicit weights would ask for some
{explicit:.0f} GiB more); that the sweep row takes no more than its expected calls.
"""

UNMEASURED = """### {about} (`--config {name}`)

Not measured: this configuration has not run on a GPU yet. Tested without one: its denoiser has the published shape and
number of parameters; a call of {tokens:,} tokens goes through all blocks under the lens, with as many operations as the
arithmetic says (on the meta device, without numbers); the program runs from end to end with `--config lab`.
"""

RESULT = """### {about} (`--config {name}`){where}

{machine}

{experts} of {parameters:,.1f} M parameters ({weights:.3g} GiB) and {layers} layers, bf16; {height} x {width} pixels, {frames} frames:
{tokens:,} tokens, {flops:.4g} TFLOP a call by arithmetic. {steps} steps without guidance, {rounds}. Wrapping the
pipeline took {wrap:.2f} s. {seconds} Peak memory includes the weights.

{generation}

{below}
"""  # noqa: E501

LAB = """

This shows that the program runs; it is no forecast for real size. A call takes milliseconds here, so what the lens does
once a generation and once a cell (milliseconds, too) stands out, the more as a generation has two calls.
"""


def expected_minutes(setup: Setup, rounds: int = 3, sweeps: int = 1) -> float:
    """On an H100: a minute to build and rehearse, a warm-up, rounds of a bare call and six rows (attention taken as 1.6
    generations), the sweep row, its two runs and its check."""
    layers = setup.denoiser["num_layers"]
    calls = STEPS * (1 + rounds * 7.1) + sweeps * expected_blocks(layers, 1) / layers + 4
    return 1 + calls * setup.flops() / H100 / 60


def write(file: Path, name: str, text: str) -> None:
    """The section of one configuration; those that never ran say so."""
    full = SETUPS["a14b"]
    small, large = (f"{expected_minutes(SETUPS[n]):.0f} minutes" for n in ("1.3b", "a14b"))
    explicit = 8 * full.denoiser["num_attention_heads"] * CHUNK * full.tokens / GIB  # logits and weights, fp32
    intro = INTRO.format(small=small, large=large, flops=full.flops() / 1e12, explicit=explicit)
    page.write(file, "real size", intro)
    for one in ("a14b", "1.3b", "lab"):
        if one == name:
            page.write(file, f"real size, {one}", text)
        elif one != "lab" and f"<!-- begin real size, {one} -->" not in file.read_text(encoding="utf-8"):
            setup = SETUPS[one]
            page.write(file, f"real size, {one}", UNMEASURED.format(about=setup.about, name=one, tokens=setup.tokens))


def gpu(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    seen = torch.cuda.get_device_properties(device)
    return f" {seen.name}, {seen.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}."


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What the lens costs at the size of the real models: ratios to the bare pipeline, with random "
        "weights made on the device. Nothing is downloaded.",
        epilog="Expect six to seven minutes for a14b on an H100 at the defaults, two for 1.3b; try --num-frames 5. "
        "The top of the file says what the rows are.",
    )
    parser.add_argument(
        "--config", choices=SETUPS, default="lab",
        help="lab: 12 layers of width 128, two experts (default, any machine); 1.3b: Wan2.1-T2V-1.3B; "
        "a14b: Wan2.2-I2V-A14B, two experts of 14 B where they fit",
    )  # fmt: skip
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--num-frames", type=int, help="frames of the video, 1 + a multiple of 4 (default: 81; lab 13)")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 16 (default: 480; lab 96)")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 16 (default: 832; lab 96)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of generations (default: 3)")
    parser.add_argument("--sweeps", type=int, default=1, help="how often the sweep row is timed (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU; one is the steadiest")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the section into this page, too")
    options = parser.parse_args(argv)
    if min(options.rounds, options.sweeps, options.threads) < 1:
        parser.error("--rounds, --sweeps and --threads: give 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(argv)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type not in ("cpu", "cuda"):
        raise SystemExit(f"--device {device}: give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this torch sees no CUDA device: leave --device out, or install a CUDA build of torch")
    machine = overhead.machine() + gpu(device)
    setup = SETUPS[options.config]
    given = {"height": options.height, "width": options.width, "num_frames": options.num_frames}
    setup = replace(setup, size=replace(setup.size, **{k: v for k, v in given.items() if v is not None}))

    def say(what: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {what}", file=sys.stderr, flush=True)

    began = time.perf_counter()
    try:
        setup.size.check(build(setup, "meta", 1))
    except SamplerError as error:
        raise SystemExit(str(error)) from None
    count = experts_that_fit(setup, device)
    if device.type == "cuda":
        say(f"about {expected_minutes(setup, options.rounds, options.sweeps):.1f} minutes on an H100")
    pipe = build(setup, device, count)
    twin, other = beside(pipe), beside(pipe)
    say(f"{setup.about}: {count} of {setup.experts} experts on {device}")
    start = time.perf_counter()
    lens = dl.load(other)
    wrap = time.perf_counter() - start
    try:
        with torch.no_grad():
            bench = Bench(setup, device, pipe, twin, lens)
            rows, row, below = measure(bench, options.rounds, options.sweeps, say)
    except torch.OutOfMemoryError as error:
        raise SystemExit(f"{OUT}: give a smaller --height, --width or --num-frames\n{error}") from None
    finally:
        lens.close()
    left_out = " (the second expert of the model is left out: it does not fit here)" if count < setup.experts else ""
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    text = RESULT.format(
        about=setup.about, name=setup.name, where="" if device.type == "cuda" else ", on a CPU", machine=machine,
        experts=f"{count} expert{'s' if count > 1 else ''}{left_out}", steps=STEPS, rounds=rounds,
        parameters=sum(p.numel() for p in pipe.transformer.parameters()) / 1e6, weights=setup.expert_bytes() / GIB,
        layers=lens.n_layers, height=setup.size.height, width=setup.size.width, frames=setup.size.num_frames,
        tokens=setup.tokens, flops=setup.flops() / 1e12, wrap=wrap, generation=table(rows, STEPS),
        seconds=SECONDS[device.type], below=below + (LAB if setup.name == "lab" else ""),
    )  # fmt: skip
    print(text)
    if options.write:
        write(options.write, setup.name, text)
    wrong = [name for name, one in (*rows.items(), ("sweep row", row)) if one.bits not in ("", "same bits")]
    if wrong:
        raise SystemExit(f"other numbers than the bare pipeline's from {wrong}: see the column 'latents'")


if __name__ == "__main__":
    main()
