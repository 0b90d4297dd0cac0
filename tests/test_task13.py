"""Task 13, with the metrics of task 12: the output, and unusual texts and references."""

from __future__ import annotations

from unittest.mock import patch

import common
import task12
import task13

import nltk
import pytest
from conftest import EXPECTED, NOBODY, only_line

METRICS = {  # function, key of its result, best value
    "bleu": (task12.bleu, "bleu", 1),
    "sacreBLEU": (task12.smoothed_bleu, "score", 100),
    "chrF": (task12.chrf, "score", 100),
    "TER": (task13.ter, "score", 0),
    "ROUGE": (task13.rouge, "rouge2", 1),
    "METEOR": (task13.meteor, "meteor", 1),
    "exact match": (task13.exact_match, "exact_match", 1),
    "F1": (task13.f1, "f1", 1),
}
find_wordnet = task13.find_wordnet


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of an installed WordNet, and prevent its download."""
    monkeypatch.setattr(task13, "find_wordnet", lambda: task13.NoSynonyms)


def score(name: str, texts: list[str], references: list) -> float:
    function, key, _ = METRICS[name]
    return common.local_metric(function).compute(predictions=texts, references=references)[key]


def test_output_comes_from_metrics_of_evaluate(capsys: pytest.CaptureFixture) -> None:
    with patch.object(common, "local_metric", wraps=common.local_metric) as local_metric:
        assert task13.main([]) == 0
    functions = {call.args[0] for call in local_metric.call_args_list}
    assert functions == {function for function, _, _ in METRICS.values()}
    assert capsys.readouterr().out == (EXPECTED / "task13.txt").read_text()


@pytest.mark.parametrize("name", METRICS)
def test_metric_handles_other_alphabets_several_references_and_empty_text(name: str) -> None:
    best = pytest.approx(METRICS[name][2], abs=0.01)
    for text in ("Този курс става все по-интересен.", "这 门 课 很 有 意 思"):
        assert score(name, [text], [text]) == best
        assert score(name, [text], ["nothing of that here at all"]) != best
    right, wrong = "it is a very fine day", "quite another thing this was"
    assert score(name, [right, right], [[wrong, right], [right]]) == best
    assert score(name, [""], [right]) == (100 if name == "TER" else 0)


@patch.object(nltk.data, "path", [])
@patch.object(nltk.downloader.Downloader, "DEFAULT_URL", NOBODY)
@patch.object(common, "NETWORK_TIMEOUT", 0.1)
def test_missing_wordnet_is_reported_in_a_note(capsys: pytest.CaptureFixture) -> None:
    assert find_wordnet() is task13.NoSynonyms
    line = only_line(capsys.readouterr().err, "METEOR")
    assert "no answer from 127.0.0.1:9; METEOR matches exact words and stems" in line
    assert "python -m nltk.downloader wordnet" in line


def test_words_of_any_script_and_of_several_sentences() -> None:
    for texts, expected in (
        (("\u0915\u093f", "\u0915\u0940"), 0.0),
        (("caf\u00e9", "cafe\u0301"), 1.0),
    ):
        assert task13.rouge([texts[0]], [texts[1]])["rouge1"] == expected
    assert (
        len(task13.UnicodeTokenizer.tokenize("\u0437\u0430\u0301\u043c\u044a\u043a")) == 1
    )  # Cyrillic, stressed
    found = task13.meteor(["He came home. He slept."], ["He came home, and he slept."])
    assert found["meteor"] == pytest.approx(0.7454, abs=5e-5)  # as with word_tokenize
