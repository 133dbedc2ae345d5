"""Python imports this at start where its folder is on PYTHONPATH: no way out of the machine.

Each attempt to reach another host is refused and written to the file that CONNECTIONS_TRIED names.
Sockets between processes of this machine (AF_UNIX) stay as they are. ALLOWED, `<script>
<host>:<port> ...`, lets one rule's script reach some addresses.
"""

import os
import socket
import sys

REMOTE = {socket.AF_INET, socket.AF_INET6}
look_up = socket.getaddrinfo


def _is_allowed(host, port) -> bool:
    script, *addresses = os.environ.get("ALLOWED", "none").split(" ")
    # Snakemake runs a rule's script as tmp....<script>; before that there is no argv.
    running = getattr(sys, "argv", [""])[0]
    return running.endswith(f".{script}") and f"{host}:{port}" in addresses


def _refuse(what: str) -> None:
    with open(os.environ["CONNECTIONS_TRIED"], "a", encoding="utf-8") as file:
        file.write(f"{what}\n")
    raise OSError(f"offline: {what}")


class _Socket(socket.socket):
    def connect(self, address):
        if self.family in REMOTE and not _is_allowed(*address[:2]):
            _refuse(f"connect {address}")
        return super().connect(address)

    def connect_ex(self, address):
        if self.family in REMOTE and not _is_allowed(*address[:2]):
            _refuse(f"connect {address}")
        return super().connect_ex(address)


def _getaddrinfo(host, port, *args, **kwargs):
    if _is_allowed(host, port):
        return look_up(host, port, *args, **kwargs)
    _refuse(f"look up {host}")


with open(os.environ["CONNECTIONS_TRIED"] + ".loaded", "a", encoding="utf-8") as loaded:
    loaded.write(f"{os.getpid()}\n")

socket.socket = _Socket
socket.getaddrinfo = _getaddrinfo
