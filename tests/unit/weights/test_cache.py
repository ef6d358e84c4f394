"""Weights are downloaded once, whole or not at all, and what is in use stays."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import MissingExtraError, ModelLoadError
from serve_app.weights import cache as cache_module
from serve_app.weights import remote
from serve_app.weights.address import Address, parse_address
from serve_app.weights.cache import WeightsCache
from tests.weights_server import WeightsServer, serving

ONE, TWO = os.urandom(300_000), os.urandom(200_000)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving({"/one.safetensors": ONE, "/two.pt": TWO}) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once."""
    import tenacity

    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda **_: tenacity.wait_none())


def fetch(cache: WeightsCache, address: Address, sha256: str | None = None) -> bytes:
    with cache.lease(address, sha256) as found:
        assert found.path.name == address.name
        content = found.path.read_bytes()
        assert (found.sha256, found.bytes) == (sha(content), len(content))
    return content


def leftovers(cache: WeightsCache) -> list[Path]:
    return list((cache.folder / "partial").iterdir())


def test_a_file_is_downloaded_once(cache: WeightsCache, server: WeightsServer) -> None:
    address = parse_address(server.url("/one.safetensors"))
    told: list[tuple[int, int | None]] = []
    with cache.lease(address, progress=lambda done, total: told.append((done, total))):
        pass
    assert told[-1] == (len(ONE), len(ONE))
    assert sorted(told) == told
    assert fetch(cache, address) == ONE
    assert fetch(WeightsCache(cache.folder), address) == ONE
    assert server.gets == ["/one.safetensors"]
    assert leftovers(cache) == []


def test_what_has_changed_is_downloaded_again(cache: WeightsCache, server: WeightsServer) -> None:
    address = parse_address(server.url("/one.safetensors"))
    fetch(cache, address)
    server.files["/one.safetensors"] = TWO
    assert fetch(cache, address) == TWO
    assert len(cache.entries()) == 2, "the first may be in use, and is the address's no more"


def test_with_a_checksum_nobody_is_asked(cache: WeightsCache, server: WeightsServer) -> None:
    address = parse_address(server.url("/one.safetensors"))
    fetch(cache, address, sha(ONE))
    server.files.clear()
    assert fetch(cache, address, sha(ONE)) == ONE
    elsewhere = parse_address("https://mirror.example/one.safetensors")
    assert fetch(cache, elsewhere, sha(ONE)) == ONE, "the same by its content"


def test_a_server_that_is_away_is_no_matter_for_what_is_here(
    cache: WeightsCache, server: WeightsServer, caplog: pytest.LogCaptureFixture
) -> None:
    address = parse_address(server.url("/one.safetensors"))
    fetch(cache, address)
    server.fail = 100
    assert fetch(cache, address) == ONE
    assert "cannot be reached" in caplog.text


def test_a_wrong_checksum_leaves_nothing(cache: WeightsCache, server: WeightsServer) -> None:
    address = parse_address(server.url("/one.safetensors"))
    with pytest.raises(ModelLoadError, match="does not match") as caught:
        fetch(cache, address, sha(TWO))
    assert sha(TWO) in str(caught.value)
    assert sha(ONE) in str(caught.value)
    assert cache.entries() == leftovers(cache) == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_broken_connection_is_tried_again(
    times: int, cache: WeightsCache, server: WeightsServer
) -> None:
    server.cut = times
    assert fetch(cache, parse_address(server.url("/one.safetensors"))) == ONE
    assert len(server.gets) == times + 1


def test_half_a_file_never_becomes_a_model(cache: WeightsCache, server: WeightsServer) -> None:
    server.cut = 100
    with pytest.raises(ModelLoadError, match="could not be downloaded"):
        fetch(cache, parse_address(server.url("/one.safetensors")))
    assert cache.entries() == leftovers(cache) == []
    server.cut = 0
    assert fetch(cache, parse_address(server.url("/one.safetensors"))) == ONE


@pytest.mark.parametrize(
    ("fail", "path", "told"),
    [(0, "/absent.pt", "nothing behind"), (100, "/one.safetensors", "could not be downloaded")],
)
def test_what_cannot_be_had_is_told(
    fail: int, path: str, told: str, cache: WeightsCache, server: WeightsServer
) -> None:
    server.fail = fail
    with pytest.raises(ModelLoadError, match=told) as caught:
        fetch(cache, parse_address(server.url(path)))
    assert path in str(caught.value)


def test_nobody_there_is_told(cache: WeightsCache, server: WeightsServer) -> None:
    with pytest.raises(ModelLoadError, match="can this machine reach it"):
        fetch(cache, parse_address("http://127.0.0.1:9/one.pt"))


def test_a_full_disk_is_told_and_leaves_nothing(
    cache: WeightsCache, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_sync", full)  # where the kernel says so at the latest
    with pytest.raises(ModelLoadError, match=r"No space left.*SIMILARITY_CACHE_DIR"):
        fetch(cache, parse_address(server.url("/one.safetensors")))
    assert cache.entries() == leftovers(cache) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, server: WeightsServer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="SIMILARITY_CACHE_DIR"):
        fetch(WeightsCache(tmp_path / "file" / "cache"), parse_address(server.url("/two.pt")))


def test_a_missing_driver_is_told_with_the_command_that_installs_it(
    cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serve-app\[s3\]'"):
        fetch(cache, parse_address("s3://bucket/one.pt"))


def _fetch_there(folder: Path, url: str, started: Any, results: Any) -> None:
    started.wait()
    results.put(sha(fetch(WeightsCache(folder), parse_address(url))))


def test_processes_that_want_the_same_download_it_once(
    cache: WeightsCache, server: WeightsServer
) -> None:
    server.pause_s = 0.05
    context = multiprocessing.get_context("spawn")
    started, results = context.Event(), context.Queue()
    arguments = (cache.folder, server.url("/one.safetensors"), started, results)
    processes = [context.Process(target=_fetch_there, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    started.set()
    assert [results.get(timeout=60) for _ in processes] == [sha(ONE)] * 4
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert server.gets == ["/one.safetensors"]


def test_a_killed_download_leaves_the_way_free(cache: WeightsCache, server: WeightsServer) -> None:
    server.pause_s = 0.2
    context = multiprocessing.get_context("spawn")
    started, results = context.Event(), context.Queue()
    started.set()
    url = server.url("/one.safetensors")
    process = context.Process(target=_fetch_there, args=(cache.folder, url, started, results))
    process.start()
    partial = cache.folder / "partial"
    until = time.monotonic() + 60
    while not any(path.is_file() for path in partial.rglob("*") if partial.is_dir()):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(30)
    assert leftovers(cache) != []
    server.pause_s = 0.0
    assert fetch(cache, parse_address(url)) == ONE
    assert leftovers(cache) == []


def test_what_was_used_longest_ago_goes(tmp_path: Path, server: WeightsServer) -> None:
    server.files["/three.pt"] = os.urandom(100_000)
    cache = WeightsCache(tmp_path / "cache", max_bytes=520_000)
    one, two, three = (
        parse_address(server.url(path)) for path in ("/one.safetensors", "/two.pt", "/three.pt")
    )
    fetch(cache, one)
    fetch(cache, two)
    for entry in cache.entries():  # clocks of files are coarse
        os.utime(entry / ".used", (1, 1))
    fetch(cache, one)
    fetch(cache, three)
    assert {entry.name for entry in cache.entries()} == {sha(ONE), sha(server.files["/three.pt"])}
    assert cache.find(two) is None
    assert fetch(cache, two) == TWO


def _hold_there(folder: Path, url: str, held: Any, release: Any) -> None:
    with WeightsCache(folder).lease(parse_address(url)) as found:
        held.set()
        release.wait(60)
        assert found.path.read_bytes()


def test_what_is_in_use_in_another_process_stays(tmp_path: Path, server: WeightsServer) -> None:
    cache = WeightsCache(tmp_path / "cache", max_bytes=400_000)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    arguments = (cache.folder, server.url("/one.safetensors"), held, release)
    process = context.Process(target=_hold_there, args=arguments)
    process.start()
    assert held.wait(60)
    fetch(cache, parse_address(server.url("/two.pt")))  # too much for both
    assert sha(ONE) in {entry.name for entry in cache.entries()}
    release.set()
    process.join(30)
    assert process.exitcode == 0
    server.files["/three.pt"] = os.urandom(150_000)
    fetch(cache, parse_address(server.url("/three.pt")))
    assert sha(ONE) not in {entry.name for entry in cache.entries()}


def test_what_is_larger_than_the_cache_is_told(tmp_path: Path, server: WeightsServer) -> None:
    cache = WeightsCache(tmp_path / "cache", max_bytes=1000)
    with pytest.raises(ModelLoadError, match=r"300,000.*1,000.*SIMILARITY_CACHE_BYTES"):
        fetch(cache, parse_address(server.url("/one.safetensors")))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket by S3's own protocol."""
    import fsspec
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    if not system.exists("models"):  # the server's buckets outlive it
        system.mkdir("models")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_file_in_a_bucket(cache: WeightsCache, bucket: Any) -> None:
    bucket.pipe("models/mine/one.safetensors", ONE)
    address = parse_address("s3://models/mine/one.safetensors")
    assert fetch(cache, address) == ONE
    bucket.pipe("models/mine/one.safetensors", TWO)
    assert fetch(cache, address) == TWO
    with pytest.raises(ModelLoadError, match="nothing behind"):
        fetch(cache, parse_address("s3://models/mine/absent.pt"))


def test_a_folder_in_a_bucket_without_what_no_model_needs(cache: WeightsCache, bucket: Any) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": ONE,
        "pytorch_model.bin": TWO,
        "README.md": b"hello",
        "tokenizer/vocab.txt": b"a b c",
    }
    for name, content in files.items():
        bucket.pipe(f"models/clip/{name}", content)
    address = parse_address("s3://models/clip/")
    with cache.lease(address, sha(ONE)) as found:
        assert found.sha256 == sha(ONE)
        names = {
            str(path.relative_to(found.path))
            for path in found.path.rglob("*")
            if path.is_file() and path.name != ".used"
        }
        assert names == {"config.json", "model.safetensors", "tokenizer/vocab.txt"}
    with pytest.raises(ModelLoadError, match="does not match"), cache.lease(address, sha(TWO)):
        pass
    with (
        pytest.raises(ModelLoadError, match="no weights behind"),
        cache.lease(parse_address("s3://models/absent/")),
    ):
        pass


def test_a_name_that_leads_out_of_its_folder_is_refused(
    cache: WeightsCache, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelLoadError, match="not in its folder"):
        remote._relative("models/clip/../../etc/passwd", "models/clip")


def test_a_reference_that_cannot_be_read_is_none(
    cache: WeightsCache, server: WeightsServer
) -> None:
    address = parse_address(server.url("/two.pt"))
    fetch(cache, address)
    (reference,) = (cache.folder / "addresses").iterdir()
    for content in ("", "[]", json.dumps({"address": 1})):
        reference.write_text(content)
        assert cache.find(address) is None
        assert fetch(cache, address) == TWO


def test_the_same_content_from_two_addresses_at_once_is_kept_once(
    cache: WeightsCache, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/mirror/one.safetensors"] = ONE
    first, second = (
        parse_address(server.url(path)) for path in ("/one.safetensors", "/mirror/one.safetensors")
    )
    bring = cache_module.bring

    def while_another_is_faster(address: Address, *given: Any) -> None:
        bring(address, *given)
        if address == first:
            assert fetch(WeightsCache(cache.folder), second) == ONE

    monkeypatch.setattr(cache_module, "bring", while_another_is_faster)
    assert fetch(cache, first) == ONE
    assert len(cache.entries()) == 1
    assert leftovers(cache) == []


def test_what_another_process_threw_away_first_makes_room_too(
    tmp_path: Path, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = WeightsCache(tmp_path / "cache", max_bytes=len(ONE) + 1000)
    fetch(cache, parse_address(server.url("/one.safetensors")))
    entries = cache.entries()
    monkeypatch.setattr(cache, "entries", lambda: entries)
    shutil.rmtree(entries[0])
    assert fetch(cache, parse_address(server.url("/two.pt"))) == TWO


def test_what_a_process_left_that_was_killed_while_throwing_away_goes(
    tmp_path: Path, server: WeightsServer
) -> None:
    cache = WeightsCache(tmp_path / "cache", max_bytes=len(ONE) + 1000)
    fetch(cache, parse_address(server.url("/one.safetensors")))
    grave = cache.folder / "partial" / f"{sha(ONE)}.thrown-away"
    grave.mkdir()
    (grave / "one.safetensors").write_bytes(ONE)
    fetch(cache, parse_address(server.url("/two.pt")))
    assert [entry.name for entry in cache.entries()] == [sha(TWO)]
    assert leftovers(cache) == []
