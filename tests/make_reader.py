"""Train the bundled reader: the adapter in DATA/bundled/reader.

    python tests/make_reader.py FOLDER

FOLDER contains the questions of SQuAD in train.jsonl, one JSON object per line: title, context,
question and answers. Every tenth article is held out for the scores.

Small matrices are added to the weights of the bundled encoder, which stay as they are (LoRA, Hu et
al. 2021). They are trained with a question-answering head. Takes half an hour on one CPU core.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.functional.text import squad
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
import lab_data
import task07

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
    rows = lab_data.read_jsonl(folder / "train.jsonl", dict)
    articles = sorted({row["title"] for row in rows})[EVERY_TENTH]
    training = [row for row in rows if row["title"] not in articles]
    return training, [row for row in rows if row["title"] in articles]


def encode_questions(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[Question]:
    """Return the questions whose shortest answer lies within the window."""
    questions = []
    for row in rows:
        texts = row["question"], row["context"]
        encoding = tokenizer(*texts, truncation="only_second", max_length=WINDOW)
        answer = min(row["answers"], key=len)  # several people answered; all of them are right
        start = row["context"].index(answer)
        ends = start, start + len(answer) - 1
        first, last = (encoding.char_to_token(end, sequence_index=1) for end in ends)
        if first is not None and last is not None:
            ids, types = encoding["input_ids"], encoding["token_type_ids"]
            questions.append(Question(ids, types, first, last))
    return questions


def add_low_rank(encoder: BertModel, rank: int) -> None:
    """Freeze an encoder, and add trainable low-rank matrices to each linear layer of its blocks."""
    encoder.requires_grad_(False)
    for layer in encoder.encoder.modules():
        if isinstance(layer, nn.Linear):
            low_rank = LowRank(layer.out_features, layer.in_features, rank)
            parametrize.register_parametrization(layer, "weight", low_rank)


def make_batches(questions: list[Question]) -> list[list[int]]:
    """Return the batches of all epochs, each of row numbers of questions of similar length."""
    batches = []
    for epoch in range(EPOCHS):
        random = np.random.default_rng([1, epoch])
        rows = random.permutation(len(questions)).tolist()
        rows.sort(key=lambda row: len(questions[row].tokens) + random.integers(20))
        for number in random.permutation(len(questions) // BATCH_SIZE):
            batches.append(rows[number * BATCH_SIZE : (number + 1) * BATCH_SIZE])
    return batches


def train(model: BertForQuestionAnswering, questions: list[Question]) -> None:
    """Train the low-rank matrices and the head."""
    device = model.device

    def batch_loss(numbers: list[int]) -> torch.Tensor:
        batch = [questions[number] for number in numbers]
        types = [torch.tensor(row.types) for row in batch]
        with torch.autocast(device.type, torch.bfloat16):  # less time on recent CPUs
            return model(
                **lab_common.pad_batch([row.tokens for row in batch], device),
                token_type_ids=pad_sequence(types, batch_first=True).to(device),
                start_positions=torch.tensor([row.first for row in batch], device=device),
                end_positions=torch.tensor([row.last for row in batch], device=device),
            ).loss

    lab_common.train(model.train(), batch_loss, make_batches(questions), LEARNING_RATE)


def save_adapter(model: nn.Module, name: str) -> None:
    """Save the trained weights, low-rank matrices and others, as a bundled adapter in float16."""
    halves = {
        weight_name.replace("parametrizations.weight.0.", ""): weight.detach().half().cpu()
        for weight_name, weight in model.named_parameters()
        if weight.requires_grad
    }
    with common.complete_path(bundled.TRAINED / name / "adapter.safetensors") as path:
        save_file(halves, path)


def print_scores(
    model: BertForQuestionAnswering, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> None:
    """Print exact match and F1 on the questions, with the best of several right answers."""
    answers, targets = [], []
    for number, row in enumerate(tqdm(rows)):
        _, start, end = task07.extract(model.eval(), tokenizer, row["question"], row["context"])
        answers.append({"id": str(number), "prediction_text": row["context"][start:end]})
        targets.append({"id": str(number), "answers": {"text": row["answers"]}})
    scores = squad(answers, targets)
    print(f"exact match {scores['exact_match']:.1f}, F1 {scores['f1']:.1f}")


def main() -> int:
    """Train the adapter, save it and print its scores."""
    parser = common.argument_parser(__doc__, "--device")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    training, held_out = load_questions(arguments.folder)
    common.seed_everything(0)
    model = BertForQuestionAnswering.from_pretrained(bundled.encoder())  # with a new head
    add_low_rank(model.bert, RANK)
    model.to(common.select_device(arguments.device))
    tokenizer = common.load(AutoTokenizer, bundled.encoder())
    questions = encode_questions(tokenizer, training)
    print(f"{len(questions):,} questions to train on, {len(held_out):,} held out", flush=True)
    train(model, questions)
    save_adapter(model, "reader")
    print_scores(model, tokenizer, held_out)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
