"""Task 12: translate Spanish sentences to English and evaluate the translations.

The metric is BLEU, the standard one for translations. It compares a translation with one or more
references, here two, by the n-grams (sequences of 1 to 4 words) that they share. 1 is the best
value. Its words are those of the 13a tokenization, which separates punctuation. Split at spaces,
"you?" would differ from "you", and short sentences would share hardly any n-gram.

    python task12.py
    python task12.py --model bundled    a small model that is part of this project
    python task12.py --model NAME       another translation model

Takes seconds, after a download of 316 MB for the default model. The statement shows translations
without their BLEU. It is 0.7598 for the first, and 0.8628 for both together. Expect 1.0 twice from
the bundled model. That says little: they are two short greetings, and its training data may
contain such greetings.
"""

import math
from typing import Any

from sacrebleu.metrics import BLEU
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common

# Trained for this pair of languages: smaller and better than one model for a hundred languages.
MODEL = "Helsinki-NLP/opus-mt-es-en"
NUM_BEAMS = 4  # translations that beam search extends side by side, see task 06
MAX_LENGTH = 512  # tokens of a translation, if the checkpoint does not name a limit
TARGET = ">>eng<<"  # names the language for models that translate to several
INPUT_SENTENCE_1 = "Hola, ¿cómo estás?"
REFERENCE_1 = [["Hello, how are you?", "Hi, how are you?"]]  # two for the one translation
INPUT_SENTENCES_2 = ["Hola, ¿cómo estás?", "Estoy genial, gracias."]
REFERENCES_2 = [
    ["Hello, how are you?", "Hi, how are you?"],
    ["I'm great, thanks.", "I'm great, thank you."],
]


def translate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str) -> str:
    """Return the translation of a sentence, as task 06 computes it."""
    prefix = f"{TARGET} " if TARGET in tokenizer.get_vocab() else ""
    inputs = tokenizer(prefix + sentence, return_tensors="pt").to(model.device)  # (1, time)
    common.check_length(model, tokenizer, inputs["input_ids"].shape[1])
    longest = model.generation_config.max_length or MAX_LENGTH
    tokens = model.generate(  # (1, time)
        **inputs,
        num_beams=NUM_BEAMS,  # beam search
        do_sample=False,  # no random choice: a text always has the same translation
        max_length=min(longest, common.context_length(model, tokenizer)),  # stop a text without end
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def bleu(predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
    """Compute BLEU from 0 to 1 (Papineni et al. 2002), with a list of references per prediction.

    The precision of an n is the fraction of the predictions' n-grams that a reference contains,
    counted over all texts together. BLEU is the geometric mean of the four precisions times the
    brevity penalty. The penalty is below 1 if the predictions are shorter than the references: a
    text of a few safe words would have a high precision.
    """
    # sacrebleu takes the first references of all predictions, then the second ones, and so on
    columns = [list(column) for column in zip(*references, strict=True)]
    score = BLEU(smooth_method="none").corpus_score(predictions, columns)
    precisions = [precision / 100 for precision in score.precisions]  # of n = 1, 2, 3, 4
    # score.score is 100 times this product, but rounding makes it 100.00000000000004 at best
    value = score.bp * math.prod(precisions) ** (1 / 4)
    return {"bleu": value, "precisions": precisions, "brevity_penalty": score.bp}


def main(argv: list[str] | None = None) -> int:
    """Translate the sentences and compare them with their references."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.translator)
    tokenizer = common.load(AutoTokenizer, folder)
    device = common.select_device(arguments.device)
    model = common.load(AutoModelForSeq2SeqLM, folder).to(device)
    metric = common.local_metric(bleu)

    with common.errors_in(folder):
        translation = translate(model, tokenizer, INPUT_SENTENCE_1)
        translations = [translate(model, tokenizer, sentence) for sentence in INPUT_SENTENCES_2]
    print(f'Translation for "input_sentence_1": {common.printable(translation)}')
    result = metric.compute(predictions=[translation], references=REFERENCE_1)
    print(f'Metric for "input_sentence_1": {result["bleu"]}')
    print(f'Translations for "input_sentence_2": {translations}')
    result = metric.compute(predictions=translations, references=REFERENCES_2)
    print(f'Metric for "input_sentence_2": {result["bleu"]}')
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
