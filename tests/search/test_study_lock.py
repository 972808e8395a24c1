"""The lock of a study's journal on a disk that fails."""

import errno
import os

import pytest

from phaseloom.errors import WriteFailed
from phaseloom.search.study import Heartbeat, open_study
from phaseloom.search.study_lock import NamedFileLock


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def lock(tmp_path):
    return NamedFileLock(str(tmp_path / "study.journal"))


def test_a_lock_that_cannot_be_taken_or_released_is_named(lock, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", fail)
        with pytest.raises(WriteFailed, match=r"study\.journal\.lock: cannot be written .*the disk or its"):
            lock.acquire()
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(WriteFailed, match=r"study\.journal\.lock: cannot be written"):
            lock.release()


def test_a_lock_is_released_where_nothing_can_be_renamed(lock, tmp_path, monkeypatch):
    """Its own process would wait for it to grow old."""
    monkeypatch.setattr(os, "rename", fail)
    lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_taken_away_says_so(lock):
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="taken away"):
        lock.release()


def test_a_journal_and_a_clock_that_cannot_be_made_are_named(tmp_path, monkeypatch):
    study = open_study(None, tmp_path, "a")
    heartbeat = Heartbeat(tmp_path, "trials", silence=60)
    monkeypatch.setattr("pathlib.Path.touch", fail)
    with pytest.raises(WriteFailed, match=r"clock: cannot be written"):
        heartbeat.take_back_trials(study)
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(WriteFailed, match=r"study\.journal: cannot be written"):
        open_study(None, tmp_path / "other", "a")
