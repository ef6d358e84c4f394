"""The committed weights: small, loadable by plain open_clip, and as good as promised."""

import json
import subprocess
import sys

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from typer.testing import CliRunner

from serve_app.demo import (
    MODEL_NAMES,
    WEIGHTS_DIR,
    config_path,
    evaluate,
    model_path,
    network,
    vocabulary,
)
from serve_app.demo import train as training
from serve_app.demo.render import render
from serve_app.demo.sample import SAMPLE


def test_importing_the_package_loads_no_library():
    code = "import sys, serve_app.demo; print([m for m in sys.modules if m in ('torch', 'PIL')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_weights_are_small():
    files = [f for f in WEIGHTS_DIR.iterdir() if f.is_file()]
    assert {model_path(name) for name in MODEL_NAMES} <= set(files)
    assert sum(f.stat().st_size for f in files) <= 12_000_000


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_plain_open_clip_loads_the_files(name):
    config = json.loads(config_path(name).read_text())
    model = CLIP(**config["model_cfg"])
    weights = load_file(model_path(name))
    model.load_state_dict(weights)
    assert "logit_scale" in weights
    text_cfg = config["model_cfg"]["text_cfg"]
    tokenizer = vocabulary.tokenizer(WEIGHTS_DIR)
    assert text_cfg["vocab_size"] == tokenizer.vocab_size
    assert text_cfg["context_length"] == tokenizer.context_length
    assert (WEIGHTS_DIR / text_cfg["tokenizer_kwargs"]["bpe_path"]).is_file()
    assert config["preprocess_cfg"] == network.PREPROCESS


def test_a_wide_drawing_is_seen_whole():
    preprocess = network.preprocessing()
    assert preprocess(render(SAMPLE, 640)).shape == (3, network.IMAGE_SIZE, network.IMAGE_SIZE)
    wide = render(SAMPLE, 640).resize((1280, 320))
    pixels = preprocess(wide)
    # The rows above and below a wide picture are filled with white, nothing is cut off.
    assert torch.equal(pixels[:, 0], torch.ones_like(pixels[:, 0]))


def test_an_unknown_name_is_refused_in_words():
    with pytest.raises(ValueError, match="the embedded models are demo, demo-lite"):
        model_path("demo-max")


def test_the_sample_picture_scores_as_it_should():
    encoder = evaluate.Encoder("demo")
    image = encoder.images([render(SAMPLE, 640)])
    true, *others = (
        image
        @ encoder.texts(
            [
                "a red circle left of a blue square",
                "a blue circle left of a red square",
                "a red circle right of a blue square",
                "a green triangle",
                "a yellow star",
            ]
        ).T
    )[0]
    assert true > max(others) + 0.1


@pytest.mark.slow
def test_the_weights_reach_their_targets():
    demo, lite = (evaluate.evaluate(evaluate.Encoder(n)) for n in MODEL_NAMES)
    assert demo.single >= 0.97
    assert demo.colour >= 0.97
    assert min(demo.left_right, demo.above_below) >= 0.95
    assert min(demo.foreign_colour, demo.foreign_relation) >= 0.95
    assert lite.single >= 0.90
    assert demo.colour - lite.colour >= 0.15
    assert demo.left_right - lite.left_right >= 0.15


def test_the_command_lines_work(tmp_path):
    runner = CliRunner()
    for module in (training, evaluate):
        app = _app(module)
        assert runner.invoke(app, ["--help"]).exit_code == 0
        wrong = runner.invoke(app, ["--model", "demo-max"])
        assert wrong.exit_code == 2
        assert "demo-max" in wrong.output
    done = runner.invoke(_app(evaluate), ["--model", "demo", "--json", "--rounds", "1"])
    assert done.exit_code == 0
    assert set(json.loads(done.output)) == {"demo"}


def _app(module):
    import typer

    app = typer.Typer()
    app.command()(module.main)
    return app
