from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.remote_spec import check, fingerprint, options_of

URL = "https://gpu.example"


def spec(kind: str | None = "service", *, fields: Any = None, **options: Any) -> ModelSpec:
    given = {"url": URL, "model": "accurate@1f3a9c20", **options}
    return ModelSpec(backend="remote", architecture=kind, options=given, **(fields or {}))


def test_good_specs_have_no_findings() -> None:
    assert check(spec(api_key_env="GPU_KEY", breaker={"failures": 3}, follow=True)) == []
    assert check(spec("embeddings", url=f"{URL}/v1/", logit_bias=-10.0)) == []
    assert options_of(spec("embeddings", url=f"{URL}/v1/")).url == f"{URL}/v1"


@pytest.mark.parametrize(
    ("kind", "options", "fields", "field", "told"),
    [
        ("servce", {}, {}, "architecture", "did you mean 'service'"),
        (None, {}, {}, "architecture", "service, embeddings"),
        ("service", {"url": "gpu.example"}, {}, "options.url", "https://"),
        ("service", {"url": "ftp://gpu.example"}, {}, "options.url", "https://"),
        ("service", {"url": "https://u:p@gpu.example"}, {}, "options.url", "api_key_env"),
        ("service", {"url": f"{URL}?key=x"}, {}, "options.url", "ends with its path"),
        ("service", {"api_key_env": "sk-123"}, {}, "options.api_key_env", "not the key"),
        ("service", {"timeout_s": 0}, {}, "options.timeout_s", "greater than 0"),
        ("service", {"retries": 99}, {}, "options.retries", "10"),
        ("service", {"breaker": {"failure": 3}}, {}, "options.breaker.failure", "failures"),
        ("service", {"logit_scale": 3}, {}, "options.logit_scale", "unknown"),
        ("embeddings", {"follow": True}, {}, "options.follow", "unknown"),
        ("service", {}, {"pretrained": "x"}, "pretrained", "leave it out"),
        ("service", {}, {"sha256": "0" * 64}, "sha256", "leave it out"),
        ("service", {}, {"preprocessing": {"size": 3}}, "preprocessing", "remote's own"),
        ("embeddings", {}, {"primary": "cosin"}, "primary", "cosine"),
    ],
)
def test_faults(kind: str, options: Any, fields: Any, field: str, told: str) -> None:
    (found,) = check(spec(kind, fields=fields, **options))
    assert (found.field, found.fault) == (field, True)
    assert told in found.message


def test_a_model_without_a_revision_is_a_notice() -> None:
    (found,) = check(spec(model="accurate"))
    assert not found.fault
    assert "name@revision" in found.message


def test_the_fingerprint_says_where_and_what() -> None:
    found = fingerprint(spec(api_key_env="GPU_KEY"))
    assert found == {"remote": URL, "kind": "service", "model": "accurate@1f3a9c20"}
    with pytest.raises(ModelLoadError, match=r"options\.url"):
        fingerprint(spec(url="nowhere"))
