"""The fork server of all hostile tests."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from phaseloom.data.formats import native
from phaseloom.simulation import simulate
from tests.conftest import electrons
from tests.hostile.fork_server import ForkServer
from tests.hostile.verbs import NETWORK, RESTORER, RUN, Inputs


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    with ForkServer(seconds=240) as server:
        yield server


@pytest.fixture(scope="session")
def inputs(server: ForkServer, files: Any, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """What verbs read, made by verbs."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "run.yaml").write_text(yaml.safe_dump({"file": str(files.native), **RUN}))
    (folder / "theirs.yaml").write_text(yaml.safe_dump({"file": str(files.native), "epochs": 3}))
    search = {"over": {"rates.object": [0.5, 1.0, 1.5]}, "sampler": "random", "trials": 4, "finals": 0}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    fine = electrons(window=32)  # the network of the package refuses pixels as coarse as those of the others
    positions = simulate.raster((5, 5), 0.49) + fine.positions.min(0)
    native.write(replace(fine, positions=positions, grid=(5, 5)), folder / "raster.h5")
    np.save(folder / "patterns.npy", files.scan.counts[:25].reshape(5, 5, 24, 24))
    for words in (
        "reconstruct run.yaml --out run -q",
        f"train autoencoder {files.native} --out net -q -s epochs=2 -s block=1 -s " + NETWORK.format(),
        f"embed {files.native} --model net --out e.h5",
        "restore demo-data pairs --train 2 --test 1 --size 32 --invented 1",
        RESTORER.format(pairs="pairs"),
    ):
        outcome = server.run(shlex.split(words), folder)
        assert outcome.code == 0, outcome.err
    return Inputs(
        scan=files.native,
        raster=folder / "raster.h5",
        run=folder / "run.yaml",
        theirs=folder / "theirs.yaml",
        search=folder / "search.yaml",
        result=folder / "run" / "result.h5",
        autoencoder=folder / "net",
        embedding=folder / "e.h5",
        patterns=folder / "patterns.npy",
        finished=folder / "run",
        pairs=folder / "pairs",
        restorer=folder / "o",
    )
