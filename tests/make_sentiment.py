"""Train the bundled sentiment encoder: the adapter in DATA/bundled/sentiment.

    python tests/make_sentiment.py FILE

FILE has sentences with the mean rating of about twenty people, from -4 to 4, under a header line:
source, document, rating and text, separated by tabs. Every tenth document is held out for the
accuracy. The ratings are the ground truth of VADER (Hutto and Gilbert 2014).

Small matrices are added to the weights of the bundled encoder (LoRA, Hu et al. 2021). They are
trained with the pooler and a head, whose output should be the probability sigmoid(1.5 * rating). So
a neutral sentence is neither positive nor negative. Takes a quarter of an hour on one CPU core.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import bundled
import common
import lab_common
import make_reader

EVERY_TENTH = 10  # document of a source is held out
STRONG = 0.5  # held-out sentences with ratings nearer to zero do not count
SLOPE = 1.5  # of the logit with the rating
RANK = 16  # of the matrices that are added to the encoder's
BATCH_SIZE = 32
LEARNING_RATE = 5e-4  # the highest of the one-cycle schedule


class Sentence(NamedTuple):
    """A sentence, its mean rating, and where it comes from."""

    source: str
    rating: float
    text: str


def load_sentences(path: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Return the sentences to train on, and those of held-out documents that are not neutral."""
    training, held_out = [], []
    for line in common.read_text(path).splitlines()[1:]:
        source, document, rating, text = line.split("\t")
        sentence = Sentence(source, float(rating), text)
        if int(document) % EVERY_TENTH:
            training.append(sentence)
        elif abs(sentence.rating) >= STRONG:
            held_out.append(sentence)
    return training, held_out


def train(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    sentences: list[Sentence],
) -> None:
    """Train the low-rank matrices, the pooler and the head in one pass over the sentences."""
    ids = lab_common.tokenize(model, tokenizer, [sentence.text for sentence in sentences])
    positive = torch.tensor([SLOPE * sentence.rating for sentence in sentences]).sigmoid()
    targets = torch.stack([1 - positive, positive], dim=1).to(model.device)  # (sentences, 2)

    def batch_loss(batch: list[int]) -> torch.Tensor:
        inputs = lab_common.pad_batch([ids[row] for row in batch], model.device)
        return cross_entropy(model(**inputs).logits, targets[batch])  # of (batch, 2)

    batches = lab_common.random_batches(len(ids), BATCH_SIZE, 1, [len(row) for row in ids])
    lab_common.train(model.train(), batch_loss, batches, LEARNING_RATE)


@torch.inference_mode()
def print_accuracies(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    sentences: list[Sentence],
) -> None:
    """Print the accuracy on the sentences of each source."""
    model.eval()
    is_right: dict[str, list[bool]] = {}
    for start in tqdm(range(0, len(sentences), BATCH_SIZE)):
        batch = sentences[start : start + BATCH_SIZE]
        ids = lab_common.tokenize(model, tokenizer, [sentence.text for sentence in batch])
        logits = model(**lab_common.pad_batch(ids, model.device)).logits  # (batch, 2)
        for sentence, label in zip(batch, logits.argmax(-1).tolist(), strict=True):
            is_right.setdefault(sentence.source, []).append(label == (sentence.rating > 0))
    for source, flags in is_right.items():
        print(f"{source}: accuracy {np.mean(flags):.3f} on {len(flags)} sentences")


def main() -> int:
    """Train the adapter, save it and print its accuracies."""
    parser = common.argument_parser(__doc__, "--device")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    training, held_out = load_sentences(arguments.file)
    print(f"{len(training):,} sentences to train on, {len(held_out):,} held out", flush=True)
    common.seed_everything(0)
    model = BertForSequenceClassification.from_pretrained(bundled.encoder())  # with a new head
    make_reader.add_low_rank(model.bert, RANK)
    model.bert.pooler.requires_grad_(True)
    model.to(common.select_device(arguments.device))
    tokenizer = common.load(AutoTokenizer, bundled.encoder())
    train(model, tokenizer, training)
    make_reader.save_adapter(model, "sentiment")
    print_accuracies(model, tokenizer, held_out)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
