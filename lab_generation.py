"""Lab exercise 2.2: what greedy search, temperature, top-k and top-p do to the text of GPT-2.

Greedy search soon goes round in circles: after a sentence that has just been repeated, repeating it
again is likelier still. So it has few different pairs of tokens (distinct-2), a long stretch that
occurs twice, and a low perplexity: nothing surprises the model. The higher the temperature, the
flatter the distribution that tokens are drawn from: repetitions vanish, and perplexity and entropy
climb, at last to noise. Top-k and top-p cut off the long tail of unlikely tokens, where most of the
nonsense comes from, and keep the variety among the likely ones.

    python lab_generation.py
    python lab_generation.py --quick                one text a setting instead of five
    python lab_generation.py --model DIR            another decoder

A few minutes after a download of 551 MB. The picture is results/lab_generation.png.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any

import common
from task11 import MODEL  # GPT-2, which the task names too

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

PROMPT = "Who knows if God exists, but for sure I"
MAX_NEW_TOKENS = 80
TEXTS, QUICK_TEXTS = 5, 1  # drawn for a setting, each with a seed of its own
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
SETTINGS: dict[str, dict[str, Any]] = {"greedy": {}}
SETTINGS |= {f"temperature {t}": {"do_sample": True, "temperature": t} for t in TEMPERATURES}
SETTINGS |= {  # both at temperature 1
    "top-k 50": {"do_sample": True, "top_k": 50},
    "top-p 0.9": {"do_sample": True, "top_p": 0.9},
}
MEASURES = ("distinct-2", "longest repeat", "perplexity", "entropy")


def distinct_2(tokens: list[int]) -> float:
    """Return how many of the pairs of neighbours are different, as a share (Li et al. 2016)."""
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / max(1, len(pairs))


def longest_repeat(tokens: list[int]) -> int:
    """Return how many tokens the longest stretch has that occurs twice, overlaps included."""
    longest = 0
    for length in range(1, len(tokens)):
        stretches = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
        if len(set(stretches)) == len(stretches):
            break
        longest = length
    return longest


def surprise(model: PreTrainedModel, tokens: torch.Tensor, start: int) -> tuple[float, float]:
    """Return the perplexity of `tokens[start:]`, (time,), and the mean entropy before each.

    Both are the model's own, at temperature 1: how unlikely the tokens were, and how undecided it
    was, in nats, whatever followed.
    """
    with torch.inference_mode():
        logits = model(tokens[None]).logits[0, start - 1 : -1]  # (new, vocabulary)
    log_shares = logits.log_softmax(-1)
    loss = -log_shares.gather(1, tokens[start:, None]).mean()
    return float(loss.exp()), float(-(log_shares.exp() * log_shares).sum(-1).mean())


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> tuple[torch.Tensor, int]:
    """Continue the prompt; return all tokens, (time,), and how many of them are the prompt's."""
    settings |= {"max_new_tokens": MAX_NEW_TOKENS, "min_new_tokens": 2}  # two make a pair
    return common.generate_tokens(model, tokenizer, PROMPT, **settings)


def measure(model: PreTrainedModel, tokens: torch.Tensor, start: int) -> dict[str, float]:
    """Return the `MEASURES` of `tokens[start:]`."""
    new = tokens[start:].tolist()
    figures = (distinct_2(new), longest_repeat(new), *surprise(model, tokens, start))
    return dict(zip(MEASURES, figures, strict=True))


def draw_measures(rows: dict[str, dict[str, float]]) -> None:
    """Save a picture of every measure against the temperature, greedy search at 0."""
    from matplotlib.figure import Figure

    temperatures = [0.0, *TEMPERATURES]
    names = ["greedy", *(f"temperature {t}" for t in TEMPERATURES)]
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, measure in zip(figure.subplots(2, 2).flat, MEASURES, strict=True):
        axes.plot(temperatures, [rows[name][measure] for name in names], "o-")
        axes.set(title=measure, xlabel="temperature (0: greedy)")
        if measure == "perplexity":
            axes.set_yscale("log")
    common.save_figure(figure, "lab_generation.png")


def main(argv: list[str] | None = None) -> int:
    """Write and measure texts with every setting."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", model=MODEL)
    arguments = parser.parse_args(argv)
    model, tokenizer = common.load_pretrained(
        "AutoModelForCausalLM", arguments.model, MODEL, arguments.device
    )
    rows = {}
    for name, settings in SETTINGS.items():
        texts = (QUICK_TEXTS if arguments.quick else TEXTS) if settings else 1  # greedy has one
        measured = []
        for seed in range(arguments.seed, arguments.seed + texts):
            common.seed_everything(seed)
            tokens, start = write(model, tokenizer, **settings)
            measured.append(measure(model, tokens, start))
            if seed == arguments.seed:
                print(f"{name}:\n{tokenizer.decode(tokens, skip_special_tokens=True)}\n")
        rows[name] = {key: mean(row[key] for row in measured) for key in MEASURES}
    print(f"{'':16}" + "".join(f"{name:>16}" for name in MEASURES))
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"{row[key]:16.2f}" for key in MEASURES))
    draw_measures(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
