"""A simulated detector: a far-field ptychography scan by numpy alone, sent frame by frame over ZeroMQ.

Messages are those of DECTRIS Stream, version 1, written here from its description and not by the package.

    python -m benchmarks.detector tcp://*:9999 --rate 50        # and in another terminal:
    phaseloom watch tcp://127.0.0.1:9999 --setup benchmarks/detector.yaml
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import h5py
import hdf5plugin  # noqa: F401 - its filters are used by number
import numpy as np

WAVELENGTH = 1.5498e-10
"""Metres, of photons of 8 keV."""

DISTANCE = 2.0
DETECTOR_PIXEL = 75e-6
"""Metres."""


@dataclass
class SimulatedScan:
    """Frames, positions (metres, of the beam on the object) and truth of a scan."""

    frames: np.ndarray
    positions: np.ndarray
    object: np.ndarray
    probe: np.ndarray
    pixel: float
    grid: tuple[int, int]


def simulate(
    grid: tuple[int, int] = (40, 50),
    *,
    window: int = 64,
    step: float = 4.0,
    photons: float = 2e4,
    seed: int = 0,
    slide: tuple[float, float] = (0.0, 0.0),
) -> SimulatedScan:
    """A raster with jitter over a phase object of letters of noise, lit by a defocused round probe.

    Args:
        grid: (slow, fast) numbers of positions.
        window: pixels of a pattern.
        step: of the raster, object pixels.
        photons: in a pattern.
        seed: of object, jitter and counts.
        slide: of the probe during an exposure, object pixels (row, column): a fly scan, by 24 moments.
    """
    rng = np.random.default_rng(seed)
    pixel = WAVELENGTH * DISTANCE / (window * DETECTOR_PIXEL)
    probe = _make_probe(window)
    places = np.indices(grid).reshape(2, -1).T * step + rng.uniform(-0.7, 0.7, (grid[0] * grid[1], 2))
    places -= places.min(0)
    side = np.ceil(places.max(0)).astype(int) + window + 8
    thing = _make_object((int(side[0]), int(side[1])), rng)
    frames = np.empty((len(places), window, window), np.uint16)
    power = photons / np.sum(np.abs(probe) ** 2)
    moments = (np.arange(24) + 0.5) / 24 - 0.5 if any(slide) else np.zeros(1)
    for number, place in enumerate(places):
        light = np.zeros((window, window))
        for moment in moments:
            at = place + moment * np.array(slide) + 4.0
            corner = np.floor(at).astype(int)
            exit_wave = (
                _shift(probe, at - corner)
                * thing[corner[0] : corner[0] + window, corner[1] : corner[1] + window]
            )
            light += np.abs(np.fft.fftshift(np.fft.fft2(exit_wave, norm="ortho"))) ** 2 / len(moments)
        frames[number] = rng.poisson(power * light)
    return SimulatedScan(frames, places * pixel, thing, probe * np.sqrt(power), pixel, grid)


def _make_probe(window: int) -> np.ndarray:
    """A round aperture, out of focus, so that it is about a quarter of the window wide."""
    q = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(window)], indexing="ij"))
    pupil = (1 / (1 + np.exp((q - 0.14) / 0.006))) * np.exp(1j * np.pi * 60 * q**2)
    return np.fft.fftshift(np.fft.ifft2(pupil, norm="ortho"))


def _make_object(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Phase of blurred random blocks and sharp disks, with a little absorption."""
    y, x = np.indices(shape)
    phase = np.zeros(shape)
    for _ in range(shape[0] * shape[1] // 250):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 9)
        rows = slice(max(0, int(row - radius) - 1), int(row + radius) + 2)
        columns = slice(max(0, int(column - radius) - 1), int(column + radius) + 2)
        inside = np.hypot(y[rows, columns] - row, x[rows, columns] - column) < radius
        phase[rows, columns] += rng.uniform(-0.5, 0.5) * inside
    square = np.add.outer(np.fft.fftfreq(shape[0]) ** 2, np.fft.fftfreq(shape[1]) ** 2)
    smooth = np.fft.ifft2(np.fft.fft2(phase) * np.exp(-3.0 * square)).real
    return np.exp((1j - 0.1) * smooth - 0.05)


def _shift(wave: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A wave moved by parts of a pixel."""
    rows, columns = (np.fft.fftfreq(n) for n in wave.shape)
    ramp = np.exp(-2j * np.pi * (by[0] * rows[:, None] + by[1] * columns))
    return np.fft.ifft2(np.fft.fft2(wave) * ramp)


@dataclass
class Faults:
    """What goes wrong with a series; numbers of frames."""

    lost: tuple[int, ...] = ()
    twice: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    """Sent after the frame that follows them."""
    wrong_shape: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()
    stop_after: int | None = None
    """Frames after which the scan is aborted: the series ends."""
    die_after: int | None = None
    """Frames after which nothing comes any more, not even an end."""
    text: dict[str, object] = field(default_factory=dict)


def make_messages(
    scan: SimulatedScan, *, series: int = 7, encoding: str = "bs16-lz4<", faults: Faults | None = None
) -> Iterator[tuple[float, list[bytes]]]:
    """All messages of a series, each with the number of its frame as its time (header 0)."""
    faults = faults or Faults()
    count = len(scan.frames)
    rows, columns = scan.frames.shape[1:]
    config = {
        "nimages": count,
        "ntrigger": 1,
        "photon_energy": 8000.0,
        "detector_distance": DISTANCE,
        "x_pixel_size": DETECTOR_PIXEL,
        "y_pixel_size": DETECTOR_PIXEL,
        "x_pixels_in_detector": columns,
        "y_pixels_in_detector": rows,
        "description": "simulated",
    }
    yield 0.0, [_json({"htype": "dheader-1.0", "series": series, "header_detail": "basic"}), _json(config)]
    order = list(range(count))
    for number in faults.late:
        order[number], order[number + 1] = order[number + 1], order[number]
    last = min(n for n in (count, faults.stop_after, faults.die_after) if n is not None)
    for time_, number in enumerate(order[:last]):
        if number in faults.lost:
            continue
        for _ in range(2 if number in faults.twice else 1):
            yield float(time_), _make_frame(scan, number, series, encoding, faults)
    if faults.die_after is None:
        yield float(last), [_json({"htype": "dseries_end-1.0", "series": series})]


def _make_frame(scan: SimulatedScan, number: int, series: int, encoding: str, faults: Faults) -> list[bytes]:
    frame = scan.frames[number]
    if number in faults.wrong_shape:
        frame = frame[:-1]
    blob = compress(frame, encoding)
    if number in faults.damaged:
        blob = blob[: len(blob) // 2]
    head = {"htype": "dimage-1.0", "series": series, "frame": number, "hash": ""}
    about = {
        "htype": "dimage_d-1.0",
        "shape": [frame.shape[1], frame.shape[0]],
        "type": str(frame.dtype),
        "encoding": encoding,
        "size": len(blob),
    }
    row, column = scan.positions[number].tolist()
    times = {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 0, "real_time": 0}
    place = {"position": [row, column], "unit": "m"}
    return [_json(head), _json(about), blob, _json(times), _json(place)]


def compress(frame: np.ndarray, encoding: str) -> bytes:
    """A frame as a detector encodes it."""
    if encoding == "<":
        return frame.astype(frame.dtype.newbyteorder("<")).tobytes()
    number, options = (32004, None) if encoding == "lz4<" else (32008, (0, 2))
    with h5py.File("x.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(
            "x", frame.shape, frame.dtype, chunks=frame.shape, compression=number, compression_opts=options
        )
        data[...] = frame
        file.flush()
        _, chunk = data.id.read_direct_chunk((0, 0))
    return bytes(chunk[16:]) if encoding == "lz4<" else bytes(chunk)


def _json(tree: dict[str, object]) -> bytes:
    return json.dumps(tree).encode()


def send(
    address: str, scan: SimulatedScan, *, rate: float, faults: Faults | None = None, publish: bool = False
) -> float:
    """Send a series at so many frames a second; the seconds that it took."""
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.PUB if publish else zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.bind(address)
    if publish:
        time.sleep(1.0)  # subscribers need a moment
    messages = list(make_messages(scan, faults=faults))
    began = time.perf_counter()
    for due, parts in messages:
        wait = due / rate - (time.perf_counter() - began)
        if wait > 0:
            time.sleep(wait)
        socket.send_multipart(parts)
    taken = time.perf_counter() - began
    socket.close(linger=10_000)
    context.term()
    return taken


def main() -> None:
    """Send one series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--grid", type=int, nargs=2, default=(40, 50))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--stop-after", type=int)
    given = parser.parse_args()
    scan = simulate((given.grid[0], given.grid[1]), seed=given.seed)
    faults = Faults(stop_after=given.stop_after, die_after=given.die_after)
    print("armed", flush=True)
    print(f"sent in {send(given.address, scan, rate=given.rate, faults=faults, publish=given.publish):.1f} s")


if __name__ == "__main__":
    main()
