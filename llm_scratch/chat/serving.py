"""The server on a port: uvicorn around the application, from the socket to Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from llm_scratch.chat.server import Application

HEAD_SECONDS = 30.0
"""The time for the head of a request to arrive before the connection is closed."""
GRACE_SECONDS = 5
STEP = 0.1


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Args:
        host: a name or address of this machine.
        port: 0 takes a free one.

    Raises:
        OSError: in one line, if the address is in use or does not belong to this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as err:
        raise OSError(f"{host} is not an address of this machine ({err}); change --host") from err
    bound = socket.socket(family, kind)
    if sys.platform != "win32":  # on Windows it would share the port with another server
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen()
    except OSError as err:
        bound.close()
        if err.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is in use; choose another with --port") from err
        raise OSError(f"can't listen at {host}, port {port}: {err.strerror}") from err
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL at which a browser on this machine reaches a socket."""
    host, port = bound.getsockname()[:2]
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{known.get(host, f'[{host}]' if ':' in host else host)}:{port}"


def run_server(
    application: Application, bound: socket.socket, on_start: Callable[[], None] = lambda: None
) -> None:
    """Serve until Ctrl-C, or until the process is told to end; then the engines stop too.

    Args:
        application: the application to serve.
        bound: the socket to listen at.
        on_start: called once requests are answered.

    Raises:
        KeyboardInterrupt: at Ctrl-C, after running answers were ended with an error.
    """
    asyncio.run(serve(application, bound, on_start))


async def serve(
    application: Application,
    bound: socket.socket,
    on_start: Callable[[], None] = lambda: None,
    ending: asyncio.Event | None = None,
) -> None:
    """Serve as `run_server` does, in the running event loop.

    Args:
        application: the application to serve.
        bound: the socket to listen at.
        on_start: called once requests are answered.
        ending: the event that ends the server when set.
    """
    config = uvicorn.Config(
        application.guards, http="h11", ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    watch = asyncio.create_task(_watch(server, application, on_start, ending))
    try:
        await server.serve(sockets=[bound])
    finally:
        watch.cancel()
        application.stop()


async def _watch(
    server: uvicorn.Server,
    application: Application,
    on_start: Callable[[], None],
    ending: asyncio.Event | None,
) -> None:
    """Do what uvicorn does not: end running answers before it waits for them, close slow heads."""
    waiting: dict[Any, float] = {}
    started = False
    while not server.should_exit:
        if server.started and not started:
            started = True
            on_start()
        if ending is not None and ending.is_set():
            server.should_exit = True
        waiting = _close_slow_heads(server, waiting)
        await asyncio.sleep(STEP)
    await asyncio.to_thread(application.stop)


def _close_slow_heads(server: uvicorn.Server, before: dict[Any, float]) -> dict[Any, float]:
    """Close connections whose next request takes too long; return those that wait, with times.

    uvicorn closes connections that are silent after an answer, but not those that send half a line.
    """
    now, waiting = time.monotonic(), {}
    for connection in list(server.server_state.connections):
        cycle = getattr(connection, "cycle", None)
        if cycle is not None and not cycle.response_complete:
            continue
        key = (connection, cycle)
        waiting[key] = before.get(key, now)
        if now - waiting[key] > HEAD_SECONDS:
            connection.transport.close()
    return waiting
