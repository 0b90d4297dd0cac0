"""Every number that the scripts print and that someone else defined, and who confirms it.

`ROWS` is the specification: what is printed, by which script, the second source, a function that
gives the script's figure and the other's, and by how much they may differ. A second source is
another library, a loop, or a calculation by hand that stands beside it. What a script defines for
itself, as the longest repeat or the share of terza rima, is tested with the script.
"""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from string import punctuation
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Pair, load_pair

import common
import dante_gpt
import lab_classifier
import lab_generation
import lab_multiple_choice
import lab_retrieval
import lab_tokenizer
import task02
import task03
import task04
import task06
import task07
import task08
import task09
import task10
import task11
import task12
import task13

RECORDED = json.loads((ROOT / "tests" / "expected" / "pipelines.json").read_text("utf-8"))
CPU = torch.device("cpu")


class Models:
    """The tiny checkpoints, each loaded when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, model: common.HubModel, kind: str = "generator") -> Pair:
        return load_pair(self.folder / model.name, kind)

    @cached_property
    def gpt2(self) -> Pair:
        return self.load(task11.MODEL)

    @cached_property
    def t5(self) -> Pair:
        return self.load(task07.GENERATIVE_MODEL)


class Row(NamedTuple):
    """A number, or a text, that is printed, and who confirms it."""

    script: str
    printed: str
    source: str
    both: Callable[[Models], tuple[object, object]]  # the script's and the other's
    tolerance: float = 0.0  # relative, and of what is near zero absolute


def said(speak: Callable[[], object]) -> str:
    """Return what a function prints."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        speak()
    return out.getvalue()


def figures(text: str) -> list[float]:
    """Return the numbers with a decimal point in a text."""
    return [float(figure) for figure in re.findall(r"\d+\.\d+", text)]


# Task 01


def windows(_: Models) -> tuple[object, object]:
    frame = pd.DataFrame({"position": range(101), "value": range(101)})
    found = [part[:5].tolist() for part in common.create_sequences(frame, 5)]
    return found, [[[i, i + 1, i + 2, i + 3, i + 4] for i in range(5)], [5, 6, 7, 8, 9]]


def window_counts(_: Models) -> tuple[object, object]:
    inputs, targets = common.create_sequences(common.synthetic_electricity("train"), 96)
    dataset = common.sequence_dataset(inputs, targets)
    # 2011 to 2013 have 1,096 days of 96 quarter-hours; the first, at midnight, is not recorded
    windows = 1096 * 96 - 1 - 96
    return [inputs.shape, targets.shape, len(dataset)], [(windows, 96), (windows,), windows]


# Task 02


@cache
def waves() -> tuple[torch.nn.Module, object]:
    """Make a small LSTM and 96 windows for it."""
    torch.manual_seed(0)
    frame = pd.DataFrame({"value": np.sin(np.arange(120) / 5).astype("float32")})
    dataset = common.sequence_dataset(*common.create_sequences(frame, 24))
    return common.ConsumptionLSTM(hidden_size=8), dataset


def squared_error_one_by_one() -> float:
    """Let scikit-learn compare predictions of single windows with their targets."""
    from sklearn.metrics import mean_squared_error

    model, dataset = waves()
    with torch.no_grad():
        predicted = [model(window[None]).item() for window, _ in dataset]
    return mean_squared_error(dataset.tensors[1].numpy(), predicted)


def error_on_test(_: Models) -> tuple[object, object]:
    return task02.mean_loss(*waves()), squared_error_one_by_one()


def epoch_loss(_: Models) -> tuple[object, object]:
    model, dataset = waves()  # at a rate of 0 every batch, of all three, finds the same model
    settings = {"epochs": 1, "batch_size": 32, "learning_rate": 0.0}
    with redirect_stderr(io.StringIO()):
        (loss,) = common.fit(model, dataset, **settings)
    return loss, squared_error_one_by_one()


# Task 03


@cache
def samples() -> task03.Samples:
    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    return task03.make_samples(frame)


def errors(predicted: np.ndarray) -> list[float]:
    """Return MSE and R-squared as the script computes them."""
    from sklearn.metrics import mean_squared_error, r2_score

    targets = samples().targets
    return [mean_squared_error(targets, predicted), r2_score(targets, predicted)]


def errors_by_hand(predicted: np.ndarray) -> list[float]:
    """Return the mean square, and which share of the targets' variance it leaves explained."""
    targets = samples().targets.astype(float)
    squares = np.sum((targets - predicted) ** 2)
    return [squares / len(targets), 1 - squares / np.sum((targets - targets.mean()) ** 2)]


def fitted(experiment: task03.Experiment) -> task03.Forecaster:
    return task03.Forecaster(experiment).fit(samples(), True, 0, CPU)


def repeated_reading(number: int, _: Models) -> tuple[object, object]:
    experiment = task03.BASELINES[number]
    series = pd.Series(common.synthetic_electricity("train")["consumption"][-4000:].to_numpy())
    shifted = series.shift((96, 672, 1)[number])[task03.REACH :].to_numpy()
    return errors(fitted(experiment).predict(samples())), errors_by_hand(shifted)


def autoregression(_: Models) -> tuple[object, object]:
    past, targets = samples().past[:, -96:].astype(float), samples().targets.astype(float)
    design = np.column_stack([past, np.ones(len(targets))])
    coefficients, *_ = np.linalg.lstsq(design, targets)
    predicted = fitted(task03.BASELINES[3]).predict(samples())
    return errors(predicted), errors_by_hand(design @ coefficients)


def boosting(_: Models) -> tuple[object, object]:
    with patch.object(task03, "TREES", 5):
        forecaster = fitted(task03.BASELINES[4])
    some = samples().part(slice(0, 50))
    inputs, base = task03.make_inputs(some, task03.BASELINES[4])
    expected = []
    for row, level in zip(inputs, base, strict=True):
        total = level + forecaster.model._baseline_prediction.item()
        for (tree,) in forecaster.model._predictors:
            node = tree.nodes[0]
            while not node["is_leaf"]:
                below = row[node["feature_idx"]] <= node["num_threshold"]
                node = tree.nodes[node["left"] if below else node["right"]]
            total += node["value"]
        expected.append(total)
    return forecaster.predict(some), np.array(expected)


def fed_back(_: Models) -> tuple[object, object]:
    """Roll the last reading forward: it stays the forecast, however far ahead."""
    readings = common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    forecaster = fitted(task03.PERSISTENCE)
    shown = said(partial(task03.print_forecast, forecaster, readings, samples(), 1))
    series = pd.Series(readings["consumption"].to_numpy(dtype=float))
    expected = []
    for ahead in task03.HORIZONS:
        squares = ((series - series.shift(ahead)) ** 2)[task03.REACH + ahead - 1 :]
        starts = range(0, len(samples().targets) - max(task03.HORIZONS), 7)
        expected.append(squares.iloc[list(starts)].mean())
    return [float(figure) for figure in re.findall(r"MSE (\S+)", shown)], expected


def parameters(_: Models) -> tuple[object, object]:
    sizes = []
    for experiment, inputs in ((task03.BASELINES[5], 96), (task03.VALUE, 96)):
        network = task03.build_network(experiment, inputs)
        forecaster = task03.Forecaster(experiment)
        forecaster.model = torch.nn.ModuleList([network])
        sizes.append(forecaster.size())
    # four gates of 32 units, each with weights for input and memory and two biases, in two layers
    lstm = 4 * 32 * (1 + 32 + 2) + 4 * 32 * (32 + 32 + 2) + 33
    return sizes, [f"{lstm:,}", f"{(96 + 1) * 128 + (128 + 1) * 128 + 129:,}"]


# Tasks 04, 06, 07 and 12: what transformers 4.47.1 wrote, see record_pipelines.py


def summary(models: Models) -> tuple[object, object]:
    pair, settings = models.load(task04.MODEL), {"max_length": task04.MAX_LENGTH}
    found = common.text_to_text(*pair, task04.LONG_TEXT, "summarization", **settings)
    return found, RECORDED["summary"]


def bulgarian(models: Models) -> tuple[object, object]:
    pair = models.load(task06.MODEL)
    found = common.text_to_text(*pair, task06.SPANISH_TEXT, "translation_es_to_bg")
    return found, RECORDED["bulgarian"]


def english(models: Models) -> tuple[object, object]:
    pair, texts = models.load(task12.MODEL), task12.INPUT_SENTENCES_2
    found = [common.text_to_text(*pair, text, "translation_es_to_en") for text in texts]
    return found, RECORDED["english"]


def answer(part: Callable[[task07.Answer], object], models: Models) -> tuple[object, object]:
    """Ask about a short context, and about a long one that takes several windows."""
    reader = models.load(task07.EXTRACTIVE_MODEL, "AutoModelForQuestionAnswering")
    contexts = task07.CONTEXT, " ".join([task04.LONG_TEXT, task07.CONTEXT] * 3)
    found = [part(task07.extract(*reader, task07.QUESTION, context)) for context in contexts]
    records = [RECORDED["answer"], RECORDED["answer in a long context"]]
    recorded = [task07.Answer(r["answer"], r["score"], r["start"], r["end"]) for r in records]
    return found, [part(each) for each in recorded]


# Task 08


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Split as BERT does: lower case, no accents, then the longest piece there is each time."""
    plain = "".join(
        c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c)
    )
    ids = []
    for word in re.findall(rf"[{re.escape(punctuation)}]|[^\s{re.escape(punctuation)}]+", plain):
        start = 0
        while start < len(word):
            pieces = ("##" * (start > 0) + word[start:end] for end in range(len(word), start, -1))
            piece = next(piece for piece in pieces if piece in vocabulary)
            ids.append(vocabulary[piece])
            start += len(piece.removeprefix("##"))
    return ids


def token_ids(_: Models) -> tuple[object, object]:
    tokenizer = common.load_tokenizer(common.bundled_encoder())
    vocabulary = tokenizer.get_vocab()
    found = task08.tokenize_train(tokenizer)["input_ids"].tolist()
    found += task08.tokenize_test(tokenizer)["input_ids"][:]
    expected = []
    for text in (*task08.TRAIN_DATA["text"], *task08.TEST_DATA["text"]):
        ids = [101, *word_pieces(text, vocabulary)[:18], 102]  # [CLS] and [SEP]
        expected.append(ids + [0] * (20 - len(ids)))
    return found, expected


# Task 09


def class_probabilities(models: Models) -> tuple[object, object]:
    model, tokenizer = models.load(task09.MODEL, task09.KIND)
    found = task09.probabilities(model, tokenizer, task09.INPUT_TEXT).tolist()
    expected = []
    for text in task09.INPUT_TEXT:  # alone, so without padding
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=20, return_tensors="pt")
            weights = [math.exp(logit) for logit in model(**inputs).logits[0].tolist()]
        expected += [weight / sum(weights) for weight in weights]
    return list(chain(*found)), expected


def recorded_accuracies(_: Models) -> tuple[object, object]:
    from sklearn.metrics import accuracy_score

    shown = (ROOT / "tests" / "expected" / "task09.txt").read_text()
    labels = [int(row == "high") for row in re.findall(r"^(low|high) risk", shown, re.MULTILINE)]
    right = task08.TRAIN_DATA["label"] + task08.TEST_DATA["label"]
    expected = [accuracy_score(right[:4], labels[:4]), accuracy_score(right[4:], labels[4:6])]
    return [float(each) for each in re.findall(r"accuracy: (\S+)", shown)], expected


# Task 10


def label_probabilities(name: str, models: Models) -> tuple[object, object]:
    """Compare with the loss that transformers computes of the label's tokens."""
    model, tokenizer = getattr(models, name)
    found = task10.classify(model, tokenizer, "Is it?")
    scores = []
    for label in task10.LABELS:
        inputs = tokenizer("Is it?", return_tensors="pt")
        if model.config.is_encoder_decoder:
            labels = tokenizer(label, return_tensors="pt")["input_ids"]
        else:  # the prompt's tokens are masked
            inputs = tokenizer(f"Is it? {label}", return_tensors="pt")
            labels = inputs["input_ids"].clone()
            labels[0, : len(tokenizer("Is it?")["input_ids"])] = -100
        with torch.inference_mode():
            loss = model(**inputs, labels=labels).loss.item()
        scores.append(math.exp(-loss * (labels != -100).sum().item()))
    return list(found.values()), [score / sum(scores) for score in scores]


# Task 11

TEXTS = [task11.PROMPT, task07.QUESTION, "a bc"]


def perplexity_by_loss(start: bool, models: Models) -> tuple[object, object]:
    model, tokenizer = models.gpt2
    expected = []
    for text in TEXTS:
        tokens = [tokenizer.bos_token_id] * start + tokenizer(text)["input_ids"]
        with torch.inference_mode():
            inputs = torch.tensor([tokens])
            expected.append(math.exp(model(inputs, labels=inputs).loss))
    return task11.perplexity(TEXTS, model, tokenizer, start)["perplexities"], expected


def perplexity_by_evaluate(start: bool, models: Models) -> tuple[object, object]:
    """Compute perplexities the way of evaluate's metric: all texts in one padded batch."""
    model, tokenizer = models.gpt2
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    encoded = [[tokenizer.bos_token_id] * start + tokens for tokens in encoded]
    longest = max(map(len, encoded))
    tokens = torch.tensor([each + [0] * (longest - len(each)) for each in encoded])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in encoded])
    with torch.inference_mode():
        logits = model(tokens, attention_mask=mask).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    each = torch.exp((losses * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1))
    metric = common.load_metric("perplexity")
    found = metric.compute(
        predictions=TEXTS, model=model, tokenizer=tokenizer, add_start_token=start
    )
    return [*found["perplexities"], found["mean_perplexity"]], [*each.tolist(), each.mean().item()]


# Tasks 12 and 13

TRANSLATIONS = ["Hey, how are you?", "I'm great, thanks."]  # the statement's
ALICE = task13.TRANSLATION_GENERATED, task13.TRANSLATION_REFERENCE
PLUTO = task13.SUMMARY_PREDICTIONS, task13.SUMMARY_REFERENCES
ANSWERS = task13.ANSWER_PREDICTIONS, task13.ANSWER_REFERENCES
SEVERAL = (  # with two references each
    ["the cat sat on the mat", "green tea it is", "what a day it was"],
    [
        ["the cat is on the mat", "a cat sat there"],
        ["it is green tea", "green tea is it"],
        ["a day", "oh what a day it was"],
    ],
)


def as_lists(references: list[common.Reference]) -> list[list[str]]:
    return [[each] if isinstance(each, str) else each for each in references]


def bleu_by_nltk(smooth: bool, _: Models) -> tuple[object, object]:
    """Split as 13a does, here by hand: punctuation is cut from words, `'` is not."""
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    method = SmoothingFunction().method3 if smooth else None
    found, expected = [], []
    for texts, references in ((TRANSLATIONS, task12.REFERENCES_2), SEVERAL, ALICE):
        if not smooth and texts is ALICE[0]:
            continue  # nltk has no word for nothing but 0, and a warning
        ours = common.sacrebleu(texts, references)["score"] / 100
        found.append(ours if smooth else common.bleu(texts, references)["bleu"])
        words = [re.findall(r"[\w'-]+|[^\w\s]", text) for text in texts]
        several = [
            [re.findall(r"[\w'-]+|[^\w\s]", each) for each in one] for one in as_lists(references)
        ]
        expected.append(corpus_bleu(several, words, smoothing_function=method))
    return found, expected


def bleu_by_hand(_: Models) -> tuple[object, object]:
    """Of "Hey , how are you ?" 5 of 6 words, 4 of 5 pairs, 3 of 4 triples and 2 of 3 fours."""
    one = common.bleu(TRANSLATIONS[:1], task12.REFERENCE_1)["bleu"]
    return one, (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25


def text(ours: Callable, theirs: str, _: Models) -> tuple[object, object]:
    """Compare with a metric of torchmetrics on texts of one reference and of two."""
    import torchmetrics.functional.text as other

    options = {"n_word_order": 0} if theirs == "chrf_score" else {}  # else it is chrF++
    found, expected = [], []
    for texts, references in (ALICE, SEVERAL, (TRANSLATIONS, task12.REFERENCES_2)):
        score = ours(texts, references)
        found.append(score.get("score", score.get("bleu")))
        scale = 1 if "bleu" in score else 100
        expected.append(
            scale * getattr(other, theirs)(texts, as_lists(references), **options).item()
        )
    return found, expected


def rouge_by_torchmetrics(_: Models) -> tuple[object, object]:
    from torchmetrics.functional.text import rouge_score

    keys = ("rouge1", "rouge2", "rougeL")
    found, expected = task13.rouge(*PLUTO), rouge_score(*PLUTO, rouge_keys=keys)
    return [found[key] for key in keys], [expected[f"{key}_fmeasure"].item() for key in keys]


def rouge_by_hand(_: Models) -> tuple[object, object]:
    """Every line of the reference is found in some line, but only two words in their order."""
    found = task13.rouge(["c d\na b"], ["a b\nc d"])
    return [found["rougeL"], found["rougeLsum"]], [2 * 2 / (4 + 4), 1.0]


def meteor_by_hand(_: Models) -> tuple[object, object]:
    """Of four words three agree, "dogs" by its stem, in two stretches (Banerjee and Lavie)."""
    with patch.object(task13, "find_wordnet", lambda: task13.NoWordNet):
        found = task13.meteor(["my dogs often bark"], ["my dog never bark"])["meteor"]
    precision = recall = 3 / 4
    mean = 10 * precision * recall / (recall + 9 * precision)
    return found, mean * (1 - 0.5 * (2 / 3) ** 3)


def squad_by_torchmetrics(_: Models) -> tuple[object, object]:
    from torchmetrics.functional.text import squad

    theirs = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(ANSWERS[0])],
        [
            {"answers": {"answer_start": [0], "text": [text]}, "id": str(i)}
            for i, text in enumerate(ANSWERS[1])
        ],
    )
    found = [task13.exact_match(*ANSWERS)["exact_match"], task13.f1(*ANSWERS)["f1"]]
    return found, [theirs["exact_match"].item() / 100, theirs["f1"].item() / 100]


def squad_by_hand(_: Models) -> tuple[object, object]:
    """One of four is right, and of the three words of each other, articles apart, two."""
    found = [task13.exact_match(*ANSWERS)["exact_match"], task13.f1(*ANSWERS)["f1"]]
    return found, [1 / 4, (2 / 3 + 2 / 3 + 1 + 2 / 3) / 4]


# The Inferno

VERSES = common.clean_text(common.VERSES.read_bytes())[:1500]


def ngrams_by_nltk(_: Models) -> tuple[object, object]:
    """Use nltk's Witten-Bell, which ends at the unigrams' frequencies: ours at equal shares."""
    from nltk.lm import WittenBellInterpolated
    from nltk.util import everygrams

    train, validation = dante_gpt.split(VERSES)
    counts, characters = Counter(train), len(set(VERSES))
    found, expected = [], []
    for order in dante_gpt.NGRAMS.values():
        model = WittenBellInterpolated(order)
        model.fit([list(everygrams(train, max_len=order))], sorted(set(VERSES)))
        model.estimator.unigram_score = lambda character: (
            (counts[character] + len(counts) / characters) / (len(train) + len(counts))
        )
        scores = [
            model.score(VERSES[end], list(VERSES[end - order + 1 : end]))
            for end in range(len(train), len(VERSES))
        ]
        found.append(dante_gpt.ngram_loss(train, validation, order))
        expected.append(-sum(map(math.log, scores)) / len(scores))
    return found, expected


def bits(_: Models) -> tuple[object, object]:
    nats = 1.4093
    shown = figures(said(partial(dante_gpt.print_loss, "x", nats)))
    return shown, [nats, math.log2(math.exp(nats))]


def gpt_loss(_: Models) -> tuple[object, object]:
    config = dante_gpt.Config(steps=1, block_size=16, n_layer=1, n_head=2, n_embd=16)
    torch.manual_seed(0)
    fresh = dante_gpt.new_weights(config, 9)
    weights = {name: torch.randn(weight.shape) * 0.3 for name, weight in fresh.items()}
    tokens = torch.randint(9, (17,))
    model = partial(dante_gpt.gpt, weights, config)
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(model(tokens[None, :-1])[0], tokens[1:])
    return dante_gpt.validation_loss(model, tokens, 1, 16), expected.item()


# Tokens, and ways of generating text


def byte_pairs(text: str, state: dict) -> list[int]:
    """Join the neighbours that were joined first in training, over and over (Sennrich 2016)."""
    import regex
    from tokenizers.pre_tokenizers import ByteLevel

    word = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    words = regex.findall(word, text)
    letters = sorted(ByteLevel.alphabet())
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
    others = [byte for byte in range(256) if byte not in kept]
    letter = {byte: chr(byte) for byte in kept} | {b: chr(256 + i) for i, b in enumerate(others)}
    assert sorted(letter.values()) == letters
    ranks = {tuple(pair): rank for rank, pair in enumerate(state["merges"])}
    ids = []
    for word in words:
        pieces = [letter[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            first = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
            if pairs[first] not in ranks:
                break
            pieces[first : first + 2] = ["".join(pairs[first])]
        ids += [state["vocab"][piece] for piece in pieces]
    return ids


def tokens_of_texts(models: Models) -> tuple[object, object]:
    tokenizer = models.gpt2[1]
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    found, expected = [], []
    for text in (*lab_tokenizer.HELLO_WORLDS, *task07.CONTEXT.split(". ")):
        found.append(figures(said(partial(lab_tokenizer.print_row, tokenizer, "", text)))[:1])
        ids = byte_pairs(text, state)
        expected.append([round(len(text) / len(ids), 2)])
        found.append(tokenizer(text)["input_ids"])
        expected.append(ids)
    return found, expected


def text_measures(which: int, models: Models) -> tuple[object, object]:
    """Measure a text by each of the libraries, and return one of the measures."""
    from nltk import bigrams
    from scipy.stats import entropy

    model, tokenizer = models.gpt2
    tokens, start = tokenizer("Who knows if God exists, but for sure", return_tensors="pt"), 3
    labels = tokens["input_ids"].clone()
    labels[0, :start] = -100
    with torch.inference_mode():
        output = model(**tokens, labels=labels)
    pairs = list(bigrams(tokens["input_ids"][0, start:].tolist()))
    shares = output.logits[0, start - 1 : -1].softmax(-1).numpy()
    expected = {
        "distinct-2": len(set(pairs)) / len(pairs),
        "perplexity": math.exp(output.loss),
        "entropy": entropy(shares, axis=1).mean(),
    }
    name = list(expected)[which]
    return lab_generation.measure(model, tokens["input_ids"][0], start)[name], expected[name]


# Classifying, choosing, retrieving


@cache
def classified() -> tuple[dict[str, np.ndarray], lab_classifier.Row, torch.Tensor, torch.Tensor]:
    """Draw labels and predictions of four classes, one of which is never predicted."""
    random = np.random.default_rng(0)
    labels = {name: random.integers(0, 4, 60) for name in ("validation", "test")}
    guessed = [np.minimum(random.integers(0, 4, 60), 2) for _ in labels]
    row = lab_classifier.Row("mean", "MLP", False, "", *guessed)
    return labels, row, torch.tensor(guessed[1]), torch.tensor(labels["test"])


def accuracy_and_macro_f1(_: Models) -> tuple[object, object]:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    labels, row, predicted, right = classified()
    shown = figures(said(partial(lab_classifier.print_table, [row], labels)))
    return shown[-2:], [
        multiclass_accuracy(predicted, right, 4, average="micro").item(),
        multiclass_f1_score(predicted, right, 4, average="macro").item(),
    ]


def per_label(_: Models) -> tuple[object, object]:
    from torchmetrics.functional import classification

    labels, row, predicted, right = classified()
    shown = figures(said(partial(lab_classifier.print_labels, row, labels["test"], list("abcd"))))
    names = ("precision", "recall", "f1_score")
    columns = [
        getattr(classification, f"multiclass_{name}")(predicted, right, 4, average=None).tolist()
        for name in names
    ]
    return shown, [figure for row in zip(*columns, strict=True) for figure in row]


def confusion(_: Models) -> tuple[object, object]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    labels, row, predicted, right = classified()
    drawn = []
    with patch.object(common, "save_figure", lambda figure, _: drawn.append(figure)):
        lab_classifier.draw_confusion([row], labels["test"], list("abcd"), "")
    found = [float(text.get_text()) for text in drawn[0].axes[0].texts]
    return found, multiclass_confusion_matrix(predicted, right, 4, "true").flatten().tolist()


def choices(which: int, _: Models) -> tuple[object, object]:
    """Answer 40 questions, and return one pair of the figures: two each are shown."""
    from scipy.stats import binomtest
    from sklearn.metrics import accuracy_score

    random = np.random.default_rng(0)
    questions, scores = [], []
    for number in (2, 4, 3, 5) * 10:
        right = int(random.integers(number))
        questions.append(lab_multiple_choice.Question("?", ["x"] * number, right))
        places = np.arange(number)
        scores.append(random.permutation(number) + (places == right) + 0.1 * places)  # no ties
    both = dict.fromkeys(("validation", "test"), questions)
    rows = {"row": dict.fromkeys(both, scores)}
    shown = figures(said(partial(lab_multiple_choice.print_table, rows, both)))
    guesses = [int(each.argmax()) for each in scores]
    share = accuracy_score([question.answer for question in questions], guesses)
    interval = binomtest(round(40 * share), 40).proportion_ci(method="wilson")
    chance = (1 / 2 + 1 / 4 + 1 / 3 + 1 / 5) / 4
    expected = [chance, chance, share, share, interval.low, interval.high]
    return shown[2 * which : 2 * which + 2], expected[2 * which : 2 * which + 2]


def rankings(which: int, _: Models) -> tuple[object, object]:
    """Rank 200 documents for six claims; count in a loop what scikit-learn has no word for."""
    from sklearn.metrics import ndcg_score

    random = np.random.default_rng(0)
    scores = np.stack([random.permutation(200) for _ in range(6)])
    qrels = {
        claim: {int(p): int(random.integers(1, 3)) for p in random.choice(200, 12, replace=False)}
        for claim in range(6)
    }
    shown = figures(said(partial(lab_retrieval.print_table, {"row": scores}, qrels)))
    gains = np.array([[qrels[c].get(place, 0) for place in range(200)] for c in range(6)])
    recalls, ranks = {10: [], 100: []}, []
    for claim, relevant in qrels.items():
        order = sorted(range(200), key=lambda place, claim=claim: -scores[claim][place])
        for depth, found in recalls.items():
            found.append(len(set(order[:depth]) & set(relevant)) / len(relevant))
        first = min(order.index(place) for place in relevant) + 1
        ranks.append(1 / first if first <= 10 else 0)
    means = [float(np.mean(each)) for each in (recalls[10], recalls[100], ranks)]
    return (shown[1:], means) if which else (shown[0], ndcg_score(gains, scores, k=10))


def bm25_by_formula(
    documents: list[list[str]], claims: list[list[str]], k1: float, b: float
) -> np.ndarray:
    """Work out the formula of Robertson and Zaragoza for texts as words: (claim, document)."""
    mean = sum(map(len, documents)) / len(documents)

    def score(claim: list[str], document: list[str]) -> float:
        total = 0.0
        for word in claim:
            having = sum(word in each for each in documents)
            rarity = np.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            count = document.count(word)
            total += rarity * count / (count + k1 * (1 - b + b * len(document) / mean))
        return total

    return np.array([[score(claim, document) for document in documents] for claim in claims])


def bm25(_: Models) -> tuple[object, object]:
    """Compare with the formula, with words cut to their stems by hand."""
    documents = ["red apples and red pears", "green apples", "yellow lemons, sour lemons, ripe"]
    words = [["red", "appl", "red", "pear"], ["green", "appl"]]
    words.append(["yellow", "lemon", "sour", "lemon", "ripe"])
    claims, k1, b = {"a red apple": ["red", "appl"], "sour": ["sour"], "the of and": []}, 1.5, 0.75
    found = lab_retrieval.bm25(lab_retrieval.split_words(documents), list(claims), k1, b)
    return found, bm25_by_formula(words, list(claims.values()), k1, b)


def reciprocal_rank_fusion(_: Models) -> tuple[object, object]:
    """Three documents are first, third and second; third, first and second."""
    found = lab_retrieval.reciprocal_ranks(np.array([[3.0, 1, 2]]), np.array([[0.1, 0.3, 0.2]]))
    return found[0], np.array([1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62 + 1 / 62])


def sums_of_standard_scores(_: Models) -> tuple[object, object]:
    from scipy.stats import zscore

    words, meaning = np.random.default_rng(0).random((2, 3, 9))
    found = lab_retrieval.weighted_sum(words, meaning, 0.25)
    return found, 0.25 * zscore(words, axis=1) + 0.75 * zscore(meaning, axis=1)


def cosines(_: Models) -> tuple[object, object]:
    from sklearn.metrics.pairwise import cosine_similarity

    left, right = np.random.default_rng(0).standard_normal((2, 4, 9))
    return lab_retrieval.cosines(left, right), cosine_similarity(left, right)


LOSS = "transformers' loss"
OLD = "transformers 4.47"
SHOWN_3, SHOWN_4 = 5.1e-4, 5.1e-5  # half of the last digit of three, and of four, that are shown
SINGLE = 1e-5  # what float32 leaves

ROWS = [
    Row("task01", "the first windows and targets", "a loop", windows),
    Row("task01", "shapes and length of the data set", "the calendar", window_counts),
    Row("task02", "MSE of an epoch", "scikit-learn", epoch_loss, SINGLE),
    Row("task02", "test MSE", "scikit-learn", error_on_test, SINGLE),
    Row("task03", "MSE, R² of yesterday", "pandas, NumPy", partial(repeated_reading, 0), SINGLE),
    Row("task03", "MSE, R² of last week", "pandas, NumPy", partial(repeated_reading, 1), SINGLE),
    Row("task03", "MSE, R² of persistence", "pandas, NumPy", partial(repeated_reading, 2), SINGLE),
    Row("task03", "MSE, R² of AR(96)", "NumPy", autoregression, 1e-3),
    Row("task03", "gradient boosting", "a walk through its trees", boosting, SINGLE),
    Row("task03", "MSE so many quarter-hours ahead", "pandas", fed_back, SHOWN_4),
    Row("task03", "parameters", "by hand", parameters),
    Row("task04", "the summary", OLD, summary),
    Row("task06", "the translation", OLD, bulgarian),
    Row("task07", "the answer", OLD, partial(answer, lambda a: a.text)),
    Row("task07", "its place", OLD, partial(answer, lambda a: (a.start, a.end))),
    Row("task07", "its probability", OLD, partial(answer, lambda a: a.score), 1e-4),
    Row("task08", "token ids", "a naive WordPiece", token_ids),
    Row("task09", "probabilities", "softmax by hand", class_probabilities, SINGLE),
    Row("task09", "accuracies", "scikit-learn", recorded_accuracies),
    Row("task10", "probabilities, T5", LOSS, partial(label_probabilities, "t5"), 1e-4),
    Row("task10", "probabilities, GPT-2", LOSS, partial(label_probabilities, "gpt2"), 1e-4),
    Row("task11", "perplexity", LOSS, partial(perplexity_by_loss, True), 1e-4),
    Row("task11", "perplexity", "evaluate", partial(perplexity_by_evaluate, True), 1e-4),
    Row("task11", "without a start", LOSS, partial(perplexity_by_loss, False), 1e-4),
    Row("task11", "without a start", "evaluate", partial(perplexity_by_evaluate, False), 1e-4),
    Row("task12", "the translations", OLD, english),
    Row("task12", "BLEU", "by hand", bleu_by_hand, 1e-12),
    Row("task12", "BLEU", "nltk", partial(bleu_by_nltk, False), 1e-9),
    Row("task12", "BLEU", "torchmetrics", partial(text, common.bleu, "sacre_bleu_score"), SINGLE),
    Row("task12", "sacreBLEU", "nltk", partial(bleu_by_nltk, True), 1e-9),
    Row("task12", "chrF", "torchmetrics", partial(text, common.chrf, "chrf_score"), SINGLE),
    Row("task13", "ROUGE-1, -2 and -L", "torchmetrics", rouge_by_torchmetrics, SINGLE),
    Row("task13", "ROUGE-L and -Lsum", "by hand", rouge_by_hand, 1e-12),
    Row("task13", "METEOR", "by hand", meteor_by_hand, 1e-12),
    Row(
        "task13", "TER", "torchmetrics", partial(text, task13.ter, "translation_edit_rate"), SINGLE
    ),
    Row("task13", "exact match and F1", "torchmetrics", squad_by_torchmetrics, SINGLE),
    Row("task13", "exact match and F1", "by hand", squad_by_hand, 1e-12),
    Row("dante_gpt", "nats of the n-grams", "nltk", ngrams_by_nltk, 1e-9),
    Row("dante_gpt", "bits", "by hand", bits, SHOWN_4),
    Row("dante_gpt", "nats of the GPT", "torch's cross-entropy", gpt_loss, SINGLE),
    Row("lab_tokenizer", "ids, characters to a token", "naive byte pairs", tokens_of_texts, 1e-9),
    Row("lab_generation", "distinct-2", "nltk", partial(text_measures, 0), 1e-9),
    Row("lab_generation", "perplexity", LOSS, partial(text_measures, 1), 1e-4),
    Row("lab_generation", "entropy", "scipy", partial(text_measures, 2), 1e-4),
    Row("lab_classifier", "accuracy, macro-F1", "torchmetrics", accuracy_and_macro_f1, SHOWN_4),
    Row("lab_classifier", "precision, recall, F1", "torchmetrics", per_label, SHOWN_4),
    Row("lab_classifier", "confusion matrix", "torchmetrics", confusion, 5.1e-3),
    Row("lab_multiple_choice", "chance", "by hand", partial(choices, 0), SHOWN_3),
    Row("lab_multiple_choice", "share of right ones", "scikit-learn", partial(choices, 1), SHOWN_3),
    Row("lab_multiple_choice", "its interval", "scipy", partial(choices, 2), SHOWN_3),
    Row("lab_retrieval", "nDCG@10", "scikit-learn", partial(rankings, 0), SHOWN_4),
    Row("lab_retrieval", "Recall@10 and @100, MRR@10", "a loop", partial(rankings, 1), SHOWN_4),
    Row("lab_retrieval", "BM25", "the paper's formula", bm25, SINGLE),
    Row("lab_retrieval", "reciprocal rank fusion", "by hand", reciprocal_rank_fusion, 1e-12),
    Row("lab_retrieval", "weighted sums", "scipy", sums_of_standard_scores, 1e-9),
    Row("lab_retrieval", "cosines", "scikit-learn", cosines, 1e-9),
]

NO_NUMBERS = {  # scripts that print none that someone else defined
    "common": "the sizes of models are those on their pages",
    "task05": "a reply in words, from any model",
}


@pytest.fixture(scope="module")
def models(checkpoints: Path) -> Models:
    return Models(checkpoints)


def agree(ours: object, others: object, tolerance: float) -> bool:
    """Compare numbers, arrays and lists of them by the tolerance; all else exactly."""
    if tolerance == 0:
        return ours == others
    if isinstance(ours, list) and any(isinstance(each, list) for each in ours):
        pairs = zip(ours, others, strict=True)
        return all(agree(left, right, tolerance) for left, right in pairs)
    return ours == pytest.approx(others, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.script}-{row.printed}-{row.source}")
def test_a_number_that_is_printed_is_the_second_source_s(row: Row, models: Models) -> None:
    torch.set_num_threads(1)
    ours, others = row.both(models)
    assert agree(ours, others, row.tolerance), (ours, others)


def test_every_script_has_a_row_or_prints_no_such_number() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert {row.script for row in ROWS} == scripts - set(NO_NUMBERS)
    assert set(NO_NUMBERS) < scripts


def test_every_row_has_a_second_source_and_stands_there_once() -> None:
    assert all(row.source and row.printed for row in ROWS)
    assert len({row[:3] for row in ROWS}) == len(ROWS)
