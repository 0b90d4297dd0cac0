"""Lab exercise 2.1: how GPT-2 splits text into tokens, and how many tokens a text takes.

GPT-2 has 50,257 tokens, which are pieces of words. They were learned from English web pages by byte
pair encoding: merge the most frequent pair of neighbouring tokens, again and again. A frequent word
became a single token, including the space before it. A rare word is split, down to single bytes.
Texts similar to those pages take fewer tokens.

    python lab_tokenizer.py
    python lab_tokenizer.py --text FILE         count the tokens of another text
    python lab_tokenizer.py --model ID_OR_DIR   the tokenizer of another model

Takes seconds. Expect "Hello World" to have the tokens 15496 and 2159, and the Inferno about 2.4
characters per token. The picture is results/lab_tokenizer.png.
"""

from itertools import accumulate

from matplotlib.figure import Figure
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

import bundled
import common
import inferno

MODEL = "openai-community/gpt2"  # the model that the exercise names; only its tokenizer is used
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
COMPARED = ("plain English", "in capitals", "Italian", "Bulgarian")  # a sentence each


def format_pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the texts of the tokens, separated by bars; a dot is a part of a character."""
    pieces = [tokenizer.decode([number]) for number in ids]
    # the bytes of a part of a character are not UTF-8; `decode` replaces them by U+FFFD
    return "|".join(
        "\N{MIDDLE DOT}" if "\ufffd" in piece else repr(piece)[1:-1] for piece in pieces
    )


def print_row(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> float:
    """Print the numbers of characters and tokens of a text, and its tokens; return the ratio."""
    ids = tokenizer(text)["input_ids"]
    ratio = len(text) / max(1, len(ids))
    print(f"{name:15} {len(text):5} {len(ids):6} {ratio:6.2f}  {ids}")
    print(f"{'':36}{format_pieces(tokenizer, ids)}")
    return ratio


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
    folder = common.find_model(arguments.model, MODEL, bundled.gpt2_tokenizer, weights=False)
    text = inferno.load(arguments.text)
    lines = text.splitlines(keepends=True)
    tokenizer = common.load(AutoTokenizer if arguments.model else GPT2Tokenizer, folder)

    with common.errors_in(folder):
        tensor = tokenizer(HELLO_WORLDS[0], return_tensors="pt")["input_ids"]  # (1, tokens)
        print(f"{HELLO_WORLDS[0]!r} as a tensor, for a model: {tensor}\n")
        print(f"{'text':15} {'chars':>5} {'tokens':>6} {'ratio':>6}  ids, and pieces of the text")
        for hello in HELLO_WORLDS:
            print_row(tokenizer, repr(hello), hello)
        ratios = {name: print_row(tokenizer, name, example) for name, example in TEXTS.items()}
        # GPT-2 adds no special tokens; those of other models would count once per line
        options = {"add_special_tokens": False}
        first = [ids[0] for ids in tokenizer(list(HELLO_WORLDS[:3]), **options)["input_ids"]]
        counts = [len(ids) for ids in tokenizer(lines, **options)["input_ids"]]
    ratio = len(text) / max(1, sum(counts))
    total = f"{sum(counts):,} tokens (tokenized line by line)"
    print(f"\nthe text: {len(text):,} characters, {total}, {ratio:.2f} characters per token")
    numbers = ", ".join(map(str, first))
    common.note(f"Hello, hello and hello after a space: {len(set(first))} first tokens, {numbers}")
    shown = ", ".join(f"{ratios[name]:.2f} ({name})" for name in COMPARED)
    common.note(
        f"characters per token: {shown}, {ratio:.2f} (the text); tokens are longest in texts like "
        "those from which the vocabulary was learned"
    )
    draw_lengths(lines, counts)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
