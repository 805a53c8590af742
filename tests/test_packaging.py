"""What is shipped: wheel and sdist hold everything, there is one version, dependencies and extras are declared."""

import ast
import email.parser
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import dit_lens

HOUSE = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Distributions whose import has another name.
NAMES = {"scikit-learn": "sklearn", "pillow": "PIL"}
QUICK = """
import sys, dit_lens
page = dit_lens.figures.Report("A page").write("page.html")
heavy = [m for m in ("torch", "diffusers", "plotly", "sklearn", "typer") if m in sys.modules]
weights = dit_lens.lab.weights_path() / "transformer" / "diffusion_pytorch_model.safetensors"
print(dit_lens.__file__, dit_lens.__version__, heavy, page.stat().st_size > 10_000 and weights.is_file(), sep="|")
"""
WHOLE = """
import dit_lens
print(dit_lens.load("lab").generate(dit_lens.tasks.load("maze"), num_inference_steps=1).video.shape)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """An sdist, and the wheel that is built from that sdist, without a network."""
    missing = [name for name in ("build", "hatchling") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.fail(f"nothing can be built here without {missing}: install the extra `dev`", pytrace=False)
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(HOUSE)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_the_sdist_holds_what_a_wheel_is_built_from(built) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "constraints.txt"}
    assert wanted <= names and "tests/test_packaging.py" in names
    assert not any(name.startswith((".hypothesis", "map/", "runs/", "sweep/", "probe/")) for name in names)


def test_the_wheel_holds_weights_types_templates_and_the_licence(built) -> None:
    wheel = zipfile.ZipFile(built[1])
    names = set(wheel.namelist())
    data = {f for f in (HOUSE / "dit_lens").rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
    data = {f for f in data if "checkpoints" not in f.parts}  # in the repository alone
    assert len(data) > 10
    assert {f.relative_to(HOUSE).as_posix() for f in data} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names) and "dit_lens/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"dit_lens", f"dit_lens-{dit_lens.__version__}.dist-info"}
    weights = "dit_lens/lab/weights/lab/transformer/diffusion_pytorch_model.safetensors"
    assert wheel.read(weights) == (HOUSE / weights).read_bytes()


def test_the_metadata_says_version_licence_and_extras(built) -> None:
    wheel = zipfile.ZipFile(built[1])
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    about = email.parser.HeaderParser().parsestr(wheel.read(name).decode())
    assert about["Version"] == dit_lens.__version__ and about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra")) == {"dev", "docs", "notebooks", "ray"}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Callable[..., str]:
    """Run something where the wheel is installed alone, beside the dependencies of this environment; its output."""
    place = tmp_path_factory.mktemp("installed")
    there = place / "there"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(there), str(built[1])]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(there), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.there = there
    return run


def test_the_wheel_works_where_nothing_else_of_ours_is(installed) -> None:
    file, version, heavy, whole = installed(sys.executable, "-c", QUICK).strip().split("|")
    assert Path(file).is_relative_to(installed.there) and version == dit_lens.__version__
    assert heavy == "[]" and whole == "True"  # light, with its templates and weights
    assert "generate" in installed(str(installed.there / "bin" / "dit-lens"), "--help")


@pytest.mark.slow
def test_the_lab_model_of_the_wheel_generates(installed) -> None:
    assert "(13, 96, 96, 3)" in installed(sys.executable, "-c", WHOLE)


def test_there_is_one_version() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT  # hatch reads dit_lens/__init__.py
    cited = yaml.safe_load((HOUSE / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == dit_lens.__version__
    changes = (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, flags=re.M)[1] == dit_lens.__version__


def test_the_citation_has_what_its_format_asks_for() -> None:
    """Citation File Format 1.2.0: the keys it requires, and none that it does not know."""
    cited = yaml.safe_load((HOUSE / "CITATION.cff").read_text(encoding="utf-8"))
    known = """abstract authors cff-version commit contact date-released doi identifiers keywords license license-url
        message preferred-citation references repository repository-artifact repository-code title type url version"""
    assert {"authors", "cff-version", "message", "title"} <= set(cited) <= set(known.split())
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["license"] == PROJECT["license"]
    people = [*cited["authors"], *(a for r in cited["references"] for a in r["authors"])]
    assert all(set(one) <= {"name", "given-names", "family-names"} and one for one in people)
    assert all({"type", "title", "authors"} <= set(reference) for reference in cited["references"])


def declared() -> set[str]:
    """Names of everything that the package or one of its extras asks for."""
    extras = (one for group in PROJECT["optional-dependencies"].values() for one in group)
    names = {re.match(r"[\w.-]+", one)[0].lower() for one in (*PROJECT["dependencies"], *extras)}
    return names - {"dit-lens"}  # one extra may ask for another


def test_every_import_is_a_declared_dependency() -> None:
    known = {NAMES.get(name, name.replace("-", "_")) for name in declared()} | sys.stdlib_module_names | {"dit_lens"}
    missing = {}
    for file in (HOUSE / "dit_lens").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            missing |= {name: file.name for name in names if name.split(".")[0] not in known}
    assert missing == {}


def test_extras_that_messages_name_exist_and_are_pinned() -> None:
    files = [f for folder in ("dit_lens", "docs") for f in (HOUSE / folder).rglob("*") if f.suffix in (".py", ".md")]
    named = {m for f in (*files, HOUSE / "README.md") for m in re.findall(r"dit-lens\[(\w+)\]", f.read_text("utf-8"))}
    assert {"ray"} <= named <= set(PROJECT["optional-dependencies"])
    pins = {line.split("==")[0] for line in (HOUSE / "constraints.txt").read_text().splitlines() if "==" in line}
    assert declared() <= {pin.lower().replace("_", "-") for pin in pins}


def test_commit_hooks_are_of_this_environment() -> None:
    """None of them downloads anything, and each runs a tool of the extra `dev`."""
    hooks = yaml.safe_load((HOUSE / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    dev = {re.match(r"[\w.-]+", one)[0] for one in PROJECT["optional-dependencies"]["dev"]}
    for hook in (hook for repo in hooks["repos"] for hook in repo["hooks"]):
        assert hook["language"] == "system" and hook["entry"].split()[0] in dev
        importlib.metadata.version(hook["entry"].split()[0])
