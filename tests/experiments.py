"""Experiments whose figures RESULTS.md quotes.

    python tests/experiments.py ablation --text FILE    dante_gpt.py with one part changed
    python tests/experiments.py settings --text FILE    dante_gpt.py with other settings
    python tests/experiments.py seeds --model bundled   task09.py with ten seeds
    python tests/experiments.py prompts --data FILE     task10.py with other examples
    python tests/experiments.py map --data DIR          lab_retrieval.py with other settings

The first two train on the first eight tenths of the text, from each seed, and measure the loss on
the ninth, so that the last tenth chooses nothing. They run one training per core, and each takes a
quarter of an hour. Without --text, the text is that of dante_gpt.py. The third takes two minutes.
The fourth takes a quarter of an hour. FILE has rated sentences, as for tests/make_sentiment.py.
The last takes eight minutes and measures on held-out training claims of SciFact.
"""

import argparse
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import bundled
import common
import dante_gpt
import inferno
import lab_data
import lab_retrieval
import make_sentiment
import task09
import task10
from lab_retrieval import MAP_SETTING, Split

# --- Lab 1: dante_gpt.py with one part changed --------------------------------------------------


class LearnedPositions(dante_gpt.GPT):
    """A GPT that adds an embedding of the position, as the video's does."""

    def __init__(self, config: dante_gpt.Config, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.positions = nn.Parameter(torch.randn(config.block_size, config.n_embd))
        self.embedding.register_forward_hook(
            lambda _, inputs, x: x + self.positions[: inputs[0].shape[1]]  # (batch, time, n_embd)
        )


class PlainGPT(LearnedPositions):
    """The model of nanoGPT, with biases in its LayerNorms.

    The embedding is the last layer too, and all weights begin small.
    """

    def __init__(self, config: dante_gpt.Config, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.head.weight = self.embedding.weight
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_output = name.endswith(("output.weight", "down.weight"))
                scale = math.sqrt(2 * config.n_layer) if is_output else 1
                nn.init.normal_(weight, std=0.02 / scale)


def train_as_nanogpt(training: dante_gpt.Training) -> None:
    """Train with the optimiser and the learning rates of nanoGPT, and with clipped gradients."""

    def factor(step: int) -> float:
        progress = (step - 100) / max(1, training.config.steps - 100)
        return min(0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2, (step + 1) / 101)

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(weights, 1.0)

    weights = list(training.model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim == 2], "weight_decay": 0.1},
        {"params": [weight for weight in weights if weight.ndim == 1], "weight_decay": 0.0},
    ]
    training.muon.param_groups[0]["params"] = []
    training.adam = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.99))
    training.adam.register_step_pre_hook(clip)
    training.adam_schedule = torch.optim.lr_scheduler.LambdaLR(training.adam, factor)


def use_adam_for_all(training: dante_gpt.Training) -> None:
    """Train the matrices of the blocks with AdamW too, with a weight decay as large as Muon's."""
    training.muon.param_groups[0]["params"] = []
    training.adam = torch.optim.AdamW(
        training.model.parameters(),
        training.config.adam_lr,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        fused=True,
    )
    training.adam_schedule = common.one_cycle(training.adam, training.config.steps)


def keep_learning_rates(training: dante_gpt.Training) -> None:
    """Train with constant learning rates, as the video does."""
    for name in ("muon", "adam"):
        optimizer = getattr(training, name)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        setattr(training, f"{name}_schedule", schedule)


@dataclass(frozen=True)
class Variant:
    """One change of dante_gpt.py: options, replaced names of the module, changes of a training."""

    options: dict[str, Any] = field(default_factory=dict)
    patches: dict[str, Any] = field(default_factory=dict)
    change: Callable[[dante_gpt.Training], None] = lambda training: None

    def train(self, text: str, config: dante_gpt.Config) -> float:
        """Train once; return the validation loss."""
        with mock.patch.dict(vars(dante_gpt), self.patches):
            training = dante_gpt.Training(config, text, torch.device("cpu"))
            self.change(training)
            for step in range(config.steps):
                training.step(step)
            return training.validate()


NO_ROTATION = {"rotate": lambda x: x}
# the dropout is that of nanoGPT's training on the characters of Shakespeare
PLAIN = Variant({"dropout": 0.2}, {"GPT": PlainGPT} | NO_ROTATION, train_as_nanogpt)
ABLATION = {
    "a plain GPT of the same size": PLAIN,
    "dante_gpt.py": Variant(),
    "AdamW everywhere, no Muon": Variant(change=use_adam_for_all),
    "constant learning rates": Variant(change=keep_learning_rates),
    "learned positions, not rotary": Variant(patches={"GPT": LearnedPositions} | NO_ROTATION),
}
SETTINGS = {
    f"dropout {dropout}": Variant({"dropout": dropout}) for dropout in (0.15, 0.2, 0.25, 0.3)
}


def final_loss(text: str, steps: int | None, run: tuple[str, int]) -> float:
    """Train a variant once, on eight tenths; return the loss on the ninth."""
    torch.set_num_threads(1)
    text = dante_gpt.split(text)[0]  # the last tenth chooses nothing
    name, seed = run
    variant = (ABLATION | SETTINGS)[name]
    config = replace(dante_gpt.Config(seed=seed), **variant.options)
    config = replace(config, steps=steps or config.steps)
    with mock.patch.object(dante_gpt, "TRAIN_FRACTION", 8 / 9):
        return variant.train(text, config)


def print_losses(names: Iterable[str], arguments: argparse.Namespace) -> None:
    """Print the final loss from each seed for each variant, with mean and standard deviation."""
    text, seeds = inferno.load(arguments.text), arguments.seeds
    runs = [(name, seed) for name in names for seed in range(seeds)]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        losses = pool.map(partial(final_loss, text, arguments.steps), runs)
        header = [f"seed {seed}" for seed in range(seeds)]
        header += ["mean", "deviation"] if seeds > 1 else []
        print(f"{'nats per character':40}" + "".join(f"{column:>10}" for column in header))
        for name in names:
            row = list(islice(losses, seeds))
            row += [statistics.mean(row), statistics.stdev(row)] if seeds > 1 else []
            print(f"{name:40}" + "".join(f"{value:10.4f}" for value in row), flush=True)


# --- Task 09: other seeds -----------------------------------------------------------------------


def print_seeds(arguments: argparse.Namespace) -> None:
    """Print the probability of a high risk for the samples of task 09, from each seed."""
    folder = common.find_model(arguments.model, task09.MODEL, bundled.sentiment_encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    rows = []
    for seed in range(arguments.seeds):
        common.seed_everything(seed)
        model = common.add_head(AutoModelForSequenceClassification, folder, task09.LABELS)
        accuracies = task09.fine_tune(model, tokenizer, seed)
        rows.append(task09.predict(model, tokenizer, task09.INPUT_TEXT)[:, 1].tolist())
        print(f"seed {seed}: {accuracies}, {[round(value, 3) for value in rows[-1]]}", flush=True)
    for text, values in zip(task09.INPUT_TEXT, zip(*rows, strict=True), strict=True):
        print(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}  {text}")
    right = sum([value > 0.5 for value in row] == [False, True, True] for row in rows)
    print(f"low, high, high: {right} of {arguments.seeds} seeds")


# --- Task 10: other prompts ---------------------------------------------------------------------

SENTENCES = 200  # of product and film reviews; half of them may choose a prompt
NEUTRAL = "The parcel has a label."
PROMPTS = {
    "no example": (),
    "positive, negative": task10.EXAMPLES,
    "negative, positive": task10.EXAMPLES[::-1],
}


def print_prompts(arguments: argparse.Namespace) -> None:
    """Print the accuracy of the prompts on two halves of some rated sentences.

    A text is positive if its probability of "positive" is above a half; or, calibrated, above that
    of a neutral text after the same examples (Zhao et al. 2021).
    """
    sentences = [
        sentence
        for part in make_sentiment.load_sentences(arguments.data)
        for sentence in part
        if sentence.source != "tweets" and abs(sentence.rating) >= make_sentiment.STRONG
    ]
    sentences = random.Random(0).sample(sentences, SENTENCES)
    is_positive = np.array([sentence.rating > 0 for sentence in sentences])
    folder = common.find_model(arguments.model, task10.MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    model = task10.load_model(folder)
    print(f"{'accuracy on each half':40}{'first':>8}{'second':>8}  positive answers")
    for name, examples in PROMPTS.items():
        neutral, *values = (
            task10.classify(model, tokenizer, task10.build_prompt(text, examples))["positive"]
            for text in [NEUTRAL, *(sentence.text for sentence in sentences)]
        )
        for title, threshold in ((name, 0.5), (f"{name}, calibrated", neutral)):
            called = np.array(values) > threshold  # (sentences,)
            halves = [half.mean() for half in np.split(called == is_positive, 2)]
            print(f"{title:40}{halves[0]:8.3f}{halves[1]:8.3f}{called.mean():8.3f}", flush=True)


# --- Lab 3.3: other settings of the map ---------------------------------------------------------

MAP_SETTINGS = [
    MAP_SETTING,
    *(MAP_SETTING._replace(epochs=epochs) for epochs in (5, 20)),
    *(MAP_SETTING._replace(learning_rate=rate) for rate in (3e-4, 3e-3)),
    *(MAP_SETTING._replace(temperature=temperature) for temperature in (0.03, 0.1)),
]


def print_map_settings(arguments: argparse.Namespace) -> None:
    """Print the best alpha and its nDCG@10 on held-out training claims, for each setting.

    The nDCG@10 is the mean over the seeds. No test claim is read.
    """
    collection = lab_data.load_collection("scifact", arguments.data)
    claims = lab_data.remove_duplicates(collection.claims, text=lambda claim: claim.text)["train"]
    folder = common.find_model(arguments.model, lab_retrieval.MODEL, bundled.encoder)
    tokenizer, encoder = common.load(AutoTokenizer, folder), common.load(AutoModel, folder)
    mean = {"mean": lab_retrieval.POOLINGS["mean"]}
    documents, features = (
        lab_retrieval.encode(encoder, tokenizer, texts, mean)["mean"]
        for texts in (collection.documents(), [claim.text for claim in claims])
    )
    vectors = F.normalize(documents)  # (documents, width)
    split = Split(claims, features)
    start = lab_retrieval.identity_map(vectors.shape[1])
    for setting in MAP_SETTINGS:
        runs = [
            lab_retrieval.held_out_ndcg(start, split, vectors, setting, seed)
            for seed in range(arguments.seeds)
        ]
        values = np.mean(runs, axis=0)  # for each alpha
        best = int(np.argmax(values))
        alpha = lab_retrieval.ALPHAS[best]
        print(
            f"{setting.epochs} epochs, learning rate {setting.learning_rate:g}, temperature "
            f"{setting.temperature:g}: {values[best]:.4f} with alpha {alpha:g}, "
            f"untrained {values[0]:.4f}",
            flush=True,
        )


def main() -> None:
    """Parse the command line and run one experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    experiments = parser.add_subparsers(required=True, metavar="EXPERIMENT")
    for name, variants in (("ablation", ABLATION), ("settings", SETTINGS)):
        experiment = experiments.add_parser(name, help=f"losses of {len(variants)} variants")
        experiment.add_argument("--text", type=Path, metavar="FILE", help="text file")
        experiment.add_argument("--seeds", type=int, default=3, help="(default: 3)")
        experiment.add_argument("--steps", type=int, help="(default: those of dante_gpt.py)")
        experiment.set_defaults(run=partial(print_losses, variants))
    experiment = experiments.add_parser("seeds", help="task09.py with other seeds")
    experiment.add_argument("--model", help=f"(default: {task09.MODEL})")
    experiment.add_argument("--seeds", type=int, default=10, help="(default: 10)")
    experiment.set_defaults(run=print_seeds)
    experiment = experiments.add_parser("prompts", help="task10.py with other examples")
    experiment.add_argument("--data", type=Path, metavar="FILE", required=True)
    experiment.add_argument("--model", help=f"(default: {task10.MODEL})")
    experiment.set_defaults(run=print_prompts)
    experiment = experiments.add_parser("map", help="lab_retrieval.py with other settings")
    experiment.add_argument("--data", type=Path, metavar="DIR", help="folder with SciFact")
    experiment.add_argument("--model", help=f"(default: {lab_retrieval.MODEL})")
    experiment.add_argument("--seeds", type=int, default=2, help="(default: 2)")
    experiment.set_defaults(run=print_map_settings)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
