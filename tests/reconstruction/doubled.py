"""A reconstruction in double precision, where rounding is next to nothing, by one process or several.

python -m tests.reconstruction.doubled RECIPE OUT [PIXELS]
"""

import sys

import numpy as np
import torch

from phaseloom.fitting.distributed import team
from phaseloom.ptycho.model import gather_model, is_in_tiles
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from tests.laws.conftest import in_double


def count_numbers(job: Job) -> list[int]:
    """Numbers of the object in each process."""
    own = sum(parameter.numel() for parameter in job.model.object.parameters())
    return team().map_gather(lambda _: own, range(team().world_size))


def move_positions(job: Job, pixels: float) -> None:
    """Move all positions along the rows by so many pixels."""
    with torch.no_grad():
        job.model.scan.offsets[:, 1] += pixels / job.model.scan.step
    job.level.hold_windows()


def reconstructed(file: str, out: str, moved: str = "0") -> None:
    """Run a recipe on the grid of its data; the first process writes losses, object, probe and positions.

    Of each process it writes how many numbers the object has there, before the run and after it, too.
    """
    job = Job.begin(Reconstruct.from_path(file, {"levels": 0}))
    in_double(job.model)
    begun = count_numbers(job)
    move_positions(job, float(moved))
    course = [(epoch.loss, np.nan if epoch.holdout is None else epoch.holdout) for epoch in job]
    model = gather_model(job.model) if is_in_tiles(job.model) else job.model
    held = count_numbers(job)
    if model is not None:
        image = model.object.transmission().detach().numpy()
        np.savez(
            out,
            course=course,
            object=image,
            probe=model.probe.modes().detach().numpy(),
            positions=model.scan.angstrom(),
            begun=begun,
            held=held,
        )


if __name__ == "__main__":
    reconstructed(*sys.argv[1:])
