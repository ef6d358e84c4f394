from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.config.faults import Origin
from serve_app.config.text import MAX_BYTES, MAX_DEPTH, parse_mapping, parse_value, read_text
from serve_app.errors import ConfigError

ORIGIN = Origin("SIMILARITY_MODELS")


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_mapping(text, ORIGIN)
    assert [item.key for item in caught.value.faults] == ["SIMILARITY_MODELS"]
    return caught.value.faults[0].message


def test_yaml_and_json_give_the_same() -> None:
    yaml_text = "fast: {pool: gpu, performance: {max_batch: 8}}\n"
    json_text = '{"fast":\t{"pool": "gpu", "performance": {"max_batch": 8}}}'
    expected = {"fast": {"pool": "gpu", "performance": {"max_batch": 8}}}
    assert parse_mapping(yaml_text, ORIGIN).value == expected
    assert parse_mapping(json_text, ORIGIN).value == expected


def test_json_numbers_and_escapes_are_those_of_json() -> None:
    value = parse_mapping(r'{"a": {"b": 1e9, "c": "x\/y", "d": "\ud83d\ude00"}}', ORIGIN).value
    assert value == {"a": {"b": 1e9, "c": "x/y", "d": "😀"}}


def test_syntax_names_line_and_column() -> None:
    assert "line 2, column 8" in fault("fast: {}\nslow: [}\n")


@pytest.mark.parametrize("text", ["", "  \n", "# a comment only\n", "---\n"])
def test_nothing_is_a_fault(text: str) -> None:
    assert fault(text).startswith("is empty")


@pytest.mark.parametrize("text", ["- fast\n", "fast", "3", "[1, 2]"])
def test_other_kinds_are_faults(text: str) -> None:
    assert "must be a mapping" in fault(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x {pool: gpu}\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.getcwd []\n", "not allowed"),
        ("a: !!set {x, y}\n", "not allowed"),
        ("a: !!python/name:os.system ''\n", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "single document"),
        ("a: 2024-13-45\n", "is not YAML"),
        ("a: \x00\n", "is not YAML"),
        ("a: " + "[" * 5000, "inside each other"),
        ('{"a": ' * 100_000, "inside each other"),
        ('{"a": ' * (MAX_DEPTH + 2) + "1" + "}" * (MAX_DEPTH + 2), "inside each other"),
    ],
)
def test_dangerous_or_odd_yaml_is_refused(text: str, words: str) -> None:
    assert words in fault(text)


def test_a_billion_laughs_is_refused_unexpanded() -> None:
    lines = ['a0: &a0 ["x", "x"]']
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "aliases" in fault("\n".join(lines))


def test_too_large_is_refused() -> None:
    assert str(MAX_BYTES) in fault("a: " + "x" * MAX_BYTES)


def test_keys_given_twice_are_named_with_their_lines() -> None:
    parsed = parse_mapping("fast: {pool: a}\nslow:\n  pool: a\n  pool: b\nfast: {}\n", ORIGIN)
    assert parsed.messages == (
        (("slow", "pool"), "is given twice, in lines 3 and 4"),
        (("fast",), "is given twice, in lines 1 and 5"),
    )
    assert parsed.value["slow"] == {"pool": "a"}


def test_keys_given_twice_in_json_are_named() -> None:
    parsed = parse_mapping('{"fast": {"pool": "a", "pool": "b"}, "fast": {}}', ORIGIN)
    assert parsed.messages == (
        (("fast", "pool"), "is given twice"),
        (("fast",), "is given twice"),
    )


def test_keys_must_be_strings() -> None:
    parsed = parse_mapping("1: {}\non: {}\n[x]: {}\nnull: {}\n<<: {a: 1}\n", ORIGIN)
    assert [".".join(path) for path, _ in parsed.messages] == ["1", "on", "", "null", "<<"]
    assert "of kind int, not a string; put it in quotes" in parsed.messages[0][1]
    assert "of kind bool" in parsed.messages[1][1]


def test_a_value_may_be_of_any_kind() -> None:
    assert parse_value("8", ORIGIN) == 8
    assert parse_value("[0.5, 0.5, 0.5]", ORIGIN) == [0.5, 0.5, 0.5]
    with pytest.raises(ConfigError, match=r"SIMILARITY_MODELS\.a: is given twice"):
        parse_value("{a: 1, a: 2}", ORIGIN)


def test_reads_utf8_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\n")
    assert read_text(path, "models.yaml") == "a: é\n"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xe9\n")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "absent": "there is no file",
        "latin": "is not UTF-8: byte 3 is 0xe9",
        "large": "more than 1048576 bytes",
        "pipe": "is not a file",
        ".": "is not a file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            read_text(tmp_path / name, "the key")
        assert caught.value.faults[0].key == "the key"
        assert words in caught.value.faults[0].message


def test_the_reason_of_the_system_is_shown(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a: 1")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        read_text(tmp_path / "file" / "models.yaml", "key")
