"""Training: it learns, it is reproducible, and the two recipes differ where they should."""

import random

import pytest
import torch
from safetensors.torch import load_file

from serve_app.demo import captions, network, train, vocabulary, wording
from serve_app.demo.batches import BatchMaker
from serve_app.demo.scenes import sample

TINY = train.Recipe(
    swapped=True, steps=10, batch=16, image_width=4, text_width=32, text_layers=1, warmup=2
)


@pytest.fixture
def tokenizer(tmp_path):
    vocabulary.write_merges(tmp_path)
    return vocabulary.tokenizer(tmp_path)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_short_run_lowers_the_loss_and_the_same_seed_gives_the_same_weights(tmp_path):
    losses = {}
    for folder, seed in (("one", 5), ("again", 5), ("other", 6)):
        seen = losses[folder] = []
        train.train(
            TINY, tmp_path / folder, "demo", seed, lambda _, loss, seen=seen: seen.append(loss)
        )
    assert len(losses["one"]) == TINY.steps
    assert sum(losses["one"][-3:]) < sum(losses["one"][:3])
    assert losses["one"] == losses["again"]
    weights = {f: load_file(tmp_path / f / "demo.safetensors") for f in losses}
    assert all(torch.equal(w, weights["again"][k]) for k, w in weights["one"].items())
    assert any(not torch.equal(w, weights["other"][k]) for k, w in weights["one"].items())


def test_a_written_model_loads_and_is_the_one_that_was_trained(tmp_path, tokenizer):
    trained = train.train(TINY, tmp_path, "demo-lite", seed=1)
    loaded, _, again = network.load("demo-lite", tmp_path)
    tokens = again(["a red circle"])
    with torch.inference_mode():
        assert torch.equal(loaded.encode_text(tokens), trained.encode_text(tokens))
    assert again.vocab_size == tokenizer.vocab_size
    assert not list(tmp_path.glob(".partial-*"))


def test_batches_are_the_same_each_time(tokenizer):
    first, second = (BatchMaker(tokenizer, 16, seed=2, swapped=True).batch(7) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.ignored, second.ignored)
    assert first.pixels.dtype == torch.uint8


def test_only_the_better_model_sees_swapped_captions(tokenizer):
    swapped = BatchMaker(tokenizer, 32, seed=2, swapped=True).batch(0)
    plain = BatchMaker(tokenizer, 32, seed=2, swapped=False).batch(0)
    assert len(swapped.tokens) > 32
    assert len(plain.tokens) == 32


def test_nothing_that_demo_lite_sees_teaches_binding(tokenizer):
    maker = BatchMaker(tokenizer, 48, seed=4, swapped=False)
    batch = maker.batch(0)
    scenes = [sample("train", 4, i) for i in range(48)]
    rng = random.Random("words/4/0")
    claims = [captions.describe(scene, rng).claim for scene in scenes]
    for i, scene in enumerate(scenes):
        has = {w for t in scene.things for w in (t.colour, t.shape)}
        for j, claim in enumerate(claims):
            needs = {w for p in claim.phrases for w in (p.colour, p.shape) if w}
            if i != j:
                assert bool(batch.ignored[i, j]) is (needs <= has), wording.say(claim)
    assert not batch.ignored.diagonal().any()


def test_a_true_caption_of_another_picture_is_no_negative(tokenizer):
    batch = BatchMaker(tokenizer, 64, seed=4, swapped=True).batch(0)
    same = (batch.tokens[None, :64] == batch.tokens[:64, None]).all(-1)
    same.fill_diagonal_(False)
    assert same.any()
    assert batch.ignored[:, :64][same].all()


def test_the_trimmed_text_tower_is_the_real_one(tokenizer):
    torch.manual_seed(0)
    model = network.CLIP(**network.architecture(tokenizer.vocab_size)).eval()
    tokens = tokenizer(["a red circle", "two big stars", next(wording.longest_captions())])
    with torch.inference_mode():
        trimmed = train.encode_text(model, tokens)
        whole = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(trimmed, whole, rtol=1e-4, atol=1e-5)
