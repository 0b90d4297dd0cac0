"""Lab exercise 3.2: answer multiple-choice questions by ranking the choices.

Each choice gets a score, and the choice with the highest score is the answer. If two choices have
it, the answer counts as wrong. The rows of the table compute the scores in different ways:

- the longest: the score is the length of the choice.
- cosine: a pretrained encoder turns each text into a vector, its features. The score is the cosine
  similarity of question and choice. The encoder is frozen: nothing is trained.
- ranker: a shallow network on the frozen features of question and choice. It is trained with the
  margin ranking loss, max(0, margin - (score of the right choice - score of a wrong choice)).
- ranker, question not shown: the same, on the features of the choice alone. It measures how well
  right choices can be recognised by their wording.
- LoRA and fine-tuned, with --finetune: the encoder reads question and choice together and is
  trained. LoRA trains only two narrow matrices next to each weight matrix, and the head.

Chance is the accuracy of guessing. McNemar's test counts the questions that only one of two rankers
answers right. If the counts are close, neither ranker is shown to be better.

OpenBookQA is a published benchmark. Even so, some of its test questions are in its training file.
Questions that are in two splits are left out of the earlier one.

    python lab_multiple_choice.py                         OpenBookQA: elementary science
    python lab_multiple_choice.py --data DIR              your own questions
    python lab_multiple_choice.py --dataset docstrings    which summary matches a description?
    python lab_multiple_choice.py --model NAME            another encoder, of the Hub or in a folder
    python lab_multiple_choice.py --finetune              also fine-tune the encoder

DIR has train.jsonl, test.jsonl and, if there is one, validation.jsonl, with lines such as
{"question": "Ice is", "choices": ["cold", "hot"], "answer": 0}. The answer may be a letter.

Takes five to ten minutes on two CPU cores, and an hour more with --finetune. On the test questions
of OpenBookQA expect an accuracy of 0.48 to 0.49 for the ranker, and of 0.46 to 0.47 if the question
is not shown. That is no evidence that the question helps. The ranker recognises right choices by
their wording.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.cluster import AgglomerativeClustering
from sklearn.model_selection import GroupShuffleSplit
from torch import nn
from torch.nn.functional import cross_entropy, margin_ranking_loss
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common
import lab_common
import lab_data
from lab_data import SPLITS, Question

MODEL = "bundled"  # a sentence encoder, whose mean-pooled features can be compared by cosine
MAX_QUESTIONS, QUICK_QUESTIONS = 5_000, 300  # of a split; larger splits are sampled
HELD_OUT = 0.1  # fraction of the groups of questions that becomes validation, if it has no file
GROUP_SIZE = 4  # questions about one fact in OpenBookQA; a group is not split
SEEDS = 3  # rankers of each kind
HIDDEN_SIZE = 512  # units of the hidden layer
DROPOUT = (0.1, 0.3, 0.5, 0.7)  # fraction of units that are 0 in a step; validation chooses
MARGIN = 1.0  # by which a right choice should score above a wrong one
RANKER_EPOCHS, RANKER_LEARNING_RATE = 20, 1e-3
RANKER_BATCH_SIZE = 256  # pairs of a right and a wrong choice
TUNING_EPOCHS, TUNING_BATCH_SIZE = 3, 16  # of questions
# LoRA starts at zero, so its steps are larger
TUNING_LEARNING_RATES = {"fine-tuned": 1e-4, "LoRA": 1e-3}

EVALUATED = ("validation", "test")


@dataclass
class EncodedQuestion(Question):
    """A question with frozen features."""

    choice_features: torch.Tensor  # of the choices alone, (choices, width)
    pair_features: torch.Tensor  # of the choices with the question, (choices, 3 * width + 1)


Splits = dict[str, list[EncodedQuestion]]
Scorer = Callable[[EncodedQuestion], torch.Tensor]  # returns the scores of the choices, (choices,)
Correct = dict[str, np.ndarray]  # by split: is the answer right? (seeds, questions), bool


def sample(questions: list[Question], size: int, seed: int) -> list[Question]:
    """Return at most `size` random questions, each with its choices in random order.

    In some data sets the first choice is always right.
    """
    generator = random.Random(seed)
    sampled = []
    for question in generator.sample(questions, min(size, len(questions))):
        choices = generator.sample(question.choices, len(question.choices))
        answer = choices.index(question.choices[question.answer])
        sampled.append(Question(question.text, choices, answer))
    return sampled


def encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> np.ndarray:
    """Return the features of each text, with a mean square of 1: (texts, width)."""
    poolings = {"mean": lab_common.mean_pooling}
    features = lab_common.encode(model, tokenizer, texts, poolings)["mean"]
    return features / np.sqrt((features**2).mean(axis=1, keepdims=True))


def hold_out(
    questions: list[Question], features: np.ndarray, seed: int
) -> dict[str, list[Question]]:
    """Split training questions into training and validation questions by groups.

    A group consists of questions with similar features, (questions, width), so that few facts occur
    in both splits.
    """
    clusters = max(2, len(questions) // GROUP_SIZE)
    clustering = AgglomerativeClustering(clusters, metric="cosine", linkage="average")
    groups = clustering.fit_predict(features)  # (questions,)
    splitter = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed)
    train, validation = next(splitter.split(features, groups=groups))
    return {
        "train": [questions[index] for index in train],
        "validation": [questions[index] for index in validation],
    }


def add_features(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> list[EncodedQuestion]:
    """Return the questions with their frozen features."""
    texts = [text for question in questions for text in (question.text, *question.choices)]
    features = torch.from_numpy(encode(model, tokenizer, texts))  # (texts, width)
    encoded = []
    counts = [1 + len(question.choices) for question in questions]
    for question, rows in zip(questions, features.split(counts), strict=True):
        question_row, choices = rows[:1], rows[1:]  # (1, width), (choices, width)
        product = choices * question_row  # (choices, width); large where choice and question agree
        # the cosine is the mean of the product, because `encode` scales all mean squares to 1
        cosine = product.mean(dim=1, keepdim=True)  # (choices, 1)
        pairs = torch.hstack([choices, question_row.expand_as(choices), product, cosine])
        encoded.append(
            # the fields of the question, and two more
            EncodedQuestion(**vars(question), choice_features=choices, pair_features=pairs)
        )
    return encoded


def train_ranker(questions: list[EncodedQuestion], features: str, dropout: float) -> Scorer:
    """Train a network to score the right choice of a question above the wrong ones.

    `features` names those that it reads, "choice_features" or "pair_features".
    """
    right, wrong = [], []  # features of the right choice and of a wrong one, for every pair
    for question in questions:
        choices = getattr(question, features)  # (choices, width)
        is_wrong = torch.arange(len(choices)) != question.answer  # (choices,)
        wrong.append(choices[is_wrong])  # (choices - 1, width)
        right.append(choices[question.answer].expand_as(wrong[-1]))
    right_features, wrong_features = torch.cat(right), torch.cat(wrong)  # (pairs, width)
    network = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(right_features.shape[1], HIDDEN_SIZE),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN_SIZE, 1),
    )

    def batch_loss(batch: list[int]) -> torch.Tensor:
        right_scores = network(right_features[batch])  # (batch, 1)
        wrong_scores = network(wrong_features[batch])  # (batch, 1)
        # the mean of max(0, MARGIN - (right_scores - wrong_scores))
        ones = torch.ones_like(right_scores)  # the first scores should be the higher ones
        return margin_ranking_loss(right_scores, wrong_scores, ones, MARGIN)

    batches = lab_common.random_batches(len(right_features), RANKER_BATCH_SIZE, RANKER_EPOCHS)
    lab_common.train(network.train(), batch_loss, batches, RANKER_LEARNING_RATE)
    network.eval()
    return lambda question: network(getattr(question, features)).squeeze(1)


def fit_ranker(splits: Splits, features: str, seed: int) -> Scorer:
    """Train a ranker with each dropout; return the one with the best validation accuracy."""
    rankers = {}
    for dropout in DROPOUT:
        common.seed_everything(seed)
        rankers[dropout] = train_ranker(splits["train"], features, dropout)
    best = max(DROPOUT, key=lambda p: is_correct(rankers[p], splits["validation"]).mean())
    common.note(f"ranker on {features}, seed {seed}: validation chose dropout {best}")
    return rankers[best]


def read_together(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[torch.Tensor]:
    """Return the scores of the choices of each question, read with the question: (choices,)."""
    inputs = tokenizer(
        [question.text for question in questions for _ in question.choices],
        [choice for question in questions for choice in question.choices],
        padding=True,
        truncation=True,
        max_length=min(lab_common.MAX_TOKENS, common.context_length(model, tokenizer)),
        return_tensors="pt",
    ).to(model.device)
    # The model expects (questions, choices, time). Its head scores each choice independently, so
    # the choices of all questions are passed as those of one: (1, all choices, time).
    scores = model(**{name: rows.unsqueeze(0) for name, rows in inputs.items()}).logits[0]
    return list(scores.split([len(question.choices) for question in questions]))


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[EncodedQuestion],
    epochs: int,
    learning_rate: float,
) -> Scorer:
    """Train encoder and head on the cross-entropy over the choices of a question."""

    def batch_loss(batch: list[int]) -> torch.Tensor:
        batch_questions = [questions[index] for index in batch]
        scores = read_together(model, tokenizer, batch_questions)  # (choices,) each
        answers = torch.tensor([q.answer for q in batch_questions], device=model.device)
        losses = [cross_entropy(*pair) for pair in zip(scores, answers, strict=True)]
        return torch.stack(losses).mean()

    lengths = [len(question.text) + max(map(len, question.choices)) for question in questions]
    batches = lab_common.random_batches(len(questions), TUNING_BATCH_SIZE, epochs, lengths)
    lab_common.train(model.train(), batch_loss, batches, learning_rate)
    model.eval()
    return lambda question: read_together(model, tokenizer, [question])[0]


@torch.inference_mode()
def is_correct(scorer: Scorer, questions: list[EncodedQuestion]) -> np.ndarray:
    """Return whether the right choice has a higher score than all others: (questions,), bool.

    A tie is wrong.
    """
    right = []
    for question in questions:
        scores = scorer(question)  # (choices,)
        # only the right choice itself is as high
        right.append((scores >= scores[question.answer]).sum().item() == 1)
    return np.array(right)


def evaluate(runs: list[Scorer], splits: Splits) -> Correct:
    """Return which questions each run answers right, for validation, test and both together."""
    right = {name: np.array([is_correct(run, splits[name]) for run in runs]) for name in EVALUATED}
    return right | {"both": np.hstack(list(right.values()))}


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Return how many questions only `first` and only `second` answers right, and the p-value.

    This is McNemar's exact test. If both were equally good, a coin could decide each of these
    questions. A small p-value says that a coin would rarely give counts as unequal.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = binomtest(only_first, max(1, only_first + only_second)).pvalue
    return only_first, only_second, p_value


def chance(questions: list[EncodedQuestion]) -> float:
    """Return the accuracy of guessing."""
    return float(np.mean([1 / len(question.choices) for question in questions]))


def print_table(results: dict[str, Correct], splits: Splits) -> None:
    """Print mean and standard deviation of the accuracies over the runs of each row.

    The 95 % confidence interval is that of the mean accuracy on so many test questions.
    """
    print(f"\n{'':30}{'validation':>17}{'test':>17}  95 % interval")
    print(f"{'chance':30}{chance(splits['validation']):9.3f}{chance(splits['test']):17.3f}")
    for row, right in results.items():
        print(f"{row:30}", end="")
        for name in EVALUATED:
            accuracies = right[name].mean(axis=1)  # (runs,)
            deviation = f" ± {accuracies.std(ddof=1):.3f}" if len(accuracies) > 1 else ""
            print(f"{accuracies.mean():9.3f}{deviation:8}", end="")
        count = right["test"].shape[1]
        successes = round(right["test"].mean() * count)
        interval = binomtest(successes, count).proportion_ci(method="wilson")
        print(f"  {interval.low:.3f} to {interval.high:.3f}")


def print_comparison(shown: Correct, hidden: Correct) -> None:
    """Print McNemar's test of the first ranker with and the first without the question."""
    print("\nMcNemar's test, rankers of the first seed: questions that only one answers right")
    print(f"{'':12}{'question shown':>16}{'not shown':>12}{'p':>9}")
    comparisons = {name: mcnemar(shown[name][0], hidden[name][0]) for name in shown}
    for name, (only_shown, only_hidden, p_value) in comparisons.items():
        print(f"{name:12}{only_shown:16}{only_hidden:12}{p_value:9.2g}")
    gain = shown["both"][0].mean() - hidden["both"][0].mean()
    *_, p_value = comparisons["both"]
    evidence = "evidence" if p_value < 0.05 else "no evidence"
    common.note(
        f"the question changes the accuracy on both by {gain:+.3f}: {evidence} of an effect"
    )


def main(argv: list[str] | None = None) -> int:
    """Answer the questions in every way, from the simplest to the most expensive."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    choices = ("openbookqa", "docstrings")
    parser.add_argument("--dataset", choices=choices, help="data set (default: openbookqa)")
    parser.add_argument("--finetune", action="store_true", help="also fine-tune the encoder")
    arguments = parser.parse_args(argv)
    seed, device = arguments.seed, common.select_device(arguments.device)
    limit = QUICK_QUESTIONS if arguments.quick else MAX_QUESTIONS

    # 1. Questions
    _, loaded = lab_data.load_or_docstrings(arguments, "openbookqa", lab_data.load_questions)
    questions = {name: sample(rows, limit, seed) for name, rows in loaded.items()}
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    encoder = common.load(AutoModel, folder).to(device)
    if "validation" not in questions:
        train = questions["train"]
        texts = [f"{question.text} {question.choices[question.answer]}" for question in train]
        with common.errors_in("too few training questions"):
            questions |= hold_out(train, encode(encoder, tokenizer, texts), seed)
    questions = lab_data.remove_duplicates(questions, text=lambda question: question.text)
    print(", ".join(f"{len(questions[name]):,} {name}" for name in SPLITS), "questions")

    # 2. Frozen features
    splits = {name: add_features(encoder, tokenizer, questions[name]) for name in SPLITS}

    # 3. Rankers
    seeds = range(seed, seed + SEEDS)
    scorers: dict[str, list[Scorer]] = {
        "the longest": [lambda question: torch.tensor([*map(len, question.choices)])],
        "cosine": [lambda question: question.pair_features[:, -1]],
        "ranker, question not shown": [
            fit_ranker(splits, "choice_features", run_seed) for run_seed in seeds
        ],
        "ranker": [fit_ranker(splits, "pair_features", run_seed) for run_seed in seeds],
    }

    # 4. Fine-tuned encoders
    epochs = 1 if arguments.quick else TUNING_EPOCHS
    learning_rates = TUNING_LEARNING_RATES if arguments.finetune else {}
    for kind, learning_rate in learning_rates.items():
        common.seed_everything(seed)
        model = common.add_head(AutoModelForMultipleChoice, folder, {0: "score"})
        if kind == "LoRA":
            lab_common.add_lora(model.base_model)  # the head stays trainable
        trained = lab_common.trained_weights(model) / 1e6
        with common.errors_in(folder):
            tuned = finetune(model.to(device), tokenizer, splits["train"], epochs, learning_rate)
        scorers[f"{kind}, {trained:.2f} M weights"] = [tuned]

    # 5. Results
    results = {name: evaluate(runs, splits) for name, runs in scorers.items()}
    print_table(results, splits)
    print_comparison(results["ranker"], results["ranker, question not shown"])
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
