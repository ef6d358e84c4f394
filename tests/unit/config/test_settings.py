import pytest

from serve_app.config.declaration import configuration_from_environment
from serve_app.config.settings import read_environment


@pytest.mark.parametrize(
    ("environ", "hosts"),
    [
        ({}, None),
        ({"SIMILARITY_FETCH_URLS": "false"}, None),
        ({"SIMILARITY_FETCH_URLS": "true"}, ()),
        (
            {"SIMILARITY_FETCH_URLS": "true", "SIMILARITY_FETCH_HOSTS": "a.example, *.b.example,"},
            ("a.example", "*.b.example"),
        ),
    ],
)
def test_what_is_fetched(environ: dict[str, str], hosts: tuple[str, ...] | None) -> None:
    assert read_environment(environ).faults == ()
    assert configuration_from_environment(environ).fetch_hosts == hosts


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"SIMILARITY_FETCH_URLS": "yes"}, "true or false"),
        ({"SIMILARITY_FETCH_URLS": "True"}, "true or false"),
        ({"SIMILARITY_FETCH_HOSTS": "a.example"}, "has no effect without"),
        (
            {"SIMILARITY_FETCH_URLS": "true", "SIMILARITY_FETCH_HOSTS": "https://a.example,b"},
            "'https://a.example'",
        ),
        ({"SIMILARITY_CACHE_BYTES": "10 GB"}, "number of bytes"),
        ({"SIMILARITY_CACHE_BYTES": "0"}, "above 0"),
    ],
)
def test_wrong_values_are_faults(environ: dict[str, str], told: str) -> None:
    (fault,) = read_environment(environ).faults
    assert told in fault.message


def test_the_cache_is_where_it_is_said() -> None:
    environ = {"SIMILARITY_CACHE_DIR": "/models/cache", "SIMILARITY_CACHE_BYTES": "1000"}
    cache = configuration_from_environment(environ).cache
    assert (cache.folder, cache.max_bytes) == ("/models/cache", 1000)
