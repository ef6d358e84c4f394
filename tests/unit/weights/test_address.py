import pytest

from serve_app.weights.address import is_address, parse_address


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("https://models.example/a/ViT-B-32.safetensors", "ViT-B-32.safetensors", False),
        ("https://models.example/a%20b.pt?version=3", "a b.pt", False),
        ("s3://bucket/models/mine.pt", "mine.pt", False),
        ("s3://bucket/models/clip/", "clip", True),
        ("gs://bucket/models/clip/", "clip", True),
        ("http://127.0.0.1:8080/a.pt", "a.pt", False),
        ("http://localhost/a.pt", "a.pt", False),
    ],
)
def test_good_addresses(text: str, name: str, folder: bool) -> None:
    assert is_address(text)
    found = parse_address(text)
    assert (found.text, found.name, found.folder) == (text, name, folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://models.example/a.pt", "not safe"),
        ("ftp://models.example/a.pt", "https, s3, gs"),
        ("file:///models/a.pt", "no way to file"),
        ("https://user:secret@models.example/a.pt", "no user name or password"),
        ("s3://key:secret@bucket/a.pt", "no user name or password"),
        ("https://models.example", "names no file"),
        ("https://models.example/", "names no file"),
        ("https://models.example/folder/", "name one file"),
        ("s3://bucket/..", "names no file"),
        ("https://models.example/a%2fb", "names no file"),
        ("https://[::1/a.pt", "cannot be read"),
    ],
)
def test_bad_addresses(text: str, told: str) -> None:
    assert is_address(text)
    with pytest.raises(ValueError, match=told) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "/models/a.pt", "owner/name", "laion2b_s34b_b79k", "~/a"])
def test_what_is_no_address(text: str | None) -> None:
    assert not is_address(text)
