"""Frames over a socket: messages of the simulated detector, which are written from DECTRIS' description."""

import json
import sys
import threading

import numpy as np
import pytest

from benchmarks.detector import Faults, make_messages, send, simulate
from phaseloom.data.growing import open_growing
from phaseloom.data.growing.feed import FeedEnd, announce_frames
from phaseloom.data.growing.stream_messages import (
    FrameMessage,
    HeaderMessage,
    SeriesEndMessage,
    decode_frame,
    parse_message,
)
from phaseloom.errors import BadInput, MissingExtra

pytest.importorskip("hdf5plugin")


@pytest.fixture(scope="module")
def simulated():
    return simulate((4, 5), window=24, step=3.0, photons=2e4, seed=1)


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
def test_every_encoding_gives_the_frame_and_its_position(simulated, encoding):
    head, *frames, end = [parts for _, parts in make_messages(simulated, encoding=encoding)]
    header = parse_message(head)
    assert isinstance(header, HeaderMessage)
    assert (header.count, header.shape) == (20, (24, 24))
    assert header.header.energy == 8000.0
    assert header.header.distance == pytest.approx(2e10)
    assert header.header.detector_pixel == pytest.approx(75e4)
    for number, parts in enumerate(frames):
        message = parse_message(parts)
        assert isinstance(message, FrameMessage)
        assert message.number == number
        assert np.array_equal(message.decode(), simulated.frames[number])
        assert message.position == pytest.approx(simulated.positions[number] * 1e10)
    assert parse_message(end) == SeriesEndMessage(7)


def test_a_frame_need_not_be_square_and_may_be_described_in_its_first_part():
    frame = np.arange(12, dtype=np.uint32).reshape(3, 4)
    about = {"htype": "dimage-1.0", "series": 1, "frame": 5, "shape": [4, 3], "type": "uint32"}
    about |= {"encoding": ">", "position": [1.0, -2.0], "unit": "um"}
    message = parse_message([json.dumps(about).encode(), frame.astype(">u4").tobytes()])
    assert np.array_equal(message.decode(), frame)
    assert message.position.tolist() == [1e4, -2e4]


def test_a_mask_and_positions_of_a_header_are_read():
    bad = np.zeros((2, 3), np.uint32)
    bad[1, 2] = 8
    parts = [
        {"htype": "dheader-1.0", "series": 3, "header_detail": "all"},
        {"nimages": 2, "ntrigger": 3},
        {"htype": "dpixelmask-1.0", "shape": [3, 2], "type": "uint32"},
        bad.tobytes(),
        {"positions": [[0.0, 1.0], [2.0, 3.0]], "unit": "nm"},
    ]
    found = parse_message([part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts])
    assert found.header.mask.tolist() == [[True, True, True], [True, True, False]]
    assert found.count == 6
    assert found.positions.tolist() == [[0.0, 10.0], [20.0, 30.0]]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "does not begin with JSON"),
        ([b"\x01\x02"], "does not begin with JSON"),
        ([b'{"frame": 3}'], "does not begin with JSON that has htype"),
        ([b'{"htype": "dimage-1.0", "series": 1, "frame": 1}'], "dimage-1.0: is not whole"),
        ([b'{"htype": "dimage-1.0", "series": 1, "frame": 1}', b"{}", b"x"], "dimage-1.0: is not whole"),
        ([b'{"htype": "dseries_end-1.0"}'], "is not whole"),
        (
            [b'{"htype": "dimage-1.0", "series": 1, "frame": 1, "shape": [2, 2], "type": "object"}', b"x"],
            "is not whole",
        ),
    ],
)
def test_a_message_that_is_not_whole_is_one_sentence(parts, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_message(parts)


def test_bytes_that_do_not_make_the_frame_are_one_sentence(simulated):
    kind = np.dtype("u2")
    with pytest.raises(BadInput, match="10 bytes but 24 x 24 pixels of uint16 have 1152"):
        decode_frame(b"0123456789", "<", (24, 24), kind)
    with pytest.raises(BadInput, match="is not known: use"):
        decode_frame(b"", "zstd<", (24, 24), kind)
    for encoding in ("lz4<", "bs16-lz4<"):
        whole = next(parts for time, parts in list(make_messages(simulated, encoding=encoding))[1:])[2]
        with pytest.raises(BadInput, match="cannot be decompressed"):
            decode_frame(whole[:20], encoding, (24, 24), kind)


def test_without_pyzmq_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtra, match=r"pip install 'phaseloom\[live\]'"):
        open_growing("tcp://127.0.0.1:9999")


def receive(address, simulated, faults=None, publish=False, setup=None, **knobs):
    """The scan that comes while a detector sends."""
    how = {"rate": 400.0, "faults": faults, "publish": publish}
    sender = threading.Thread(target=send, args=(address, simulated), kwargs=how)
    sender.start()
    try:
        growing = open_growing(
            address, setup=setup or {"beam": "photon"}, subscribe=publish, patience=10, **knobs
        )
        while growing.end is None:
            growing.update(wait=0.2)
        growing.update()
    finally:
        sender.join()
    growing.finish()
    return growing


@pytest.fixture
def address():
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    socket.close()
    context.term()
    return f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("publish", [False, True])
def test_a_series_is_received_whole(simulated, address, publish):
    growing = receive(address, simulated, publish=publish)
    assert growing.end is FeedEnd.COMPLETE
    scan = growing.scan()
    assert np.array_equal(scan.counts, simulated.frames)
    assert np.allclose(scan.positions, simulated.positions * 1e10)
    assert scan.geometry.pixel[0] == pytest.approx(simulated.pixel * 1e10, rel=1e-4)
    assert growing.describe() == []


def test_faults_of_a_series_are_counted_and_the_rest_is_kept(simulated, address):
    faults = Faults(lost=(3, 11), twice=(5,), late=(7,), wrong_shape=(9,), damaged=(14,))
    growing = receive(address, simulated, faults)
    here = growing.arrivals
    assert growing.end is FeedEnd.ENDED
    kept = [k for k in range(20) if k not in (3, 9, 11, 14)]
    assert np.array_equal(growing.scan().counts, simulated.frames[kept])
    assert (here.duplicates, here.out_of_order, here.refused, here.lost) == (1, 1, 1, 4)
    said = " ".join(growing.describe())
    assert "4 patterns were lost (numbers 3, 9, 11 ...)" in said
    assert "23 x 24 pixels, not 24 x 24" in said
    assert "cannot be decompressed" in said


def test_a_sender_that_dies_and_a_scan_that_is_aborted_are_told_apart(simulated, address):
    died = receive(address, simulated, Faults(die_after=8), silence=0.5)
    assert died.end is FeedEnd.SILENT
    assert died.describe()[0] == "nothing comes any more after 8 of 20 patterns"
    aborted = receive(address, simulated, Faults(stop_after=8))
    assert aborted.end is FeedEnd.ENDED
    assert aborted.describe()[0] == "the scan ended after 8 of 20 patterns"
    assert len(aborted.scan()) == 8


def test_positions_of_a_table_win_and_what_nobody_says_is_asked_for(simulated, address, tmp_path):
    table = simulated.positions[::-1] * 1e9
    np.savetxt(tmp_path / "places.csv", table, header="y,x", delimiter=",", comments="")
    setup = {"beam": "photon", "positions": str(tmp_path / "places.csv"), "positions_unit": "nm"}
    growing = receive(address, simulated, setup=setup)
    assert np.allclose(growing.scan().positions, table * 10, rtol=1e-4)
    with pytest.raises(BadInput, match=r"does not state energy, .*write a YAML file for --setup with energy"):
        announce_frames("tcp://there:9999", (8, 8), {"beam": "photon"})


def test_nobody_who_sends_is_one_sentence(address):
    with pytest.raises(BadInput, match=r"announces no scan within 0\.2 s: check the address"):
        open_growing(address, setup={"beam": "photon"}, patience=0.2)
    with pytest.raises(BadInput, match="is not an address"):
        open_growing("tcp://nonsense", setup={})


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        ({"energie": "8 keV"}, "energie: is not a knob of this format: did you mean 'energy'"),
        ({"energy": 8000}, "energy: 8000 is not an energy"),
    ],
)
def test_a_mistake_in_the_setup_does_not_cost_a_series(address, setup, sentence, tmp_path):
    for source in (address, tmp_path):
        with pytest.raises(BadInput, match=sentence):
            open_growing(source, setup=setup, patience=0.2)


def test_an_address_without_its_scheme_is_told_from_a_file():
    with pytest.raises(
        BadInput, match="is not a file, and an address begins with tcp://: write tcp://lab:9999"
    ):
        open_growing("lab:9999", patience=0.2)


def test_who_publishes_is_asked_for(address):
    with pytest.raises(BadInput, match=r"armed, and whether it publishes \(PUB\): --subscribe"):
        open_growing(address, setup={"beam": "photon"}, patience=0.2)
    with pytest.raises(BadInput, match=r"whether it pushes \(PUSH\): leave --subscribe out"):
        open_growing(address, setup={"beam": "photon"}, patience=0.2, subscribe=True)


def test_a_raster_is_compared_with_the_patterns_that_are_announced(caplog):
    setup = {"energy": "80 keV", "angle": "1 mrad", "step": "1 A"}
    with pytest.raises(BadInput, match=r"grid: .*slow times fast must be 400\)"):
        announce_frames("tcp://there:9999", (8, 8), {"energy": "80 keV", "angle": "1 mrad"}, count=400)
    with pytest.raises(BadInput) as caught:
        announce_frames("tcp://there:9999", (8, 8), {"energy": "80 keV", "angle": "1 mrad"})
    assert "slow times fast must be" not in str(caught.value)
    announce_frames("tcp://there:9999", (8, 8), setup | {"grid": [20, 20]}, count=400)
    assert not caplog.text
    announce_frames("tcp://there:9999", (8, 8), setup | {"grid": [20, 30]}, count=400)
    assert "grid: 20 x 30 has 600 places, but 400 patterns are announced" in caplog.text


def test_what_was_never_sent_is_not_lost(simulated, address):
    died = receive(address, simulated, Faults(lost=(3,), die_after=8), silence=0.5)
    said = "; ".join(died.describe())
    assert "1 patterns were lost (number 3)" in said
