"""Models that compute elsewhere: over real HTTP, with this service's own API as the remote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tenacity
from PIL import Image

from serve_app.config.defaults import WEIGHTS_FOLDER
from serve_app.config.spec import ModelSpec
from serve_app.engine.poison import run_poison_proof
from serve_app.errors import ModelFailedError, ModelLoadError, ModelUnavailableError, TextEmptyError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models import remote_connection
from serve_app.models.base import DualEncoder, Placement, SimilarityModel
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.remote_service import fitted_here
from tests.remote_server import RemoteServer, serving

FP32 = Placement("cpu", "fp32", 1)
DEMO = {
    "architecture": str(WEIGHTS_FOLDER / "demo.json"),
    "pretrained": str(WEIGHTS_FOLDER / "demo.safetensors"),
    "precision": "fp32",
}
TEXTS = ("a red circle", "a blue square left of a green star", "a cat " * 40)
KEY = "a-very-secret-key"


@pytest.fixture(scope="module")
def running() -> Iterator[RemoteServer]:
    pairs = {"backend": "serve_app.testing:FakePairScorer", "options": {"fail_text": "poison"}}
    with serving({"demo": DEMO, "pairs": pairs}) as server:
        yield server


_made: list[SimilarityModel] = []


@pytest.fixture(autouse=True)
def _unloaded() -> Iterator[None]:
    """Ends the connections of all models that a test has made."""
    yield
    while _made:
        _made.pop().unload()


@pytest.fixture
def server(running: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> RemoteServer:
    monkeypatch.setattr(remote_connection, "_jitter", tenacity.wait_none())
    running.reset()
    return running


def make(server: RemoteServer, kind: str = "service", **options: Any) -> SimilarityModel:
    preprocessing: dict[str, Any] = {}
    if kind == "embeddings":
        # As the demo model takes them: such an endpoint does not say.
        preprocessing = {"size": 64, "resize_mode": "longest", "fill_color": 255}
        options = {"url": f"{server.url}/v1", **options}
    spec = ModelSpec(
        backend="remote",
        architecture=kind,
        preprocessing=preprocessing,
        options={"url": server.url, "model": "demo", **options},
    )
    _made.append(SimilarityModelFactory().create(spec, FP32))
    return _made[-1]


def load(server: RemoteServer, kind: str = "service", **options: Any) -> SimilarityModel:
    model = make(server, kind, **options)
    model.load()
    server.reset()
    return model


@pytest.fixture(scope="module")
def here() -> DualEncoder:
    model = SimilarityModelFactory().create(ModelSpec(**DEMO), FP32)
    assert isinstance(model, DualEncoder)
    model.load()
    return model


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [
        Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size)
        for size in ((64, 64), (300, 200), (77, 191))
    ]


def pixels(model: SimilarityModel, images: list[Image.Image]) -> list[Any]:
    return [model.preprocess.apply(image) for image in images]


def test_scores_are_those_of_the_remote(
    server: RemoteServer, here: DualEncoder, images: list[Image.Image]
) -> None:
    model = load(server)
    pairs = [(image, text) for image in pixels(model, images) for text in TEXTS]
    own = [(image, text) for image in pixels(here, images) for text in TEXTS]
    found, expected = model.compute_similarity(pairs), here.compute_similarity(own)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx({name: other[name] for name in one}, abs=1e-5)
    assert model.capabilities.primary == "cosine"
    assert model.count_tokens(TEXTS)[2] == here.count_tokens(TEXTS)[2] > 24
    assert model.details["remote_model"].startswith("demo@")


def test_embeddings_are_those_of_the_remote(
    server: RemoteServer, here: DualEncoder, images: list[Image.Image]
) -> None:
    model = load(server, "embeddings", logit_scale=here.logit_scale)
    assert isinstance(model, DualEncoder)
    np.testing.assert_allclose(
        model.encode_images(pixels(model, images)),
        here.encode_images(pixels(here, images)),
        atol=1e-5,
    )
    found = model.encode_texts(TEXTS)
    np.testing.assert_allclose(found.embeddings, here.encode_texts(TEXTS).embeddings, atol=1e-5)
    assert found.tokens == here.count_tokens(TEXTS)
    pair = (pixels(model, images)[0], TEXTS[0])
    assert model.compute_similarity([pair])[0]["logit"] == pytest.approx(
        here.compute_similarity([pair])[0]["logit"], abs=1e-3
    )


def test_a_pair_scorer_can_be_the_remote(server: RemoteServer) -> None:
    model = load(server, model="pairs")
    red = np.full((8, 8, 3), (250, 0, 0), dtype=np.uint8)
    first, second = model.compute_similarity([(red, "red"), (red, "blue")])
    assert first["match"] > second["match"]
    assert model.capabilities.metrics == ("match",)


def test_each_image_crosses_once_and_batches_are_bounded(
    server: RemoteServer, images: list[Image.Image]
) -> None:
    model = make(server)
    model.spec = model.spec.model_copy(
        update={"performance": model.spec.performance.model_copy(update={"max_batch": 4})}
    )
    model.load()
    server.reset()
    fitted = pixels(model, images)
    grid = [(image, text) for image in fitted[:2] for text in TEXTS[:2]]
    model.compute_similarity(grid)
    (body,) = server.bodies
    assert (len(body["images"]), len(body["texts"])) == (2, 2)
    server.reset()
    model.compute_similarity([(fitted[index % 3], f"text {index}") for index in range(9)])
    crossed = [len(body.get("pairs") or body["texts"]) for body in server.bodies]
    assert crossed == [4, 4, 1]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int, server: RemoteServer) -> None:
    model = load(server)
    server.fail, server.status = 2, status
    model.warmup()
    assert len(server.asked) == 3


def test_a_wish_to_wait_is_respected(server: RemoteServer) -> None:
    model = load(server)
    server.fail, server.status, server.retry_after = 1, 429, "0.3"
    started = time.monotonic()
    model.warmup()
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("status", [400, 422])
def test_what_is_refused_is_not_tried_again(status: int, server: RemoteServer) -> None:
    model = load(server)
    server.fail, server.status = 9, status
    with pytest.raises(ModelFailedError, match="refuses"):
        model.warmup()
    assert len(server.asked) == 1


def test_a_remote_that_is_silent_is_given_up(server: RemoteServer) -> None:
    model = load(server, timeout_s=0.2, retries=0)
    server.hang_s = 2
    with pytest.raises(ModelUnavailableError, match=r"0\.2 s"):
        model.warmup()


def test_a_remote_that_goes_on_failing_is_left_alone_and_asked_again(server: RemoteServer) -> None:
    model = load(server, retries=0, breaker={"failures": 3, "reset_s": 0.5})
    server.fail = 100
    for _ in range(3):
        with pytest.raises(ModelUnavailableError, match="cannot be asked"):
            model.warmup()
    for _ in range(5):
        with pytest.raises(ModelUnavailableError, match=r"left alone for 0\.5 s"):
            model.warmup()
    assert len(server.asked) == 3
    server.fail = 0
    time.sleep(0.6)
    model.warmup()
    model.warmup()
    assert len(server.asked) == 5


def test_one_bad_item_is_no_failure_of_the_remote(server: RemoteServer) -> None:
    model = load(server, model="pairs", breaker={"failures": 1})
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    found = run_poison_proof(
        model.compute_similarity, [(image, text) for text in ("red", "poison", "blue")]
    )
    assert [hasattr(item, "code") for item in found] == [False, True, False]
    assert found[1].code == "model_failed"
    with pytest.raises(ModelFailedError, match="poison"):
        model.compute_similarity([(image, "poison")])
    with pytest.raises(TextEmptyError):
        model.compute_similarity([(image, " ")])
    model.compute_similarity([(image, "red")])


def test_a_remote_that_is_away_is_not_asked_for_each_item(server: RemoteServer) -> None:
    model = load(server, retries=0)
    server.fail = 100
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    found = run_poison_proof(model.compute_similarity, [(image, f"{n}") for n in range(8)])
    assert {item.code for item in found} == {"model_unavailable"}
    assert len(server.asked) == 1


def test_another_revision_is_not_taken_for_the_one_that_was_loaded(server: RemoteServer) -> None:
    model = load(server)
    state: Any = model
    assert state._loaded.asked == state._loaded.id
    state._loaded.id = "demo@00000000"
    with pytest.raises(ModelUnavailableError, match="answers with demo@"):
        model.warmup()
    state._loaded.asked = "demo@00000000"
    with pytest.raises(ModelUnavailableError, match="has no revision"):
        model.warmup()
    following = load(server, follow=True)
    following.warmup()
    assert server.bodies[-1]["model"] == "demo"


@pytest.mark.parametrize("kind", ["service", "embeddings"])
def test_the_key_is_sent_and_never_shown(
    kind: str, server: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelLoadError, match="REMOTE_KEY is not set"):
        make(server, kind, api_key_env="REMOTE_KEY").load()
    monkeypatch.setenv("REMOTE_KEY", KEY)
    model = make(server, kind, api_key_env="REMOTE_KEY")
    model.load()
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    shown = repr((model.spec, model.details, SimilarityModelFactory().fingerprint(model.spec)))
    server.fail, server.status = 9, 401
    with pytest.raises(ModelUnavailableError, match="refuses the key") as caught:
        model.warmup()
    assert KEY not in shown + str(caught.value)


@pytest.mark.parametrize("kind", ["service", "embeddings"])
@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"results": [], "data": []}',
        b'{"results": [{"scores": {"cosine": "x"}}], "data": [{"index": 0, "embedding": "%%"}]}',
        b'{"results": [{}], "data": [{"index": 0, "embedding": [NaN, 1]}]}',
        b'{"results": [null], "data": [{"index": 0, "embedding": [0, 0]}]}',
        b'{"results": 3, "data": [{"index": 0, "embedding": [1, 2, 3]}]}',
    ],
)
def test_an_answer_that_is_none_is_told(kind: str, body: bytes, server: RemoteServer) -> None:
    model = load(server, kind)
    server.replace = body
    with pytest.raises(ModelFailedError, match=server.url):
        model.warmup()


@pytest.mark.parametrize("kind", ["service", "embeddings"])
def test_a_remote_that_is_not_there_is_told(kind: str, server: RemoteServer) -> None:
    nowhere = RemoteServer(url="http://127.0.0.1:9")
    model = make(nowhere, kind, retries=0)
    with pytest.raises(ModelLoadError, match=r"http://127\.0\.0\.1:9"):
        model.load()
    with pytest.raises(ModelFailedError, match="not loaded"):
        _ = model.capabilities
    with pytest.raises(ModelLoadError, match="nosuch"):
        make(server, kind, model="nosuch").load()


def test_what_is_no_such_service_is_told(server: RemoteServer) -> None:
    server.replace = b'{"hello": "world"}'
    with pytest.raises(ModelLoadError, match="does not tell of its model"):
        make(server).load()


def test_no_redirect_is_followed(server: RemoteServer) -> None:
    model = load(server)
    server.fail, server.status = 1, 307
    with pytest.raises(ModelFailedError, match="status 307"):
        model.warmup()


FITTINGS = {
    "squash": ImagePreprocess((32, 32), resize_mode="squash"),
    "shortest": ImagePreprocess((32, 32)),
    "not square": ImagePreprocess((24, 40)),
    "longest": ImagePreprocess((32, 32), resize_mode="longest", fill_color=9),
    "crop": ImagePreprocess((32, 32), resized=(36, 36), crop_down=True),
    "squash and crop": ImagePreprocess((32, 32), resize_mode="squash", resized=(37, 37)),
}


@pytest.mark.parametrize("name", FITTINGS)
def test_what_is_fitted_here_is_not_fitted_there(name: str, images: list[Image.Image]) -> None:
    remote = FITTINGS[name]
    here = fitted_here(remote)
    for image in images:
        crossed = Image.fromarray(here.apply(image))
        np.testing.assert_array_equal(remote.apply(crossed), remote.apply(image))


def test_what_cannot_be_fitted_here_is_told() -> None:
    with pytest.raises(ModelLoadError, match="odd rest"):
        fitted_here(ImagePreprocess((32, 32), resized=(35, 35)))
    patches = ImagePreprocess((32, 32), resize_mode="patches", patch_size=8, max_patches=16)
    with pytest.raises(ModelLoadError, match="NaFlex"):
        fitted_here(patches)


def test_torch_is_not_needed() -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from serve_app.models.factory import SimilarityModelFactory\n"
        "for kind in ('service', 'embeddings'):\n"
        "    SimilarityModelFactory().resolve('remote', kind)\n"
        "sys.exit(', '.join({'torch', 'ray'} & set(sys.modules)) or None)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
