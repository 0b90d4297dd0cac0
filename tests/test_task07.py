"""Task 07: the extracted and the generated answer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

import task04
import task07
from conftest import EXPECTED, PIPELINES, ModelAndTokenizer, Run, load_pair, only_line


@pytest.fixture
def reader(checkpoints: Path) -> ModelAndTokenizer:
    return load_pair(checkpoints / task07.EXTRACTIVE_MODEL, AutoModelForQuestionAnswering)


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task07")
    assert (code, out) == (0, (EXPECTED / "task07.txt").read_text(encoding="utf-8"))
    only_line(err, "extracted: characters 67 to 84, probability 0.")  # of "Leonardo da Vinci"
    only_line(err, "generated: ")
    assert err.count("The bundled ") == 2


def test_best_span_equals_the_best_of_all_spans() -> None:
    for seed in range(20):
        starts, ends = torch.randn(2, 30, generator=torch.Generator().manual_seed(seed))
        in_context = torch.arange(30) > 5  # after [CLS] and the question
        in_context[-1] = False  # [SEP]
        start, end = (logits[[0, *range(6, 29)]].softmax(0) for logits in (starts, ends))
        spans = {
            (first + 5, last + 5): float(start[first] * end[last])
            for first in range(1, 24)
            for last in range(first, min(first + 15, 24))
        }
        score, *span = task07.best_span(starts, ends, in_context)
        assert tuple(span) == max(spans, key=spans.__getitem__)
        assert score == pytest.approx(torch.tensor(max(spans.values())).log().item())


def test_answer_has_at_most_15_tokens() -> None:
    starts, ends = torch.zeros(2, 40)
    starts[2], ends[[16, 17]] = 9.0, torch.tensor([1.0, 2.0])  # 15 or 16 tokens
    assert task07.best_span(starts, ends, torch.arange(40) > 1)[1:] == (2, 16)


@pytest.mark.parametrize("name", ["answer", "answer in a long context"])
def test_extracted_answer_equals_that_of_the_pipeline(reader: ModelAndTokenizer, name: str) -> None:
    recorded = PIPELINES[name]
    context = task07.CONTEXT
    if "long" in name:  # several windows
        context = " ".join([task04.LONG_TEXT, task07.CONTEXT] * 3)
    probability, start, end = task07.extract(*reader, task07.QUESTION, context)
    assert context[start:end] == recorded["answer"]
    assert (start, end) == (recorded["start"], recorded["end"])
    assert probability == pytest.approx(recorded["score"], rel=1e-4)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", task07.GENERATIVE_MODEL])
def test_generated_answer_is_greedy_and_has_at_most_30_tokens(checkpoints: Path, name: str) -> None:
    model, tokenizer = load_pair(checkpoints / name)
    prompt = task07.PROMPT.format(context="It is red.", question="What?")
    if model.config.is_encoder_decoder:
        tokens, encoded = [0], tokenizer(prompt, return_tensors="pt")
    else:  # a chat model, in its own form of a conversation
        prompt = f"<|start|>user\n{prompt}<|end|>\n<|start|>assistant\n<think></think>"
        tokens, encoded = tokenizer(prompt)["input_ids"], {}
    length = len(tokens)
    while len(tokens) < length + 30 and tokens[-1] != tokenizer.eos_token_id:
        decoded = torch.tensor([tokens])
        inputs = {**encoded, "decoder_input_ids" if encoded else "input_ids": decoded}
        with torch.inference_mode():
            tokens.append(int(model(**inputs).logits[0, -1].argmax()))
    expected = tokenizer.decode(tokens[length:], skip_special_tokens=True)
    assert task07.generate_answer(model, tokenizer, "What?", "It is red.") == expected


@pytest.mark.parametrize(("answer", "origin"), [
    ("closed  to cars", "copied from"),
    ("When", "not a part of"),  # of the context, but of the question
])  # fmt: skip
def test_own_question_about_the_text_of_a_file(
    answer: str,
    origin: str,
    run: Run,
    tmp_path: Path,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text.txt").write_text("The bridge was closed\nto cars in 1992.", encoding="utf-8")
    monkeypatch.setattr(task07, "generate_answer", lambda *_: answer)
    models = "--extractive-model", "bundled", "--generative-model", checkpoints / "Qwen/Qwen3-0.6B"
    question = "When was the bridge closed to cars?"
    code, out, err = run("task07", *models, question, "--context", tmp_path / "text.txt")
    assert code == 0
    only_line(out, "Answer extractive question-answering: 1992")
    only_line(err, "extracted: characters 33 to 37")
    only_line(err, f"generated: token by token, {origin} the context")
    assert "The bundled " not in err  # both models are named


def test_long_question_is_an_error(run: Run) -> None:
    code, out, err = run("task07", "--extractive-model", "bundled", "Who? " * 150)
    assert (code, out) == (1, "")
    only_line(err, "the question is too long")
