"""Addresses and interfaces of this machine: on the way to another one, and of its own name.

Processes on several machines find each other by address. The most common fault is a machine whose
own name resolves to an address that no other machine can reach.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys


def way_to(host: str) -> str:
    """Return this machine's address on the route to another one; "" where there is no route.

    Nothing is sent: connecting a datagram socket only asks the system for the route.
    """
    try:
        found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except OSError:
        return ""
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as datagrams:
                datagrams.connect(address)
                return str(datagrams.getsockname()[0])
        except OSError:
            continue
    return ""


def own_address() -> str:
    """Return the address that gloo offers to the other processes; "" if there is none.

    It is that of the interface in GLOO_SOCKET_IFNAME, or else the one that this machine's name
    resolves to.
    """
    if name := os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]:
        return address_of(name)
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    except OSError:
        return ""


def address_of(interface: str) -> str:
    """Return the IPv4 address of an interface; "" if it has none, or the system is not Linux."""
    if not sys.platform.startswith("linux"):
        return ""
    import fcntl

    question = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), 0x8915, question)  # SIOCGIFADDR
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def interface_of(address: str) -> str:
    """Return the name of the interface with an address; "" if none is known."""
    return next((name for name, found in interfaces().items() if address and found == address), "")


def interfaces() -> dict[str, str]:
    """Return the IPv4 address of each interface of this machine, as `address_of` finds it."""
    if not hasattr(socket, "if_nameindex"):
        return {}
    return {name: address_of(name) for _, name in socket.if_nameindex()}


def is_loopback(address: str) -> bool:
    """Return whether an address leads back to the machine that uses it."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
