"""lab_multiple_choice.py: questions, scores, the ranker, and settings chosen by validation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import common
import lab_multiple_choice
import task07
from lab_multiple_choice import Question, accuracy, is_right, per_question

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


def test_rows_of_the_data_sets_on_the_hub_are_read() -> None:
    choices = {"text": np.array(["x", "y"]), "label": np.array(["A", "B"])}
    for key in ("question_stem", "question"):  # of OpenBookQA, of CommonsenseQA
        row = pd.Series({"id": "1", key: "Q", "choices": choices, "answerKey": "B"})
        assert lab_multiple_choice.from_hub(row) == Question("Q", ["x", "y"], 1)
    swag = {"sent1": "He runs.", "sent2": "She", "label": 3, "ending0": "a", "ending1": "b"}
    found = lab_multiple_choice.from_hub(pd.Series(swag | {"ending2": "c", "ending3": "d"}))
    assert found == Question("He runs. She", ["a", "b", "c", "d"], 3)


def test_the_ranker_learns_the_features_of_right_choices() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(2, 6, 200).tolist()
    questions = [Question("?", ["x"] * n, int(generator.integers(n))) for n in counts]
    right = np.concatenate([np.arange(len(q.choices)) == q.answer for q in questions])
    features = generator.standard_normal((len(right), 8)).astype(np.float32)
    features[:, 3] += 3 * right
    common.seed_everything(0)
    score = lab_multiple_choice.train_ranker(features, questions, 0.1)
    assert np.array_equal(score(features), score(features))  # without dropout
    assert accuracy(per_question(score(features), questions), questions) > 0.9


def test_a_run_prints_answers_with_settings_chosen_by_validation(
    tmp_path: Path, checkpoints: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    recorder, outputs, test = Mock(wraps=lab_multiple_choice.print_table), [], make_questions(1)
    monkeypatch.setattr(lab_multiple_choice, "print_table", recorder)
    answers = [row | {"answer": len(row["choices"]) - 1 - row["answer"]} for row in test]
    texts = [row | {"question": "how", "choices": row["choices"][::-1]} for row in test]
    options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, make_questions(0))))
    for questions in (test, test, answers, texts):
        (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, questions)))
        assert lab_multiple_choice.main([*options, "--quick", "--finetune"]) == 0
        outputs.append(capsys.readouterr().out)
    first, _, answers_changed, texts_changed = (call.args[0] for call in recorder.call_args_list)
    np.testing.assert_equal(answers_changed, first)
    for name, scores in first.items():
        np.testing.assert_equal(texts_changed[name]["validation"], scores["validation"])
    assert outputs[0] == outputs[1]  # the second time with cached features
    lines, chance = outputs[0].splitlines(), np.mean([1 / len(row["choices"]) for row in test])
    assert lines[0] == "36 train, 4 validation, 40 test questions"
    assert re.fullmatch(rf"chance {{30}} +0\.\d{{3}} +{chance:.3f}", lines[3])
    assert all(re.fullmatch(r".{36}( +[01]\.\d{3}){3} to [01]\.\d{3}", line) for line in lines[4:])
    assert [line[:36].strip() for line in lines[4:]] == list(first)
    assert list(first)[::5] == ["always the first", "fine-tuned, 1 epochs"]


@pytest.mark.parametrize(("row", "problem"), [
    ({"choices": ["a", 2], "answer": 0}, "choices must be a list of two or more strings"),
    ({"choices": ["a", "b"], "answer": 2}, "answer is 2; it must be from 0 to 1"),
])  # fmt: skip
def test_wrong_question_is_named(tmp_path: Path, row: dict, problem: str) -> None:
    rows = [make_questions(0)[0], {"question": "?"} | row]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(common.ScriptError, match=f"train.jsonl: line 2: {problem}"):
        lab_multiple_choice.main(["--data", str(tmp_path)])
