"""The metrics, each against the library that defines it and against a hand-worked example."""

from __future__ import annotations

import importlib
import math
import subprocess
from collections.abc import Callable

import pytest
from conftest import only_line

import common
import task12
import task13

PAIRED = [name for name in common.METRICS if name != "perplexity"]
BEST = {name: 1.0 for name in ("bleu", "meteor", "exact_match", "f1", "rouge1", "rouge2")}
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test depend on whether this machine has WordNet, or fetch it."""
    monkeypatch.setattr(task13, "find_wordnet", lambda: task13.NoWordNet)


def score(name: str, predictions: list[str], references: list[common.Reference]) -> float:
    """Return the first figure of a metric, by way of the interface of evaluate."""
    result = common.load_metric(name).compute(predictions=predictions, references=references)
    return next(iter(result.values()))


# BLEU


def test_bleu_of_the_statement_s_translations() -> None:
    metric = common.load_metric("bleu")
    one = metric.compute(predictions=["Hey, how are you?"], references=task12.REFERENCE_1)
    assert one["bleu"] == pytest.approx(0.7598356856515925, abs=1e-15)
    assert one["bleu"] == pytest.approx((1 / 3) ** 0.25)
    two = metric.compute(
        predictions=["Hey, how are you?", "I'm great, thanks."], references=task12.REFERENCES_2
    )
    assert two["bleu"] == pytest.approx(0.8627788640890415, abs=1e-15)


def test_bleu_by_hand() -> None:
    # "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, as long as the reference
    metric = common.load_metric("bleu")
    result = metric.compute(predictions=["a b c d e"], references=[["a b c d f"]])
    assert result["precisions"] == pytest.approx([4 / 5, 3 / 4, 2 / 3, 1 / 2])
    assert result["bleu"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    # a shorter one: all its words are there, but e to the 1 - 6/4 is taken for the missing two
    result = metric.compute(predictions=["a b c d"], references=[["a b c d e f"]])
    assert (
        result["bleu"]
        == pytest.approx(result["brevity_penalty"])
        == pytest.approx(math.exp(1 - 6 / 4))
    )


def test_bleu_agrees_with_nltk_on_any_number_of_references() -> None:
    from nltk.translate.bleu_score import corpus_bleu

    predictions = ["the cat sat on the mat", "I like green tea very much", "what a day it was"]
    references = [
        ["the cat is on the mat", "a cat sat on the mat today"],
        ["I like green tea"],
        ["what a day", "oh what a day it was", "it was a day"],
    ]
    expected = corpus_bleu(
        [[text.split() for text in texts] for texts in references],
        [text.split() for text in predictions],
    )
    found = common.load_metric("bleu").compute(predictions=predictions, references=references)
    assert found["bleu"] == pytest.approx(expected)


def test_bleu_without_a_common_sequence_of_four_is_zero() -> None:
    found = common.load_metric("bleu").compute(predictions=["a b"], references=[["a b"]])
    assert found["bleu"] == 0.0


def test_a_metric_has_the_interface_of_evaluate() -> None:
    import evaluate

    metric = common.load_metric("bleu")
    assert isinstance(metric, evaluate.Metric)
    assert "Papineni" in metric.description
    metric.add(prediction="Hey, how are you?", reference=task12.REFERENCE_1[0])
    assert metric.compute()["bleu"] == pytest.approx(0.7598356856515925)


# The scenarios of task 13


def test_the_figures_of_task_13_are_those_known() -> None:
    rouge = task13.rouge(task13.SUMMARY_PREDICTIONS, task13.SUMMARY_REFERENCES)
    assert rouge["rouge1"] == pytest.approx(0.7719298245614034, abs=1e-9)
    assert rouge["rouge2"] == pytest.approx(0.6181818181818182, abs=1e-9)
    assert rouge["rougeL"] == rouge["rougeLsum"] == pytest.approx(0.736842105263158, abs=1e-9)
    texts = task13.TRANSLATION_GENERATED, task13.TRANSLATION_REFERENCE
    assert task13.meteor(*texts)["meteor"] == pytest.approx(0.34519240396489, abs=1e-9)
    assert common.bleu(*texts)["bleu"] == 0.0
    assert common.sacrebleu(*texts)["score"] == pytest.approx(7.937, abs=1e-3)
    answers = task13.ANSWER_PREDICTIONS, task13.ANSWER_REFERENCES
    assert task13.exact_match(*answers)["exact_match"] == 0.25
    assert task13.f1(*answers)["f1"] == pytest.approx(0.75, abs=1e-9)


def test_task_13_prints_the_right_metric_first(capsys: pytest.CaptureFixture) -> None:
    assert task13.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [lines[place + 1] for place, line in enumerate(lines) if line.startswith("Scenario")]
    assert [line.split(":")[0] for line in first] == ["rouge1", "METEOR", "exact match"]
    assert "BLEU: 0.0 (no four words in a row are in common)" in lines


# Each against its library, and by hand


def test_rouge_agrees_with_its_library_and_by_hand() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    predictions = ["The cat's mat, on 2 mats.\nIt sat.", "no word of it"]
    references = ["A cat sat on the mat.\nIt was 2 o'clock.", "every letter"]
    pairs = zip(references, predictions, strict=True)
    expected = [scorer.score(reference, text) for reference, text in pairs]
    found = task13.rouge(predictions, references)
    for name, value in found.items():
        assert value == pytest.approx(sum(each[name].fmeasure for each in expected) / 2)
    # "a b c" and "a c b d": three words in common, of 3 and of 4; no pair; "a c" in that order
    found = task13.rouge(["a b c"], ["a c b d"])
    assert found["rouge1"] == pytest.approx(2 * 3 / (3 + 4))
    assert found["rouge2"] == 0.0
    assert found["rougeL"] == pytest.approx(2 * 2 / (3 + 4))


@pytest.mark.parametrize("name", ["chrf", "ter", "sacrebleu"])
def test_a_score_of_sacrebleu_is_its_own(name: str) -> None:
    import sacrebleu

    predictions = ["the cat sat", "green tea it is"]
    references = [["the cat is sat", "a cat sat"], ["it is green tea", "it is tea"]]
    streams = [list(each) for each in zip(*references, strict=True)]
    library = {"chrf": "corpus_chrf", "ter": "corpus_ter", "sacrebleu": "corpus_bleu"}[name]
    expected = getattr(sacrebleu, library)(predictions, streams).score
    assert score(name, predictions, references) == pytest.approx(expected)


def test_ter_by_hand() -> None:
    assert score("ter", ["a b x d"], ["a b c d"]) == pytest.approx(100 / 4)  # one word of four
    assert score("ter", ["c d a b"], ["a b c d"]) == pytest.approx(100 / 4)  # one stretch moved


def test_chrf_by_hand() -> None:
    # "ab" and "ac": one character of two, no pair of one: precision and recall are 1/2 and 0
    assert score("chrf", ["ab"], ["ac"]) == pytest.approx(100 * (1 / 2 + 0) / 2)


def test_meteor_agrees_with_nltk_and_by_hand() -> None:
    from nltk.translate.meteor_score import meteor_score

    split = ["the", "dogs", "ran", "home", "."], ["a", "dog", "ran", "home", "."]
    expected = meteor_score([split[1]], split[0], wordnet=task13.NoWordNet)
    assert score("meteor", ["The dogs ran home."], ["A dog ran home."]) == pytest.approx(expected)
    # "a b c d" and "a b x d": 3 of 4 words agree, in two stretches, so the penalty is 1/2 (2/3)^3
    assert score("meteor", ["a b c d"], ["a b x d"]) == pytest.approx(
        3 / 4 * (1 - (2 / 3) ** 3 / 2)
    )


def test_f1_by_hand() -> None:
    # "a" is an article; of "b c" and "c d" one word agrees, in any order, once each
    assert task13.f1(["a b c"], ["c d"])["f1"] == pytest.approx(1 / 2)
    assert task13.f1(["c c"], ["c d"])["f1"] == pytest.approx(1 / 2)
    assert task13.f1(["the", "the"], ["a", "b"])["f1"] == pytest.approx(1 / 2)  # nothing is nothing


# What no metric may pass over in silence


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(
    ("predictions", "references"), [([], []), (["a"], []), (["a", "b"], ["a"]), (["a"], [[]])]
)
def test_what_is_not_paired_is_an_error(name: str, predictions: list, references: list) -> None:
    with pytest.raises(common.ScriptError, match="reference"):
        common.load_metric(name).compute(predictions=predictions, references=references)
    with pytest.raises(common.ScriptError, match="reference"):
        getattr(importlib.import_module(common.METRICS[name]), name)(predictions, references)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(
    "text", ["Този курс става все по-интересен.", "这 门 课 很 有 意 思", "É così, perché no?"]
)
def test_letters_of_other_languages_count(name: str, text: str) -> None:
    same, other = score(name, [text], [text]), score(name, [text], ["nothing of that here at all"])
    assert same == pytest.approx({"ter": 0, "chrf": 100, "sacrebleu": 100}.get(name, 1.0), abs=0.01)
    assert other != pytest.approx(same, abs=0.1)


@pytest.mark.parametrize("name", PAIRED)
def test_the_best_of_several_references_counts_and_their_number_may_differ(name: str) -> None:
    right, wrong = "it is a very fine day", "quite another thing this was"
    single = score(name, [right, right], [right, right])
    several = score(name, [right, right], [[wrong, right], [right]])
    assert several == pytest.approx(single)


@pytest.mark.parametrize("name", PAIRED)
def test_an_empty_text_agrees_with_none(name: str) -> None:
    assert score(name, [""], ["some words are here"]) == (100.0 if name == "ter" else 0.0)


# WordNet


def test_without_wordnet_it_says_what_meteor_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.undo()
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(common, "answers", lambda _: False)
    assert task13.find_wordnet() is task13.NoWordNet
    line = only_line(capsys.readouterr().err, "METEOR")
    assert "no answer from raw.githubusercontent.com" in line
    assert "exact words and stems only" in line
    assert "python -m nltk.downloader wordnet" in line


def test_a_wordnet_that_cannot_be_fetched_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.undo()
    import nltk

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Integrity check failed")

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(common, "answers", lambda _: True)
    monkeypatch.setattr(nltk, "download", fail)
    assert task13.find_wordnet() is task13.NoWordNet
    assert "Integrity check failed; METEOR" in capsys.readouterr().err
