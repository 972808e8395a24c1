"""The object of a run as a viewer reads it from the snapshot."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.plot.style import average_blocks
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.snapshot_image import read_snapshot_image

DEEP = {"slices": 3, "thickness": "2 A", "kind": "amplitude and phase"}


def test_it_is_the_object_of_the_model(finished):
    found = read_snapshot_image(finished.directory / "snapshot.h5")
    np.testing.assert_array_equal(found.wave, finished.model.object.transmission()[0, 0].detach().numpy())
    assert (found.epoch, found.slices) == (4, 1)
    assert found.pixel == pytest.approx(finished.model.scan.canvas.pixel)


def test_a_large_one_is_averaged_over_blocks(finished):
    path = finished.directory / "snapshot.h5"
    whole = read_snapshot_image(path)
    found = read_snapshot_image(path, max_side=30)
    fold = -(-max(whole.wave.shape) // 30)
    np.testing.assert_array_equal(found.wave, average_blocks(whole.wave, fold))
    assert max(found.wave.shape) <= 30
    assert found.pixel == pytest.approx([fold * side for side in whole.pixel])


def test_slices_are_multiplied_or_read_alone(tree, tmp_path):
    job = Job.begin(Reconstruct.of({**tree, "object": {"pixels": DEEP}}), tmp_path / "run")
    for _ in job:
        break
    wave = job.model.object.transmission()[0].detach().numpy()
    path = tmp_path / "run/snapshot.h5"
    np.testing.assert_allclose(read_snapshot_image(path).wave, wave.prod(0), rtol=1e-5)
    np.testing.assert_allclose(read_snapshot_image(path, number=2).wave, wave[2], rtol=1e-5)
    with pytest.raises(BadInput, match="slice: 3 is not one of the 3 of this object, counted from 0"):
        read_snapshot_image(path, number=3)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "snapshot.h5").write_bytes(b"nothing")
    for name in ("snapshot.h5", "missing.h5"):
        with pytest.raises(BadInput, match="is not that of a reconstruction, or is damaged"):
            read_snapshot_image(tmp_path / name)
