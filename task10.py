"""Task 10: classify the sentiment of a text with two examples in the prompt.

A generative model continues a text in the way the text has begun. Two solved examples before the
question ("2-shot") show it the form of an answer. If it generated freely, it could still answer
anything. So the script computes the probability of each of the two labels after the prompt and
prints the more probable one. A sentiment classifier would not do: it would read the examples as
part of the text to classify.

    python task10.py
    python task10.py --model DIR        another generative model, encoder-decoder or decoder

Takes seconds after a download of 993 MB, shared with task 07. Expect POSITIVE. The probabilities
without examples, and with the two in either order, are printed on standard error.
"""

from __future__ import annotations

import sys

import common
import pretrained
from task07 import GENERATIVE_MODEL as MODEL  # already downloaded for task 07

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

LABELS = ("positive", "negative")
TEXT = "The dinner we had was great and the service too."
INSTRUCTION = "Classify the sentiment of each text as either positive or negative."
EXAMPLES = (  # one for each label, about other subjects than the text
    ("What a lovely film, I laughed from beginning to end.", "positive"),
    # The label of the last example is wrong for TEXT: a model that copied it would fail.
    ("My new phone broke after two days and nobody answers my calls.", "negative"),
)


def build_prompt(text: str, examples: tuple[tuple[str, str], ...]) -> str:
    """Return the instruction, the solved examples, and the text without its answer."""
    solved = [f'Text: "{example}"\nSentiment: {label}' for example, label in examples]
    return "\n\n".join([INSTRUCTION, *solved, f'Text: "{text}"\nSentiment:'])


@torch.inference_mode()
def log_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, label: str
) -> float:
    """Return the log-probability that the model generates the label after the prompt."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    if model.config.is_encoder_decoder:  # the label is the text of the decoder
        answer = tokenizer(label, return_tensors="pt")["input_ids"].to(model.device)  # (1, answer)
        logits = model(**inputs, labels=answer).logits[0]  # (answer, vocabulary)
    else:  # the label continues the line of the prompt
        answer = tokenizer(f" {label}", add_special_tokens=False, return_tensors="pt")["input_ids"]
        answer = answer.to(model.device)  # (1, answer)
        tokens = torch.cat([inputs["input_ids"], answer], dim=1)  # (1, prompt + answer)
        pretrained.check_context(model, tokens.shape[1])
        logits = model(tokens).logits[0, -answer.shape[1] - 1 : -1]  # (answer, vocabulary)
    return -float(torch.nn.functional.cross_entropy(logits, answer[0], reduction="sum"))


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> dict[str, float]:
    """Return the probability of each label, normalised so that they sum to 1."""
    scores = [log_likelihood(model, tokenizer, prompt, label) for label in LABELS]
    return dict(zip(LABELS, torch.tensor(scores).softmax(0).tolist(), strict=True))


def main(argv: list[str] | None = None) -> int:
    """Classify the text without examples and with two in either order; print the label."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.CHAT_MODEL, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    is_encoder_decoder = pretrained.load(AutoConfig, folder).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model = pretrained.load(auto_class, folder).to(common.select_device(arguments.device))
    for examples in ((), EXAMPLES[::-1], EXAMPLES):  # the last one decides
        with common.checkpoint_errors(folder):
            probabilities = classify(model, tokenizer, build_prompt(TEXT, examples))
        shown = ", ".join(f"{label} {p:.4f}" for label, p in probabilities.items())
        order = ", ".join(label for _, label in examples) or "none"
        print(f"examples: {order}; probabilities: {shown}", file=sys.stderr)
    print(max(probabilities, key=probabilities.__getitem__).upper())
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
