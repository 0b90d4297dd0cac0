"""Task 04: summarise a text about the Eiffel Tower in at most 50 tokens.

An encoder-decoder such as the T5 that the task names writes an abstractive summary, token by token.
transformers 5 has no `pipeline("summarization")` any more. The script does the same in four steps:
read the checkpoint's own settings for summaries, put its prefix before the text, generate with the
task's limit of 50 tokens, and decode. The limit cuts the summary in the middle of a sentence, as in
the output that the task shows.

If the T5 cannot be downloaded, the bundled encoder makes an extractive summary of whole sentences
of the text. Small generative models may invent facts. An extractive summary is true to the text.

    python task04.py
    python task04.py --model bundled    an extractive summary
    python task04.py --model DIR        another T5 or encoder-decoder, or another encoder

Takes seconds after a download of 242 MB. Expect one sentence and the beginning of another.
"""

from __future__ import annotations

from typing import Any

import common
import pretrained

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MODEL = "cnicu/t5-small-booksum"  # the checkpoint that the task names
MAX_LENGTH = 50  # tokens of the summary; those of T5 include the start token of the decoder
LONG_TEXT = (
    "\nThe tower is 324 metres (1,063 ft) tall, about the same height as an 81-storey building, "
    "and the tallest structure in Paris. Its base is square, measuring 125 metres (410 ft) on each "
    "side. During its construction, the Eiffel Tower surpassed the Washington Monument to become "
    "the tallest man-made structure in the world, a title it held for 41 years until the Chrysler "
    "Building in New York City was finished in 1930. It was the first structure to reach a height "
    "of 300 metres. Due to the addition of a broadcasting aerial at the top of the tower in 1957, "
    "it is now taller than the Chrysler Building by 5.2 metres (17 ft). Excluding transmitters, "
    "the Eiffel Tower is the second tallest free-standing structure in France after the Millau "
    "Viaduct.\n"
)


def summarise(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a summary of the text, as `pipeline("summarization")` of transformers 4 did."""
    # T5's settings for summaries: 4 beams, at least 30 tokens, no 3-gram twice, and a prefix
    all_settings: dict[str, Any] = getattr(model.config, "task_specific_params", None) or {}
    own = all_settings.get("summarization", {})
    prefix = own.get("prefix", "")  # "summarize: " names the task for T5
    settings = {name: own[name] for name in pretrained.BEAM_SEARCH if name in own}
    settings["max_length"] = MAX_LENGTH  # the task's limit replaces the checkpoint's 200
    inputs = tokenizer(prefix + text, return_tensors="pt").to(model.device)
    pretrained.check_context(model, inputs["input_ids"].shape[1])
    pretrained.clear_generation_settings(model, keep=pretrained.BEAM_SEARCH)
    tokens = model.generate(**inputs, **settings)  # (1, time)
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


@torch.inference_mode()
def select_sentences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the sentences that are most similar to the whole text, within the limit of tokens.

    The similarity is the cosine between the mean hidden state of a sentence and the mean of these
    over all sentences (Radev et al. 2004). The sentences keep their order.
    """
    sentences = common.split_sentences(text)
    inputs = tokenizer(sentences, return_tensors="pt", padding=True).to(model.device)
    mask = inputs["attention_mask"].unsqueeze(-1)  # (sentences, time, 1)
    hidden = model(**inputs).last_hidden_state  # (sentences, time, width)
    features = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))  # unit length
    similarities = features @ features.mean(0)  # (sentences,)
    lengths = [len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in sentences]
    chosen: set[int] = set()
    for number in similarities.argsort(descending=True).tolist():
        if sum(lengths[each] for each in chosen | {number}) <= MAX_LENGTH:
            chosen.add(number)
    return " ".join(sentences[number] for number in sorted(chosen))


def main(argv: list[str] | None = None) -> int:
    """Load the model and print the summary of the text."""
    arguments = common.argument_parser(__doc__, "--device", model=MODEL).parse_args(argv)
    folder = pretrained.find_model(arguments.model, pretrained.ENCODER, MODEL)
    device = common.select_device(arguments.device)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    if pretrained.load(AutoConfig, folder).is_encoder_decoder:
        model = pretrained.load(AutoModelForSeq2SeqLM, folder).to(device)
        write_summary = summarise
    else:
        model = pretrained.load(AutoModel, folder).to(device)
        write_summary = select_sentences
    with common.checkpoint_errors(folder):
        print(write_summary(model, tokenizer, LONG_TEXT))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
