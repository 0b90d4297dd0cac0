"""Task 12: translate Spanish sentences to English and evaluate the translations.

The metric is BLEU. It compares a translation with one or more references, here two, by the n-grams
of 1 to 4 words that they share; 1 is the best value. It is computed over all sentences together,
with the 13a tokenization that is standard in machine translation (it separates punctuation from
words). Two more metrics are printed on standard error, with signatures that describe their
settings. sacreBLEU is BLEU from 0 to 100 with smoothing. chrF compares characters, so it accepts
other word endings.

    python task12.py
    python task12.py --model bundled    a small model that is part of this project
    python task12.py --model DIR        another translation model

Takes seconds after a download of 316 MB. The statement shows two translations without
their BLEU. It is 0.7599 for the first, and 0.8628 for both together.
"""

from __future__ import annotations

import math
import sys
from itertools import zip_longest
from typing import Any

import common
import pretrained

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Trained for this pair of languages: smaller and better than one model for a hundred languages.
MODEL = "Helsinki-NLP/opus-mt-es-en"
MAX_LENGTH = 512  # tokens of a translation, if the checkpoint does not name a limit
TARGET = ">>eng<<"  # names the language for models that translate to several
INPUT_SENTENCE_1 = "Hola, ¿cómo estás?"
REFERENCE_1 = [["Hello, how are you?", "Hi, how are you?"]]
INPUT_SENTENCES_2 = ["Hola, ¿cómo estás?", "Estoy genial, gracias."]
REFERENCES_2 = [
    ["Hello, how are you?", "Hi, how are you?"],
    ["I'm great, thanks.", "I'm great, thank you."],
]

References = list[str] | list[list[str]]  # of each prediction: one, or a list of several


def translate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str) -> str:
    """Return the translation of a sentence, as task 06 computes it."""
    prefix = f"{TARGET} " if TARGET in tokenizer.get_vocab() else ""
    pretrained.check_one_direction(tokenizer)
    inputs = tokenizer(prefix + sentence, return_tensors="pt").to(model.device)
    pretrained.check_context(model, inputs["input_ids"].shape[1])
    pretrained.clear_generation_settings(model, keep=pretrained.BEAM_SEARCH)
    tokens = model.generate(  # (1, time)
        **inputs,  # with the beams that the checkpoint names
        max_length=model.generation_config.max_length or MAX_LENGTH,
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def as_lists(references: References) -> list[list[str]]:
    """Return the references of each prediction as a list."""
    return [[each] if isinstance(each, str) else list(each) for each in references]


def transpose(references: References) -> list[list[str | None]]:
    """Return the first references of all predictions, then the second ones, and so on.

    This is the order that sacrebleu takes, with None for a prediction that has fewer references.
    """
    return [list(column) for column in zip_longest(*as_lists(references))]


def bleu(predictions: list[str], references: References) -> dict[str, Any]:
    """Compute BLEU from 0 to 1, without smoothing: 0 if no four words in a row are shared.

    The n-gram counts are summed over all texts (Papineni et al. 2002; Post 2018).
    """
    score = BLEU().corpus_score(predictions, transpose(references))
    counts = zip(score.counts, score.totals, strict=True)
    precisions = [count / total if total else 0.0 for count, total in counts]  # of 1- to 4-grams
    mean = math.exp(sum(map(math.log, precisions)) / 4) if all(precisions) else 0.0
    return {"bleu": score.bp * mean, "precisions": precisions, "brevity_penalty": score.bp}


def corpus_score(metric: Metric, predictions: list[str], references: References) -> dict[str, Any]:
    """Compute a metric of sacrebleu; its signature names everything that the score depends on."""
    score = metric.corpus_score(predictions, transpose(references)).score
    return {"score": score, "signature": str(metric.get_signature())}


def smoothed_bleu(predictions: list[str], references: References) -> dict[str, Any]:
    """Compute BLEU from 0 to 100, smoothed, so that one zero precision does not make it 0.

    A text of fewer than four tokens has a BLEU of 0 nevertheless.
    """
    return corpus_score(BLEU(), predictions, references)


def chrf(predictions: list[str], references: References) -> dict[str, Any]:
    """Compute chrF2 from 0 to 100, on character sequences of length 1 to 6 (Popović 2015)."""
    return corpus_score(CHRF(), predictions, references)


def evaluate_translations(name: str, predictions: list[str], references: list[list[str]]) -> float:
    """Return BLEU from 0 to 1; print sacreBLEU and chrF on standard error."""
    for label, function in (("sacreBLEU", smoothed_bleu), ("chrF", chrf)):
        metric = common.local_metric(function)
        result = metric.compute(predictions=predictions, references=references)
        print(f"{name}: {label} {result['score']:.2f} ({result['signature']})", file=sys.stderr)
    metric = common.local_metric(bleu)
    return metric.compute(predictions=predictions, references=references)["bleu"]


def main(argv: list[str] | None = None) -> int:
    """Translate the sentences and compare them with their references."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.TRANSLATOR, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModelForSeq2SeqLM, folder).to(
        common.select_device(arguments.device)
    )

    with common.checkpoint_errors(folder):
        translation = translate(model, tokenizer, INPUT_SENTENCE_1)
        translations = [translate(model, tokenizer, sentence) for sentence in INPUT_SENTENCES_2]
    print(f'Translation for "input_sentence_1": {translation}')
    score = evaluate_translations("input_sentence_1", [translation], REFERENCE_1)
    print(f'Metric for "input_sentence_1": {score}')
    print(f'Translations for "input_sentence_2": {translations}')
    score = evaluate_translations("input_sentence_2", translations, REFERENCES_2)
    print(f'Metric for "input_sentence_2": {score}')
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
