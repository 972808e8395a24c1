"""Photographs as cameras and programs write them: 16 bits, transparency, and more pixels than fit at once."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.restoration.apply import restore_files, restore_image
from phaseloom.restoration.networks.phaseformer import recommended
from phaseloom.restoration.pairs import image_kinds
from phaseloom.restoration.pairs.images import read_image, read_with_alpha, write_image
from phaseloom.restoration.tiles import restore_in_tiles

RNG = np.random.default_rng(8)
SIZES = {"widths": (4, 8), "blocks": (1, 1), "heads": (1, 2), "refine": 0}


def png(path: Path, levels: np.ndarray, colour_type: int) -> Path:
    """A PNG of 16 bits as the standard describes it, with each of its five filters in turn."""
    rows, columns, channels = levels.shape
    lines = levels.astype(">u2").tobytes()
    length, step = 2 * columns * channels, 2 * channels
    above, packed = np.zeros(length, int), b""
    for row in range(rows):
        line = np.frombuffer(lines[row * length : (row + 1) * length], np.uint8).astype(int)
        left = np.concatenate([np.zeros(step, int), line[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        distance = np.abs(np.stack([left, above, corner]) - guess)
        paeth = np.choose(distance.argmin(0), [left, above, corner])
        kind = row % 5
        less = [0 * line, left, above, (left + above) // 2, paeth][kind]
        packed += bytes([kind]) + ((line - less) % 256).astype(np.uint8).tobytes()
        above = line
    head = struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")):
            file.write(
                struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            )
    return path


@pytest.fixture(scope="module")
def identity(tmp_path_factory) -> Path:
    """A network of three channels that changes nothing."""
    path = tmp_path_factory.mktemp("nets") / "sea.safetensors"
    weight_files.save_network(recommended(channels_in=3, channels_out=3, **SIZES), path)
    return path


def restore_one(path: Path, model: Path, out: Path, **tiles: int) -> Path:
    (found,) = restore_files([path], model, out, **tiles)
    return found.low


def test_all_sixteen_bits_of_colours_are_read(tmp_path):
    levels = RNG.integers(0, 65536, (11, 7, 3))
    image = read_image(png(tmp_path / "x.png", levels, 2))
    np.testing.assert_array_equal(image, np.moveaxis(levels, -1, 0).astype(np.float32) / np.float32(65535))


def test_sixteen_bits_come_out_as_they_went_in(tmp_path, identity):
    smooth = np.linspace(0, 65535, 40 * 50 * 3).round().reshape(40, 50, 3)
    path = png(tmp_path / "x.png", smooth, 2)
    low = restore_one(path, identity, tmp_path / "out")
    np.testing.assert_array_equal(read_image(low), read_image(path))
    with Image.open(low) as file:  # another program reads it, and finds the stamp
        assert file.size == (50, 40)
        assert file.info["Description"].startswith("restored, prior-dependent")
        np.testing.assert_array_equal(np.asarray(file), (smooth.astype(int) >> 8).astype(np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
def test_an_alpha_channel_is_kept_and_does_not_touch_the_colours(tmp_path, identity, bits):
    levels = RNG.integers(0, 2**bits, (24, 32, 4))
    path = tmp_path / "x.png"
    if bits == 16:
        png(path, levels, 6)
    else:
        Image.fromarray(levels.astype(np.uint8)).save(path)
    low = restore_one(path, identity, tmp_path / "out")
    (before, alpha), (after, kept) = read_with_alpha(path), read_with_alpha(low)
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(kept, alpha)
    fine, fine_alpha = read_with_alpha(tmp_path / "out" / "finer" / "x.png")
    assert fine.shape == (3, 48, 64)
    assert fine_alpha is not None
    with pytest.raises(BadInput, match="transparent"):
        read_image(path)


def test_a_tiff_keeps_its_alpha_and_an_opaque_one_is_none(tmp_path, identity):
    levels = RNG.integers(0, 65536, (24, 32, 4), np.uint16)
    for name, alpha in (("clear.tif", levels[..., 3]), ("opaque.tif", 65535)):
        levels[..., 3] = alpha
        tifffile.imwrite(tmp_path / name, levels, photometric="rgb", extrasamples=["unassalpha"])
    assert read_with_alpha(tmp_path / "opaque.tif")[1] is None
    low = restore_one(tmp_path / "clear.tif", identity, tmp_path / "out")
    np.testing.assert_array_equal(tifffile.imread(low), tifffile.imread(tmp_path / "clear.tif"))


def test_a_compression_that_needs_a_package_names_it(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))

    def fail(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    with pytest.raises(BadInput, match="pip install imagecodecs"):
        read_image(path)


def test_colours_of_sixteen_bits_are_written_as_others_read_them(tmp_path):
    image = RNG.random((4, 9, 13)).astype(np.float32)
    write_image(tmp_path / "x.png", image, bits=16)
    colours, alpha = read_with_alpha(tmp_path / "x.png")
    assert alpha is not None
    np.testing.assert_allclose(np.concatenate([colours, alpha]), image, atol=0.6 / 65535)


@pytest.mark.slow
def test_a_photograph_of_4k_in_pieces_is_the_whole_where_the_network_sees_no_seam():
    """Without attention, which compares all of its input, pieces are the whole, but at the edges of tiles."""
    net = recommended(channels_in=3, channels_out=3, **SIZES, high=False)
    generator = torch.Generator().manual_seed(0)
    for value in net.parameters():
        value.data = 0.2 * torch.randn(value.shape, generator=generator)
    for module in net.modules():
        if type(module).__name__ == "ChannelAttention":
            module.forward = lambda maps: maps
        if type(module).__name__ == "ChannelGate":
            module.forward = lambda maps: maps
    net.eval()
    images = torch.rand(1, 3, 2160, 3840, generator=generator)
    with torch.no_grad():
        whole = net(images).low
    pieces = restore_in_tiles(net, images, tile=512, overlap=64).low
    np.testing.assert_allclose(pieces[..., :448, :448], whole[..., :448, :448], atol=1e-5)
    difference = (pieces - whole).abs().amax((0, 1))
    assert (difference > 1e-4).float().mean() < 0.12  # within a few pixels of the edges of tiles
    inner = difference[:448, :448]
    assert inner.max() < 1e-4


MEMORY = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from phaseloom.restoration.apply import restore_files
from pathlib import Path
image, model, out = map(Path, sys.argv[1:])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(found,) = restore_files([image], model, out)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024)
"""


@pytest.mark.medium
def test_memory_for_a_photograph_of_4k_is_that_of_its_images_and_not_of_its_maps(tmp_path, identity):
    rows, columns = 2160, 3840
    y, x = np.mgrid[:rows, :columns]
    levels = np.stack([(y // 9 + x // 7) % 256, (x // 16) % 256, (y // 9) % 256], -1).astype(np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(levels).save(path)
    words = [sys.executable, "-c", MEMORY, str(path), str(identity), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    images = (
        4 * 3 * rows * columns * (1 + 1 + 4)
    )  # as read, as restored, on finer pixels, in single precision
    assert int(done.stdout.split()[-1]) < 1.5 * images
    with Image.open(tmp_path / "out" / "restored" / "x.png") as file:
        np.testing.assert_allclose(np.asarray(file).astype(int), levels, atol=1)
    with Image.open(tmp_path / "out" / "finer" / "x.png") as file:
        assert file.size == (2 * columns, 2 * rows)


def test_restoring_in_pieces_keeps_what_needs_no_change():
    net = recommended(channels_in=3, channels_out=3, **SIZES)
    image = RNG.random((3, 300, 410)).astype(np.float32)
    found = restore_image(net, image_kinds.photograph(), image, tile=64, overlap=16)
    np.testing.assert_allclose(found.low, image, atol=1e-6)
