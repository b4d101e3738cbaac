"""Servers that are slow or endless in every part of an exchange, by raw sockets."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LENGTH = HEAD + b"Content-Length: 1000000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def dripping(data):
    """One byte every 20 ms, for ever."""
    for byte in itertools.cycle(data):
        time.sleep(0.02)
        yield bytes([byte])


def once_then(head, parts):
    yield head
    yield from parts


def slow_lines(line):
    while True:
        time.sleep(0.02)
        yield line


PARTS = {
    "nothing": lambda: slow_lines(b""),
    "status line": lambda: dripping(b"H"),
    "head": lambda: once_then(HEAD, dripping(b"X")),
    "header lines": lambda: once_then(HEAD, (b"X-%d: 1\r\n" % n for n, _ in enumerate(slow_lines(b"")))),
    "100 Continue": lambda: slow_lines(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": lambda: slow_lines(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "body": lambda: once_then(LENGTH, dripping(b" ")),
    "body without length": lambda: once_then(HEAD + b"\r\n", dripping(b" ")),
    "chunk size": lambda: once_then(CHUNKED, dripping(b"0")),
    "chunk extension": lambda: once_then(CHUNKED + b"5;", dripping(b"x")),
    "chunks": lambda: once_then(CHUNKED, slow_lines(b"1\r\nx\r\n")),
    "trailers": lambda: once_then(CHUNKED + b"2\r\n{}\r\n0\r\n", slow_lines(b"X: 1\r\n")),
}
"""What each server sends slowly and without end."""

FLOODS = {
    "100 Continue": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "header lines": lambda: once_then(HEAD, itertools.repeat(b"X: 1\r\n" * 1000)),
    "one header": lambda: once_then(HEAD, itertools.repeat(b"X" * 2**16)),
    "body": lambda: once_then(HEAD + b"\r\n", itertools.repeat(b" " * 2**16)),
    "chunks of one byte": lambda: once_then(CHUNKED, itertools.repeat(b"1\r\nx\r\n" * 1000)),
    "trailers": lambda: once_then(CHUNKED + b"2\r\n{}\r\n0\r\n", itertools.repeat(b"X: 1\r\n" * 1000)),
    "redirects": lambda: itertools.repeat(b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
}
"""What each server sends as fast as it can and without end."""


@contextlib.contextmanager
def raw_server(parts, *, reads=True):
    """Serve every connection what ``parts()`` yields; yields the address and a list of the bytes sent by each.

    Args:
        parts: returns an iterator of bytes.
        reads: take the request before answering; a server that does not leaves the sender waiting.
    """
    ended = threading.Event()
    sent = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def answer(client, number):
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            if not reads:
                ended.wait(10)
                return
            client.recv(2**16)
            for part in parts():
                if ended.is_set():
                    return
                client.sendall(part)
                sent[number] += len(part)

    def accept():
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                sent.append(0)
                threading.Thread(target=answer, args=(client, len(sent) - 1), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
    finally:
        ended.set()
        thread.join()
        listener.close()
