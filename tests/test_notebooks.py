"""The notebooks: clean files whose names and arguments exist, and all but the one for a GPU run from start to end.

Each is executed in an empty folder by a kernel of this interpreter, without a network. Their times are in
notebooks/README.md; together they take some minutes, and they are the longest of what is not marked slow, because a
notebook that fails is the first thing a reader meets.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from test_docs_snippets import dead_links, wrong

import dit_lens as dl
from dit_lens.tasks.clips import write_clip

HOUSE = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((HOUSE / "notebooks").glob("*.ipynb"))
#: Needs 14 billion parameters and a GPU: its cells are only checked against the API.
NOT_RUN = {"09-vbvr-wan22"}
#: What stands there -> what stands in for it when its cells are tried on the lab model.
ON_LAB = {
    '"Video-Reason/VBVR-Wan2.2", dtype="bfloat16", offload="model"': '"lab"',
    "size=(384, 384), num_frames=33": "size=(96, 96), num_frames=13",
    "frames=[0, 8, 16, 24, 32]": "frames=[0, 4, 8, 12]",
    # lab's own sampler: its videos stay readable
    '"preset": "paper"': '"num_inference_steps": 50, "guidance_scale": 1.5',
    'preset="paper"': "num_inference_steps=50, guidance_scale=1.5",
    "range(20, 30)": "range(6, 9)",
    "range(0, 10), range(10, 20), range(6, 9), range(30, 40)": "range(0, 6), range(6, 12)",
    "steps=[0, 5, 10, 20, 40]": "steps=[0, 20]",
    "folders[:4]": "folders[:2]",
    "    print(run.score, run.score.gain)": "",  # VBVR-EvalKit is not a dependency
}
SECONDS = 600  # for one cell, on a machine that has other things to do
TIME = re.compile(r"\*Running time\*:[^.\n]*? (\d+) (s|seconds|min|minutes?)\b")
MACHINE = re.compile(r"(?<![\w.$}~/-])/(?:work|root|tmp|home|Users|mnt|var)/|[A-Z]:\\\\")


def as_page(notebook: nbformat.NotebookNode, page: Path) -> Path:
    """A notebook as a page of the documentation, so that the checks of its samples serve here as well.

    Code first: what the text shows ("change this line to ...") may use names that a later cell defines.
    """
    code = [f"```python\n{cell.source}\n```" for cell in notebook.cells if cell.cell_type == "code"]
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    page.write_text("\n\n".join([*code, *text]) + "\n", encoding="utf-8")
    return page


def execute(notebook: nbformat.NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all cells in ``folder``; the first that fails raises."""
    paths = [str(HOUSE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # this package, also where it is not installed
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the other tests; threads that wait for a busy core cost much
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # whatever asks for the network fails at once
    for place in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(place, str(folder / ".jupyter"))
    # No folders to look in: then "python3" is this interpreter, and not a kernel that somebody installed by that name.
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    about = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, km=kernel, timeout=SECONDS, allow_errors=False, resources=about).execute()


def running_time(text: str) -> str:
    found = TIME.search(" ".join(text.split()))
    return "" if found is None else f"{found[1]} {found[2]}"


def open_notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_a_clean_file(path: Path) -> None:
    notebook = open_notebook(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.get("language_info", {}).keys() <= {"name"}, "a version would change with every machine"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "strip the outputs"
    assert [cell.source[:60] for cell in notebook.cells if MACHINE.search(cell.source)] == []
    assert dead_links(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_begins_with_time_and_what_to_change(path: Path) -> None:
    first = open_notebook(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[:2]} ")
    assert running_time(first.source), "say: *Running time*: about 40 s on two cores."
    assert "What to change for a 14B model" in first.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_and_arguments_exist(path: Path, tmp_path: Path) -> None:
    assert wrong(as_page(open_notebook(path), tmp_path / "page.md")) == []


def test_the_index_names_every_notebook_and_its_time() -> None:
    index = (HOUSE / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = {m[1]: m[0] for m in re.finditer(r"^\| \[.*?\]\((\S+?)\.ipynb\).*$", index, flags=re.M)}
    assert list(rows) == [path.stem for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        assert running_time(open_notebook(path).cells[0].source) in rows[path.stem], path.stem
    assert dead_links(HOUSE / "notebooks" / "README.md") == []


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem not in NOT_RUN], ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = open_notebook(path)
    execute(notebook, tmp_path, monkeypatch)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    shown = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    assert "application/vnd.plotly.v1+json" in shown or "text/html" in shown, "a notebook shows something"


@pytest.mark.slow  # about a minute
def test_the_one_that_is_not_run_runs_on_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebook 09 with the lab model and two of its puzzles as samples in VBVR-Bench's layout."""
    for i in range(2):
        task = dl.tasks.load("choose", seed=i)
        sample = tmp_path / f"VBVR-Bench/In-Domain_50/O-47_sliding_puzzle_data-generator/{i:05d}"
        sample.mkdir(parents=True)
        (sample / "prompt.txt").write_text(task.prompt)
        task.image.save(sample / "first_frame.png")
        Image.fromarray(task.frames[-1]).save(sample / "final_frame.png")
        write_clip(sample / "ground_truth.mp4", task.frames, task.fps)
    notebook = open_notebook(HOUSE / "notebooks" / "09-vbvr-wan22.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in ON_LAB.items():
        assert any(old in cell.source for cell in code), f"the notebook no longer says {old}"
        for cell in code:
            cell.source = cell.source.replace(old, new)
    execute(notebook, tmp_path, monkeypatch)
    assert (tmp_path / "out/In-Domain_50/O-47_sliding_puzzle_data-generator/00000.mp4").is_file()


def test_mistakes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong argument is found without running, and a failing cell fails; the kernel is this interpreter."""
    cells = [
        new_markdown_cell("# 00 Wrong"),
        new_code_cell("import dit_lens as dl\nlens = dl.load('lab', devise='cpu')\ndl.patsch(step=5)"),
    ]
    assert "patsch" in "".join(wrong(as_page(new_notebook(cells=cells), tmp_path / "page.md")))
    where = new_notebook(cells=[new_code_cell("import sys, os\nprint(sys.executable, os.getcwd())\n1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(where, tmp_path, monkeypatch)
    said = where.cells[0].outputs[0].text.split()
    assert [Path(place).resolve() for place in said] == [Path(sys.executable).resolve(), tmp_path.resolve()]
    assert running_time("*Running time*: about\n40 s on two cores.") == "40 s"
    assert not running_time("*Running time*: short.")
