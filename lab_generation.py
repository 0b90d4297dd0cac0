"""Lab exercise 2.2: the effect of greedy decoding, temperature, top-k and top-p on a text.

A decoder predicts a probability for every token that may come next. Greedy decoding takes the most
probable one. It soon repeats itself: once a sentence has occurred twice, a third time is even more
probable. Sampling draws the token by its probability. The temperature divides the scores from which
the probabilities are computed. Below 1 it favours the likely tokens; above 1 it makes all tokens
more alike, until the text is noise. Most of the nonsense comes from the many unlikely tokens. Top-k
keeps only the k most likely ones, and top-p the most likely ones that together have probability p.

    python lab_generation.py
    python lab_generation.py "The night was dark"   another beginning of the text
    python lab_generation.py --quick                two texts per sampled setting, not twenty
    python lab_generation.py --model NAME           another decoder

Takes five minutes on two CPU cores, after a download of 551 MB. Expect a loss near the entropy (the
loss that the model itself expects) at temperature 1, and the longest repeats at low temperatures.
The picture is results/lab_generation.png.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import bundled
import common

MODEL = "openai-community/gpt2"  # the model that the exercise names
PROMPT = "Who knows if God exists, but for sure I"
NEW_TOKENS = 80  # of every text, so that the measures of the texts are comparable
TEXTS, QUICK_TEXTS = 20, 2  # texts sampled for each setting
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0)  # 1.0 and the highest are compared at the end
SETTINGS: dict[str, dict[str, Any]] = {  # arguments of `generate`
    "greedy": {"do_sample": False},
    **{f"temperature {t}": {"do_sample": True, "temperature": t, "top_k": 0} for t in TEMPERATURES},
    "top-k 50": {"do_sample": True, "temperature": 1.0, "top_k": 50},
    "top-p 0.9": {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.9},
}
MEASURES = {  # with their units; a nat is a unit of information, log2(e) = 1.44 bits
    "distinct-2": "fraction of all pairs",
    "longest repeat": "tokens",
    "loss": "nats per token",
    "entropy": "nats per token",
}


def generate(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], settings: dict[str, Any], texts: int
) -> torch.Tensor:
    """Continue a tokenized prompt; return the tokens of one greedy or several sampled texts."""
    return model.generate(  # (texts, time), the prompt included
        **inputs,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,  # no text ends earlier
        num_beams=1,  # no beam search
        num_return_sequences=texts if settings["do_sample"] else 1,
        **settings,  # greedy or sampled; top_k 0 samples from the whole vocabulary
    )


def distinct_2(tokens: list[int]) -> float:
    """Return the fraction of distinct pairs among all pairs of neighbouring tokens."""
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / len(pairs)


def longest_repeat(tokens: list[int]) -> int:
    """Return the length of the longest sequence that occurs twice; the two may overlap."""
    longest = 0
    for length in range(1, len(tokens)):
        sequences = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
        if len(set(sequences)) == len(sequences):
            break  # no longer sequence can occur twice
        longest = length
    return longest


@torch.inference_mode()
def measure(model: PreTrainedModel, tokens: torch.Tensor, start: int) -> dict[str, float]:
    """Return the `MEASURES` of `tokens[start:]`, a text without its prompt.

    The loss of a token is its negative log-probability: how much it surprises the model. The
    entropy is the loss that the model expects before it sees the token: how uncertain it is. Both
    use the model's own distribution, at temperature 1, and are means over the tokens.
    """
    # the logits at each position predict the next token
    logits = model(tokens[None]).logits[0, start - 1 : -1]  # (new, vocabulary)
    log_probabilities = logits.log_softmax(-1)  # (new, vocabulary)
    losses = -log_probabilities.gather(1, tokens[start:, None])  # (new, 1)
    entropies = -(log_probabilities.exp() * log_probabilities).sum(-1)  # (new,)
    new = tokens[start:].tolist()
    values = (distinct_2(new), longest_repeat(new), losses.mean().item(), entropies.mean().item())
    return dict(zip(MEASURES, values, strict=True))


def print_table(means: pd.DataFrame, deviations: pd.DataFrame) -> None:
    """Print the measures of each setting, and the perplexity.

    The perplexity, exp(loss), is how many equally likely tokens would surprise the model as much.
    It is that of the mean loss, because the strangest text rules a mean of perplexities.
    """
    cells = means.map("{:.2f}".format) + " ± " + deviations.map("{:.2f}".format)
    cells["perplexity"] = np.exp(means["loss"]).map("{:.3g}".format)
    print(cells.rename_axis(None).to_string())


def print_conclusions(means: pd.DataFrame) -> None:
    """Print the main figures on standard error."""
    repeat, loss = means["longest repeat"].round(2), means["loss"].round(2)
    entropy = means["entropy"].round(2)
    own, hot, top_p = "temperature 1.0", f"temperature {max(TEMPERATURES)}", "top-p 0.9"
    common.note(f"longest repeat: greedy {repeat['greedy']} tokens, {own} {repeat[own]}")
    common.note(
        f"{own} samples from the model's own predictions, so the loss, {loss[own]}, is about the "
        f"entropy, {entropy[own]}"
    )
    common.note(f"loss: {hot} {loss[hot]}, {own} {loss[own]}, {top_p} {loss[top_p]}")


def draw_measures(means: pd.DataFrame, deviations: pd.DataFrame) -> None:
    """Draw each measure against the temperature, with greedy decoding at 0."""
    settings = ["greedy", *(f"temperature {t}" for t in TEMPERATURES)]
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, MEASURES, strict=True):
        axes.errorbar(
            [0.0, *TEMPERATURES], means[name][settings], deviations[name][settings], fmt="o-"
        )
        axes.set(title=name, xlabel="temperature (0: greedy)", ylabel=MEASURES[name])
    common.save_figure(figure, common.RESULTS / "lab_generation.png")


def main(argv: list[str] | None = None) -> int:
    """Generate and measure texts with every setting; print the first text of each."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", model=MODEL)
    parser.add_argument("prompt", nargs="?", type=common.not_empty, default=PROMPT, metavar="TEXT")
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    device = common.select_device(arguments.device)
    model = common.load(AutoModelForCausalLM, folder).to(device)
    rows = []
    with common.errors_in(folder):
        inputs = tokenizer(arguments.prompt, return_tensors="pt", return_token_type_ids=False)
        start = inputs["input_ids"].shape[1]
        common.check_length(model, tokenizer, start + NEW_TOKENS)
        for setting, options in tqdm(SETTINGS.items(), unit="setting"):
            common.seed_everything(arguments.seed)
            texts = QUICK_TEXTS if arguments.quick else TEXTS
            tokens = generate(model, inputs.to(device), options, texts)  # (texts, time)
            shown = tokenizer.decode(tokens[0], skip_special_tokens=True)
            tqdm.write(f"{setting}:\n{shown}\n")  # `print` would break the progress bar
            rows += [{"setting": setting} | measure(model, text, start) for text in tokens]
    groups = pd.DataFrame(rows).groupby("setting", sort=False)
    means, deviations = groups.mean(), groups.std().fillna(0.0)  # the greedy text is always equal
    print_table(means, deviations)
    print_conclusions(means)
    draw_measures(means, deviations)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
