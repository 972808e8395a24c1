"""Whether this installation can run: versions, devices, threads, extras, compiled kernels, folders.

Needs the standard library alone, so that it can examine an installation that is broken: what may fail, or end
the process, is tried in processes of its own. ``python -m phaseloom.doctor`` works where the command line
itself cannot be imported.
"""

import json
import os
import pickletools
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput, nearest
from phaseloom.version import __version__

__all__ = ["Diagnosis", "Problem", "diagnose", "mend"]

VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "PHASELOOM_NUMBA", "NUMBA_CACHE_DIR"),
    *("NUMBA_DISABLE_JIT", "CUDA_VISIBLE_DEVICES", "PYTORCH_ENABLE_MPS_FALLBACK", "RANK", "WORLD_SIZE"),
    *("HDF5_USE_FILE_LOCKING", "HDF5_PLUGIN_PATH", "MPLBACKEND", "MPLCONFIGDIR", "TMPDIR", "PYTHONPATH"),
)
"""Variables of the environment that change what a run does or how fast it is."""

LEAST_OF_COUNT = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "NUMBA_NUM_THREADS": 1,
    "WORLD_SIZE": 1,
    "RANK": 0,
}
"""The smallest whole number that a variable may be."""

COUNTS_THAT_STOP = ("NUMBA_NUM_THREADS", "RANK", "WORLD_SIZE")
"""Those that end a run if they are wrong; of the others the default takes the place."""

FILE_LOCKING = ("TRUE", "1", "FALSE", "0", "BEST_EFFORT")
"""What HDF5 knows, in capitals; anything else counts as not set."""

CACHE_FOLDERS = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")

MIN_FREE_SPACE = 200_000_000
"""Bytes on the disk of the runs below which it is called full: results of usual scans take 1 to 100 MB."""

LONGEST_PROBE = 120.0
"""Seconds that a process may take which tries something; PyTorch on a network disk takes up to a minute."""

FIRST_PACKAGES = ("numpy", "torch")
"""Others fail where these do."""

MODULE_OF_PACKAGE = {"pyyaml": "yaml"}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the fix, in one sentence.

    Attributes:
        sentence: names the place, the problem and the fix.
        stops: a run fails because of it; otherwise it is slow or lacks something.
        remedy: what `mend` would do; ``None``: it is for the user to mend.
    """

    sentence: str
    stops: bool = False
    remedy: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def can_be_mended(self) -> bool:
        """Whether `mend` can do it."""
        return self.remedy is not None


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        facts: lines of text by subject: ``packages``, ``devices``, ``threads``, ``extras``, ...
        problems: those that stop a run first.
    """

    facts: Mapping[str, Sequence[str]]
    problems: tuple[Problem, ...] = ()

    @property
    def can_run(self) -> bool:
        """Whether nothing was found that stops a run."""
        return not any(one.stops for one in self.problems)

    def lines(self) -> list[str]:
        """For a terminal: subjects beside their facts, then the problems."""
        shown = [
            f"{subject if not number else '':12s} {line}"
            for subject, lines in self.facts.items()
            for number, line in enumerate(lines)
        ]
        shown += [f"{'ERROR' if one.stops else 'WARN'} {one.sentence}" for one in self.problems]
        return [
            *shown,
            "ready to run" if self.can_run else "a run would fail: see the lines above with ERROR",
        ]

    def to_json(self) -> str:
        """For programs: ``can_run``, ``facts``, and of each problem ``sentence, stops, can_be_mended``."""
        names = ("sentence", "stops", "can_be_mended")
        problems = [{name: getattr(one, name) for name in names} for one in self.problems]
        return json.dumps({"can_run": self.can_run, "facts": self.facts, "problems": problems}, indent=1)


def diagnose(folder: Path | str = "runs", /, *, subjects: Sequence[str] = ()) -> Diagnosis:
    """Examine this installation; nothing is changed but for a file that is made in ``folder`` and removed.

    Takes a few seconds, for PyTorch and the compiled kernels are tried.

    Args:
        folder: where runs will be written; it need not be there.
        subjects: what to examine, of ``packages, extras, plugins, devices, engine, folder, figures,
            environment``; by default all.

    Raises:
        BadInput: no such subject.

    Example:
        >>> found = diagnose(subjects=["folder", "extras"])
        >>> found.can_run, list(found.facts)
        (True, ['versions', 'folder', 'extras'])
    """
    facts: dict[str, list[str]] = {"versions": [f"Phaseloom {__version__}", _python()]}
    problems: list[Problem] = []
    for subject in subjects or EXAMINATIONS:
        if subject not in EXAMINATIONS:
            raise BadInput("diagnose", subject, f"is not a subject: {nearest(subject, EXAMINATIONS)}")
        said: list[str] = []
        try:
            problems += EXAMINATIONS[subject](Path(folder), said)
        except Exception as problem:  # whatever an installation is like, the rest is examined
            sentence = f"{subject}: could not be examined ({type(problem).__name__}: {problem})"
            problems.append(Problem(f"{sentence}; please report it"))
        if said:
            facts[subject] = said
    return Diagnosis(facts, tuple(sorted(problems, key=lambda one: not one.stops)))


def mend(diagnosis: Diagnosis, /) -> list[str]:
    """Mend what can be mended without a loss: damaged caches are removed, missing folders of caches made.

    Returns:
        A line for each problem that can be mended: whether it was.
    """
    lines = []
    for one in diagnosis.problems:
        if one.remedy is None:
            continue
        try:
            one.remedy()
        except OSError as problem:
            lines.append(f"not mended ({problem.strerror}): {one.sentence}")
        else:
            lines.append(f"mended: {one.sentence}")
    return lines


def _python() -> str:
    return f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}"


# What is installed.


def _examine_packages(_: Path, said: list[str]) -> Iterator[Problem]:
    """Whether each package that a run needs has the version wanted, and can be imported."""
    wanted = _requirements().get("", {})
    if not wanted:
        fix = "its packages are not known; install it with: pip install ."
        yield Problem(f"phaseloom: runs from its source without being installed: {fix}")
    names = sorted(wanted or FIRST_PACKAGES, key=lambda name: (name not in FIRST_PACKAGES, name))
    modules = {MODULE_OF_PACKAGE.get(name, name.replace("-", "_")): name for name in names}
    failed = dict(_try_imports(list(modules)))
    for module, name in modules.items():
        specifier = wanted.get(name, "")
        version = _version(name)
        said.append(f"{name} {version or 'missing'}")
        again = f"pip install --force-reinstall '{name}{specifier}'"
        if version is None:
            yield Problem(f"{name}: is not installed: {again}", stops=True)
        elif not _is_in(version, specifier):
            yield Problem(f"{name}: {version} is not {specifier}: {again}", stops=True)
        elif module in failed:
            yield Problem(f"{name}: {version} cannot be imported ({failed[module]}): {again}", stops=True)
    said[:] = [", ".join(said[start : start + 6]) for start in range(0, len(said), 6)]


def _examine_extras(_: Path, said: list[str]) -> Iterator[Problem]:
    """Which extras are complete."""
    for extra, wanted in sorted(_requirements().items()):
        if extra in ("", "all", "dev", "docs"):
            continue
        found = {name: _version(name) for name in wanted}
        lacking = [name for name, version in found.items() if version is None]
        old = [
            f"{name} {version} (needs {wanted[name]})"
            for name, version in found.items()
            if version is not None and not _is_in(version, wanted[name])
        ]
        fix = f"pip install 'phaseloom[{extra}]'"
        state = f"needs {', '.join([*lacking, *old])}: {fix}" if lacking or old else "installed"
        said.append(f"{extra:12s} {state}")
        if old:
            yield Problem(f"extra {extra}: {', '.join(old)}: {fix}")


def _examine_plugins(_: Path, said: list[str]) -> Iterator[Problem]:
    """What other packages add to parameter files, and whether it can be imported."""
    every = metadata.entry_points()
    groups = sorted(group for group in every.groups if group.startswith("phaseloom."))
    points = [point for group in groups for point in sorted(every.select(group=group))]
    failed = dict(_try_imports(sorted({point.module for point in points}))) if points else {}
    for point in points:
        origin = point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
        line = f"{point.group.removeprefix('phaseloom.')}: {point.name}, of {origin}"
        said.append(line)
        if point.module in failed:
            why = failed[point.module]
            yield Problem(f"plugin {line}: cannot be imported ({why}): repair or uninstall it")


def _requirements() -> dict[str, dict[str, str]]:
    """Packages by extra (empty: always needed), each with the versions that are wanted."""
    found: dict[str, dict[str, str]] = {}
    lines: Sequence[str] = ()
    with suppress(metadata.PackageNotFoundError):
        lines = metadata.requires("phaseloom") or ()
    for line in lines:
        requirement, _, marker = line.partition(";")
        parts = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(.*)", requirement.strip())
        extra = re.search(r"extra == ['\"]([\w.-]+)['\"]", marker)
        if parts and parts[1] != "phaseloom":
            found.setdefault(extra[1] if extra else "", {})[parts[1].lower()] = parts[2].strip(" ()")
    return found


def _version(package: str) -> str | None:
    """Of what is installed; an installation whose version cannot be read counts as missing."""
    with suppress(Exception):
        return metadata.version(package)
    return None


def _is_in(version: str, specifier: str) -> bool:
    """Whether a version is among those wanted; taken for granted where this cannot be told."""
    try:
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(specifier).contains(version, prereleases=True)
    except Exception:
        return True


IMPORTS = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name, "it ended the process"]), flush=True)
    try:
        importlib.import_module(name)
    except BaseException as problem:
        print(json.dumps([name, f"{type(problem).__name__}: {problem}"]), flush=True)
    else:
        print(json.dumps([name, ""]), flush=True)
"""


def _try_imports(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Modules that cannot be imported, and why; one that ends the process does not hide the others."""
    left = list(modules)
    while left:
        # a bad backend is told by the figures, and is no fault of the package
        told = dict(_run(IMPORTS, *left, without=("MPLBACKEND",))[0])
        reached = [name for name in left if name in told]
        yield from ((name, " ".join(told[name].split())[:160]) for name in reached if told[name])
        if not reached:
            yield left[0], "Python itself did not start, or took too long"
        left = left[max(1, len(reached)) :]


def _run(code: str, *arguments: str, without: Sequence[str] = ()) -> tuple[list[Any], str]:
    """The values that a process of its own printed as JSON, one a line, and the end of what else it said.

    Args:
        code: of the process.
        arguments: of the process.
        without: variables of the environment that it does not get.
    """
    command = [sys.executable, "-P", "-c", code, *arguments]
    known = {name: value for name, value in os.environ.items() if name not in without}
    try:
        done = subprocess.run(  # noqa: PLW1510 - a failure is what it looks for
            command, capture_output=True, text=True, timeout=LONGEST_PROBE, errors="replace", env=known
        )
        out, err = done.stdout, done.stderr
    except subprocess.TimeoutExpired as problem:
        out = (problem.stdout or b"").decode(errors="replace") if isinstance(problem.stdout, bytes) else ""
        err = f"took more than {LONGEST_PROBE:.0f} s"
    values = []
    for line in out.splitlines():
        with suppress(ValueError):
            values.append(json.loads(line))
    return values, (err.strip().splitlines() or ["it ended without a word"])[-1]


# Where it computes.

DEVICES = """
import json, torch
cuda = []
for number in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(number)
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    cuda.append(f"cuda:{number} {torch.cuda.get_device_name(number)}, {memory}")
mps = torch.backends.mps.is_available()
print(json.dumps({"cuda": cuda, "mps": mps, "built": torch.version.cuda, "threads": torch.get_num_threads()}))
"""


def _examine_devices(_: Path, said: list[str]) -> Iterator[Problem]:
    """Processors, their memory, and what PyTorch sees of graphics cards."""
    from phaseloom.free_memory import measure_free_memory

    free = measure_free_memory()
    memory = "" if free is None else f", {free / 1e9:.1f} GB of memory free"
    said.append(f"cpu {_count_cores()} of {os.cpu_count()} cores for this process{memory}")
    values, why = _run(DEVICES)
    if not values:
        said.append(f"cuda, mps: not known ({why})")
        return
    told = values[-1]
    build = f"for CUDA {told['built']}" if told["built"] else "without CUDA"
    said += told["cuda"] or [f"cuda: none (PyTorch was built {build})"]
    said += ["mps: Apple's graphics, with the memory of the computer"] if told["mps"] else []
    said.append(f"threads of PyTorch: {told['threads']}")
    if told["cuda"] and _version("cuda-bindings") is None:
        fix = "pip install 'phaseloom[gpu]'"
        yield Problem(f"cuda: without cuda-bindings a GPU is two to four times slower: {fix}")
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not told["cuda"] and shutil.which("nvidia-smi") and not is_hidden:
        fix = "install PyTorch's build for your driver (pytorch.org, Get started)"
        yield Problem(f"cuda: there is an NVIDIA driver, but PyTorch sees no card: {fix}")


def _count_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _examine_environment(_: Path, said: list[str]) -> Iterator[Problem]:
    """Variables that are set, and those whose values are not plausible."""
    said += [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    for name, least in LEAST_OF_COUNT.items():
        value = os.environ.get(name, "1")
        levels = value.split(",") if name == "OMP_NUM_THREADS" else [value]  # of nested teams
        if not all(re.fullmatch(r"\s*\+?\d+\s*", one) and int(one) >= least for one in levels):
            stops = name in COUNTS_THAT_STOP
            yield Problem(f"{name}: {value!r} is not a whole number of {least} or more: unset {name}", stops)
    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "TRUE")
    if locking not in FILE_LOCKING:
        fix = "write TRUE, FALSE or BEST_EFFORT"
        yield Problem(f"HDF5_USE_FILE_LOCKING: HDF5 ignores {locking!r}: {fix}")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > _count_cores():
        fix = f"set OMP_NUM_THREADS to at most {_count_cores()}"
        yield Problem(f"OMP_NUM_THREADS: {threads} threads share {_count_cores()} cores: {fix}")
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdigit() and int(processes) > 1 and "MASTER_ADDR" not in os.environ:
        fix = "unset WORLD_SIZE, or start with torchrun"
        yield Problem(f"WORLD_SIZE: {processes} processes are expected, but no address is given: {fix}", True)
    for name in CACHE_FOLDERS:
        folder = Path(os.environ.get(name, "."))
        if not folder.is_dir():
            make = partial(folder.mkdir, parents=True)
            yield Problem(f"{name}: {folder} is not a folder: make it, or unset {name}", remedy=make)


# What is compiled.

ENGINE = """
import json
import torch
print(json.dumps("imported"), flush=True)
from phaseloom.physics import fused_kernels
from phaseloom.physics.engine import kernels
compiled = [*vars(fused_kernels.get_compiled_kernels(torch.zeros(1))).values(), *vars(kernels).values()]
folders = {one.stats.cache_path for one in compiled if hasattr(one, "stats")}
print(json.dumps(sorted(str(one) for one in folders if one)), flush=True)
wave = torch.arange(8.0).reshape(2, 1, 2, 2).to(torch.complex64)
assert torch.equal(fused_kernels.sum_intensity(wave), wave.abs().square().sum(1)), "wrong numbers"
print(json.dumps("works"))
"""


def _examine_engine(_: Path, said: list[str]) -> Iterator[Problem]:
    """Whether numba compiles the kernels of the package, and keeps them."""
    fix = "runs take about two to five times longer: pip install 'phaseloom[fast]'"
    if os.environ.get("PHASELOOM_NUMBA") == "0":
        said.append("compiled kernels: switched off (PHASELOOM_NUMBA)")
        return
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        said.append("compiled kernels: switched off (NUMBA_DISABLE_JIT)")
        slow = "numba compiles nothing, and runs take about two to five times longer"
        yield Problem(f"NUMBA_DISABLE_JIT: {slow}: unset NUMBA_DISABLE_JIT")
        return
    if _version("numba") is None:
        said.append("compiled kernels: none, numba is missing")
        yield Problem(f"numba: is not installed, {fix}")
        return
    values, why = _run(ENGINE)
    if not values:
        said.append("compiled kernels: not tried, PyTorch cannot be imported")
        return
    folders = [Path(one) for one in values[1]] if len(values) > 1 else []
    said.append(f"compiled kernels: {'work' if 'works' in values else 'do not work'}")
    said += [f"kept in {folder}" for folder in folders]
    damaged = [file for folder in folders for file in _find_damaged(folder)]
    if damaged:
        named = f"compiled kernels are damaged ({len(damaged)} files, such as {damaged[0].name})"
        repair = f"remove {damaged[0].parent}/*.nb?, or run: phaseloom doctor --fix"
        yield Problem(f"numba: {named}: {repair}", True, partial(_remove_with_index, damaged))
    elif "works" not in values:
        repair = "set PHASELOOM_NUMBA=0, or install it again: pip install --force-reinstall numba"
        yield Problem(f"numba: the kernels do not compile ({why[:160]}): {repair}", True)
    elif not folders:
        repair = "set NUMBA_CACHE_DIR to a folder that you can write to"
        yield Problem(f"numba: compiled kernels cannot be kept, so every run compiles for seconds: {repair}")


def _find_damaged(folder: Path) -> Iterator[Path]:
    """Files of numba's cache that are cut short or not its own; they are taken apart, not loaded."""
    for file in sorted([*folder.glob("*.nbi"), *folder.glob("*.nbc")]):
        try:
            with file.open("rb") as content:
                for _ in range(2 if file.suffix == ".nbi" else 1):  # an index is its version and a table
                    for _operation in pickletools.genops(content):
                        pass
        except ValueError:
            yield file


def _remove_with_index(files: Sequence[Path]) -> None:
    """An index goes with the code that it lists, and code with its index."""
    for file in files:
        start = file.name.split(".")[0]
        for one in file.parent.glob(f"{start}.*.nb[ic]"):
            one.unlink(missing_ok=True)


# Where it writes.

LOCKS = """
import h5py, json, sys
with h5py.File(sys.argv[1], "w") as file:
    file["a"] = [1, 2]
with h5py.File(sys.argv[1], "r") as file:
    print(json.dumps(file["a"][()].tolist()))
"""


def _examine_folder(folder: Path, said: list[str]) -> Iterator[Problem]:
    """Whether the folder of runs can be written to, has room, and takes HDF5's locks."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    trial = there / f".phaseloom-doctor-{os.getpid()}.h5"
    try:
        trial.write_bytes(b"phaseloom")
        values, why = _run(LOCKS, str(trial))
    except OSError as problem:
        said.append(f"{folder}: cannot be written")
        fix = "go to another folder, or name one with --out"
        yield Problem(f"{folder}: {there} cannot be written to ({problem.strerror}): {fix}", True)
        return
    finally:
        with suppress(OSError):
            trial.unlink()
    free = shutil.disk_usage(there).free
    is_off = os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0")
    locks = f"HDF5 writes and reads there, {'without' if is_off else 'with'} locks"
    locks = locks if values else f"HDF5 fails there ({why[:120]})"
    said.append(f"{folder}: can be written, {free / 1e9:.1f} GB free; {locks}")
    if free < MIN_FREE_SPACE:
        fix = "free some space, or name another folder with --out"
        yield Problem(f"{folder}: {free / 1e6:.0f} MB are free on its disk: {fix}", True)
    if not values and "lock" in why.lower():
        yield Problem(f"{folder}: its disk takes no locks of HDF5: set HDF5_USE_FILE_LOCKING=FALSE", True)


FIGURES = """
import json, matplotlib
from matplotlib.figure import Figure
Figure()
print(json.dumps([matplotlib.get_backend(), matplotlib.get_cachedir()]))
"""


def _examine_figures(_: Path, said: list[str]) -> Iterator[Problem]:
    """Whether matplotlib starts, and with which backend."""
    values, why = _run(FIGURES)
    if values:
        said.append(f"matplotlib's backend {values[-1][0]}, cache in {values[-1][1]}")
    elif (backend := os.environ.get("MPLBACKEND", "")) and backend in why:
        yield Problem(f"MPLBACKEND: matplotlib does not know {backend!r}: unset MPLBACKEND", True)


EXAMINATIONS: Mapping[str, Callable[[Path, list[str]], Iterator[Problem]]] = {
    "packages": _examine_packages,
    "extras": _examine_extras,
    "plugins": _examine_plugins,
    "devices": _examine_devices,
    "engine": _examine_engine,
    "folder": _examine_folder,
    "figures": _examine_figures,
    "environment": _examine_environment,
}
"""Subjects in the order of the lines."""


if __name__ == "__main__":
    found = diagnose()
    sys.stdout.write("\n".join(found.lines()) + "\n")
    sys.exit(not found.can_run)
