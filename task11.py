"""Task 11: let a language model complete a sentence, and compute the perplexity of the result.

The model decodes greedily, always taking the most likely next token, until prompt and continuation
have 20 tokens. Then the same model computes the perplexity of the whole text, as the metric
"perplexity" of the library evaluate defines it.

    python task11.py
    python task11.py "The best way to learn a language is"        complete your own sentence
    python task11.py --model bundled                              a small model, without a network
    python task11.py --model NAME                                 another decoder

Takes seconds, after a download of 551 MB. Expect a mean perplexity of 9.0965 (the task's figure)
from GPT-2, and of 13.13 from the bundled SmolLM2. The two cannot be compared, because the models
split a text into different tokens. The perplexities of the prompt alone and of the continuation
alone are printed on standard error.
"""

import math
from statistics import fmean
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common

MODEL = "openai-community/gpt2"  # the output in the statement is GPT-2's
PROMPT = "Current trends show that by 2030"
MAX_LENGTH = 20  # tokens, including those of the prompt
MIN_NEW_TOKENS = 10  # after a longer prompt
DOCUMENT_START = "<|endoftext|>"  # the token between two documents in the training texts

# What does this value mean? Perplexity is the exponential of the mean negative log-likelihood of
# the tokens. A perplexity of 9.1 says that the model was on average as uncertain about the next
# token as if it had to choose among 9.1 equally likely tokens. 1 is certainty; GPT-2's 50,257 is a
# blind guess. "Mean" is the mean over texts, and here there is one. Perplexity measures surprise,
# not truth or quality. Here it is lower than for a text written by people, because the model
# evaluates a continuation of its own most likely tokens. The tokens of the prompt are not its own,
# but count too, and cause most of the surprise. Two models can be compared only if they have the
# same tokens.


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    add_start_token: bool = True,
) -> torch.Tensor:
    """Return the negative log-likelihood of each token of a text, in nats: (time,).

    Nats are the unit of natural logarithms. The start token precedes the text, so that its first
    token is predicted too. It is `DOCUMENT_START` if the model has it, because the start token of a
    chat model begins a message instead. Raises `ScriptError` if there is no token to predict.
    """
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer.get_vocab().get(DOCUMENT_START, tokenizer.bos_token_id)
    if add_start_token and start is not None:
        tokens = [start, *tokens]
    if len(tokens) < 2:
        raise common.ScriptError(f"perplexity: the text {text!r} has no token to predict")
    inputs = torch.tensor([tokens], device=model.device)  # (1, time + 1)
    logits = model(inputs).logits[0, :-1]  # (time, vocabulary)
    return torch.nn.functional.cross_entropy(logits, inputs[0, 1:], reduction="none")


def perplexity(
    predictions: list[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    add_start_token: bool = True,
) -> dict[str, Any]:
    """Compute the perplexity of each text, and the mean over the texts."""
    losses = [token_losses(model, tokenizer, text, add_start_token) for text in predictions]
    perplexities = [math.exp(loss.mean()) for loss in losses]
    return {"perplexities": perplexities, "mean_perplexity": fmean(perplexities)}


def complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the prompt with the model's continuation."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    length = max(MAX_LENGTH, inputs["input_ids"].shape[1] + MIN_NEW_TOKENS)
    common.check_length(model, tokenizer, length)
    tokens = model.generate(  # (1, time)
        **inputs,
        max_length=length,  # counts the tokens of the prompt too
        do_sample=False,  # greedy: the most likely token each time
        num_beams=1,  # a single continuation, not several in parallel
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def main(argv: list[str] | None = None) -> int:
    """Complete the sentence and print it with its perplexity."""
    parser = common.argument_parser(__doc__, "--device", model=MODEL)
    parser.add_argument("prompt", nargs="?", type=common.not_empty, default=PROMPT, metavar="TEXT")
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    device = common.select_device(arguments.device)
    model = common.load(AutoModelForCausalLM, folder).to(device)
    metric = common.local_metric(perplexity)  # the interface of evaluate for the function above
    with common.errors_in(folder):
        text = complete(model, tokenizer, arguments.prompt)
        result = metric.compute(predictions=[text], model=model, tokenizer=tokenizer)
        losses = token_losses(model, tokenizer, text)  # (time,)
    mean_perplexity = common.finite(result["mean_perplexity"], "the perplexity")
    print(f"Generated Text: {common.printable(text)}")
    print(f"Mean perplexity: {mean_perplexity}")
    end = len(losses) - len(tokenizer.tokenize(text)) + len(tokenizer.tokenize(arguments.prompt))
    for name, part in (("prompt", losses[:end]), ("continuation", losses[end:])):
        if len(part):
            common.note(f"perplexity of the {name} alone: {math.exp(part.mean()):.2f}")
    vocabulary = f"the {model.config.vocab_size:,} tokens of this model"
    common.note(f"as uncertain as a choice among {mean_perplexity:.1f} of {vocabulary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
