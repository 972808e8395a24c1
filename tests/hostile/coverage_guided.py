"""Coverage-guided fuzzing of the readers by atheris, where it is installed (Linux, ``pip install atheris``).

    python -m tests.hostile.coverage_guided -max_total_time=600

The first byte of an input chooses the reader, the rest is the file. Anything but a scan or a `BadInput` is a
finding, which libFuzzer leaves as ``crash-...``.
"""

import contextlib
import importlib
import logging
import pkgutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

KNOBS = {"energy": 8e4, "angle": 1e-3, "step": 2.0, "grid": (3, 5)}
ENDINGS = (".npy", ".npz", ".tif", ".mat", ".mib", ".blo", ".tvips", ".seq", ".tpx3", ".raw", ".safetensors")
PARSERS = ("parse_yaml", "parse_json", "parse_toml")


def read_one(data: bytes, folder: Path) -> None:
    """Read what a fuzzer made."""
    from phaseloom import documents
    from phaseloom.data import formats
    from phaseloom.errors import BadInput
    from phaseloom.learning.weight_files import load_network

    if not data:
        return
    choice = data[0] % (len(ENDINGS) + len(PARSERS))
    try:
        if choice >= len(ENDINGS):
            getattr(documents, PARSERS[choice - len(ENDINGS)])(data[1:].decode("utf-8", "replace"), "text")
            return
        path = folder / f"a{ENDINGS[choice]}"
        path.write_bytes(data[1:])
        if path.suffix == ".safetensors":
            load_network(path)
        else:
            scan = formats.read(path, knobs=KNOBS)
            scan.counts[np.arange(1)]
    except BadInput:
        return


def write_seeds(folder: Path) -> None:
    """Whole files as inputs to start from."""
    from tests.hostile.readers import known_formats

    for name, one in known_formats().items():
        made = folder / "whole" / name.replace("/", "-")
        made.mkdir(parents=True)
        path = one.write(made)
        if path.suffix in ENDINGS and path.is_file():
            seed = bytes([ENDINGS.index(path.suffix)]) + path.read_bytes()
            (folder / "seeds").mkdir(exist_ok=True)
            (folder / "seeds" / f"{len(list((folder / 'seeds').iterdir()))}").write_bytes(seed)


def _import_all(package: Any) -> None:
    """Import a package with all its modules: readers are imported only when they are used."""
    for one in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
        with contextlib.suppress(ImportError):  # of an extra
            importlib.import_module(one.name)


def main() -> None:
    """Fuzz until libFuzzer's arguments say that it is enough."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("coverage-guided fuzzing needs atheris: pip install atheris")
    with atheris.instrument_imports(include=["phaseloom"]):  # before anything else imports them
        for name in ("documents", "learning", "data"):
            _import_all(importlib.import_module(f"phaseloom.{name}"))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    write_seeds(folder)
    arguments = [*sys.argv, "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", str(folder / "seeds")]
    atheris.Setup(arguments, lambda data: read_one(data, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
