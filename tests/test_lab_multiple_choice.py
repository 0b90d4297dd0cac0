"""lab_multiple_choice.py: questions, scores, the ranker, and settings chosen by validation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import common
import lab_common
import lab_data
import lab_multiple_choice
import task07
from lab_data import Question
from lab_multiple_choice import accuracy, is_right, per_question

import numpy as np
import pytest
import torch

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch
WORDS = re.findall(r"[a-z]+", task07.CONTEXT.lower())  # that the tiny encoder knows
QUESTIONS = [Question("which one", ["a", "b"], 1), Question("and now", ["c", "dd", "eee"], 0)]


def make_questions(seed: int) -> list[dict[str, Any]]:
    """Return 40 questions of random words with two to four choices."""
    generator, rows = np.random.default_rng(seed), []
    for count in generator.integers(2, 5, 40).tolist():
        question, *choices = (" ".join(generator.choice(WORDS, 3)) for _ in range(count + 1))
        answer = int(generator.integers(count))
        rows.append({"question": question, "choices": choices, "answer": answer})
    return rows


def test_ties_are_wrong_and_scores_and_pairs_follow_the_numbers_of_choices() -> None:
    scores = per_question(np.array([0.0, 1.0, 2.0, 2.0, 1.0]), QUESTIONS)
    assert [each.tolist() for each in scores] == [[0, 1], [2, 2, 1]]
    assert [is_right(scores[1], answer) for answer in range(3)] == [False] * 3
    assert accuracy(scores, QUESTIONS) == 0.5
    assert lab_multiple_choice.ranking_pairs(QUESTIONS).tolist() == [[1, 0], [2, 3], [2, 4]]


def test_shuffling_moves_the_right_choice_everywhere() -> None:
    questions = [Question("?", ["yes", "no", "never", "nowhere"], 0)] * 400
    shuffled = lab_multiple_choice.shuffle_choices(questions, np.random.default_rng(0))
    assert {question.choices[question.answer] for question in shuffled} == {"yes"}
    assert all(set(question.choices) == set(questions[0].choices) for question in shuffled)
    assert np.bincount([question.answer for question in shuffled], minlength=4).min() > 70


def test_the_ranker_learns_the_features_of_right_choices() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(2, 6, 200).tolist()
    questions = [Question("?", ["x"] * n, int(generator.integers(n))) for n in counts]
    right = np.concatenate([np.arange(len(q.choices)) == q.answer for q in questions])
    features = generator.standard_normal((len(right), 8)).astype(np.float32)
    features[:, 3] += 3 * right
    features = 100 * features + 500  # which the ranker standardises
    common.seed_everything(0)
    score = lab_multiple_choice.train_ranker(features, questions, 0.1)
    assert np.array_equal(score(features), score(features))  # without dropout
    assert accuracy(per_question(score(features), questions), questions) > 0.9
    np.testing.assert_allclose(score(features[:9]), score(features)[:9], atol=1e-4)  # each alone


def write(folder: Path, **splits: list[dict[str, Any]]) -> None:
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def flipped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the questions with other answers."""
    return [row | {"answer": len(row["choices"]) - 1 - row["answer"]} for row in rows]


def test_test_questions_choose_and_train_nothing(
    tmp_path: Path, checkpoints: Path, trained: list[float], monkeypatch: Patch, capsys: Capture
) -> None:
    def joint_scores(model: torch.nn.Module, *rest: Any) -> torch.Tensor:
        assert model.training != torch.is_inference_mode_enabled()  # predict without dropout
        return score(model, *rest)

    score = lab_multiple_choice.joint_scores
    monkeypatch.setattr(lab_multiple_choice, "joint_scores", joint_scores)
    recorder, outputs, test = Mock(wraps=lab_multiple_choice.print_table), [], make_questions(1)
    monkeypatch.setattr(lab_multiple_choice, "print_table", recorder)
    texts = [row | {"question": "how", "choices": row["choices"][::-1]} for row in test]
    asked = [row | {"question": "how"} for row in test]
    options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
    write(tmp_path, train=make_questions(0))
    for questions in (test, test, flipped(test), texts, asked):
        write(tmp_path, test=questions)
        assert lab_multiple_choice.main([*options, "--quick", "--finetune"]) == 0
        outputs.append(capsys.readouterr().out)
    shown = [question.choices for question in recorder.call_args.args[1]["test"]]
    assert shown != [row["choices"] for row in test]  # shuffled
    assert trained == trained[:13] * 5  # 3 seeds, 2 kinds, 2 dropouts, and the encoder
    first, _, answers_changed, texts_changed, asked_changed = (
        call.args[0] for call in recorder.call_args_list
    )
    for row, is_equal in (("ranker, question not shown", True), ("ranker", False)):
        pairs = zip(first[row][0]["test"], asked_changed[row][0]["test"], strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == is_equal
    np.testing.assert_equal(answers_changed, first)
    for name, runs in first.items():
        for run, changed in zip(runs, texts_changed[name], strict=True):
            np.testing.assert_equal(changed["validation"], run["validation"])
    assert outputs[0] == outputs[1]  # the second time with cached features
    assert not np.array_equal(*(np.concatenate(first["ranker"][i]["test"]) for i in (0, 1)))
    lines, chance = outputs[0].splitlines(), np.mean([1 / len(row["choices"]) for row in test])
    train_count, validation_count, _ = map(int, re.findall(r"\d+", lines[0]))
    assert train_count + validation_count == 40  # no question is in both
    assert len(set(trained[:13])) == 13  # kind, seed and dropout matter
    rows, splits = recorder.call_args_list[0].args
    sums = (
        [sum(each) for each in zip(*(run["test"] for run in rows[name]), strict=True)]
        for name in ("ranker, question not shown", "ranker")
    )
    p_value = lab_multiple_choice.mcnemar(*sums, splits["test"])
    assert lines[-1].endswith(f"question: p = {p_value:.2g}")
    answers = [question.answer for question in splits["test"]]
    expected = np.mean([answer == 0 for answer in answers])
    assert accuracy(rows["always the first"][0]["test"], splits["test"]) == expected
    assert re.fullmatch(rf"chance {{24}} +0\.\d{{3}} +{chance:.3f}", lines[3])
    row = r".{30} +[01]\.\d{3}.{8} +[01]\.\d{3}.{8}  [01]\.\d{3} to [01]\.\d{3}"
    assert all(re.fullmatch(row, line) for line in lines[4:-2])
    assert [line[:30].strip() for line in lines[4:-2]] == list(first)
    assert list(first)[::5] == ["always the first", "fine-tuned, 1 epochs"]


def test_the_dropout_with_the_higher_validation_accuracy_is_used(monkeypatch: Patch) -> None:
    def train_ranker(features: np.ndarray, questions: object, dropout: float) -> Callable:
        return lambda features: features[:, lab_multiple_choice.DROPOUT.index(dropout)]

    monkeypatch.setattr(lab_multiple_choice, "train_ranker", train_ranker)
    good, bad = np.arange(5) == 1, np.arange(5) == 0  # scores of the choices of QUESTIONS
    good[2], bad[3] = True, True
    for chosen in (0, 1):
        columns = [good, bad] if chosen == 0 else [bad, good]
        validation = np.stack(columns, axis=1).astype(float)
        features = {"train": 1 - validation, "validation": validation, "test": 1 - validation}
        scores = lab_multiple_choice.rank(features, dict.fromkeys(features, QUESTIONS), seed=0)
        np.testing.assert_equal(np.concatenate(scores["validation"]), good)
        np.testing.assert_equal(np.concatenate(scores["test"]), 1 - good)


def test_questions_with_similar_features_are_held_out_together() -> None:
    generator = np.random.default_rng(0)
    facts = np.repeat(np.arange(30), 4)
    features = np.eye(30)[facts] + 0.01 * generator.standard_normal((120, 30))
    questions = [Question(str(fact), ["x", "y"], 0) for fact in facts]
    split = lab_multiple_choice.hold_out(questions, features, seed=0)
    train, validation = ({q.text for q in split[name]} for name in ("train", "validation"))
    assert not train & validation
    assert sorted(map(len, split.values())) == [12, 108]


def test_validation_questions_of_a_folder_are_used(tmp_path: Path) -> None:
    rows = {name: make_questions(seed) for seed, name in enumerate(lab_data.SPLITS)}
    write(tmp_path, **rows)
    for name, questions in lab_data.load_questions("", tmp_path).items():
        assert [vars(question)["answer"] for question in questions] == [
            row["answer"] for row in rows[name]
        ]


def test_mcnemar_compares_the_questions_that_one_ranker_alone_answers() -> None:
    questions = [Question("?", ["a", "b"], 0)] * 20
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    first = [right] * 10 + [wrong] * 10
    second = [right] * 4 + [wrong] * 14 + [right] * 2  # 6 and 2 questions
    expected = 2 * sum(math.comb(8, k) for k in (0, 1, 2)) / 2**8
    assert lab_multiple_choice.mcnemar(first, second, questions) == pytest.approx(expected)
    assert lab_multiple_choice.mcnemar(first, first, questions) == 1


@pytest.mark.parametrize(("row", "problem"), [
    ({"choices": ["a", 2], "answer": 0}, "the question and each of the choices must be a string"),
    ({"choices": "ab", "answer": 0}, "the question and each of the choices must be a string"),
    ({"choices": {"label": ["A", "A"], "text": ["a", "b"]}, "answer": "A"}, "answer is 'A'; it m"),
    ({"choices": ["a"], "answer": 0}, "choices has fewer than two items"),
    ({"choices": ["a", "b"], "answer": 2}, "answer is 2; it must be one of 0, 1"),
    ({"choices": ["a", "b"], "answer": "C"}, "answer is 'C'; it must be one of A, B"),
    ({"choices": [], "answer": 0}, "list index out of range"),
    ({"choices": 3, "answer": 0}, "object of type 'int' has no len"),
    ({"choices": ["a", "b"]}, "no 'answer'"),
    ({"choices": ["a", "b"], "answer": True}, "answer is True; it must be one of 0, 1"),
])  # fmt: skip
def test_wrong_question_is_named(tmp_path: Path, row: dict, problem: str) -> None:
    rows = [make_questions(0)[0], {"question": "?"} | row]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        common.ScriptError, match=f"train.jsonl: line 2: {problem}.*; a line looks like"
    ):
        lab_multiple_choice.main(["--data", str(tmp_path)])


def test_table_has_the_accuracies_of_both_splits_and_their_deviations(capsys: Capture) -> None:
    right, wrong, question = (
        np.array([1.0, 0.0]),
        np.array([0.0, 1.0]),
        Question("?", ["a", "b"], 0),
    )
    runs = [
        {"validation": [right] * v + [wrong] * (4 - v), "test": [right] * t + [wrong] * (10 - t)}
        for v, t in ((1, 5), (3, 9))
    ]
    splits = {"validation": [question] * 4, "test": [question] * 10}
    lab_multiple_choice.print_table({"row": runs}, splits)
    row = capsys.readouterr().out.splitlines()[-1]
    expected = ["0.500", "0.354", "0.700", "0.283", "0.397", "0.892"]  # Wilson's for 7 of 10
    assert re.findall(r"\d\.\d{3}", row) == expected


def test_finetuning_raises_the_score_of_the_right_choice(monkeypatch: Patch) -> None:
    train, scores = Mock(), torch.tensor([1.0, 2.0, 0.5, -1.0, 3.0])  # of the choices of QUESTIONS
    monkeypatch.setattr(lab_common, "train", train)
    monkeypatch.setattr(lab_multiple_choice, "joint_scores", lambda *_: scores)
    questions = {"train": QUESTIONS, "validation": [], "test": []}
    lab_multiple_choice.finetune(torch.nn.Linear(1, 1), None, questions, 0, 1)
    pairs = (scores[:2], 1), (scores[2:], 0)  # the right choices
    expected = np.mean([-x.log_softmax(0)[answer].item() for x, answer in pairs])
    assert train.call_args.args[1]([0, 1]).item() == pytest.approx(expected, rel=1e-5)


def test_seeds_count_up_from_the_option(
    tmp_path: Path, checkpoints: Path, monkeypatch: Patch
) -> None:
    rank = Mock(
        side_effect=lambda _, questions, __: {
            name: [np.arange(len(q.choices)) for q in questions[name]]
            for name in lab_multiple_choice.EVALUATED
        }
    )
    monkeypatch.setattr(lab_multiple_choice, "rank", rank)
    write(tmp_path, train=make_questions(0), test=make_questions(1))
    options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
    monkeypatch.setattr(lab_multiple_choice, "QUICK_QUESTIONS", 30)
    assert lab_multiple_choice.main([*options, "--seed", "5", "--quick"]) == 0
    assert len(rank.call_args.args[1]["test"]) == 30
    assert [call.args[2] for call in rank.call_args_list] == [5, 6, 7] * 2


def test_cosine_and_length_are_those_of_question_and_choice(
    tmp_path: Path, checkpoints: Path, monkeypatch: Patch
) -> None:
    rows = make_questions(1)
    for row in rows:
        row["choices"][row["answer"]] = row["question"]  # its cosine is 1
    write(tmp_path, train=make_questions(0), test=rows)
    recorder = Mock()
    monkeypatch.setattr(lab_multiple_choice, "print_table", recorder)
    monkeypatch.setattr(lab_multiple_choice, "RANKER_EPOCHS", 1)
    options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
    assert lab_multiple_choice.main(options) == 0
    table, splits = recorder.call_args.args
    assert accuracy(table["cosine, frozen features"][0]["test"], splits["test"]) == 1
    for question, scores in zip(splits["test"], table["the longest"][0]["test"], strict=True):
        assert len(question.choices[scores.argmax()]) == max(map(len, question.choices))
