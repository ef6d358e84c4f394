from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement, SimilarityModel
from serve_app.models.factory import Backend, SimilarityModelFactory, import_from_string

COMPLETE = """
from serve_app.models.base import SimilarityModel

class Constant(SimilarityModel):
    def load(self): ...
    def compute_similarity(self, pairs): return [{"cosine": 1.0} for _ in pairs]
    capabilities = preprocess = parameters = bytes = None

class Half(SimilarityModel):
    def load(self): ...

class Other: ...
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, as an installed package of somebody else."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    (tmp_path / "outside_backend.py").write_text(COMPLETE)
    (tmp_path / "outside_broken.py").write_text("import a_missing_library\n")
    (tmp_path / "outside_crash.py").write_text("1 / 0\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("outside_"):
            del sys.modules[name]


def offer(folder: Path, name: str, value: str) -> None:
    """Installs an entry point the way packages do."""
    info = folder / "outside-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"[serve_app.models]\n{name} = {value}\n")


def test_an_import_string_is_a_backend(outside: Path) -> None:
    factory = SimilarityModelFactory()
    spec, placement = ModelSpec(backend="outside_backend:Constant"), Placement(threads=1)
    model = factory.create(spec, placement)
    assert isinstance(model, SimilarityModel)
    assert (model.spec, model.placement) == (spec, placement)
    assert factory.resolve("outside_backend:Constant") is type(model)
    assert factory.check(spec) == ()
    factory.prefetch(spec)  # nothing to fetch, and no reason to fail


def test_an_entry_point_is_a_backend(outside: Path) -> None:
    offer(outside, "constant", "outside_backend:Constant")
    factory = SimilarityModelFactory()
    assert factory.names() == (*SimilarityModelFactory.BUILT_IN, "constant")
    assert factory.resolve("constant").__name__ == "Constant"
    assert factory.check(ModelSpec(backend="constant")) == ()


def test_built_in_names_go_before_entry_points(outside: Path) -> None:
    offer(outside, "mine", "outside_backend:Other")
    factory = SimilarityModelFactory({"mine": Backend("outside_backend:Constant")})
    assert factory.names() == ("mine",)
    assert factory.resolve("mine").__name__ == "Constant"


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("open_klip", "did you mean 'open_clip'?"),
        ("zebra", "known are open_clip"),
        ("no_such_module:Model", "there is no module 'no_such_module'"),
        ("outside_backend.inner:Model", "there is no module 'outside_backend.inner'"),
        ("outside_broken:Model", "is there, but its own import failed: ModuleNotFoundError: No"),
        ("outside_crash:Model", "is there, but its own import failed: ZeroDivisionError"),
        ("outside_backend:Constnt", "has no 'Constnt'; did you mean 'Constant'?"),
        ("outside_backend:Other", "is not a subclass"),
        ("outside_backend:Half", "does not implement bytes, capabilities, compute_similarity"),
    ],
)
def test_what_is_wrong_with_a_backend_is_said(outside: Path, backend: str, words: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        SimilarityModelFactory().resolve(backend)
    assert words in str(caught.value)


def test_the_cause_of_a_failed_import_is_chained(outside: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        import_from_string("outside_broken:Model")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert caught.value.__cause__.name == "a_missing_library"


@pytest.mark.parametrize("backend", ["zebra", "no_such_module:Model", "no.such:Model"])
def test_the_light_check_names_the_backend(backend: str) -> None:
    (finding,) = SimilarityModelFactory().check(ModelSpec(backend=backend))
    assert finding.field == "backend"
    assert finding.fault


def test_backends_without_a_fingerprint_are_known_by_words_and_files(
    outside: Path, tmp_path: Path
) -> None:
    factory = SimilarityModelFactory()
    weights = tmp_path / "weights.bin"
    spec = ModelSpec(backend="outside_backend:Constant", pretrained=str(weights))
    absent = factory.fingerprint(spec)
    weights.write_bytes(b"1")
    one = factory.fingerprint(spec)
    weights.write_bytes(b"22")
    assert len({str(found) for found in (absent, one, factory.fingerprint(spec))}) == 3


def test_nothing_heavy_is_imported_before_a_model_is_created() -> None:
    code = (
        "import sys\n"
        "from serve_app.config.defaults import default_document\n"
        "import serve_app.config.serve_file, serve_app.config.sources, serve_app.models.registry\n"
        "from serve_app.config.spec import ModelSpec\n"
        "from serve_app.models.factory import SimilarityModelFactory as Factory\n"
        "spec = ModelSpec(architecture='ViT-B-32', pretrained='openai')\n"
        "assert Factory().check(spec) == (), Factory().check(spec)\n"
        "assert Factory().fingerprint(spec)\n"
        "found = {'torch', 'open_clip', 'transformers', 'ray'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
