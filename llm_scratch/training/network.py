"""Which address and interface of this machine lead to another one, and which its name stands for.

Processes of several machines find each other by addresses. What goes wrong most often is that a
machine's own name stands for an address that no other machine can reach.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys


def way_to(host: str) -> str:
    """Return this machine's address on the way to another one, "" where there is no way.

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
    """Return the address that this machine's name stands for, which gloo offers to the others.

    Where GLOO_SOCKET_IFNAME names an interface, it is that one's; "" where there is none.
    """
    if name := os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]:
        return address_of(name)
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    except OSError:
        return ""


def address_of(interface: str) -> str:
    """Return the IPv4 address of an interface; "" where it has none, or the system is not Linux."""
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
    """Return the name of the interface with an address; "" where that can't be told."""
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
