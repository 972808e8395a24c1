"""Every fenced block of the pages is run, or read by the package, or says why it is not."""

import contextlib
import io
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import phaseloom as pl
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.train import Restore
from phaseloom.retrieval.recipe import Train
from phaseloom.search.recipe import Search
from phaseloom.simulation.recipe import Simulate
from tests.docs import sandbox
from tests.docs.pages import ALL, ROOT, Block

REASONS = {
    "continuous integration makes both": 1,
    "needs a cluster": 1,
    "needs another machine": 1,
    "needs the network": 4,
    "serves until it is ended": 1,
    "takes hours": 1,
}
"""Why blocks are not run, and how many there are: a further one is a decision."""

SHELL = [block for block in ALL if block.language == "sh" and not (block.not_run or block.run_by)]
PYTHON = [
    block
    for block in ALL
    if block.language == "python" and block.page != "docs/tutorial.md" and not block.run_by
]  # the tutorial's are parts of scripts, which test_tutorial runs
LANGUAGES = {"sh", "python", "yaml", "json", "toml", "text"}


def test_every_block_has_a_language_that_is_checked():
    assert len(ALL) > 150
    assert {(block.id, block.language) for block in ALL if block.language not in LANGUAGES} == set()


def test_no_command_hides_in_a_text():
    hidden = [
        block.id
        for block in ALL
        if block.language == "text"
        and re.search(r"^(phaseloom|make|pip|import|from) ", block.text, re.MULTILINE)
    ]
    assert hidden == []


def test_every_fence_is_found():
    for page in {block.page for block in ALL}:
        fences = re.findall(r"^ *```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in ALL), page


def test_reasons_are_those_of_the_list():
    given = [block.not_run for block in ALL if block.not_run]
    assert {reason: given.count(reason) for reason in given} == REASONS


def test_what_is_run_elsewhere_is_there():
    named = [block.run_by for block in ALL if block.run_by]
    assert named
    for path, _, name in (one.partition("::") for one in named):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_every_python_block_is_checked():
    """By an assertion, by an expression behind it, or by the output that follows."""
    outputs = {
        before.id for before, after in pairwise(ALL) if (before.page, after.language) == (after.page, "text")
    }
    unchecked = [
        block.id for block in PYTHON if not (block.check or "assert " in block.text or block.id in outputs)
    ]
    assert unchecked == []


@pytest.mark.medium
@pytest.mark.parametrize("page", sorted({block.page for block in SHELL}))
def test_shell_blocks_run(page: str) -> None:
    """All of a page, one after the other in one folder, as a reader would."""
    for extra in ("zmq", "optuna", "sklearn", "skimage", "tifffile"):
        pytest.importorskip(extra)
    sandbox.write_named_files(page)
    for block in SHELL:
        if block.page == page:
            for line in sandbox.list_lines(block.text):
                sandbox.run_line(page, line)


def test_a_line_that_fails_is_detected():
    with pytest.raises(AssertionError, match="code 2"):
        sandbox.run_line("docs/first.md", "phaseloom look no-such-file.cxi")
    with pytest.raises(AssertionError, match="say why"):
        sandbox.run_line("docs/first.md", "docker run phaseloom")


@contextlib.contextmanager
def what_stands_before(block: Block) -> Iterator[dict[str, Any]]:
    """Names that a block takes from the text around it, and a run under way where it needs one."""
    if block.page == "docs/web.md":
        job = pl.Job.begin(pl.Reconstruct.of(sandbox.RECIPE), "notebook")
        yield {"job": job, "display": lambda view: None}
    elif block.page == "docs/steering.md":
        with sandbox.run_under_way(Path("RUN")):
            yield {}
    else:
        yield {}


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")  # of Panel
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_python_blocks_run(block: Block) -> None:
    if block.page == "docs/hyperparameters.md":
        pytest.importorskip("optuna")
    files = [name for name in ("scan.cxi", "scan.npy", "params.yaml") if name in block.text]
    sandbox.make_files(block.page, [*files, *(["scan.cxi"] if block.page == "docs/web.md" else [])])
    said = io.StringIO()
    with what_stands_before(block) as names:
        with contextlib.redirect_stdout(said):
            exec(compile(block.text, block.id, "exec"), names)
        if block.check:
            known = {"np": np, "pl": pl, "Path": Path} | names
            assert eval(block.check, known), (block.check, said.getvalue())


KINDS = {
    "over": Search,
    "count": Simulate,
    "scans": Train,
    "data": Restore,
    "file": Reconstruct,
}
"""A key of a parameter file, and the recipe that it is of: the first that is there."""


def understand(text: str) -> str:
    """Read a block of YAML by the package; what it is."""
    tree = yaml.safe_load(text)
    kind = next((kind for key, kind in KINDS.items() if key in tree), None)
    if kind is not None:
        recipe: Any = kind.of(tree)
        assert set(tree) <= set(recipe.to_tree()) | {"steered"}
        return kind.__name__
    shape, rest = (64, 64, 4, 4), {}
    if "selection" in tree:  # stored detector first, as (y, x, row, column)
        shape, rest = (
            (70, 128, 24, 16),
            {"energy": "80 keV", "angle": "0.8 mrad", "step": "0.4 A", "grid": [8, 8]},
        )
    if "focus" in tree:
        rest = {"energy": "8 keV", "distance": "2 m", "detector_pixel": "75 um", "step": "0.3 um"}
        rest = {"beam": "photon", **rest}
    np.save("scan.npy", np.ones(shape, np.uint16))
    Path("scan.npy.yaml").write_text((yaml.safe_dump(rest) if rest else "") + text)
    assert len(pl.read("scan.npy")) > 0
    return "side-car"


YAML = [block for block in ALL if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.id)
def test_parameter_files_are_understood(block: Block) -> None:
    assert understand(block.text)


@pytest.mark.parametrize("text", ["file: a.h5\nepoch: 3", "over: {a: [1]}\ntrails: 3", "energy: 3 mrad"])
def test_a_wrong_parameter_file_is_detected(text):
    with pytest.raises(pl.BadInput):
        understand(text)


@pytest.mark.parametrize(
    "block", [one for one in ALL if one.language in ("json", "toml")], ids=lambda one: one.id
)
def test_data_blocks_can_be_read(block: Block) -> None:
    assert json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)
