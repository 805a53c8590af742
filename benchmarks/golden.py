"""Golden numbers: what the public calls give on the lab model at fixed seeds, kept to compare bit for bit.

    python benchmarks/golden.py write benchmarks/golden.npz     # compute and store
    python benchmarks/golden.py check benchmarks/golden.npz     # compute and compare; exit status 1 on any difference
    python benchmarks/golden.py check benchmarks/golden.npz --only map sweep_local
    python benchmarks/golden.py check benchmarks/golden.npz --atol 1e-3     # another processor

Bits are expected to be equal on an x86-64 processor with AVX2, with the same versions of torch, numpy, scipy and
scikit-learn; ``check`` prints what differs. OpenBLAS, which numpy and scipy multiply with, would choose its kernels by
the processor, and they differ in the last bits: the script asks for those of Haswell. Elsewhere give ``--atol``.

What is computed is in ``golden_items``: one function a topic, from a lens to named arrays. Labels, coordinates and
texts are not kept, since names may change. Small arrays are kept whole; of large ones a sample and the SHA-256 of all
bytes. With ``--atol`` only the sample of those is compared. All NaN count as the same NaN.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")  # read when numpy is imported

import numpy as np
import torch
from golden_items import ITEMS, Numbers, open_lens
from threadpoolctl import threadpool_limits

WHOLE, SAMPLE = 512, 128  # values: arrays up to the first are kept whole; of larger ones at most the second
VERSIONS = ("torch", "diffusers", "transformers", "numpy", "scipy", "scikit-learn", "xarray", "einops")


def kept(array: np.ndarray) -> tuple[np.ndarray, bytes]:
    """What is stored of an array: values (n,) of its dtype, and a SHA-256 of all its bytes (empty: all are stored)."""
    values = np.array(array).reshape(-1)  # a copy in C order
    if values.dtype.kind == "f":
        values[np.isnan(values)] = np.nan
    if values.size <= WHOLE:
        return values, b""
    return values[:: stride(values.size)], hashlib.sha256(values.tobytes()).digest()


def stride(size: int) -> int:
    """Odd, so that a sample meets every place of an even last axis."""
    return 1 if size <= WHOLE else -(-size // SAMPLE) | 1


def pack(numbers: Numbers) -> tuple[list[Any], np.ndarray]:
    """Rows [name, dtype, shape] and the bytes that belong to them, (n,) uint8."""
    rows, parts = [], []
    for name in sorted(numbers):
        values, digest = kept(numbers[name])
        rows.append([name, values.dtype.str, list(numbers[name].shape)])
        parts.append(values.tobytes() + digest)
    return rows, np.frombuffer(b"".join(parts), np.uint8)


def unpack(rows: list[Any], packed: np.ndarray) -> dict[str, tuple[tuple[int, ...], np.ndarray, bytes]]:
    """name -> shape, stored values, digest."""
    found, data, at = {}, packed.tobytes(), 0
    for name, dtype, shape in rows:
        size = int(np.prod(shape, dtype=int))
        n = -(-size // stride(size))
        values = np.frombuffer(data, np.dtype(dtype), n, at)
        at += values.nbytes
        digest = b"" if size <= WHOLE else data[at : at + 32]
        at += len(digest)
        found[name] = tuple(shape), values, digest
    return found


def difference(shape: tuple[int, ...], old: np.ndarray, digest: bytes, new: np.ndarray, atol: float) -> str | None:
    """None where an array is as it was, else what differs."""
    if new.shape != shape or new.dtype != old.dtype:
        return f"was {old.dtype} {shape}, is {new.dtype} {new.shape}"
    values, now = kept(new)
    same = values.tobytes() == old.tobytes()
    if same and (now == digest or atol):
        return None
    if same:
        return "outside of the sample"
    a, b = old.astype(np.float64), values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    if atol and apart.max() <= atol:
        return None
    worst = int(apart.argmax())
    place = tuple(map(int, np.unravel_index(worst * stride(new.size), shape))) if shape else ()
    where = f" at {place}" if place else ""
    return f"max |difference| {apart[worst]:.3g}{where}: was {old[worst]!r}, is {values[worst]!r}"


def compare(rows: list[Any], packed: np.ndarray, numbers: Numbers, atol: float) -> list[str]:
    """What differs, one text an array."""
    old = unpack(rows, packed)
    said = [f"{name} is missing" for name in old if name not in numbers]
    said += [f"{name} is new" for name in numbers if name not in old]
    for name in sorted(old.keys() & numbers.keys()):
        shape, values, digest = old[name]
        found = difference(shape, values, digest, numbers[name], atol)
        if found is not None:
            said.append(f"{name} {found}")
    return said


def machine() -> dict[str, str]:
    """Processor and versions that the last bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"processor": model, "instructions": torch.backends.cpu.get_cpu_capability(), **versions}


def computed(name: str, lens: Any) -> tuple[Numbers, float]:
    """The numbers of an item, and the processor time that they took."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = ITEMS[name](lens)
    return numbers, time.process_time() - began


def write(file: Path, names: list[str]) -> None:
    """Store these items; others that the file holds stay as they are."""
    index: dict[str, Any] = {"items": {}}
    data: dict[str, np.ndarray] = {}
    if file.exists() and set(names) != set(ITEMS):
        with np.load(file) as stored:
            index = json.loads(stored["index"].tobytes())
            data = {name: stored[name] for name in index["items"]}
    with open_lens() as lens:
        for name in names:
            numbers, seconds = computed(name, lens)
            index["items"][name], data[name] = pack(numbers)
            print(f"stored   {name}: {len(numbers)} arrays, {seconds:.1f} s", flush=True)
    index["made"] = machine()
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    with file.open("wb") as out:
        np.savez_compressed(out, index=text, **data)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def check(file: Path, names: list[str], atol: float) -> bool:
    """Compute and compare, one line an item; whether all are equal."""
    with np.load(file) as stored:
        index = json.loads(stored["index"].tobytes())
        data = {name: stored[name] for name in index["items"]}
    here = machine()
    for key, value in index["made"].items():
        if here.get(key) != value:
            print(f"note     {key}: the file was made with {value}, here is {here.get(key)}")
    good, total = True, 0.0
    for name in sorted(data.keys() - ITEMS.keys()):
        good = False
        print(f"missing  {name}: the file holds it and golden_items does not compute it")
    with open_lens() as lens:
        for name in names:
            if name not in data:
                good = False
                print(f"missing  {name}: the file does not hold it; store it with write --only {name}", flush=True)
                continue
            try:
                numbers, seconds = computed(name, lens)
            except Exception as error:
                good = False
                print(f"fails    {name}: {type(error).__name__}: {error}", flush=True)
                continue
            total += seconds
            said = compare(index["items"][name], data[name], numbers, atol)
            good = good and not said
            text = f"{len(said)} of {len(numbers)} arrays; {'; '.join(said[:4])}" if said else f"{len(numbers)} arrays"
            print(f"{'differs ' if said else 'ok      '} {name}: {text}, {seconds:.1f} s", flush=True)
    print(f"{'equal' if good else 'not equal'}, {total:.0f} s of processor time")
    return good


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(ITEMS), metavar="NAME", help=", ".join(ITEMS))
    parser.add_argument("--atol", type=float, default=0.0, help="allowed absolute difference; 0: every bit")
    asked = parser.parse_args()
    names = asked.only or list(ITEMS)
    with threadpool_limits(1):  # numpy's and scipy's threads; sums in another order have other last bits
        if asked.what == "write":
            write(asked.file, names)
        elif not check(asked.file, names, asked.atol):
            sys.exit(1)


if __name__ == "__main__":
    main()
