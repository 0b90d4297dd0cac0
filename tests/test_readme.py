"""The README says what the scripts print, and its commands are the ones that are run."""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import runpy
import shlex
import sys

import bench
import pytest
import test_agreement
import test_faults
import test_properties
import test_survival
from conftest import ROOT, Parsed, only_parse

import common

README = (ROOT / "README.md").read_text()
EXPECTED = ROOT / "tests" / "expected"
MEASURED = json.loads((EXPECTED / "measured.json").read_text())
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if re.match(r"\| (\d\d|lab [\d.]+) \|", line)
]


DASH = "\N{EN DASH}"  # in place of what could not be measured


def printed(name: str) -> dict[str, float]:
    """Read the figures of a recorded output: what stands before a colon, and the number after."""
    lines = (EXPECTED / name).read_text().splitlines()
    pairs = (re.fullmatch(r"(.+): (\d+\.\d+)", line) for line in lines)
    return {pair[1]: float(pair[2]) for pair in pairs if pair}


def error_of(row: str, column: int = -2) -> float:
    """Read a figure of the recorded table of task 03; the default column is the test error."""
    for line in (EXPECTED / "task03.txt").read_text().splitlines():
        if line.startswith(f"{row}  "):
            return float(line.split()[column])
    raise AssertionError(f"no row {row!r}")


def dante() -> dict[str, list[float]]:
    """Read the rows of the recorded output of dante_gpt.py: a name, then figures."""
    lines = (EXPECTED / "dante_gpt.txt").read_text().splitlines()
    rows = (re.fullmatch(r"(\w.*?) {2,}([\d.]+)%? +([\d.]+)%?", line) for line in lines)
    return {row[1]: [float(row[2]), float(row[3])] for row in rows if row}


def lab3(name: str) -> dict[str, list[float]]:
    """Read the rows of a recorded table of laboratory exercise 3: what is in front, then figures.

    Blanks in what is in front do not count.
    """
    lines = (EXPECTED / f"{name}.txt").read_text().splitlines()
    found = (re.fullmatch(r"(\S.*?)((?: +(?:to )?[01]\.\d{3,4})+)", line) for line in lines)
    return {
        " ".join(row[1].split()): [float(each) for each in re.findall(r"\d\.\d+", row[2])]
        for row in found
        if row
    }


def test_the_two_commands_come_first_and_the_tests_are_those_of_ci() -> None:
    assert len(BLOCKS[0].splitlines()) == len(BLOCKS[1].splitlines()) == 1
    setup = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/"
    assert BLOCKS[0] == f"{setup}python task02.py\n"
    assert BLOCKS[1] == f"{setup}python -m pytest\n"
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.endswith("\npython -m pytest\n")
    assert "-r requirements.txt" in ci


@pytest.mark.parametrize(
    "name",
    [
        "task01.txt",
        "task02.txt",
        "task02_synthetic.txt",
        "task03.txt",
        "task08.txt",
        "task09.txt",
        "task13.txt",
        "lab_tokenizer.txt",
        "lab_classifier_emotion.txt",
        "lab_classifier_ag_news.txt",
        "lab_multiple_choice.txt",
        "lab_retrieval.txt",
        "dante_gpt.txt",
    ],
)
def test_the_output_shown_is_the_output_recorded(name: str) -> None:
    assert (EXPECTED / name).read_text() in BLOCKS


def test_every_script_has_a_row_and_every_row_a_script() -> None:
    tasks = sorted(path.name for path in ROOT.glob("task??.py"))
    lab = {path.name for path in ROOT.glob("lab_*.py")}
    assert [row[1].strip("`") for row in TABLE[: len(tasks) + 1]] == [*tasks, "dante_gpt.py"]
    assert {row[1].strip("`") for row in TABLE[len(tasks) + 1 :]} == lab
    assert [f"task{row[0]}.py" for row in TABLE if row[0].isdigit()] == tasks


@pytest.mark.parametrize("row", [row for row in TABLE if row[3] != DASH], ids=lambda row: row[1])
def test_minutes_and_memory_are_those_measured(row: list[str]) -> None:
    name = row[1].strip("`").removesuffix(".py")
    assert float(row[3]) == MEASURED["minutes"][name]
    assert row[4] == f"{MEASURED['peak MB'][name]} MB"


def test_the_numbers_to_expect_are_those_recorded() -> None:
    shown = {row[0]: row[5] for row in TABLE}
    windows = re.search(r"TensorDataset: (.*)", (EXPECTED / "task01.txt").read_text())[1]
    assert shown["01"] == f"{windows} windows"
    assert shown["02"] == f"test MSE {printed('task02.txt')['Test MSE']:.4f}"
    task03 = printed("task03.txt")
    assert shown["03"] == (
        f"test MSE {task03['Test MSE']:.4f}, R-squared {task03['R-squared']:.4f}"
    )
    assert shown["lab 1"] == f"{dante()['GPT, 2.3 M parameters'][0]:.3f} nats per character"


def test_only_what_needs_a_model_of_the_hub_was_not_measured() -> None:
    users = {script for scripts in common.hub_models().values() for script in scripts}
    users -= {"task08", "task09", "lab_classifier"}  # the encoder is bundled
    users -= {"lab_tokenizer"}  # the vocabulary could be had
    assert {row[1].strip("`").removesuffix(".py") for row in TABLE if row[3] == DASH} == users


def test_the_inventory_is_what_common_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(common, "cached_model", lambda *_: None)
    common.main([])
    assert capsys.readouterr().out in BLOCKS
    gigabytes = sum(model.megabytes for model in common.hub_models()) / 1000
    assert f"({gigabytes:.1f} GB)" in README


def test_the_statement_s_losses_are_the_running_means_of_the_true_ones() -> None:
    first, second, third, test = printed("task02.txt").values()
    means = [first, (first + second) / 2, (first + second + third) / 3]
    train_windows, test_windows = 3 * 3284 * 32, 35_040 - 96
    total = train_windows + test_windows
    means.append((train_windows * means[2] + test_windows * test) / total)
    shown = ", ".join(f"{mean:.4f}" for mean in means[:3]) + f" and {means[3]:.4f}"
    text = " ".join(README.split())
    assert f"The same running means of the figures above are {shown}:" in text
    assert means == pytest.approx([0.1953, 0.1267, 0.1028, 0.0965], abs=0.0006)
    assert f"{train_windows:,} \N{MULTIPLICATION SIGN} {means[2]:.4f}" in README
    assert f"/ {total:,} = {means[3]:.4f}" in README


def test_what_is_said_of_the_experiments_is_in_their_table() -> None:
    section = README.split("What each change does")[1].split("## ")[0]
    value, change = error_of("MLP on one day"), error_of("MLP on the change")
    calendar, week = error_of("+ calendar"), error_of("+ yesterday, last week")
    ten, short = error_of("+ ten past days"), error_of("+ only 2 hours of readings")
    dropout, cycle = error_of("+ dropout"), error_of("+ one-cycle schedule")
    average, final = error_of("+ average of four"), error_of("the winner, on all of train")
    lstm, last = error_of("LSTM of task 02"), error_of("last reading (persistence)")
    boosting = error_of("gradient boosting, all inputs")
    validation = [error_of(row, -3) for row in ("MLP on one day", "MLP on the change")]
    validation.append(error_of("+ calendar", -3))
    said = [float(figure) for figure in re.findall(r"\d\.\d{4}", section)]
    assert said == [
        calendar, ten, week, short, ten, dropout, cycle, change, value, validation[1],
        validation[0], calendar, average, average, final, lstm, last, boosting,
    ]  # fmt: skip
    assert final < average <= cycle < dropout < short < ten < value < week < change < calendar
    assert final < boosting < last <= lstm
    assert validation[2] < validation[1] < validation[0]
    assert error_of("the winner, on all of train") <= 0.0265


def test_the_speed_is_as_measured() -> None:
    section = README.split("## Speed")[1].split("##")[0]
    rates, ratios = MEASURED["bench lstm, batches/s"], MEASURED["bench lstm, ratios"]
    steps = MEASURED["bench lstm, step by step, batches/s"]
    assert list(steps.values()) == sorted(steps.values())
    for figure in (*rates.values(), *ratios.values(), *steps.values()):
        assert re.search(rf"(?<![\d.]){figure}(?![\d.]*\d)", section), figure
    assert ratios["task 02 / usual loop"] >= 1.7
    assert ratios["task 02 / bare steps"] >= 0.95


def test_every_file_and_section_it_names_is_there() -> None:
    headings = re.findall(r"^#+ (.*)", README, re.MULTILINE)
    sections = {"#" + re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    for name in re.findall(r"`([\w./]+\.(?:py|txt|md))`|\]\((\S+?)\)", README):
        path = next(filter(None, name))
        assert "://" in path or path in sections or (ROOT / path).exists(), path


def test_it_says_of_every_script_that_was_not_measured_why() -> None:
    section = README.split("## What could not be run here")[1].split("\n## ")[0]
    unmeasured = {row[1].strip("`") for row in TABLE if row[3] == DASH}
    said = "Tasks 04 to 07 and 10 to 12, `lab_generation.py`"
    assert said in section
    tasks = {f"task{number:02}.py" for number in (4, 5, 6, 7, 10, 11, 12)}
    assert unmeasured == tasks | {"lab_generation.py"}


def test_the_docstrings_promise_what_was_recorded() -> None:
    import dante_gpt
    import task02
    import task03

    losses = [f"{loss:.3f}" for loss in printed("task02.txt").values()]
    assert losses == ["0.195", "0.057", "0.054", "0.041"]
    assert all(loss in task02.__doc__ for loss in losses)
    assert f"test MSE of {printed('task03.txt')['Test MSE']:.3f}" in task03.__doc__
    assert f"{error_of('gradient boosting, all inputs'):.3f}" in task03.__doc__
    assert f"Expect {dante()['GPT, 2.3 M parameters'][0]:.2f} nats" in dante_gpt.__doc__
    assert f"5-grams gets {dante()['Witten-Bell 5-gram'][0]:.2f}." in dante_gpt.__doc__


def test_what_is_said_of_dante_is_what_was_measured() -> None:
    rows = dante()
    counted = [rows[name][0] for name in ("unigram", "bigram", "Witten-Bell 5-gram")]
    assert counted == pytest.approx([3.04, 2.33, 1.624], abs=0.006)  # known from elsewhere
    assert rows["GPT, 2.3 M parameters"][0] <= 1.46
    for name in ("unigram", "bigram", "Witten-Bell 5-gram", "GPT, 2.3 M parameters"):
        nats, bits = rows[name]
        assert bits == pytest.approx(nats / math.log(2), abs=1e-4)
    sample, canto = rows["longest copy from the training text"]
    assert sample <= canto
    section = " ".join(README.split("## Dante")[1].split("## Lab")[0].split())
    command, longer = next(item for item in MEASURED.items() if "--steps 4000" in item[0])
    assert f"`python {command}` gets to {longer['nats']} nats" in section
    assert longer["nats"] <= 1.42


def test_the_ablation_is_as_measured() -> None:
    cells = [line.strip("|").split("|") for line in README.splitlines() if line.startswith("| ")]
    shown = {row[0].strip(): row[1:] for row in cells if len(row) == 3}
    measured = MEASURED["bench ablation, 400 steps, validation loss, best and at the end"]
    assert list(measured) == list(bench.ABLATIONS)
    for name, losses in measured.items():
        assert [float(cell) for cell in shown[name]] == losses


def test_the_seeds_and_seconds_of_the_last_tasks_are_as_measured() -> None:
    for name, cells in MEASURED["bench seeds --model bundled"].items():
        assert f"| {' | '.join([name, *cells])} |" in README
    assert f"{MEASURED['bench metrics, seconds of task13']} seconds" in README


def test_what_the_scripts_cost_beside_their_library_is_as_measured() -> None:
    ratios = MEASURED["bench hub, time of a script / its library and models alone"].values()
    assert f"between {min(ratios)} and {max(ratios)} times as long" in " ".join(README.split())


def test_the_expectations_of_tasks_08_09_and_13_are_those_recorded() -> None:
    shown = {row[0]: row[5] for row in TABLE}
    assert "num_rows: 2" in (EXPECTED / "task08.txt").read_text()
    assert shown["08"] == "a `Dataset` of 2 rows"
    accuracies = printed("task09.txt")
    assert (accuracies["Training accuracy"], accuracies["Test accuracy"]) == (1.0, 0.5)
    assert shown["09"] == "all 4 rows learnt, half of the 2 others"
    task13 = printed("task13.txt")
    rouge, exact = task13["rouge1"], task13["exact match"]
    ratio = re.search(
        r"([\d.]+) characters to a token", (EXPECTED / "lab_tokenizer.txt").read_text()
    )
    assert shown["lab 2.1"] == f"{ratio[1]} characters of the Inferno to a token"
    assert shown["13"] == f"ROUGE-1 {rouge:.4f}, exact match {exact}"


def test_the_speed_of_dante_is_as_measured() -> None:
    section = README.split("## Speed")[1].split("## The files")[0]
    for figure in MEASURED["bench dante"].values():
        assert re.search(rf"(?<![\d.]){figure}(?![\d.]*\d)", section), figure
    measured = MEASURED["bench dante"]
    sooner = measured["seconds of the recipe"] / measured["seconds of dante_gpt.py"]
    assert measured["times sooner"] == pytest.approx(sooner, abs=0.06)
    assert measured["times sooner"] >= 5
    assert measured["times faster with a cache"] >= 5


def test_frozen_features_reach_what_they_should_and_the_text_says_so() -> None:
    best = {}
    for name in ("emotion", "ag_news"):
        table = lab3(f"lab_classifier_{name}")
        rows = [row for row in table if row.startswith(("[CLS] ", "mean ", "layers "))]
        assert len(rows) == 12
        frozen = [table[row][-3:] for row in rows]  # C may have three digits too
        best[name] = max(frozen, key=lambda figures: figures[0])[1]  # by validation
    assert best["emotion"] >= 0.77
    assert best["ag_news"] >= 0.90
    shown = {row[0]: row[5] for row in TABLE}
    assert shown["lab 3.1"] == (
        f"frozen features: emotion {best['emotion']:.3f}, ag_news {best['ag_news']:.3f}"
    )


def test_the_ranker_beats_every_baseline_by_more_than_the_interval() -> None:
    rows = lab3("lab_multiple_choice")
    ranker = rows.pop("ranker")
    baselines = [rows[row] for row in rows if not row.startswith(("fine-tuned", "ranker"))]
    assert len(baselines) == 4
    assert ranker[1] - ranker[2] > 0.02  # the interval: from ranker[2] to ranker[3]
    assert all(ranker[1] - each[1] > ranker[1] - ranker[2] for each in baselines)
    shown = {row[0]: row[5] for row in TABLE}
    assert shown["lab 3.2"] == f"ranker {ranker[1]:.3f}, of four choices"


def test_retrieval_reaches_what_it_should() -> None:
    rows = lab3("lab_retrieval")
    last = list(rows.values())[-1]
    assert rows["mean cosine"][0] >= 0.65
    assert last[0] >= 0.76
    assert last[0] == max(row[0] for row in rows.values())
    shown = {row[0]: row[5] for row in TABLE}
    assert shown["lab 3.3"] == f"nDCG@10 {last[0]:.3f}"


def test_the_speed_of_exercise_3_is_as_measured() -> None:
    section = " ".join(README.split("## Speed")[1].split("## The files")[0].split())
    for name in ("bench features", "bench retrieval"):
        for figure in MEASURED[name].values():
            assert re.search(rf"(?<![\d.]){figure}(?![\d.]*\d)", section), figure
    assert MEASURED["bench features"]["batches / one at a time"] >= 2.8


@pytest.mark.parametrize(
    ("exercise", "outputs"),
    [
        ("3.1", ["lab_classifier_emotion", "lab_classifier_ag_news"]),
        ("3.2", ["lab_multiple_choice"]),
        ("3.3", ["lab_retrieval"]),
    ],
)
def test_what_is_said_of_exercise_3_is_in_its_tables(exercise: str, outputs: list[str]) -> None:
    section = README.split(f"## Lab {exercise}")[1].split("\n## ")[0]
    prose = re.sub(r"^```.*?^```", "", section, flags=re.MULTILINE | re.DOTALL)
    recorded = "".join((EXPECTED / f"{name}.txt").read_text() for name in outputs)
    figures = {f"{float(figure):.3f}" for figure in re.findall(r"\d\.\d{3,4}", recorded)}
    said = re.findall(r"\d\.\d{3}", prose)
    assert said
    assert set(said) <= figures


def test_what_is_tested_is_counted() -> None:
    section = " ".join(README.split("## What is tested")[1].split("\n## ")[0].split())
    assert f"a table of {len(test_agreement.ROWS)} rows" in section
    assert f"in {len(test_properties.properties())} properties" in section
    assert f"tries {len(test_faults.FAULTS)} faults" in section
    assert f"on every data file of every script, {len(test_faults.CASES)} cases" in section
    assert f"every script at {test_survival.MOMENTS} moments" in section
    assert f"at once, {len(test_survival.CASES)} cases" in section


def shown_commands() -> list[str]:
    """Find every command with a script in the README and in the scripts' own descriptions."""
    scripts = [*ROOT.glob("*.py"), ROOT / "tests" / "bench.py"]
    described = "\n".join(ast.get_docstring(ast.parse(path.read_text())) for path in scripts)
    lines = re.findall(r"^ *python (\S+\.py.*?)(?:   .*)?$", f"{README}\n{described}", re.MULTILINE)
    inline = re.findall(r"`[^`]*?\bpython (\S+\.py[^`]*)`", README)
    started = re.findall(r"accelerate launch .*? (\w+\.py[^`\n]*)", README)
    return sorted({" ".join(each.split()) for each in (*lines, *inline, *started)})


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_shown_is_one_that_its_script_takes(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, *options = shlex.split(command.removesuffix(" 2>/dev/null"))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")
