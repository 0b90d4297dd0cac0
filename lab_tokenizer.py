"""Lab exercise 2.1: how GPT-2 splits text into tokens, and how many tokens a text takes.

GPT-2 has 50,257 tokens, which are pieces of words. They were learned from English web pages by byte
pair encoding: merge the most frequent pair of neighbouring tokens, again and again. A frequent word
became a single token, including the space before it. A rare word is split, down to single bytes.
Texts similar to those pages take fewer tokens.

    python lab_tokenizer.py
    python lab_tokenizer.py --text FILE         the last line and the picture for another text

Takes seconds. Expect "Hello World" to have the tokens 15496 and 2159, and the Inferno about 2.4
characters per token. The picture is results/lab_tokenizer.png.
"""

from __future__ import annotations

from itertools import accumulate

import common
import lab_common
import pretrained

from matplotlib.figure import Figure
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

MODEL = "openai-community/gpt2"  # the model that the exercise names; only its tokenizer is used
# Files that name the class of a tokenizer. GPT-2's vocabulary is also found without them.
SETTINGS = ("tokenizer.json", "tokenizer_config.json", "config.json")
HELLO_WORLDS = ("Hello World", "hello World", " hello World", "HelloWorld", "Hello World ")
TEXTS = {  # one for each kind of text
    "plain English": "The weather is nice today.",
    "in capitals": "THE WEATHER IS NICE TODAY.",
    "a rare word": "antidisestablishmentarianism",
    "Italian": "Nel mezzo del cammin di nostra vita",
    "Bulgarian": "Този курс става много интересен.",
    "an emoji": "\N{GRINNING FACE}",
    "code": "for i in range(10):\n    print(i)",
    "digits": "3.14159265358979",
}


def format_pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the texts of the tokens, separated by bars; a dot is a part of a character."""
    pieces = []
    for number, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        is_marked = token.startswith(
            "\u2581"
        )  # a space of SentencePiece, which `decode` may remove
        pieces.append(token.replace("\u2581", " ") if is_marked else tokenizer.decode([number]))
    return "|".join(
        "\N{MIDDLE DOT}" if "\ufffd" in piece else repr(piece)[1:-1] for piece in pieces
    )


def print_row(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> None:
    """Print the lengths of a text in characters and in tokens, and its tokens."""
    ids = tokenizer(text)["input_ids"]
    print(f"{name:15} {len(text):5} {len(ids):6} {len(text) / max(1, len(ids)):6.2f}  {ids}")
    print(f"{'':36}{format_pieces(tokenizer, ids)}")


def draw_lengths(lines: list[str], counts: list[int]) -> None:
    """Draw tokens against characters: for each line, and summed over the lines so far."""
    lengths = [len(line) for line in lines]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(lengths, counts, ".", markersize=3, alpha=0.3)
    left.set(xlabel="characters of a line", ylabel="tokens", title="Lines")
    sums = ([total / 1000 for total in accumulate(column)] for column in (lengths, counts))
    right.plot(*sums)
    right.set(xlabel="thousand characters so far", ylabel="thousand tokens", title="The whole text")
    common.save_figure(figure, common.RESULTS / "lab_tokenizer.png")


def main(argv: list[str] | None = None) -> int:
    """Print the tokens of short texts, then the number of tokens of a long text."""
    arguments = common.argument_parser(__doc__, "--text", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(
        arguments.model, pretrained.GPT2_VOCABULARY, MODEL, weights=False
    )
    text = lab_common.load_inferno(arguments.text)
    has_settings = any((folder / name).exists() for name in SETTINGS)
    tokenizer = pretrained.load(AutoTokenizer if has_settings else GPT2Tokenizer, folder)

    lines = text.splitlines(keepends=True)
    with common.checkpoint_errors(folder):
        print(f"{'text':15} {'chars':>5} {'tokens':>6} {'ratio':>6}  ids and pieces")
        for hello in HELLO_WORLDS:
            print_row(tokenizer, repr(hello), hello)
        for name, example in TEXTS.items():
            print_row(tokenizer, name, example)
        # GPT-2 adds no special tokens; those of other models would count once per line
        counts = [len(ids) for ids in tokenizer(lines, add_special_tokens=False)["input_ids"]]
    ratio = len(text) / max(1, sum(counts))
    print(f"\nthe text: {len(text):,} characters, {sum(counts):,} tokens line by line, ", end="")
    print(f"{ratio:.2f} characters to a token")
    draw_lengths(lines, counts)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
