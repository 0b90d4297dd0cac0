"""Provenance of the bundled translator: its three data files are not published with the project.

    python tests/make_translator.py FOLDER
    python tests/make_translator.py FOLDER --start TRANSLATOR    train a translator further
    python tests/make_translator.py FOLDER --start TRANSLATOR --back-translate

FOLDER contains es-en.tsv, es-bg.tsv and en-bg.tsv. Each line is a sentence, its translation and the
source of the pair, separated by tabs. The program trains a Marian model from Spanish to English and
to Bulgarian, saves it in DATA/bundled/translator and prints its scores on held-out sentences. The
training is saved in results/make_translator/ until it ends, and continues from there. Takes hours.

Few pairs of everyday sentences are Spanish and Bulgarian. With --back-translate the program trains
a copy of the translator from English to Spanish. It translates the English sentences of en-bg.tsv,
and writes them with their Bulgarian translations, which are by people, to
results/back-translated.tsv. The next training reads these pairs too (Sennrich et al. 2016).
"""

import io
import json
import math
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sacrebleu
import sentencepiece
import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoTokenizer, MarianConfig, MarianMTModel, MarianTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import bundled
import common
import dante_gpt
import lab_common
import task06
import task12

STATE = common.RESULTS / "make_translator"
BACK_TRANSLATED = common.RESULTS / "back-translated.tsv"
SAVE_EVERY = 600  # seconds
EVERYDAY = {"tatoeba", "tatoeba-test2021", "tatoeba-laser", "tatoeba-pivot", "join", "join2"}
WEIGHTS = {  # mean number of times that a pair of a source is read per epoch; the others: once
    ("es-bg", "join"): 2.0,
    ("es-bg", "tatoeba-pivot"): 2.0,
    ("es-bg", "refugee-phrasebook"): 3.0,
    ("es-bg", "join2"): 2.0,
    ("es-en", "tatoeba"): 0.4,
    ("es-en", "tatoeba-test2021"): 0.4,
} | {  # pages of the web, and course texts that a language model translated: jargon and headings
    (file, name): share * weight
    for file, share in (("es-bg", 1.0), ("en-bg", 0.5), ("es-en", 0.25))
    for name, weight in (
        ("mozilla-www", 0.3),
        ("opensource-guide", 0.3),
        ("ms-edgeai", 0.2),
        ("ms-ai-agents", 0.2),
        ("ms-security-101", 0.2),
    )
}
# The first token of the source names the target. Spanish is the target of back-translation alone.
TARGETS = {"en": ">>eng<<", "bg": ">>bul<<", "es": ">>bul<<"}
HELD_OUT = 20  # one of so many everyday Spanish sentences is held out for the test, one to watch
LATIN_PIECES, CYRILLIC_PIECES = 6000, 3000  # of Spanish and of English each, of Bulgarian
LONGEST = 64  # pieces of a sentence
BATCH_TOKENS = 3000  # of the targets and of the sources of a batch, with padding
STEPS, WARM_UP = 2600, 100  # the rate rises, and then falls to 0 linearly
MUON_RATE, ADAM_RATE = 0.01, 0.002
SMOOTHING = 0.1  # of the labels
NO_PERIOD = 0.1  # probability that a pair is read without its final periods
SAMPLED = (0.5, 0.3)  # probability that source and target are cut at random, if it is Bulgarian
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


def load_pairs(folder: Path) -> dict[str, list[Pair]]:
    """Return the pairs of each file, without duplicates."""
    pairs = {}
    for name in ("es-en", "es-bg", "en-bg"):
        lines = common.read_text(folder / f"{name}.tsv").splitlines()
        if name == "es-bg" and BACK_TRANSLATED.exists():
            lines += common.read_text(BACK_TRANSLATED).splitlines()
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


def make_tokenizer(training: list[Pair], folder: Path) -> MarianTokenizer:
    """Make the pieces of the three languages and return the tokenizer.

    The target's pieces are those of English and of Bulgarian. Their alphabets differ, so neither
    changes how the other language is cut.
    """
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
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    return MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang="es",
        target_lang="bg",
        model_max_length=128,
    )


def make_model(tokenizer: MarianTokenizer) -> MarianMTModel:
    """Return a Marian model with random weights."""
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
        dropout=0.15,
        activation_function="swish",
        scale_embedding=True,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return MarianMTModel(config)


class Tokens(NamedTuple):
    """A pair as numbers of pieces, each with the end-of-sentence token."""

    source: list[int]
    target: list[int]


def encode(
    tokenizer: MarianTokenizer, text: str, language: str, is_sampled: bool = False
) -> list[int]:
    """Return the numbers of the pieces of a text, and that of the end of a sentence.

    A text that is too long for the model is cut off. With `is_sampled` it is split at random, so
    that the model sees other pieces of the same words in each epoch (Kudo 2018).
    """
    processor = tokenizer.spm_source if language == "es" else tokenizer.spm_target
    sampling = {"enable_sampling": True, "alpha": 0.2, "nbest_size": -1} if is_sampled else {}
    longest = tokenizer.model_max_length - 2  # beside the target's name and the end
    pieces = processor.encode(text, out_type=str, **sampling)[:longest]
    return [*tokenizer.convert_tokens_to_ids(pieces), tokenizer.eos_token_id]


def encode_source(tokenizer: MarianTokenizer, pair: Pair, is_sampled: bool = False) -> list[int]:
    """Return the number of the token that names the target, and those of the source's pieces."""
    first = tokenizer.convert_tokens_to_ids(TARGETS[pair.language])
    return [first, *encode(tokenizer, pair.source, pair.source_language, is_sampled)]


def encode_pair(tokenizer: MarianTokenizer, pair: Pair, random: np.random.Generator) -> Tokens:
    """Return the pieces of a pair, sometimes without its final periods or cut at random."""
    source, target = pair.source, pair.target
    if random.random() < NO_PERIOD:
        source, target = source.removesuffix("."), target.removesuffix(".")
    are_sampled = random.random(2) < SAMPLED if pair.language == "bg" else (False, False)
    return Tokens(
        encode_source(tokenizer, pair._replace(source=source), are_sampled[0]),
        encode(tokenizer, target, pair.language, are_sampled[1]),
    )


def make_batches(tokenizer: MarianTokenizer, pairs: list[Pair], epoch: int) -> list[list[Tokens]]:
    """Return the batches of an epoch in random order, each of pairs of similar length."""
    random = np.random.default_rng([0, epoch])
    counts = [math.floor(pair.weight + random.random()) for pair in pairs]
    rows = [
        encode_pair(tokenizer, pair, random)
        for pair, count in zip(pairs, counts, strict=True)
        for _ in range(count)
    ]
    rows = [row for row in rows if max(map(len, row)) <= LONGEST]
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


class Training:
    """The translator and its optimisers."""

    def __init__(self, model: MarianMTModel, steps: int) -> None:
        self.model, self.steps, self.step = model, steps, 0
        inner = [w for n, w in model.named_parameters() if w.ndim == 2 and ".layers." in n]
        others = [w for n, w in model.named_parameters() if w.ndim < 2 or ".layers." not in n]
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
        targets = [torch.tensor(row.target, device=device) for row in batch]
        labels = pad_sequence(targets, batch_first=True, padding_value=blank)  # (batch, target)
        starts = F.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
        with torch.autocast(device.type, torch.bfloat16):  # faster where the processor has it
            states = model.model(**inputs, decoder_input_ids=starts).last_hidden_state
            logits = model.lm_head(states[labels != blank])  # (tokens, vocabulary)
        expected = labels[labels != blank]  # (tokens,)
        loss = F.cross_entropy(logits.float(), expected, label_smoothing=SMOOTHING)
        scale = min((self.step + 1) / WARM_UP, 1 - self.step / self.steps)
        for optimizer, rate in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = scale * rate
            optimizer.zero_grad()
        loss.backward()
        with torch.autocast(device.type, torch.bfloat16):
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
        rows = pairs[start : start + 50]
        inputs = lab_common.pad_batch([encode_source(tokenizer, p) for p in rows], model.device)
        tokens = model.generate(**inputs, num_beams=beams, do_sample=False, max_length=MAX_LENGTH)
        for row in tokens:
            pieces = tokenizer.convert_ids_to_tokens(row, skip_special_tokens=True)
            translations.append("".join(pieces).replace("▁", " ").strip())  # of any language
    return translations


def back_translate(training: Training, tokenizer: MarianTokenizer, pairs: list[Pair]) -> None:
    """Train a translator from English to Spanish, and write Spanish and Bulgarian pairs."""
    everyday = [pair for pair in pairs if pair.is_everyday]
    reverse = [
        Pair(p.target, p.source, "en", "es", 1.0, True) for p in everyday if p.language == "en"
    ]
    for loss in train(training, tokenizer, reverse):
        print(f"step {training.step}: loss {loss:.3f}", flush=True)
    rows = [pair for pair in everyday if (pair.source_language, pair.language) == ("en", "bg")]
    english = [pair._replace(language="es") for pair in rows]
    spanish = translate(training.model, tokenizer, english, beams=1)
    lines = [
        f"{s}\t{pair.target}\tback-translated\n" for s, pair in zip(spanish, rows, strict=True)
    ]
    BACK_TRANSLATED.write_text("".join(lines), encoding="utf-8")


def chrf(model: MarianMTModel, tokenizer: MarianTokenizer, pairs: list[Pair], beams: int) -> float:
    """Return the chrF of the translations of some pairs: the F-score of their character n-grams."""
    references = [pair.target for pair in pairs]
    return sacrebleu.corpus_chrf(translate(model, tokenizer, pairs, beams), [references]).score


def endless(tokenizer: MarianTokenizer, pairs: list[Pair], step: int) -> Iterator[list[Tokens]]:
    """Yield the batches of one epoch after another, from a step on."""
    epoch = 0
    while True:
        batches = make_batches(tokenizer, pairs, epoch)
        yield from batches[step:]
        step, epoch = max(0, step - len(batches)), epoch + 1


def train(training: Training, tokenizer: MarianTokenizer, pairs: list[Pair]) -> Iterator[float]:
    """Train to the last step; yield the mean loss whenever the state was saved."""
    saved, losses = time.monotonic(), []
    bar = tqdm(total=training.steps, initial=training.step)
    for batch in endless(tokenizer, pairs, training.step):
        if training.step >= training.steps:
            return
        losses.append(training.train_batch(batch))
        bar.update()
        if time.monotonic() - saved > SAVE_EVERY or training.step == training.steps:
            training.save(STATE / "state.pt")
            yield float(np.mean(losses))
            saved, losses = time.monotonic(), []


def main() -> int:
    """Train the translator, save it in float16, and print its scores."""
    parser = common.argument_parser(__doc__, "--device")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--start", type=Path, help="folder of a translator to train further")
    parser.add_argument("--back-translate", action="store_true", help="write more training pairs")
    arguments = parser.parse_args()
    start = arguments.start
    pairs, held_out = split_pairs(load_pairs(arguments.folder))
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in held_out.items())
    print(f"{len(pairs):,} training pairs; held out: {counts}", flush=True)
    if start or (STATE / "vocab.json").exists():
        tokenizer = common.load(AutoTokenizer, start or STATE)
    else:
        tokenizer = make_tokenizer(pairs, STATE)
        tokenizer.save_pretrained(STATE)
    common.seed_everything(0)
    model = common.load(MarianMTModel, start) if start else make_model(tokenizer)
    training = Training(model.to(common.select_device(arguments.device)), arguments.steps)
    if (STATE / "state.pt").exists():
        training.load(STATE / "state.pt")
    if arguments.back_translate:
        back_translate(training, tokenizer, pairs)
        shutil.rmtree(STATE)  # the next training starts from its own weights
        return 0
    for loss in train(training, tokenizer, pairs):
        for name in ("es-bg watched", "es-en watched"):
            score = chrf(model, tokenizer, held_out[name][:200], beams=1)
            print(f"step {training.step}: loss {loss:.3f}; {name}: chrF {score:.1f}", flush=True)
    model.generation_config.num_beams = BEAMS
    model.generation_config.max_length = model.config.max_position_embeddings
    with common.complete_path(bundled.TRAINED / "translator") as output:
        model.half().save_pretrained(output)
        tokenizer.save_pretrained(output)
    shutil.rmtree(STATE)  # the next training starts from its own weights
    for name in ("es-bg test", "es-en test"):
        score = chrf(model.float(), tokenizer, held_out[name], BEAMS)
        print(f"{name}: chrF {score:.1f} on {len(held_out[name])} sentences")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
