"""The tokenizer: it knows the grammar by heart and takes any other text."""

import gzip
import random

import pytest

from serve_app.demo import WEIGHTS_DIR, captions, vocabulary, wording
from serve_app.demo.scenes import sample


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.tokenizer(WEIGHTS_DIR)


def test_the_committed_merges_are_the_ones_that_the_grammar_gives(tmp_path):
    written = vocabulary.write_merges(tmp_path)
    committed = WEIGHTS_DIR / vocabulary.MERGES_FILE
    assert gzip.decompress(written.read_bytes()) == gzip.decompress(committed.read_bytes())


def test_the_merges_file_has_a_header_and_no_empty_line():
    lines = gzip.decompress((WEIGHTS_DIR / vocabulary.MERGES_FILE).read_bytes()).decode()
    header, *merges = lines.split("\n")
    assert header.startswith("#version")
    assert merges
    assert all(len(merge.split(" ")) == 2 for merge in merges)


def test_the_vocabulary_is_small_and_ends_with_end_of_text(tokenizer):
    assert tokenizer.vocab_size < 2000
    # CLIP's text tower pools where the highest id stands.
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1
    assert "" not in tokenizer.encoder


def test_every_word_of_the_grammar_is_one_token(tokenizer):
    for word in wording.lexicon():
        assert len(tokenizer.encode(word)) == 1, word


def test_the_longest_captions_fit(tokenizer):
    for text in wording.longest_captions():
        assert len(tokenizer.encode(text)) + 2 <= vocabulary.CONTEXT_LENGTH, text


def test_sampled_captions_fit_and_come_back(tokenizer):
    rng = random.Random(0)
    for index in range(400):
        text = captions.describe(sample("train", 0, index), rng).text
        ids = tokenizer.encode(text)
        assert len(ids) + 2 <= vocabulary.CONTEXT_LENGTH, text
        assert tokenizer.decode(ids).split() == text.replace(".", " .").replace(",", " ,").split()


@pytest.mark.parametrize("text", ["naïve 漢字 🚲", "Zwölf Boxkämpfer", "", "x" * 500])
def test_any_text_tokenizes(tokenizer, text):
    tokens = tokenizer([text])
    assert tokens.shape == (1, vocabulary.CONTEXT_LENGTH)
    assert int(tokens.max()) == tokenizer.eot_token_id
