"""Dante's Inferno, for labs 1 and 2.1: find, clean and load the text; n-gram baselines; measures.

The measures show how much of a sample is copied from the training text, how many of its words are
known, and how well it keeps metre and rhyme.
"""

import hashlib
import html
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import common

# --- 1. The text -------------------------------------------------------------------------------

FILE = "1ddcd09.txt"  # Project Gutenberg's etext of the first cantica, 7-bit, 9th edition
SOURCES = (  # tried in this order
    f"https://archive.org/download/ladivinacommedia00997gut/{FILE}",
    "https://raw.githubusercontent.com/melizo4ka/DLA-labs/"
    f"02982275108b78aa84d8cfc8d43fcc81c0a9502c/{FILE}",
)
SHA256 = "6691b66b95d84ca00c85e863980f2b5d9238f01ec117489f36c48f08490371db"  # cleaned text
START, END = "Nel mezzo del cammin", "riveder le stelle."
VERSES = common.DATA / "verses.txt"  # verses in terza rima, written for this project


def clean_text(text: str) -> str:
    """Return a text without trailing whitespace, or the poem alone if the text contains it.

    In an HTML page, such as the archive's, only the content of <pre> is used. The poem is the
    edition used in RESULTS.md, without the header and the footer of the file.
    """
    if re.match(r"\s*<(!doctype|html|pre)\b", text, re.IGNORECASE):
        preformatted = re.search(r"<pre\b[^>]*>(.*)</pre>", text, re.IGNORECASE | re.DOTALL)
        text = html.unescape(re.sub(r"<[^>]*>", "", preformatted[1])) if preformatted else ""
        text = text.replace("\xa0", " ")  # HTML pages use non-breaking spaces
    text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
    start = text.find(START)
    poem = text[start : text.find(END, start) + len(END)]
    return poem if is_poem(poem) else text


def is_poem(text: str) -> bool:
    """Return whether a cleaned text is the edition of the Inferno with the published figures."""
    return hashlib.sha256(text.encode()).hexdigest() == SHA256


def find() -> Path:
    """Return `DATA/dante/1ddcd09.txt`, downloaded if necessary.

    Without a network, return the verses of this project, with a note on standard error.
    """
    path, failures = common.DATA / "dante" / FILE, []
    if path.exists():
        return path
    for url in SOURCES:
        try:
            with common.complete_path(path) as temporary_path:
                common.download(url, None, temporary_path)
                if not is_poem(clean_text(common.read_text(temporary_path))):
                    raise common.ScriptError(f"the file at {url} is not the poem")
            return path
        except common.ScriptError as error:
            failures.append(str(error))
    common.note(
        f"{'; '.join(failures)}; using {VERSES}, verses written for this project, instead of the "
        "Inferno. Run again with a network, or name a text file with --text FILE"
    )
    return VERSES


def load(path: Path | None = None) -> str:
    """Load the text in the file `path`, or Dante's Inferno: see `clean_text`, `find`.

    Prints a note if the file contains another text, or more than the Inferno. Raises `ScriptError`
    naming the file if it cannot be read or contains no text.
    """
    file = path or find()
    whole = common.read_text(file)
    text = clean_text(whole)
    if not text:
        raise common.ScriptError(
            f"{file}: no text; the file is empty, or an HTML page without an element <pre>"
        )
    if not is_poem(text) and file != VERSES:
        common.note(f"{file}: not the edition of the Inferno used for the figures in RESULTS.md")
    elif len(whole) > 1.2 * len(text):  # more than the head and the foot of an etext
        common.note(f"{file}: only the Inferno is used, {len(text):,} of {len(whole):,} characters")
    return text


# --- 2. Baselines and measures ------------------------------------------------------------------

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
    starts = range(len(text) - COPY_LENGTH + 1)
    return fraction(text[start : start + COPY_LENGTH] in source for start in starts)


def known_word_fraction(text: str, source: str) -> float:
    """Return the fraction of the words of `text` that occur in `source`, with equal accents."""
    words, source_words = (re.findall("[^\\W\\d_]+`?", normalise(part)) for part in (text, source))
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
    """Return the rhyming part of a verse: from its second-to-last vowel, or a final accent."""
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
    return fraction(
        a[0] == a[2] and a[1] == b[0] and "" not in (a[0], a[1])  # "...", for example, has no rhyme
        for a, b in tercets
    )


def measure(text: str, train: str) -> dict[str, float]:
    """Return the measures of a text: the length of the longest copy, and four fractions."""
    return {
        "longest copy from the training text": len(longest_copy(text, train)),
        f"copied {COPY_LENGTH}-character sequences": copied_fraction(text, train),
        "words that the training text has": known_word_fraction(text, train),
        "verses of eleven syllables": hendecasyllable_fraction(text),
        "tercets in terza rima": terza_rima_fraction(text),
    }


def print_measures(sample: str, train: str, validation: str) -> None:
    """Print the measures of a sample next to those of the last canto of the validation text.

    Two notes on standard error explain the table.
    """
    canto = re.split("Canto .*\n", validation)[-1].strip()[: len(sample)]
    of_sample, of_canto = measure(sample, train), measure(canto, train)
    print(f"{'':40}{'the sample':>12}{'held-out canto':>17}")
    for name, value in of_sample.items():
        shown = [str(x) if isinstance(x, int) else f"{x:.1%}" for x in (value, of_canto[name])]
        print(f"{name:40}{shown[0]:>12}{shown[1]:>17}")
    for line in read_measures(list(of_sample.values()), list(of_canto.values())):
        common.note(line)


def read_measures(sample: list[float], canto: list[float]) -> list[str]:
    """Return two sentences about the measures of a sample, which are in the order of `measure`.

    The model has never read the canto, so its values are those of new verses by Dante.
    """
    copy, _, *skills = zip(sample, canto, strict=True)
    copied = "parts are" if copy[0] > max(2 * copy[1], COPY_LENGTH) else "the sample is not"
    parts = []
    for name, (value, goal) in zip(("spelling", "metre", "rhyme"), skills, strict=True):
        degree = "" if value > 0.9 * goal else "partly " if value > 0.3 * goal else "not "
        parts.append(f"{name} is {degree}learned ({value:.0%}; canto {goal:.0%})")
    return [
        f"{copied} copied: at most {copy[0]} characters in a row, and {copy[1]} in the canto",
        ", ".join(parts),
    ]
