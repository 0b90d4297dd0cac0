"""Task 06: translate a sentence from Spanish to Bulgarian.

transformers 5 has no `pipeline("translation")` any more. The script takes the pipeline's steps:
split the text into tokens, generate the tokens of the translation, and join them to a text.

    python task06.py
    python task06.py "El tren sale a las ocho"        translate your own Spanish sentence
    python task06.py --model bundled                  a small model that is part of this project
    python task06.py --model NAME                     another one, of the Hub or in a folder

Takes seconds, after a download of 310 MB. Expect one Bulgarian sentence. The bundled model has few
parameters and makes mistakes: it leaves out "sobre LLMs".
"""

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common

# Trained for this pair of languages: smaller and better than one model for a hundred languages.
MODEL = "Helsinki-NLP/opus-mt-es-bg"
TARGET = ">>bul<<"  # names the target language for models with several, such as the bundled one
NUM_BEAMS = 4  # as in the settings of this model
MAX_LENGTH = 512  # tokens of the translation, if the settings of the model contain no limit
SPANISH_TEXT = "Este curso sobre LLMs se está poniendo muy interesante"


def translate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the translation of a text, as `pipeline("translation")` of transformers 4 did.

    Greedy search takes the most likely token each time, and cannot take back a bad beginning. Beam
    search keeps the `NUM_BEAMS` most likely beginnings, continues each of them with every token,
    and keeps the most likely ones again. In the end it returns the most likely translation.
    """
    prefix = f"{TARGET} " if TARGET in tokenizer.get_vocab() else ""
    inputs = tokenizer(prefix + text, return_tensors="pt").to(model.device)  # (1, time)
    common.check_length(model, tokenizer, inputs["input_ids"].shape[1])
    longest = model.generation_config.max_length or MAX_LENGTH
    tokens = model.generate(  # (1, time)
        **inputs,
        num_beams=NUM_BEAMS,  # beam search
        do_sample=False,  # no random choice: a text always has the same translation
        max_length=min(longest, common.context_length(model, tokenizer)),  # stop a text without end
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def main(argv: list[str] | None = None) -> int:
    """Load the model and print the translation of the sentence."""
    parser = common.argument_parser(__doc__, "--device", model=MODEL)
    parser.add_argument(
        "spanish_text", nargs="?", type=common.not_empty, default=SPANISH_TEXT, metavar="TEXT"
    )
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.translator)
    tokenizer = common.load(AutoTokenizer, folder)
    device = common.select_device(arguments.device)
    model = common.load(AutoModelForSeq2SeqLM, folder).to(device)
    with common.errors_in(folder):
        print(common.printable(translate(model, tokenizer, arguments.spanish_text)))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
