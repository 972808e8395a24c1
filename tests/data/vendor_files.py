"""Tiny files as detectors write them, byte by byte from the layouts, in the order of the scan."""

import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

MIB_TYPES = {"u1": "U08", "u2": "U16", "u4": "U32"}


def mib_header(
    kind: str, width: int, height: int, bits: int, *, number: int = 1, layout: str = "1x1"
) -> bytes:
    across, down = (int(n) for n in layout.rstrip("G").split("x"))
    size = 384 if across * down == 1 else 768
    text = f"MQ1,{number:06d},{size:05d},{across * down:02d},{width:04d},{height:04d},{kind},   {layout},01,"
    text += "2024-05-03 10:11:12.000000,0.000500,0,0,0,1.0E+2,5.1E+2,"
    text += "MQ1A,2024-05-03T10:11:12.000000Z,500000ns," + f"{bits},"
    return text.encode().ljust(size, b"\0")


def write_mib(
    path: Path,
    patterns: np.ndarray,
    *,
    hdr: dict[str, int] | None = None,
    first: int = 1,
    layout: str = "1x1",
) -> Path:
    """Counted frames ``(n, y, x)`` of the dtype of the patterns."""
    _, height, width = patterns.shape
    kind = f"u{patterns.dtype.itemsize}"
    bits = {"u1": 6, "u2": 12, "u4": 24}[kind]
    with path.open("wb") as file:
        for number, pattern in enumerate(patterns):
            file.write(mib_header(MIB_TYPES[kind], width, height, bits, number=first + number, layout=layout))
            file.write(pattern.astype(f">{kind}").tobytes())
    if hdr is not None:
        lines = ["HDR,\t", *(f"{key}:\t{value}" for key, value in hdr.items()), "End\t"]
        path.with_suffix(".hdr").write_text("\n".join(lines))
    return path


def pack_raw(rows: np.ndarray, bits: int) -> bytes:
    """Rows of pixels as the chips send them."""
    flat = rows.reshape(-1)
    if bits == 1:  # 64 pixels are one big-endian word whose lowest bit is the first pixel
        words = [sum(int(pixel) << at for at, pixel in enumerate(word)) for word in flat.reshape(-1, 64)]
        return b"".join(word.to_bytes(8, "big") for word in words)
    if bits == 6:
        return flat.astype("u1").reshape(-1, 8)[:, ::-1].tobytes()
    if bits == 12:
        return flat.astype(">u2").reshape(-1, 4)[:, ::-1].tobytes()
    return pack_raw(rows >> 12, 12) + pack_raw(rows & 0xFFF, 12)


def write_raw_mib(path: Path, patterns: np.ndarray, bits: int, *, layout: str = "1x1") -> Path:
    """Raw frames: chips side by side from the last to the first, those of the lower row turned."""
    across, down = (int(n) for n in layout.rstrip("G").split("x"))
    with path.open("wb") as file:
        for number, pattern in enumerate(patterns):
            chips = []
            for row in np.split(pattern, down, 0):
                turned = bool(chips)
                parts = np.split(row, across, 1)
                chips += [part[::-1, ::-1] if turned else part for part in parts]
            rows = np.concatenate(chips[::-1], 1)
            width = rows.shape[1] * (2 if bits == 24 else 1)
            file.write(mib_header("R64", width, rows.shape[0], bits, number=number + 1, layout=layout))
            file.write(pack_raw(rows, bits))
    return path


def empad_xml(name: str, inside: str) -> str:
    return f'<?xml version="1.0" ?><root name="scan"><raw_file filename="{name}"/>{inside}</root>'


def write_empad(path: Path, patterns: np.ndarray, inside: str | None) -> Path:
    """Frames ``(n, 128, 128)`` with two rows of footer; with ``inside`` its ``.xml``, which is returned."""
    footer = np.full((len(patterns), 2, 128), 1e6, "<f4")
    np.concatenate([patterns.astype("<f4"), footer], 1).tofile(path)
    if inside is None:
        return path
    path.with_suffix(".xml").write_text(empad_xml(path.name, inside))
    return path.with_suffix(".xml")


def write_blo(
    path: Path, patterns: np.ndarray, grid: tuple[int, int], *, bits: int = 8, **changes: int
) -> Path:
    """Patterns ``(n, k, k)`` of a raster (slow, fast): 200 kV, step 2.5 nm, camera length 150 mm."""
    fields = {
        "magic": 0x0102,
        "image": 0x1000,
        "patterns": 0x1000 + grid[0] * grid[1],
        "flags": 0,
        "size": patterns.shape[1],
        "pattern_rotation": 4500,
        "nx": grid[1],
        "ny": grid[0],
        "scan_rotation": 9000,
    } | changes
    head = b"IMGBLO" + struct.pack("<HIIIHHHHH", *fields.values())
    head += struct.pack("<ddIHId", 2.5, 2.0, 200_000, 5000, 1500, 45000.5)
    note = b"Blo Bit Depth: 16 bits\r\n" if bits == 16 else b""
    with path.open("wb") as file:
        file.write(head.ljust(240, b"\0") + note)
        file.seek(fields["patterns"])
        for number, pattern in enumerate(patterns):
            file.write(struct.pack("<HI", 0x55AA, number))
            file.write(pattern.astype("<u2" if bits == 16 else "u1").tobytes())
    return path


def write_tvips(
    path: Path,
    patterns: np.ndarray,
    *,
    version: int = 2,
    split: tuple[int, ...] = (),
    rotator: np.ndarray | None = None,
    places: np.ndarray | None = None,
    kilovolt: int = 200,
) -> Path:
    """Files ``NAME_000.tvips`` and on, cut before the frames ``split``; ``places`` are (x, y) of the beam."""
    _, height, width = patterns.shape
    size = 12 if version == 1 else 108
    numbers = (
        256,
        version,
        width,
        height,
        8 * patterns.dtype.itemsize,
        0,
        0,
        1,
        1,
        15500,
        kilovolt,
        100,
        size,
    )
    series = struct.pack("<13i", *numbers).ljust(256, b"\0")
    edges = [0, *split, len(patterns)]
    for part, (start, stop) in enumerate(itertools.pairwise(edges)):
        with path.with_name(f"{path.name}_{part:03d}.tvips").open("wb") as file:
            file.write(series if part == 0 else b"")
            for number in range(start, stop):
                head = struct.pack("<III", number, 1_700_000_000, 5)
                if version == 2:
                    x, y = (0.0, 0.0) if places is None else places[number]
                    turn = 0 if rotator is None else int(rotator[number])
                    head += struct.pack("<IfII5fI4f2f", 0, 0.5, 100, 2, 0, 0, 0, 0, 0, turn, 0, 0, 0, 0, x, y)
                file.write(
                    head.ljust(size, b"\0")
                    + patterns[number].astype(patterns.dtype.newbyteorder("<")).tobytes()
                )
    return path.with_name(f"{path.name}_000.tvips")


def write_seq(
    path: Path, patterns: np.ndarray, *, version: int = 5, stamp: int = 8, last: bool = True
) -> Path:
    """A sequence whose images are followed by a stamp, the last of which may be missing."""
    _, height, width = patterns.shape
    size = height * width * patterns.dtype.itemsize
    bits = 8 * patterns.dtype.itemsize
    head = struct.pack("<I", 0xFEED) + "Norpix seq".encode("utf-16-le").ljust(24, b"\0")
    head += struct.pack("<ii", version, 1024) + "two words".encode("utf-16-le").ljust(512, b"\0")
    head += struct.pack("<9I", width, height, bits, bits, size, 100, len(patterns), 0, size + stamp)
    head += struct.pack("<d", 400.0)
    stamps = [b"\xff" * stamp] * len(patterns)
    stamps[-1] = stamps[-1] if last else b""
    frames = b"".join(
        p.astype(p.dtype.newbyteorder("<")).tobytes() + s for p, s in zip(patterns, stamps, strict=True)
    )
    path.write_bytes(head.ljust(8192 if version >= 5 else 1024, b"\0") + frames)
    return path


def write_mrc(path: Path, image: np.ndarray) -> Path:
    head = struct.pack("<4i", image.shape[1], image.shape[0], 1, 2).ljust(1024, b"\0")
    path.write_bytes(head + image.astype("<f4").tobytes())
    return path


def write_frms6(
    path: Path,
    patterns: np.ndarray,
    *,
    dark: np.ndarray | None = None,
    split: tuple[int, ...] = (),
    grid: str | None = None,
    binning: int = 1,
    count: bool = True,
) -> Path:
    """Unfolded patterns ``(n, 2h, w)`` as files ``NAME_001.frms6`` and on, dark frames as ``_000``."""

    def write(name: Path, stack: np.ndarray) -> None:
        _, height, width = stack.shape
        half = height // 2
        folded = np.concatenate([stack[:, :half], stack[:, half:][:, ::-1, ::-1]], 2)
        head = struct.pack("<HH3xB80xHH928xI", 1024, 64, 6, 2 * width, half, len(stack) if count else 0)
        with name.open("wb") as file:
            file.write(head)
            for number, frame in enumerate(folded):
                file.write(
                    struct.pack("<4xIII", 1, 2, number).ljust(64, b"\0") + frame.astype("<u2").tobytes()
                )

    if dark is not None:
        write(path.with_name(f"{path.name}_000.frms6"), dark)
    edges = [0, *split, len(patterns)]
    for part, (start, stop) in enumerate(itertools.pairwise(edges)):
        write(path.with_name(f"{path.name}_{part + 1:03d}.frms6"), patterns[start:stop])
    if grid is not None:
        text = f"[measurementInfo]\ndwellTimeMicroseconds = 1000\ngain = 1\nstemImageSize = {grid}\n"
        text += f"signalFrames = {len(patterns)}\ndarkFrames = {0 if dark is None else len(dark)}\n"
        text += f'readoutMode = "bin: {binning}, windowing: 264 x 264"\n'
        path.with_name(f"{path.name}.hdr").write_text(text)
    return path.with_name(f"{path.name}_001.frms6")


def write_raw_csr(path: Path, patterns: np.ndarray, grid: tuple[int, ...]) -> Path:
    flat = patterns.reshape(len(patterns), -1)
    hits = [np.flatnonzero(row) for row in flat]
    np.cumsum([0, *map(len, hits)]).astype("<i8").tofile(path.with_name("rows.dat"))
    np.concatenate(hits).astype("<u4").tofile(path.with_name("pixels.dat"))
    kind = patterns.dtype.newbyteorder("<")
    np.concatenate([row[at] for row, at in zip(flat, hits, strict=True)]).astype(kind).tofile(
        path.with_name("values.dat")
    )
    path.write_text(
        f'[params]\nfiletype = "raw_csr"\nnav_shape = {list(grid)}\nsig_shape = {list(patterns.shape[1:])}\n'
        '[raw_csr]\nindptr_file = "rows.dat"\nindptr_dtype = "<i8"\nindices_file = "pixels.dat"\n'
        f'indices_dtype = "<u4"\ndata_file = "values.dat"\ndata_dtype = "{kind.str}"\n'
    )
    return path


def write_stempy(path: Path, patterns: np.ndarray, grid: tuple[int, int], *, version: int = 1) -> Path:
    """Lists of hits; version 1 repeats a pixel of two electrons, later ones have a second frame for them."""
    flat = patterns.reshape(len(patterns), -1).astype(int)
    lists = [(at, np.repeat(np.arange(len(row)), row)) for at, row in enumerate(flat)]
    if version > 1:
        most = flat.max()
        lists = [
            (at, np.flatnonzero(row >= level)) for level in range(1, most + 1) for at, row in enumerate(flat)
        ]
    with h5py.File(path, "w") as file:
        places = np.array([at for at, _ in lists])
        if version == 3:  # one number for each place, the frames of a place one after the other
            places = np.arange(len(flat))
            lists.sort(key=lambda one: one[0])
        frames = file.create_dataset("electron_events/frames", (len(lists),), h5py.vlen_dtype(np.uint32))
        for number, (_, hits) in enumerate(lists):
            frames[number] = hits
        frames.attrs.update(Nx=patterns.shape[1], Ny=patterns.shape[2], version=version)
        file["electron_events/scan_positions"] = places
        file["electron_events/scan_positions"].attrs.update(Nx=grid[1], Ny=grid[0])
    return path


def tpx3_hit(tick: int, x: int, y: int, over: int = 10) -> int:
    """A hit at a time in units of 1.5625 ns."""
    tick %= 1 << 34
    fine = -tick % 16
    coarse = (tick + fine) >> 4
    column, across = divmod(x, 2)
    block, down = divmod(y, 4)
    address = column << 9 | block << 3 | across << 2 | down
    fields = address << 44 | (coarse & 0x3FFF) << 30 | over << 20 | fine << 16 | (coarse >> 14) & 0xFFFF
    return 0xB << 60 | fields


def tpx3_pulse(tick: int, edge: int = 0xF) -> int:
    return 0x6 << 60 | edge << 56 | ((tick >> 1) % (1 << 35)) << 9


def tpx3_chunks(words: list[tuple[int, int]], at_once: int = 64) -> bytes:
    """Chunks of (chip, word), in order."""
    out = []
    at = 0
    while at < len(words):
        chip = words[at][0]
        part = words[at : at + at_once]
        some = [word for one, word in itertools.takewhile(lambda pair, chip=chip: pair[0] == chip, part)]
        out.append(b"TPX3" + struct.pack("<BBH", chip, 0, 8 * len(some)) + np.array(some, "<u8").tobytes())
        at += len(some)
    return b"".join(out)


def write_tpx3(
    path: Path,
    patterns: np.ndarray,
    grid: tuple[int, int],
    *,
    dwell: int = 1000,
    flyback: int = 0,
    pulses: bool = True,
    start: int = 5000,
) -> Path:
    """Counts as hits spread over the time of each place, in ticks; a pulse begins each row."""
    words: list[tuple[int, int]] = []
    rng = np.random.default_rng(0)
    for number, pattern in enumerate(patterns):
        row, column = divmod(number, grid[1])
        begin = start + (row * (grid[1] + flyback) + column) * dwell
        if pulses and column == 0:
            words.append((0, tpx3_pulse(begin)))
        hits = np.repeat(np.argwhere(pattern), pattern[pattern > 0].astype(int), 0)
        times = np.sort(rng.integers(0 if number else 1, dwell, len(hits)))
        if number == 0 and len(hits) and not pulses:
            times[0] = 0
        words += [
            (0, tpx3_hit(begin + int(t), int(x), int(y))) for t, (y, x) in zip(times, hits, strict=True)
        ]
    path.write_bytes(tpx3_chunks(words))
    return path


Writer = Callable[[Path, np.ndarray, tuple[int, int]], Path]


def _mib(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    notes = {"ScanX": grid[1], "ScanY": grid[0], "Frames per Trigger (Number)": grid[1]}
    return write_mib(folder / "a.mib", patterns, hdr=notes)


def _empad(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    stack = np.zeros((len(patterns), 128, 128), np.float32)
    stack[:, : patterns.shape[1], : patterns.shape[2]] = patterns
    inside = f"<pix_x>{grid[1]}</pix_x><pix_y>{grid[0]}</pix_y>"
    return write_empad(folder / f"scan_x{grid[1]}_y{grid[0]}.raw", stack, inside)


def _blo(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_blo(folder / "a.blo", patterns, grid, bits=16 if patterns.max() > 255 else 8)


def _tvips(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    slow, fast = np.divmod(np.arange(len(patterns)), grid[1])
    return write_tvips(
        folder / "a", patterns, places=np.column_stack([fast, slow]), split=(len(patterns) // 2,)
    )


def _seq(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_seq(folder / "a.seq", patterns)


def _frms6(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_frms6(folder / "a", patterns, grid=f"{grid[1]}x{grid[0]}")


def _raw_csr(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_raw_csr(folder / "a.toml", patterns, grid)


def _stempy(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_stempy(folder / "a.h5", patterns, grid)


def _tpx3(folder: Path, patterns: np.ndarray, grid: tuple[int, int]) -> Path:
    return write_tpx3(folder / "a.tpx3", patterns, grid)


WRITERS: dict[str, Writer] = {
    "merlin": _mib,
    "empad": _empad,
    "blockfile": _blo,
    "tvips": _tvips,
    "seq": _seq,
    "frms6": _frms6,
    "raw_csr": _raw_csr,
    "stempy": _stempy,
    "timepix3": _tpx3,
}
"""A whole file of each format, of patterns ``(n, y, x)`` with even numbers of rows, in raster order."""
