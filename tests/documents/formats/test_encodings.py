"""Every letter comes out as it was written, whatever the encoding, or the reader is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_samples import SAMPLES, pairs

from nexusquant.documents import extract
from nexusquant.documents.formats.decoding import NotTextError, decode

FILES = Path(__file__).parent.parent / "files"
TEXTS = json.loads((FILES / "texts.json").read_text(encoding="utf-8"))
UNICODE = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"]


def read(path: Path) -> str:
    return "".join(page.text for page in extract(path).pages)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_file_in_a_national_encoding_is_read_and_the_encoding_is_named(name: str) -> None:
    document = extract(FILES / name)
    assert "".join(page.text for page in document.pages).strip() == TEXTS[name].strip()
    assert document.notes[0].startswith("Read as ")
    assert "guess" not in document.notes[0]


def test_a_short_western_text_is_right() -> None:
    text = read(FILES / "text_cp1252_guard.txt")
    assert "Größe 40 cm, Preis 9 €: „naïve“ Malerei – Œuvre von Zoë." in text


def test_one_bad_byte_damages_one_character_and_is_told() -> None:
    document = extract(FILES / "log_one_bad_byte.log")
    text = "".join(page.text for page in document.pages)
    assert text.count("geprüft") == 120
    assert "Ã" not in text
    assert text.count("\ufffd") == 1
    assert "One damaged character stands as \ufffd in the text." in document.notes


def test_one_line_in_another_encoding_is_read_in_that() -> None:
    document = extract(FILES / "log_one_cp1252_line.log")
    text = "".join(page.text for page in document.pages)
    assert text.count("vérifiée à la scierie, bois coupé") == 120
    assert "One line was read as Windows-1252" in document.notes[0]


def test_a_text_that_was_cut_off_loses_one_character() -> None:
    text = read(FILES / "utf8_cut_in_last_character.txt")
    assert text.count("Höhe über") == 30
    assert "dreißig Fuß für" in text


@pytest.mark.parametrize(("language", "codec"), pairs(), ids="-".join)
def test_a_few_sentences_tell_their_encoding(language: str, codec: str) -> None:
    assert decode(SAMPLES[language].encode(codec))[0] == SAMPLES[language]


@pytest.mark.parametrize("codec", UNICODE)
@pytest.mark.parametrize("language", sorted(SAMPLES))
def test_unicode_is_read_with_and_without_a_mark(language: str, codec: str) -> None:
    assert decode(SAMPLES[language].encode(codec))[0] == SAMPLES[language]


@pytest.mark.parametrize(
    "text",
    ["Größe", "naïve café", "£20", "50 €", "25 °C", "It’s “fine”", "L’ÉTÉ À PARIS", "• a\n• b"],
)
def test_a_few_western_letters_are_right_and_called_a_guess(text: str) -> None:
    found, notes = decode(text.encode("cp1252"))
    assert found == text
    assert "guess" in notes[0]


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Привет", "cp1251"),
        ("Привет", "koi8-r"),
        ("Здравствуйте, мир", "cp866"),
        ("Καλημέρα", "iso8859-7"),
        ("שלום עולם", "cp1255"),
        ("مرحبا بالعالم", "cp1256"),
        ("中文测试文件", "gbk"),
        ("中文測試檔案", "big5"),
        ("日本語のファイル", "cp932"),
        ("こんにちは", "euc_jp"),
        ("한국어 파일", "euc_kr"),
    ],
)
def test_a_few_words_tell_their_alphabet(text: str, codec: str) -> None:
    assert decode(text.encode(codec))[0] == text


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(pairs()), st.permutations(range(4)), st.integers(1, 40))
def test_sentences_in_any_order_and_number_come_back(pair, order, number) -> None:
    language, codec = pair
    lines = SAMPLES[language].splitlines(keepends=True)
    text = "".join(lines[place] for place in order) * number
    assert decode(text.encode(codec))[0] == text


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([p for p in pairs() if not p[1].startswith(("hz", "iso2022"))]), st.data())
def test_single_damaged_bytes_do_not_change_the_rest(pair, data) -> None:
    language, codec = pair
    text = SAMPLES[language] * 30
    damaged = bytearray(text.encode(codec))
    places = [place for place, byte in enumerate(damaged) if byte != 10]
    place = data.draw(st.sampled_from(places))
    damaged[place] = data.draw(st.sampled_from([b for b in range(0x21, 256) if b != 0x7F]))
    lines, wanted = decode(bytes(damaged))[0].split("\n"), text.split("\n")
    assert sum(a == b for a, b in zip(lines, wanted, strict=False)) >= len(wanted) - 2


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["C"]), max_size=300))
def test_any_utf8_comes_back(text: str) -> None:
    assert decode(text.encode())[0] == text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_text_or_none(data: bytes) -> None:
    try:
        text, notes = decode(data)
    except NotTextError:
        return
    text.encode()
    assert all(note.endswith(".") for note in notes)


def test_text_that_only_looks_shifted_stays_as_it_is() -> None:
    for source in ["+ADw-script+AD4-", "awk '{print ~{1}~}'", "+2AA-", "a ~{ b ~} c"]:
        assert decode(source.encode())[0] == source


@pytest.mark.parametrize(
    ("line", "codec"),
    [
        ("Die Prüfung der Höhe ist für morgen.\n", "cp1252"),
        ("作坊在河边，主人已经六十五岁了\n", "gbk"),
        ("ошибка чтения файла\n", "cp1251"),
    ],
)
@pytest.mark.parametrize("every", [2, 4, 20])
def test_lines_in_two_encodings_are_read_each_in_its_own(line, codec, every) -> None:
    parts = [line.encode("utf-8" if number % every else codec) for number in range(60)]
    text, notes = decode(b"".join(parts))
    assert text == line * 60
    assert "lines were read as" in notes[0]
