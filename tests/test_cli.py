"""The command line: thin, helpful, and without a traceback for a user's mistake."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext

import pytest
import torch
import typer.main
from PIL import Image
from typer.testing import CliRunner

import dit_lens as dl
from dit_lens.cli import app, common, inspect_commands, lab, main, map_and_sweep, probe
from dit_lens.wan.sampling import NAMES

ALL = ("map", "generate", "sweep", "probe", "report", "points", "plan", "lab")
SWEEP = ["sweep", "lab", "--task", "choose", "--n", "1", "--steps", "0", "--layers", "1,11"]
SWEEP += ["--num-inference-steps", "3"]
PROBE = ["probe", "lab", "--task", "maze", "--n", "6", "--label", "wall", "--layers", "4,8"]
PROBE += ["--num-inference-steps", "3"]
PROBE += ["--steps", "0,2", "--permutations", "9"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it: its own process."""
    env = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "dit_lens.cli", *words], capture_output=True, text=True, env=env)


def run(*words: object):
    """The command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def lens():
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture
def loaded(lens, monkeypatch):
    """The model is loaded once for all tests; how it is loaded, the tests in processes of their own see."""
    for module in (inspect_commands, map_and_sweep, probe):
        monkeypatch.setattr(module, "load", lambda *_: lens)
    return lens


# -- help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], *([name, "--help"] for name in ALL)], ids=" ".join)
def test_help(words) -> None:
    told = run(*words)
    assert told.exit_code == (0 if words else 2)  # no command at all: help, and a failure for scripts
    assert "Usage" in told.output
    if not words or words[0].startswith("-"):
        assert all(name in told.output for name in ALL)
    elif words[0] != "lab":
        assert "Examples:" in told.output and f"dit-lens {words[0]}" in told.output


def test_all_that_generates_takes_the_same_sampling_options() -> None:
    """From one place, under diffusers' names; ``--steps`` and ``--layers`` are addresses."""
    names = [name for name in NAMES if name not in ("max_sequence_length", "scheduler", "boundary_ratio")]
    for command in ("map", "sweep", "probe", "generate", "plan"):
        (one,) = (c for c in typer.main.get_command(app).commands.values() if c.name == command)
        options = {p.name: p for p in one.params}
        assert [name for name in options if name in NAMES] == names, command
        assert not {"num_steps", "guidance", "frames"} & set(options)
        assert all(p.help and not p.required for name, p in options.items() if name in names)


@pytest.mark.parametrize(("part", "option"), [("train", "--out"), ("evaluate", "--n"), ("film", "--picture")])
def test_help_of_the_lab_reaches_its_own_options(part, option) -> None:
    told = run("lab", part, "--help")
    assert told.exit_code == 0 and option in told.output


def test_examples_use_commands_and_options_that_exist() -> None:
    group = typer.main.get_command(app)
    lines = [line for made in (map_and_sweep, probe, inspect_commands) for _, lines in made.COMMANDS for line in lines]
    assert len(lines) >= 12
    for line in lines:
        program, name, *words = shlex.split(line)
        options = {option for p in group.commands[name].params for option in (*p.opts, *p.secondary_opts)}
        assert program == "dit-lens" and {word for word in words if word.startswith("--")} <= options, line


def test_version() -> None:
    assert run("--version").output.strip() == dl.__version__


# -- looking


def test_plan_and_points_of_lab(loaded) -> None:
    plan = run("plan", "lab", "--num-inference-steps", 3)
    assert plan.exit_code == 0
    assert plan.output.count("call ") == 6
    points = run("points")
    assert points.exit_code == 0 and "hook_resid_post" in points.output


def test_plan_and_points_for_scripts(loaded) -> None:
    plan = json.loads(run("plan", "lab", "--num-inference-steps", 3, "--guidance-scale", 1, "--json").stdout)
    assert [call["branch"] for call in plan["calls"]] == ["cond"] * 3 and plan["num_inference_steps"] == 3
    assert tuple(plan["sigmas"]) == loaded.plan(num_inference_steps=3).sigmas
    points = json.loads(run("points", "--json").stdout)
    assert points["layers"] == {"high": 12, "low": 12}
    by_name = {point["name"]: point for point in points["points"]}
    assert by_name["q"]["path"] == "blocks.{i}.attn.hook_q" and by_name["q"]["shape"] == "B N H D"
    assert "update" in by_name and not any("img" in name for name in by_name)  # lab has no image context


def test_plan_and_points_read_no_weights(tmp_path) -> None:
    files = [file for file in dl.lab.weights_path().rglob("*.json") if "_encoder" not in str(file)]
    for file in files:
        (tmp_path / file.relative_to(dl.lab.weights_path()).parent).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(dl.lab.weights_path()))
    for words in (["plan", "{}"], ["plan", "{}", "--json"], ["points", "{}"], ["points", "{}", "--json"]):
        told = [run(*(word.format(model) for word in words)) for model in ("lab", tmp_path)]
        assert told[0].exit_code == told[1].exit_code == 0, told[1].output
        assert told[0].stdout == told[1].stdout.replace(str(tmp_path), "lab")


# -- generating


def test_generate_keeps_run_video_and_film(loaded, tmp_path) -> None:
    told = run("generate", "lab", "--task", "maze", "--seed", 3, "--num-inference-steps", 3, "--out", tmp_path / "g")
    assert told.exit_code == 0, told.output
    assert sorted(p.name for p in (tmp_path / "g").glob("[!.]*")) == ["film.png", "manifest.json", "run", "video.mp4"]
    assert Image.open(tmp_path / "g" / "film.png").width > 300
    assert b"ftyp" in (tmp_path / "g" / "video.mp4").read_bytes()[:12]
    kept = dl.load_run(tmp_path / "g" / "run")
    bare = loaded.generate(dl.tasks.load("maze", seed=3), seed=3, num_inference_steps=3)
    assert torch.equal(kept.latents, bare.latents) and kept.fired == ()  # telling the steps changed nothing
    assert f"maze 3: {'solved' if bare.score else 'failed'}" in told.stdout


def test_generate_for_scripts_with_other_noise_and_without_a_task(loaded, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = json.loads(
        run("generate", "--task", "maze", "--seed", 7, "--task-seed", 3, "--num-inference-steps", 2, "--json").stdout
    )
    bare = loaded.generate(dl.tasks.load("maze", seed=3), seed=7, num_inference_steps=2)
    assert made["seed"] == 7 and made["num_inference_steps"] == 2 and made["score"]["solved"] == bare.score.solved
    assert made["folder"] == os.path.join("runs", "maze-3-seed-7")
    assert torch.equal(dl.load_run(made["run"]).latents, bare.latents)
    Image.new("RGB", (96, 96), "white").save("first.png")
    words = ["generate", "--prompt", "Go, <b>there</b>!", "--image", "first.png", "--num-inference-steps", 1, "--json"]
    made = json.loads(run(*words).stdout)
    assert made["folder"] == os.path.join("runs", "go-b-there-b-seed-0") and made["score"] is None


def test_a_generation_that_fails_leaves_no_folder(loaded, tmp_path) -> None:
    told = run("generate", "lab", "--task", "maze", "--height", 100, "--out", tmp_path / "g")
    assert told.exit_code == 1 and "use 112 x 96" in told.stderr and not (tmp_path / "g").exists()


def test_a_picture_that_is_needed_is_asked_for_before_the_model_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(inspect_commands, "load", None)
    told = run("generate", "lab", "--prompt", "no image", "--out", tmp_path / "g")
    assert told.exit_code == 1 and "give --image" in told.stderr and "image=" not in told.stderr
    assert not (tmp_path / "g").exists()


# -- reports


def test_report_of_what_generate_wrote_and_of_a_saved_run(loaded, tmp_path) -> None:
    run("generate", "lab", "--task", "choose", "--seed", 1, "--num-inference-steps", 2, "--out", tmp_path / "g")
    told = run("report", tmp_path / "g")
    assert told.exit_code == 0, told.output
    page = (tmp_path / "g" / "report.html").read_text(encoding="utf-8")
    assert told.stdout.strip() == str(tmp_path / "g" / "report.html")
    assert "Run of lab" in page and dl.tasks.load("choose", seed=1).prompt in page and loaded.fingerprint in page
    assert run("report", tmp_path / "g" / "run").exit_code == 0
    assert (tmp_path / "g" / "run.html").exists()  # a saved run's folder takes nothing beside the run
    dl.load_run(tmp_path / "g" / "run")


def test_report_never_replaces_that_of_another_command(tmp_path) -> None:
    (tmp_path / "effects.csv").write_text("step,layer,value\n0,0,1.0\n0,1,0.5\n")
    assert run("report", tmp_path).exit_code == 0
    told = run("report", tmp_path)
    assert told.exit_code == 1 and "--out" in told.stderr
    assert run("report", tmp_path, "--out", tmp_path / "again.html").exit_code == 0


def test_report_refuses_other_weights(loaded, tmp_path, monkeypatch) -> None:
    run("generate", "lab", "--task", "choose", "--num-inference-steps", 1, "--out", tmp_path)
    monkeypatch.setattr(type(loaded), "fingerprint", "0" * 16)
    told = run("report", tmp_path)
    assert told.exit_code == 1 and "--model" in told.stderr


# -- sweeps


def test_a_sweep_tells_its_cost_and_runs_nothing(loaded, tmp_path) -> None:
    words = ["sweep", "lab", "--task", "choose", "--n", "2", "--steps", "0,3-5", "--layers", "1,0-5", "--plan"]
    told = run(*words, "--out", tmp_path / "s")
    assert told.exit_code == 0, told.output
    assert "16 cells" in told.stdout and "block evaluations" in told.stdout
    cost = json.loads(run(*words, "--out", tmp_path / "s", "--json").stdout)
    assert cost["cells"] == 16 and cost["total"] == cost["blocks"] + cost["baselines"] and cost["seconds"] > 0
    assert not (tmp_path / "s").exists()


def test_a_stopped_sweep_says_how_to_go_on_and_does_and_writes_its_table(loaded, tmp_path, monkeypatch) -> None:
    seen: list[int] = []

    @contextmanager
    def impatient(what):
        def tell(done, total, now):
            seen.append(done)
            if done == 3:
                raise KeyboardInterrupt

        yield tell

    monkeypatch.setattr(map_and_sweep, "progress", impatient)
    words = [*SWEEP, "--out", tmp_path, "--no-report", "--json"]  # the report: tests/runner/test_sweep_report.py
    told = run(*words)
    assert told.exit_code == 130 and told.stdout == ""
    assert "stopped with 3 of 4 cells done" in told.stderr and f"kept in {tmp_path}: the same command" in told.stderr
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "items").glob("*.json")}
    seen.clear()
    monkeypatch.setattr(map_and_sweep, "progress", lambda what: nullcontext(lambda done, total, now: seen.append(done)))
    told = run(*words)
    assert json.loads(told.stdout) == {"effects": str(tmp_path / "effects.csv"), "rows": 2}
    assert seen[0] == 3 == len(kept) and {file: file.stat().st_mtime_ns for file in kept} == kept
    lines = (tmp_path / "effects.csv").read_text().splitlines()
    assert len(lines) == 3 and "null" in lines[0] and len(list((tmp_path / "items").glob("*.json"))) == 4


def test_a_stop_where_nothing_is_kept_says_so(loaded, tmp_path, monkeypatch) -> None:
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(loaded), "generate", stopped)
    told = run("generate", "lab", "--task", "maze", "--out", tmp_path / "g")
    assert told.exit_code == 130 and "nothing was kept" in told.stderr and not (tmp_path / "g").exists()
    monkeypatch.setattr("dit_lens.lab.training.recipe.main", stopped)
    told = CliRunner().invoke(app, ["lab", "train", "--out", str(tmp_path)])
    assert told.exit_code == 130 and "last checkpoint" in told.stderr


# -- probes


@pytest.fixture(scope="module")
def probed(lens, tmp_path_factory):
    """A grid of two steps and layers, by the command."""
    out = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "load", lambda *_: lens)
        told = run(*PROBE, "--out", out, "--json")
    assert told.exit_code == 0, told.output
    return out, json.loads(told.stdout)


def test_probe_scores_every_place_beside_its_controls(probed) -> None:
    out, said = probed
    lines = (out / "scores.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 and all(name in lines[0] for name in ("control", "input", "null", "p"))
    (best,) = said["best"]
    scores = [float(line.split(",")[lines[0].split(",").index("score")]) for line in lines[1:]]
    assert best["score"] == max(scores) and best["chance"] == 0.5 and best["n"] == 6 and 0 < best["p"] <= 1
    assert "Probes on lab" in (out / "report.html").read_text(encoding="utf-8")


def test_probe_of_one_place_takes_the_features_that_are_there(loaded, probed, monkeypatch) -> None:
    out, _ = probed
    monkeypatch.setattr(type(loaded), "generate", None)  # nothing may be generated again
    told = run(*PROBE, "--out", out, "--at", "layer=8 step=2 hook=resid_post")
    assert told.exit_code == 0, told.output
    kept = dl.load_probe(out / "wall-resid_post-step-2-layer-8-cond")
    assert str(kept.address) == "step=2 branch=cond layer=8 hook=resid_post"
    row = next(r for r in (out / "scores.csv").read_text().splitlines() if r.startswith("wall,resid_post,2,8"))
    assert kept.scores["ridge"] == pytest.approx(float(row.split(",")[4]))
    assert "dit_lens.load_probe(" in told.stdout


def test_probe_refuses_at_once(loaded, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(type(loaded), "generate", None)
    for words, told in (
        (["--label", "wal"], "choose from"),
        (["--label", "wall", "--n", "1", "--task", "maze"], "--folds"),
        (["--label", "wall", "--at", "layer=7"], "step=5 layer=7"),
        (["--label", "wall", "--at", "layer=12 step=1 hook=resid_post"], "0 to 11"),
        (["--label", "wall", "--hook", "resid_pots"], "unknown hook"),
    ):
        found = run("probe", "lab", *words, "--out", tmp_path / "p")
        assert found.exit_code == 1 and told in found.stderr, found.output
    assert not (tmp_path / "p").exists()


# -- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sweep", "lab", "--steps", "a-b", "--plan"], "8-19"),
        (["sweep", "lab", "--steps", "²", "--plan"], "8-19"),
        (["map", "lab", "--num-steps", "3"], "No such option"),
        (["generate", "lab", "--task", "maze", "--steps", "3"], "No such option"),
        (["sweep", "lab", "--n", "0", "--plan"], "at least one"),
        (["generate", "lab"], "--task"),
        (["generate", "lab", "--task", "maze", "--prompt", "both"], "one of the two"),
        (["generate", "lab", "--task", "maze", "--image", "nowhere.png"], "does not exist"),
        (["map", "lab", "--dtype", "int3"], "bfloat16"),
        (["probe", "lab"], "--label"),
        (["mpa"], "map"),
    ],
)
def test_wrong_usage_is_exit_code_2(words, told) -> None:
    found = run(*words)
    assert found.exit_code == 2 and told in found.stderr and found.stdout == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["map", "nowhere/at-all", "--out", "{out}/m"], "Give 'lab', a folder"),
        (["map", "lab", "--n", "1", "--out", "{out}/m"], "give n=2 or more"),
        (["map", "lab", "--out", "{out}/file"], "choose another --out"),
        (["generate", "lab", "--task", "chess", "--out", "{out}/m"], "maze"),
        (["generate", "lab", "--task", "maze", "--image", "{out}/file", "--out", "{out}/m"], "PNG or JPEG"),
        (["generate", "lab", "--task", "maze", "--device", "nowhere", "--out", "{out}/m"], "leave it out"),
        (["report", "{out}/nothing"], "is not a folder"),
        (["report", "{out}"], "no saved run and no table"),
        (["plan", "lab", "--preset", "papers"], "paper"),
        (["plan", "lab", "--guidance-scale", "nan"], "guidance_scale=nan: give a finite number"),
        (["plan", "lab", "--num-inference-steps", "1000000"], "knows 1000 noise levels"),
        (["sweep", "lab", "--n", "1", "--task", "choose", "--horizon", "²", "--plan"], "'local', 'final'"),
        (["generate", "lab", "--task", "maze", "--seed", str(10**23), "--out", "{out}/g"], "integers below 2**64"),
        (["plan", "lab", "--num-inference-steps", "0"], "at least one"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(words, told, tmp_path) -> None:
    (tmp_path / "file").write_text("no picture")
    found = run(*(word.format(out=tmp_path) for word in words))
    assert found.exit_code == 1, found.output
    assert told in found.stderr and found.stdout == "" and "Traceback" not in found.output
    assert not (tmp_path / "m").exists()  # and nothing is left behind


def test_the_program_ends_with_the_code_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # main() sets two of them for its process,
    monkeypatch.setattr("warnings.showwarning", None)  # and how warnings are shown
    monkeypatch.setattr(sys, "argv", ["dit-lens", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1 and "no saved run" in capsys.readouterr().err


def test_loading_is_quiet() -> None:
    done = command("plan", "lab", "--num-inference-steps", "2")
    assert done.returncode == 0
    assert done.stderr == ""


# -- progress


def test_progress_says_the_time_left(monkeypatch, capsys) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with common.progress("work") as tell:  # no terminal: lines
        for done in range(5):
            tell(done, 4, f"part {done}")
            now[0] += 10
    assert capsys.readouterr().err.splitlines() == [
        "work: 2 of 4, part 2, about 20 s left",
        "work: 4 of 4, part 4",
    ]  # not oftener than every 15 s


def test_a_caller_that_knows_the_time_left_is_believed() -> None:
    clock = common._Clock()
    assert clock.left(0, 4, "begun") == ("begun", "")
    assert clock.left(1, 4, "a cell; about 5 min left") == ("a cell", "about 5 min left")


def test_values_become_json(capsys) -> None:
    common.tell_json({"a": float("nan"), "b": torch.tensor(1.5), "c": (1, None), "d": lab.__name__, 5: True})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 1.5, "c": [1, None], "d": lab.__name__, "5": True}


def test_a_map_goes_on_in_its_folder(loaded, tmp_path, monkeypatch) -> None:
    @contextmanager
    def impatient(what):
        def tell(done, total, now):
            raise KeyboardInterrupt

        yield tell

    monkeypatch.setattr(map_and_sweep, "progress", impatient)
    words = ["map", "lab", "--task", "choose", "--num-inference-steps", 3, "--out", tmp_path, "--jobs", 1]
    told = run(*words)
    assert told.exit_code == 130 and "stopped with 0 of" in told.stderr
    assert f"kept in {tmp_path}: the same command" in told.stderr
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["parameters"]["sampling"] == {"num_inference_steps": 3}
    told = run(*words, "--seed", 1)
    assert told.exit_code == 1 and "seed: 0 -> 1" in told.stderr and "another folder" in told.stderr


@pytest.mark.slow  # minutes; a smaller one is in test_layer_map.py
def test_a_whole_map_is_the_same_whoever_shares_it(tmp_path, monkeypatch) -> None:
    """From the command to the files; one family, as small as a map can be."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        words = ("map", "lab", "--n", "2", "--task", "choose", "--num-inference-steps", "6", "--scenes", "8")
        done = command(*words, "--out", str(out), "--jobs", jobs)
        assert done.returncode == 0, done.stderr
        assert (out / "report.html").stat().st_size > 100_000
        assert str(out / "report.html") in done.stdout.replace("\n", "")
    tables = sorted(path.name for path in (tmp_path / "1").glob("*.csv"))
    assert len(tables) >= 4
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in tables)
