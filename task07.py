"""Task 07: ask two kinds of transformer who painted the Mona Lisa.

Extractive: an encoder (here DistilBERT) reads question and context at once, every token looking
at all others in both directions, and gives each token of the context two scores: that the answer
starts there, and that it ends there. The answer is always a piece of the context; its place and
the model's confidence are known, and nothing can be made up.

Generative: an encoder-decoder (here T5) or a decoder reads the same and then writes the answer
token by token, each time from all that it has read and written so far. It can say what the
context only implies, in words of its own, and it can be wrong in words of its own.

    python task07.py
    python task07.py --extractive-model DIR --generative-model DIR        models of your own

Takes seconds after downloads of 261 MB and 993 MB. Expect "Leonardo da Vinci" twice.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import common

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

EXTRACTIVE_MODEL = common.HubModel(  # small, and trained on questions of this kind (SQuAD)
    "distilbert/distilbert-base-cased-distilled-squad", "Apache-2.0", 261
)
GENERATIVE_MODEL = common.HubModel(  # has learnt to follow instructions, SQuAD's among them
    "google/flan-t5-base", "Apache-2.0", 993
)
WINDOW, OVERLAP = 384, 128  # tokens of a long context that are read together, and read twice
LONGEST = 15  # tokens of an extracted answer
MAX_NEW_TOKENS = 30  # of a generated one
QUESTION = "Who painted the Mona Lisa?"
CONTEXT = (
    "The Mona Lisa is a half-length portrait painting by Italian artist Leonardo da Vinci. "
    "Considered an archetypal masterpiece of the Italian Renaissance, it has been described as the "
    "most known, visited, talked about, and sung about work of art in the world. The painting's "
    "novel qualities include the subject's enigmatic expression, the monumentality of the "
    "composition, and the subtle modeling of forms."
)
PROMPT = "Read this and answer the question.\n\n{context}\n\n{question}"


class Answer(NamedTuple):
    """A piece `context[start:end]`, and the probability of both its ends."""

    text: str
    score: float
    start: int
    end: int


def extract(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> Answer:
    """Return the best answer that the context holds, however long it is.

    The rules are those of the pipeline of transformers 4: every window of the context has
    probabilities of its own, over its context and first token; the answer has at most `LONGEST`
    tokens and consists of whole words. Raises `ScriptError` if the question fills the window.
    """
    size = min(tokenizer.model_max_length, WINDOW)
    if len(tokenizer(question)["input_ids"]) + OVERLAP >= size:
        raise common.ScriptError("the question is too long to be read together with a context")
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=size,
        stride=OVERLAP,
        return_overflowing_tokens=True,
    )
    names = [name for name in tokenizer.model_input_names if name in windows]
    answers = []
    for number, encoding in enumerate(windows.encodings):
        inputs = {name: torch.tensor([windows[name][number]]) for name in names}  # (1, time)
        with torch.inference_mode():
            output = model(**{name: ids.to(model.device) for name, ids in inputs.items()})
        in_context = torch.tensor([part == 1 for part in encoding.sequence_ids])  # (time,)
        counted = in_context | (inputs["input_ids"][0] == tokenizer.cls_token_id)
        start, end = (
            logits[0].cpu().masked_fill(~counted, -1e4).softmax(-1) * in_context
            for logits in (output.start_logits, output.end_logits)
        )  # (time,) each
        spans = (start[:, None] * end).triu().tril(LONGEST - 1)  # (first token, last token)
        first, last = divmod(int(spans.argmax()), len(end))
        begin = encoding.word_to_chars(encoding.token_to_word(first), 1)[0]
        finish = encoding.word_to_chars(encoding.token_to_word(last), 1)[1]
        answers.append(Answer(context[begin:finish], float(spans.max()), begin, finish))
    return max(answers, key=lambda answer: answer.score)


def main(argv: list[str] | None = None) -> int:
    """Ask both models."""
    parser = common.argument_parser(
        __doc__, "--device", extractive_model=EXTRACTIVE_MODEL, generative_model=GENERATIVE_MODEL
    )
    arguments = parser.parse_args(argv)
    reader, reader_tokenizer = common.load_pretrained(
        "AutoModelForQuestionAnswering",
        arguments.extractive_model,
        EXTRACTIVE_MODEL,
        arguments.device,
        "--extractive-model",
    )
    writer, writer_tokenizer = common.load_pretrained(
        "generator",
        arguments.generative_model,
        GENERATIVE_MODEL,
        arguments.device,
        "--generative-model",
    )
    answer = extract(reader, reader_tokenizer, QUESTION, CONTEXT)
    print(f"Answer extractive question-answering: {answer.text}")
    print(f"probability {answer.score:.3f}, {answer.start}:{answer.end}", file=sys.stderr)
    prompt = PROMPT.format(context=CONTEXT, question=QUESTION)
    written = common.generate(writer, writer_tokenizer, prompt, max_new_tokens=MAX_NEW_TOKENS)
    print(f"Answer generative question-answering: {' '.join(written.split())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
