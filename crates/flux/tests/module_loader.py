"""A broker module without any Flux library: what RFC 3 and RFC 5 ask of a module, by hand.

Serves NAME.echo, which answers with the request's payload, until it is asked to end. With the
argument `fail` it ends at once with ENOSPC, with `die` it is killed once it serves.
"""

import json
import os
import signal
import socket
import struct
import sys

REQUEST, RESPONSE = 1, 2
TOPIC, PAYLOAD, NORESPONSE, ROUTE = 1, 2, 4, 8
ANY = 0xFFFFFFFF
fd = int(os.environ["FLUX_MODULE_URI"].removeprefix("fd://"))
stream = socket.socket(fileno=fd)


def receive(count):
    data = b""
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            sys.exit("the broker is gone")
        data += piece
    return data


def receive_message():
    magic, length = struct.unpack("<I", receive(4))[0], struct.unpack(">I", receive(4))[0]
    assert magic == 0xFFEE0012
    body, parts = receive(length), []
    while body:
        size, body = body[0], body[1:]
        if size == 255:
            size, body = struct.unpack(">I", body[:4])[0], body[4:]
        parts.append(body[:size])
        body = body[size:]
    return parts


def send_message(parts):
    body = b""
    for part in parts:
        size = bytes([len(part)]) if len(part) < 255 else b"\xff" + struct.pack(">I", len(part))
        body += size + part
    stream.sendall(struct.pack("<I", 0xFFEE0012) + struct.pack(">I", len(body)) + body)


def proto(kind, flags, aux1, aux2):
    return struct.pack(">BBBBIIII", 0x8E, 1, kind, flags, ANY, 0, aux1, aux2)


def report(**state):
    payload = json.dumps(state).encode() + b"\0"
    flags = TOPIC | PAYLOAD | ROUTE | NORESPONSE
    send_message([b"", b"module.status", payload, proto(REQUEST, flags, ANY, 0)])


assert receive(1) == b"\0"
welcome = json.loads(receive_message()[-2].rstrip(b"\0"))
assert welcome["attrs"]["rank"] == "0", welcome
name, arguments = welcome["name"], welcome["args"] or []
if "fail" in arguments:
    report(status=3, errnum=28)
    sys.exit(0)
report(status=1)
if "die" in arguments:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    *routes, head = receive_message()
    kind, flags = head[2], head[3]
    if kind != REQUEST:
        continue
    payload = routes.pop() if flags & PAYLOAD else None
    topic = routes.pop().decode()
    if topic == f"{name}.shutdown":
        break
    matchtag = struct.unpack(">I", head[16:20])[0]
    answer = [*routes, topic.encode()] + ([payload] if payload else [])
    send_message([*answer, proto(RESPONSE, flags, 0, matchtag)])
report(status=2)
report(status=3, errnum=0)
