"""Lab exercise 1: baselines for the loss of `dante_gpt.py`, and measures of the text it writes.

The baselines are n-gram models of characters. The measures say how much of a text is copied from
the training text, how many of its words are known, and how well it keeps metre and rhyme.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from statistics import fmean

COPY_LENGTH = 20  # characters in a row that two texts are unlikely to share by chance


def ngram_loss(train: str, validation: str, order: int) -> float:
    """Return the loss of an n-gram model on the validation text, in nats per character.

    The probabilities are smoothed as Witten and Bell (1991) do: after a context seen n times with t
    distinct successors, the model of the next shorter context gets the weight t / (n + t). The
    shortest context falls back on equal probabilities. `order` is the length of the n-grams.
    """
    text, losses = train + validation, []
    vocabulary_size = len(set(text))
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # of the successors of a context
    for end in range(len(train)):
        for start in range(max(0, end - order + 1), end + 1):
            counts[train[start:end]][train[end]] += 1
    totals = {context: successors.total() for context, successors in counts.items()}
    for end in range(len(train), len(text)):
        probability = 1 / vocabulary_size
        for start in range(end, end - order, -1):  # from the empty context to the longest
            context = text[start:end]
            if context not in totals:
                break
            count, distinct = counts[context][text[end]], len(counts[context])
            probability = (count + distinct * probability) / (totals[context] + distinct)
        losses.append(-math.log(probability))
    return fmean(losses)


def fraction(flags: Iterable[bool]) -> float:
    """Return the fraction of flags that are true, and 0 if there are none."""
    flags = list(flags)
    return sum(flags) / max(1, len(flags))


def normalise(text: str) -> str:
    """Return a text in lower case, with each accent as a ` after its vowel, as in the etext."""
    return re.sub("[\u0300\u0301]", "`", unicodedata.normalize("NFD", text.lower()))


def longest_copy(text: str, source: str) -> str:
    """Return the longest part of `text` that occurs in `source`."""
    best = ""
    for start in range(len(text)):
        while start + len(best) < len(text) and text[start : start + len(best) + 1] in source:
            best = text[start : start + len(best) + 1]
    return best


def copied_fraction(text: str, source: str) -> float:
    """Return the fraction of the sequences of `COPY_LENGTH` characters that occur in `source`."""
    starts = range(len(source) - COPY_LENGTH + 1)
    known = {source[start : start + COPY_LENGTH] for start in starts}
    starts = range(len(text) - COPY_LENGTH + 1)
    return fraction(text[start : start + COPY_LENGTH] in known for start in starts)


def known_word_fraction(text: str, source: str) -> float:
    """Return the fraction of the words of `text` that occur in `source`, with equal accents."""
    words, source_words = (re.findall("[^\\W\\d_]+`?", normalise(each)) for each in (text, source))
    vocabulary = set(source_words)
    return fraction(word in vocabulary for word in words)


def count_syllables(verse: str) -> int:
    """Return the number of metrical syllables of an Italian verse, by a simple rule.

    Each run of vowels is one syllable, also across words, and h is silent. A verse that ends in an
    accent has one more. A hiatus (pa-u-ra) is counted as one syllable instead of two.
    """
    letters = re.sub("[^a-z`]|h", "", normalise(verse))
    return len(re.findall("[aeiou`]+", letters)) + letters.endswith("`")


def hendecasyllable_fraction(text: str) -> float:
    """Return the fraction of the verses with 11 syllables, without the headings of cantos."""
    verses = [line for line in text.splitlines() if line.strip() and "Canto " not in line]
    return fraction(count_syllables(verse) == 11 for verse in verses)


def rhyme(verse: str) -> str:
    """Return the rhyming part of a verse: from its last vowel but one, or a final accent."""
    letters = re.sub("[^a-z`]", "", normalise(verse))
    return re.findall("[aeiou]`$|[aeiou][^aeiou`]*[aeiou]?[^aeiou`]*$|$", letters)[0]


def terza_rima_fraction(text: str) -> float:
    """Return the fraction of tercets in terza rima, the rhyme scheme ABA BCB CDC.

    A tercet is a group of three verses between blank lines that is followed by another group. Its
    first and last verse rhyme, and its middle verse rhymes with the first verse of the next group.
    """
    stanzas = [stanza.splitlines() for stanza in re.split("\n\n+", text)]
    rhymes = [[rhyme(verse) for verse in stanza] for stanza in stanzas]
    tercets = [(a, b) for a, b in pairwise(rhymes) if len(a) == len(b) == 3]
    return fraction(a[0] == a[2] and a[1] == b[0] for a, b in tercets)


def measure(text: str, train: str) -> dict[str, str]:
    """Return the measures of a text by their names, as they are printed."""
    return {
        "longest copy from the training text": str(len(longest_copy(text, train))),
        f"stretches of {COPY_LENGTH} characters copied": f"{copied_fraction(text, train):.1%}",
        "words that the training text has": f"{known_word_fraction(text, train):.1%}",
        "verses of eleven syllables": f"{hendecasyllable_fraction(text):.1%}",
        "tercets in terza rima": f"{terza_rima_fraction(text):.1%}",
    }


def print_measures(sample: str, train: str, validation: str) -> None:
    """Print the measures of a sample next to those of the last canto of the validation text."""
    canto = re.split("Canto .*\n", validation)[-1].strip()[: len(sample)]
    of_canto = measure(canto, train)
    print(f"{'':40}{'the sample':>12}{'held-out canto':>17}")
    for name, value in measure(sample, train).items():
        print(f"{name:40}{value:>12}{of_canto[name]:>17}")
