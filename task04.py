"""Task 04: summarise a text about the Eiffel Tower in at most 50 tokens.

`pipeline("summarization")` is gone from transformers 5. What it did for the task's checkpoint is
done here step by step: the checkpoint's own settings for summaries (a prefix before the text, a
search along several beams, no phrase twice) with the task's limit of 50 tokens on top. The limit
cuts where it falls, in the middle of a sentence, as in the task's own output.

    python task04.py
    python task04.py --model DIR        a T5 or another encoder-decoder of your own

Takes seconds after a download of 242 MB. Expect one sentence and the beginning of another.
"""

from __future__ import annotations

import common

MODEL = common.HubModel("cnicu/t5-small-booksum", "MIT", 242)  # the one the task names
MAX_LENGTH = 50  # tokens, the one that starts the decoder included
LONG_TEXT = (
    "\nThe tower is 324 metres (1,063 ft) tall, about the same height as an 81-storey building, "
    "and the tallest structure in Paris. Its base is square, measuring 125 metres (410 ft) on each "
    "side. During its construction, the Eiffel Tower surpassed the Washington Monument to become "
    "the tallest man-made structure in the world, a title it held for 41 years until the Chrysler "
    "Building in New York City was finished in 1930. It was the first structure to reach a height "
    "of 300 metres. Due to the addition of a broadcasting aerial at the top of the tower in 1957, "
    "it is now taller than the Chrysler Building by 5.2 metres (17 ft). Excluding transmitters, "
    "the Eiffel Tower is the second tallest free-standing structure in France after the Millau "
    "Viaduct.\n"
)


def main(argv: list[str] | None = None) -> int:
    """Summarise the text."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    model, tokenizer = common.load_pretrained(
        "AutoModelForSeq2SeqLM", arguments.model, MODEL, arguments.device
    )
    print(common.text_to_text(model, tokenizer, LONG_TEXT, "summarization", max_length=MAX_LENGTH))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
