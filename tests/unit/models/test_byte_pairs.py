import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from serve_app.errors import ModelLoadError
from serve_app.models import byte_pairs
from serve_app.models.byte_pairs import BytePairs, default_vocabulary

SIZE = 49408
OWN = BytePairs(default_vocabulary(), SIZE)
OPEN_CLIP = SimpleTokenizer()


def whole(text: str) -> list[int]:
    return [OPEN_CLIP.sot_token_id, *OPEN_CLIP.encode(text), OPEN_CLIP.eot_token_id]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A photo of a DOG, that runs &amp;amp; jumps! It's 3 o'clock",
        "naïve café 😀 日本 \u202e \x00 \xad",
        "İstanbul ﬁne ß ﬀ",
        "<|endoftext|> is no end",
        "q" * 500,
    ],
)
def test_ids_equal_open_clips(text: str) -> None:
    assert OWN.encode(text) == whole(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_ids_of_any_text_equal_open_clips(text: str) -> None:
    if "<start_of_text>" not in text.lower() and "<end_of_text>" not in text.lower():
        assert OWN.encode(text) == whole(text)


def test_a_text_cannot_end_itself() -> None:
    """open_clip takes its own names of special tokens for these, wherever they stand."""
    ids = OWN.encode("<end_of_text> a dog")
    assert ids.count(OWN.end) == 1
    assert ids[-1] == OWN.end


def test_words_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pairs, "MAX_CACHED_WORDS", 10)
    own = BytePairs(default_vocabulary(), SIZE)
    for number in range(30):
        own.encode(f"{chr(97 + number % 26)}x{'abc'[number % 3]}")
    assert own._remembered.cache_info().currsize == 10
    own.encode("q" * 100)
    assert own._remembered.cache_info().misses == 30


@pytest.mark.parametrize("zipped", [True, False])
def test_a_plain_and_a_gzipped_vocabulary_are_the_same(zipped: bool, tmp_path: Path) -> None:
    content = gzip.decompress(default_vocabulary().read_bytes())
    path = tmp_path / "vocabulary"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert BytePairs(path, SIZE).encode("a red circle") == OWN.encode("a red circle")


@pytest.mark.parametrize(
    "content", [None, b"", b"\x1f\x8bnot gzip", b"\xff\xfe", b"# one\na b\nc\n"]
)
def test_what_is_no_vocabulary_is_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"vocabulary.*vocabulary\.txt"):
        BytePairs(path, 516)


def test_a_size_without_room_for_letters_is_told() -> None:
    with pytest.raises(ModelLoadError, match="not the one"):
        BytePairs(default_vocabulary(), 300)
