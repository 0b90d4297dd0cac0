"""Task 13: the metrics of the three scenarios."""

from types import SimpleNamespace
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import nltk
import pytest

import common
import task13
from conftest import EXPECTED, Run, only_line

find_wordnet = task13.find_wordnet


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of an installed WordNet, and prevent its download."""
    monkeypatch.setattr(task13, "find_wordnet", lambda: task13.NO_SYNONYMS)


def test_output_equals_the_recorded_one(run: Run) -> None:
    code, output, _ = run("task13")
    assert (code, output) == (0, (EXPECTED / "task13.txt").read_text(encoding="utf-8"))


def test_rouge_is_the_mean_over_texts() -> None:
    found = task13.rouge(["a b c", "x y"], ["a b c d e", "p q"])
    assert found["rouge1"] == pytest.approx((2 * 3 / (3 + 5) + 0) / 2)
    assert found["rouge2"] == pytest.approx((2 * 2 / (2 + 4) + 0) / 2)


def test_answers_are_compared_without_case_punctuation_and_articles() -> None:
    found = common.local_metric(task13.squad).compute(
        predictions=["The  Eiffel Tower!", "an x-ray"], references=["eiffel tower", "the ray"]
    )
    assert found == {"exact_match": 0.5, "f1": 0.5}


def test_f1_counts_a_word_as_often_as_both_texts_have_it() -> None:
    """Of the three words of each text, two are shared; of the two words of its set, one is."""
    assert task13.word_f1("red red blue", "red red green") == pytest.approx(2 / 3)
    assert task13.word_f1("red", "red blue blue") == pytest.approx(2 * 1 * (1 / 3) / (1 + 1 / 3))
    assert task13.word_f1(".", "the") == 0  # no words at all


def test_installed_wordnet_is_used_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = SimpleNamespace(synsets=lambda word: [])
    monkeypatch.setattr(task13, "wordnet", installed)
    monkeypatch.setattr(nltk, "download", None)
    assert find_wordnet() is installed


@pytest.mark.parametrize("damage", [LookupError("not found"), BadZipFile("not a zip file")])
def test_wordnet_that_is_missing_or_damaged_and_no_network_is_a_note(
    damage: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def synsets(word: str) -> None:
        raise damage

    def download(*_: object, **__: object) -> None:
        raise ParseError("the page of a captive portal is not XML")

    monkeypatch.setattr(task13, "wordnet", SimpleNamespace(synsets=synsets))
    monkeypatch.setattr(nltk, "download", download)
    assert find_wordnet() is task13.NO_SYNONYMS
    line = only_line(capsys.readouterr().err, "METEOR matches words and stems, but no synonyms")
    assert "captive portal" in line
    assert "python -m nltk.downloader wordnet" in line
