"""Lab exercise 2.1: how GPT-2 cuts text into tokens, and how many it takes.

GPT-2's 50,257 tokens are pieces of words, learnt from English web pages by joining, over and over,
the two neighbours that stood together most often (byte pairs). What was frequent there is a single
token, blank in front included; what was rare falls apart, down to single bytes. So a text costs the
fewer tokens the more it looks like those pages.

    python lab_tokenizer.py
    python lab_tokenizer.py --text FILE         the last line and the picture for another text

Takes seconds. Expect "Hello World" to be tokens 15496 and 2159, and about 2.4 characters of the
Inferno to a token. The picture is results/lab_tokenizer.png.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import common

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = common.HubModel("openai-community/gpt2", "MIT", 3, weights=False)  # the one the task names
HELLO_WORLDS = ("Hello World", "hello World", " hello World", "HelloWorld", "Hello World ")
TEXTS = {  # to compare, each with what it shows
    "plain English": "The weather is nice today.",
    "in capitals": "THE WEATHER IS NICE TODAY.",
    "a rare word": "antidisestablishmentarianism",
    "Italian": "Nel mezzo del cammin di nostra vita",
    "Bulgarian": "Този курс става много интересен.",
    "an emoji": "\N{GRINNING FACE}",
    "code": "for i in range(10):\n    print(i)",
    "digits": "3.14159265358979",
}


def pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of every token between bars; a dot for each that is part of a character."""
    texts = (tokenizer.decode([number]) for number in ids)
    return "|".join("\N{MIDDLE DOT}" if "\ufffd" in text else repr(text)[1:-1] for text in texts)


def print_row(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> None:
    """Print how long a text is in characters and in tokens, and its tokens."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0].tolist()  # (time,)
    print(f"{name:15} {len(text):5} {len(ids):6} {len(text) / len(ids):6.2f}  {ids}")
    print(f"{'':36}{pieces(tokenizer, ids)}")


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """Return how many tokens each text is encoded to."""
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]


def draw_lengths(lines: list[str], counts: list[int]) -> None:
    """Save a picture of tokens against characters: of every line, and of the text up to there."""
    from matplotlib.figure import Figure

    lengths = [len(line) for line in lines]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(lengths, counts, ".", markersize=3, alpha=0.3)
    left.set(xlabel="characters of a line", ylabel="tokens", title="Lines")
    so_far = ([total / 1000 for total in accumulate(some)] for some in (lengths, counts))
    right.plot(*so_far)
    right.set(xlabel="thousand characters so far", ylabel="thousand tokens", title="The whole text")
    common.save_figure(figure, "lab_tokenizer.png")


def main(argv: list[str] | None = None) -> int:
    """Show the tokens of short texts, then the length of a long one."""
    arguments = common.argument_parser(__doc__, "--text", model=MODEL).parse_args(argv)
    folder = common.find_model(arguments.model, MODEL)
    text = common.load_inferno(arguments.text)
    tokenizer = common.load_tokenizer(folder, "GPT2Tokenizer")

    print(f"{'text':15} {'chars':>5} {'tokens':>6} {'ratio':>6}  ids and pieces")
    for hello in HELLO_WORLDS:
        print_row(tokenizer, repr(hello), hello)
    for name, example in TEXTS.items():
        print_row(tokenizer, name, example)
    lines = text.splitlines(keepends=True)
    counts = token_counts(tokenizer, lines)
    ratio = len(text) / sum(counts)
    print(f"\nthe text: {len(text):,} characters, {sum(counts):,} tokens line by line, ", end="")
    print(f"{ratio:.2f} characters to a token")
    draw_lengths(lines, counts)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
