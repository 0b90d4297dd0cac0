"""Lab exercise 3.2: answer multiple-choice questions by ranking the choices.

Each choice gets a score, and the choice with the highest score is the answer. The rows of the table
compute the score in different ways:

- cosine: the cosine similarity of question and choice in a frozen encoder. Nothing is trained. It
  helps little, because wrong choices are about the same topic.
- ranker: an MLP on the frozen features of question and choice. The margin ranking loss only asks
  that the right choice scores higher than a wrong one by a margin.
- ranker, question not shown: the same, on the features of the choice alone. It measures how well
  right choices can be recognised by their wording.
- fine-tuned: the whole encoder reads question and choice together.

The choices are shuffled first, and a tie counts as wrong.

    python lab_multiple_choice.py                             OpenBookQA: elementary science
    python lab_multiple_choice.py --dataset commonsense_qa    or swag: how a scene continues
    python lab_multiple_choice.py --data DIR     train.jsonl, test.jsonl: question, choices, answer
    python lab_multiple_choice.py --finetune                  also fine-tune the whole encoder

Takes two minutes on a laptop, and twelve with --finetune. On the test questions of OpenBookQA
expect an accuracy of 0.56 for the ranker, and of 0.48 if it does not see the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import common
import lab_common
from lab_common import HubDataset
from task09 import add_head

MODEL = "bundled"  # a sentence encoder, whose mean-pooled features can be compared by cosine
DATASETS = {
    "openbookqa": HubDataset("allenai/openbookqa", 1, config="main"),
    "commonsense_qa": HubDataset("tau/commonsense_qa", 2),
    "swag": HubDataset("allenai/swag", 40, config="regular"),
}
TEST_SPLIT = {"openbookqa": "test"}  # the other test sets have no public answers
MAX_QUESTIONS, QUICK_QUESTIONS = 5_000, 300  # of a split; larger splits are sampled
HELD_OUT = 0.1  # fraction of the training questions for validation
HIDDEN_SIZE = 512
DROPOUT = (0.3, 0.5)
MARGIN = 1.0
RANKER_EPOCHS, RANKER_BATCH, RANKER_RATE = 20, 256, 1e-3  # a batch of pairs, one right, one wrong
TUNING_EPOCHS, TUNING_BATCH, TUNING_RATE = 3, 16, 1e-4  # a batch of questions

Scores = list[np.ndarray]  # for each question: the scores of its choices


@dataclass
class Question:
    """A question, two or more choices, and the index of the right one."""

    text: str
    choices: list[str]
    answer: int


Splits = dict[str, list[Question]]  # train, validation and test


def read_questions(path: Path) -> list[Question]:
    """Read a file with one JSON object per line: question, choices, and the index of the answer.

    Raises `ScriptError` naming file and line of the first error.
    """
    questions = []
    rows = lab_common.read_jsonl(path, question=str, choices=list, answer=int)
    for number, row in enumerate(rows, start=1):
        choices, answer = row["choices"], row["answer"]
        if len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
            message = "choices must be a list of two or more strings"
            raise common.ScriptError(f"{path}: line {number}: {message}")
        if not 0 <= answer < len(choices):
            message = f"answer is {answer}; it must be from 0 to {len(choices) - 1}"
            raise common.ScriptError(f"{path}: line {number}: {message}")
        questions.append(Question(row["question"], choices, answer))
    return questions


def from_hub(row: pd.Series) -> Question:
    """Return the question in a row of one of the `DATASETS`."""
    if "ending0" in row:  # SWAG: which of four endings completes the second sentence
        choices = [row[f"ending{number}"] for number in range(4)]
        return Question(f"{row['sent1']} {row['sent2']}", choices, int(row["label"]))
    text = row["question_stem"] if "question_stem" in row else row["question"]
    answer = list(row["choices"]["label"]).index(row["answerKey"])
    return Question(text, list(row["choices"]["text"]), answer)


def load_questions(dataset: str, folder: Path | None, split: str) -> list[Question]:
    """Load the `train` or `test` questions from a folder, or else from the Hub."""
    if folder is not None:
        common.check_folder(folder, "train.jsonl", "test.jsonl")
        return read_questions(folder / f"{split}.jsonl")
    if split == "test":
        split = TEST_SPLIT.get(dataset, "validation")
    table = lab_common.hub_table(DATASETS[dataset], split)
    return [from_hub(row) for _, row in table.iterrows()]


def shuffle_choices(questions: list[Question], generator: np.random.Generator) -> list[Question]:
    """Put the choices of each question in a random order."""
    shuffled = []
    for question in questions:
        order = generator.permutation(len(question.choices)).tolist()
        choices = [question.choices[index] for index in order]
        shuffled.append(Question(question.text, choices, order.index(question.answer)))
    return shuffled


def load_splits(dataset: str, folder: Path | None, limit: int, seed: int) -> Splits:
    """Return the three splits with shuffled choices; validation is a part of the training set."""
    loaded = {}
    for split in ("train", "test"):
        generator = np.random.default_rng(seed)  # the splits are independent of each other
        questions = load_questions(dataset, folder, split)
        kept = np.sort(generator.permutation(len(questions))[:limit])
        loaded[split] = shuffle_choices([questions[index] for index in kept], generator)
    train = loaded["train"]
    if len(train) < 2:
        raise common.ScriptError("there is one training question; at least two are needed")
    order = np.random.default_rng(seed).permutation(len(train)).tolist()
    cut = max(1, round(HELD_OUT * len(order)))
    return {
        "train": [train[index] for index in order[cut:]],
        "validation": [train[index] for index in order[:cut]],
        "test": loaded["test"],
    }


def is_right(scores: np.ndarray, answer: int) -> bool:
    """Return whether the right choice has a higher score than all others. A tie is wrong."""
    return bool((np.delete(scores, answer) < scores[answer]).all())


def accuracy(scores: Scores, questions: list[Question]) -> float:
    """Return the fraction of questions whose right choice has the highest score."""
    pairs = zip(scores, questions, strict=True)
    return float(np.mean([is_right(each, question.answer) for each, question in pairs]))


def per_question(scores: np.ndarray, questions: list[Question]) -> Scores:
    """Split the scores of all choices, (choices,), into the scores of each question."""
    ends = list(accumulate(len(question.choices) for question in questions))
    return np.split(scores, ends[:-1])


def choice_features(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of each choice and of its question: (choices, width) each.

    They are mean-pooled and normalised to length 1.
    """
    choices = [choice for question in questions for choice in question.choices]
    sides = []
    for texts in (choices, [question.text for question in questions]):
        poolings = {"mean": lab_common.mean_pooling}
        features = lab_common.encode(model, tokenizer, texts, poolings)["mean"]
        sides.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    counts = [len(question.choices) for question in questions]
    return sides[0], np.repeat(sides[1], counts, axis=0)


def ranking_pairs(questions: list[Question]) -> np.ndarray:
    """Return the rows of a right and of a wrong choice of each question: (pairs, 2)."""
    pairs, start = [], 0
    for question in questions:
        wrong = (index for index in range(len(question.choices)) if index != question.answer)
        pairs += [(start + question.answer, start + index) for index in wrong]
        start += len(question.choices)
    return np.array(pairs)


def train_ranker(
    features: np.ndarray, questions: list[Question], dropout: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Train an MLP to score the right choice of a question above the wrong ones by a margin.

    Returns a function from features (choices, width) to scores (choices,).
    """
    inputs, pairs = torch.from_numpy(features), torch.from_numpy(ranking_pairs(questions))
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    network = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs.shape[1], HIDDEN_SIZE),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN_SIZE, 1),
    )

    def batch_loss(batch: list[int]) -> torch.Tensor:
        right, wrong = network((inputs[pairs[batch]] - mean) / deviation).unbind(1)  # (pairs, 1)
        return nn.functional.margin_ranking_loss(right, wrong, torch.ones_like(right), MARGIN)

    batches = lab_common.random_batches(len(pairs), RANKER_BATCH, RANKER_EPOCHS)
    lab_common.train(network.train(), batch_loss, batches, RANKER_RATE)
    network.eval()

    @torch.inference_mode()
    def score(features: np.ndarray) -> np.ndarray:
        return network((torch.from_numpy(features) - mean) / deviation).squeeze(-1).numpy()

    return score


def rank(features: dict[str, np.ndarray], questions: Splits, seed: int) -> dict[str, Scores]:
    """Train a ranker with each dropout; return the scores of the best one in validation."""
    rankers = []
    for dropout in DROPOUT:
        common.seed_everything(seed)
        score = train_ranker(features["train"], questions["train"], dropout)
        validation = per_question(score(features["validation"]), questions["validation"])
        rankers.append((accuracy(validation, questions["validation"]), score))
    score = max(rankers, key=lambda each: each[0])[1]
    return {
        name: per_question(score(features[name]), questions[name])
        for name in ("validation", "test")
    }


def joint_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> torch.Tensor:
    """Return the score of each choice, read together with its question: (choices,)."""
    texts = [question.text for question in questions for _ in question.choices]
    choices = [choice for question in questions for choice in question.choices]
    inputs = tokenizer(
        texts,
        choices,
        padding=True,
        truncation=True,
        max_length=lab_common.MAX_TOKENS,
        return_tensors="pt",
    ).to(model.device)
    # the head scores each choice alone, so all of them may be given as choices of one question
    return model(**{name: rows.unsqueeze(0) for name, rows in inputs.items()}).logits[0]


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Splits,
    seed: int,
    epochs: int,
) -> dict[str, Scores]:
    """Train encoder and head on the cross-entropy over the choices of a question.

    Returns the scores of the validation and test questions.
    """
    common.seed_everything(seed)
    train = questions["train"]

    def batch_loss(batch: list[int]) -> torch.Tensor:
        asked = [train[index] for index in batch]
        scores = joint_scores(model, tokenizer, asked).split([len(each.choices) for each in asked])
        losses = [
            each.logsumexp(0) - each[question.answer]
            for each, question in zip(scores, asked, strict=True)
        ]
        return torch.stack(losses).mean()

    lengths = [len(each.text) + max(map(len, each.choices)) for each in train]
    batches = lab_common.random_batches(len(train), TUNING_BATCH, epochs, lengths)
    lab_common.train(model.train(), batch_loss, batches, TUNING_RATE)
    model.eval()
    scores: dict[str, Scores] = {"validation": [], "test": []}
    for name, column in scores.items():
        for start in range(0, len(questions[name]), TUNING_BATCH):
            batch = questions[name][start : start + TUNING_BATCH]
            with torch.inference_mode():
                column += per_question(joint_scores(model, tokenizer, batch).cpu().numpy(), batch)
    return scores


def print_table(rows: dict[str, dict[str, Scores]], questions: Splits) -> None:
    """Print the accuracy of each row, with its 95 % confidence interval on the test questions."""
    print(f"\n{'':36}{'validation':>10}{'test':>8}  95 % interval")
    chance = {
        name: np.mean([1 / len(question.choices) for question in questions[name]])
        for name in ("validation", "test")
    }
    print(f"{'chance':36}{chance['validation']:10.3f}{chance['test']:8.3f}")
    for row, scores in rows.items():
        validation, test = (accuracy(scores[name], questions[name]) for name in scores)
        count = len(questions["test"])
        interval = binomtest(round(test * count), count).proportion_ci(method="wilson")
        print(f"{row:36}{validation:10.3f}{test:8.3f}  {interval.low:.3f} to {interval.high:.3f}")


def main(argv: list[str] | None = None) -> int:
    """Answer the questions in every way, from the simplest to the most expensive."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "data set on the Hub (default: openbookqa)"
    parser.add_argument("--dataset", choices=tuple(DATASETS), default="openbookqa", help=text)
    parser.add_argument("--finetune", action="store_true", help="also fine-tune the whole encoder")
    arguments = parser.parse_args(argv)
    seed, device = arguments.seed, common.select_device(arguments.device)
    limit = QUICK_QUESTIONS if arguments.quick else MAX_QUESTIONS
    questions = load_splits(arguments.dataset, arguments.data, limit, seed)
    folder = common.find_encoder(arguments.model)
    print(", ".join(f"{len(rows):,} {name}" for name, rows in questions.items()), "questions")

    tokenizer = common.load(AutoTokenizer, folder)
    model = common.load(AutoModel, folder).to(device)
    choice_only, both, cosine = {}, {}, {}
    for name, split in questions.items():
        choices, texts = choice_features(model, tokenizer, split)  # (choices, width) each
        similarity = (choices * texts).sum(1, keepdims=True)  # (choices, 1)
        cosine[name] = per_question(similarity[:, 0], split)
        choice_only[name] = choices
        both[name] = np.hstack([choices, texts, choices * texts, similarity])

    first = {name: [-np.arange(len(q.choices)) for q in split] for name, split in questions.items()}
    longest = {
        name: [np.array([len(choice) for choice in question.choices]) for question in split]
        for name, split in questions.items()
    }
    rows = {}
    for name, scores in (
        ("always the first", first),
        ("the longest", longest),
        ("cosine, frozen features", cosine),
    ):
        rows[name] = {split: scores[split] for split in ("validation", "test")}
    rows["ranker, question not shown"] = rank(choice_only, questions, seed)
    rows["ranker"] = rank(both, questions, seed)
    if arguments.finetune:
        labels = {0: "score"}
        tuned = add_head(AutoModelForMultipleChoice, folder, labels).to(device)
        epochs = 1 if arguments.quick else TUNING_EPOCHS
        rows[f"fine-tuned, {epochs} epochs"] = finetune(tuned, tokenizer, questions, seed, epochs)
    print_table(rows, questions)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
