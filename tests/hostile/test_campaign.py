"""A short part of the campaign in every test run, a longer one in the slow tier; `make fuzz` takes hours."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.campaign import CORPUS, Campaign, format_table
from tests.hostile.oracle import FAILURES, Verdict, is_sentence
from tests.hostile.readers import known_formats, read_case

FOUND = [(name, number) for name, number in json.loads(CORPUS.read_text())]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with warnings.catch_warnings(), Campaign(tmp_path_factory.mktemp("campaign")) as made:
        warnings.simplefilter("ignore")
        yield made


@pytest.mark.parametrize("name", known_formats())
def test_every_whole_file_is_read(name: str, tmp_path: Path) -> None:
    path = known_formats()[name].write(tmp_path)
    assert read_case(name, path)[0] is Verdict.ACCEPTED, read_case(name, path)


@pytest.mark.medium
def test_a_campaign_leaves_the_log_of_its_process_as_it_was(tmp_path: Path) -> None:
    with Campaign(tmp_path, commands=False):
        assert not logging.getLogger("phaseloom").isEnabledFor(logging.ERROR)
    assert logging.getLogger("phaseloom").isEnabledFor(logging.WARNING)


def test_a_sentence_is_one_line_of_plain_words() -> None:
    assert is_sentence("a.npy: is not whole: save it again with numpy.save")
    for text in ("", "two\nlines", "x" * 2000, "Input should be 1", "a <class 'int'>", "torch.Size([1])"):
        assert not is_sentence(text)


def test_the_table_counts_failures_by_kind() -> None:
    counts = {"own: a": {"accepted": 2, "one sentence": 3, "traceback": 1}}
    assert "| own: a | 6 | 3 | 2 | 1 traceback |" in format_table(counts)


@pytest.mark.medium
def test_a_few_cases_of_every_group_in_process(campaign: Campaign) -> None:
    failed = [
        (group.name, number, verdict, why)
        for group in campaign.in_process
        for number, verdict, why in campaign.run_batch(group, 0, 3)
        if verdict in FAILURES
    ]
    assert not failed, failed


@pytest.mark.medium
@pytest.mark.parametrize(("name", "number"), FOUND, ids=[f"{name} {number}" for name, number in FOUND])
def test_cases_that_were_found_stay_mended(campaign: Campaign, name: str, number: int) -> None:
    verdict, why = campaign.run_one(name, number)
    assert verdict not in FAILURES, why


@pytest.mark.slow
def test_hundreds_of_cases(campaign: Campaign) -> None:
    failed = []
    for group in campaign.in_process:
        failed += [(group.name, *case) for case in campaign.run_batch(group, 0, 40) if case[1] in FAILURES]
    for group in campaign.commands:
        failed += [(group.name, *case) for case in campaign.run_commands(group, 0, 4) if case[1] in FAILURES]
    assert not failed, failed
