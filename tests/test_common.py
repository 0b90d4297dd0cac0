"""common.py: the schedule, models of the Hub, running a script, files and downloads."""

import argparse
import contextlib
import errno
import io
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertModel,
    RobertaConfig,
    RobertaModel,
)

import common
from conftest import COMMIT, Server, load_pair, only_line, put_in_cache

T5, GPT2 = "cnicu/t5-small-booksum", "openai-community/gpt2"
DISTILBERT = "distilbert/distilbert-base-uncased"
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}  # of an encoder


def test_one_cycle_rises_for_a_tenth_of_the_steps_and_ends_at_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    (scale,) = common.one_cycle(optimizer, 100).lr_lambdas
    scales = [scale(step) for step in range(101)]
    assert scales[:9] == pytest.approx([0.1 * step for step in range(1, 10)])  # linear
    assert scales[9:] == sorted(scales[9:], reverse=True)
    assert scales[50] == pytest.approx(0.5)  # half of the cosine
    assert scales[100] == pytest.approx(0.0, abs=1e-12)


# --- Finding a model --------------------------------------------------------------------------

NAME = "someone/some-model"


def stand_in() -> Path:
    return Path("bundled model")


def find(name: str | None = None, **options: bool) -> Path:
    return common.find_model(name, NAME, stand_in, **options)


@pytest.fixture
def hub(server: Server, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Let the local server replace the Hub, with one model: a GPT-2."""
    template = server.url + "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url.strip("/"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    publish(server, {path.name: path.read_bytes() for path in (checkpoints / GPT2).iterdir()})
    return server


def publish(hub: Server, files: dict[str, bytes]) -> None:
    """Put files of the model on the Hub, and what its interface says about them."""
    about = {"id": NAME, "sha": COMMIT}
    tree = [{"type": "file", "path": n, "size": len(f), "oid": n} for n, f in files.items()]
    descriptions = {"some-model": about, "main": about, COMMIT: tree}
    hub.files = files | {name: json.dumps(each).encode() for name, each in descriptions.items()}


def test_bundled_and_a_folder_need_no_hub(hub: Server) -> None:
    Path(NAME).mkdir(parents=True)  # in the working directory
    assert find("bundled") == common.find_model(None, "bundled", stand_in) == stand_in()
    assert find(NAME) == Path(NAME)
    assert hub.requests == []


def test_a_model_is_downloaded_once(hub: Server) -> None:
    folder = find()
    assert load_pair(folder)[0].config.n_embd == 32
    hub.requests.clear()
    assert find() == find(NAME) == folder
    assert hub.requests == []


def test_only_one_format_of_the_weights_is_downloaded(hub: Server) -> None:
    other = dict.fromkeys(["tf_model.h5", "pytorch_model.bin", "README.md"], b"another format")
    publish(hub, hub.files | other)
    assert not {path.name for path in find().iterdir()} & set(other)


def test_weights_of_an_older_format_are_downloaded(hub: Server) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    publish(hub, hub.files)
    assert (find() / "pytorch_model.bin").exists()


def test_of_a_tokenizer_no_weights_are_downloaded(hub: Server) -> None:
    assert common.load(AutoTokenizer, find(weights=False))("a")["input_ids"]
    assert not any("safetensors" in request for request in hub.requests)
    assert (find() / "model.safetensors").exists()  # a later script needs them


def test_an_incomplete_model_in_the_cache_is_completed_or_not_used(hub: Server) -> None:
    (find() / "merges.txt").unlink()
    hub.behaviour = "missing"
    assert find() == stand_in()
    hub.behaviour = "honest"
    assert (find() / "merges.txt").exists()


def test_a_model_that_an_older_library_saved_is_used_or_completed(
    hub: Server, tmp_path: Path, checkpoints: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = put_in_cache(tmp_path, NAME, checkpoints / GPT2)
    hub.behaviour = "missing"
    assert find() == folder
    only_line(capsys.readouterr().err, f"{NAME} is used from the cache; if files are missing")
    (folder / "model.safetensors").unlink()
    assert find() == stand_in()
    hub.behaviour = "honest"
    assert (find() / "model.safetensors").exists()


@pytest.mark.parametrize("behaviour", ["missing", "silent", "a captive portal", "breaks off"])
def test_a_failed_download_is_one_line_and_a_later_one_succeeds(
    behaviour: str, hub: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.5)  # a silent server waits for a second
    hub.behaviour = behaviour
    assert find() == stand_in()
    line = only_line(capsys.readouterr().err, f"{NAME} cannot be downloaded (")
    assert "The bundled stand in replaces it; run again with a network" in line
    with pytest.raises(common.ScriptError, match="someone/else cannot be downloaded"):
        find("someone/else")  # only the default is replaced
    hub.behaviour = "honest"
    assert load_pair(find())[0].config.n_embd == 32


# --- Loading a checkpoint ---------------------------------------------------------------------


def test_weights_that_the_checkpoint_lacks_are_an_error(checkpoints: Path) -> None:
    problem = "t5-small-booksum: the checkpoint has no qa_outputs.bias, which AutoModelForQuestion"
    with pytest.raises(common.ScriptError, match=problem):
        common.load(AutoModelForQuestionAnswering, checkpoints / T5)


def test_weights_that_are_not_finite_are_an_error(checkpoints: Path, tmp_path: Path) -> None:
    path = copytree(checkpoints / T5, tmp_path / "edited") / "model.safetensors"
    weights = load_file(path)
    weights["decoder.final_layer_norm.weight"][0] = math.nan
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(common.ScriptError, match=r"layer_norm.weight has values that are not fin"):
        common.load(AutoModelForSeq2SeqLM, path.parent)


@pytest.mark.parametrize("kind", ["Bert", "GPT2", "T5", "Roberta", "Marian"])
def test_a_tokenizer_without_a_vocabulary_is_an_error(kind: str, tmp_path: Path) -> None:
    settings = f'{{"tokenizer_class": "{kind}Tokenizer"}}'
    (tmp_path / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    with pytest.raises(common.ScriptError, match=r"vocabulary|not a checkpoint for AutoTokenizer"):
        common.load(AutoTokenizer, tmp_path)


def test_a_model_that_reads_in_both_directions_is_no_causal_model(tmp_path: Path) -> None:
    model = BertForPreTraining(BertConfig(vocab_size=30, initializer_range=1.0, **SIZES))
    model.save_pretrained(tmp_path)
    with pytest.raises(common.ScriptError, match="not a causal model; it also reads the tokens th"):
        common.load(AutoModelForCausalLM, tmp_path)


def test_code_in_a_checkpoint_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    (tmp_path / "code.py").write_bytes(b"open('executed', 'w')\nclass Config: pass\n")
    config = {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(common.ScriptError, match="not a checkpoint for AutoModelForSeq2SeqLM"):
        common.load(AutoModelForSeq2SeqLM, tmp_path)
    assert not Path("executed").exists()


def test_a_model_is_loaded_in_float32_in_eval_mode(checkpoints: Path, tmp_path: Path) -> None:
    model, _ = load_pair(checkpoints / GPT2)
    model.half().save_pretrained(tmp_path)
    loaded = common.load(AutoModelForCausalLM, tmp_path)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert not loaded.training


def test_a_decoder_keeps_only_the_token_ids_of_its_generation_settings(checkpoints: Path) -> None:
    chat_model, _ = load_pair(checkpoints / "Qwen/Qwen3-0.6B")
    settings = chat_model.generation_config.to_diff_dict()
    assert settings.keys() == {"eos_token_id", "transformers_version"}


@pytest.mark.parametrize("has_pooler", [False, True])
def test_an_encoder_needs_no_pooler(has_pooler: bool, tmp_path: Path) -> None:
    encoder = BertModel(BertConfig(vocab_size=30, **SIZES), add_pooling_layer=has_pooler).eval()
    encoder.save_pretrained(tmp_path)
    with_head = common.add_head(AutoModelForSequenceClassification, tmp_path, {0: "a", 1: "b"})
    ids = torch.tensor([[5, 6, 7]])
    expected = encoder(ids).last_hidden_state
    for model in (common.load(AutoModel, tmp_path), with_head.base_model.eval()):
        assert torch.equal(model(ids).last_hidden_state, expected)


def test_a_new_head_replaces_the_old_one_and_names_its_outputs(checkpoints: Path) -> None:
    folder, names = checkpoints / f"{DISTILBERT}-finetuned-sst-2-english", {0: "low", 1: "high"}
    model = common.add_head(AutoModelForSequenceClassification, folder, names)
    assert (model.config.id2label, model.config.label2id) == (names, {"low": 0, "high": 1})
    old = common.load(AutoModelForSequenceClassification, folder)
    assert not torch.equal(model.classifier.weight, old.classifier.weight)


def test_a_text_longer_than_the_context_is_an_error(checkpoints: Path) -> None:
    gpt2 = load_pair(checkpoints / GPT2)
    common.check_length(*gpt2, 64)
    with pytest.raises(common.ScriptError, match=r"takes 65 tokens, but .* at most 64;"):
        common.check_length(*gpt2, 65)
    t5, tokenizer = load_pair(checkpoints / T5)
    assert common.context_length(t5, tokenizer) == 512  # of its tokenizer
    roberta = RobertaModel(RobertaConfig(max_position_embeddings=12, **SIZES))
    assert common.context_length(roberta, tokenizer) == 10  # its positions count from 2 on


# --- Running a script -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (common.ScriptError("two\n  lines\x1b[31m\n"), 1, "two lines [31m"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (BrokenPipeError(), 1, "standard output was closed before everything was written"),
    ],
)
def test_an_error_is_printed_as_one_line_with_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    assert common.run(Mock(side_effect=error)) == code
    assert capsys.readouterr() == ("", f"{Path(sys.argv[0]).name}: {line}\n")


def test_a_bug_keeps_its_traceback_and_other_codes_are_those_of_main() -> None:
    with pytest.raises(ZeroDivisionError):
        common.run(Mock(side_effect=ZeroDivisionError))
    assert [common.run(lambda: 0), common.run(lambda: 3)] == [0, 3]


@pytest.mark.parametrize("allocate", [torch.zeros, np.zeros])
def test_too_little_memory_is_one_line(
    allocate: Callable[[int], object], capsys: pytest.CaptureFixture
) -> None:
    assert common.run(lambda: allocate(10**15) is None) == 1
    only_line(capsys.readouterr().err, "too little memory; close other programs")


def test_kill_ends_a_script_as_ctrl_c_does() -> None:
    assert common.run(lambda: signal.raise_signal(signal.SIGTERM) or 0) == 130


def test_characters_that_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(output, encoding="cp1252"))
    assert common.run(lambda: common.note("Здравей") or 0) == 0
    sys.stderr.flush()
    assert b"\\u0417" in output.getvalue()


def test_errors_of_a_library_are_one_line_that_names_their_source() -> None:
    message = r"^a file \(ValueError: first line\)$"
    with pytest.raises(common.ScriptError, match=message), common.errors_in("a file"):
        raise ValueError("first line\nsecond line")
    for error in (common.ScriptError("unchanged"), KeyboardInterrupt("unchanged")):
        with pytest.raises(type(error), match="unchanged"), common.errors_in("a file"):
            raise error


def test_a_number_out_of_range_is_a_usage_error() -> None:
    rate = common.in_range(float, 0, 0.9)
    assert [rate("0"), rate("0.9")] == [0, 0.9]
    for value in ("-0.1", "0.91", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{value} is not in the range 0 to"):
            rate(value)


def test_a_seed_determines_the_numbers_of_all_three_generators() -> None:
    def draw(seed: int) -> list[float]:
        common.seed_everything(seed)
        return [random.random(), np.random.rand(), torch.rand(1).item()]

    first = draw(3)
    assert draw(3) == first
    assert not set(draw(4)) & set(first)


def test_auto_is_cuda_if_available_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [common.select_device(name).type for name in ("auto", "cpu")] == ["cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert common.select_device("auto").type == "cpu"


# --- Complete files ---------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    with common.complete_path(path) as temporary_path:
        temporary_path.write_bytes(b"complete")
        assert temporary_path.suffix == ".png"  # matplotlib chooses the format by it
        assert not path.exists()
    with contextlib.suppress(KeyboardInterrupt), common.complete_path(path) as temporary_path:
        temporary_path.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), common.complete_path(path):
        _ = 1 / 0  # a bug keeps its traceback
    assert path.read_bytes() == b"complete"
    assert list(path.parent.iterdir()) == [path]


def save_model(folder: Path, content: bytes) -> None:
    with common.errors_in(f"{folder}: not saved"), common.complete_path(folder) as temporary_path:
        temporary_path.mkdir()
        (temporary_path / "weights").write_bytes(content)
        if content == b"half":
            raise ValueError("cannot be saved")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Return a folder with a saved model, which is alone in its parent."""
    save_model(tmp_path / "parent" / "model", b"old")
    return tmp_path / "parent" / "model"


def test_a_folder_is_replaced_when_it_is_complete(model_folder: Path) -> None:
    (model_folder / "of the old model").touch()
    save_model(model_folder, b"new")
    assert [path.read_bytes() for path in model_folder.iterdir()] == [b"new"]
    with pytest.raises(common.ScriptError, match=r"model: not saved \(ValueError: cannot be saved"):
        save_model(model_folder, b"half")
    assert (model_folder / "weights").read_bytes() == b"new"
    assert list(model_folder.parent.iterdir()) == [model_folder]


def test_an_old_folder_survives_ctrl_c_between_the_two_renames(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename_and_interrupt(path: Path, target: Path) -> None:
        monkeypatch.setattr(Path, "rename", rename)
        path.rename(target)
        raise KeyboardInterrupt

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", rename_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(model_folder, b"new")
    assert (model_folder / "weights").read_bytes() == b"old"
    assert list(model_folder.parent.iterdir()) == [model_folder]


def test_saved_tensors_are_loaded_and_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": os.mkdir}, path)
    program = path.read_bytes()  # a function that a pickle could call
    common.save_tensors(path, {"losses": [[1, 2.5]], "weights": {"w": torch.ones(99)}})
    loaded = common.load_tensors(path)
    assert loaded["losses"] == [[1, 2.5]]
    assert torch.equal(loaded["weights"]["w"], torch.ones(99))
    for content in (b"", b"no tensors", path.read_bytes()[:-99], program):
        path.write_bytes(content)
        with pytest.raises(common.ScriptError, match=r"weights.pt \("):
            common.load_tensors(path)


# --- Files of the user ------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["è\nb", "\ufeffè\nb", "è\r\nb"])
def test_a_text_is_utf8_with_or_without_a_byte_order_mark(content: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content.encode())
    assert common.read_text(tmp_path / "text.txt") == "è\nb"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"one \xe8 two", "UnicodeDecodeError: .* can't decode byte 0xe8 in position 4"),
        ("è".encode("utf-16"), "UnicodeDecodeError: .* can't decode byte 0xff in position 0"),
        (b"\x00\x01", "ValueError: it contains a zero byte"),
        (None, "FileNotFoundError: No such file or directory"),
    ],
)
def test_a_file_that_is_not_utf8_text_is_named_with_the_byte(
    content: bytes | None, problem: str, tmp_path: Path
) -> None:
    if content:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(
        common.ScriptError, match=rf"text.txt: cannot be read as UTF-8 text \({problem}"
    ):
        common.read_text(tmp_path / "text.txt")


@pytest.mark.parametrize(
    "content",
    [
        'text, label\n"a, b", "007"\n"c ""d""",\n\n\n',
        'text;label\na, b;007\n"c ""d""";',
        'text\tlabel\na, b\t007\n"c ""d"""\t\n',
    ],
)
def test_a_table_is_read_as_text(content: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(content.encode())
    table = common.read_csv(tmp_path / "table.csv")
    assert table.to_dict("list") == {"text": ["a, b", 'c "d"'], "label": ["007", ""]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('text,label\na,0\n"b,0\nc,0\n', r"line 3 \(Error: unexpected end of data\)"),
        ("text, text,label\na,b,0\n", "line 1: two columns are named 'text'; rename one"),
        ('text,label\n"a\nb",0\nc\n', "line 4: 1 cells, where the header has 2"),
        ("text,label\na,b,0\n", "line 2: 3 cells, where the header has 2"),
    ],
)
def test_a_damaged_table_is_named_with_the_line(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(content.encode())
    with pytest.raises(common.ScriptError, match=f"table.csv: {problem}"):
        common.read_csv(tmp_path / "table.csv")
