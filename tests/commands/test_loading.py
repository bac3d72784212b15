"""Systems and states by name: what is found, and what is said of everything else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder
from hbode.commands.loading import LoadError, load_state, load_system

FIELDS = """
import torch
from torch import nn
from hbode import FirstOrder

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
    def forward(self, t, h):
        return self.linear(h)

class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()

def field(t, h): return -h
def factory(): return Net()
def class_factory(): return Net
def broken(): raise OSError("no settings\\nhere")
system = FirstOrder(field)
net = Net()
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of fields, which is the current one."""
    (tmp_path / "some_fields.py").write_text(FIELDS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


def one_line(error: pytest.ExceptionInfo[LoadError]) -> str:
    return " ".join(str(error.value).split())


@pytest.mark.parametrize("name", ["field", "factory", "Net", "net"])
def test_a_bare_field_gets_the_system_that_is_asked_for(here: Path, name: str) -> None:
    kinds = {"node": FirstOrder, "sonode": SecondOrder, "hbnode": HeavyBall, "ghbnode": GeneralizedHeavyBall}
    for kind, system in kinds.items():
        assert type(load_system(f"some_fields.py:{name}", None, kind)) is system


def test_a_system_stays_as_it_is(here: Path) -> None:
    assert type(load_system("some_fields.py:system", None, "hbnode")) is FirstOrder


def test_a_module_is_found_in_the_current_folder(here: Path) -> None:
    (here / "a_package_here").mkdir()
    (here / "a_package_here" / "models.py").write_text(FIELDS, encoding="utf-8")
    found = load_system("a_package_here.models:net", None, "node")
    assert isinstance(found.f, nn.Module)


def test_a_file_finds_the_files_beside_it(here: Path) -> None:
    folder = here / "elsewhere"
    folder.mkdir()
    (folder / "its_neighbour.py").write_text("def slope(t, h): return -2 * h\n", encoding="utf-8")
    (folder / "uses_it.py").write_text("from its_neighbour import slope\n", encoding="utf-8")
    found = load_system("elsewhere/uses_it.py:slope", None, "node")
    assert float(found.f(torch.zeros(()), torch.ones(()))) == -2.0


@pytest.mark.parametrize(
    "target, message",
    [
        ("some_fields.py", "must be package.module:name, file.py:name or a file .pt2"),
        ("none.py:net", "there is no file none.py"),
        ("none.pt2", "there is no such file"),
        ("no_such_package:net", "no_such_package cannot be imported, ModuleNotFoundError"),
        ("some_fields.py:missing", "there is no missing in some_fields.py"),
        ("some_fields.py:net.missing", "there is no missing in some_fields.py"),
        ("some_fields.py:number", "must be a System or a field f(t, h), got int"),
        ("some_fields.py:Needs", "its class needs arguments"),
        ("some_fields.py:class_factory", "got the class Net"),
        ("some_fields.py:broken", "calling it raised OSError: no settings here"),
        ("fails.py:net", "fails.py cannot be imported, ZeroDivisionError: division by zero"),
        ("stops.py:net", "stops.py cannot be imported, SystemExit: 3"),
        ("text.pt2", "must be an exported program"),
        ("tensor.pt2", "cannot read it as an exported program"),
    ],
)
def test_a_target_that_is_none_is_refused(here: Path, target: str, message: str) -> None:
    (here / "fails.py").write_text("1 / 0\n", encoding="utf-8")
    (here / "stops.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    (here / "text.pt2").write_text("not a program", encoding="utf-8")
    torch.save(torch.zeros(2), here / "tensor.pt2")
    with pytest.raises(LoadError) as error:
        load_system(target, None, "hbnode")
    said = one_line(error)
    assert said.startswith(f"TARGET {target}: ") and message in said


def net(scale: float) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

    made = Net()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(scale)
    return made


def test_weights_of_torch_save_are_loaded(here: Path) -> None:
    torch.save(net(0.25).state_dict(), here / "w.pt")
    found = load_system("some_fields.py:Net", here / "w.pt", "hbnode")
    assert bool((found.get_parameter("f.linear.weight") == 0.25).all())


@pytest.mark.skipif(importlib.util.find_spec("safetensors") is None, reason="needs safetensors, which is optional")
def test_weights_of_safetensors_are_loaded(here: Path) -> None:
    save_file = importlib.import_module("safetensors.torch").save_file
    save_file(net(0.5).state_dict(), here / "w.safetensors")
    found = load_system("some_fields.py:Net", here / "w.safetensors", "hbnode")
    assert bool((found.get_parameter("f.linear.weight") == 0.5).all())


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('trapped', 'w').close()",))


@pytest.mark.parametrize(
    "target, weights, message",
    [
        ("net", "none.pt", "there is no such file"),
        ("net", "trap.pt", "got other objects, which are not unpickled"),
        ("net", "text.pt", "must be a state dict"),
        ("net", "text.safetensors", "safetensors"),
        ("net", "tensor.pt", "must be a state dict, from torch.save or safetensors, got Tensor"),
        ("net", "nested.pt", "misses linear.bias, linear.weight"),
        ("net", "nested.pt", "has state_dict, which the model has not"),
        ("net", "shape.pt", "has shape (2, 3) for linear.weight, which is (2, 2)"),
        ("field", "good.pt", "needs a TARGET that is a module, got function"),
    ],
)
def test_weights_that_do_not_fit_are_refused(here: Path, target: str, weights: str, message: str) -> None:
    good = net(1.0).state_dict()
    torch.save(good, here / "good.pt")
    torch.save(Trap(), here / "trap.pt")
    torch.save({"state_dict": good}, here / "nested.pt")
    torch.save({**good, "linear.weight": torch.zeros(2, 3)}, here / "shape.pt")
    torch.save(torch.zeros(2), here / "tensor.pt")
    for name in ("text.pt", "text.safetensors"):
        (here / name).write_text("words", encoding="utf-8")
    with pytest.raises(LoadError) as error:
        load_system(f"some_fields.py:{target}", Path(weights), "hbnode")
    said = one_line(error)
    assert said.startswith(f"--weights {weights}: ") and message in said
    assert not (here / "trapped").exists()


ROWS = torch.tensor([[1.0, 2.0], [3.0, 4.5]], dtype=torch.float64)


def test_states_are_read_from_every_kind_of_file(here: Path) -> None:
    np.save("s.npy", ROWS.numpy())
    torch.save(ROWS, "s.pt")
    Path("s.csv").write_text("1,2\n3,4.5\n", encoding="utf-8")
    Path("head.csv").write_text("x,y\n1,2\n3,4.5\n", encoding="utf-8")
    Path("s.txt").write_text("# x y\n1 2\n\n3 4.5\n", encoding="utf-8")
    for name in ("s.npy", "s.pt", "s.csv", "head.csv", "s.txt"):
        assert torch.equal(load_state(name, None), ROWS), name


def test_a_state_keeps_its_dtype_unless_another_is_asked_for(here: Path) -> None:
    np.save("single.npy", ROWS.float().numpy())
    np.save("whole.npy", np.array([1, 2]))
    assert load_state("single.npy", None).dtype == torch.float32
    assert load_state("whole.npy", None).dtype == torch.float64
    assert load_state("single.npy", torch.float64).dtype == torch.float64


def test_numbers_are_one_state_and_a_size_draws_the_same_numbers_again() -> None:
    assert torch.equal(load_state("-1,0.5", None), torch.tensor([-1.0, 0.5], dtype=torch.float64))
    drawn = load_state("5x2", None)
    assert drawn.shape == (5, 2) and torch.equal(drawn, load_state("5x2", None))
    assert not torch.equal(drawn, load_state("5x2", None, "--momentum", seed=1))


@pytest.mark.parametrize(
    "text, message",
    [
        ("none.npy", "there is no such file"),
        ("1,a", "must be numbers 1,0.5,…, a size 64x2, or a file .npy, .csv, .txt or .pt; got '1,a'"),
        ("2x-1", "got '2x-1'"),
        ("0x2", "must hold finite numbers, got none"),
        ("nan,1", "must hold finite numbers, got NaN or Inf"),
        ("empty.csv", "must hold finite numbers, got none"),
        ("ragged.csv", "rows of different length"),
        ("words.csv", "could not convert string to float: 'b'"),
        ("complex.npy", "must hold real numbers, got complex128"),
        ("bool.npy", "must hold real numbers, got bool"),
        ("objects.npy", "allow_pickle=False"),
        ("dict.pt", "a dict, not a tensor"),
        ("trap.pt", "must hold one tensor, got other objects, which are not unpickled"),
    ],
)
def test_a_state_that_is_none_is_refused(here: Path, text: str, message: str) -> None:
    for name, content in (("empty.csv", ""), ("ragged.csv", "1,2\n3\n"), ("words.csv", "1,2\n3,b\n")):
        Path(name).write_text(content, encoding="utf-8")
    np.save("complex.npy", np.ones(2, complex))
    np.save("bool.npy", np.ones(2, bool))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    torch.save({"h": ROWS}, "dict.pt")
    torch.save(Trap(), "trap.pt")
    with pytest.raises(LoadError) as error:
        load_state(text, None, "--momentum")
    said = one_line(error)
    assert said.startswith(f"--momentum {text}: ") and message in said
    assert not (here / "trapped").exists()


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.linear(h)) * torch.cos(t)


def test_an_exported_program_is_a_field(here: Path) -> None:
    model = Exported()
    h = torch.randn(3, 2, dtype=torch.float64)
    time = torch.tensor(0.5, dtype=torch.float64)
    program = torch.export.export(model, (time, h), dynamic_shapes=({}, {0: torch.export.Dim("batch")}))
    torch.export.save(program, "model.pt2")
    found = load_system("model.pt2", None, "node")
    more = torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(found.f(time, more), model(time, more))
