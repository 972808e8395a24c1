"""Scans, jobs, results and latents in a notebook: their cards, and the panes of a job and of a result."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Provenance
from phaseloom.simulation import simulate

GRID = (8, 9)
SOURCE = Provenance.now(seed=0, data="", file="scan.h5")


@pytest.fixture(scope="module")
def scan():
    positions = simulate.raster(GRID, 0.5)
    positions += 8.0 - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + 8.0) / 0.2))
    truth = simulate.atoms((size[0], size[1]), 0.2, peak=0.3, seed=4)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 80.0, "window": 64, "dose": 1e4}
    return replace(simulate.electron_scan(truth, 0.2, positions, **beam)[0], grid=GRID)


@pytest.fixture(scope="module")
def job(scan) -> Job:
    probe = {"focused": {"semiangle": "30 mrad", "defocus": "80 A", "modes": 2}}
    tree = {"title": "a <run>", "probe": probe, "start": "none", "preset": "none", "epochs": 3}
    job = Job.begin(Reconstruct.of(tree), scan=scan)
    for _ in job:
        pass
    return job


def read_pictures(card: str) -> dict[str, np.ndarray]:
    found = re.findall(r'<img alt="([^"]+)"[^>]* src="data:image/png;base64,([^"]+)"', card)
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for name, data in found}


def test_a_scan_shows_its_mean_pattern_and_its_counts(scan):
    card = scan._repr_html_()
    pictures = read_pictures(card)
    assert f"{len(scan)} of 64 x 64" in card
    assert pictures["counts"].shape[:2] == GRID
    assert pictures["mean pattern, logarithmic"].shape[:2] == (64, 64)
    lit = pictures["mean pattern, logarithmic"][..., :3].sum(-1, dtype=int)
    assert lit[32, 32] > lit[0, 0]


def test_a_job_and_its_result_show_phase_amplitude_and_probe(job):
    names = ["phase", "amplitude", "probe, strongest mode"]
    of_job = job._repr_html_()
    of_result = job.result()._repr_html_()
    for card in (of_job, of_result):
        assert list(read_pictures(card)) == names
        assert "a &lt;run&gt;" in card  # titles are text, not HTML
    assert "<td>3 of 3</td>" in of_job
    assert "<td>verdict</td>" in of_result


def test_a_job_and_its_result_are_a_line_each(job, scan):
    assert repr(job) == "Job(a <run>; 72 patterns; 3 of 3 epochs; loss {:.4g}; no folder)".format(
        job.progress.history[-1]["loss"]
    )
    result = job.result()
    line = repr(result)
    assert line.startswith("Result(a <run>; 1 slice of ")
    assert "; object pixel 20 pm x 20 pm; 2 probe modes; 72 patterns; electrons of 80 keV; " in line
    assert line.endswith(f"; {result.verdict_code.replace('_', ' ')})")
    assert "\n" not in line
    assert len(line) < 200
    assert repr(replace(result, title="", verdict_code="")).startswith("Result(1 slice of ")


def test_latents_show_maps_where_there_is_a_raster():
    numbers = np.arange(72.0)
    found = ScanEmbedding(np.stack([numbers, -numbers], 1), numbers, numbers, np.zeros((72, 2)), GRID, SOURCE)
    pictures = read_pictures(found._repr_html_())
    assert list(pictures) == ["latent 0", "latent 1", "misfit"]
    assert pictures["latent 0"].shape[:2] == GRID
    assert not read_pictures(replace(found, grid=None)._repr_html_())


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore")  # those of Panel and pandas
def test_panes_show_a_job_as_it_goes_and_a_result(job):
    pytest.importorskip("panel", reason="needs the extra 'web'")
    for view in (job.view(), job.result().view()):
        shown = view._repr_mimebundle_()
        assert shown
        view.update()
        assert len(list(view.panes.select())) > 10
