"""A reconstruction in double precision, where rounding is next to nothing, by one process or several.

python -m tests.reconstruction.doubled RECIPE OUT
"""

import sys

import numpy as np

from phaseloom.fitting.distributed import team
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from tests.laws.conftest import in_double


def reconstructed(file: str, out: str) -> None:
    """Run a recipe on the grid of its data; the first process writes losses, object and positions."""
    job = Job.begin(Reconstruct.from_path(file, {"levels": 0}))
    in_double(job.model)
    course = [(epoch.loss, np.nan if epoch.holdout is None else epoch.holdout) for epoch in job]
    if team().is_main:
        image = job.model.object.transmission().detach().numpy()
        np.savez(out, course=course, object=image, positions=job.model.scan.angstrom())


if __name__ == "__main__":
    reconstructed(*sys.argv[1:])
