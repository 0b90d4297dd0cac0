"""The table of agreements: printed numbers that others define too, each with a second source.

Each row of `ROWS` names a script, a number that it prints, and the second source: another library,
transformers 4.47.1 as recorded, a loop, or a calculation by hand that is written next to it. A
function returns the script's value and the other one. Quantities that a script defines itself, such
as the longest repeat, are tested with the script.
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
from typing import Any, NamedTuple
from unittest.mock import patch

import common
import dante_gpt
import dante_verse
import lab_classifier
import lab_common
import lab_data
import lab_generation
import lab_multiple_choice
import lab_retrieval
import lab_tokenizer
import pretrained
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

import numpy as np
import pandas as pd
import pytest
import regex
import torch
import torchmetrics.functional.text as text_metrics
from conftest import CPU, EXPECTED, ROOT, ModelAndTokenizer, load_pair
from nltk import bigrams
from nltk.lm import WittenBellInterpolated
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from nltk.util import everygrams
from scipy.stats import entropy, zscore
from sklearn.metrics import accuracy_score, mean_squared_error, r2_score
from sklearn.metrics.pairwise import cosine_similarity
from tokenizers.pre_tokenizers import ByteLevel
from torchmetrics.functional import classification, retrieval
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

RECORDED = json.loads((EXPECTED / "pipelines.json").read_text("utf-8"))


class Models:
    """The tiny checkpoints, loaded when they are first used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str, auto_class: Any = None) -> ModelAndTokenizer:
        return load_pair(self.folder / name, auto_class)

    @cached_property
    def gpt2(self) -> ModelAndTokenizer:
        return self.load(task11.MODEL)

    @cached_property
    def t5(self) -> ModelAndTokenizer:
        return self.load(task07.GENERATIVE_MODEL)


Values = tuple[object, object]  # the script's and those of the second source


class Row(NamedTuple):
    """A printed number, or text, and its second source."""

    script: str
    printed: str
    source: str
    values: Callable[[Models], Values]
    tolerance: float = 0.0  # relative, and absolute near zero


def output_of(function: Callable[[], object]) -> str:
    """Return the standard output of a function."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        function()
    return out.getvalue()


def decimals(text: str) -> list[float]:
    """Return the numbers with a decimal point in a text."""
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


# Task 01


def windows(_: Models) -> Values:
    frame = pd.DataFrame({"position": range(101), "value": range(101)})
    found = [part[:5].tolist() for part in common.create_sequences(frame, 5)]
    return found, [[[i, i + 1, i + 2, i + 3, i + 4] for i in range(5)], [5, 6, 7, 8, 9]]


def window_counts(_: Models) -> Values:
    inputs, targets = common.create_sequences(common.synthetic_electricity("train"), 96)
    dataset = common.sequence_dataset(inputs, targets)
    # 2011 to 2013 have 1,096 days of 96 quarter-hours; the first, at midnight, is not recorded
    windows = 1096 * 96 - 1 - 96
    return [inputs.shape, targets.shape, len(dataset)], [(windows, 96), (windows,), windows]


# Task 02


@cache
def waves() -> tuple[torch.nn.Module, Any]:
    """Make a small LSTM and 96 windows for it."""
    torch.manual_seed(0)
    frame = pd.DataFrame({"value": np.sin(np.arange(120) / 5).astype("float32")})
    dataset = common.sequence_dataset(*common.create_sequences(frame, 24))
    return common.ConsumptionLSTM(hidden_size=8), dataset


def error_window_by_window() -> float:
    """Return the error of predictions for single windows, computed by scikit-learn."""
    model, dataset = waves()
    with torch.no_grad():
        predicted = [model(window[None]).item() for window, _ in dataset]
    return mean_squared_error(dataset.tensors[1].numpy(), predicted)


def error_on_test_set(_: Models) -> Values:
    model, dataset = waves()
    inputs, targets = dataset.tensors
    found = task02.mean_squared_error(task02.predict(model, inputs), targets).item()
    return found, error_window_by_window()


def epoch_loss(_: Models) -> Values:
    model, dataset = waves()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # the model stays the same
    with redirect_stderr(io.StringIO()):
        loss = task02.train_epoch(model, dataset, 32, optimizer)
    return loss, error_window_by_window()


# Task 03


@cache
def samples() -> task03.Samples:
    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    return task03.make_samples(frame)


def errors(predicted: np.ndarray) -> list[float]:
    """Return MSE and R-squared as the script computes them."""
    targets = samples().targets
    return [mean_squared_error(targets, predicted), r2_score(targets, predicted)]


def errors_by_hand(predicted: np.ndarray) -> list[float]:
    """Return the mean square, and the fraction of the targets' variance that is explained."""
    targets = samples().targets.astype(float)
    squares = np.sum((targets - predicted) ** 2)
    return [squares / len(targets), 1 - squares / np.sum((targets - targets.mean()) ** 2)]


def fitted(experiment: task03.Experiment) -> task03.Forecaster:
    return next(task03.fit([experiment], samples(), range(1), CPU, quick=True))


def lagged_reading(number: int, _: Models) -> Values:
    series = pd.Series(common.synthetic_electricity("train")["consumption"][-4000:].to_numpy())
    shifted = series.shift((96, 672, 1)[number])[task03.HISTORY :].to_numpy()
    predicted = fitted(task03.BASELINES[number]).predict(samples())
    return errors(predicted), errors_by_hand(shifted)


def autoregression(_: Models) -> Values:
    past, targets = samples().past[:, -96:].astype(float), samples().targets.astype(float)
    design = np.column_stack([past, np.ones(len(targets))])
    coefficients, *_ = np.linalg.lstsq(design, targets)
    predicted = fitted(task03.BASELINES[3]).predict(samples())
    return errors(predicted), errors_by_hand(design @ coefficients)


def boosting(_: Models) -> Values:
    experiment = task03.BASELINES[4]
    few_trees = task03.clone(experiment.model).set_params(max_iter=5)
    forecaster = fitted(task03.replace(experiment, model=few_trees))
    model, some = forecaster.models[0], samples().part(slice(0, 50))
    inputs, base = task03.make_inputs(some, experiment)
    expected = []
    for row, level in zip(inputs, base, strict=True):
        total = level + model._baseline_prediction.item()
        for (tree,) in model._predictors:
            node = tree.nodes[0]
            while not node["is_leaf"]:
                is_left = row[node["feature_idx"]] <= node["num_threshold"]
                node = tree.nodes[node["left"] if is_left else node["right"]]
            total += node["value"]
        expected.append(total)
    return forecaster.predict(some), np.array(expected)


def forecast_errors(_: Models) -> Values:
    """Forecast with the last reading, which stays the forecast at every horizon."""
    readings = common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    forecaster = fitted(task03.PERSISTENCE)
    shown = output_of(partial(task03.print_forecast, forecaster, readings, samples(), 1))
    series = pd.Series(readings["consumption"].to_numpy(dtype=float))
    expected = []
    for horizon in task03.HORIZONS:
        squares = ((series - series.shift(horizon)) ** 2)[task03.HISTORY + horizon - 1 :]
        starts = range(0, len(samples().targets) - max(task03.HORIZONS), 7)
        expected.append(squares.iloc[list(starts)].mean())
    return [float(number) for number in re.findall(r"MSE (\d\S+)", shown)], expected


def parameters(_: Models) -> Values:
    sizes = []
    for experiment in (task03.LSTM, task03.VALUE):
        forecaster = task03.Forecaster(experiment, [experiment.model(96, 0.0)])
        sizes.append(forecaster.parameter_count())
    # two layers of four gates with 32 units: weights of input and hidden state, and two biases
    lstm = 4 * 32 * (1 + 32 + 2) + 4 * 32 * (32 + 32 + 2) + 33
    return sizes, [f"{lstm:,}", f"{(96 + 1) * 128 + (128 + 1) * 128 + 129:,}"]


def mean_and_deviation(_: Models) -> Values:
    found = decimals(task03.with_deviation([0.1, 0.2, 0.6]))
    return found, [0.3, math.sqrt(((0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2) / 2)]


# Tasks 04, 06, 07 and 12: the pipelines of transformers 4.47.1, see record_pipelines.py


def summary(models: Models) -> Values:
    return task04.summarise(*models.load(task04.MODEL), task04.LONG_TEXT), RECORDED["summary"]


def bulgarian(models: Models) -> Values:
    found = task06.translate(*models.load(task06.MODEL), task06.SPANISH_TEXT)
    return found, RECORDED["bulgarian"]


def english(models: Models) -> Values:
    pair = models.load(task12.MODEL)
    found = [task12.translate(*pair, text) for text in task12.INPUT_SENTENCES_2]
    return found, RECORDED["english"]


def answer(part: Callable[[task07.Answer], object], models: Models) -> Values:
    """Extract from a short context, and from a long one that has several windows."""
    pair = models.load(task07.EXTRACTIVE_MODEL, AutoModelForQuestionAnswering)
    contexts = task07.CONTEXT, " ".join([task04.LONG_TEXT, task07.CONTEXT] * 3)
    found = [part(task07.extract(*pair, task07.QUESTION, context)) for context in contexts]
    records = [RECORDED["answer"], RECORDED["answer in a long context"]]
    recorded = [task07.Answer(r["answer"], r["score"], r["start"], r["end"]) for r in records]
    return found, [part(each) for each in recorded]


# Task 08


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Split as BERT does: lower case, no accents, and the longest known piece each time."""
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


def token_ids(_: Models) -> Values:
    tokenizer = pretrained.load(AutoTokenizer, pretrained.ENCODER.folder())
    vocabulary = tokenizer.get_vocab()
    found = task08.tokenize_train(tokenizer)["input_ids"].tolist()
    found += task08.tokenize_test(tokenizer)["input_ids"][:]
    expected = []
    for text in (*task08.TRAIN_DATA["text"], *task08.TEST_DATA["text"]):
        ids = [101, *word_pieces(text, vocabulary)[:18], 102]  # [CLS] and [SEP]
        expected.append(ids + [0] * (20 - len(ids)))
    return found, expected


# Task 09


def class_probabilities(models: Models) -> Values:
    model, tokenizer = models.load(task09.MODEL, AutoModelForSequenceClassification)
    found = task09.predict(model, tokenizer, task09.INPUT_TEXT).tolist()
    expected = []
    for text in task09.INPUT_TEXT:  # one by one, so without padding
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            weights = [math.exp(logit) for logit in model(**inputs).logits[0].tolist()]
        expected += [weight / sum(weights) for weight in weights]
    return list(chain(*found)), expected


def recorded_accuracies(_: Models) -> Values:
    shown = (EXPECTED / "task09.txt").read_text()
    labels = [int(row == "high") for row in re.findall(r"^(low|high) risk", shown, re.MULTILINE)]
    right = task08.TRAIN_DATA["label"] + task08.TEST_DATA["label"]
    expected = [accuracy_score(right[:4], labels[:4]), accuracy_score(right[4:], labels[4:6])]
    return [float(each) for each in re.findall(r"accuracy: (\S+)", shown)], expected


# Task 10


def label_probabilities(name: str, models: Models) -> Values:
    """Compare with the loss that transformers computes for the tokens of the label."""
    model, tokenizer = getattr(models, name)
    found = task10.classify(model, tokenizer, "Is it?")
    likelihoods = []
    for label in task10.LABELS:
        inputs = tokenizer("Is it?", return_tensors="pt")
        if model.config.is_encoder_decoder:
            labels = tokenizer(label, return_tensors="pt")["input_ids"]
        else:  # the tokens of the prompt are masked
            inputs = tokenizer(f"Is it? {label}", return_tensors="pt")
            labels = inputs["input_ids"].clone()
            labels[0, : len(tokenizer("Is it?")["input_ids"])] = -100
        with torch.inference_mode():
            loss = model(**inputs, labels=labels).loss.item()
        likelihoods.append(math.exp(-loss * (labels != -100).sum().item()))
    return list(found.values()), [each / sum(likelihoods) for each in likelihoods]


# Task 11

TEXTS = [task11.PROMPT, task07.QUESTION, "a bc"]


def perplexity_by_loss(start: bool, models: Models) -> Values:
    model, tokenizer = models.gpt2
    expected = []
    for text in TEXTS:
        tokens = [tokenizer.bos_token_id] * start + tokenizer(text)["input_ids"]
        with torch.inference_mode():
            inputs = torch.tensor([tokens])
            expected.append(math.exp(model(inputs, labels=inputs).loss))
    return task11.perplexity(TEXTS, model, tokenizer, start)["perplexities"], expected


def perplexity_in_a_batch(start: bool, models: Models) -> Values:
    """Compute perplexities as evaluate's metric does: all texts in one padded batch."""
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
    metric = common.local_metric(task11.perplexity)
    found = metric.compute(
        predictions=TEXTS, model=model, tokenizer=tokenizer, add_start_token=start
    )
    return [*found["perplexities"], found["mean_perplexity"]], [*each.tolist(), each.mean().item()]


# Tasks 12 and 13

TRANSLATIONS = ["Hey, how are you?", "I'm great, thanks."]  # those in the statement
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


def compute(function: Callable[..., dict], texts: list[str], references: list) -> dict[str, Any]:
    """Compute a metric through the interface of evaluate, as the scripts do."""
    return common.local_metric(function).compute(predictions=texts, references=references)


def bleu_by_nltk(smooth: bool, _: Models) -> Values:
    """Split as 13a does, here by hand: punctuation is separated from words, `'` is not."""
    method = SmoothingFunction().method3 if smooth else None
    found, expected = [], []
    for texts, references in ((TRANSLATIONS, task12.REFERENCES_2), SEVERAL, ALICE):
        if not smooth and texts is ALICE[0]:
            continue  # without a common 4-gram nltk warns and returns nearly 0
        if smooth:
            found.append(compute(task12.smoothed_bleu, texts, references)["score"] / 100)
        else:
            found.append(compute(task12.bleu, texts, references)["bleu"])
        words = [re.findall(r"[\w'-]+|[^\w\s]", text) for text in texts]
        several = [
            [re.findall(r"[\w'-]+|[^\w\s]", each) for each in one]
            for one in task12.as_lists(references)
        ]
        expected.append(corpus_bleu(several, words, smoothing_function=method))
    return found, expected


def bleu_by_hand(_: Models) -> Values:
    """Of "Hey , how are you ?" 5 of 6 words, 4 of 5 pairs, 3 of 4 triples and 2 of 3 fours."""
    found = compute(task12.bleu, TRANSLATIONS[:1], task12.REFERENCE_1)["bleu"]
    return found, (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25


def translation_metric(function: Callable[..., dict], name: str, _: Models) -> Values:
    """Compare with a metric of torchmetrics on texts with one reference and with two."""
    options = {"n_word_order": 0} if name == "chrf_score" else {}  # the default is chrF++
    found, expected = [], []
    for texts, references in (ALICE, SEVERAL, (TRANSLATIONS, task12.REFERENCES_2)):
        result = compute(function, texts, references)
        scale = 1 if "bleu" in result else 100
        found.append(result["bleu"] if "bleu" in result else result["score"])
        several = task12.as_lists(references)
        expected.append(scale * getattr(text_metrics, name)(texts, several, **options).item())
    return found, expected


def rouge_by_torchmetrics(_: Models) -> Values:
    keys = ("rouge1", "rouge2", "rougeL")
    found, expected = (
        compute(task13.rouge, *PLUTO),
        text_metrics.rouge_score(*PLUTO, rouge_keys=keys),
    )
    return [found[key] for key in keys], [expected[f"{key}_fmeasure"].item() for key in keys]


def rouge_by_hand(_: Models) -> Values:
    """Each line of the reference occurs in some line, but only two words in their order."""
    found = compute(task13.rouge, ["c d\na b"], ["a b\nc d"])
    return [found["rougeL"], found["rougeLsum"]], [2 * 2 / (4 + 4), 1.0]


def meteor_by_hand(_: Models) -> Values:
    """Three of four words match, "dogs" by its stem, in two chunks (Banerjee and Lavie)."""
    with patch.object(task13, "find_wordnet", lambda: task13.NoSynonyms):
        found = compute(task13.meteor, ["my dogs often bark"], ["my dog never bark"])["meteor"]
    precision = recall = 3 / 4
    mean = 10 * precision * recall / (recall + 9 * precision)
    return found, mean * (1 - 0.5 * (2 / 3) ** 3)


def squad_scores() -> list[float]:
    exact_match, f1 = (compute(metric, *ANSWERS) for metric in (task13.exact_match, task13.f1))
    return [exact_match["exact_match"], f1["f1"]]


def squad_by_torchmetrics(_: Models) -> Values:
    expected = text_metrics.squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(ANSWERS[0])],
        [
            {"answers": {"answer_start": [0], "text": [text]}, "id": str(i)}
            for i, text in enumerate(ANSWERS[1])
        ],
    )
    return squad_scores(), [expected["exact_match"].item() / 100, expected["f1"].item() / 100]


def squad_by_hand(_: Models) -> Values:
    """One of four matches; of the three words of each other, articles excluded, two are shared."""
    return squad_scores(), [1 / 4, (2 / 3 + 2 / 3 + 1 + 2 / 3) / 4]


# The Inferno

VERSES = lab_common.clean_text(lab_common.VERSES.read_text(encoding="utf-8"))[:1500]


def ngrams_by_nltk(_: Models) -> Values:
    """Compare with nltk, whose smoothing ends at unigrams; ours ends at equal probabilities."""
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
        found.append(dante_verse.ngram_loss(train, validation, order))
        expected.append(-sum(map(math.log, scores)) / len(scores))
    return found, expected


def bits(_: Models) -> Values:
    nats = 1.4093
    return decimals(output_of(partial(dante_gpt.print_loss, "x", nats))), [
        nats,
        math.log2(math.exp(nats)),
    ]


def gpt_loss(_: Models) -> Values:
    config = dante_gpt.Config(block_size=16, n_layer=1, n_head=2, n_embd=16)
    torch.manual_seed(0)
    model = dante_gpt.GPT(config, 9).eval()  # torch's own initialisation: no weight is zero
    tokens = torch.randint(9, (17,))
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(model(tokens[None, :-1])[0], tokens[1:])
    return dante_gpt.validation_loss(model, tokens, 1, 16), expected.item()


# Tokens, and ways of generating text


def byte_pairs(text: str, state: dict[str, Any]) -> list[int]:
    """Merge the pair that was merged first in training, again and again (Sennrich 2016)."""
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes kept as they are
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable}
    letter |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    assert sorted(letter.values()) == sorted(ByteLevel.alphabet())
    ranks = {tuple(pair): rank for rank, pair in enumerate(state["merges"])}
    ids = []
    for word in regex.findall(pattern, text):
        pieces = [letter[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            first = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
            if pairs[first] not in ranks:
                break
            pieces[first : first + 2] = ["".join(pairs[first])]
        ids += [state["vocab"][piece] for piece in pieces]
    return ids


def tokens_of_texts(models: Models) -> Values:
    tokenizer = models.gpt2[1]
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    found, expected = [], []
    for text in (*lab_tokenizer.HELLO_WORLDS, *task07.CONTEXT.split(". ")):
        row = output_of(partial(lab_tokenizer.print_row, tokenizer, "", text))
        ids = byte_pairs(text, state)
        found += [decimals(row)[:1], tokenizer(text)["input_ids"]]
        expected += [[round(len(text) / len(ids), 2)], ids]
    return found, expected


def text_measures(which: int, models: Models) -> Values:
    """Compute one of the measures of a text by nltk, transformers and scipy."""
    model, tokenizer = models.gpt2
    tokens, start = tokenizer("Who knows if God exists, but for sure", return_tensors="pt"), 3
    labels = tokens["input_ids"].clone()
    labels[0, :start] = -100
    with torch.inference_mode():
        output = model(**tokens, labels=labels)
    pairs = list(bigrams(tokens["input_ids"][0, start:].tolist()))
    probabilities = output.logits[0, start - 1 : -1].softmax(-1).numpy()
    expected = {
        "distinct-2": len(set(pairs)) / len(pairs),
        "perplexity": math.exp(output.loss),
        "entropy": entropy(probabilities, axis=1).mean(),
    }
    name = list(expected)[which]
    return lab_generation.measure(model, tokens["input_ids"][0], start)[name], expected[name]


# Classification, multiple choice, retrieval


@cache
def classified() -> tuple[dict[str, np.ndarray], lab_classifier.Row, torch.Tensor, torch.Tensor]:
    """Draw labels and predictions of four classes, one of which is never predicted."""
    generator = np.random.default_rng(0)
    labels = {name: generator.integers(0, 4, 60) for name in ("validation", "test")}
    predicted = [np.minimum(generator.integers(0, 4, 60), 2) for _ in labels]
    labels["train"] = np.arange(4)
    row = lab_classifier.Row("mean", "MLP", "", *predicted)
    return labels, row, torch.tensor(predicted[1]), torch.tensor(labels["test"])


def accuracy_and_macro_f1(_: Models) -> Values:
    labels, row, predicted, right = classified()
    shown = decimals(output_of(partial(lab_classifier.print_table, [row], labels)))
    return shown[-3:], [
        accuracy_score(labels["validation"], row.validation),
        classification.multiclass_accuracy(predicted, right, 4, average="micro").item(),
        classification.multiclass_f1_score(predicted, right, 4, average="macro").item(),
    ]


def per_label(_: Models) -> Values:
    labels, row, predicted, right = classified()
    names = list("abcd")
    shown = output_of(partial(lab_classifier.print_report, row, labels["test"], names))
    rows = [decimals(line) for line in shown.splitlines() if line.strip()[:1] in names]
    columns = [
        getattr(classification, f"multiclass_{name}")(predicted, right, 4, average=None).tolist()
        for name in ("precision", "recall", "f1_score")
    ]
    return list(chain(*rows[:4])), [value for row in zip(*columns, strict=True) for value in row]


def confusion(_: Models) -> Values:
    labels, row, predicted, right = classified()
    figures = []
    with patch.object(common, "save_figure", lambda figure, _: figures.append(figure)):
        lab_classifier.draw_confusion([row], labels["test"], list("abcd"), "")
    found = [float(text.get_text()) for text in figures[0].axes[0].texts]
    expected = classification.multiclass_confusion_matrix(predicted, right, 4, "true")
    return found, expected.flatten().tolist()


def choices(which: int, _: Models) -> Values:
    """Answer 40 questions and return one pair of the printed numbers."""
    generator = np.random.default_rng(0)
    questions, scores = [], []
    for count in (2, 4, 3, 5) * 10:
        right = int(generator.integers(count))
        questions.append(lab_data.Question("?", ["x"] * count, right))
        indices = np.arange(count)
        scores.append(generator.permutation(count) + (indices == right) + 0.1 * indices)  # no ties
    splits = dict.fromkeys(("validation", "test"), questions)
    rows = {"row": [dict.fromkeys(splits, scores)]}
    shown = decimals(output_of(partial(lab_multiple_choice.print_table, rows, splits)))
    predicted = [int(each.argmax()) for each in scores]
    accuracy = accuracy_score([question.answer for question in questions], predicted)
    z, count = 1.959964, 40  # the interval of Wilson (1927), for 95 %
    centre = (accuracy + z**2 / (2 * count)) / (1 + z**2 / count)
    radius = z * math.sqrt(accuracy * (1 - accuracy) / count + (z / (2 * count)) ** 2)
    radius /= 1 + z**2 / count
    chance = (1 / 2 + 1 / 4 + 1 / 3 + 1 / 5) / 4
    expected = [chance, chance, accuracy, accuracy, centre - radius, centre + radius]
    return shown[2 * which : 2 * which + 2], expected[2 * which : 2 * which + 2]


def rankings(which: int, _: Models) -> Values:
    """Rank 200 documents for six claims and return one of the printed numbers."""
    generator = np.random.default_rng(0)
    scores = np.stack([generator.permutation(200) + 1.0 for _ in range(6)])
    relevance = np.zeros((6, 200), dtype=np.float32)
    for row in relevance:
        row[generator.choice(200, 12, replace=False)] = generator.integers(1, 3, 12)
    qrels = lab_data.Qrels(list(range(6)), relevance)
    new = lab_data.Qrels([1, 4], relevance[[1, 4]])  # the last column is over these alone
    shown = decimals(output_of(partial(lab_retrieval.print_table, {"row": scores}, qrels, new)))
    measures: list[Callable[..., torch.Tensor]] = [
        partial(retrieval.retrieval_normalized_dcg, top_k=10),
        partial(retrieval.retrieval_recall, top_k=10),
        partial(retrieval.retrieval_recall, top_k=100),
        partial(retrieval.retrieval_reciprocal_rank, top_k=10),
        partial(retrieval.retrieval_normalized_dcg, top_k=10),
    ]
    chosen = [1, 4] if which == 4 else list(range(6))
    rows = zip(torch.from_numpy(scores[chosen]), torch.from_numpy(relevance[chosen]), strict=True)
    is_graded = which in (0, 4)  # the other measures take 0 or 1
    values = [
        measures[which](score, gain.long() if is_graded else gain > 0).item()
        for score, gain in rows
    ]
    return shown[which], float(np.mean(values))


def bm25_by_formula(
    documents: list[list[str]], claims: list[list[str]], k1: float, b: float
) -> np.ndarray:
    """Compute the formula of Robertson and Zaragoza for lists of words: (claims, documents)."""
    mean = sum(map(len, documents)) / len(documents)

    def score(claim: list[str], document: list[str]) -> float:
        total = 0.0
        for word in claim:
            frequency = sum(word in each for each in documents)
            rarity = np.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            count = document.count(word)
            total += rarity * count / (count + k1 * (1 - b + b * len(document) / mean))
        return total

    return np.array([[score(claim, document) for document in documents] for claim in claims])


def bm25(_: Models) -> Values:
    """Compare with the formula, on words that are stemmed by hand."""
    documents = ["red apples and red pears", "green apples", "yellow lemons, sour lemons, ripe"]
    words = [["red", "appl", "red", "pear"], ["green", "appl"]]
    words.append(["yellow", "lemon", "sour", "lemon", "ripe"])
    claims, k1, b = {"a red apple": ["red", "appl"], "sour": ["sour"], "the of and": []}, 1.5, 0.75
    found = lab_retrieval.bm25(lab_retrieval.split_words(documents), list(claims), k1, b)
    return found, bm25_by_formula(words, list(claims.values()), k1, b)


def fusion_by_ranks(_: Models) -> Values:
    """The three documents have the ranks 1, 3, 2 and 3, 1, 2; or 2, 2, 2 and 3, 1, 2."""
    scores = np.array([[3.0, 1, 2], [0, 0, 0]]), np.array([[0.1, 0.3, 0.2]] * 2)
    found = lab_retrieval.reciprocal_rank_fusion(*scores)
    by_hand = [1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62 + 1 / 62]
    by_hand += [1 / 62 + 1 / 63, 1 / 62 + 1 / 61, 1 / 62 + 1 / 62]
    return found.ravel(), np.array(by_hand)


def weighted_sums(_: Models) -> Values:
    left, right = np.random.default_rng(0).random((2, 3, 9))
    found = lab_retrieval.weighted_sum(left, right, 0.25)
    return found, 0.25 * zscore(left, axis=1) + 0.75 * zscore(right, axis=1)


def cosines(_: Models) -> Values:
    left, right = np.random.default_rng(0).standard_normal((2, 4, 9))
    return lab_retrieval.cosine_similarities(left, right), cosine_similarity(left, right)


LOSS = "transformers' loss"
OLD = "transformers 4.47.1"
SHOWN_3, SHOWN_4 = 5.1e-4, 5.1e-5  # half of the last digit, where three or four are printed
SINGLE = 1e-5  # rounding in float32
sacre_bleu = partial(translation_metric, task12.bleu, "sacre_bleu_score")
chrf = partial(translation_metric, task12.chrf, "chrf_score")
ter = partial(translation_metric, task13.ter, "translation_edit_rate")

ROWS = [
    Row("task01", "first windows and targets", "a loop", windows),
    Row("task01", "shapes and length of the data set", "the calendar", window_counts),
    Row("task02", "MSE of an epoch", "scikit-learn", epoch_loss, SINGLE),
    Row("task02", "test MSE", "scikit-learn", error_on_test_set, SINGLE),
    Row("task03", "MSE, R² of yesterday", "pandas, NumPy", partial(lagged_reading, 0), SINGLE),
    Row("task03", "MSE, R² of last week", "pandas, NumPy", partial(lagged_reading, 1), SINGLE),
    Row("task03", "MSE, R² of persistence", "pandas, NumPy", partial(lagged_reading, 2), SINGLE),
    Row("task03", "MSE, R² of AR(96)", "NumPy", autoregression, 1e-3),
    Row("task03", "gradient boosting", "a walk through its trees", boosting, SINGLE),
    Row("task03", "MSE of forecasts", "pandas", forecast_errors, SHOWN_4),
    Row("task03", "parameters", "by hand", parameters),
    Row("task03", "mean and standard deviation", "by hand", mean_and_deviation, SHOWN_4),
    Row("task04", "summary", OLD, summary),
    Row("task06", "translation", OLD, bulgarian),
    Row("task07", "answer", OLD, partial(answer, lambda a: a.text)),
    Row("task07", "position", OLD, partial(answer, lambda a: (a.start, a.end))),
    Row("task07", "probability", OLD, partial(answer, lambda a: a.score), 1e-4),
    Row("task08", "token ids", "a naive WordPiece", token_ids),
    Row("task09", "probabilities", "softmax by hand", class_probabilities, SINGLE),
    Row("task09", "accuracies", "scikit-learn", recorded_accuracies),
    Row("task10", "probabilities, T5", LOSS, partial(label_probabilities, "t5"), 1e-4),
    Row("task10", "probabilities, GPT-2", LOSS, partial(label_probabilities, "gpt2"), 1e-4),
    Row("task11", "perplexity", LOSS, partial(perplexity_by_loss, True), 1e-4),
    Row("task11", "perplexity", "a batch", partial(perplexity_in_a_batch, True), 1e-4),
    Row("task11", "without a start token", LOSS, partial(perplexity_by_loss, False), 1e-4),
    Row("task11", "without a start token", "a batch", partial(perplexity_in_a_batch, False), 1e-4),
    Row("task12", "translations", OLD, english),
    Row("task12", "BLEU", "by hand", bleu_by_hand, 1e-12),
    Row("task12", "BLEU", "nltk", partial(bleu_by_nltk, False), 1e-9),
    Row("task12", "BLEU", "torchmetrics", sacre_bleu, SINGLE),
    Row("task12", "sacreBLEU", "nltk", partial(bleu_by_nltk, True), 1e-9),
    Row("task12", "chrF", "torchmetrics", chrf, SINGLE),
    Row("task13", "ROUGE-1, -2 and -L", "torchmetrics", rouge_by_torchmetrics, SINGLE),
    Row("task13", "ROUGE-L and -Lsum", "by hand", rouge_by_hand, 1e-12),
    Row("task13", "METEOR", "by hand", meteor_by_hand, 1e-12),
    Row("task13", "TER", "torchmetrics", ter, SINGLE),
    Row("task13", "exact match and F1", "torchmetrics", squad_by_torchmetrics, SINGLE),
    Row("task13", "exact match and F1", "by hand", squad_by_hand, 1e-12),
    Row("dante_gpt", "nats of the n-grams", "nltk", ngrams_by_nltk, 1e-9),
    Row("dante_gpt", "bits", "by hand", bits, SHOWN_4),
    Row("dante_gpt", "nats of the GPT", "torch's cross-entropy", gpt_loss, SINGLE),
    Row("lab_tokenizer", "ids, characters per token", "naive byte pairs", tokens_of_texts, 1e-9),
    Row("lab_generation", "distinct-2", "nltk", partial(text_measures, 0), 1e-9),
    Row("lab_generation", "perplexity", LOSS, partial(text_measures, 1), 1e-4),
    Row("lab_generation", "entropy", "scipy", partial(text_measures, 2), 1e-4),
    Row("lab_classifier", "accuracy, macro-F1", "torchmetrics", accuracy_and_macro_f1, SHOWN_4),
    Row("lab_classifier", "precision, recall, F1", "torchmetrics", per_label, SHOWN_4),
    Row("lab_classifier", "confusion matrix", "torchmetrics", confusion, 5.1e-3),
    Row("lab_multiple_choice", "chance", "by hand", partial(choices, 0), SHOWN_3),
    Row("lab_multiple_choice", "accuracy", "scikit-learn", partial(choices, 1), SHOWN_3),
    Row("lab_multiple_choice", "interval", "the formula", partial(choices, 2), SHOWN_3),
    Row("lab_retrieval", "nDCG@10", "torchmetrics", partial(rankings, 0), SHOWN_4),
    Row("lab_retrieval", "Recall@10", "torchmetrics", partial(rankings, 1), SHOWN_4),
    Row("lab_retrieval", "Recall@100", "torchmetrics", partial(rankings, 2), SHOWN_4),
    Row("lab_retrieval", "MRR@10", "torchmetrics", partial(rankings, 3), SHOWN_4),
    Row("lab_retrieval", "nDCG@10, new", "torchmetrics", partial(rankings, 4), SHOWN_4),
    Row("lab_retrieval", "BM25", "the paper's formula", bm25, SINGLE),
    Row("lab_retrieval", "reciprocal rank fusion", "by hand", fusion_by_ranks, 1e-12),
    Row("lab_retrieval", "weighted sums", "scipy", weighted_sums, 1e-9),
    Row("lab_retrieval", "cosines", "scikit-learn", cosines, 1e-9),
]

WITHOUT_NUMBERS = {  # scripts and modules that print no number that others define
    "pretrained": "the sizes of models are those on their pages",
    "lab_common": "prints nothing",
    "lab_data": "prints nothing",
    "common": "prints nothing",
    "dante_verse": "prints its own measures",
    "task05": "prints a reply in words",
}


@pytest.fixture(scope="module")
def models(checkpoints: Path) -> Models:
    return Models(checkpoints)


def agree(ours: object, others: object, tolerance: float) -> bool:
    """Compare numbers, arrays and lists of them by the tolerance; everything else exactly."""
    if tolerance == 0:
        return ours == others
    if isinstance(ours, list) and any(isinstance(each, list) for each in ours):
        pairs = zip(ours, others, strict=True)
        return all(agree(left, right, tolerance) for left, right in pairs)
    return ours == pytest.approx(others, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.script}-{row.printed}-{row.source}")
def test_printed_number_agrees_with_its_second_source(row: Row, models: Models) -> None:
    ours, others = row.values(models)
    assert agree(ours, others, row.tolerance), (ours, others)


def test_every_script_has_a_row_or_prints_no_such_number() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert {row.script for row in ROWS} == scripts - set(WITHOUT_NUMBERS)
