"""The poem: every form of its file gives the same text, and where it comes from."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server, only_line
from hypothesis import given
from hypothesis import strategies as st

import common

HEAD = "LA DIVINA COMMEDIA\n\nCANTICA I: INFERNO\n\nInferno: Canto I\n\n\n"
POEM = (
    'Nel mezzo del cammin di nostra vita\n  <<verso & verso>>, "detto",\n\n'
    "Inferno: Canto II\n\n\nE quindi uscimmo a riveder le stelle."
)
FOOT = "\n\n\nEnd of the etext of the Inferno\n"
ETEXT = HEAD + POEM + FOOT


def page(text: str) -> str:
    return (
        '<!DOCTYPE html>\n<html><head><title>Full text of "Nel mezzo"</title></head><body>'
        f'<p>Menu &amp; search</p><pre class="text">{html.escape(text)}</pre></body></html>'
    )


FORMS = {
    "as it is": lambda text: text.encode(),
    "head cut off": lambda text: text[text.index("Nel mezzo") :].encode(),
    "foot cut off": lambda text: text.removesuffix(FOOT).encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "blanks behind": lambda text: text.replace("\n", " \t\n").encode(),
    "HTML": lambda text: page(text).encode(),
    "HTML with CRLF": lambda text: page(text).replace("\n", "\r\n").encode(),
    "HTML with tags": lambda text: page(text).replace("vita", "<b>vita</b>").encode(),
    "HTML with unbreakable blanks": lambda text: page(text).replace("\n  ", "\n&nbsp; ").encode(),
    "Latin-1": lambda text: ("\xc8 il poema\n" + text).encode("latin-1"),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
def test_every_form_gives_the_poem_alone(form: Callable[[str], bytes]) -> None:
    assert common.clean_text(form(ETEXT)) == POEM


@forms
def test_every_form_of_the_real_etext_has_its_digest(
    form: Callable[[str], bytes], inferno: Path
) -> None:
    etext = inferno.read_text()
    etext = etext[etext.index("Nel mezzo del cammin") :].rstrip()
    text = common.clean_text(form(HEAD + etext + FOOT))
    assert text.startswith("Nel mezzo del cammin di nostra vita\n")
    assert len(text) == 186_773
    assert len(set(text)) == 58
    assert common.is_inferno(text)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252"])
def test_an_edition_with_accents_keeps_them(encoding: str) -> None:
    accented = POEM.replace("detto", "perch\xe9 pi\xf9 cos\xec")
    assert common.clean_text((HEAD + accented + FOOT).encode(encoding)) == accented


@pytest.mark.parametrize("text", ["Nel mezzo del cammin\nand no end", "a riveder le stelle.\nNel"])
def test_what_only_begins_or_ends_like_the_poem_is_kept_whole(text: str) -> None:
    assert common.clean_text(text.encode()) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])))
def test_any_text_is_kept_but_for_blanks_behind_its_lines(text: str) -> None:
    cleaned = common.clean_text((text + "|\n").encode())
    if not re.search("<(!doctype|html|pre)\\b", text, re.IGNORECASE):
        assert cleaned == (text.replace("\xa0", " ") + "|")
    assert common.clean_text(cleaned.encode()) == cleaned


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the file is empty"),
        (b"\n  \r\n", "the file is empty"),
        (b"PK\x03\x04\x00\x00", "not a text file in UTF-8 or Windows-1252"),
        ("verso".encode("utf-16"), "not a text file in UTF-8 or Windows-1252"),
        (b"<html><pre> </pre></html>", "the file is empty"),
    ],
)
def test_what_is_no_text_is_one_line(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(common.ScriptError) as raised:
        common.load_inferno(path)
    assert str(raised.value) == f"{path}: {line}"


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(common.ScriptError, match=r"none.txt: no such file; --text takes a text"):
        common.load_inferno(tmp_path / "none.txt")


def test_another_text_is_used_as_it_is_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "song.txt"
    path.write_text("La donna e` mobile\n")
    assert common.load_inferno(path) == "La donna e` mobile"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{path}: not the edition of the Inferno that the figures are for" in err


# Where it comes from


@pytest.fixture
def archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Let the stand-in serve the page without a digest first, then the file with one."""
    here = f"http://127.0.0.1:{server.server_port}"
    server.files = {"page.html": page(ETEXT).encode(), "copy.txt": POEM.encode()}
    digest = hashlib.sha256(POEM.encode()).hexdigest()
    monkeypatch.setattr(common, "INFERNO_SHA256", digest)
    sources = {f"{here}/page.html": None, f"{here}/copy.txt": digest}
    monkeypatch.setattr(common, "INFERNO_SOURCES", sources)
    return server


def test_it_is_downloaded_once(archive: Server, capsys: pytest.CaptureFixture) -> None:
    assert common.load_inferno() == POEM
    assert common.load_inferno() == POEM
    assert archive.requests == ["/page.html"]
    assert [path.name for path in (common.DATA / "dante").iterdir()] == [common.INFERNO_FILE]
    assert "dante_gpt" not in capsys.readouterr().err


@pytest.mark.parametrize("first", [page("Log in to read on").encode(), b"\x00", None])
def test_the_pinned_copy_is_the_second_choice(first: bytes | None, archive: Server) -> None:
    archive.files["page.html"] = first
    assert common.load_inferno() == POEM
    assert archive.requests == ["/page.html", "/copy.txt"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("gone", "broke off: 404"),
        ("breaks off", "broke off"),
        ("silent", "no answer from 127.0.0.1"),
        ("tampered", "has the wrong SHA-256"),
    ],
)
def test_the_embedded_verses_are_the_last_choice_and_announced(
    behaviour: str,
    reason: str,
    archive: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.5)
    archive.behaviour = behaviour
    if behaviour == "tampered":
        archive.files = dict.fromkeys(archive.files, (POEM + "!").replace("vita", "via").encode())
    assert common.find_inferno() == common.VERSES
    line = only_line(capsys.readouterr().err, "verses written for")
    assert reason in line
    assert "--text FILE" in line
    assert not list((common.DATA / "dante").glob("*"))
    if behaviour in ("breaks off", "gone"):  # the next time with a network it is fetched
        archive.behaviour = "honest"
        assert common.load_inferno() == POEM


def test_the_embedded_verses_are_sixty_tercets_of_their_own(
    capsys: pytest.CaptureFixture,
) -> None:
    text = common.load_inferno(common.VERSES)
    assert capsys.readouterr().err == ""  # they are announced where they stand in for the poem
    stanzas = [stanza.splitlines() for stanza in text.split("\n\n")]
    assert sum(len(stanza) == 3 for stanza in stanzas) >= 60
    assert {len(stanza) for stanza in stanzas} == {3, 1}
    assert all(line.startswith("  ") for stanza in stanzas for line in stanza[1:])
