"""Tiny random checkpoints with the files, names and settings of the real ones.

    python tests/checkpoints.py DIR        writes all of them there

The weights are drawn from a seed, parameter by parameter in the order of their names, so they are
equal in every version of transformers. `tests/record_pipelines.py` uses them in version 4.47.1.
"""

import io
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).parent.parent
VERSES = (ROOT / "DATA" / "verses.txt").read_text(encoding="utf-8").splitlines()
TEXTS = (ROOT / "tests" / "expected" / "texts.txt").read_text(encoding="utf-8").splitlines()
PROMPT = "Current trends show that by 2030"  # of task 11; frequent, so that few tokens spell it
# The training text of the tokenizers; the recorded outputs depend on it.
TEXT = [*VERSES, *(line for text in TEXTS for line in [text] * (20 if text == PROMPT else 1))]
CHAT_TEMPLATE = (  # with the thinking mode of Qwen3
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)
SUMMARIES = {  # the settings of T5 checkpoints for summaries
    "early_stopping": True,
    "length_penalty": 2.0,
    "max_length": 200,
    "min_length": 30,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "prefix": "summarize: ",
}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def save(model: transformers.PreTrainedModel, folder: Path, seed: int) -> None:
    """Fill a model with large random weights, so that no output depends on rounding; save it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                values = torch.randn(weight.shape, generator=generator)
                weight.copy_(values * weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)


def sentence_pieces(path: Path, **options: Any) -> list[str]:
    """Train a SentencePiece model, save it and return its pieces."""
    written = io.BytesIO()
    options |= {"vocab_size": 200, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=written, **options
    )
    path.write_bytes(written.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [trained.id_to_piece(number) for number in range(len(trained))]


def make_t5(folder: Path, seed: int = 1) -> None:
    """Make an encoder-decoder with T5's settings for summaries in its configuration."""
    pieces = sentence_pieces(
        folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, model_type="unigram"
    )
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0},
    )
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, task_specific_params={"summarization": SUMMARIES},
    )  # fmt: skip
    save(transformers.T5ForConditionalGeneration(config), folder, seed)
    (folder / "generation_config.json").unlink()  # T5's original checkpoints have none


def make_marian(folder: Path, seed: int = 2) -> None:
    """Make a translation model."""
    pieces = sentence_pieces(folder / "source.spm", bos_id=-1, pad_id=-1)
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    vocabulary = ["</s>", "<unk>", *(p for p in pieces if p not in ("</s>", "<unk>")), "<pad>"]
    write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(vocabulary)})
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "MarianTokenizer", "source_lang": "spa", "target_lang": "bul"},
    )
    pad = len(vocabulary) - 1
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_position_embeddings=128, scale_embedding=True,
        pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    save(transformers.MarianMTModel(config), folder, seed)
    own = {"num_beams": 4, "max_length": 100, "bad_words_ids": [[pad]], "forced_eos_token_id": 0}
    own |= {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad}
    write_json(folder / "generation_config.json", own)


def make_distilbert(folder: Path, seed: int = 3, is_classifier: bool = False) -> None:
    """Make an extractive reader or a classifier, with a vocabulary of words and letters."""
    words = sorted(set(" ".join(TEXT).replace(",", " ").replace(".", " ").split()))
    letters = sorted(set("".join(TEXT)) - {" "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [*(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False, "model_max_length": 512},
    )
    config = transformers.DistilBertConfig(
        vocab_size=len(vocabulary), dim=32, hidden_dim=64, n_heads=4, n_layers=2
    )
    kind = "SequenceClassification" if is_classifier else "QuestionAnswering"
    save(getattr(transformers, f"DistilBertFor{kind}")(config), folder, seed)


def byte_pairs(special: list[str]) -> tokenizers.Tokenizer:
    """Train a byte-pair tokenizer like that of GPT-2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def make_gpt2(folder: Path, seed: int = 4) -> None:
    """Make a decoder with GPT-2's vocab.json and merges.txt, and a context of 64 tokens."""
    tokenizer = byte_pairs(["<|endoftext|>"])
    tokenizer.model.save(str(folder))
    end = {f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "unk")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **end})
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_embd=32, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    save(transformers.GPT2LMHeadModel(config), folder, seed)


def make_chat(folder: Path, seed: int = 5) -> None:
    """Make a Llama with a chat template, whose own settings ask for sampling."""
    tokenizer = byte_pairs(["<|end|>", "<|start|>", "<think>", "</think>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    write_json(folder / "tokenizer_config.json", {**names, "chat_template": CHAT_TEMPLATE})
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    save(transformers.LlamaForCausalLM(config), folder, seed)
    write_json(
        folder / "generation_config.json",
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "eos_token_id": 0},
    )


CHECKPOINTS: dict[str, Callable[[Path], None]] = {  # by the default models of the scripts
    "cnicu/t5-small-booksum": make_t5,
    "Qwen/Qwen3-0.6B": make_chat,
    "Helsinki-NLP/opus-mt-es-bg": make_marian,
    "distilbert/distilbert-base-cased-distilled-squad": make_distilbert,
    "distilbert/distilbert-base-uncased": make_distilbert,
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": partial(
        make_distilbert, seed=8, is_classifier=True
    ),
    "google/flan-t5-base": partial(make_t5, seed=7),
    "openai-community/gpt2": make_gpt2,
    "Helsinki-NLP/opus-mt-es-en": partial(make_marian, seed=6),
}


def make_all(folder: Path) -> None:
    """Make a checkpoint for each default model of the scripts, in a folder of its name."""
    for name, make in CHECKPOINTS.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
