"""Keys are kept as hashes, and no fault ever shows what was written in a hash's place."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from serve_app.config.access import (
    Access,
    AccessSource,
    ApiKey,
    access_from_environment,
    key_digest,
)
from serve_app.config.declaration import configuration_from_environment
from serve_app.config.exposure import check_exposure, is_loopback
from serve_app.errors import ConfigError

SECRET = "sk-this-is-the-key-itself"
HASH = key_digest(SECRET)


def read(text: str, *, operable: bool = True) -> Access:
    return AccessSource(text, operable=operable).read()


def test_keys_are_read_with_their_roles_and_limits() -> None:
    found = read(
        f"team-a: {{sha256: {HASH}, requests_per_minute: 60, max_in_progress: 2}}\n"
        f"ops: {{sha256: {key_digest('another')}, role: admin}}\n"
    )
    assert found == Access(
        (
            ApiKey("team-a", HASH, "score", 60, 2),
            ApiKey("ops", key_digest("another"), "admin"),
        ),
        required=True,
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"team-a: {{sha256: {SECRET}}}", "must be the SHA-256"),
        (f"team-a: {{sha256: [{SECRET}]}}", "must be the SHA-256"),
        (f"team-a: {SECRET}", "must be a mapping"),
        (f"team-a: {{sha256: {HASH.upper()}}}", "must be the SHA-256"),
        (f"{SECRET.upper()}: {{sha256: {HASH}}}", "a name has lower-case letters"),
        ("team-a: {}", "sha256"),
        (f"admin-token: {{sha256: {HASH}}}", "a name has"),
        (f"a: {{sha256: {HASH}, role: root}}", "must be 'score' or 'admin'"),
        (f"a: {{sha256: {HASH}, rate: 5}}", "unknown key"),
        (f"a: {{sha256: {HASH}, max_in_progress: 0}}", "at least 1"),
        (f"a: {{sha256: {HASH}}}\nb: {{sha256: {HASH}}}", "is that of a too"),
        (f"a: {{sha256: {HASH}}}\na: {{sha256: {HASH}}}", "given twice"),
        ("", "is empty"),
        ("- a", "must be a mapping"),
        (f"a: {{sha256: {SECRET}", "is not YAML"),
    ],
)
def test_faults_name_the_place_and_never_the_value(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read(text)
    assert SECRET not in str(caught.value)
    assert SECRET.upper() not in str(caught.value)


def test_an_operators_key_needs_a_state() -> None:
    text = f"ops: {{sha256: {HASH}, role: admin}}"
    assert read(text).keys[0].role == "admin"
    with pytest.raises(ConfigError, match=r"ops\.role: admin needs SIMILARITY_STATE_URL"):
        read(text, operable=False)


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"a: {{sha256: {HASH}}}")
    source = access_from_environment({"SIMILARITY_API_KEYS_FILE": str(file)})
    assert [key.name for key in source.read().keys] == ["a"]
    file.write_text(f"b: {{sha256: {HASH}}}")
    assert [key.name for key in source.read().keys] == ["b"]
    file.unlink()
    with pytest.raises(ConfigError, match="there is no file"):
        source.read()


def test_what_travels_has_no_token_and_no_key() -> None:
    found = configuration_from_environment(
        {"SIMILARITY_ADMIN_TOKEN": SECRET, "SIMILARITY_STATE_URL": "sqlite:////tmp/state.db"}
    )
    assert SECRET.encode() not in pickle.dumps(found)
    assert found.access.read() == Access((ApiKey("admin-token", HASH, "admin"),), required=False)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_who_can_reach_an_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    everybody = configuration_from_environment({})
    if loopback:
        check_exposure(host, everybody)
        return
    with pytest.raises(ConfigError, match="no key is asked for"):
        check_exposure(host, everybody)
    check_exposure(host, configuration_from_environment({"SIMILARITY_OPEN": "true"}))
    keys = configuration_from_environment({"SIMILARITY_API_KEYS": f"a: {{sha256: {HASH}}}"})
    check_exposure(host, keys)


def test_a_token_of_operators_alone_keeps_nobody_from_scoring() -> None:
    token = {"SIMILARITY_ADMIN_TOKEN": SECRET, "SIMILARITY_STATE_URL": "sqlite:////tmp/state.db"}
    with pytest.raises(ConfigError, match="no key is asked for"):
        check_exposure("0.0.0.0", configuration_from_environment(token))
