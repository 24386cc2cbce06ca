"""How the user's own ssh starts a worker on another computer, and what is wrong where that fails."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import SettingsError, UserError

COMMAND = "mob-uncertainty worker"

OPTIONS = (
    *("-T", "-a", "-x", "-C"),  # no terminal, no forwarding of keys or windows; compressed
    *("-o", "BatchMode=yes"),  # nobody could answer a question
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "ControlMaster=no"),  # one that the user's other sessions share must not end with this one
    *("-o", "RemoteCommand=none"),
)

_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.+-]*@)?[A-Za-z0-9_][\w.:%-]*", re.ASCII)


class RemoteError(UserError):
    """There is no connection to the other computer, or no more."""

    code = "connection"


class CutError(RemoteError):
    """A connection has ended during a request; the same one may succeed in the next connection."""

    code = "cut"


def check_host(host: str) -> str:
    """Check that a text can be no more than the name of a computer to ssh.

    Raises `SettingsError` if it is something else.
    """
    if len(host) > 255 or not _HOST.fullmatch(host):
        raise SettingsError(f"{host[:80]!r} is not the name of a computer; write user@host, as for ssh.")
    return host


def ssh_command(host: str) -> list[str]:
    """Make the command that starts the worker on a computer.

    Raises `SettingsError` if that is not the name of a computer. Raises `RemoteError` if ssh is not installed.
    """
    program = shutil.which("ssh")
    if program is None:
        raise RemoteError("The program ssh is missing on this computer; install the OpenSSH client.")
    return [program, *OPTIONS, "--", check_host(host), COMMAND]


def ssh_environment() -> dict[str, str]:
    """Make the environment of ssh: with the libraries that Slicer brings along it may not start."""
    return {name: value for name, value in os.environ.items() if not re.fullmatch("(DY)?LD_LIBRARY_PATH", name)}


def version_fault(host: str, version: str) -> RemoteError:
    """Say that the other computer has another version."""
    return RemoteError(
        f"{host} has mob-uncertainty {version}, not {__version__}; install mob-uncertainty {__version__} there."
    )


def cut(host: str, code: int, log: Sequence[str]) -> CutError:
    """Say that a connection has ended; arguments as for `not_connected`."""
    reason = _last(log) if code == 255 else f"exit code {code}"
    return CutError(f"The connection to {host} was lost ({reason}); nothing was changed, so try again to reconnect.")


def no_answer(host: str, seconds: float) -> RemoteError:
    """Say that the other computer is silent."""
    return RemoteError(
        f"{host} has not answered for {seconds:g} s; check the network, and whether mob-uncertainty starts there (ssh "
        f"{host} mob-uncertainty --version)."
    )


def not_connected(host: str, code: int, log: Sequence[str]) -> RemoteError:
    """Say why there is no connection, by ssh's exit code (255: its own, else the command's) and log, and what to do."""
    text = "\n".join(log)
    for words, sentence in _SENTENCES.items():
        if code == 255 and re.search(words, text):
            return RemoteError(sentence.format(host=host, reason=_last(log)))
    if code == 255:
        return RemoteError(f"{host} cannot be reached ({_last(log)}); check its name and the network (ssh {host}).")
    if code == 127 or re.search("not found|not recognized", text):
        return RemoteError(
            f"The command mob-uncertainty was not found on {host}; install mob-uncertainty {__version__} there, so "
            f"that a non-interactive shell finds it (ssh {host} mob-uncertainty --version)."
        )
    if code == 2:
        return RemoteError(
            f"{host} has another version of mob-uncertainty, which cannot compute for others; install mob-uncertainty "
            f"{__version__} there."
        )
    return RemoteError(
        f"mob-uncertainty does not start on {host} (exit code {code}: {_last(log)}); try it there in a terminal."
    )


_SENTENCES = {
    "IDENTIFICATION HAS CHANGED": "The host key of {host} has changed, which may be an attack; ask whoever runs it, "
    "then correct ssh's file known_hosts.",
    "Host key verification failed": "ssh does not know {host} yet; connect once in a terminal (ssh {host}), and "
    "compare its host key.",
    "Permission denied|Too many authentication failures": "{host} does not let you in without a password; set up a key "
    "for ssh (ssh-copy-id {host}), unlock it in ssh-agent, and check the user's name.",
    "Could not resolve": "There is no computer {host}; check its name and the network.",
}


def _last(log: Sequence[str]) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1].rstrip(".")[:200] if lines else "no reason given"
