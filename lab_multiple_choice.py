"""Lab exercise 3.2: answer multiple-choice questions by ranking the choices.

Each choice gets a score, and the choice with the highest score is the answer. The rows of the table
compute the score in different ways:

- cosine: the cosine similarity of question and choice in a frozen encoder. Nothing is trained. It
  helps little on OpenBookQA, because the wrong choices are about the same topic.
- ranker: an MLP on the frozen features of question and choice. The margin ranking loss only asks
  that the right choice scores higher than a wrong one by a margin.
- ranker, question not shown: the same, on the features of the choice alone. It measures how well
  right choices can be recognised by their wording.
- fine-tuned: the whole encoder reads question and choice together.

The choices are shuffled first, and a tie counts as wrong. Each ranker is trained from three seeds.
The table gives the mean and the standard deviation of their accuracies. McNemar's test compares the
answers of the two rankers, each with the sum of its three scores.

    python lab_multiple_choice.py                             OpenBookQA: elementary science
    python lab_multiple_choice.py --dataset commonsense_qa    or swag: how a scene continues
    python lab_multiple_choice.py --data DIR     train.jsonl, test.jsonl and, if there is one,
                                                 validation.jsonl: question, choices, answer
    python lab_multiple_choice.py --dataset docstrings        summaries of installed functions
    python lab_multiple_choice.py --finetune                  also fine-tune the whole encoder

Takes three to five minutes on two CPU cores, and ten more with --finetune. On the test questions of
OpenBookQA expect an accuracy of 0.53 for the ranker, and of 0.48 if it does not see the question.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import common
import lab_common
import lab_data
import pretrained
from lab_data import MULTIPLE_CHOICE, SPLITS, Question
from task09 import add_head

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.cluster import AgglomerativeClustering
from sklearn.model_selection import GroupShuffleSplit
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MODEL = "bundled"  # a sentence encoder, whose mean-pooled features can be compared by cosine
MAX_QUESTIONS, QUICK_QUESTIONS = 5_000, 300  # of a split; larger splits are sampled
HELD_OUT = 0.1  # fraction of the groups of questions for validation, if it has no file
GROUP_SIZE = 4  # questions about one fact in OpenBookQA; a group is not split
SEEDS = 3  # rankers of each kind
HIDDEN_SIZE = 512  # units of the hidden layer
DROPOUT = (0.3, 0.5)
MARGIN = 1.0  # by which a right choice should score above a wrong one
RANKER_EPOCHS, RANKER_BATCH, RANKER_RATE = 20, 256, 1e-3  # batches of pairs: right, wrong
TUNING_EPOCHS, TUNING_BATCH, TUNING_RATE = 3, 16, 1e-4  # a batch of questions

Scores = list[np.ndarray]  # for each question: the scores of its choices
Splits = dict[str, list[Question]]
EVALUATED = ("validation", "test")


def sample(questions: list[Question], size: int, seed: int) -> list[Question]:
    """Return at most `size` random questions, in their original order."""
    kept = np.random.default_rng(seed).permutation(len(questions))[:size]
    return [questions[index] for index in np.sort(kept)]


def shuffle_choices(questions: list[Question], generator: np.random.Generator) -> list[Question]:
    """Put the choices of each question in a random order."""
    shuffled = []
    for question in questions:
        order = generator.permutation(len(question.choices)).tolist()
        choices = [question.choices[index] for index in order]
        shuffled.append(Question(question.text, choices, order.index(question.answer)))
    return shuffled


def hold_out(questions: list[Question], features: np.ndarray, seed: int) -> Splits:
    """Split training questions into training and validation questions by groups.

    A group consists of questions with similar `features` (questions, width), so that few facts are
    asked about on both sides. Raises `ScriptError` if there are too few questions.
    """
    if len(questions) < 2 * GROUP_SIZE:
        raise common.ScriptError(
            f"there are {len(questions)} training questions; at least {2 * GROUP_SIZE} are needed"
        )
    clustering = AgglomerativeClustering(
        len(questions) // GROUP_SIZE, metric="cosine", linkage="average"
    )
    groups = clustering.fit_predict(features)  # (questions,)
    splitter = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed)
    train, validation = next(splitter.split(features, groups=groups))
    return {
        "train": [questions[index] for index in train],
        "validation": [questions[index] for index in validation],
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


def encode_normalised(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> np.ndarray:
    """Return the mean-pooled features of texts, normalised to length 1: (texts, width)."""
    poolings = {"mean": lab_common.mean_pooling}
    features = lab_common.encode(model, tokenizer, texts, poolings)["mean"]
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ranking_pairs(questions: list[Question]) -> np.ndarray:
    """Return row numbers of the right choice with each wrong choice of its question: (pairs, 2)."""
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
    return {name: per_question(score(features[name]), questions[name]) for name in EVALUATED}


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
        batch_questions = [train[index] for index in batch]
        counts = [len(question.choices) for question in batch_questions]
        scores = joint_scores(model, tokenizer, batch_questions).split(counts)
        losses = [
            each.logsumexp(0) - each[question.answer]
            for each, question in zip(scores, batch_questions, strict=True)
        ]
        return torch.stack(losses).mean()

    lengths = [len(each.text) + max(map(len, each.choices)) for each in train]
    batches = lab_common.random_batches(len(train), TUNING_BATCH, epochs, lengths)
    lab_common.train(model.train(), batch_loss, batches, TUNING_RATE)
    model.eval()
    scores: dict[str, Scores] = {name: [] for name in EVALUATED}
    for name, column in scores.items():
        for start in range(0, len(questions[name]), TUNING_BATCH):
            batch = questions[name][start : start + TUNING_BATCH]
            with torch.inference_mode():
                column += per_question(joint_scores(model, tokenizer, batch).cpu().numpy(), batch)
    return scores


def sum_of_scores(runs: list[dict[str, Scores]]) -> Scores:
    """Return the scores of the test choices, added up over the runs."""
    return [np.sum(scores, axis=0) for scores in zip(*(run["test"] for run in runs), strict=True)]


def mcnemar(first: Scores, second: Scores, questions: list[Question]) -> float:
    """Return the p-value of McNemar's exact test: are two ways of answering equally accurate?

    Only questions that exactly one of them answers right count.
    """
    pairs = zip(first, second, questions, strict=True)
    outcomes = [(is_right(a, each.answer), is_right(b, each.answer)) for a, b, each in pairs]
    only_first, only_second = outcomes.count((True, False)), outcomes.count((False, True))
    return binomtest(only_first, max(1, only_first + only_second)).pvalue


def print_table(rows: dict[str, list[dict[str, Scores]]], questions: Splits) -> None:
    """Print mean and standard deviation of the accuracies of each row, with one run per seed.

    The 95 % confidence interval is that of the mean accuracy on so many test questions.
    """
    print(f"\n{'':30}{'validation':>17}{'test':>17}  95 % interval")
    chance = [np.mean([1 / len(q.choices) for q in questions[name]]) for name in EVALUATED]
    print(f"{'chance':30}{chance[0]:9.3f}{'':8}{chance[1]:9.3f}")
    for row, runs in rows.items():
        print(f"{row:30}", end="")
        for name in EVALUATED:
            values = [accuracy(run[name], questions[name]) for run in runs]
            deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            print(f"{np.mean(values):9.3f}{deviation:8}", end="")
        count = len(questions["test"])
        interval = binomtest(round(np.mean(values) * count), count).proportion_ci(method="wilson")
        print(f"  {interval.low:.3f} to {interval.high:.3f}")


def main(argv: list[str] | None = None) -> int:
    """Answer the questions in every way, from the simplest to the most expensive."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "data set on the Hub, or docstrings of installed libraries (default: openbookqa)"
    parser.add_argument("--dataset", choices=(*MULTIPLE_CHOICE, "docstrings"), help=text)
    parser.add_argument("--finetune", action="store_true", help="also fine-tune the whole encoder")
    arguments = parser.parse_args(argv)
    seed, device = arguments.seed, common.select_device(arguments.device)
    limit = QUICK_QUESTIONS if arguments.quick else MAX_QUESTIONS
    _, splits = lab_data.load_or_docstrings(arguments, "openbookqa", lab_data.load_questions)
    questions = {
        name: shuffle_choices(sample(each, limit, seed), np.random.default_rng(seed))
        for name, each in splits.items()
    }
    folder = pretrained.find_model(arguments.model, pretrained.ENCODER)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModel, folder).to(device)

    if "validation" not in questions:
        texts = [f"{q.text} {q.choices[q.answer]}" for q in questions["train"]]
        features = encode_normalised(model, tokenizer, texts)  # (questions, width)
        questions |= hold_out(questions["train"], features, seed)
    print(", ".join(f"{len(questions[name]):,} {name}" for name in SPLITS), "questions")

    choice_only, both, cosine = {}, {}, {}
    for name, split in questions.items():
        choices = [choice for question in split for choice in question.choices]
        choice_features = encode_normalised(model, tokenizer, choices)  # (choices, width)
        repeats = [len(question.choices) for question in split]
        question_features = encode_normalised(model, tokenizer, [each.text for each in split])
        question_features = np.repeat(question_features, repeats, axis=0)  # (choices, width)
        product = choice_features * question_features
        similarity = product.sum(1, keepdims=True)  # (choices, 1), the cosine
        cosine[name] = per_question(similarity[:, 0], split)
        choice_only[name] = choice_features
        both[name] = np.hstack([choice_features, question_features, product, similarity])
    first = {name: [-np.arange(len(q.choices)) for q in questions[name]] for name in EVALUATED}
    longest = {
        name: [np.array([len(choice) for choice in q.choices]) for q in questions[name]]
        for name in EVALUATED
    }
    seeds = range(seed, seed + SEEDS)
    without_question = [rank(choice_only, questions, s) for s in seeds]
    with_question = [rank(both, questions, s) for s in seeds]
    rows = {
        "always the first": [first],
        "the longest": [longest],
        "cosine, frozen features": [cosine],
        "ranker, question not shown": without_question,
        "ranker": with_question,
    }
    if arguments.finetune:
        common.seed_everything(seed)
        tuned = add_head(AutoModelForMultipleChoice, folder, {0: "score"}).to(device)
        epochs = 1 if arguments.quick else TUNING_EPOCHS
        rows[f"fine-tuned, {epochs} epochs"] = [finetune(tuned, tokenizer, questions, seed, epochs)]
    print_table(rows, questions)
    sums = sum_of_scores(without_question), sum_of_scores(with_question)
    p_value = mcnemar(*sums, questions["test"])
    print(f"\nMcNemar's test, ranker with and without the question: p = {p_value:.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
