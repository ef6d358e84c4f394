import io

import numpy as np
import pytest
from PIL import Image

from serve_app.bench.workload import HEIGHT, WIDTH, Workload


def decoded(content):
    return Image.open(io.BytesIO(content))


def test_equal_seeds_and_indexes_give_equal_requests():
    assert Workload(3).requests(5, 4) == Workload(3).requests(5, 4)
    assert Workload(3).request(7) == Workload(3).requests(5, 4)[2]


def test_another_seed_gives_other_images():
    assert Workload(3).request(0).image != Workload(4).request(0).image


def test_no_two_images_share_bytes_or_pixels():
    requests = Workload(0).requests(0, 40)
    assert len({request.image for request in requests}) == 40
    assert len({decoded(request.image).tobytes() for request in requests}) == 40


def test_images_are_jpegs_of_a_photographs_size():
    for request in Workload(1).requests(0, 20):
        image = decoded(request.image)
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
        assert 50_000 <= len(request.image) <= 100_000


def test_images_have_content():
    pixels = np.asarray(decoded(Workload(0).request(0).image), np.float32)
    assert pixels.std() > 20
    neighbours = np.abs(np.diff(pixels, axis=1)).mean()
    assert neighbours < pixels.std() / 4  # smooth, as photographs are; noise is not


def test_no_two_texts_are_equal_and_all_have_five_to_twelve_words():
    workload = Workload(0)
    texts = [
        text
        for index in (*range(2000), *range(1_000_000, 1_002_000))
        for text in workload._texts(np.random.default_rng(index), index)
    ]
    assert len(texts) == len(set(texts)) == 16_000
    assert {len(text.split()) for text in texts} == set(range(5, 13))


@pytest.mark.parametrize("index", [0, 12])
def test_a_request_has_four_texts(index):
    assert len(set(Workload(0).request(index).texts)) == 4
