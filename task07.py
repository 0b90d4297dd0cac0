"""Task 07: ask two kinds of transformer who painted the Mona Lisa.

Extractive: an encoder (DistilBERT) reads the question and the context together. Each token attends
to all others, before and after it. The model gives each token of the context two scores: for being
the first and for being the last token of the answer. The answer is always a part of the context.
Its position and its probability are known, and nothing can be invented.

Generative: an encoder-decoder (T5) or a decoder reads the same text and writes the answer token by
token. Each new token depends on everything read and written so far. The answer may use other words
than the context, and it may be wrong.

    python task07.py
    python task07.py --extractive-model DIR --generative-model DIR        other models

Takes seconds after downloads of 261 MB and 993 MB. Expect the extracted answer "Leonardo da Vinci".
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import common
import pretrained

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Small, and trained on questions of this kind (SQuAD).
EXTRACTIVE_MODEL = "distilbert/distilbert-base-cased-distilled-squad"
# Trained to follow instructions, among them those of SQuAD.
GENERATIVE_MODEL = "google/flan-t5-base"
WINDOW, OVERLAP = 384, 128  # tokens of a window (question and context), tokens two windows share
MAX_ANSWER_LENGTH = 15  # tokens of an extracted answer
MAX_NEW_TOKENS = 30  # of a generated answer
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
    """The part `context[start:end]` of a context, with its probability."""

    text: str
    score: float
    start: int
    end: int


def extract(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> Answer:
    """Return the most probable answer in a context of any length.

    The rules are those of `pipeline("question-answering")` of transformers 4. Each window on the
    context has its own probabilities, over its context tokens and its first token. The answer has
    at most `MAX_ANSWER_LENGTH` tokens and consists of whole words. Raises `ScriptError` if the
    question leaves no room for a context.
    """
    size = min(tokenizer.model_max_length, WINDOW)
    if (length := len(tokenizer(question)["input_ids"])) + OVERLAP >= size:
        raise common.ScriptError(
            f"the question has {length} tokens; at most {size - OVERLAP - 1} leave room for a text"
        )
    windows = tokenizer(
        question,
        context,
        truncation="only_second",  # cut the context, never the question
        max_length=size,
        stride=OVERLAP,
        return_overflowing_tokens=True,  # one window after another, not only the first
    )
    names = [name for name in tokenizer.model_input_names if name in windows]
    answers = []
    for number, encoding in enumerate(windows.encodings):
        inputs = {name: torch.tensor([windows[name][number]]) for name in names}  # (1, time)
        with torch.inference_mode():
            output = model(**{name: ids.to(model.device) for name, ids in inputs.items()})
        in_context = torch.tensor([part == 1 for part in encoding.sequence_ids])  # (time,)
        allowed = in_context | (inputs["input_ids"][0] == tokenizer.cls_token_id)
        start, end = (  # log-probabilities of the first and of the last token: (time,) each
            logits[0].cpu().masked_fill(~allowed, -torch.inf).log_softmax(-1)
            for logits in (output.start_logits, output.end_logits)
        )
        spans = start[:, None] + end  # (first token, last token)
        is_span = torch.ones_like(spans).triu().tril(MAX_ANSWER_LENGTH - 1).bool()
        is_span &= in_context[:, None] & in_context  # the first token means "no answer"
        spans = spans.masked_fill(~is_span, -torch.inf)
        first, last = divmod(int(spans.argmax()), len(end))
        first_character = encoding.word_to_chars(encoding.token_to_word(first), 1)[0]
        end_character = encoding.word_to_chars(encoding.token_to_word(last), 1)[1]
        text = context[first_character:end_character]
        answers.append(Answer(text, float(spans.max().exp()), first_character, end_character))
    return max(answers, key=lambda answer: answer.score)


def generate_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> str:
    """Return the answer that the model writes after the context and the question."""
    prompt = PROMPT.format(context=context, question=question)
    is_chat = tokenizer.chat_template is not None
    if is_chat:  # a model for conversations answers a user's message
        message = {"role": "user", "content": prompt}
        prompt = tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    inputs = tokenizer(
        prompt,
        return_tensors="pt",
        return_token_type_ids=False,  # decoders do not take them
        add_special_tokens=not is_chat,  # the template contains them already
    ).to(model.device)
    prompt_length = inputs["input_ids"].shape[1]
    pretrained.check_context(model, prompt_length + MAX_NEW_TOKENS)
    pretrained.clear_generation_settings(model)
    tokens = model.generate(  # (1, time)
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,  # the answer is short
        do_sample=False,  # greedy: the most likely token each time,
        num_beams=1,  # in a single continuation
    )
    start = 0 if model.config.is_encoder_decoder else prompt_length  # a decoder repeats the prompt
    return " ".join(tokenizer.decode(tokens[0, start:], skip_special_tokens=True).split())


def main(argv: list[str] | None = None) -> int:
    """Ask both models and print their answers."""
    parser = common.argument_parser(
        __doc__, "--device", extractive_model=EXTRACTIVE_MODEL, generative_model=GENERATIVE_MODEL
    )
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)

    extractive_folder = pretrained.find_model(
        arguments.extractive_model, pretrained.READER, EXTRACTIVE_MODEL
    )
    generative_folder = pretrained.find_model(
        arguments.generative_model, pretrained.CHAT_MODEL, GENERATIVE_MODEL
    )

    tokenizer = pretrained.load(AutoTokenizer, extractive_folder)
    model = pretrained.load(AutoModelForQuestionAnswering, extractive_folder).to(device)
    with common.checkpoint_errors(extractive_folder):
        extracted = extract(model, tokenizer, QUESTION, CONTEXT)

    is_encoder_decoder = pretrained.load(AutoConfig, generative_folder).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    tokenizer = pretrained.load(AutoTokenizer, generative_folder)
    model = pretrained.load(auto_class, generative_folder).to(device)
    with common.checkpoint_errors(generative_folder):
        generated = generate_answer(model, tokenizer, QUESTION, CONTEXT)

    print(f"Answer extractive question-answering: {extracted.text}")
    print(f"Answer generative question-answering: {generated}")
    position = f"characters {extracted.start} to {extracted.end}"
    print(f"extractive: probability {extracted.score:.3f}, {position}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
