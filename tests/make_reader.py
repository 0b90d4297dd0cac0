"""Train the bundled reader: the adapter in DATA/bundled/reader.

    python tests/make_reader.py FOLDER

FOLDER contains the questions of SQuAD in train.jsonl, one JSON object per line: title, context,
question and answers. Every tenth article is held out for the scores.

Small matrices are added to the weights of the bundled encoder, which stay as they are (LoRA, Hu et
al. 2021). They are trained with a question-answering head. Takes half an hour on one CPU core.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    BertModel,
    PreTrainedTokenizerBase,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import bundled
import common
import lab_common
import task07
import task13

EVERY_TENTH = slice(None, None, 10)  # of the articles in alphabetical order is held out
RANK = 24  # of the matrices that are added to the encoder's
WINDOW = 320  # tokens of a question with its context; longer contexts are cut
EPOCHS, BATCH_SIZE = 2, 16
LEARNING_RATE = 1e-3  # the highest of the one-cycle schedule


class LowRank(nn.Module):
    """Add the product of two narrow matrices to a weight. Only these are trained."""

    def __init__(self, height: int, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(height, rank))  # at first nothing is added

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the changed weight, (height, width)."""
        return weight + self.up @ self.down


class Question(NamedTuple):
    """A question with its tokens and the positions of the first and of the last answer token."""

    tokens: list[int]
    types: list[int]
    first: int
    last: int


def load_questions(folder: Path) -> tuple[list[dict], list[dict]]:
    """Return the questions to train on, and those of held-out articles."""
    lines = common.read_text(folder / "train.jsonl").splitlines()
    rows = [json.loads(line) for line in lines]
    articles = sorted({row["title"] for row in rows})[EVERY_TENTH]
    training = [row for row in rows if row["title"] not in articles]
    return training, [row for row in rows if row["title"] in articles]


def encode_questions(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[Question]:
    """Return the questions whose shortest answer lies within the window."""
    questions = []
    for row in rows:
        encoding = tokenizer(
            row["question"], row["context"], truncation="only_second", max_length=WINDOW
        )
        answer = min(row["answers"], key=len)  # several people answered; all of them are right
        start = row["context"].index(answer)
        end = start + len(answer) - 1
        first, last = (
            encoding.char_to_token(position, sequence_index=1) for position in (start, end)
        )
        if first is not None and last is not None:
            questions.append(
                Question(encoding["input_ids"], encoding["token_type_ids"], first, last)
            )
    return questions


def make_model() -> BertForQuestionAnswering:
    """Return the bundled encoder with a new head and trainable low-rank matrices."""
    model = BertForQuestionAnswering.from_pretrained(bundled.encoder())
    add_low_rank(model.bert, RANK)
    return model


def add_low_rank(encoder: BertModel, rank: int) -> None:
    """Freeze an encoder, and add trainable low-rank matrices to each linear layer of its blocks."""
    encoder.requires_grad_(False)
    for layer in encoder.encoder.modules():
        if isinstance(layer, nn.Linear):
            low_rank = LowRank(layer.out_features, layer.in_features, rank)
            parametrize.register_parametrization(layer, "weight", low_rank)


def train(model: BertForQuestionAnswering, questions: list[Question]) -> None:
    """Train the low-rank matrices and the head, in batches of questions of similar length."""
    batches_per_epoch = len(questions) // BATCH_SIZE
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, fused=True)
    schedule = common.one_cycle(optimizer, EPOCHS * batches_per_epoch)
    for epoch in range(EPOCHS):
        losses = []
        random = np.random.default_rng([1, epoch])
        rows = [questions[i] for i in random.permutation(len(questions))]
        rows.sort(key=lambda row: len(row.tokens) + random.integers(20))
        model.train()
        for number in tqdm(random.permutation(batches_per_epoch)):
            batch = rows[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
            types = [torch.tensor(row.types) for row in batch]
            with torch.autocast(model.device.type, torch.bfloat16):  # less time on recent CPUs
                loss = model(
                    **lab_common.pad_batch([row.tokens for row in batch], model.device),
                    token_type_ids=pad_sequence(types, batch_first=True).to(model.device),
                    start_positions=torch.tensor([row.first for row in batch], device=model.device),
                    end_positions=torch.tensor([row.last for row in batch], device=model.device),
                ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)


def save_adapter(model: nn.Module, name: str) -> None:
    """Save the trained weights, low-rank matrices and others, as a bundled adapter in float16."""
    halves = {
        weight_name.replace("parametrizations.weight.0.", ""): weight.detach().half().cpu()
        for weight_name, weight in model.named_parameters()
        if weight.requires_grad
    }
    with common.complete_file(bundled.TRAINED / name / "adapter.safetensors") as path:
        save_file(halves, path)


def print_scores(
    model: BertForQuestionAnswering, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> None:
    """Print exact match and F1 on the questions, with the best of several right answers."""
    scores = []  # (exact match, F1) of each question
    for row in tqdm(rows):
        _, start, end = task07.extract(model.eval(), tokenizer, row["question"], row["context"])
        answer = row["context"][start:end]
        measures = [task13.squad([answer], [reference]) for reference in row["answers"]]
        scores.append([max(m[name] for m in measures) for name in ("exact_match", "f1")])
    exact_match, f1 = 100 * np.mean(scores, axis=0)
    print(f"exact match {exact_match:.1f}, F1 {f1:.1f}")


def main() -> int:
    """Train the adapter, save it and print its scores."""
    parser = common.argument_parser(__doc__, "--device")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    training, held_out = load_questions(arguments.folder)
    common.seed_everything(0)
    model = make_model().to(common.select_device(arguments.device))
    tokenizer = common.load(AutoTokenizer, bundled.encoder())
    questions = encode_questions(tokenizer, training)
    print(f"{len(questions):,} questions to train on, {len(held_out):,} held out", flush=True)
    train(model, questions)
    save_adapter(model, "reader")
    print_scores(model, tokenizer, held_out)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
