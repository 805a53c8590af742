"""The rules of the house that a machine can check (CONTRIBUTING.md says the others)."""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
PACKAGE = HOUSE / "dit_lens"
LINES = 500
TEXT = {".py", ".md", ".toml", ".txt", ".cff", ".yml", ".yaml", ".json", ".sh", ".html", ".css", ".js", ".j2", ".ipynb"}
NOT_OURS = {"build", "dist", "map", "runs", "sweep", "sweeps", "probe", "checkpoints", "__pycache__"}


def files() -> list[Path]:
    """What git tracks or would track; without git (an unpacked copy), everything but caches and outputs."""
    if (HOUSE / ".git").exists():
        args = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(args, cwd=HOUSE, capture_output=True, check=True).stdout.decode().split("\0")
        return sorted(HOUSE / name for name in set(names) if name and (HOUSE / name).is_file())
    found = []
    for folder, folders, names in os.walk(HOUSE):
        folders[:] = [f for f in folders if f not in NOT_OURS and (not f.startswith(".") or f == ".ci")]
        found += [Path(folder, name) for name in names]
    return sorted(found)


def text_files() -> list[Path]:
    return [f for f in files() if f.suffix in TEXT or f.parent.name == ".ci"]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def run(*args: str) -> None:
    """Run a tool of this environment over the house; its output is the failure."""
    done = subprocess.run([sys.executable, "-m", *args], cwd=HOUSE, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(args)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff() -> None:
    run("ruff", "check", ".")


def test_mypy() -> None:
    run("mypy")


def test_no_long_files() -> None:
    sources = [f for f in files() if f.suffix == ".py"]
    lengths = {str(f.relative_to(HOUSE)): len(f.read_text(encoding="utf-8").splitlines()) for f in sources}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > LINES} == {}


def test_no_machine_paths() -> None:
    machine = re.compile(r"(?<![\w.$}~/-])/(?:work|root|tmp|home)/")
    found = {}
    for file in text_files():
        lines = file.read_text(encoding="utf-8").splitlines()
        hits = [f"{i}: {line.strip()[:120]}" for i, line in enumerate(lines, 1) if machine.search(line)]
        if hits and file != Path(__file__):
            found[str(file.relative_to(HOUSE))] = hits
    assert found == {}


def test_machine_path_pattern_sees_what_it_should() -> None:
    source = inspect.getsource(test_no_machine_paths)
    machine = re.compile(re.search(r're\.compile\(r"(.+)"\)', source).group(1))
    assert all(machine.search(text) for text in ('"/root/x"', "cd /work/main", "(/tmp/a)", "=/home/me/"))
    assert not any(machine.search(text) for text in ("$dir/tmp/a", "docs/work/x", "https://a.org/root/"))


def test_readme_has_exactly_two_commands() -> None:
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    fences = re.findall(r"^```(\S*)\n(.*?)^```$", text, flags=re.M | re.S)
    assert {kind for kind, _ in fences} <= {"sh", "python"}
    commands = [body.strip() for kind, body in fences if kind == "sh"]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert commands[0].endswith("dit-lens map") and commands[1].endswith("pytest")


def test_import_is_light() -> None:
    heavy = ("torch", "diffusers", "transformers", "transformer_lens", "nnsight", "plotly", "sklearn", "pandas")
    code = f"import sys, dit_lens; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


#: Which rooms a room may use, besides itself. Rooms that are not listed may use everything.
BELOW = {
    "errors": set(),
    "progress": set(),
    "display": {"wan", "address", "errors"},
    "checks": {"errors"},
    "pictures": {"errors"},
    "address": {"checks", "errors"},
    "tasks": {"store", "address", "checks", "errors"},
    "stats": {"errors"},
    "store": {"checks", "pictures", "errors"},
    "wan": {"display", "store", "address", "checks", "pictures", "errors", "lab"},  # lab: where the shipped weights lie
    "saved_runs": {"store", "tasks", "wan", "errors"},
    "interventions": {"wan", "address", "checks", "errors"},
    "measures": {"interventions", "wan", "stats", "store", "address", "checks", "progress", "errors"},
    "runner": {
        "measures", "interventions", "display", "wan", "stats", "store", "address", "checks", "pictures", "progress",
        "errors",
    },
    "experiments": {
        "runner", "measures", "interventions", "wan", "tasks", "stats", "store", "address", "checks", "progress",
        "errors",
    },
    "layer_map": {  # figures: a map draws its own report
        "experiments", "probing", "runner", "measures", "interventions", "display", "figures", "wan", "tasks", "stats",
        "store", "saved_runs", "address", "checks", "progress", "errors",
    },
    "planted": {  # tasks: what a verdict is; lab: its codec
        "layer_map", "experiments", "probing", "runner", "measures", "interventions", "wan", "tasks", "lab", "stats",
        "store", "address", "progress", "errors",
    },
    "replication": {
        "layer_map", "experiments", "runner", "measures", "interventions", "wan", "tasks", "stats", "store", "address",
        "checks", "progress", "errors",
    },
    # tasks: what labels are
    "probing": {
        "runner", "measures", "interventions", "display", "wan", "tasks", "stats", "store", "saved_runs", "address",
        "checks",
        "progress", "errors",
    },
}


def test_arrows_point_down() -> None:
    strays = []
    for file in modules():
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "dit_lens":
                names = [f"dit_lens.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            used = {name.split(".")[1] for name in names if name.startswith("dit_lens.")}
            up = used - {room} - BELOW.get(room, used)
            strays += [f"{file.relative_to(HOUSE)}:{node.lineno}: {room} uses {name}" for name in sorted(up)]
    assert strays == []


def loops_that_generate(source: str) -> list[int]:
    """Lines of loops over tasks whose body samples videos."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.For):
            over, body = ast.unparse(node.iter), node.body
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            over, body = " ".join(ast.unparse(one.iter) for one in node.generators), [node]
        else:
            continue
        called = [n.func.attr for part in body for n in ast.walk(part)
                  if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]  # fmt: skip
        if re.search(r"\b(tasks|puzzles)\b", over) and {"generate", "fork"} & set(called):
            found.append(node.lineno)
    return found


def test_only_the_runner_loops_over_tasks() -> None:
    """Long work is kept, resumed, shared and told in one place; so what samples task after task belongs there."""
    # The lab trains, and a planted network answers in milliseconds: neither is long work.
    outside = [f for f in modules() if f.relative_to(PACKAGE).parts[0] not in ("runner", "lab", "planted")]
    found = {str(f.relative_to(HOUSE)): lines for f in outside if (lines := loops_that_generate(f.read_text("utf-8")))}
    assert found == {}
    assert loops_that_generate("for i, task in enumerate(tasks):\n    lens.generate(task)") == [1]
    assert loops_that_generate("[lens.generate(t) for t in tasks]") == [1]
    assert loops_that_generate("for task in tasks:\n    check(task)") == []


def test_only_the_runner_and_the_store_hand_out_work() -> None:
    strays = [
        f"{f.relative_to(HOUSE)}:{n.lineno}"
        for f in modules() if f.relative_to(PACKAGE).parts[0] not in ("runner", "store")
        for n in ast.walk(ast.parse(f.read_text("utf-8")))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "todo"
    ]  # fmt: skip
    assert strays == []


def test_public_names_are_few() -> None:
    import dit_lens

    assert len(dit_lens.__all__) <= 40


def test_ci_script_is_sound() -> None:
    script = HOUSE / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_errors_have_one_root() -> None:
    import dit_lens.errors as errors

    raised = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, BaseException)]
    assert errors.DitLensError in raised
    assert [e.__name__ for e in raised if not issubclass(e, errors.DitLensError)] == []


def test_errors_are_defined_in_one_place() -> None:
    """Exception classes outside errors.py must build on a child of the root, not on a builtin."""
    import dit_lens.errors as errors

    ours = {name for name, e in vars(errors).items() if inspect.isclass(e)}
    strays = {}
    for file in modules():
        if file.name == "errors.py" and file.parent == PACKAGE:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rsplit(".", 1)[-1] for base in node.bases}
                if any(b.endswith(("Error", "Exception")) for b in bases) and not bases & ours:
                    strays[node.name] = f"{file.relative_to(HOUSE)}:{node.lineno}"
    assert strays == {}


def test_users_mistakes_raise_our_errors() -> None:
    vague = {"Exception", "RuntimeError", "ValueError"}
    found = []
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if ast.unparse(what) in vague:
                    found.append(f"{file.relative_to(HOUSE)}:{node.lineno}: raise {ast.unparse(what)}")
    assert found == []


def test_wheel_ships_types_and_weights(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("build") is None:
        pytest.fail("the wheel cannot be built here: install the extra `dev`", pytrace=False)
    run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = [PACKAGE / "py.typed", *(f for f in (PACKAGE / "lab" / "weights").rglob("*") if f.is_file())]
    apart = PACKAGE / "lab" / "checkpoints"  # of the repository alone
    shipped += [f for f in files() if f.is_relative_to(PACKAGE) and not f.is_relative_to(apart)]
    missing = {f.relative_to(HOUSE).as_posix() for f in shipped} - inside
    assert missing == set()
    assert not any(name.startswith("dit_lens/lab/checkpoints") for name in inside)
