"""Task 06: translate a sentence from Spanish to Bulgarian.

`pipeline("translation")` is gone from transformers 5; what it did for a translation model, a
search along several beams as the checkpoint itself asks for, is done here.

    python task06.py
    python task06.py --model DIR        a translation model of your own

Takes seconds after a download of 310 MB. Expect one Bulgarian sentence.
"""

from __future__ import annotations

import common

# Made for this pair of languages: smaller and better than one model for a hundred of them.
MODEL = common.HubModel("Helsinki-NLP/opus-mt-es-bg", "Apache-2.0", 310)
SPANISH_TEXT = "Este curso sobre LLMs se está poniendo muy interesante"


def main(argv: list[str] | None = None) -> int:
    """Translate the sentence."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    model, tokenizer = common.load_pretrained(
        "AutoModelForSeq2SeqLM", arguments.model, MODEL, arguments.device
    )
    print(common.text_to_text(model, tokenizer, SPANISH_TEXT, "translation_es_to_bg"))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
