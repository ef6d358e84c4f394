"""Requests of bounded size, put together again; the scorer here answers with what it was asked."""

from pathlib import Path

import pytest

from serve_app.cli.scoring import UNREADABLE, Task, score_all
from serve_app.config.args import Limits
from serve_app.errors import ServeAppError
from serve_app.types import PairResult, ScoreRequest, ScoreResponse


class Echo:
    """Scores a pair by the number that the image file holds and the number that the text is."""

    def __init__(self) -> None:
        self.requests: list[ScoreRequest] = []

    def score(self, request: ScoreRequest) -> ScoreResponse:
        self.requests.append(request)
        results = tuple(
            PairResult(i, t, 1000 * int(image[:4]) + int(text))
            for i, image in enumerate(request.images)
            for t, text in enumerate(request.texts)
            if isinstance(image, bytes)
        )
        return ScoreResponse("1", "echo@1", results, {"total": 1.0})

    def close(self) -> None: ...


def files(folder: Path, count: int, size: int = 4) -> list[Path]:
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(f"{number:04}".encode().ljust(size))
    return paths


def run(paths: list[Path], texts: int, limits: Limits) -> tuple[ScoreResponse, Echo, list[int]]:
    echo, done = Echo(), []
    task = Task(paths, [str(number) for number in range(texts)], None, None, "warn")
    return score_all(task, echo, limits, done.append), echo, done


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (3, 4), (50, 3), (2, 25), (7, 12)])
def test_any_number_is_scored_in_requests_within_the_limit(
    tmp_path: Path, images: int, texts: int
) -> None:
    response, echo, done = run(files(tmp_path, images), texts, Limits(max_pairs=10))
    assert [(r.image, r.text, r.score) for r in response.results] == [
        (i, t, 1000 * i + t) for i in range(images) for t in range(texts)
    ]
    assert max(len(asked.images) * len(asked.texts) for asked in echo.requests) <= 10
    assert sum(done) == images
    assert response.timing_ms["total"] == len(echo.requests)


def test_large_files_go_in_several_requests(tmp_path: Path) -> None:
    _, echo, _ = run(files(tmp_path, 6, size=900), 1, Limits(max_body_bytes=4000))
    assert [len(asked.images) for asked in echo.requests] == [2, 2, 2]


def test_a_file_that_went_away_is_an_error_of_its_items(tmp_path: Path) -> None:
    paths = files(tmp_path, 3)
    paths[1].unlink()
    response, _, _ = run(paths, 2, Limits())
    codes = [result.error and result.error.code for result in response.results]
    assert codes == [None, None, UNREADABLE, UNREADABLE, None, None]
    assert [result.image for result in response.results] == [0, 0, 1, 1, 2, 2]
    assert response.results[4].score == 2000


def test_nothing_to_read_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServeAppError, match="None of the image files"):
        run([tmp_path / "absent.png"], 1, Limits())


def test_the_model_that_answered_first_is_named_in_all_further_requests(tmp_path: Path) -> None:
    _, echo, _ = run(files(tmp_path, 30), 3, Limits(max_pairs=10))
    asked = [request.model for request in echo.requests]
    assert len(asked) > 2
    assert asked == [None, *["echo@1"] * (len(asked) - 1)]
