"""Probes on the Hugging Face hub: a folder for each, in a repository of any number of them.

    push_probe("probes/walls", "me/wan-probes", name="walls")
    probe = pull_probe("me/wan-probes", name="walls", revision="a1b2c3...")

Only a probe's own files are transferred, by exact name. Their sizes are checked before the download, at one commit, and
:func:`load_probe` opens them.

When not to use: to fetch a pickle without its folder; only folders written by ``probe.save`` are opened.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dit_lens.errors import ProbeError
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.probe_manifest import CARD, FILES, MANIFEST, MAX_BYTES, MAX_MANIFEST
from dit_lens.probing.safe_opening import load_probe
from dit_lens.probing.saving import refuse_other
from dit_lens.store.atomic import new_folder

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def push_probe(
    folder: str | Path, repo_id: str, name: str = "", *, revision: str | None = None, private: bool | None = None,
    token: str | None = None,
) -> str:  # fmt: skip
    """Upload a saved probe to a model repository. An earlier probe of that name is replaced; other files stay.

    Args:
        folder: A folder written by ``probe.save``.
        repo_id: The repository, created if it does not exist.
        name: The probe's folder in the repository; its root by default.
        revision: Branch to write to; the default branch by default.
        private: Whether a new repository is private.
        token: Access token; the stored login by default.

    Returns:
        The commit.

    Raises:
        ProbeError: A folder that :func:`load_probe` refuses, or a hub that cannot be reached.
    """
    from huggingface_hub import HfApi

    place = _place(name)
    probe = load_probe(folder)
    with _speaking_to(repo_id, "a token with write access (`hf auth login`)"):
        hub = HfApi(token=token)
        hub.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=str(folder),
            path_in_repo=place.removesuffix("/") or None,
            revision=revision,
            commit_message=f"Probe {name or probe.label}",
            allow_patterns=list(FILES),
            delete_patterns=list(FILES),  # what an earlier probe had and this one has not
        )
    return str(done.oid)


def pull_probe(
    repo_id: str, name: str = "", *, revision: str | None = None, folder: str | Path | None = None,
    token: str | None = None,
) -> Probe:  # fmt: skip
    """Download one probe and open it safely. Nothing is kept of a probe that is refused.

    Args:
        repo_id: The repository.
        name: The probe's folder in the repository; its root by default.
        revision: A commit, for the same probe every time; the newest by default.
        folder: Where to keep the files; they are not kept by default.
        token: Access token; the stored login by default.

    Returns:
        The probe; ``probe.about["hub"]`` names repository, folder and commit.

    Raises:
        ProbeError: There is no probe of that name, :func:`load_probe` refuses it, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    place = _place(name)
    if folder is not None:
        refuse_other(Path(folder))
    with tempfile.TemporaryDirectory(prefix="dit-lens-probe-") as temporary:
        downloaded, found = Path(temporary, "repository"), Path(temporary, "probe")
        with _speaking_to(repo_id, "the name and revision, and a token if it is private (`hf auth login`)"):
            hub = HfApi(token=token)
            info = hub.model_info(repo_id, revision=revision, files_metadata=True)
            sizes = {file.rfilename: file.size for file in info.siblings or [] if file.rfilename.startswith(place)}
            wanted = [place + file for file in FILES if place + file in sizes]
            _look(repo_id, place, {file: sizes[file] for file in wanted})
            # An exact name is a pattern of itself: _NAME lets no wildcard through. Real files, not links into a cache.
            hub.snapshot_download(repo_id, revision=info.sha, allow_patterns=wanted, local_dir=downloaded)
        found.mkdir()
        for file in wanted:
            here = downloaded / file
            if here.is_file() and not here.is_symlink():
                shutil.copyfile(here, found / here.name)
        probe = load_probe(found)
        if folder is not None:
            _keep(found, Path(folder))
    return replace(probe, about={**probe.about, "hub": f"{repo_id}{'/' if name else ''}{name}@{info.sha}"})


def _place(name: str) -> str:
    if name and not _NAME.fullmatch(name):
        raise ProbeError(f"the probe's name {name!r} is not a folder in a repository: use letters, digits, . _ - and /")
    return f"{name}/" if name else ""


def _look(repo_id: str, place: str, sizes: dict[str, int | None]) -> None:
    """Refuse files that are missing or too large before the download."""
    missing = [file for file in FILES if file != CARD and place + file not in sizes]
    if missing:
        raise ProbeError(
            f"{repo_id} holds no probe {place.removesuffix('/')!r} at this revision ({', '.join(missing)} missing): "
            f"see https://huggingface.co/{repo_id}/tree/main for the names there, and give name=..."
        )
    for file, size in sizes.items():
        limit = MAX_MANIFEST if file.removeprefix(place) in (MANIFEST, CARD) else MAX_BYTES
        if size is None or size > limit:
            raise ProbeError(
                f"{file} in {repo_id} takes {size} bytes, and a probe's at most {limit}: this is no probe of ours, and "
                "it was not downloaded; ask whoever published it"
            )


def _keep(found: Path, folder: Path) -> None:
    try:
        refuse_other(folder)
        with new_folder(folder) as scratch:
            for file in found.iterdir():
                shutil.copyfile(file, scratch / file.name)
    except OSError as error:
        raise ProbeError(f"cannot write a probe to {folder}: {error}; choose a folder that can be written") from error


@contextmanager
def _speaking_to(repo_id: str, check: str) -> Iterator[None]:
    """Turn any error of the hub, its HTTP library or the network into a ProbeError."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        raise ProbeError(
            f"the hub does not give or take {repo_id!r}: {error}. Check the connection, {check}; a probe on disk is "
            "opened by load_probe(folder)"
        ) from error
