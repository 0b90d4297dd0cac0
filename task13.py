"""Task 13: choose and compute the right metric for a summary, a translation and an answer.

The right metric depends on the task:

- A summary should contain the content of the reference, so ROUGE counts the words they share.
- A translation may use other words, so METEOR, which knows word stems and synonyms, is better than
  metrics that count equal words. Other metrics are printed below it for comparison.
- An extracted answer is a part of a text. Exact match measures whether it is right, and F1 whether
  it is partly right.

    python task13.py

Takes seconds. METEOR needs WordNet for synonyms; if NLTK does not have it, it is downloaded once.
Expect a ROUGE-1 of 0.772, a METEOR of 0.372 (0.345 without WordNet) and an exact match of 0.25.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter
from statistics import fmean
from string import punctuation
from typing import Any

import common
from task12 import References, as_lists, bleu, chrf, corpus_score, smoothed_bleu

import nltk
from nltk.corpus import wordnet
from nltk.tokenize import NLTKWordTokenizer, PunktSentenceTokenizer
from nltk.tokenize.punkt import PunktParameters
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import TER

SUMMARY_PREDICTIONS = [
    "Pluto is a dwarf planet in our solar system, located in the Kuiper Belt beyond Neptune, and "
    "was formerly considered the ninth planet until its reclassification in 2006."
]
SUMMARY_REFERENCES = [
    "Pluto is a dwarf planet in the solar system, located in the Kuiper Belt beyond Neptune, and "
    "was previously deemed as a planet until it was reclassified in 2006."
]
TRANSLATION_GENERATED = [
    "The burrow stretched forward like a narrow corridor for a while, then plunged abruptly "
    "downward, so quickly that Alice had no chance to stop herself before she was tumbling into an "
    "extremely deep shaft."
]
TRANSLATION_REFERENCE = [
    "The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, "
    "so suddenly that Alice had not a moment to think about stopping herself before she found "
    "herself falling down a very deep well."
]
ANSWER_PREDICTIONS = [
    "It's a wonderful day",
    "I love dogs",
    "DataCamp has great AI courses",
    "Sunshine and flowers",
]
ANSWER_REFERENCES = [
    "What a wonderful day",
    "I love cats",
    "DataCamp has great AI courses",
    "Sunsets and flowers",
]

ABBREVIATIONS = PunktParameters()  # a full stop after them does not end a sentence
ABBREVIATIONS.abbrev_types = {"mr", "mrs", "ms", "dr", "prof", "st", "u.s", "e.g", "i.e", "vs"}


class UnicodeTokenizer:
    """A tokenizer for rouge_score, whose own tokenizer drops all letters but a to z."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Return the sequences of letters and digits, in lower case.

        Combining marks, such as the vowel signs of Hindi, belong to their letter.
        """
        text = unicodedata.normalize("NFC", text.lower())  # é is one letter, however it is encoded
        kinds = {character: unicodedata.category(character) for character in text}
        visible = [character for character in text if kinds[character] != "Cf"]  # no soft hyphens
        return "".join(c if kinds[c][0] in "LMN" else " " for c in visible).split()


def rouge(predictions: list[str], references: References) -> dict[str, float]:
    """Compute the F-measures of ROUGE-1, -2, -L and -Lsum from 0 to 1, means over texts (Lin 2004).

    They compare words, pairs of words, the longest common subsequence of words, and that of each
    line. With several references, the one with the highest score counts.
    """
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, tokenizer=UnicodeTokenizer())
    pairs = zip(predictions, as_lists(references), strict=True)
    scores = [scorer.score_multi(several, text) for text, several in pairs]
    return {name: fmean(score[name].fmeasure for score in scores) for name in names}


class NoSynonyms:
    """A replacement for WordNet that knows no synonyms."""

    @staticmethod
    def synsets(word: str) -> list[Any]:
        """Return an empty list of meanings."""
        return []


def find_wordnet() -> Any:
    """Return NLTK's WordNet, downloaded if necessary, or `NoSynonyms` with a note."""
    with contextlib.suppress(LookupError):
        wordnet.ensure_loaded()
        return wordnet
    try:
        common.check_server(nltk.downloader.Downloader.DEFAULT_URL)
        nltk.download("wordnet", quiet=True, raise_on_error=True)  # checks a digest
        wordnet.ensure_loaded()
        return wordnet
    except (common.ScriptError, LookupError, ValueError, OSError) as error:
        common.note(
            f"{common.first_line(error)}; METEOR matches exact words and stems, but no synonyms. "
            "Download WordNet once with `python -m nltk.downloader wordnet`"
        )
        return NoSynonyms


def split_words(text: str) -> list[str]:
    """Return the words and the punctuation marks of a text, as NLTK's `word_tokenize` does.

    The text is split into sentences first, because the word tokenizer separates a full stop only at
    the end of its input.
    """
    sentences = PunktSentenceTokenizer(ABBREVIATIONS).tokenize(unicodedata.normalize("NFC", text))
    return [word for sentence in sentences for word in NLTKWordTokenizer().tokenize(sentence)]


def meteor(predictions: list[str], references: References) -> dict[str, float]:
    """Compute METEOR from 0 to 1, the mean over texts (Banerjee and Lavie 2005).

    Words match if they are equal, have the same stem, or are synonyms in WordNet. Recall counts
    nine times as much as precision, and scattered matches count less. With several references, the
    one with the highest score counts.
    """
    synonyms = find_wordnet()
    scores = [
        meteor_score([split_words(each) for each in several], split_words(text), wordnet=synonyms)
        for text, several in zip(predictions, as_lists(references), strict=True)
    ]
    return {"meteor": fmean(scores)}


def ter(predictions: list[str], references: References) -> dict[str, Any]:
    """Compute the translation edit rate: edits per 100 words of the reference (Snover et al. 2006).

    Lower is better: 0 for equal texts. It can be above 100.
    """
    return corpus_score(TER(), predictions, references)


def squad_words(text: str) -> list[str]:
    """Split a text as the SQuAD metrics do: lower case, no punctuation, no English articles."""
    text = unicodedata.normalize("NFC", text.lower())
    text = "".join(character for character in text if character not in punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact_match(predictions: list[str], references: References) -> dict[str, float]:
    """Compute the fraction of predictions with the words of a reference (Rajpurkar et al. 2016)."""
    matches = [
        any(squad_words(text) == squad_words(each) for each in several)
        for text, several in zip(predictions, as_lists(references), strict=True)
    ]
    return {"exact_match": fmean(matches)}


def word_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the words of a prediction."""
    predicted, expected = Counter(squad_words(prediction)), Counter(squad_words(reference))
    if not (predicted and expected):
        return float(predicted == expected)
    shared = (predicted & expected).total()
    return 2 * shared / (predicted.total() + expected.total())


def f1(predictions: list[str], references: References) -> dict[str, float]:
    """Compute the mean F1 of the words of each prediction and of its best reference."""
    scores = [
        max(word_f1(text, each) for each in several)
        for text, several in zip(predictions, as_lists(references), strict=True)
    ]
    return {"f1": fmean(scores)}


def main(argv: list[str] | None = None) -> int:
    """Compute the metrics of the three scenarios, the right one first."""
    common.argument_parser(__doc__).parse_args(argv)

    print("Scenario 1, a summary: ROUGE, the overlap of words, pairs and sequences")
    metric = common.local_metric(rouge)
    scores = metric.compute(predictions=SUMMARY_PREDICTIONS, references=SUMMARY_REFERENCES)
    for name, value in scores.items():
        print(f"{name}: {value}")

    print("\nScenario 2, a translation: METEOR, because another word may be equally good")
    translation = {"predictions": TRANSLATION_GENERATED, "references": TRANSLATION_REFERENCE}
    print(f"METEOR: {common.local_metric(meteor).compute(**translation)['meteor']}")
    unsmoothed = common.local_metric(bleu).compute(**translation)["bleu"]
    reason = "" if unsmoothed else " (no four words in a row are in common)"
    print(f"BLEU: {unsmoothed}{reason}")
    for name, function in (
        ("sacreBLEU, smoothed, of 100", smoothed_bleu),
        ("chrF, characters, of 100", chrf),
        ("TER, edits for 100 words", ter),
    ):
        print(f"{name}: {common.local_metric(function).compute(**translation)['score']}")

    print("\nScenario 3, an extracted answer: exact match, then F1 for partly right answers")
    answers = {"predictions": ANSWER_PREDICTIONS, "references": ANSWER_REFERENCES}
    print(f"exact match: {common.local_metric(exact_match).compute(**answers)['exact_match']}")
    print(f"F1 of words: {common.local_metric(f1).compute(**answers)['f1']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
