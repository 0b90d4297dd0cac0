"""Lab exercise 3.2: answer multiple-choice questions by ranking their choices.

A choice gets a score, and the highest score is the answer. Where the score comes from:

- cosine: how near the encoder puts the choice to the question. Nothing is trained, and often
  little is gained: a wrong choice is as near to the topic as the right one.
- ranker: an MLP on the frozen features of question and choice. Margin ranking loss asks of it only
  that a right choice is above a wrong one by a margin, never for a certain score.
- the same ranker, but not shown the question. What it gets right, it gets right because right
  choices are worded otherwise than wrong ones. Any ranker has learnt that too.
- fine-tuned: the whole encoder reads question and choice together.

Choices are shuffled before anything looks at them. A tie is wrong.

    python lab_multiple_choice.py                             OpenBookQA: science for schools
    python lab_multiple_choice.py --dataset commonsense_qa    or swag: how a scene goes on
    python lab_multiple_choice.py --data DIR     train.jsonl, test.jsonl: question, choices, answer
    python lab_multiple_choice.py --finetune                  train the whole encoder too

Takes two minutes on a laptop, and with --finetune twelve. Expect the ranker to be right in 0.56 of
the test questions of OpenBookQA, and in 0.48 where it cannot see the question.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import common

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

MODEL = "bundled"  # a sentence encoder: its means of tokens can be compared
DATASETS = {
    "openbookqa": common.HubDataset("allenai/openbookqa", 1, config="main"),
    "commonsense_qa": common.HubDataset("tau/commonsense_qa", 2),
    "swag": common.HubDataset("allenai/swag", 40, config="regular"),
}
TEST_SPLIT = {"openbookqa": "test"}  # the answers of the others' are secret: there, validation
MOST_QUESTIONS = 5_000  # to train on; of more, a random part
QUICK_QUESTIONS = 300
HELD_OUT = 0.1  # of the training questions, to choose settings on
HIDDEN = 512
DROPOUT = (0.3, 0.5)
MARGIN = 1.0
RANKER_EPOCHS, RANKER_BATCH, RANKER_RATE = 20, 256, 1e-3  # a batch of pairs: one right, one wrong
TUNING_EPOCHS, TUNING_BATCH, TUNING_RATE = 3, 16, 1e-4  # a batch of questions

Scores = list[np.ndarray]  # of each question: a score for each of its choices


@dataclass
class Question:
    """A question, two or more choices, and which of them is right."""

    text: str
    choices: list[str]
    answer: int


def read_questions(path: Path) -> list[Question]:
    """Read a file of JSON objects, one a line, with a question, choices and the answer's place."""
    questions = []
    for number, row in enumerate(
        common.read_jsonl(path, question=str, choices=list, answer=int), 1
    ):
        question = Question(row["question"], row["choices"], row["answer"])
        if len(question.choices) < 2 or not all(isinstance(each, str) for each in question.choices):
            raise common.ScriptError(f"{path}: line {number}: choices are two texts or more")
        if not 0 <= question.answer < len(question.choices):
            raise common.ScriptError(
                f"{path}: line {number}: answer {question.answer} is none of its "
                f"{len(question.choices)} choices, which count from 0"
            )
        questions.append(question)
    return questions


def from_hub(row: pd.Series) -> Question:
    """Read a row as one of `DATASETS` has it."""
    if "ending0" in row:  # SWAG: which of four endings the second sentence has
        choices = [row[f"ending{number}"] for number in range(4)]
        return Question(f"{row['sent1']} {row['sent2']}", choices, int(row["label"]))
    text = row["question_stem"] if "question_stem" in row else row["question"]
    answer = list(row["choices"]["label"]).index(row["answerKey"])
    return Question(text, list(row["choices"]["text"]), answer)


def load_questions(dataset: str, folder: Path | None, split: str) -> list[Question]:
    """Load the `train` or `test` questions, from the folder where one is given."""
    if folder is not None:
        common.check_folder(folder, "train.jsonl", "test.jsonl")
        return read_questions(folder / f"{split}.jsonl")
    if split == "test":
        split = TEST_SPLIT.get(dataset, "validation")
    return [from_hub(row) for _, row in common.hub_table(DATASETS[dataset], split).iterrows()]


def shuffle(questions: list[Question], random: np.random.Generator) -> list[Question]:
    """Put the choices of every question in a random order."""
    shuffled = []
    for question in questions:
        order = random.permutation(len(question.choices)).tolist()
        choices = [question.choices[place] for place in order]
        shuffled.append(Question(question.text, choices, order.index(question.answer)))
    return shuffled


def is_right(scores: np.ndarray, answer: int) -> bool:
    """Tell whether the right choice has a higher score than every other: a tie is wrong."""
    return bool((np.delete(scores, answer) < scores[answer]).all())


def accuracy(scores: Scores, questions: list[Question]) -> float:
    """Return the share of questions whose right choice has the highest score."""
    pairs = zip(scores, questions, strict=True)
    return float(np.mean([is_right(each, question.answer) for each, question in pairs]))


def interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share of `count` questions (Wilson 1927)."""
    z = 1.959964  # of the normal distribution, 95 % lies within so many deviations
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    spread /= 1 + z**2 / count
    return max(0.0, centre - spread), min(1.0, centre + spread)


def per_question(flat: np.ndarray, questions: list[Question]) -> Scores:
    """Cut the scores of all choices, one after another, where the next question begins."""
    ends = list(accumulate(len(question.choices) for question in questions))
    return np.split(flat, ends[:-1])


def choice_features(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the frozen encoder makes of each choice, and of its question: (choice, width).

    Both are means over tokens, of length 1.
    """
    asked = [place for place, question in enumerate(questions) for _ in question.choices]
    texts = [choice for question in questions for choice in question.choices]
    sides = []
    for side in ([question.text for question in questions], texts):
        features = common.encode(model, tokenizer, side, {"mean": common.mean_token})["mean"]
        sides.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    return sides[1], sides[0][asked]


def ranking_pairs(questions: list[Question]) -> np.ndarray:
    """Return (pairs, 2): the place of a right choice and of a wrong one of the same question."""
    pairs, start = [], 0
    for question in questions:
        others = (place for place in range(len(question.choices)) if place != question.answer)
        pairs += [(start + question.answer, start + other) for other in others]
        start += len(question.choices)
    return np.array(pairs)


def train_ranker(
    features: np.ndarray, questions: list[Question], dropout: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Train an MLP to score the right choice of a question above each wrong one by a margin.

    Returns what gives scores, (choice,), to features, (choice, feature).
    """
    from torch import nn

    inputs, pairs = torch.from_numpy(features), torch.from_numpy(ranking_pairs(questions))
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    network = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, 1),
    )

    def loss(batch: list[int]) -> torch.Tensor:
        right, wrong = network((inputs[pairs[batch]] - mean) / deviation).unbind(1)  # (pairs, 1)
        return nn.functional.margin_ranking_loss(right, wrong, torch.ones_like(right), MARGIN)

    batches = common.random_batches(len(pairs), RANKER_BATCH, RANKER_EPOCHS)
    common.tune(network, loss, batches, RANKER_RATE)
    network.eval()

    @torch.inference_mode()
    def score(features: np.ndarray) -> np.ndarray:
        return network((torch.from_numpy(features) - mean) / deviation).squeeze(-1).numpy()

    return score


def rank(
    features: dict[str, np.ndarray], questions: dict[str, list[Question]], seed: int
) -> dict[str, Scores]:
    """Train rankers; return the scores of the one that is right most often in validation."""
    rankers = []
    for dropout in DROPOUT:
        common.seed_everything(seed)
        score = train_ranker(features["train"], questions["train"], dropout)
        scores = {name: per_question(score(features[name]), questions[name]) for name in questions}
        right = accuracy(scores["validation"], questions["validation"])
        rankers.append((right, scores))
    return max(rankers, key=lambda each: each[0])[1]


def joint_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> torch.Tensor:
    """Return the score of every choice, (choice,), read together with its question."""
    asked = [question.text for question in questions for _ in question.choices]
    choices = [choice for question in questions for choice in question.choices]
    inputs = tokenizer(
        asked, choices, padding=True, truncation=True, max_length=common.LONGEST_FEATURE_TEXT,
        return_tensors="pt",
    ).to(model.device)  # fmt: skip
    # the head takes all choices as those of one question: it gives each a score of its own
    return model(**{name: rows.unsqueeze(0) for name, rows in inputs.items()}).logits[0]


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: dict[str, list[Question]],
    seed: int,
    epochs: int,
) -> dict[str, Scores]:
    """Train encoder and multiple-choice head: cross-entropy over the choices of a question."""
    common.seed_everything(seed)
    train = questions["train"]

    def loss(batch: list[int]) -> torch.Tensor:
        asked = [train[place] for place in batch]
        scores = joint_scores(model, tokenizer, asked).split([len(each.choices) for each in asked])
        losses = [
            each.logsumexp(0) - each[question.answer]
            for each, question in zip(scores, asked, strict=True)
        ]
        return torch.stack(losses).mean()

    lengths = [len(each.text) + max(map(len, each.choices)) for each in train]
    batches = common.random_batches(len(train), TUNING_BATCH, epochs, lengths)
    model.train()
    common.tune(model, loss, batches, TUNING_RATE)
    model.eval()
    scores: dict[str, Scores] = {}
    for name in ("validation", "test"):
        scores[name] = []
        for start in range(0, len(questions[name]), TUNING_BATCH):
            asked = questions[name][start : start + TUNING_BATCH]
            with torch.inference_mode():
                flat = joint_scores(model, tokenizer, asked).cpu().numpy()
            scores[name] += per_question(flat, asked)
    return scores


def print_table(rows: dict[str, dict[str, Scores]], questions: dict[str, list[Question]]) -> None:
    """Print how often each row is right, and where 95 of 100 such test sets would put that."""
    print(f"\n{'':36}{'validation':>10}{'test':>8}  95 % interval")
    chances = [
        float(np.mean([1 / len(each.choices) for each in questions[name]]))
        for name in ("validation", "test")
    ]
    print(f"{'chance':36}{chances[0]:10.3f}{chances[1]:8.3f}")
    for row, scores in rows.items():
        validation, test = (accuracy(scores[name], questions[name]) for name in scores)
        low, high = interval(test, len(questions["test"]))
        print(f"{row:36}{validation:10.3f}{test:8.3f}  {low:.3f} to {high:.3f}")


def main(argv: list[str] | None = None) -> int:
    """Answer in every way, from the simplest on."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    parser.add_argument("--dataset", choices=tuple(DATASETS), default="openbookqa", help="which")
    parser.add_argument("--finetune", action="store_true", help="train the whole encoder too")
    arguments = parser.parse_args(argv)
    seed = arguments.seed

    random = np.random.default_rng(seed)
    most = QUICK_QUESTIONS if arguments.quick else MOST_QUESTIONS
    drawn = {}
    for split in ("train", "test"):
        loaded = load_questions(arguments.dataset, arguments.data, split)
        kept = np.sort(random.permutation(len(loaded))[:most])
        drawn[split] = shuffle([loaded[place] for place in kept], random)
    if len(drawn["train"]) < 2:
        raise common.ScriptError("one question to train on is too few: some are held out of them")
    order = random.permutation(len(drawn["train"])).tolist()
    cut = max(1, round(HELD_OUT * len(order)))
    questions = {
        "train": [drawn["train"][place] for place in order[cut:]],
        "validation": [drawn["train"][place] for place in order[:cut]],
        "test": drawn["test"],
    }
    print(", ".join(f"{len(rows):,} {name}" for name, rows in questions.items()), "questions")

    folder = common.find_encoder(arguments.model)
    tokenizer = common.load_tokenizer(folder)
    device = common.select_device(arguments.device)
    model = common.load_model(folder, "AutoModel", device)
    sides = {name: choice_features(model, tokenizer, rows) for name, rows in questions.items()}
    cosine = {name: (choice * asked).sum(1) for name, (choice, asked) in sides.items()}

    seen = ("validation", "test")
    rows = {
        "always the first": {
            name: [-np.arange(len(each.choices)) for each in questions[name]] for name in seen
        },
        "the longest": {
            name: [np.array([len(choice) for choice in each.choices]) for each in questions[name]]
            for name in seen
        },
        "cosine, frozen features": {
            name: per_question(cosine[name], questions[name]) for name in seen
        },
    }
    alone = {name: choice for name, (choice, _) in sides.items()}
    both = {
        name: np.hstack([choice, asked, choice * asked, cosine[name][:, None]])
        for name, (choice, asked) in sides.items()
    }
    for row, features in (("ranker, question not shown", alone), ("ranker", both)):
        scores = rank(features, questions, seed)
        rows[row] = {name: scores[name] for name in seen}
    if arguments.finetune:
        tuned = common.add_head(folder, "AutoModelForMultipleChoice", device)
        epochs = 1 if arguments.quick else TUNING_EPOCHS
        rows[f"fine-tuned, {epochs} epochs"] = finetune(tuned, tokenizer, questions, seed, epochs)
    print_table(rows, questions)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
