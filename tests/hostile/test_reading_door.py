"""The reading door: what our own files may hold, one damage at a time, and what is said of it."""

import io
import json
import os
import resource
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from phaseloom.data.formats.arrays import load_npy, load_npz
from phaseloom.data.own_files.members import Member, read_group, read_member, read_members
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.result import Result


@pytest.fixture
def result(finished: Any, tmp_path: Path) -> Path:
    path = tmp_path / "result.h5"
    path.write_bytes((finished.directory / "result.h5").read_bytes())
    return path


def set_json(name: str, change: Any):
    def damage(file: h5py.File) -> None:
        tree = json.loads(file[name].asstr()[()])  # pyright: ignore
        made = change(tree)
        del file[name]
        file[name] = made if isinstance(made, str) else json.dumps(made)

    return damage


def replace(name: str, value: Any):
    def damage(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return damage


def set_attribute(name: str, value: Any):
    return lambda file: file.attrs.__setitem__(name, value)


def spoil(name: str):
    def damage(file: h5py.File) -> None:
        values = file[name][()]
        values.reshape(-1)[0] = np.nan
        file[name][()] = values

    return damage


def declare(name: str, shape: tuple[int, ...]):
    def damage(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, "f4", chunks=tuple(min(64, one) for one in shape))

    return damage


DAMAGES = {
    "no object": (replace("object", None), "/object: is missing"),
    "object is text": (replace("object", "x"), "/object: values of object must be numbers"),
    "object is a link": (replace("object", h5py.SoftLink("/no")), ": object: is a link to /no"),
    "object of four axes": (
        replace("object", np.ones((1, 1, 3, 3)) + 0j),
        "must have the axes (slice, y, x)",
    ),
    "coverage of another shape": (replace("coverage", np.ones((3, 3))), "axis y must have the length"),
    "positions NaN": (spoil("positions_start"), "/positions_start: holds values that are not finite"),
    "object NaN": (spoil("object"), "/object: holds values that are not finite"),
    "object declares terabytes": (declare("object", (1, 10**6, 10**6)), "at most 64 MB are plausible"),
    "coverage declares terabytes": (declare("coverage", (10**6, 10**6)), "at most 64 MB are plausible"),
    "weights of other patterns": (replace("weights", np.ones(3)), "axis pattern must have the length 25"),
    "pixel": (set_attribute("pixel", [1.0, -1.0]), "@pixel: must be above zero"),
    "origin": (set_attribute("origin", "x"), "@origin: values of object must be real numbers"),
    "deep JSON": (set_json("metrics", lambda _: "[" * 3000 + "]" * 3000), "lists in lists"),
    "history of numbers": (set_json("history", lambda _: [1, 2]), "/history: 0: 1 must hold"),
    "history without loss": (set_json("history", lambda _: [{}]), "/history: 0.loss: is missing"),
    "advice": (set_json("advice", lambda _: 3), "/advice: 3 must be a list"),
    "grid": (set_json("grid", lambda _: [7, 7]), "/grid: (7, 7) does not fit: there are 25 positions"),
    "geometry": (set_json("geometry", lambda tree: tree | {"wavelength": -1}), "geometry.wavelength: -1"),
    "two names": (set_json("metrics", lambda _: '{"a": 1, "a": 2}'), "a stands twice"),
    "metadata": (set_json("metadata", lambda _: {"a": 1}), "/metadata: a: 1 must be text"),
    "uncertainty": (set_json("uncertainty", lambda _: {"pixel": "x"}), "pixel: x must be a number"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_result_is_a_sentence(name: str, result: Path) -> None:
    change, said = DAMAGES[name]
    with h5py.File(result, "a") as file:
        change(file)
    with pytest.raises(BadInput) as problem:
        Result.load(result)
    assert said in str(problem.value)


def test_a_whole_result_is_read(result: Path) -> None:
    assert np.isfinite(Result.load(result).object).all()


def test_a_damaged_chunk_is_told_from_one_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", data=np.random.default_rng(0).random((64, 64)), compression="gzip")
        place = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with h5py.File(path) as file, pytest.raises(BadInput, match=r"a\.h5: /a: is damaged"):
        read_member(file, Member("a", axes="y x"), "a.h5")


def test_members_of_a_group_have_one_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/a"], file["g/b"] = np.ones((2, 3)), np.ones((4, 3))
        with pytest.raises(BadInput, match="axis y must have the length 2 as a has"):
            read_group(file, "g", Member("", axes="y x"), "a.h5")


def test_arrays_of_an_archive_are_held_against_the_same_table() -> None:
    table = [Member("a", axes="n"), Member("b", axes="n 2", optional=True)]
    assert read_members({"a": np.ones(3)}, table, "a.npz")["b"] is None
    with pytest.raises(BadInput, match="axis n must have the length 3"):
        read_members({"a": np.ones(3), "b": np.ones((4, 2))}, table, "a.npz")


@pytest.fixture
def little_memory() -> Any:
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 300_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_good_archive_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, little_memory: None
) -> None:
    about = {"descr": "<f8", "fortran_order": False, "shape": (125_000_000,)}
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, about)
        for _ in range(1000):
            member.write(bytes(1_000_000))
    with pytest.raises(BadInput, match="needs 1 GB of memory, but"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_good_npy_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, little_memory: None
) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        about = {"descr": "<f8", "fortran_order": False, "shape": (125_000_000,)}
        np.lib.format.write_array_header_1_0(file, about)
        os.truncate(file.fileno(), file.tell() + 10**9)
    with pytest.raises(BadInput, match="needs 1 GB of memory, but"):
        load_npy(path)


def test_an_archive_that_declares_more_than_it_has_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, np.ones(4))
    content = data.getvalue().replace(b"(4,)", b"(9,)")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(BadInput, match="declares 72 bytes and has 32"):
        load_npz(tmp_path / "a.npz")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    from phaseloom.retrieval.networks.tiny import tiny

    return weight_files.save_network(tiny(components=4, width=8, depth=1), tmp_path / "a.safetensors")


def rewrite(path: Path, change: Any = None, **knobs: Any) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["phaseloom"])
    about["knobs"] |= knobs
    weights = {name: value if change is None else change(value) for name, value in load_file(path).items()}
    save_file(weights, path, {"phaseloom": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * torch.nan, "holds weights that are not finite"),
        (torch.zeros_like, "holds weights that are all zero"),
    ],
)
def test_a_network_that_predicts_nothing_is_refused(network: Path, change: Any, said: str) -> None:
    rewrite(network, change)
    with pytest.raises(BadInput, match=said):
        weight_files.load_network(network)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"width": 10**9}, "width: 1000000000 must lie between 0 and 65536"),
        ({"width": 60_000}, "does not fit the network that it names"),
        ({"depth": 10**6}, "depth: 1000000 must lie between 0 and 256"),
        ({"seed": "x"}, "seed: x must be a whole number"),
        ({"seed": -1}, "seed: -1 must lie between"),
        ({"width": None}, "names the network tiny"),
        ({"no": 1}, "names the network tiny"),
    ],
)
def test_a_network_that_asks_for_more_than_its_file_has_is_refused(
    network: Path, knobs: dict[str, Any], said: str
) -> None:
    rewrite(network, **knobs)
    with pytest.raises(BadInput, match=said):
        weight_files.load_network(network)


def test_networks_of_the_package_have_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in weight_files.list_shipped().values():
        weight_files.require_checksum(path)
        assert path.name in (path.parent / "SHA256SUMS").read_text()
    other = tmp_path / "tiny.safetensors"
    other.write_bytes(weight_files.find_network("tiny").read_bytes()[:-1] + b"\0")
    (tmp_path / "SHA256SUMS").write_text(
        (weight_files.find_network("tiny").parent / "SHA256SUMS").read_text()
    )
    weight_files.require_checksum(other)  # a file of one's own
    monkeypatch.setattr(weight_files, "list_shipped", lambda *_: {"tiny": other})
    with pytest.raises(BadInput, match="is not the network of the package"):
        weight_files.load_network(other)


def test_a_mistake_of_the_program_is_a_sentence_and_a_file(server: Any, tmp_path: Path) -> None:
    before = "import phaseloom.data.formats as f\ndef read(*a, **k): raise IndexError('7')\nf.read = read"
    outcome = server.run(["look", "scan.npy"], tmp_path, before=f"open('scan.npy', 'w').write('x')\n{before}")
    assert (outcome.code, outcome.has_traceback) == (1, False)
    assert outcome.err.count("\n") == 1
    assert "failed (IndexError: 7): this is a mistake of the program" in outcome.err
    assert "Traceback" in (tmp_path / "phaseloom-error.log").read_text()
