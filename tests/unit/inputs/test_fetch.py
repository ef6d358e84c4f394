"""What a caller's URL can reach: an image where it may be, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

from serve_app.errors import (
    ImageEmptyError,
    ImageTooLargeError,
    ImageUrlRefusedError,
    ImageUrlUnreachableError,
    ItemError,
)
from serve_app.inputs.addresses import why_refused
from serve_app.inputs.fetch import ImageFetcher
from serve_app.inputs.urls import FetchRules, check_url

IMAGE = b"\x89PNG and so on"
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
REDIRECTS = "redirects"

# Each could reach something inside, or be read as something else by another parser.
REFUSED: dict[str, str] = {
    # addresses inside, plainly
    "https://127.0.0.1/": "not a public address",
    "https://127.8.9.10/": "not a public address",
    "https://10.0.0.1/": "not a public address",
    "https://172.16.0.1/": "not a public address",
    "https://172.31.255.255/": "not a public address",
    "https://192.168.1.1/": "not a public address",
    "https://169.254.169.254/latest/meta-data/": "not a public address",
    "https://169.254.170.2/v2/credentials": "not a public address",
    "https://100.100.100.200/": "not a public address",
    "https://100.64.0.1/": "not a public address",
    "https://0.0.0.0/": "not a public address",
    "https://0.1.2.3/": "not a public address",
    "https://255.255.255.255/": "not a public address",
    "https://224.0.0.1/": "not a public address",
    "https://240.0.0.1/": "not a public address",
    "https://192.0.2.1/": "not a public address",
    "https://198.18.0.1/": "not a public address",
    "https://192.0.0.192/opc/v2/": "not a public address",
    "https://168.63.129.16/": "not a public address",
    "https://[3fff::1]/": "not a public address",
    "https://[::ffff:168.63.129.16]/": "not a public address",
    # odd notations of addresses
    "https://2130706433/": "odd notation",
    "https://017700000001/": "odd notation",
    "https://0x7f000001/": "odd notation",
    "https://0x7f.0.0.1/": "odd notation",
    "https://0177.0.0.1/": "odd notation",
    "https://127.1/": "odd notation",
    "https://127.0.1/": "odd notation",
    "https://10.1/": "odd notation",
    "https://127.0.0.0x1/": "odd notation",
    "https://127.0.0.01/": "odd notation",
    "https://127.0.0.256/": "odd notation",
    "https://1.127.0.0.1/": "odd notation",
    "https://0xa9fea9fe/": "odd notation",
    "https://2852039166/": "odd notation",
    "https://127.0.0.1./": "not a public address",
    "https://１２７.0.0.1/": "not a public address",
    "https://127。0。0。1/": "not a public address",
    "https://①②⑦.⓪.⓪.①/": "not a public address",
    # IPv6
    "https://[::1]/": "not a public address",
    "https://[::]/": "not a public address",
    "https://[::ffff:127.0.0.1]/": "not a public address",
    "https://[::ffff:7f00:1]/": "not a public address",
    "https://[0:0:0:0:0:ffff:169.254.169.254]/": "not a public address",
    "https://[::127.0.0.1]/": "not a public address",
    "https://[64:ff9b::7f00:1]/": "not a public address",
    "https://[64:ff9b::169.254.169.254]/": "not a public address",
    "https://[64:ff9b:1::1]/": "not a public address",
    "https://[2002:7f00:1::]/": "not a public address",
    "https://[2002:a9fe:a9fe::1]/": "not a public address",
    "https://[2001:0:7f00:1:0:0:80ff:fffe]/": "not a public address",
    "https://[fe80::1]/": "not a public address",
    "https://[fe80::1%25eth0]/": "zone",
    "https://[fc00::1]/": "not a public address",
    "https://[fd00:ec2::254]/": "not a public address",
    "https://[fec0::1]/": "not a public address",
    "https://[ff02::1]/": "not a public address",
    "https://[2001:db8::1]/": "not a public address",
    "https://[127.0.0.1]/": "cannot be read|no IPv6 address",
    # names that mean something inside, by the resolver of these tests
    "https://localhost/": "not a public address",
    "https://LOCALHOST./": "not a public address",
    "https://inside.example/": "not a public address",
    "https://metadata.google.internal/": "not a public address",
    "https://mapped.example/": "not a public address",
    "https://mixed.example/": "not a public address",
    # user names, and texts that parsers disagree on
    "https://user:password@public.example/": "user name",
    "https://public.example@127.0.0.1/": "user name",
    "https://127.0.0.1#@public.example/": "not a public address",
    "https://public.example\\@127.0.0.1/": "backslash",
    "https://127.0.0.1\\.public.example/": "backslash",
    "https://public.example /": "white space",
    "https://public.example\r\nHost: inside/": "white space",
    "https://public.example\t.evil/": "white space",
    " https://public.example/": "white space",
    "https:///127.0.0.1/": "two slashes",
    "https:127.0.0.1/": "two slashes",
    "https:/127.0.0.1/": "two slashes",
    "https:////127.0.0.1/": "two slashes",
    "https://": "names no host",
    "https://[::1/": "cannot be read",
    "https://public..example/": "no name",
    "https://-public.example/": "no name",
    "https://pub%6cic.example/": "no name",
    "https://" + "a" * 5000: "characters",
    # ports
    "https://public.example:22/": "port 22",
    "https://public.example:6379/": "port 6379",
    "https://public.example:8265/": "port 8265",
    "https://public.example:0/": "port 0",
    "https://public.example:99999/": "cannot be read",
    "https://public.example:443x/": "cannot be read",
    # schemes
    "http://public.example/": "only https",
    "file:///etc/passwd": "only https",
    "ftp://public.example/": "only https",
    "gopher://127.0.0.1:6379/_FLUSHALL": "only https",
    "dict://127.0.0.1:11211/": "only https",
    "ldap://127.0.0.1/": "only https",
    "jar:https://public.example!/": "only https",
    "unix:///var/run/docker.sock": "only https",
    "s3://bucket/key": "only https",
    "data:image/png;base64,AAAA": "only https",
    "//127.0.0.1/": "only https",
    "/etc/passwd": "only https",
}

NAMES: dict[str, Sequence[str]] = {
    "localhost": ["127.0.0.1", "::1"],
    "inside.example": ["10.1.2.3"],
    "metadata.google.internal": ["169.254.169.254"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "mixed.example": ["93.184.215.14", "127.0.0.1"],
    "public.example": ["93.184.215.14"],
}


async def resolve(host: str, port: int) -> Sequence[str]:
    if host not in NAMES:
        raise socket.gaierror(f"no address of {host}")
    return NAMES[host]


def test_there_are_enough_attempts() -> None:
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("url", REFUSED)
async def test_what_leads_inside_is_refused(url: str) -> None:
    fetcher = ImageFetcher(FetchRules(timeout_s=5), resolve=resolve)
    with pytest.raises(ImageUrlRefusedError, match=REFUSED[url]) as caught:
        await fetcher.fetch(url)
    assert "password" not in str(caught.value).replace("user name or password", "")


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A TLS server on loopback that answers what it is told to."""

    port: int = 0
    answers: dict[str, bytes | Answer] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    authority: trustme.CA = field(default_factory=trustme.CA)
    names: dict[str, Sequence[str]] = field(default_factory=dict)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            answer = self.answers[head.split()[1].decode()]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            writer.close()
            await writer.wait_closed()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(f"no address of {host}")
        return self.names[host]

    def fetcher(self, **rules: Any) -> ImageFetcher:
        tls = ssl.create_default_context()
        self.authority.configure_trust(tls)
        given = {"ports": (self.port,), "networks": LOOPBACK, "timeout_s": 5.0, **rules}
        return ImageFetcher(FetchRules(**given), resolve=self.resolve, tls=tls)

    def url(self, path: str = "/image.png", host: str = "images.example") -> str:
        return f"https://{host}:{self.port}{path}"


def answer(
    body: bytes = IMAGE, status: str = "200 OK", kind: str = "image/png", **headers: str
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server(names={"images.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.authority.issue_cert("images.example", "other.example").configure_cert(tls)
    running = await asyncio.start_server(made.handle, "127.0.0.1", 0, ssl=tls)
    made.port = running.sockets[0].getsockname()[1]
    made.answers["/image.png"] = answer()
    yield made
    running.close()


async def test_an_image_is_fetched(server: Server) -> None:
    assert await server.fetcher().fetch(server.url()) == IMAGE
    (head,) = server.asked
    assert f"Host: images.example:{server.port}".encode() in head
    assert b"Accept-Encoding: identity" in head
    for secret in (b"Cookie", b"Authorization", b"Referer"):
        assert secret not in head
    assert server.resolved == ["images.example"]


async def test_paths_and_queries_arrive_as_they_are(server: Server) -> None:
    server.answers["/a%20b/%C3%BC.png?q=1&r=%2F"] = answer()
    assert await server.fetcher().fetch(server.url("/a%20b/ü.png?q=1&r=%2F")) == IMAGE


async def test_a_redirect_is_followed_and_its_name_resolved_once(server: Server) -> None:
    server.answers["/old"] = answer(b"", "302 Found", Location="/image.png")
    server.answers["/older"] = answer(
        b"", "301 Moved", Location=server.url("/old", "other.example")
    )
    assert await server.fetcher().fetch(server.url("/older")) == IMAGE
    assert server.resolved == ["images.example", "other.example"]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://169.254.169.254/latest", "port 443|not a public address"),
        ("https://127.0.0.2:{port}/image.png", "not a public address"),
        ("https://[::1]:{port}/", "not a public address"),
        ("https://2130706433:{port}/", "odd notation"),
        ("https://inside.example:{port}/", "not a public address"),
        ("http://images.example:{port}/image.png", "only https"),
        ("https://u:p@images.example:{port}/image.png", "user name"),
        ("https://images.example:22/", "port 22"),
        ("file:///etc/passwd", "only https"),
        ("//127.0.0.2:{port}/", "not a public address"),
        ("gopher://127.0.0.1/", "only https"),
    ],
)
async def test_a_redirect_to_what_may_not_be_fetched_is_refused(
    location: str, told: str, server: Server
) -> None:
    server.names["inside.example"] = ["10.0.0.1"]
    server.answers["/r"] = answer(b"", "307 On", Location=location.format(port=server.port))
    with pytest.raises(ImageUrlRefusedError, match=told):
        await server.fetcher().fetch(server.url("/r"))
    assert len(server.asked) == 1


async def test_a_redirect_from_https_to_http_is_refused_where_http_is_allowed(
    server: Server,
) -> None:
    server.answers["/r"] = answer(b"", "302 Found", Location=server.url().replace("s:", ":", 1))
    with pytest.raises(ImageUrlRefusedError, match="from https to http"):
        await server.fetcher(http=True).fetch(server.url("/r"))


async def test_redirects_end(server: Server) -> None:
    server.answers["/r"] = answer(b"", "302 Found", Location="/r")
    with pytest.raises(ImageUrlUnreachableError, match="more than 3 redirects"):
        await server.fetcher().fetch(server.url("/r"))
    assert len(server.asked) == 4
    server.answers["/r"] = answer(b"", "302 Found")
    with pytest.raises(ImageUrlUnreachableError, match="nowhere"):
        await server.fetcher().fetch(server.url("/r"))


async def test_a_name_that_changes_its_address_is_not_asked_again(server: Server) -> None:
    """Rebinding: public when it is looked at, inside when it is connected to."""
    addresses = [["127.0.0.1"], ["127.0.0.2"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses[min(len(asked), 2) - 1]

    fetcher = server.fetcher()
    fetcher._resolve = rebinding
    server.answers["/r"] = answer(b"", "302 Found", Location="/image.png")
    assert await fetcher.fetch(server.url("/r")) == IMAGE
    assert asked == ["images.example"]
    # Another fetch asks anew, and finds what is not allowed.
    with pytest.raises(ImageUrlRefusedError, match=r"127\.0\.0\.2"):
        await fetcher.fetch(server.url())


async def test_a_certificate_of_somebody_else_is_not_trusted(server: Server) -> None:
    server.names["third.example"] = ["127.0.0.1"]
    with pytest.raises(ImageUrlUnreachableError, match="no connection"):
        await server.fetcher().fetch(server.url(host="third.example"))
    untrusting = ImageFetcher(
        FetchRules(ports=(server.port,), networks=LOOPBACK), resolve=server.resolve
    )
    with pytest.raises(ImageUrlUnreachableError, match="no connection"):
        await untrusting.fetch(server.url())


async def test_only_hosts_on_the_list_are_asked(server: Server) -> None:
    fetcher = server.fetcher(hosts=("images.example", "*.cdn.example"))
    assert await fetcher.fetch(server.url()) == IMAGE
    for host in ("other.example", "cdn.example", "images.example.evil", "evilcdn.example"):
        with pytest.raises(ImageUrlRefusedError, match="not one of the hosts"):
            await fetcher.fetch(server.url(host=host))
    rules = FetchRules(hosts=("*.cdn.example",))
    assert check_url("https://a.b.CDN.example/x", rules).host == "a.b.cdn.example"


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(1000):
        writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await writer.drain()


async def _slow(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (answer(b"x" * 2001), ImageTooLargeError, "2,000"),
        (_endless, ImageTooLargeError, "2,000"),
        (answer(b""), ImageEmptyError, "no bytes"),
        (answer(status="404 Not Found"), ImageUrlUnreachableError, "status 404"),
        (answer(status="500 Oh"), ImageUrlUnreachableError, "status 500"),
        (answer(kind="text/html"), ImageUrlUnreachableError, "no image but text/html"),
        (answer(kind=""), ImageUrlUnreachableError, "no image but no type"),
        (answer(Content_Encoding="gzip"), ImageUrlUnreachableError, "packed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ImageUrlUnreachableError, "no proper answer"),
        (b"", ImageUrlUnreachableError, "no proper answer"),
        (answer()[:-3], ImageUrlUnreachableError, "no proper answer"),
        (_slow, ImageUrlUnreachableError, "within 0.5 s"),
    ],
    ids=range(12),
)
async def test_what_is_no_image_is_told(
    given: bytes | Answer, kind: type[ItemError], told: str, server: Server
) -> None:
    server.answers["/image.png"] = given
    with pytest.raises(kind, match=told):
        await server.fetcher(max_bytes=2000, timeout_s=0.5).fetch(server.url())


async def test_nothing_inside_is_told_apart(server: Server) -> None:
    """A port that is closed and one that is no web server give the same answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    server.answers["/image.png"] = b"220 mail\r\n"
    told = []
    for port in (closed, server.port):
        fetcher = server.fetcher(ports=(closed, server.port))
        with pytest.raises(ImageUrlUnreachableError) as caught:
            await fetcher.fetch(f"https://images.example:{port}/image.png")
        told.append(str(caught.value).replace(str(port), "PORT"))
    assert told[0] == told[1]


async def test_fetches_wait_for_their_turn(server: Server) -> None:
    running = [0, 0]

    async def counted(writer: asyncio.StreamWriter) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.05)
        writer.write(answer())
        running[0] -= 1

    server.answers["/image.png"] = counted
    fetcher = server.fetcher()
    fetcher._turns = asyncio.Semaphore(2)
    found = await asyncio.gather(*(fetcher.fetch(server.url()) for _ in range(6)))
    assert found == [IMAGE] * 6
    assert running[1] == 2


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_pass(address: str) -> None:
    assert why_refused(ipaddress.ip_address(address)) is None


def test_http_is_for_who_allows_it() -> None:
    rules = FetchRules(http=True)
    assert check_url("http://images.example/a", rules).port == 80
    assert check_url("HTTPS://Images.Example:443/a#b", rules).text == "https://images.example/a"
