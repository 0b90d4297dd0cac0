"""Task 07: ask two kinds of transformer who painted the Mona Lisa.

An extractive encoder (DistilBERT) reads question and context together; each token attends to all
others. Its head, a last layer for one task, scores each token as the first and as the last token of
the answer. So the answer is a part of the context. A generative encoder-decoder (T5), or a decoder,
reads the same text and writes the answer token by token. It computes each token from the text and
from the tokens already written. The answer may use other words. Both answers may be wrong.

    python task07.py
    python task07.py "What kind of painting is it?"                    your own question
    python task07.py "Where is it?" --context FILE                     about the text of a file
    python task07.py --extractive-model NAME --generative-model NAME   other models

Takes seconds, after downloads of 261 MB and 993 MB. Expect "Leonardo da Vinci" as the extracted
answer, as in the statement; the bundled model gives it too. Two lines on standard error say where
the answers come from.
"""

import math
from pathlib import Path

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

import bundled
import common

EXTRACTIVE_MODEL = "distilbert/distilbert-base-cased-distilled-squad"  # trained on questions
GENERATIVE_MODEL = "google/flan-t5-base"  # trained to follow instructions
WINDOW = 384  # tokens of question and context that the model reads at once
OVERLAP = 128  # tokens that two windows share
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


def best_span(
    start_logits: torch.Tensor, end_logits: torch.Tensor, in_context: torch.Tensor
) -> tuple[float, int, int]:
    """Return the log-probability of the most probable answer, and its first and last token.

    The arguments are (time,). The model predicts the first and the last token independently, so
    log p(answer) = log p(first token) + log p(last token).
    """
    is_option = in_context.clone()  # (time,)
    # [CLS] stands for "the context contains no answer". In a window without the answer it gets most
    # of the probability, so the spans there get little.
    is_option[0] = True
    starts = start_logits.masked_fill(~is_option, -torch.inf).log_softmax(0).tolist()  # (time,)
    ends = end_logits.masked_fill(~is_option, -torch.inf).log_softmax(0).tolist()  # (time,)
    tokens = in_context.nonzero().flatten().tolist()  # the positions of the context, in order
    spans = [
        (starts[first] + ends[last], first, last)
        for index, first in enumerate(tokens)
        for last in tokens[index : index + MAX_ANSWER_LENGTH]
    ]
    return max(spans, key=lambda span: span[0])


@torch.inference_mode()
def extract(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> tuple[float, int, int]:
    """Return the probability of the best answer, and where it starts and ends in the context.

    As in `pipeline("question-answering")` of transformers 4, each window on the context has its own
    probabilities, and an answer consists of whole words.
    """
    if len(tokenizer(question)["input_ids"]) + OVERLAP >= WINDOW:  # the tokenizer would crash
        raise common.ScriptError("the question is too long; it leaves no room for the context")
    windows = tokenizer(
        question,
        context,
        truncation="only_second",  # cut the context, never the question
        max_length=WINDOW,
        stride=OVERLAP,
        return_overflowing_tokens=True,  # all windows, not only the first
    )
    del windows["overflow_to_sample_mapping"]  # no input of the model
    answers = []
    for window, encoding in enumerate(windows.encodings):
        inputs = {
            name: torch.tensor([rows[window]], device=model.device)  # (1, time)
            for name, rows in windows.items()
        }
        output = model(**inputs)  # start_logits and end_logits: (1, time)
        # sequence_ids are 0 for the question, 1 for the context, None for [CLS] and [SEP]
        in_context = torch.tensor([part == 1 for part in encoding.sequence_ids]).to(model.device)
        log_p, first, last = best_span(output.start_logits[0], output.end_logits[0], in_context)
        # whole words, as a token may be a piece of a word
        start, _ = encoding.word_to_chars(encoding.token_to_word(first), sequence_index=1)
        _, end = encoding.word_to_chars(encoding.token_to_word(last), sequence_index=1)
        answers.append((math.exp(log_p), start, end))
    return max(answers)  # the most probable one


def generate_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> str:
    """Return the answer that the model writes after the context and the question."""
    prompt = PROMPT.format(context=context, question=question)
    if tokenizer.chat_template:  # a chat model answers a user's message
        message = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            message,
            add_generation_prompt=True,  # it ends where the answer begins
            enable_thinking=False,  # for models such as Qwen3, which otherwise think aloud first
            return_dict=True,
            return_tensors="pt",
        )
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    prompt_length = inputs["input_ids"].shape[1]
    common.check_length(model, tokenizer, prompt_length + MAX_NEW_TOKENS)
    tokens = model.generate(  # (1, time)
        inputs["input_ids"].to(model.device),
        max_new_tokens=MAX_NEW_TOKENS,  # the answer is short
        do_sample=False,  # greedy: the most likely token each time
        num_beams=1,  # a single answer, not several in parallel
    )
    start = 0 if model.config.is_encoder_decoder else prompt_length  # a decoder repeats the prompt
    return tokenizer.decode(tokens[0, start:], skip_special_tokens=True)


def main(argv: list[str] | None = None) -> int:
    """Ask both models, and print their answers and where these come from."""
    models = {"extractive_model": EXTRACTIVE_MODEL, "generative_model": GENERATIVE_MODEL}
    parser = common.argument_parser(__doc__, "--device", **models)
    parser.add_argument("question", nargs="?", default=QUESTION, metavar="QUESTION")
    parser.add_argument("--context", type=Path, metavar="FILE", help="text with the answer")
    arguments = parser.parse_args(argv)
    question, device = arguments.question, common.select_device(arguments.device)
    context = common.read_text(arguments.context) if arguments.context else CONTEXT
    for text in (question, context):
        common.not_empty(text)

    folder = common.find_model(arguments.extractive_model, EXTRACTIVE_MODEL, bundled.reader)
    tokenizer = common.load(AutoTokenizer, folder)
    model = common.load(AutoModelForQuestionAnswering, folder).to(device)
    with common.errors_in(folder):
        probability, start, end = extract(model, tokenizer, question, context)
    print(f"Answer extractive question-answering: {common.printable(context[start:end])}")

    folder = common.find_model(arguments.generative_model, GENERATIVE_MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    config = common.load(AutoConfig, folder)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = common.load(auto_class, folder).to(device)
    with common.errors_in(folder):
        generated = common.printable(generate_answer(model, tokenizer, question, context))
    print(f"Answer generative question-answering: {generated}")

    common.note(f"extracted: characters {start} to {end}, probability {probability:.3f}")
    is_copied = generated and generated in common.printable(context)
    origin = "copied from" if is_copied else "not a part of"
    common.note(f"generated: token by token, {origin} the context")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
