"""Task 06: translate a sentence from Spanish to Bulgarian.

transformers 5 has no `pipeline("translation")` any more. For a translation model the pipeline
took these steps: tokenize, generate with the checkpoint's own beam search, and decode.

    python task06.py
    python task06.py --model bundled    a small model that is part of this project
    python task06.py --model DIR        another translation model

Takes seconds after a download of 310 MB. Expect one Bulgarian sentence.
"""

from __future__ import annotations

import common
import pretrained

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Trained for this pair of languages: smaller and better than one model for a hundred languages.
MODEL = "Helsinki-NLP/opus-mt-es-bg"
MAX_LENGTH = 512  # tokens of a translation, if the checkpoint does not name a limit
TARGET = ">>bul<<"  # names the language for models that translate to several
SPANISH_TEXT = "Este curso sobre LLMs se está poniendo muy interesante"


def translate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the translation of a text, as `pipeline("translation")` of transformers 4 did."""
    prefix = f"{TARGET} " if TARGET in tokenizer.get_vocab() else ""
    pretrained.check_one_direction(tokenizer)
    inputs = tokenizer(prefix + text, return_tensors="pt").to(model.device)
    pretrained.check_context(model, inputs["input_ids"].shape[1])
    pretrained.clear_generation_settings(model, keep=pretrained.BEAM_SEARCH)
    tokens = model.generate(  # (1, time)
        **inputs,  # a translation model brings its own settings, such as 4 or 6 beams
        max_length=model.generation_config.max_length or MAX_LENGTH,
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def main(argv: list[str] | None = None) -> int:
    """Load the model and print the translation of the sentence."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.TRANSLATOR, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModelForSeq2SeqLM, folder).to(
        common.select_device(arguments.device)
    )
    with common.checkpoint_errors(folder):
        print(translate(model, tokenizer, SPANISH_TEXT))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
