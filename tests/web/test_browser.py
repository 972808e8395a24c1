"""The page in a real browser, from nothing: look, start, watch, steer, branch, compare, a near field.

With ``PHASELOOM_PICTURES`` the pictures are kept in that folder.
"""

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Provenance
from phaseloom.runs.control import read_answers, send_command
from phaseloom.web.record import write_record

pytestmark = pytest.mark.slow

SETTINGS = """
probe: {focused: {semiangle: 40 mrad, defocus: 60 A}}
start: none
batch: {random: {size: 8}}
epochs: 3000
patience: null
"""


@pytest.fixture(scope="module")
def root(files, finished, tmp_path_factory):
    """A folder with an electron scan, a finished run, and a run of a near field."""
    root = tmp_path_factory.mktemp("browsed") / "data"
    root.mkdir()
    shutil.copy(files.native, root / "scan.h5")
    shutil.copytree(finished.directory, root / "runs" / "a")
    shutil.copytree(finished.directory, root / "runs" / "b")
    near = Reconstruct.of({"file": str(files.near), "start": "none", "epochs": 2, "title": "hologram"})
    for _ in Job.begin(near, root / "runs" / "near"):
        pass
    return root


class Browser:
    """A page in a browser, with what it complained of."""

    def __init__(self, chromium, served, width):
        self.served = served
        self.complaints = []
        self.requests = []
        self.context = chromium.new_context(viewport={"width": width, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(served.address)
        self.page.get_by_role("button", name="List again").wait_for()

    def listen(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def tab(self, name):
        self.page.locator(".bk-tab", has_text=re.compile(f"^{name}$")).click()

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def fill(self, label, text):
        field = self.page.get_by_label(label, exact=True)
        field.fill(text)
        field.blur()

    def wait_for_status(self, text):
        self.page.get_by_role("status").filter(has_text=re.compile(text)).first.wait_for()

    def picture(self, name):
        folder = os.environ.get("PHASELOOM_PICTURES")
        if folder:
            self.page.wait_for_timeout(1500)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def close(self):
        self.context.close()


@pytest.fixture
def browse(chromium, serve, root):
    opened = []
    served = serve(root)

    def open_page(width=1280):
        opened.append(Browser(chromium, served, width))
        return opened[-1]

    yield open_page
    for one in opened:
        one.close()
        assert one.complaints == []
        own = f"http://127.0.0.1:{served.port}/"
        assert [url for url in one.requests if not url.startswith((own, "blob:", "data:"))] == []
    assert "Traceback" not in served.log.read_text()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    assert found
    return found


def test_from_a_file_to_a_branched_run(browse, root):
    browser = browse()
    page = browser.page
    browser.tab("Files")
    page.get_by_label("Folders and files").select_option("scan.h5")
    browser.press("Open")
    page.get_by_text("patterns of 24 x 24 pixels").first.wait_for()
    browser.press("Make direct image")
    browser.picture("web-files")
    browser.press("Reconstruct it ...")
    text = page.get_by_label("Parameter file (YAML)")
    browser.fill("Parameter file (YAML)", text.input_value() + SETTINGS)
    browser.wait_for_status("the form is complete")
    page.get_by_label("semiangle (required)").wait_for()
    browser.fill("semiangle (required)", "40")
    page.get_by_role("alert").filter(has_text="40 is not an angle").wait_for()
    assert page.get_by_role("button", name="Run", exact=True).is_disabled()
    browser.fill("semiangle (required)", "40 mrad")
    browser.wait_for_status("the form is complete")
    browser.picture("web-start")
    browser.fill("Name of the run", "started")
    browser.press("Run")
    run = until(lambda: next((p.parent for p in root.glob("runs/*started/run.yaml")), None))
    page.wait_for_timeout(1500)
    browser.press("Watch job")
    browser.wait_for_status("running: epoch")
    first = page.get_by_role("status").first.inner_text()
    until(lambda: page.get_by_role("status").first.inner_text() != first)

    steer_and_branch(browser, run)
    send_command(run, "stop")
    until((run / "result.h5").is_file, 120)
    branch = run.with_name("branched")
    until((branch / "events.jsonl").is_file, 120)
    send_command(branch, "stop")
    until((branch / "result.h5").is_file, 120)


def steer_and_branch(browser, run):
    browser.press("Pause")
    browser.wait_for_status("paused: epoch")
    browser.picture("web-watch")
    browser.fill("Setting", "rates.object")
    browser.fill("New value", "0.11")
    browser.press("Change")
    until(
        lambda: (
            "object: 0.11" in (run / "run.yaml").read_text()
            or "rates.object: 0.11" in (run / "run.yaml").read_text()
        )
    )
    browser.press("Resume")
    browser.wait_for_status("running: epoch")
    browser.fill("New run", "branched")
    browser.fill("Its changes (YAML)", "{epochs: 4000}")
    browser.press("Branch")
    until(run.with_name("branched").joinpath("run.yaml").is_file)
    assert all(one.accepted for one in read_answers(run).values())


def test_finished_runs_are_watched_compared_and_annotated(browse, root):
    browser = browse(2560)
    page = browser.page
    page.locator(".tabulator-row").first.wait_for()
    browser.fill("Only runs with", "runs/a")
    until(lambda: page.locator(".tabulator-row").count() == 1)
    page.locator(".tabulator-row input[type=checkbox]").first.click()
    browser.fill("Tags, separated by commas", "good, thin")
    browser.press("Save tags and notes")
    until((root / "runs" / "a" / "notes.yaml").is_file)
    page.locator(".tabulator-row", has_text="good, thin").first.wait_for()
    browser.picture("web-runs")
    browser.press("Watch")  # of the run that is still ticked
    browser.wait_for_status("ended: epoch 4 of 4")
    browser.press("Show pattern")
    browser.wait_for_status("pattern 0, colours")
    for kind in ("Amplitude", "Error bar", "Phase"):
        browser.press(kind)
    with page.expect_download() as download:
        page.get_by_text("Export as HTML").click()
    assert download.value.suggested_filename.endswith(".html")
    browser.tab("Runs")
    browser.fill("Only runs with", "near")
    page.locator(".tabulator-row", has_text="hologram").first.wait_for()
    browser.fill("Only runs with", "")
    page.locator(".tabulator-row", has_text="runs/b").first.wait_for()
    for name in ("runs/a", "runs/b"):
        page.locator(".tabulator-row", has_text=name).first.locator("input[type=checkbox]").click()
    browser.press("Compare")
    page.get_by_label("Fourier ring correlation").first.wait_for()
    page.wait_for_timeout(2000)
    browser.picture("web-compare")


def test_a_near_field_is_watched(browse):
    browser = browse()
    browser.tab("Watch")
    browser.page.get_by_label("Run", exact=True).select_option("runs/near")
    browser.wait_for_status("ended: epoch 2 of 2")
    browser.press("Show pattern")
    browser.wait_for_status("pattern 0, colours")


def test_a_result_is_opened_right_after_it_was_chosen(browse):
    browser = browse()
    browser.tab("Files")
    for name in ("runs/", "a/", "result.h5"):
        browser.page.get_by_label("Folders and files").locator("option", has_text=name).first.wait_for(
            state="attached"
        )
        browser.page.get_by_label("Folders and files").select_option(name)
        browser.press("Open")
    browser.wait_for_status("ended: epoch 4 of 4")
    assert "_pending_writes" not in browser.served.log.read_text()


def test_new_runs_appear_and_clusters_of_latents_are_looked_at(browse, root, files):
    browser = browse(1600)
    page = browser.page
    page.locator(".tabulator-row", has_text="runs/a").first.wait_for()
    shutil.copytree(root / "runs" / "a", root / "runs" / "appeared")
    page.locator(".tabulator-row", has_text="runs/appeared").first.wait_for()
    shutil.rmtree(root / "runs" / "appeared")
    scan = files.scan
    half = (np.arange(len(scan)) >= len(scan) // 2).astype(np.float32)
    made = Provenance.now(seed=0, data=scan.digest(), file="scan.h5")
    latents = np.stack([half + scan.positions[:, 0] / 20, half - scan.positions[:, 1] / 20], 1)
    ones = np.ones(len(scan))
    ScanEmbedding(latents, ones, ones, scan.positions, None, made).write(root / "latents.h5")
    browser.tab("Files")
    files_of_folder = page.get_by_label("Folders and files")
    files_of_folder.locator("option", has_text="latents.h5").first.wait_for(state="attached")
    files_of_folder.select_option("latents.h5")
    browser.press("Open")
    cluster = page.get_by_label("Cluster", exact=True)
    cluster.locator("option", has_text="0: ").first.wait_for(state="attached")
    figure = page.get_by_role("figure", name="Clusters over the scan")
    figure.wait_for()
    page.wait_for_timeout(1000)
    box = figure.bounding_box()
    page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
    browser.wait_for_status("mean pattern of cluster")
    page.get_by_role("figure", name=re.compile("Mean pattern of cluster")).wait_for()
    browser.picture("web-latents")


def test_a_page_whose_server_has_ended_says_so(browse):
    browser = browse()
    browser.page.wait_for_timeout(1000)
    browser.served.process.terminate()
    browser.page.get_by_text("connection was lost").wait_for()
    browser.complaints.clear()  # of a websocket that nobody answers


def test_a_job_is_shown_with_its_state_and_command(browse, root):
    browser = browse()
    browser.tab("Start")
    browser.fill("Parameter file (YAML)", "file: scan.h5\n" + SETTINGS.replace("3000", "2"))
    browser.wait_for_status("the form is complete")
    browser.fill("Name of the run", "listed")
    browser.press("Run")
    until(lambda: next(root.glob("runs/*listed/result.h5"), None), 120)
    row = browser.page.locator(".tabulator-row", has_text="reconstruct").first
    row.filter(has_text="done").wait_for()
    assert "NaN" not in row.inner_text()


def test_everything_that_is_used_has_a_name_and_is_reached_by_keys(browse):
    browser = browse()
    for name in ("Runs", "Files", "Start", "Watch", "Compare"):
        browser.tab(name)
        browser.page.wait_for_timeout(700)
        nameless = browser.page.evaluate(NAMELESS)
        assert nameless == [], name
    browser.page.keyboard.press("Tab")
    assert browser.page.evaluate("document.activeElement !== document.body")
    assert browser.page.locator("html").get_attribute("lang") == "en"


NAMELESS = """() => {
  const found = [];
  const visit = root => root.querySelectorAll('*').forEach(one => {
    if (one.shadowRoot) visit(one.shadowRoot);
    if (!['INPUT', 'SELECT', 'TEXTAREA', 'BUTTON'].includes(one.tagName) || one.offsetParent === null) return;
    if (one.closest('.tabulator, .bk-Toolbar, .noUi-base, .bk-spin-btn')) return;
    const label = one.labels && one.labels.length || one.getAttribute('aria-label') || one.title;
    const named = label || one.textContent;
    if (!named) found.push(one.outerHTML.slice(0, 200));
  });
  visit(document);
  return found;
}"""


def test_ten_pages_watch_one_run(browse):
    browsers = [browse() for _ in range(10)]
    for browser in browsers:
        browser.tab("Watch")
        browser.page.get_by_label("Run", exact=True).select_option("runs/a")
    for browser in browsers:
        browser.wait_for_status("ended: epoch 4 of 4")


def test_an_exported_run_opens_without_a_server(chromium, finished, tmp_path):
    pytest.importorskip("panel", reason="needs the extra 'web'")
    write_record(finished.directory, tmp_path / "run.html")
    page = chromium.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto((tmp_path / "run.html").as_uri())
    page.locator(".bk-Figure").first.wait_for()
    assert page.locator(".bk-Figure").count() >= 4
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
