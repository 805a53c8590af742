"""An identity holds what changes a number and nothing else, and is the same in every process."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from diffusers import UniPCMultistepScheduler as UniPC
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dit_lens as dl
from dit_lens.store.identity import checksum, describe, differences, source_identity, task_identity
from dit_lens.wan.call_plan import ExplicitGridEuler

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}


def saved(scheduler: Any, folder: Path, *lacking: str) -> Any:
    """A scheduler read from a file that lacks some keys, as files of older versions do."""
    scheduler.save_pretrained(folder)
    file = folder / "scheduler_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in said.items() if k not in lacking}))
    return type(scheduler).from_pretrained(folder)


# -- schedulers


def test_how_a_scheduler_came_to_be_changes_nothing(tmp_path: Path) -> None:
    made = UniPC(**FLOW)
    lacking = ("solver_order", "beta_start", "solver_type", "use_beta_sigmas", "_diffusers_version")
    read = saved(made, tmp_path, *lacking)
    spelled = UniPC(**{**FLOW, "solver_order": 2, "num_train_timesteps": 1000, "thresholding": False})
    foreign = UniPC.from_config({**made.config, "shift": 3.0, "_name_or_path": "somewhere", "unknown": 1})
    found = [describe(one) for one in (made, read, spelled, UniPC.from_config(made.config), foreign)]
    assert all(one == found[0] for one in found[1:])
    assert found[0]["_class_name"] == "UniPCMultistepScheduler" and found[0]["flow_shift"] == 5.0
    assert not [k for k in found[0] if k.startswith("_") and k != "_class_name"]
    euler = Euler(shift=3.0)
    assert describe(euler) == describe(saved(euler, tmp_path / "euler", "base_shift", "max_shift", "shift_terminal"))


@pytest.mark.parametrize("kind", [UniPC, Euler, ExplicitGridEuler])
def test_every_parameter_of_a_scheduler_counts(kind: Any) -> None:
    plain = describe(kind())
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    assert len(names) > 12
    for name in names:
        changed = kind()
        value = changed.config[name]
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, (int, float)) else f"{value}2"
        changed.register_to_config(**{name: other})
        assert differences(plain, describe(changed)) == [f"{name}: {value!r} -> {other!r}"]


def test_classes_of_schedulers_differ() -> None:
    found = [describe(one) for one in (UniPC(**FLOW), Euler(shift=5.0), ExplicitGridEuler(shift=5.0))]
    assert all(found[i] != found[j] for i in range(3) for j in range(i))


SCRIPT = """
import json, sys
from functools import partial
from pathlib import Path
import torch
from diffusers import FlowMatchEulerDiscreteScheduler as Euler, UniPCMultistepScheduler as UniPC
from dit_lens.store.identity import describe

def metric(run, kinds={"b", "a", "c"}, *, by={3, 1}):
    return 1 if run in {"left", "right", "up", "down"} else {k: 0 for k in kinds}

class Own:
    def __init__(self):
        self.names = {"one", "two", "three"}
        self.deep = {"x": frozenset({("a", 1), ("b", 2)})}

flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
out = {
    "python": UniPC(**flow), "default": UniPC(), "euler": Euler(shift=3.0), "file": UniPC.from_pretrained(sys.argv[1]),
    "function": metric, "lambda": lambda x: x in {"left", "right"}, "partial": partial(metric, kinds={"z", "y"}),
    "own": Own(), "sets": [{"a", "b", "c"}, {1, 2}, {("a", 1), ("b", 2), ("c", 3)}],
}
print(json.dumps(describe(out)))
"""


def test_hash_seeds_change_nothing(tmp_path: Path) -> None:
    """Python gives each process another order of sets, and diffusers dumps one into its configuration."""
    saved(UniPC(**FLOW), tmp_path, "solver_order", "beta_start", "solver_type")
    found, private = set(), set()
    for seed in range(5):
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT + "print(UniPC().config['_use_default_values'])", str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told, order = done.stdout.splitlines()[-2:]
        found.add(told)
        private.add(order)
    assert len(found) == 1
    assert len(private) > 1, "nothing was tested: the private list has one order now"


# -- values


@dataclass(frozen=True)
class Spec:
    layers: tuple[int, ...]
    picture: Any = field(default=None, compare=False)  # not compared because pictures have no plain ==


class Plain:
    def __init__(self, k: Any) -> None:
        self.k = k

    def __call__(self, run: Any) -> Any:
        return self.k


class Told:
    """Says what it depends on."""

    def __init__(self, k: int, cache: Any) -> None:
        self.k, self.cache = k, cache

    def identity(self) -> Any:
        return {"k": self.k}


def linear(bias: float) -> torch.nn.Linear:
    made = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(made.weight, 1.0)
    torch.nn.init.constant_(made.bias, bias)
    return made


def scaled(by: Any) -> Callable[..., Any]:
    return lambda run: by * 2


def picture(value: int) -> Any:
    return Image.new("RGB", (4, 4), (value, 0, 0))


TWINS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "number": (lambda: 1, lambda: 2),
    "number and text": (lambda: 1, lambda: "1"),
    "not a number": (lambda: float("nan"), lambda: float("inf")),
    "tensor": (lambda: torch.ones(3), lambda: torch.tensor([1.0, 1, 1 + 1e-7])),
    "tensor, double": (lambda: torch.ones(3).double(), lambda: torch.ones(3).double() + 1e-15),
    "tensor, shape": (lambda: torch.ones(2, 3), lambda: torch.ones(3, 2)),
    "tensor, dtype": (lambda: torch.zeros(4), lambda: torch.zeros(4, dtype=torch.bfloat16)),
    "tensor, strides": (lambda: torch.arange(6).reshape(2, 3).T, lambda: torch.arange(6).reshape(3, 2)),
    "array": (lambda: np.arange(3), lambda: np.arange(3) + 1),
    "array of objects": (lambda: np.array(["a", None], object), lambda: np.array(["a", "b"], object)),
    "set": (lambda: {1, 2}, lambda: {1, 3}),
    "order of a list": (lambda: [1, 2], lambda: [2, 1]),
    "mapping": (lambda: {"a": {"b": 1}}, lambda: {"a": {"b": 2}}),
    "dataclass": (lambda: Spec((1, 2)), lambda: Spec((1, 3))),
    "field that is not compared": (lambda: Spec((1,), picture(1)), lambda: Spec((1,), picture(2))),
    "object": (lambda: Plain(1), lambda: Plain(2)),
    "method": (lambda: Plain(1).__call__, lambda: Plain(2).__call__),
    "bound builtin": (lambda: [1].count, lambda: [2].count),
    "identity()": (lambda: Told(1, object()), lambda: Told(2, object())),
    "closure": (lambda: scaled(1.0), lambda: scaled(2.0)),
    "closure of an object": (lambda: scaled(Plain(1)), lambda: scaled(Plain(2))),
    "partial": (lambda: partial(scaled, by=1), lambda: partial(scaled, by=2)),
    "default": (lambda: lambda run, k=1: k, lambda: lambda run, k=2: k),
    "keyword default": (lambda: lambda run, *, k=1: k, lambda: lambda run, *, k=2: k),
    "constant": (lambda: lambda run: 1, lambda: lambda run: 2),
    "name of a method": (lambda: lambda run: run.left(), lambda: lambda run: run.right()),
    "inner function": (lambda: lambda run: [x + 1 for x in run], lambda: lambda run: [x + 2 for x in run]),
    "module's weights": (lambda: linear(0.0), lambda: linear(1.0)),
    "estimator": (lambda: Ridge(alpha=1.0), lambda: Ridge(alpha=2.0)),
    "inside a pipeline": (
        lambda: make_pipeline(StandardScaler(), Ridge(alpha=1.0)),
        lambda: make_pipeline(StandardScaler(), Ridge(alpha=2.0)),
    ),
    "picture": (lambda: picture(1), lambda: picture(2)),
    "class": (lambda: Plain, lambda: Told),
    "dtype": (lambda: torch.float16, lambda: torch.bfloat16),
    "path": (lambda: Path("a"), lambda: Path("b")),
    "bytes": (lambda: b"a", lambda: b"b"),
    "intervention": (lambda: dl.patch(step=1, layers=range(2)), lambda: dl.patch(step=1, layers=range(3))),
    "direction": (lambda: dl.steer(torch.ones(4), 1.0, step=1), lambda: dl.steer(torch.ones(4), 2.0, step=1)),
}  # fmt: skip


@pytest.mark.parametrize("what", TWINS)
def test_equal_content_is_equal_and_other_content_is_not(what: str) -> None:
    one, other = TWINS[what]
    found = describe(one())
    assert found == describe(one()) and checksum(found) == checksum(json.loads(json.dumps(found)))
    assert differences(found, describe(other())) and "0x" not in json.dumps(found)


def test_what_does_not_count_has_no_part() -> None:
    def metric(run: Any) -> int:
        return 1

    def commented(run: Any) -> int:
        """Says the same."""
        # and does it
        return 1

    names = [describe(f)["function"].split()[-1] for f in (metric, commented)]
    assert names[0] == names[1]
    assert describe(Told(1, "warm")) == describe(Told(1, "cold"))
    assert describe({1: "a"}) == describe({"1": "a"}) and describe((1, 2)) == describe([1, 2])


def test_names_of_its_module_count_with_a_function(tmp_path: Path) -> None:
    def imported(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "mine"}
        exec(compile(text, "mine.py", "exec"), space)
        return space["metric"]

    text = "LIMIT = 1\ndef inner(x): return x + {0}\ndef metric(run): return [inner(x) for x in run if x < LIMIT]\n"
    plain = describe(imported(text.format(0)))
    assert plain == describe(imported(text.format(0)))
    assert plain != describe(imported(text.format(1)))
    assert plain != describe(imported(text.format(0).replace("LIMIT = 1", "LIMIT = 2")))


def test_what_says_nothing_of_itself_is_refused() -> None:
    for one in (object(), iter([1]), SimpleNamespace(deep=object())):
        with pytest.raises(dl.StoreError, match=r"says nothing of its content.*identity\(\).*leave folder= out"):
            describe(one)


def test_things_that_hold_themselves_end() -> None:
    own = Plain(1)
    own.k = [own, {"x": own}]
    assert "itself" in json.dumps(describe(own))

    def fact(n: int) -> int:
        return 1 if n < 2 else n * fact(n - 1)

    json.dumps(describe([fact, lru_cache(fact)]))


def test_tasks_and_sources() -> None:
    one, other = (dl.tasks.load("maze", seed=i) for i in range(2))
    assert task_identity(one) == task_identity(dl.tasks.load("maze", seed=0)) != task_identity(other)
    assert source_identity(one) == task_identity(one) and source_identity([one, None]) == [task_identity(one), None]
    assert source_identity("other_answer") == "other_answer"
    assert "scaled" in source_identity(scaled)["function"]


def test_each_part_of_a_task_counts() -> None:
    mask = np.zeros((4, 4), bool)
    whole = {"prompt": "go", "image": np.zeros((2, 2, 3), np.uint8), "regions": {"a": mask}, "name": "own", "seed": 1}
    others = {"prompt": "stay", "image": np.ones((2, 2, 3), np.uint8), "regions": {"a": ~mask}, "name": "x", "seed": 2}
    plain = task_identity(SimpleNamespace(**whole))
    assert plain == task_identity(SimpleNamespace(**whole)) and json.loads(json.dumps(plain)) == plain
    for name, other in others.items():
        assert differences(plain, task_identity(SimpleNamespace(**{**whole, name: other}))), name
        assert differences(plain, task_identity(SimpleNamespace(**{**whole, name: None}))), name
    assert task_identity(SimpleNamespace(prompt="go"))["regions"] == {}
