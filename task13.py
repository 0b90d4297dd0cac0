"""Task 13: choose and compute the right metric for a summary, a translation and an answer.

The right metric depends on the task:

- A summary should contain the content of the reference, so ROUGE counts the words they share.
- A translation may use other words. METEOR knows word stems and synonyms, so it is better than
  BLEU, which counts equal sequences of one to four words. BLEU is printed below it for comparison.
- An extracted answer is a part of a text. Exact match measures whether it is right, and F1 whether
  it is partly right.

    python task13.py

Takes seconds. METEOR needs WordNet for synonyms; if NLTK does not have it, it is downloaded once.
Expect a ROUGE-1 of 0.772, a METEOR of 0.372 (0.345 without WordNet) and an exact match of 0.25.
"""

import contextlib
import io
import socket
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import nltk
from nltk.corpus import wordnet
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import squad as squad_scores

import common
from task12 import bleu

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
TIMEOUT = 10  # seconds that NLTK waits for its server
NO_SYNONYMS = SimpleNamespace(synsets=lambda word: [])  # instead of WordNet, for METEOR


def rouge(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Compute the F-measures of ROUGE, from 0 to 1, means over texts (Lin 2004).

    ROUGE-1 and -2 compare words and pairs of words, ROUGE-L the longest common subsequence of
    words, and ROUGE-Lsum that of each line.
    """
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names)
    scores = [
        scorer.score(reference, prediction)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {name: fmean(score[name].fmeasure for score in scores) for name in names}


def find_wordnet() -> Any:
    """Return NLTK's WordNet, downloaded if necessary, or `NO_SYNONYMS` with a note."""
    with contextlib.suppress(Exception):  # a file is missing or damaged
        wordnet.synsets("well")
        return wordnet
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with common.errors_in("WordNet cannot be downloaded"):
            nltk.download("wordnet", raise_on_error=True, print_error_to=io.StringIO())
            wordnet.synsets("well")
        return wordnet
    except common.ScriptError as error:
        fix = "run `python -m nltk.downloader wordnet` with a network"
        common.note(f"{error}; METEOR matches words and stems, but no synonyms; {fix}")
        return NO_SYNONYMS


def meteor(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Compute METEOR from 0 to 1, the mean over texts (Banerjee and Lavie 2005).

    Words match if they are equal, have the same stem, or are synonyms in WordNet. Recall counts
    nine times as much as precision, and scattered matches count less.
    """
    synonyms, split = find_wordnet(), NLTKWordTokenizer().tokenize
    scores = [
        meteor_score([split(reference)], split(prediction), wordnet=synonyms)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {"meteor": fmean(scores)}


def squad(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Compute the fraction of right answers and the mean F1 of words (Rajpurkar et al. 2016).

    Case, punctuation and English articles do not count.
    """
    answers, targets = [], []
    for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        answers.append({"id": str(number), "prediction_text": prediction})
        targets.append({"id": str(number), "answers": {"text": [reference]}})
    percentages = squad_scores(answers, targets)  # float32, so only the first digits are exact
    return {name: round(value.item() / 100, 6) for name, value in percentages.items()}


def main(argv: list[str] | None = None) -> int:
    """Compute the metrics of the three scenarios, the right one first."""
    common.argument_parser(__doc__).parse_args(argv)

    print("Scenario 1, a summary: ROUGE, the overlap of words, pairs and sequences")
    metric = common.local_metric(rouge)  # with the interface of the library evaluate
    scores = metric.compute(predictions=SUMMARY_PREDICTIONS, references=SUMMARY_REFERENCES)
    for name, value in scores.items():
        print(f"{name}: {value}")

    print("\nScenario 2, a translation: METEOR, because another word may be equally good")
    metric = common.local_metric(meteor)
    scores = metric.compute(predictions=TRANSLATION_GENERATED, references=TRANSLATION_REFERENCE)
    print(f"METEOR: {scores['meteor']}")
    scores = bleu(TRANSLATION_GENERATED, [TRANSLATION_REFERENCE])  # one list for each text
    print(f"BLEU: {scores['bleu']} (no four words in a row are in common)")

    print("\nScenario 3, an extracted answer: exact match, then F1 for partly right answers")
    metric = common.local_metric(squad)
    scores = metric.compute(predictions=ANSWER_PREDICTIONS, references=ANSWER_REFERENCES)
    print(f"exact match: {scores['exact_match']}")
    print(f"F1 of words: {scores['f1']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
