import json

import open_clip
import pytest
import torch

from serve_app.bench import limit, plain
from serve_app.bench.child import Measurement
from serve_app.bench.workload import Workload
from serve_app.errors import ServeAppError

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("architecture") / "bench-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return "bench-tiny"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_limit_runs_from_its_command_line(tiny, capsys):
    arguments = ["--architecture", tiny, "--seconds", "0.2", "--batch", "2", "--requests", "4"]
    limit.main([*arguments, "--all"])
    both = results(capsys)
    assert [one["precision"] for one in both] == ["fp32", "bf16"]
    for one in both:
        assert (one["event"], one["threads"], one["batch"]) == ("result", 1, 2)
        assert one["requests"] >= 2
        assert one["requests_per_s"] == pytest.approx(one["requests"] / one["seconds"])
        assert one["batch_latency"]["p50_ms"] > 0


def test_the_limit_computes_what_open_clip_does_though_text_is_cut(tiny):
    torch.manual_seed(0)
    loaded = limit._load(tiny, "fp32")
    requests = Workload(0).requests(0, 3)
    with torch.inference_mode():
        scores = loaded.scores(requests)
        for row, request in zip(scores, requests, strict=True):
            image = loaded.preprocess(limit._decode(request.image)).unsqueeze(0)
            expected = (
                loaded.model.encode_image(image, normalize=True)
                @ loaded.model.encode_text(loaded.tokenizer(list(request.texts)), normalize=True).T
            )
            torch.testing.assert_close(row, expected[0], atol=1e-5, rtol=0)


def test_plain_open_clip_runs_from_its_command_line(tiny, capsys):
    arguments = ["--architecture", tiny, "--seconds", "0.2", "--requests", "2", "--threads", "1"]
    plain.main(arguments)
    (one,) = results(capsys)
    assert (one["event"], one["threads"], one["precision"]) == ("result", 1, "fp32")
    assert one["requests_per_s"] == pytest.approx(one["requests"] / one["seconds"])


def test_a_measurement_that_fails_says_what_it_said():
    arguments = ["--precision", "int3"]
    with (
        Measurement("limit", arguments, threads=1) as measurement,
        pytest.raises(ServeAppError, match=r"code 2 before `ready`(?s:.*)int3"),
    ):
        measurement.run()
