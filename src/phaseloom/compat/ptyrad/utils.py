"""``ptyrad.utils`` of PtyRAD's tutorial: log, device, clock, and two functions of waves."""

import logging
import os
import platform
import sys
import time
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.fourier import to_real, to_reciprocal

__all__ = [
    "CustomLogger",
    "imshift_batch",
    "print_system_info",
    "set_gpu_device",
    "time_sync",
    "torch_phasor",
    "vprint",
]

log = logging.getLogger(__name__)


class CustomLogger(MemoryHandler):
    """Keeps what is logged until the folder of the run is known, and writes it there from then on.

    The first process prints it, too, without the time.

    Attributes:
        flush_file: whether a file is written.
    """

    def __init__(
        self,
        log_file: str | None = "ptyrad_log.txt",
        log_dir: str = "auto",
        prefix_time: str | bool | None = "datetime",
        show_timestamp: bool = True,
    ):
        super().__init__(capacity=0, flushLevel=logging.INFO)  # each line goes to the file once there is one
        self.setLevel(logging.INFO)
        self.log_dir = log_dir
        self.flush_file = log_file is not None
        formats = {"date": "%Y%m%d_", "time": "%H%M%S_", "datetime": "%Y%m%d_%H%M%S_", True: "%Y%m%d_"}
        self.log_file = datetime.now().strftime(formats.get(prefix_time or "", "")) + (log_file or "")
        self.setFormatter(logging.Formatter(f"{'%(asctime)s ' if show_timestamp else ''}%(message)s"))
        self._console = logging.StreamHandler(sys.stdout)
        self._console.setLevel(logging.INFO)
        package = logging.getLogger("phaseloom")
        self._level = package.level
        package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
        package.addHandler(self)
        if os.environ.get("RANK", "0") == "0":  # the number that torchrun and accelerate give a process
            package.addHandler(self._console)

    def flush_to_file(self, log_dir: Path | str | None = None) -> None:
        """Write what was kept into a folder, and go on writing there."""
        folder = Path(log_dir or (self.log_dir if self.log_dir != "auto" else "logs"))
        folder.mkdir(parents=True, exist_ok=True)
        target = logging.FileHandler(folder / self.log_file, mode="w", encoding="utf-8")
        target.setFormatter(self.formatter)
        self.setTarget(target)
        self.flush()

    def close(self) -> None:
        """Stop listening."""
        package = logging.getLogger("phaseloom")
        if self in package.handlers:
            package.removeHandler(self)
            package.removeHandler(self._console)
            package.setLevel(self._level)
        target = self.target
        super().close()
        if target is not None:
            target.close()


def vprint(*words: object, verbose: bool = True) -> None:
    """Log a line, which a `CustomLogger` prints; nothing where not ``verbose``."""
    if verbose:
        log.info("%s", " ".join(map(str, words)))


def print_system_info() -> None:
    """Log what this runs on."""
    vprint("Python", platform.python_version(), "on", platform.system(), platform.machine())
    vprint("PyTorch", torch.__version__, "with", torch.cuda.device_count(), "CUDA devices")


def set_gpu_device(gpuid: int | str | None = 0) -> str | None:
    """The device of a number; ``cpu`` where there is no GPU; ``None`` for ``"acc"``, which accelerate places.

    Raises:
        BadInput: neither a number, nor ``cpu``, nor ``acc``.

    Example:
        >>> set_gpu_device("cpu"), set_gpu_device("acc")
        ('cpu', None)
    """
    if gpuid == "acc":
        return None
    if gpuid in ("cpu", None):
        return "cpu"
    if not str(gpuid).isdigit():
        raise BadInput("gpuid", gpuid, "is not the number of a GPU: write 0, cpu or acc")
    return f"cuda:{int(gpuid)}" if torch.cuda.is_available() else "cpu"


def time_sync() -> float:
    """Seconds of a clock that only runs forward, once the GPU, if there is one, has done its work.

    Example:
        >>> begin = time_sync()
        >>> time_sync() >= begin
        True
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def torch_phasor(phase: Float[Tensor, "*shape"]) -> Complex[Tensor, "*shape"]:
    """``exp(i phase)`` of a phase in radian.

    Example:
        >>> torch_phasor(torch.tensor([0.0, torch.pi])).real.tolist()
        [1.0, -1.0]
    """
    return torch.polar(torch.ones_like(phase), phase)


def imshift_batch(
    img: Complex[Tensor, "*mode y x"], shifts: Float[Tensor, "b 2"], grid: Float[Tensor, "2 y x"]
) -> Complex[Tensor, "b *mode y x"]:
    """Waves moved by parts of a pixel, a copy for each shift.

    Args:
        img: the waves; periodic.
        shifts: pixels (y, x); positive ones move down and right.
        grid: frequencies ``fftfreq`` of rows and columns, cycles per pixel, zero in the corner.

    Example:
        >>> grid = torch.stack(torch.meshgrid(torch.fft.fftfreq(8), torch.fft.fftfreq(8), indexing="ij"))
        >>> spot = torch.zeros(1, 8, 8, dtype=torch.complex64)
        >>> spot[0, 2, 2] = 1
        >>> moved = imshift_batch(spot, torch.tensor([[1.0, 3.0], [0.0, 0.0]]), grid)
        >>> moved.shape, moved[0].abs().argmax().item() == 3 * 8 + 5
        (torch.Size([2, 1, 8, 8]), True)
    """
    angle = -2 * torch.pi * torch.tensordot(shifts, grid.to(shifts.dtype), 1)
    factor = torch_phasor(angle).reshape(len(shifts), *[1] * (img.ndim - 2), *grid.shape[-2:])
    return to_real(to_reciprocal(img) * factor)
