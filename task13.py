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


def main(argv: list[str] | None = None) -> int:
    """Compute the metrics of the three scenarios, the right one first."""
    common.argument_parser(__doc__).parse_args(argv)

    print("Scenario 1, a summary: ROUGE, the share of words, pairs and sequences in common")
    rouge = common.rouge(SUMMARY_PREDICTIONS, SUMMARY_REFERENCES)
    for name, value in rouge.items():
        print(f"{name}: {value}")

    print("\nScenario 2, a translation: METEOR, as another word may be as good")
    texts = TRANSLATION_GENERATED, TRANSLATION_REFERENCE
    print(f"METEOR: {common.meteor(*texts)['meteor']}")
    bleu = common.bleu(*texts)
    why = "" if bleu["bleu"] else " (no four words in a row are in common)"
    print(f"BLEU: {bleu['bleu']}{why}")
    print(f"sacreBLEU, smoothed, of 100: {common.sacrebleu(*texts)['score']}")
    print(f"chrF, characters, of 100: {common.chrf(*texts)['score']}")
    print(f"TER, edits for 100 words: {common.ter(*texts)['score']}")

    print("\nScenario 3, an extracted answer: exact match, then F1 for what is partly right")
    answers = ANSWER_PREDICTIONS, ANSWER_REFERENCES
    print(f"exact match: {common.exact_match(*answers)['exact_match']}")
    print(f"F1 of words: {common.f1(*answers)['f1']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
