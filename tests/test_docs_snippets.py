"""The samples of the documentation: every name and argument in them exists; and, slowly, every one of them runs.

Quick: each python block is parsed, its imports are made for real, and every call of something that is then known (a
function, a method of a lens or a run) is bound to its signature. Slow: all blocks of a page run in order, as written
but for the numbers in ``SHORTER``, which would take minutes.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import inspect
import linecache
import re
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

HOUSE = Path(__file__).resolve().parent.parent
DOCS = HOUSE / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: A block with one of these needs weights, files or machines that a test has not: it is checked and not run.
ELSEWHERE = re.compile(r"Wan-AI/|Video-Reason/|Ray\(|my_\w+")
#: Names that stand for the reader's own things, in blocks that are not run.
READERS = {"tasks", "others", "run", "my_mask", "my_score", "my_video_score"}
#: What variables hold that no annotation tells of.
HELD: dict[str, type] = {"lens": Lens, "fast": Lens, "run": Run, "base": Run, "blind": Run}
#: Page -> (what stands there, what is run instead): numbers of puzzles, where theirs take many minutes.
SHORTER: dict[str, list[tuple[str, str]]] = {
    "behaviours": [("range(30)", "range(6)")],
    "branching": [('several("maze", 20)', 'several("maze", 3)')],
    "chain-of-steps": [('batch("maze", 20)', 'batch("maze", 4)')],
    "ensembles": [("n=30, seed=0, repeats=3", "n=2, seed=0, repeats=1")],
    "layer-energy": [("dl.tasks.names(), 24", "dl.tasks.names(), 4"), ("n=24", "n=4")],
    "layer-lens": [("dl.tasks.names(), 16", "dl.tasks.names(), 4")],
    "layer-swapping": [("n=24", "n=2")],
    "map": [("n=4, seed=0", "n=2, seed=0")],
}


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line, code) of every python block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in found]


def elsewhere(code: str) -> bool:
    """Whether a block is not for running here: it names what is not at hand, or leaves arguments out (``...``)."""
    left_out = any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(ast.parse(code)))
    return left_out or bool(ELSEWHERE.search(code))


def commands(page: Path) -> list[tuple[int, str]]:
    """(line, code) of every ``python -c "..."``."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in re.finditer(r'python -c "(.*?)"', text, flags=re.S)]


def calls_in_prose(page: Path) -> list[tuple[int, str]]:
    """(line, code) of the calls between backticks."""
    text = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), page.read_text("utf-8"), flags=re.M | re.S)
    found = []
    for m in re.finditer(r"`([^`\n]+\([^`\n]*\))`", text):
        try:
            tree = ast.parse(m[1], mode="eval")
        except SyntaxError:
            continue  # a formula
        if isinstance(tree.body, ast.Call):
            found.append((text[: m.start()].count("\n") + 1, m[1]))
    return found


# -- what is there


class Reader(ast.NodeVisitor):
    """Follows a page's blocks without running them, and collects what does not exist."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}  # objects by name
        self.types: dict[str, type] = {}  # classes of variables
        self.names = set(dir(builtins))
        self.wrong: list[str] = []

    def read(self, code: str, line: int, free: set[str]) -> None:
        tree = ast.parse(code)
        self.line, self.free = line, free
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.names.add(node.id)
            elif isinstance(node, ast.arg):
                self.names.add(node.arg)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name:
                self.names.add(node.name)
        self.visit(tree)

    def say(self, node: ast.AST, what: str) -> None:
        self.wrong.append(f"line {self.line + getattr(node, 'lineno', 0)}: {what}")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            module = importlib.import_module(alias.name)
            name = alias.asname or alias.name.split(".")[0]
            self.known[name] = module if alias.asname else importlib.import_module(name)
            self.names.add(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = importlib.import_module(node.module or "")
        for alias in node.names:
            if not hasattr(module, alias.name) and hasattr(module, "__path__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(f"{node.module}.{alias.name}")  # a file of the package
            if not hasattr(module, alias.name):
                self.say(node, f"{node.module} has no {alias.name}")
                continue
            self.known[alias.asname or alias.name] = getattr(module, alias.name)
            self.names.add(alias.asname or alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            made = self.type_of(node.value)
            self.known.pop(name, None)
            self.types.pop(name, None)
            if made is not None:
                self.types[name] = made

    def visit_Name(self, node: ast.Name) -> None:
        if node.id not in self.names | self.free:
            self.say(node, f"{node.id} is not defined on this page")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self.object(node.value)
        if isinstance(owner, ModuleType) and not hasattr(owner, node.attr):
            self.say(node, f"{owner.__name__} has no {node.attr}")
        cls = self.type_of(node.value)
        if cls is not None and not has(cls, node.attr):
            self.say(node, f"{cls.__name__} has no {node.attr}")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = self.object(node.func)
        if called is None or not getattr(called, "__module__", "").startswith("dit_lens"):
            return
        if isinstance(called, type) and issubclass(called, BaseException):
            return  # takes what Exception takes
        bound = not isinstance(called, type) and isinstance(node.func, ast.Attribute) and self.type_of(node.func.value)
        spread = any(isinstance(a, ast.Starred) or (isinstance(a, ast.Constant) and a.value is ...) for a in node.args)
        places = [None] * (bool(bound) + (0 if spread else len(node.args)))
        try:
            spelled(called).bind_partial(*places, **{k.arg: None for k in node.keywords if k.arg})
        except TypeError as error:
            self.say(node, f"{ast.unparse(node.func)}: {error}")

    def object(self, node: ast.AST) -> Any:
        """The object that an expression names, or None."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.object(node.value)
            owner = self.type_of(node.value) if owner is None else owner
            found = None if owner is None else getattr(owner, node.attr, None)
            return found
        return None

    def type_of(self, node: ast.AST) -> type | None:
        """The class of what an expression gives, of ours, or None."""
        if isinstance(node, ast.Name):
            return self.types.get(node.id) or HELD.get(node.id)
        made = self.object(node.func) if isinstance(node, ast.Call) else None
        if not isinstance(made, type):
            made = returns(made) if inspect.isfunction(made) else None
        return made if isinstance(made, type) and made.__module__.startswith("dit_lens") else None


def returns(function: Any) -> Any:
    """What a function's annotation says it returns, or None where only a type checker could say (plotly's figures)."""
    try:
        return typing.get_type_hints(function).get("return")
    except NameError:
        return None


def has(cls: type, name: str) -> bool:
    """Whether objects of a class have an attribute: its own, a field, or one that its methods set on ``self``."""
    on_self = {f"self.{name} =", f"self.{name}:"}
    return hasattr(cls, name) or name in typing.get_type_hints(cls) or any(s in inspect.getsource(cls) for s in on_self)


def wrong(page: Path) -> list[str]:
    """What the samples of a page name that does not exist, and calls that its functions do not take."""
    reader = Reader()
    for line, code in blocks(page):
        reader.read(code, line, READERS if elsewhere(code) else set())
    for line, code in calls_in_prose(page):  # with the page's imports; what these do not tell is left alone
        reader.line = line - 1
        reader.free = reader.names | {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        reader.visit(ast.parse(code))
    for line, code in commands(page):
        alone = Reader()
        alone.read(code, line - 1, set())
        reader.wrong += alone.wrong
    return reader.wrong


def spelled(called: Any) -> inspect.Signature:
    """The signature, with the keywords of a typed dict (``**given: Unpack[SamplingArguments]``) one by one."""
    found = inspect.signature(called)
    *rest, last = found.parameters.values() or [None]
    annotation = str(getattr(last, "annotation", ""))
    if not annotation.startswith("Unpack["):
        return found
    made = inspect.unwrap(called)  # dl.sweep has the signature of the class Sweep
    made = inspect.unwrap(made.__init__) if isinstance(made, type) else made
    kinds = made.__globals__[annotation.removeprefix("Unpack[").removesuffix("]")]
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in kinds.__annotations__]
    return found.replace(parameters=[*rest, *keywords])


def dead_links(page: Path) -> list[str]:
    """Links to files that are not there."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_and_arguments_exist(page: Path) -> None:
    assert wrong(page) == []


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_mistakes_are_seen(tmp_path: Path) -> None:
    """A page in which each sentence is wrong, but for the first block's first lines."""
    page = tmp_path / "page.md"
    page.write_text(
        """# Wrong
```python
import dit_lens as dl
from dit_lens.measures.token_masks import region_mask, no_such_mask
lens = dl.load("lab")
lens.generate(dl.tasks.load("maze", seed=3), record=dl.record("resid_post"), sead=1)
dl.ablait(step=1)
run = lens.generate()
run.latents, run.latence
region_mask(run, ["agent"], [], 4)
found["x"]
```
Or `region_mask(run, name="agent")` and `unknown(1)`, as in [this](nowhere.md). `python -c "import dit_lens as dl
print(dl.experiments.nothing)"`
"""
    )
    said = "\n".join(wrong(page))
    for what in ("no_such_mask", "'sead'", "ablait", "latence", "too many", "found is not", "'name'", "has no nothing"):
        assert what in said, what
    assert len(wrong(page)) == 8
    assert dead_links(page) == ["nowhere.md"]


# -- it runs


def parameters(test: Any) -> list[tuple[Any, ...]]:
    """The arguments of each run of a test with at most one ``pytest.mark.parametrize`` of one name."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return [(value,) for value in marks[0].args[1]] if marks else [()]


@pytest.mark.slow  # some six minutes on one core
@pytest.mark.parametrize(
    "page", [p for p in PAGES if not all(elsewhere(c) for _, c in blocks(p))], ids=lambda p: p.stem
)
def test_samples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    short = dict.fromkeys(SHORTER.get(page.stem, ()), False)
    for line, code in blocks(page):
        if elsewhere(code):
            continue
        for old, new in short:
            short[old, new] |= old in code
            code = code.replace(old, new)
        try:
            where = f"<{page.name}, line {line}>"
            linecache.cache[where] = (len(code), None, code.splitlines(True), where)  # a trace reads its own source
            exec(compile(code, where, "exec"), names)
        except Exception as error:
            pytest.fail(f"{page.name}, block at line {line}: {type(error).__name__}: {error}")
    for name, test in [*names.items()]:  # a page that shows how to test something shows tests that pass
        for arguments in parameters(test) if name.startswith("test_") else ():
            test(*arguments)
    assert all(short.values()), f"SHORTER names what {page.name} no longer says: {short}"
    if "lens" in names:
        names["lens"].close()
