"""Task 10: classify the sentiment of a text with two examples in the prompt.

A generative model continues a text in the way in which the text began. Two solved examples before
the question ("2-shot") show it the form of an answer. Free text could still be anything, so the
script computes the probability of each of the two labels after the prompt, and prints the more
probable one. A sentiment classifier does not work here: it reads the examples as part of the text.

    python task10.py
    python task10.py "The room was cold and dark."        classify your own text
    python task10.py --model bundled                      a small model, without a network
    python task10.py --model NAME                         another encoder-decoder or decoder

The statement writes its instruction after the text. Here it stands before the text, so that the
label follows the text directly. With the instruction between the two, the bundled model gives all
texts nearly the same probabilities.

Takes seconds, after a download of 993 MB, shared with task 07. Expect POSITIVE, also from the
bundled model. Standard error shows the prompt, and how the probability of "positive" changes
without the examples or with another order of them. The order matters much to a small model: on 200
review sentences the bundled one has an accuracy of 0.76 with these examples, and 0.63 in the other
order or without examples.
"""

import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common
from task07 import GENERATIVE_MODEL as MODEL  # google/flan-t5-base, already there after task 07

LABELS = ("positive", "negative")
TEXT = "The dinner we had was great and the service too."
INSTRUCTION = "Classify the sentiment of this sentence as either positive or negative."
EXAMPLES = (  # one for each label, about other subjects than the text
    ("What a lovely film, I laughed from beginning to end.", "positive"),
    # TEXT is positive, so a model that only copies the last label gives a wrong answer.
    ("My new phone broke after two days and nobody answers my calls.", "negative"),
)


def build_prompt(text: str, examples: tuple[tuple[str, str], ...]) -> str:
    """Return the solved examples and the text without its answer, each after the instruction."""
    template = INSTRUCTION + '\nText: "{}"\nSentiment:'
    solved = [f"{template.format(example)} {label}" for example, label in examples]
    return "\n\n".join([*solved, template.format(text)])


def load_model(folder: Path) -> PreTrainedModel:
    """Load a generative model: an encoder-decoder, such as T5, or a decoder."""
    is_encoder_decoder = common.load(AutoConfig, folder).is_encoder_decoder
    return common.load(
        AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM, folder
    )


@torch.inference_mode()
def log_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, label: str
) -> float:
    """Return the log-probability that the model generates the label after the prompt."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    if model.config.is_encoder_decoder:  # the decoder writes the label
        answer = tokenizer(label, return_tensors="pt")["input_ids"].to(model.device)  # (1, answer)
        # with `labels`, the logits at each position predict the answer's token at this position
        logits = model(**inputs, labels=answer).logits[0]  # (answer, vocabulary)
    else:  # the label continues the line of the prompt
        answer = tokenizer(f" {label}", add_special_tokens=False, return_tensors="pt")["input_ids"]
        answer = answer.to(model.device)  # (1, answer)
        tokens = torch.cat([inputs["input_ids"], answer], dim=1)  # (1, prompt + answer)
        common.check_length(model, tokenizer, tokens.shape[1])
        # The logits at each position predict the token at the next one. So those that predict the
        # answer begin one position before it, and the last ones are left out.
        logits = model(tokens).logits[0, -answer.shape[1] - 1 : -1]  # (answer, vocabulary)
    # the cross-entropy is the negative log-probability
    return -float(torch.nn.functional.cross_entropy(logits, answer[0], reduction="sum"))


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> dict[str, float]:
    """Return the probability of each label, normalised so that they sum to 1."""
    scores = [log_likelihood(model, tokenizer, prompt, label) for label in LABELS]
    return dict(zip(LABELS, torch.tensor(scores).softmax(0).tolist(), strict=True))


def main(argv: list[str] | None = None) -> int:
    """Classify the text with two examples and print the label; compare other prompts."""
    parser = common.argument_parser(__doc__, "--device", model=MODEL)
    parser.add_argument("text", nargs="?", type=common.not_empty, default=TEXT, metavar="TEXT")
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    model = load_model(folder).to(common.select_device(arguments.device))

    prompt = build_prompt(arguments.text, EXAMPLES)
    print(f"Prompt:\n{prompt}\n", file=sys.stderr)
    with common.errors_in(folder):
        probabilities = classify(model, tokenizer, prompt)
        print(max(LABELS, key=lambda label: probabilities[label]).upper())
        common.note(f"positive with these examples: {probabilities['positive']:.3f}")
        others = {"with the examples in the other order": EXAMPLES[::-1], "without examples": ()}
        for name, examples in others.items():
            probabilities = classify(model, tokenizer, build_prompt(arguments.text, examples))
            common.note(f"positive {name}: {probabilities['positive']:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
