import asyncio
import base64
import email
import json

import pytest

from serve_app.bench.http_load import HttpClient, encode_request
from serve_app.bench.load import score_fault
from serve_app.bench.workload import BenchRequest

REQUEST = BenchRequest(b"\xff\xd8 not really\r\n a jpeg", ("a hat", "two hats"))


def split(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return lines[0], dict(line.split(": ", 1) for line in lines[1:]), body


def test_json_requests_carry_data_uris():
    line, fields, body = split(encode_request(REQUEST, "json", "here:1", "load"))
    assert line == "POST /v1/score HTTP/1.1"
    assert fields["Host"] == "here:1"
    assert int(fields["Content-Length"]) == len(body)
    document = json.loads(body)
    assert document["texts"] == list(REQUEST.texts)
    assert document["model"] == "load"
    assert base64.b64decode(document["images"][0].partition(",")[2]) == REQUEST.image


def test_multipart_requests_carry_the_bytes_as_they_are():
    _, fields, body = split(encode_request(REQUEST, "multipart", "here:1", None))
    assert int(fields["Content-Length"]) == len(body)
    message = email.message_from_bytes(
        f"Content-Type: {fields['Content-Type']}\r\n\r\n".encode() + body
    )
    parts = [
        (part.get_param("name", header="content-disposition"), part.get_payload(decode=True))
        for part in message.get_payload()
    ]
    assert [content for name, content in parts if name == "text"] == [b"a hat", b"two hats"]
    assert "model" not in [name for name, _ in parts]
    assert REQUEST.image in body


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("status", "scores", "fault"),
    [
        (200, [0.5, 0.25], None),
        (200, [0.5], "1 scores for 2 texts"),
        (200, [0.5, None], "a result without a score"),
        (503, [], "HTTP 503"),
    ],
)
async def test_answers_are_checked_and_the_connection_is_kept(framing, status, scores, fault):
    connections = 0
    served = asyncio.Event()
    body = json.dumps({"results": [{"score": score} for score in scores]}).encode()

    async def serve(reader, writer):
        nonlocal connections
        connections += 1
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            _, fields, _ = split(head)
            await reader.readexactly(int(fields["Content-Length"]))
            writer.write(f"HTTP/1.1 {status} X\r\n".encode())
            if framing == "length":
                writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            else:
                half = len(body) // 2
                writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
                for chunk in (body[:half], body[half:]):
                    writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                writer.write(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient("127.0.0.1", port, [encode_request(REQUEST, "json", "x", None)], 2)
    for _ in range(3):
        answer = await client.send(0)
        assert answer is None if fault is None else answer.startswith(fault)
    await client.close()
    await served.wait()
    assert connections == 1
    server.close()
    await server.wait_closed()


async def test_a_broken_connection_is_a_fault_and_the_next_request_opens_another():
    async def hang_up(reader, writer):
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient("127.0.0.1", port, [encode_request(REQUEST, "json", "x", None)], 2)
    for _ in range(2):
        answer = await client.send(0)
        assert answer is not None
        assert answer.startswith("connection: ")
    server.close()
    await server.wait_closed()


def test_scores_must_be_numbers():
    assert score_fault([0.1, 0.2], 2) is None
    assert score_fault([0.1, float("nan")], 2) == "a result without a score"
