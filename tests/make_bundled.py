"""Train the small models that are bundled with the project, in DATA/bundled.

    python tests/make_bundled.py translator --data FOLDER    Spanish to English and to Bulgarian
    python tests/make_bundled.py reader --data FOLDER        answers to questions about a text

The folder of the translator has es-en.tsv, es-bg.tsv and en-bg.tsv. Each line is a sentence, its
translation and the source of the pair, separated by tabs. The folder of the reader has SQuAD's
questions in train.jsonl. Nothing is trained on the held-out sentences and articles that are scored.
The training of the translator is saved in results/make_bundled/, and continues from there. With
`--start FOLDER`, it starts from the weights and the pieces of a small Spanish-English Marian.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    PreTrainedTokenizerBase,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import common
import dante_gpt
import lab_common
import pretrained
import task06
import task07
import task12
import task13

STATE = common.RESULTS / "make_bundled"
BUNDLED = common.DATA / "bundled"
SAVE_EVERY = 600  # seconds

# The translator

EVERYDAY = {"tatoeba", "tatoeba-test2021", "tatoeba-laser", "tatoeba-pivot", "join", "join2"}
WEIGHTS = {  # mean number of times that a pair of a source is read per epoch; the others: once
    ("es-bg", "join"): 4.0,
    ("es-bg", "tatoeba-pivot"): 4.0,
    ("es-bg", "refugee-phrasebook"): 3.0,
    ("en-bg", "tatoeba"): 2.0,
    ("en-bg", "tatoeba-test2021"): 2.0,
    ("en-bg", "tatoeba-laser"): 2.0,
    ("es-en", "tatoeba"): 0.2,
    ("es-en", "mozilla-www"): 0.2,
} | {  # course texts that a language model translated: jargon and headings
    (file, f"ms-{name}"): weight
    for file, weight in (("es-bg", 0.4), ("en-bg", 0.2), ("es-en", 0.1))
    for name in ("edgeai", "ai-agents", "security-101")
}
TARGETS = {"en": ">>eng<<", "bg": ">>bul<<"}  # the first token of the source names the target
HELD_OUT = 20  # one of so many everyday Spanish sentences is held out for the test, one to watch
LATIN_PIECES, CYRILLIC_PIECES = 6000, 3000  # of Spanish and of English each, of Bulgarian
LONGEST = 64  # pieces of a sentence
BATCH_TOKENS = 3000  # of the targets and of the sources of a batch, with padding
STEPS, WARM_UP = 2600, 100  # the rate rises, and then falls to 0 linearly
MUON_RATE, ADAM_RATE = 0.01, 0.002
SMOOTHING = 0.1  # of the labels
NO_PERIOD = 0.1  # probability that a pair is read without its final periods
BEAMS, MAX_LENGTH = 4, 100  # of the translations


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str
    source_language: str
    language: str  # of the target
    weight: float  # mean number of times that it is read per epoch
    is_everyday: bool


def normalise(text: str) -> str:
    """Return the words of a text in lower case, to compare sentences."""
    return " ".join(re.findall(r"\w+", text.lower()))


def read_pairs(folder: Path) -> dict[str, list[Pair]]:
    """Return the pairs of each file, without duplicates."""
    pairs = {}
    for name in ("es-en", "es-bg", "en-bg"):
        lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        source, target = name.split("-")
        pairs[name] = [
            Pair(left, right, source, target, WEIGHTS.get((name, origin), 1.0), origin in EVERYDAY)
            for left, right, origin in dict.fromkeys(tuple(line.split("\t")) for line in lines)
        ]
    return pairs


def split_pairs(pairs: dict[str, list[Pair]]) -> tuple[list[Pair], dict[str, list[Pair]]]:
    """Return the training pairs, and the held-out pairs of "es-bg" and "es-en".

    Everyday Spanish sentences are held out by a hash of their words, so all pairs of a sentence
    are. A training pair shares no sentence with a held-out pair, nor with the statements' tasks.
    """
    held_out: dict[str, list[Pair]] = {}
    for name in ("es-bg", "es-en"):
        chosen: dict[str, Pair] = {}
        for pair in pairs[name]:
            words = normalise(pair.source)
            if pair.is_everyday and zlib.crc32(words.encode()) % HELD_OUT < 2:
                chosen.setdefault(words, pair)  # one pair for each sentence
        for part in (0, 1):
            rows = [p for w, p in chosen.items() if zlib.crc32(w.encode()) % HELD_OUT == part]
            held_out[f"{name} {('test', 'watched')[part]}"] = rows[:500]
    references = [sentence for group in task12.REFERENCES_2 for sentence in group]
    excluded = {
        normalise(text) for text in (task06.SPANISH_TEXT, *task12.INPUT_SENTENCES_2, *references)
    }
    for rows in held_out.values():
        excluded |= {normalise(text) for pair in rows for text in pair[:2]}
    training = [
        pair
        for rows in pairs.values()
        for pair in rows
        if not excluded & {normalise(pair.source), normalise(pair.target)}
    ]
    return training, held_out


def train_pieces(texts: Iterable[str], count: int) -> ModelProto:
    """Return a SentencePiece model with `count` pieces."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=file,
        vocab_size=count,
        character_coverage=0.9999,
        minloglevel=2,
    )
    return ModelProto.FromString(file.getvalue())


def make_tokenizer(training: list[Pair], start: Path | None, folder: Path) -> MarianTokenizer:
    """Make the pieces of the three languages and return the tokenizer.

    The target's pieces are those of English and of Bulgarian. Their alphabets differ, so neither
    changes how the other language is cut. The pieces of `start` are kept.
    """
    if start:
        spanish, targets = (
            ModelProto.FromString((start / f"{side}.spm").read_bytes())
            for side in ("source", "target")
        )
    else:
        spanish = train_pieces((p.source for p in training if p.language == "en"), LATIN_PIECES)
        targets = train_pieces((p.target for p in training if p.language == "en"), LATIN_PIECES)
    bulgarian = train_pieces((p.target for p in training if p.language == "bg"), CYRILLIC_PIECES)
    known = {piece.piece for piece in targets.pieces}
    targets.pieces.extend(piece for piece in bulgarian.pieces if piece.piece not in known)
    folder.mkdir(parents=True, exist_ok=True)
    for side, pieces in (("source", spanish), ("target", targets)):
        (folder / f"{side}.spm").write_bytes(pieces.SerializeToString())
    special = {"<unk>", "<s>", "</s>"}
    found = dict.fromkeys(p.piece for each in (targets, spanish) for p in each.pieces)
    names = ["</s>", "<unk>", *(n for n in found if n not in special), *TARGETS.values(), "<pad>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    return MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang="es",
        target_lang="bg",
        model_max_length=128,
    )


def make_translator(tokenizer: MarianTokenizer, start: Path | None) -> MarianMTModel:
    """Return a Marian model with the weights of `start`, or with random ones.

    The embeddings of new pieces are random. Raises `RuntimeError` if the shapes of `start` differ.
    """
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=256,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        max_position_embeddings=128,
        dropout=0.1,
        activation_function="swish",
        scale_embedding=True,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = MarianMTModel(config)
    if start:
        weights = pretrained.load(MarianMTModel, start).float().state_dict()
        old = json.loads((start / "vocab.json").read_text(encoding="utf-8"))
        new = tokenizer.get_vocab()
        kept = [name for name in new if name in old]
        table = torch.randn(len(new), config.d_model) * weights["model.shared.weight"].std()
        table[[new[name] for name in kept]] = weights["model.shared.weight"][[old[n] for n in kept]]
        own = model.state_dict()
        same = {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}
        model.load_state_dict(own | same)
        model.model.shared.weight.data.copy_(table)
    return model


class Tokens(NamedTuple):
    """A pair as numbers of pieces, each with the end-of-sentence token."""

    source: list[int]
    target: list[int]
    weight: float


def encode_pairs(tokenizer: MarianTokenizer, pairs: list[Pair]) -> list[tuple[Tokens, Tokens]]:
    """Return the pieces of each pair, with and without its final periods."""
    encoded = []
    for strip in (False, True):
        texts = [[text.removesuffix(".") if strip else text for text in pair[:2]] for pair in pairs]
        sources = [f"{TARGETS[p.language]} {s}" for p, (s, _) in zip(pairs, texts, strict=True)]
        spanish, english = tokenizer(sources), tokenizer(text_target=sources)
        inputs = [
            (spanish if pair.source_language == "es" else english)["input_ids"][number]
            for number, pair in enumerate(pairs)
        ]
        targets = tokenizer(text_target=[target for _, target in texts])["input_ids"]
        weights = [pair.weight for pair in pairs]
        encoded.append([Tokens(*row) for row in zip(inputs, targets, weights, strict=True)])
    whole = zip(*encoded, strict=True)
    return [both for both in whole if max(map(len, both[0][:2])) <= LONGEST]


def make_batches(pairs: list[tuple[Tokens, Tokens]], epoch: int) -> list[list[Tokens]]:
    """Return the batches of an epoch in random order, each of pairs of similar length."""
    random = np.random.default_rng([0, epoch])
    weights = np.array([each[0].weight for each in pairs])
    counts = np.floor(weights + random.random(len(pairs))).astype(int)
    is_stripped = random.random(len(pairs)) < NO_PERIOD
    rows = [
        both[int(s)]
        for both, n, s in zip(pairs, counts, is_stripped, strict=True)
        for _ in range(n)
    ]
    order = random.permutation(len(rows))
    rows = sorted((rows[i] for i in order), key=lambda row: (len(row.target), len(row.source)))
    batches: list[list[Tokens]] = [[]]
    longest = 0
    for row in rows:
        longest = max(longest, len(row.source), len(row.target))
        if longest * (len(batches[-1]) + 1) > BATCH_TOKENS:
            batches.append([])
            longest = max(len(row.source), len(row.target))
        batches[-1].append(row)
    return [batches[i] for i in random.permutation(len(batches))]


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Return rows of numbers as (rows, longest), filled up with `value`."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


class TranslatorTraining:
    """The translator and its optimisers."""

    def __init__(self, model: MarianMTModel, steps: int) -> None:
        self.model, self.steps, self.step = model, steps, 0
        inner = [w for n, w in model.named_parameters() if w.ndim == 2 and "embed" not in n]
        others = [w for n, w in model.named_parameters() if w.ndim < 2 or "embed" in n]
        self.muon = dante_gpt.Muon(inner, MUON_RATE, 0.95, 0.01)
        self.adam = torch.optim.AdamW(
            [w for w in others if w.requires_grad],
            ADAM_RATE,
            (0.9, 0.98),
            weight_decay=0,
            fused=True,
        )

    def train_batch(self, batch: list[Tokens]) -> float:
        """Train on one batch; return its loss per token."""
        model = self.model.train()
        device, blank = model.device, model.config.pad_token_id
        torch.manual_seed(self.step)  # of the dropout, so that a run can continue
        inputs = lab_common.pad_batch([row.source for row in batch], device)
        labels = pad([row.target for row in batch], blank).to(device)  # (batch, target)
        starts = F.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
        with torch.autocast(device.type, torch.bfloat16):  # faster where the processor has it
            logits = model(**inputs, decoder_input_ids=starts).logits  # (batch, target, vocabulary)
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=blank,
            label_smoothing=SMOOTHING,
        )
        scale = min((self.step + 1) / WARM_UP, 1 - self.step / self.steps)
        for optimizer, rate in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = scale * rate
            optimizer.zero_grad()
        loss.backward()
        self.muon.step()
        self.adam.step()
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Save the state of the training."""
        content = {"step": self.step}
        content |= {name: getattr(self, name).state_dict() for name in ("model", "muon", "adam")}
        common.save_tensors(path, content)

    def load(self, path: Path) -> None:
        """Continue from a saved state."""
        content = common.load_tensors(path, self.model.device)
        self.step = content["step"]
        for name in ("model", "muon", "adam"):
            getattr(self, name).load_state_dict(content[name])


@torch.inference_mode()
def translate(
    model: MarianMTModel, tokenizer: MarianTokenizer, pairs: list[Pair], beams: int
) -> list[str]:
    """Return the translations of the sources of some pairs."""
    model.eval()
    translations = []
    for start in range(0, len(pairs), 50):
        rows = [f"{TARGETS[p.language]} {p.source}" for p in pairs[start : start + 50]]
        inputs = tokenizer(rows, return_tensors="pt", padding=True).to(model.device)
        tokens = model.generate(**inputs, num_beams=beams, do_sample=False, max_length=MAX_LENGTH)
        translations += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return translations


def score_translator(
    model: MarianMTModel, tokenizer: MarianTokenizer, pairs: list[Pair], beams: int
) -> float:
    """Return the chrF of the translations of some pairs."""
    references = [pair.target for pair in pairs]
    return task12.chrf(translate(model, tokenizer, pairs, beams), references)["score"]


def endless(pairs: list[tuple[Tokens, Tokens]], step: int) -> Iterator[list[Tokens]]:
    """Yield the batches of one epoch after another, from a step on."""
    epoch = 0
    while True:
        batches = make_batches(pairs, epoch)
        yield from batches[step:]
        step, epoch = max(0, step - len(batches)), epoch + 1


def make_bundled_translator(
    folder: Path, start: Path | None, steps: int, device: torch.device
) -> None:
    """Train the translator, save it in float16, and print its scores."""
    training_pairs, held_out = split_pairs(read_pairs(folder))
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in held_out.items())
    print(f"{len(training_pairs):,} training pairs; held out: {counts}", flush=True)
    work = STATE / "translator"
    if (work / "vocab.json").exists():
        tokenizer = pretrained.load(AutoTokenizer, work)
    else:
        tokenizer = make_tokenizer(training_pairs, start, work)
        tokenizer.save_pretrained(work)
    common.seed_everything(0)
    training = TranslatorTraining(make_translator(tokenizer, start).to(device), steps)
    if (work / "state.pt").exists():
        training.load(work / "state.pt")
    pairs = encode_pairs(tokenizer, training_pairs)
    saved = time.monotonic()
    losses: list[float] = []
    bar = tqdm(total=steps, initial=training.step)
    for batch in endless(pairs, training.step):
        if training.step >= steps:
            break
        losses.append(training.train_batch(batch))
        bar.update()
        if time.monotonic() - saved > SAVE_EVERY or training.step == steps:
            training.save(work / "state.pt")
            scores = {
                name: score_translator(training.model, tokenizer, rows[:200], 1)
                for name, rows in held_out.items()
                if "watched" in name
            }
            row = ", ".join(f"{name} {score:.1f}" for name, score in scores.items())
            print(f"step {training.step}: loss {np.mean(losses):.3f}; chrF {row}", flush=True)
            losses.clear()
            saved = time.monotonic()
    training.model.generation_config.num_beams = BEAMS
    with common.complete_folder(BUNDLED / "translator") as output:
        training.model.half().save_pretrained(output)
        tokenizer.save_pretrained(output)
    model = training.model.float()
    for name, rows in held_out.items():
        if "test" in name:
            score = score_translator(model, tokenizer, rows, BEAMS)
            print(f"{name}: chrF {score:.1f} on {len(rows)} sentences")


# The reader

EVERY_TENTH = slice(None, None, 10)  # of the articles in alphabetical order is held out
RANK = 24  # of the matrices that are added to the encoder's
WINDOW = 320  # tokens of a question with its context; longer contexts are cut
EPOCHS, QUESTIONS = 2, 16  # passes over the questions, questions in a batch
READER_RATE = 1e-3


class LowRank(nn.Module):
    """Add the product of two narrow matrices to a weight. Only these are trained."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(height, RANK))  # at first nothing is added

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the changed weight, (height, width)."""
        return weight + self.up @ self.down


class Question(NamedTuple):
    """A question with its tokens and the positions of the first and of the last answer token."""

    tokens: list[int]
    types: list[int]
    first: int
    last: int


def read_questions(folder: Path) -> tuple[list[dict], list[dict]]:
    """Return the questions to train on, and those of held-out articles."""
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
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


def make_reader() -> tuple[BertForQuestionAnswering, PreTrainedTokenizerBase]:
    """Return the bundled encoder with a new head and trainable low-rank matrices."""
    folder = pretrained.ENCODER.folder()
    model = BertForQuestionAnswering.from_pretrained(folder).requires_grad_(False)
    model.qa_outputs.requires_grad_(True)
    for layer in model.bert.encoder.layer.modules():
        if isinstance(layer, nn.Linear):
            parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))
    return model, pretrained.load(AutoTokenizer, folder)


def train_reader(model: BertForQuestionAnswering, questions: list[Question]) -> None:
    """Train the low-rank matrices and the head."""
    batches_per_epoch = len(questions) // QUESTIONS
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, READER_RATE, fused=True)
    schedule = common.one_cycle(optimizer, EPOCHS * batches_per_epoch)
    losses = []
    for epoch in range(EPOCHS):
        random = np.random.default_rng([1, epoch])
        rows = [questions[i] for i in random.permutation(len(questions))]
        rows.sort(key=lambda row: len(row.tokens) + random.integers(20))
        model.train()
        for number in tqdm(random.permutation(batches_per_epoch)):
            batch = rows[number * QUESTIONS : (number + 1) * QUESTIONS]
            with torch.autocast(model.device.type, torch.bfloat16):
                loss = model(
                    **lab_common.pad_batch([row.tokens for row in batch], model.device),
                    token_type_ids=pad([row.types for row in batch], 0).to(model.device),
                    start_positions=torch.tensor([row.first for row in batch], device=model.device),
                    end_positions=torch.tensor([row.last for row in batch], device=model.device),
                ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses[-batches_per_epoch:]):.3f}", flush=True)


def make_bundled_reader(folder: Path, device: torch.device) -> None:
    """Train the reader, save what was added to the encoder, and print its scores."""
    training, held_out = read_questions(folder)
    common.seed_everything(0)
    model, tokenizer = make_reader()
    questions = encode_questions(tokenizer, training)
    print(f"{len(questions):,} questions to train on, {len(held_out):,} held out", flush=True)
    train_reader(model.to(device), questions)
    tensors = {
        "qa_outputs.weight": model.qa_outputs.weight,
        "qa_outputs.bias": model.qa_outputs.bias,
    }
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer):
            low_rank = layer.parametrizations.weight[0]
            tensors |= {f"{name}.down": low_rank.down, f"{name}.up": low_rank.up}
    halves = {name: tensor.detach().half().contiguous().cpu() for name, tensor in tensors.items()}
    with common.complete_file(BUNDLED / "reader" / "adapter.safetensors") as path:
        save_file(halves, path)
    score_reader(model.cpu(), tokenizer, held_out)


def score_reader(model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> None:
    """Print exact match and F1 on the questions, with the best of several answers."""
    answers = [
        task07.extract(model.eval(), tokenizer, row["question"], row["context"]).text
        for row in tqdm(rows)
    ]
    references = [row["answers"] for row in rows]
    exact = task13.exact_match(answers, references)["exact_match"]
    print(f"exact match {100 * exact:.1f}, F1 {100 * task13.f1(answers, references)['f1']:.1f}")


def main() -> None:
    """Parse the command line and make one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=("translator", "reader"))
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--start", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = common.select_device(arguments.device)
    if arguments.model == "translator":
        make_bundled_translator(arguments.data, arguments.start, arguments.steps, device)
    else:
        make_bundled_reader(arguments.data, device)


if __name__ == "__main__":
    main()
