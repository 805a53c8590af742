"""The benchmark at real size: the published shapes on the meta device, what fits, and the whole program on a CPU."""

import copy
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import dit_lens as dl
from dit_lens.wan.call_plan import Sampling, build
from dit_lens.wan.conditions import Size

HOUSE = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """benchmarks/real_size.py, imported as it is when it runs."""
    before = list(sys.path)
    sys.path.insert(0, str(HOUSE / "benchmarks"))
    try:
        import real_size

        yield real_size
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def models(bench: Any) -> Any:
    return sys.modules["real_models"]


# -- the published shapes, without numbers


REAL = {"a14b": (14_288_901_184, 40, 2), "1.3b": (1_418_996_800, 30, 1)}


@pytest.mark.parametrize("name", REAL)
def test_real_configurations_have_the_published_size(models: Any, name: str) -> None:
    setup = models.SETUPS[name]
    parameters, layers, experts = REAL[name]
    pipe = models.build(setup, "meta")
    found = [m for m in (pipe.transformer, pipe.transformer_2) if m is not None]
    assert len(found) == experts == setup.experts
    for model in found:
        weights = list(model.parameters())
        assert sum(w.numel() for w in weights) == parameters
        assert all(w.is_meta for w in weights) and len(model.blocks) == layers
        assert sum(w.numel() * w.element_size() for w in weights) == setup.expert_bytes()
    assert 2 * parameters < setup.expert_bytes() < 2.01 * parameters  # bf16 but for a few
    with dl.load(pipe) as lens:
        d = lens.defaults
        assert (d.height, d.width, d.num_frames) == (setup.size.height, setup.size.width, setup.size.num_frames)
        assert lens.grid(setup.size).n_tokens == setup.tokens == 32_760
        plan = build(pipe, Sampling(num_inference_steps=2, guidance_scale=1.0), "cpu")[0]
        assert [call.expert for call in plan.calls] == (["high", "low"] if experts == 2 else ["high", "high"])


@pytest.mark.parametrize("name", REAL)
def test_a_real_call_goes_through_all_blocks_with_the_stated_arithmetic(models: Any, bench: Any, name: str) -> None:
    setup = models.SETUPS[name]
    pipe = models.build(setup, "meta", experts=1)
    streams, queries = [], []
    with dl.load(pipe) as lens, torch.no_grad():
        runner = bench.Bench(setup, torch.device("meta"), pipe, pipe, lens)
        hooks = [(f"blocks.{i}.hook_resid_post", lambda x, hook: streams.append(x)) for i in range(lens.n_layers)]
        hooks += [("blocks.0.attn.hook_q", lambda x, hook: queries.append(x))]
        with lens.experts["high"].listening(hooks), FlopCounterMode(display=False) as counted:
            velocity = runner.one_call()()
    assert velocity.shape == (16, 21, 60, 104) and velocity.dtype == torch.bfloat16
    heads, width = setup.denoiser["num_attention_heads"], setup.denoiser["attention_head_dim"]
    assert {(tuple(x.shape), x.dtype) for x in streams} == {((1, 32_760, heads * width), torch.bfloat16)}
    assert len(streams) == lens.n_layers and queries[0].shape == (1, 32_760, heads, width)
    assert setup.flops() == pytest.approx(counted.get_total_flops(), rel=1e-3)


def test_dtypes_are_those_of_from_pretrained(models: Any, tmp_path: Path) -> None:
    made = models.denoiser(models.SETUPS["lab"], "cpu")
    copy.deepcopy(made).float().save_pretrained(tmp_path)
    loaded = models.Denoiser.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {k: v.dtype for k, v in made.state_dict().items()} == {k: v.dtype for k, v in loaded.state_dict().items()}
    assert {b.dtype for b in made.buffers()} == {b.dtype for b in loaded.buffers()}
    assert {w.dtype for w in made.parameters()} == {torch.bfloat16, torch.float32}
    assert made.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32


def test_forty_random_layers_stay_finite_and_alive(models: Any) -> None:
    lab = models.SETUPS["lab"]
    deep = replace(lab, denoiser={**lab.denoiser, "num_layers": 40, "num_attention_heads": 2})
    model = models.denoiser(deep, "cpu")
    x, text = torch.randn(1, 36, 2, 8, 8).bfloat16(), torch.randn(1, 16, 64).bfloat16()
    with torch.no_grad():
        v = model(hidden_states=x, timestep=torch.tensor([999]), encoder_hidden_states=text, return_dict=False)[0]
    assert v.isfinite().all() and 0.01 < float(v.float().std()) < 100


# -- what fits


@pytest.mark.parametrize(("card", "experts"), [(141e9, 2), (84e9, 2), (42e9, 1), (37e9, 1)])
def test_the_second_expert_is_left_out_where_it_does_not_fit(
    models: Any, monkeypatch: pytest.MonkeyPatch, card: float, experts: int
) -> None:
    monkeypatch.setattr(models, "free_bytes", lambda device: int(card))
    assert models.experts_that_fit(models.SETUPS["a14b"], torch.device("cpu")) == experts
    assert models.experts_that_fit(models.SETUPS["1.3b"], torch.device("cpu")) == 1


def test_a_card_that_is_too_small_is_refused_with_numbers(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a14b, cpu = models.SETUPS["a14b"], torch.device("cpu")
    monkeypatch.setattr(models, "free_bytes", lambda device: 32 * 10**9)
    with pytest.raises(SystemExit, match=r"26\.7 GiB of weights.* 32,760 tokens.*29\.8 GiB free.*--num-frames"):
        models.experts_that_fit(a14b, cpu)
    assert models.experts_that_fit(replace(a14b, size=Size(480, 832, 5)), cpu) == 1  # the remedy


def test_pipelines_beside_each_other_share_weights_and_no_module(models: Any) -> None:
    pipe = models.build(models.SETUPS["lab"], "cpu")
    other = models.beside(pipe)
    for name in ("transformer", "transformer_2"):
        one, two = getattr(pipe, name), getattr(other, name)
        assert [w.data_ptr() for w in one.parameters()] == [w.data_ptr() for w in two.parameters()]
        assert not set(map(id, one.modules())) & set(map(id, two.modules()))
    assert other.scheduler is not pipe.scheduler and other.config.boundary_ratio == 0.9
    with dl.load(other):
        assert type(pipe.transformer.blocks[0]).__name__ == "WanTransformerBlock"
        assert not any("hook" in name for name, _ in pipe.transformer.named_modules())


# -- the program


SMALL = ["--device", "cpu", "--height", "32", "--width", "48", "--num-frames", "5", "--rounds", "1"]


def numbers(row: str) -> list[float]:
    return [float(x) for x in re.findall(r"(?<=\| )[*+-]*([\d.]+)", row)]


def test_it_runs_from_end_to_end(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\n<!-- begin other -->\nkept\n<!-- end other -->\n")
    bench.main(["--config", "lab", *SMALL, "--rounds", "2", "--write", str(page)])
    printed, text = capsys.readouterr().out, page.read_text()
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("| ")}
    ways = ["bare pipeline", "bare pipeline, twin", "idle lens, pipe(...)", "idle lens, lens.generate",
            "recording, token norms of all blocks", "region attention, all layers"]  # fmt: skip
    for way in ways:
        low, middle, high, seconds = numbers(rows[way])[:4]
        assert 0 < low <= middle <= high and seconds > 0
        assert rows[way].endswith("| not measured | same bits |")  # no peak memory on a CPU
    assert numbers(rows["bare pipeline"])[:3] == [1, 1, 1]
    assert "2 experts of 3.0 M parameters" in printed and "12 tokens" in printed
    assert "12 cells, c = 1; L (L + 1) / 2 + 2 L c = 102 block evaluations (102 planned), 8.50 calls" in printed
    assert "plain patched generation: same bits" in printed and "off the explicit softmax" in printed
    assert "kept" in text and printed.strip() in text
    sections = re.findall(r"<!-- begin (.+?) -->", text)
    assert sections == ["other", "real size", "real size, a14b", "real size, 1.3b", "real size, lab"]
    assert text.count("Not measured: this configuration has not run on a GPU yet") == 2


def test_a_result_is_written_over_and_what_was_measured_stays(bench: Any, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    bench.write(page, "a14b", "### measured")
    bench.write(page, "lab", "### lab")
    bench.write(page, "1.3b", "### small")
    text = page.read_text()
    assert text.count("### measured") == text.count("### lab") == text.count("### small") == 1
    assert "Not measured" not in text


def test_planned_block_evaluations_follow_the_formula_however_memory_cuts_the_row(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = replace(models.SETUPS["lab"], size=Size(32, 32, 5))
    pipe = models.build(setup, "cpu", experts=1)
    found = set()
    with dl.load(models.beside(pipe)) as lens, torch.no_grad():
        runner = bench.Bench(setup, torch.device("cpu"), pipe, pipe, lens)
        for streams in (1000, 14, 7):
            room = streams * setup.tokens * 128 * 2  # bf16 streams of one call
            monkeypatch.setattr(bench, "reuse_bytes", lambda setup, device, room=room: room)
            sweep, plain = runner.sweep()
            parts = len(sweep.chunks(sweep.mine))
            found.add(parts)
            assert sweep.plan(calibrate=False).total == bench.expected_blocks(12, parts)
            effects = bench.swept(sweep)
            assert len(effects) == 12 and float(effects[6]) == plain()
            assert effects.isfinite().all() and effects.abs().min() > 0
    assert len(found) > 1 and 1 in found


def test_a_row_without_memory_says_so_and_the_others_go_on(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = bench.Bench.ways

    def starved(self: Any) -> dict[str, Any]:
        def way() -> None:
            raise torch.OutOfMemoryError("no room for the tiles")

        found = ways(self)
        # The rehearsal, of one latent frame less, still has room.
        return found | ({"region attention, all layers": way} if self.setup.size.num_frames == 9 else {})

    monkeypatch.setattr(bench.Bench, "ways", starved)
    bench.main([*SMALL, "--num-frames", "9"])
    out = capsys.readouterr().out
    assert "| region attention, all layers | | out of memory | | | | | |" in out
    assert "12 cells" in out and out.count("same bits") == 6


def test_other_bits_than_the_bare_ones_end_with_an_error(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = bench.Bench.ways

    def wrong(self: Any) -> dict[str, Any]:
        found = ways(self)
        right = found["bare pipeline, twin"]
        return found | {"bare pipeline, twin": lambda: right() + 0.5}

    monkeypatch.setattr(bench.Bench, "ways", wrong)
    with pytest.raises(SystemExit, match=r"from \['bare pipeline, twin'\]"):
        bench.main(SMALL)
    assert "differ by 5.0e-01" in capsys.readouterr().out


def test_wrong_masses_end_with_an_error(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.region_mass
    monkeypatch.setattr(bench, "region_mass", lambda *args: right(*args) + 0.01)
    with pytest.raises(SystemExit, match="off the explicit softmax"):
        bench.main(SMALL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "mps"], "give cpu or cuda"),
        (["--device", "cpu", "--num-frames", "6"], "use 5"),
        (["--device", "cpu", "--width", "50"], "use 96 x 64"),
        (["--device", "cpu", "--config", "a14b"], "or another --device"),
    ],
)
def test_mistakes_are_refused_before_anything_is_built(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(models, "free_bytes", lambda device: 16 * 10**9)
    with pytest.raises(SystemExit, match=said):
        bench.main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device_is_said(bench: Any) -> None:
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        bench.main(["--device", "cuda"])


def test_expected_time_is_under_ten_minutes(bench: Any, models: Any) -> None:
    assert 5 < bench.expected_minutes(models.SETUPS["a14b"]) < 10
    assert models.SETUPS["a14b"].flops() / bench.H100 == pytest.approx(4.6, abs=0.01)
    more = [bench.expected_minutes(models.SETUPS["a14b"], rounds) for rounds in (1, 2, 3)]
    assert statistics.pstdev([more[1] - more[0], more[2] - more[1]]) < 1e-9 < more[1] - more[0]


def test_the_page_says_what_was_not_measured() -> None:
    text = (HOUSE / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count("<!-- begin real size -->") == 1
    for name in REAL:
        section = text.split(f"<!-- begin real size, {name} -->")[1].split("<!-- end")[0]
        assert ("Not measured" in section) != (", CUDA " in section)
