"""Task 11: let a language model complete a sentence, and compute the perplexity of the result.

The model decodes greedily, always taking the most likely next token, until prompt and continuation
have 20 tokens. Then the same model computes the perplexity of the whole text, as the metric
"perplexity" of evaluate defines it.

    python task11.py
    python task11.py --model DIR        another decoder

Takes seconds after a download of 551 MB. Expect a mean perplexity of 9.0965 (the task's figure).
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import common
import pretrained

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MODEL = "openai-community/gpt2"  # the output in the statement is GPT-2's
PROMPT = "Current trends show that by 2030"
MAX_LENGTH = 20  # tokens, including those of the prompt

# What does this value mean? Perplexity is the exponential of the mean negative log-likelihood of
# the tokens. A perplexity of 9.1 says that the model was on average as uncertain about the next
# token as if it had to choose among 9.1 equally likely tokens. 1 is certainty; GPT-2's 50,257 is a
# blind guess. "Mean" is the mean over texts, and here there is one. Perplexity measures surprise,
# not truth or quality. Here it is lower than for a text written by people, because the model
# evaluates a continuation of its own most likely tokens. The tokens of the prompt are not its own,
# but count too. Two models can be compared only if they have the same tokens.


@torch.inference_mode()
def perplexity(
    predictions: list[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    add_start_token: bool = True,
) -> dict[str, Any]:
    """Compute the perplexity of each text, and the mean over the texts.

    The text is preceded by the tokenizer's start token if it has one, so that the first token of
    the text counts too. No other special token is added. Raises `ScriptError` if there is no token
    to predict.
    """
    perplexities = []
    for text in predictions:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if add_start_token and tokenizer.bos_token_id is not None:
            tokens = [tokenizer.bos_token_id, *tokens]
        if len(tokens) < 2:
            raise common.ScriptError(f"perplexity: the text {text!r} has no token to predict")
        inputs = torch.tensor([tokens], device=model.device)  # (1, time)
        logits = model(inputs).logits[0, :-1]  # (time - 1, vocabulary)
        loss = torch.nn.functional.cross_entropy(logits, inputs[0, 1:])
        perplexities.append(math.exp(loss))
    return {"perplexities": perplexities, "mean_perplexity": fmean(perplexities)}


def complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the prompt with the model's continuation."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    pretrained.check_context(model, MAX_LENGTH)
    pretrained.clear_generation_settings(model)
    tokens = model.generate(  # (1, time)
        **inputs,
        max_length=MAX_LENGTH,  # counts the tokens of the prompt too
        do_sample=False,  # greedy: the most likely token each time,
        num_beams=1,  # in a single continuation
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def main(argv: list[str] | None = None) -> int:
    """Complete the sentence and print it with its perplexity."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.CHAT_MODEL, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModelForCausalLM, folder).to(common.select_device(arguments.device))
    metric = common.local_metric(perplexity)
    with common.checkpoint_errors(folder):
        text = complete(model, tokenizer, PROMPT)
        print(f"Generated Text: {text}")
        result = metric.compute(predictions=[text], model=model, tokenizer=tokenizer)
    print(f"Mean perplexity: {result['mean_perplexity']}")
    common.note(f"prompt: {PROMPT!r}; continuation: {text.removeprefix(PROMPT)!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
