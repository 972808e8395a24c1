"""The tutorial shows its scripts as they are, and what they print."""

import contextlib
import io
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom import plugins

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SCRIPTS = ("reconstruct", "a_dataset", "a_model")
CHAPTERS = dict(zip(SCRIPTS, re.split(r"(?m)^## ", PAGE)[1:], strict=True))
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
SECONDS = re.compile(r"\S+ s\b")


def source(name: str) -> str:
    return (ROOT / "examples" / "tutorial" / f"{name}.py").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", CHAPTERS[name], re.S)


def quoted() -> list:
    return [
        pytest.param(name, text, id=f"{name}-{n}")
        for name in SCRIPTS
        for n, text in enumerate(blocks(name, "python"))
    ]


@contextlib.contextmanager
def standing_in(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


Run = tuple[dict[str, Any], list[str], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Any:
    """What a script leaves: its names, its lines, its folder; each is run once."""
    known: dict[str, Run | None] = {}

    def once(name: str) -> Run:
        if name not in known:
            known[name] = None
            torch.set_num_threads(1)
            folder, said = tmp_path_factory.mktemp(name), io.StringIO()
            script = ROOT / "examples" / "tutorial" / f"{name}.py"
            with pytest.MonkeyPatch.context() as patch, standing_in(folder), contextlib.redirect_stdout(said):
                patch.setattr(plugins, "_registered", {})
                patch.setattr(sys, "argv", [str(script), "--pictures", "pictures"])
                names = runpy.run_path(str(script), run_name="__main__")
            known[name] = names, said.getvalue().splitlines(), folder
        found = known[name]
        assert found is not None, f"{name}.py did not come to its end"
        return found

    return once


CHAPTER = [pytest.param("reconstruct", marks=pytest.mark.slow), "a_dataset", "a_model"]


@pytest.mark.parametrize(("name", "text"), quoted())
def test_code_is_that_of_the_script(name, text):
    assert text in source(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_function_of_interest_is_quoted(name):
    assert len(blocks(name, "python")) >= 7


def alike(told: str, said: str) -> bool:
    """Whether two lines are the same but for seconds and a tenth of their numbers."""
    told, said = (SECONDS.sub("s", line) for line in (told, said))
    if NUMBER.sub("#", told) != NUMBER.sub("#", said):
        return False
    pairs = zip(NUMBER.findall(told), NUMBER.findall(said), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.1, abs=0.011) for a, b in pairs)


def test_lines_with_other_numbers_are_told_apart():
    assert alike("loss 1.17, 0.5 s", "loss 1.19, 2.5 s")
    assert not alike("loss 1.17", "loss 1.37")
    assert not alike("loss 1.17", "hold-out 1.17")


@pytest.mark.medium
@pytest.mark.parametrize("name", CHAPTER)
def test_numbers_are_those_of_the_run(run, name):
    _, said, _ = run(name)
    told = [line for text in blocks(name, "text") for line in text.splitlines()]
    assert told
    for line in told:
        assert any(alike(line, one) for one in said), f"{line!r} is not among\n" + "\n".join(said)


@pytest.mark.parametrize("name", CHAPTER)
def test_pictures_are_drawn_and_small(run, name):
    _, _, folder = run(name)
    for picture in re.findall(r"images/(tutorial-\w+\.png)", CHAPTERS[name]):
        assert (folder / "pictures" / picture).stat().st_size < 120_000
        assert (ROOT / "docs" / "images" / picture).stat().st_size < 120_000


@pytest.mark.slow
def test_the_result_of_chapter_one_repeats_itself(run):
    _, _, folder = run("reconstruct")
    with standing_in(folder):
        again = pl.Reconstruct.from_path("again.yaml")
    assert again.all_rates()["affine"] == 0
    assert again.file == folder / "part.h5"


def test_the_reader_knows_what_was_measured(run):
    names, _, folder = run("a_dataset")
    scan = names["read"](folder / "zscan_0042.h5", focus=40 * names["MM"], wave=folder / "focus.npy")
    away = np.linspace(300, 800, 8) * names["UM"]
    np.testing.assert_allclose(-scan.heights, 40 * names["MM"] + away)
    np.testing.assert_allclose(scan.geometry.pixel, names["PIXEL"])
    assert (~scan.mask).sum() == 128
    assert scan.counts.max() < 1e6
    assert scan.positions == pytest.approx(np.tile([-3.0 * names["MM"], -12.5 * names["MM"]], (8, 1)))


@pytest.fixture
def zed(run, monkeypatch) -> Path:
    """The reader known by its name, as the tutorial has it; returns a file of its layout."""
    names, _, folder = run("a_dataset")
    monkeypatch.setattr(plugins, "_registered", {})
    pl.register("formats", names["read"], name="zed")
    return folder / "zscan_0042.h5"


def test_the_reader_is_known_to_parameter_files(zed):
    tree = {"file": str(zed), "read": {"zed": {"focus": "40 mm", "wave": str(zed.with_name("focus.npy"))}}}
    scan = pl.Reconstruct.of(tree).scan()
    assert scan.probe is not None
    assert np.ptp(scan.heights) == pytest.approx(5e6)
    with pytest.raises(pl.BadInput, match="focus"):
        pl.read(zed, format="zed")


def test_the_noise_model_is_known_to_parameter_files(run, monkeypatch):
    names, _, _ = run("a_model")
    monkeypatch.setattr(plugins, "_registered", {})
    pl.register("noise", names["robust"])
    recipe = pl.Reconstruct.of({"file": "scan.cxi", "noise": {"robust": {"width": 2}}})
    assert recipe.noise is not None
    found = recipe.noise.partial()(torch.tensor([4.0]), torch.tensor([4.0]))
    assert found.item() == 0


@pytest.fixture
def twins(run) -> tuple:
    """The model of chapter 3 and the built-in, with the same object and the same moves of heights."""
    names, _, _ = run("a_model")
    scan = names["measured"]()
    builtin = pl.Ptychography.of(scan, probe=pl.probes.stored(scan, modes=1))
    assert builtin.heights is not None
    scan = names["replace"](scan, probe=builtin.probe.modes().detach().numpy())
    ours = names["AxialModel"](scan, builtin.heights.unit)
    generator = torch.Generator().manual_seed(0)
    window = torch.polar(*(torch.rand(64, 64, generator=generator) for _ in range(2)))
    moves = 0.2 * torch.rand(len(scan), generator=generator)
    with torch.no_grad():
        builtin.object.place_window(window, at=scan.positions[0])
        ours.object.copy_(window)
        ours.moves.copy_(moves)
        builtin.heights.offsets.copy_(moves)
    return ours, builtin, scan


def test_the_model_by_hand_gives_the_patterns_of_the_built_in(twins):
    ours, builtin, _ = twins
    some = torch.tensor([11, 0, 5])
    with torch.no_grad():
        found, expected = ours(some), builtin.detector.display(builtin(some))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_it_gives_the_loss_and_the_gradients_too(twins):
    ours, builtin, scan = twins
    builtin.heights.offsets.requires_grad_(True)
    every = torch.arange(len(scan))
    losses = [pl.Misfit(ours, scan)(every)["noise"], pl.Likelihood(builtin, scan)(every)["noise"]]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    builtin.object.set_transmission(builtin.object.wave.grad)  # to be asked for the part under the scan
    pairs = [(ours.object.grad, builtin.object.read_window(scan.positions[0])[0, 0])]
    pairs.append((ours.moves.grad, builtin.heights.offsets.grad))
    for own, theirs in pairs:
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max()))


def test_what_the_tutorial_imports_is_public():
    for name in SCRIPTS:
        for room, names in re.findall(r"^from (phaseloom[\w.]*) import (.+)$", source(name), re.M):
            assert not any(one.startswith("_") for one in [*room.split("."), *names.split(", ")])
            exec(f"from {room} import {names}", {})
