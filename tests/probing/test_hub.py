"""Probes to the hub and back, without a network: a hub in memory that holds each call to the real one's signature."""

from __future__ import annotations

import inspect
import os
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hostile import Does, dumped, shell
from huggingface_hub.errors import OfflineModeIsEnabled
from stored import fitted, forge, probe, rewrite

from dit_lens.errors import ProbeError
from dit_lens.probing.hub import pull_probe, push_probe
from dit_lens.probing.probe_manifest import FILES
from dit_lens.probing.safe_opening import load_probe

REAL = huggingface_hub.HfApi


class Hub:
    """Repositories as dictionaries; ``revisions`` keeps each commit."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, bytes]] = []
        self.downloaded: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.claims: dict[str, int | None] = {}

    def __call__(self, **settings: Any) -> Hub:
        inspect.signature(REAL).bind(**settings)
        return self

    def _called(self, name: str, *args: Any, **given: Any) -> None:
        inspect.signature(getattr(REAL, name)).bind(self, *args, **given)
        self.calls.append((name, given))

    def create_repo(self, repo_id: str, **given: Any) -> None:
        self._called("create_repo", repo_id, **given)
        self.repos.setdefault(repo_id, {".gitattributes": b""})

    def upload_folder(self, **given: Any) -> Any:
        self._called("upload_folder", **given)
        files, below = self.repos[given["repo_id"]], f"{given['path_in_repo']}/" if given["path_in_repo"] else ""
        for name in [n for n in files if n.startswith(below)]:
            if any(fnmatch(name.removeprefix(below), pattern) for pattern in given["delete_patterns"]):
                del files[name]
        for file in Path(given["folder_path"]).rglob("*"):
            name = str(file.relative_to(given["folder_path"]))
            if file.is_file() and any(fnmatch(name, pattern) for pattern in given["allow_patterns"]):
                files[below + name] = file.read_bytes()
        self.commits.append(dict(files))
        return SimpleNamespace(oid=str(len(self.commits) - 1))

    def model_info(self, repo_id: str, **given: Any) -> Any:
        self._called("model_info", repo_id, **given)
        commit = given["revision"] or str(len(self.commits) - 1)
        siblings = [
            SimpleNamespace(rfilename=name, size=self.claims.get(name, len(data)))
            for name, data in self.commits[int(commit)].items()
        ]
        return SimpleNamespace(sha=commit, siblings=siblings)

    def snapshot_download(self, repo_id: str, **given: Any) -> str:
        self._called("snapshot_download", repo_id, **given)
        for name, data in self.commits[int(given["revision"])].items():
            if any(fnmatch(name, pattern) for pattern in given["allow_patterns"]):
                self.downloaded.append(name)
                file = Path(given["local_dir"], name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        return str(given["local_dir"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    return hub


@pytest.mark.parametrize("name", ["", "walls", "maze/walls.v2", "probe", "repository/probe"])
def test_there_and_back(name: str, hub: Hub, tmp_path: Path) -> None:
    kept = probe(patterns=np.arange(18.0).reshape(3, 6))
    folder = kept.save(tmp_path / "p")
    assert push_probe(folder, "me/probes", name, private=True) == "0"
    below = f"{name}/" if name else ""
    assert set(hub.repos["me/probes"]) == {".gitattributes", *(below + file for file in FILES)}
    found = pull_probe("me/probes", name, folder=tmp_path / "kept")
    assert found.classes == kept.classes and found.scores == kept.scores
    assert np.array_equal(found.patterns, kept.patterns)
    assert found.about == {**kept.about, "hub": f"me/probes{'/' if name else ''}{name}@0"}
    assert {p.name: p.read_bytes() for p in (tmp_path / "kept").iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    given = dict(hub.calls)
    assert given["create_repo"] == {"repo_type": "model", "private": True, "exist_ok": True}
    assert given["upload_folder"]["commit_message"] == f"Probe {name or 'wall'}"


def test_only_the_files_of_the_probe_travel(hub: Hub, tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    (folder / "secret.txt").write_text("mine")
    (folder / "below").mkdir()
    (folder / "below" / "probe.pkl").write_text("mine")
    push_probe(folder, "me/probes", "a")
    assert not any("secret" in name or "below" in name for name in hub.repos["me/probes"])
    hub.commits[-1] |= {
        "a/model.bin": b"",
        "a/more/probe.pkl": b"",
        "probe.pkl": b"",
        "ab/probe.pkl": b"",
        "setup.py": b"",
    }
    pull_probe("me/probes", "a")
    assert sorted(hub.downloaded) == sorted(f"a/{name}" for name in FILES)


def test_a_commit_is_pulled_as_it_was(hub: Hub, tmp_path: Path) -> None:
    """An old card does not stay behind beside a new probe without one, and its own files stay as they were."""
    first = probe().save(tmp_path / "first")
    push_probe(first, "me/probes", "a")
    second = probe(fitted(seed=1), label="other").save(tmp_path / "second")
    (second / "README.md").unlink()
    push_probe(second, "me/probes", "a")
    assert "a/README.md" not in hub.repos["me/probes"]
    assert pull_probe("me/probes", "a").label == "other"
    assert pull_probe("me/probes", "a", revision="0").label == "wall"
    assert [given["revision"] for name, given in hub.calls if name == "snapshot_download"] == ["1", "0"]


def test_hostile_files_are_refused_on_both_ways(hub: Hub, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = forge(tmp_path / "p", dumped(Does(os.system, shell(mark))))
    with pytest.raises(ProbeError, match="is not the pickle"):
        push_probe(folder, "me/probes")
    assert hub.repos == {} and hub.calls == []
    push_probe(probe().save(tmp_path / "honest"), "me/probes")
    hub.commits[-1] |= {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ProbeError, match="is not the pickle"):
        pull_probe("me/probes", folder=tmp_path / "kept")
    assert not mark.exists() and not (tmp_path / "kept").exists()


def test_what_is_too_large_or_missing_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    push_probe(probe().save(tmp_path / "p"), "me/probes", "a")
    for name, claim in (
        ("a/probe.pkl", 10**10),
        ("a/probe.json", 2**21),
        ("a/README.md", 2**21),
        ("a/probe.safetensors", None),
    ):
        hub.claims = {name: claim}
        with pytest.raises(ProbeError, match=f"{name}.*was not downloaded; ask"):
            pull_probe("me/probes", "a")
    with pytest.raises(ProbeError, match=r"no probe 'b'.*missing.*give name="):
        pull_probe("me/probes", "b")
    assert hub.downloaded == []


def test_folders_and_names_are_checked_first(hub: Hub, tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    for name in ("../up", "/root", "a//b", "a/../b", "a*", "[a]", "a/", ".hidden", "a b", "?"):
        for call in (lambda n=name: push_probe(folder, "me/probes", n), lambda n=name: pull_probe("me/probes", n)):
            with pytest.raises(ProbeError, match="is not a folder in a repository: use letters"):
                call()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(ProbeError, match="choose another folder"):
        pull_probe("me/probes", folder=tmp_path / "notes")
    with pytest.raises(ProbeError, match=r"probe\.save"):
        push_probe(tmp_path / "nowhere", "me/probes")
    assert hub.calls == []


def test_a_hub_that_does_not_answer_says_what_to_check(tmp_path: Path) -> None:
    folder = probe().save(tmp_path / "p")
    for error in (OfflineModeIsEnabled("offline"), ValueError("bad id"), ConnectionError("no route"), KeyError("x")):

        class Silent:
            def __init__(self, raised: Exception = error, **settings: Any) -> None:
                raise raised

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(huggingface_hub, "HfApi", Silent)
            with pytest.raises(ProbeError, match=r"Check the connection, a token.*load_probe\(folder\)"):
                push_probe(folder, "me/probes")
            with pytest.raises(ProbeError, match=r"Check the connection, the name and revision"):
                pull_probe("me/probes")


def test_a_probe_that_was_pulled_can_be_saved_again(hub: Hub, tmp_path: Path) -> None:
    push_probe(probe().save(tmp_path / "p"), "me/probes")
    again = load_probe(pull_probe("me/probes").save(tmp_path / "again"))
    assert again.about["hub"] == "me/probes@0"
    rewrite(tmp_path / "again")
    assert load_probe(tmp_path / "again").about == again.about
