from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer
from open_clip.tokenizer import HFTokenizer, default_bpe

from serve_app.errors import ModelLoadError
from serve_app.models import open_clip_tokens
from serve_app.models.byte_pairs import merge
from serve_app.models.open_clip_tokens import BytePairTokenizer, make_tokenizer
from tests.tiny_open_clip import SENTENCES, write_tokenizer

OPEN_CLIP = SimpleTokenizer(context_length=77)
OWN = BytePairTokenizer(77, {})

TEXTS = [
    *SENTENCES,
    "",
    " \t\n",
    "It's &amp;amp; DON'T we'll 3.14159 100%",
    "naïve café 日本語のテキスト العربية",
    "😀" * 60,
    "👩‍👩‍👧‍👦 <start_of_text> inside <END_OF_TEXT> more",
    "\0 and \x07",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "word " * 75,
    "word " * 76,
    "word " * 500,
    "!?" * 400,
    "a" * 3000,
]

letters = st.sampled_from("aaaabbcdeeehilmnorstuwy")
words = st.text(letters, min_size=1, max_size=300)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_open_clip(text: str) -> None:
    ids, counts = OWN.ids([text])
    assert torch.equal(ids, OPEN_CLIP([text]))
    assert counts == (len(OPEN_CLIP.encode(text)) + 2,)
    assert OWN.count([text]) == counts


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_ids_of_any_text_equal_open_clip(text: str) -> None:
    ids, counts = OWN.ids([text])
    assert torch.equal(ids, OPEN_CLIP([text]))
    assert counts == (len(OPEN_CLIP.encode(text)) + 2,)


@settings(max_examples=200, deadline=None)
@given(words | words.map(lambda word: word * 3) | st.text("ab", min_size=1, max_size=200))
def test_long_words_are_merged_as_open_clip_merges_them(word: str) -> None:
    assert " ".join(merge(word, OPEN_CLIP.bpe_ranks)) == OPEN_CLIP.bpe(word)


def test_every_occurrence_of_a_pair_is_merged_before_the_next_pair() -> None:
    # A merge that is learnt late makes a pair of low rank; it must wait for its turn.
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("ab", "a"): 2, ("a", "ab"): 3, ("abab", "a"): 4}
    tokenizer = SimpleTokenizer()
    tokenizer.bpe_ranks = ranks
    for word in ("ababab", "aabab", "bcabcabab", "abababababa", "aaaaa"):
        assert " ".join(merge(word, ranks)) == tokenizer.bpe(word)


def test_a_word_of_ten_thousand_letters_is_counted_exactly() -> None:
    word = "".join(chr(97 + (7 * i * i + i // 3) % 26) for i in range(10_000))
    (count,) = OWN.count([word])
    assert count > 1000
    ids, _ = OWN.ids([word])
    assert ids[0, -1] == OPEN_CLIP.eot_token_id


def test_cache_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip_tokens, "MAX_CACHED_WORDS", 10)
    own = BytePairTokenizer(77, {})
    for index in range(40):
        own.count([f"{chr(97 + index % 26)}{'xyzw'[index % 4]}{chr(97 + index // 2)}"])
        assert len(own._tokenizer.cache) <= 10
    assert torch.equal(own.ids(["<end_of_text> a dog"])[0], OPEN_CLIP(["<end_of_text> a dog"]))
    own.count(["q" * 500])
    assert "q" * 499 not in "".join(own._tokenizer.cache)


def test_configured_vocabulary_is_used(tmp_path: Path) -> None:
    target = tmp_path / "vocabulary.txt.gz"
    target.write_bytes(Path(default_bpe()).read_bytes())
    tokenizer = make_tokenizer(
        {"context_length": 9, "tokenizer_kwargs": {"bpe_path": str(target), "clean": "whitespace"}}
    )
    reference = SimpleTokenizer(str(target), context_length=9, clean="whitespace")
    assert torch.equal(tokenizer.ids(["A Dog"])[0], reference(["A Dog"]))


def test_random_reduction_is_ignored() -> None:
    tokenizer = make_tokenizer(
        {"context_length": 8, "tokenizer_kwargs": {"reduction_mask": "shuffle"}}
    )
    text = "a red circle left of a blue square and a green triangle"
    assert torch.equal(tokenizer.ids([text])[0], SimpleTokenizer(context_length=8)([text]))


def test_hub_tokenizer_equals_open_clip(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    config = {
        "context_length": 12,
        "hf_tokenizer_name": str(tmp_path),
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    own = make_tokenizer(config)
    reference = HFTokenizer(str(tmp_path), context_length=12, clean="canonicalize")
    texts = [*SENTENCES, "", "A Red, CIRCLE!", "rain " * 30]
    ids, counts = own.ids(texts)
    assert torch.equal(ids, reference(texts))
    assert counts == own.count(texts)
    assert counts[-1] > 12 >= counts[-2]
    assert counts[4] == 1  # the end of the text alone
    for row, count in zip(ids, counts, strict=True):
        used = min(count, 12)
        assert (row[used:] == 1).all()
        assert row[used - 1] == 1


def test_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="hf_tokenizer_name"):
        make_tokenizer({"hf_tokenizer_name": str(tmp_path / "nowhere")})
    with pytest.raises(ModelLoadError, match="vocabulary"):
        make_tokenizer({"tokenizer_kwargs": {"bpe_path": str(tmp_path / "vocabulary.gz")}})
