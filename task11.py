"""Task 11: let a language model finish a sentence, and measure how sure it is of the result.

The model writes greedily, always the likeliest next token, until prompt and continuation have 20
tokens. Then the perplexity of the whole is computed under the same model, as evaluate's metric
defines it.

    python task11.py
    python task11.py --model DIR        another decoder

Takes seconds after a download of 551 MB. Expect a mean perplexity of 9.0965 (the task's figure).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

import common

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

MODEL = common.HubModel("openai-community/gpt2", "MIT", 551)  # the task's output is that of GPT-2
PROMPT = "Current trends show that by 2030"
MAX_LENGTH = 20  # tokens, those of the prompt included

# What does this value mean? Perplexity is the exponential of the mean negative log-likelihood
# of the tokens: 9.1 says that over this text the model was, on average, as undecided about the
# next token as if it had to choose among 9.1 tokens that are all equally likely. 1 would be
# certainty, and GPT-2's 50,257 a blind guess. "Mean" is over texts, and here there is one.
# It measures surprise, not truth or quality. Here it is lower than for text by people, because
# the model judges a text that it wrote itself by taking the likeliest token each time; and two
# models can only be compared if they cut texts into the same tokens.


def perplexity(
    predictions: list[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    add_start_token: bool = True,
) -> dict[str, object]:
    """Compute the perplexity of each text under a model, and the mean of them.

    It is the exponential of the mean negative log-likelihood of a text's tokens. With a start
    token, where the tokenizer has one, each is counted, else all but the first. No other
    special token is added. Raises `ScriptError` for a text of which nothing can be predicted.
    """
    if not predictions:
        raise common.ScriptError("perplexity: there is no text")
    perplexities = []
    for text in predictions:  # one by one: so no text depends on how long the others are
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if add_start_token and tokenizer.bos_token_id is not None:
            tokens = [tokenizer.bos_token_id, *tokens]
        if len(tokens) < 2:
            raise common.ScriptError(f"perplexity: there is nothing to predict in {text!r}")
        inputs = torch.tensor([tokens], device=model.device)  # (1, time)
        with torch.inference_mode():
            logits = model(inputs).logits[0, :-1]  # (time - 1, vocabulary)
        loss = torch.nn.functional.cross_entropy(logits, inputs[0, 1:])
        perplexities.append(math.exp(loss))
    return {"perplexities": perplexities, "mean_perplexity": float(np.mean(perplexities))}


def main(argv: list[str] | None = None) -> int:
    """Finish the sentence and print its perplexity."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    model, tokenizer = common.load_pretrained(
        "AutoModelForCausalLM", arguments.model, MODEL, arguments.device
    )
    text = common.generate(model, tokenizer, PROMPT, with_prompt=True, max_length=MAX_LENGTH)
    print(f"Generated Text: {text}")
    result = perplexity([text], model, tokenizer)
    print(f"Mean perplexity: {result['mean_perplexity']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
