"""Lab exercise 2.2: the effect of greedy decoding, temperature, top-k and top-p on a text.

Greedy decoding soon repeats itself: once a sentence has occurred twice, a third time is even more
likely. So it has few distinct pairs of tokens (distinct-2), a long repeated sequence and a low
perplexity. A higher temperature flattens the distribution from which tokens are sampled. The
repetitions disappear, and perplexity and entropy rise until the text is noise. Top-k and top-p cut
off the long tail of unlikely tokens, from which most of the nonsense comes, and keep the variety
among the likely ones.

    python lab_generation.py
    python lab_generation.py --quick                one text per setting instead of five
    python lab_generation.py --model DIR            another decoder

Takes five minutes on two CPU cores, after a download of 551 MB. The picture is
results/lab_generation.png.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import mean
from typing import Any

import common
import pretrained

import torch
from matplotlib.figure import Figure
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MODEL = "openai-community/gpt2"  # the model that the exercise names
PROMPT = "Who knows if God exists, but for sure I"
MAX_NEW_TOKENS = 80
TEXTS, QUICK_TEXTS = 5, 1  # texts sampled for each setting, from different seeds
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
SETTINGS: dict[str, dict[str, Any]] = {  # arguments of `generate`
    "greedy": {"do_sample": False},
    **{f"temperature {t}": {"do_sample": True, "temperature": t, "top_k": 0} for t in TEMPERATURES},
    "top-k 50": {"do_sample": True, "temperature": 1.0, "top_k": 50},
    "top-p 0.9": {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.9},
}
MEASURES = {  # with their units
    "distinct-2": "fraction of all pairs",
    "longest repeat": "tokens",
    "perplexity": "of the sampled tokens",
    "entropy": "nats per token",
}


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> tuple[torch.Tensor, int]:
    """Continue the prompt; return all tokens, (time,), and the number of tokens of the prompt."""
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False).to(model.device)
    prompt_length = inputs["input_ids"].shape[1]
    pretrained.check_context(model, prompt_length + MAX_NEW_TOKENS)
    tokens = model.generate(  # (1, time)
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        min_new_tokens=2,  # a pair, which distinct-2 needs
        num_beams=1,  # a single continuation
        **settings,  # greedy or sampled; top_k 0 samples from the whole vocabulary
    )
    return tokens[0], prompt_length


def distinct_2(tokens: list[int]) -> float:
    """Return the fraction of distinct pairs among all pairs of neighbours.

    Li et al. (2016) divide by the number of tokens instead.
    """
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / max(1, len(pairs))


def longest_repeat(tokens: list[int]) -> int:
    """Return the length of the longest sequence that occurs twice; the two may overlap."""
    for length in range(1, len(tokens) + 1):
        sequences = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
        if len(set(sequences)) == len(sequences):
            return length - 1
    return 0


@torch.inference_mode()
def perplexity_and_entropy(
    model: PreTrainedModel, tokens: torch.Tensor, start: int
) -> tuple[float, float]:
    """Return the perplexity of `tokens[start:]`, (time,), and the mean entropy of the predictions.

    Both use the model's own distribution, at temperature 1. The entropy, in nats, measures how
    uncertain the model was before each token, whatever the token was.
    """
    logits = model(tokens[None]).logits[0, start - 1 : -1]  # (new, vocabulary)
    log_probabilities = logits.log_softmax(-1)  # (new, vocabulary)
    loss = -log_probabilities.gather(1, tokens[start:, None]).mean()
    entropies = -(log_probabilities.exp() * log_probabilities).sum(-1)  # (new,)
    return float(loss.exp()), float(entropies.mean())


def measure(model: PreTrainedModel, tokens: torch.Tensor, start: int) -> dict[str, float]:
    """Return the `MEASURES` of `tokens[start:]`."""
    new = tokens[start:].tolist()
    values = (distinct_2(new), longest_repeat(new), *perplexity_and_entropy(model, tokens, start))
    return dict(zip(MEASURES, values, strict=True))


def draw_measures(rows: dict[str, dict[str, float]]) -> None:
    """Draw each measure against the temperature, with greedy decoding at 0."""
    temperatures = [0.0, *TEMPERATURES]
    names = ["greedy", *(f"temperature {t}" for t in TEMPERATURES)]
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, MEASURES, strict=True):
        axes.plot(temperatures, [rows[each][name] for each in names], "o-")
        axes.set(title=name, xlabel="temperature (0: greedy)", ylabel=MEASURES[name])
        if name == "perplexity":
            axes.set_yscale("log")
    common.save_figure(figure, common.RESULTS / "lab_generation.png")


def main(argv: list[str] | None = None) -> int:
    """Generate and measure texts with every setting; print the first text of each."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", model=MODEL)
    arguments = parser.parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.CHAT_MODEL, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModelForCausalLM, folder).to(common.select_device(arguments.device))
    pretrained.clear_generation_settings(model)
    rows = {}
    for name, settings in SETTINGS.items():
        texts = (QUICK_TEXTS if arguments.quick else TEXTS) if settings["do_sample"] else 1
        measured = []
        for seed in range(arguments.seed, arguments.seed + texts):
            common.seed_everything(seed)
            with common.checkpoint_errors(folder):
                tokens, start = generate(model, tokenizer, settings)
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
