"""Make one environment for each peer with pip, in a folder of your choice.

    python benchmarks/peers/install.py [ptyrad ptychi phaser quantem cdtools py4dstem] [--into .bench]

Run it with the Python that the environments shall have (3.11 or newer). torch is held at the version
of ``constraints.txt``; on a machine without a GPU point pip at torch's CPU wheels before, or gigabytes
come along. Packages that ask for torchvision are installed without what they ask for, and the rest is
named here: its wheels belong to one build of torch each, and only a blur is used of it (stubs/).
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMON = ("numpy", "scipy", "h5py", "matplotlib")
TORCH = ("torch", *COMMON)

WANTED = {
    "ptyrad": (
        ("ptyrad==1.0.0",),
        (*TORCH, "accelerate", "pydantic", "PyYAML", "tifffile", "psutil"),
    ),
    "ptychi": (
        ("ptychi==2.2.0",),
        (*TORCH, "pandas", "pydantic>=2,<3", "scikit-image", "scikit-learn", "tqdm"),
    ),
    "quantem": (
        ("quantem==0.1.10", "torchinfo", "torchmetrics", "lightning-utilities", "em-database>=0.5"),
        (
            *TORCH,
            *("ase>=3.23", "cmasher", "colorspacious", "dill", "hdf5plugin", "optuna", "rosettasciio"),
            *("scikit-image", "spglib", "tensorboard", "tqdm", "zarr>3", "pooch", "requests"),
        ),
    ),
    "cdtools": (("cdtools-py==0.3.2",), (*TORCH, "python-dateutil")),
    "phaser": ((), ("phaserEM[jax]==0.3.1",)),
    "py4dstem": ((), ("py4DSTEM==0.14.18", "numpy==1.26.4", "scipy==1.17.1")),
}
"""For each program: what is installed alone, and what it needs."""

UNCONSTRAINED = ("py4dstem",)
"""Programs that need an older NumPy than ours."""

OLDER = "up to iter {lr_iters['niter'][-1]}'", 'up to iter {lr_iters["niter"][-1]}\''
"""One line of PtyRAD 1.0.0 is written for Python 3.12; so it reads before."""


def make(name, into):
    """One environment: its needs first, then the program without asking what else it wants."""
    folder = into / name
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, with_pip=True)
    alone, needs = WANTED[name]
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q"]
    if name not in UNCONSTRAINED:
        pip += ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *needs], check=True)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
    if name == "ptyrad" and sys.version_info < (3, 12):
        file = next(folder.glob("lib/*/site-packages/ptyrad/plotting/basic.py"))
        file.write_text(file.read_text().replace(*OLDER))


def main():
    """All that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(WANTED), help=f"of {', '.join(WANTED)}")
    parser.add_argument("--into", type=Path, default=ROOT / ".bench")
    given = parser.parse_args()
    for name in given.names:
        make(name, given.into.resolve())
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    sys.exit(main())
