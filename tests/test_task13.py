"""Task 13: the metrics of the three scenarios."""

from types import SimpleNamespace
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import nltk
import pytest

import task13
from conftest import EXPECTED, Run, only_line


def test_output_equals_the_recorded_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task13, "find_wordnet", lambda: task13.NO_SYNONYMS)
    code, output, _ = run("task13")
    assert (code, output) == (0, (EXPECTED / "task13.txt").read_text(encoding="utf-8"))


def test_rouge_is_the_mean_over_texts() -> None:
    found = task13.rouge(["a b c", "x y"], ["a b c d e", "p q"])
    assert found["rouge1"] == pytest.approx((2 * 3 / (3 + 5) + 0) / 2)
    assert found["rouge2"] == pytest.approx((2 * 2 / (2 + 4) + 0) / 2)


def test_installed_wordnet_is_used_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = SimpleNamespace(synsets=lambda word: [])
    monkeypatch.setattr(task13, "wordnet", installed)
    monkeypatch.setattr(nltk, "download", None)
    assert task13.find_wordnet() is installed


def test_wordnet_that_is_damaged_and_no_network_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def synsets(word: str) -> None:
        raise BadZipFile("not a zip file")

    def download(*_: object, **__: object) -> None:
        raise ParseError("the page of a captive portal is not XML")

    monkeypatch.setattr(task13, "wordnet", SimpleNamespace(synsets=synsets))
    monkeypatch.setattr(nltk, "download", download)
    assert task13.find_wordnet() is task13.NO_SYNONYMS
    line = only_line(capsys.readouterr().err, "METEOR matches words and stems, but no synonyms")
    assert "captive portal" in line
    assert "python -m nltk.downloader wordnet" in line


def test_meteor_is_the_mean_over_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task13, "find_wordnet", lambda: task13.NO_SYNONYMS)
    scores = [task13.meteor(["a b"] * n, ["a b c"] * n)["meteor"] for n in (1, 2)]
    assert scores[1] == pytest.approx(scores[0])
