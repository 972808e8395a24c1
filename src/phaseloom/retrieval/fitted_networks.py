"""Networks for the probe of a scan: the linear network is fitted to it once, and kept for scans like it."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.files import get_cache_folder
from phaseloom.learning.weight_files import NETWORK_FILE, find_network, hash_network
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.linear_fit import SCANS_FOR_ONE_PROBE, describe_microscope, fit_linear_network
from phaseloom.retrieval.prediction import DEFAULT_TOLERANCE
from phaseloom.retrieval.recipe import Train
from phaseloom.simulation.experiment import encode_conditions

__all__ = ["FITTED", "choose_network", "fit_network", "identify_network"]

log = logging.getLogger(__name__)

FITTED = "fitted"
"""The name of the network that is fitted to the probe of the scan."""

SHARE_OF_TOLERANCE = 0.25
"""Networks serve scans whose numbers differ by at most this much of what a prediction tolerates."""

FIT_VERSION = 1
"""Raised when the fit changes, so that older networks are not taken."""


def choose_network(
    model: str | Path, scan: Scan4D, optics: BeamOptics, /, *, said: Callable[[str], None] = log.info
) -> Path:
    """The file of a network: a path, a name of the package, or ``"fitted"`` for `fit_network`.

    Raises:
        BadInput: no such network, or as of `fit_network`.
    """
    return fit_network(scan, optics, said=said) if model == FITTED else find_network(model, "retrieval")


def identify_network(model: str | Path, /) -> str:
    """What tells networks apart: the hash of a file, or the version of the fit."""
    return f"{FITTED} {FIT_VERSION}" if model == FITTED else hash_network(model)


def fit_network(scan: Scan4D, optics: BeamOptics, /, *, said: Callable[[str], None] = log.info) -> Path:
    """The linear network for the probe, the step and the energy of a scan.

    It is fitted in about a CPU minute, and kept in the user's cache (``~/.cache/phaseloom/networks``): scans
    whose dimensionless numbers (`phaseloom.simulation.experiment.encode_conditions`) agree within a quarter
    of what predictions tolerate share one. Two fits for one probe give the same network.

    Args:
        scan: a raster, far field of electrons.
        optics: of the beam, with a defocus.
        said: called with a line before the fit.

    Raises:
        BadInput: an unknown defocus, positions that are not a raster, or a probe that cannot be simulated.
    """
    usual = Train.of({"model": "linear"})
    tree = {"model": "linear", **SCANS_FOR_ONE_PROBE}
    tree["microscope"] = describe_microscope(scan, optics, usual.microscope)
    recipe = Train.of(tree)
    numbers = encode_conditions(recipe.microscope(np.random.default_rng(recipe.seed)))[:-1]
    steps = np.round(numbers / (SHARE_OF_TOLERANCE * np.array(DEFAULT_TOLERANCE[:-1]))).astype(int)
    key = json.dumps([FIT_VERSION, steps.tolist()])
    home = get_cache_folder("networks")
    folder = home / hashlib.sha256(key.encode()).hexdigest()[:16]
    path = folder / NETWORK_FILE
    if path.is_file():
        return path
    said("fitting the linear network to this probe, about a CPU minute; it is kept for scans like this one")
    home.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix="fit-", dir=home))
    try:
        fit_linear_network(recipe, beside)
        with suppress(OSError):  # another process was faster
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path
