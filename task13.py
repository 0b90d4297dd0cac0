"""Task 13: choose and compute the right metric for a summary, a translation and an answer.

A metric is right if it asks what matters in its task. A summary should hold what the reference
holds, so ROUGE counts the words that it shares with it. A translation may say the same in other
words, so METEOR, which knows stems and synonyms, goes before those that count equal words. An
extracted answer is a piece of a text, either the right one (exact match) or partly so (F1).

    python task13.py

Takes seconds and no network, unless NLTK lacks WordNet, which METEOR takes synonyms from: then it
is fetched once. Expect a ROUGE-1 of 0.772, a METEOR of 0.372 (0.345 without WordNet), and an exact
match of 0.25.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from string import punctuation

import numpy as np

import common

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


class UnicodeWords:
    """A tokenizer for rouge_score, whose own knows no letters but those of English."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Return the runs of letters and digits in lower case."""
        return re.findall(r"[^\W_]+", text.lower())


def rouge(predictions: list[str], references: Sequence[common.Reference]) -> dict[str, float]:
    """Compute the F-measures of ROUGE-1, -2, -L and -Lsum as shares, means over texts (Lin 2004).

    They compare words, pairs of words, the longest common subsequence of words, and that of
    lines. Of several references the one that agrees most counts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, tokenizer=UnicodeWords())
    pairs = common.pair_up(predictions, references)
    scores = [scorer.score_multi(several, text) for text, several in pairs]
    return {name: float(np.mean([each[name].fmeasure for each in scores])) for name in names}


class NoWordNet:
    """What METEOR asks for synonyms where WordNet is not to be had: it finds none."""

    @staticmethod
    def synsets(word: str) -> list:
        """Return no meaning."""
        return []


def find_wordnet() -> object:
    """Return NLTK's WordNet, fetched if need be, or `NoWordNet` with a note."""
    import nltk
    from nltk.corpus import wordnet

    url = nltk.downloader.Downloader.DEFAULT_URL
    with contextlib.suppress(LookupError):
        wordnet.ensure_loaded()
        return wordnet
    try:
        common.reach(url)
        nltk.download("wordnet", quiet=True, raise_on_error=True)  # checks a digest
        wordnet.ensure_loaded()
        return wordnet
    except (common.ScriptError, LookupError, ValueError, OSError) as error:
        common.note(
            f"{common.brief(error)}; METEOR matches exact words and stems only, no synonyms: fetch "
            "WordNet once with `python -m nltk.downloader wordnet`"
        )
        return NoWordNet


def meteor(predictions: list[str], references: Sequence[common.Reference]) -> dict[str, float]:
    """Compute METEOR as a share, the mean over texts (Banerjee and Lavie 2005).

    Words agree if they, their stems or their meanings (WordNet) are the same; recall counts nine
    times as much as precision, and scattered matches are worth less. Of several references the
    best counts.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    pairs, split = common.pair_up(predictions, references), NLTKWordTokenizer().tokenize
    wordnet = find_wordnet()
    scores = [
        meteor_score([split(each) for each in several], split(text), wordnet=wordnet)
        for text, several in pairs
    ]
    return {"meteor": float(np.mean(scores))}


def ter(predictions: list[str], references: Sequence[common.Reference]) -> dict[str, object]:
    """Compute the translation edit rate: edits for 100 words of the reference (Snover et al. 2006).

    The fewer the better, 0 for the same text; it can be above 100.
    """
    return common.sacrebleu_score("TER", predictions, references)


def squad_words(text: str) -> list[str]:
    """Split a text as SQuAD's metrics do: lower case, no punctuation, no English articles."""
    text = "".join(character for character in text.lower() if character not in punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact_match(predictions: list[str], references: Sequence[common.Reference]) -> dict[str, float]:
    """Compute the share of predictions that are one of their references in every word.

    Case, punctuation and articles do not count (Rajpurkar et al. 2016).
    """
    hits = [
        any(squad_words(text) == squad_words(each) for each in several)
        for text, several in common.pair_up(predictions, references)
    ]
    return {"exact_match": float(np.mean(hits))}


def f1(predictions: list[str], references: Sequence[common.Reference]) -> dict[str, float]:
    """Compute the F1 of the words of each prediction, and the mean over them, as a share.

    It is the harmonic mean of precision and recall of the words, wherever they stand, against the
    best of several references (Rajpurkar et al. 2016).
    """

    def agreement(text: str, reference: str) -> float:
        found, wanted = Counter(squad_words(text)), Counter(squad_words(reference))
        if not (found and wanted):
            return float(found == wanted)
        return 2 * (found & wanted).total() / (found.total() + wanted.total())

    scores = [
        max(agreement(text, each) for each in several)
        for text, several in common.pair_up(predictions, references)
    ]
    return {"f1": float(np.mean(scores))}


def main(argv: list[str] | None = None) -> int:
    """Compute the metrics of the three scenarios, the right one first."""
    common.argument_parser(__doc__).parse_args(argv)

    print("Scenario 1, a summary: ROUGE, the share of words, pairs and sequences in common")
    for name, value in rouge(SUMMARY_PREDICTIONS, SUMMARY_REFERENCES).items():
        print(f"{name}: {value}")

    print("\nScenario 2, a translation: METEOR, as another word may be as good")
    texts = TRANSLATION_GENERATED, TRANSLATION_REFERENCE
    print(f"METEOR: {meteor(*texts)['meteor']}")
    bleu = common.bleu(*texts)
    why = "" if bleu["bleu"] else " (no four words in a row are in common)"
    print(f"BLEU: {bleu['bleu']}{why}")
    print(f"sacreBLEU, smoothed, of 100: {common.sacrebleu(*texts)['score']}")
    print(f"chrF, characters, of 100: {common.chrf(*texts)['score']}")
    print(f"TER, edits for 100 words: {ter(*texts)['score']}")

    print("\nScenario 3, an extracted answer: exact match, then F1 for what is partly right")
    answers = ANSWER_PREDICTIONS, ANSWER_REFERENCES
    print(f"exact match: {exact_match(*answers)['exact_match']}")
    print(f"F1 of words: {f1(*answers)['f1']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
