"""The panes without a server: what their widgets hold after they were used."""

import pytest

pytest.importorskip("panel", reason="needs the extra 'web'")

from phaseloom.web.panes.compare import ComparePane
from phaseloom.web.panes.desk import Desk
from phaseloom.web.panes.start import StartPane
from phaseloom.web.state.job_queue import JobQueue

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def desk(tmp_path):
    """The desk of a folder, whose jobs print their command and end."""
    root = tmp_path / "shown"
    root.mkdir()
    return Desk(root, JobQueue(root, command=("echo",)))


def test_empty_tables_are_of_text_so_that_a_browser_shows_what_comes(desk):
    for table in (StartPane(desk).jobs, ComparePane(desk).settings):
        assert set(map(str, table.value.dtypes)) == {"object"}
