import io
from typing import Any

import numpy as np
import pytest

from serve_app.client.requests import embed_request, rank_request, score_request
from serve_app.errors import InvalidRequestError, TextInvalidError
from serve_app.types import ScoreRequest

OPTIONS: dict[str, Any] = {
    "model": None,
    "metrics": None,
    "routing_key": None,
    "on_truncate": "warn",
}


def score(images: Any = None, texts: Any = None, pairs: Any = None, **options: Any) -> ScoreRequest:
    return score_request(images, texts, pairs, **{**OPTIONS, **options})


def rank(
    text: Any = None, images: Any = None, image: Any = None, texts: Any = None
) -> ScoreRequest:
    return rank_request(text, images, image, texts, **OPTIONS)


def test_a_grid() -> None:
    assert score([b"a"], iter(["x", "y"]), model="demo", metrics=["cosine", "cosine"]) == (
        ScoreRequest((b"a",), ("x", "y"), model="demo", metrics=("cosine",))
    )


def test_pairs_have_an_image_and_a_text_each() -> None:
    request = score(pairs=[(b"a", "x"), (b"b", "y")])
    assert request == ScoreRequest((b"a", b"b"), ("x", "y"), ((0, 0), (1, 1)))


def test_an_open_file_in_several_pairs_is_read_once() -> None:
    file = io.BytesIO(b"content")
    request = score(pairs=[(file, "x"), (file, "y")])
    assert request.images == (b"content", b"content")
    assert request.images[0] is request.images[1]


def test_arrays_made_on_the_fly_are_not_confused() -> None:
    images = (np.full((1, 1, 3), value, np.uint8) for value in range(20))
    assert len(set(score(images, ["x"]).images)) == 20


def test_one_array_of_several_images_is_several_images() -> None:
    assert len(score(np.zeros((3, 2, 2, 3), np.uint8), ["x"]).images) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"images": [b"a"]},
        {"texts": ["x"]},
        {"images": [b"a"], "texts": ["x"], "pairs": [(b"a", "x")]},
        {"texts": ["x"], "pairs": [(b"a", "x")]},
        {"images": [], "texts": ["x"]},
        {"images": [b"a"], "texts": []},
        {"pairs": []},
        {"images": [b"a"], "texts": ["x"], "on_truncate": "never"},
    ],
)
def test_wrong_forms_are_refused_as_the_service_does(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        score(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"images": "a.png", "texts": ["x"]},
        {"images": b"a", "texts": ["x"]},
        {"images": io.BytesIO(b"a"), "texts": ["x"]},
        {"images": np.zeros((2, 2, 3), np.uint8), "texts": ["x"]},
        {"images": [b"a"], "texts": "x"},
        {"images": [b"a"], "texts": [b"x"]},
        {"pairs": [(b"a", "x", "y")]},
        {"pairs": [b"ax"]},
    ],
)
def test_one_item_where_several_belong_is_a_type_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        score(**arguments)


def test_text_that_is_not_unicode_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TextInvalidError, match=r"texts\[1\].*character 2"):
        score([b"a"], ["x", "ab\ud800"])


def test_one_metric_may_be_a_str_and_none_is_the_usual() -> None:
    assert score([b"a"], ["x"], metrics="cosine").metrics == ("cosine",)
    assert score([b"a"], ["x"], metrics=[]).metrics is None


def test_an_empty_model_name_is_the_default_whichever_way_it_goes() -> None:
    assert score([b"a"], ["x"], model="").model is None


def test_rank_takes_one_text_or_one_image() -> None:
    assert rank(text="x", images=[b"a", b"b"]) == ScoreRequest((b"a", b"b"), ("x",))
    assert rank(image=b"a", texts=["x", "y"]) == ScoreRequest((b"a",), ("x", "y"))
    for wrong in ({"text": "x"}, {"text": "x", "texts": ["y"]}, {"image": b"a", "images": [b"b"]}):
        with pytest.raises(InvalidRequestError, match="give either"):
            rank(**wrong)


def test_embed_takes_texts_as_str_and_images_as_everything_else() -> None:
    request = embed_request(["a text", b"image"], model=None, on_truncate="error")
    assert request.inputs == ("a text", b"image")
    assert request.on_truncate == "error"
    assert request.routing_key is None
    keyed = embed_request(["a"], model=None, on_truncate="warn", routing_key="user-1")
    assert keyed.routing_key == "user-1"
    with pytest.raises(InvalidRequestError):
        embed_request([], model=None, on_truncate="warn")
    with pytest.raises(TypeError, match="list"):
        embed_request("a text", model=None, on_truncate="warn")
