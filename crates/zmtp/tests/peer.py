"""Plays a ZeroMQ peer on real libzmq, for interop.rs.

  peer.py dealer ENDPOINT MECHANISM    send messages, expect each one back
  peer.py router ENDPOINT MECHANISM    print the endpoint bound, echo until "quit"
  peer.py refused ENDPOINT MECHANISM   connect, expect the handshake to fail

MECHANISM is `null` or `curve`. With curve, the environment holds SERVER_PUBLIC, SERVER_SECRET,
CLIENT_PUBLIC and CLIENT_SECRET in Z85.
"""

import os
import sys

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

TIMEOUT_MS = 20000

MESSAGES = [
    [b"hello"],
    [b"", b"", b""],
    [b"a" * 255, b"b" * 256, b"c" * 257],
    [b"large", bytes(range(256)) * 16384],
    [b"last"],
]


def make(context, kind, mechanism):
    socket = context.socket(kind)
    socket.linger = TIMEOUT_MS
    socket.rcvtimeo = TIMEOUT_MS
    socket.sndtimeo = TIMEOUT_MS
    if mechanism == "curve":
        if kind == zmq.ROUTER:
            socket.curve_server = True
            socket.curve_publickey = os.environ["SERVER_PUBLIC"].encode()
            socket.curve_secretkey = os.environ["SERVER_SECRET"].encode()
        else:
            socket.curve_serverkey = os.environ["SERVER_PUBLIC"].encode()
            socket.curve_publickey = os.environ["CLIENT_PUBLIC"].encode()
            socket.curve_secretkey = os.environ["CLIENT_SECRET"].encode()
    return socket


def dealer(context, endpoint, mechanism):
    socket = make(context, zmq.DEALER, mechanism)
    socket.routing_id = b"python"
    # Makes libzmq ping the other side, which must answer to stay connected.
    socket.heartbeat_ivl = 50
    socket.heartbeat_timeout = 10000
    socket.connect(endpoint)
    for message in MESSAGES:
        socket.send_multipart(message)
    for message in MESSAGES:
        reply = socket.recv_multipart()
        assert reply == message, "wrong echo: %r" % reply[0][:80]
    socket.close()


def router(context, endpoint, mechanism):
    authenticator = None
    if mechanism == "curve":
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback("*", Only(os.environ["CLIENT_PUBLIC"]))
    socket = make(context, zmq.ROUTER, mechanism)
    socket.bind(endpoint)
    print(socket.last_endpoint.rstrip(b"\0").decode(), flush=True)
    while True:
        message = socket.recv_multipart()
        socket.send_multipart(message)
        if message[1:] == [b"quit"]:
            break
    socket.close()
    if authenticator:
        authenticator.stop()


class Only:
    """Lets one client key in."""

    def __init__(self, key):
        self.key = key.encode()

    def callback(self, domain, key):
        return key == self.key


def refused(context, endpoint, mechanism):
    socket = make(context, zmq.DEALER, mechanism)
    monitor = socket.get_monitor_socket()
    monitor.rcvtimeo = TIMEOUT_MS
    socket.reconnect_ivl = -1
    socket.linger = 0
    socket.connect(endpoint)
    failures = (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        zmq.EVENT_DISCONNECTED,
    )
    while True:
        event = recv_monitor_message(monitor)
        assert event["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED, "handshake succeeded"
        if event["event"] in failures:
            print(event["event"].name, event["value"], flush=True)
            break
    socket.disable_monitor()
    socket.close()


def main():
    action, endpoint, mechanism = sys.argv[1:4]
    context = zmq.Context()
    actions = {"dealer": dealer, "router": router, "refused": refused}
    actions[action](context, endpoint, mechanism)
    context.term()


main()
