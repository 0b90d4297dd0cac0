"""Task 04: summarise a text about the Eiffel Tower in at most 50 tokens.

The T5 that the task names reads the text with its encoder, and writes the summary with its decoder,
token by token. transformers 5 has no `pipeline("summarization")` any more. The script takes the
pipeline's steps: find the settings for summaries that the checkpoint contains, put their prefix
before the text, generate, and decode.

If the T5 cannot be downloaded, the bundled encoder selects sentences of the text. It cannot write.
Such an extractive summary copies whole sentences. A written one may contain errors.

    python task04.py
    python task04.py "A long text. It has many sentences."        summarise your own text
    python task04.py --text FILE                                  or that of a file
    python task04.py --model bundled                              select sentences
    python task04.py --model NAME                                 another T5 or another encoder

Takes seconds, after a download of 242 MB. Expect a sentence and the beginning of another, which the
limit of 50 tokens cuts off. With the bundled encoder expect two whole sentences.
"""

import re

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common

MODEL = "cnicu/t5-small-booksum"  # the checkpoint that the task names
MAX_LENGTH = 50  # tokens of the summary; T5 counts the token with which its decoder starts
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
    """Return a written summary of a text, as `pipeline("summarization")` of transformers 4 did.

    The settings for summaries of T5 are a beam search (4 candidates, see task 06), at least 30
    tokens, and no sequence of 3 tokens twice.
    """
    task_settings = getattr(model.config, "task_specific_params", None) or {}
    settings = dict(task_settings.get("summarization", {}))
    prefix = settings.pop("prefix", "")  # "summarize: " names the task for T5
    settings["max_length"] = MAX_LENGTH  # the limit of the task, instead of the checkpoint's 200

    inputs = tokenizer(prefix + text, return_tensors="pt")  # (1, time)
    limit = common.context_length(model, tokenizer)
    if (length := inputs["input_ids"].shape[1]) > limit:
        common.note(f"the summary is that of the first {limit} of {length} tokens")
        inputs = tokenizer(prefix + text, return_tensors="pt", truncation=True, max_length=limit)
    tokens = model.generate(**inputs.to(model.device), **settings)  # (1, time)
    return tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


@torch.inference_mode()
def select_sentences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the sentences most similar to the whole text, in the order of the text.

    The vector of a sentence is the mean of its hidden states, scaled to length 1. The vector of the
    text is the mean of the vectors of its sentences. The similarity of a sentence and the text is
    the dot product of the two (Radev et al. 2004). At most a third of the sentences, rounded up,
    are selected, so that a short text is shortened too. Raises `ScriptError` if every sentence is
    longer than the limit of tokens.
    """
    # A sentence ends after "tall." but not after "Dr.", and not before a small letter.
    sentences = re.split(r"(?<=[^\s.]{3}[.!?])\s+(?=[^a-z])|\n\s*\n", text.strip())
    common.note(f"sentences to select from: {len(sentences)}")
    options = {"truncation": True, "max_length": common.context_length(model, tokenizer)}
    vectors = []
    for sentence in sentences:
        inputs = tokenizer(sentence, return_tensors="pt", **options).to(model.device)  # (1, time)
        vectors.append(model(**inputs).last_hidden_state[0].mean(0))  # (width,)
    unit_vectors = torch.nn.functional.normalize(torch.stack(vectors))  # (sentences, width)
    similarities = unit_vectors @ unit_vectors.mean(0)  # (sentences,)

    lengths = [len(tokenizer.tokenize(sentence)) for sentence in sentences]
    selected: list[int] = []  # the most similar sentence first, then each that still fits
    for index in similarities.argsort(descending=True).tolist():
        total = lengths[index] + sum(lengths[other] for other in selected)
        if total <= MAX_LENGTH and len(selected) < len(sentences) / 3:
            selected.append(index)
    if not selected:
        raise common.ScriptError(f"no sentence of the text has at most {MAX_LENGTH} tokens")
    return " ".join(sentences[index] for index in sorted(selected))


def main(argv: list[str] | None = None) -> int:
    """Load the model and print the summary of the text."""
    parser = common.argument_parser(__doc__, "--device", "--text", model=MODEL)
    parser.add_argument("long_text", nargs="?", default=LONG_TEXT, metavar="TEXT")
    arguments = parser.parse_args(argv)
    text = common.read_text(arguments.text) if arguments.text else arguments.long_text
    common.not_empty(text)
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    device = common.select_device(arguments.device)
    tokenizer = common.load(AutoTokenizer, folder)
    with common.errors_in(folder):
        if common.load(AutoConfig, folder).is_encoder_decoder:
            model = common.load(AutoModelForSeq2SeqLM, folder).to(device)
            summary = summarise(model, tokenizer, text)
        else:  # the bundled encoder, or another one
            model = common.load(AutoModel, folder).to(device)
            summary = select_sentences(model, tokenizer, text)
    print(common.printable(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
