"""Task 10: classify the sentiment of a text with two examples in the prompt.

A generative model has learnt to go on with a text in its own way, so two solved examples before
the question ("2-shot") show it what an answer looks like. Free writing could still answer
anything; here the model only says how likely each of the two labels is after the prompt, and the
likelier one is the answer. A classifier would not do: it would read the examples as part of the
text to be judged.

    python task10.py
    python task10.py --model DIR        another generative model, encoder-decoder or decoder

Takes seconds after a download of 993 MB, shared with task 07. Expect POSITIVE. The probabilities
after no, one and two examples are on standard error.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import common
from task07 import GENERATIVE_MODEL  # one download less

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

LABELS = ("positive", "negative")
TEXT = "The dinner we had was great and the service too."
QUESTION = """\
Text: "{text}"
Classify the sentiment of this sentence as either positive or negative.
Sentiment:"""
EXAMPLES = (  # one of each label, of another subject than the text; the last counts most
    ("My new phone broke after two days and nobody answers my calls.", "negative"),
    ("What a lovely film, I laughed from beginning to end.", "positive"),
)


def build_prompt(text: str, examples: tuple[tuple[str, str], ...]) -> str:
    """Ask for the sentiment of the text, after the same question about every solved example."""
    solved = [f"{QUESTION.format(text=example)} {label}" for example, label in examples]
    return "\n\n".join([*solved, QUESTION.format(text=text)])


def log_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, label: str
) -> float:
    """Return the logarithm of the probability that the model writes the label after the prompt."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    # A decoder goes on in the same line; a decoder of its own begins anew, and ends the text.
    joined = not model.config.is_encoder_decoder
    answer = tokenizer(" " * joined + label, add_special_tokens=not joined, return_tensors="pt")[
        "input_ids"
    ].to(model.device)  # (1, answer)
    with torch.inference_mode():
        if joined:
            tokens = torch.cat([inputs["input_ids"], answer], dim=1)  # (1, prompt + answer)
            logits = model(tokens).logits[0, -answer.shape[1] - 1 : -1]  # (answer, vocabulary)
        else:
            logits = model(**inputs, labels=answer).logits[0]  # (answer, vocabulary)
    return -float(torch.nn.functional.cross_entropy(logits, answer[0], reduction="sum"))


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> dict[str, float]:
    """Return the probability of each label, given that it is one of them."""
    scores = [log_likelihood(model, tokenizer, prompt, label) for label in LABELS]
    return dict(zip(LABELS, torch.tensor(scores).softmax(0).tolist(), strict=True))


def main(argv: list[str] | None = None) -> int:
    """Classify the text, and show what the examples do."""
    parser = common.argument_parser(__doc__, "--device", model=GENERATIVE_MODEL)
    arguments = parser.parse_args(argv)
    model, tokenizer = common.load_pretrained(
        "generator", arguments.model, GENERATIVE_MODEL, arguments.device
    )
    for shots in range(len(EXAMPLES) + 1):
        probabilities = classify(model, tokenizer, build_prompt(TEXT, EXAMPLES[:shots]))
        shown = ", ".join(f"{label} {p:.4f}" for label, p in probabilities.items())
        print(f"{shots} examples: {shown}", file=sys.stderr)
    print(max(probabilities, key=probabilities.__getitem__).upper())
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
