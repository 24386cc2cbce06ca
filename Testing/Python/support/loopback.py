"""A computer that ssh reaches: this one, through an sshd of our own on a loopback port, with keys of its own."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from support import MODULE_FOLDER, TESTS
from support.processes import wait_until

SSHD = shutil.which("sshd", path=os.pathsep.join(("/usr/sbin", "/usr/local/sbin", os.environ.get("PATH", ""))))
SSH = shutil.which("ssh")
MISSING = None if SSHD and SSH and sys.platform == "linux" else "needs OpenSSH's server and client, on Linux"

HOST = "lab"
PROGRAM = "from MoBUncertaintyLib.cli.app import app; app()"
FAKE = f"from MoBUncertaintyLib.worker.remote import host; host.serve(({str(TESTS / 'support' / 'fake_worker.py')!r}, "
FAKE += "{mode!r}))"


class Loopback:
    """That computer.

    Attributes:
        path: What to put first in PATH: a folder whose `ssh` knows the computer as `HOST`.
        temporary: The computer's folder for temporary files.
        data: Its user's folder for data.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path, self._programs, self.temporary, self.data = (
            folder / name for name in ("bin", "host bin", "host tmp", "host data")
        )
        for each in (self.path, self._programs, self.temporary, self.data):
            each.mkdir()
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.known = folder / "known_hosts"
        self.know()
        user = psutil.Process().username()
        (folder / "ssh_config").write_text(
            f"Host {HOST} stranger\n  HostName 127.0.0.1\n  Port {self._port}\n  User {user}\n  IdentitiesOnly yes\n"
            f'  IdentityFile "{folder / "user_key"}"\n'
            f'  UserKnownHostsFile "{self.known}"\n  GlobalKnownHostsFile none\n'
            f"Host stranger\n  HostKeyAlias nobody\n"
        )
        self._script(self.path / "ssh", f'exec {SSH} -F {shlex.quote(str(folder / "ssh_config"))} "$@"')
        self.run(PROGRAM)
        self._start()

    def run(self, program: str) -> None:
        """Let the computer's `mob-uncertainty` be a program in Python."""
        self.run_script(f'exec {shlex.quote(sys.executable)} -c {shlex.quote(program)} "$@"')

    def run_script(self, lines: str) -> None:
        """Let the computer's `mob-uncertainty` be a shell script."""
        self._script(self._programs / "mob-uncertainty", lines)

    def without_program(self) -> None:
        """Let the computer have no `mob-uncertainty`."""
        (self._programs / "mob-uncertainty").unlink()

    def know(self) -> None:
        """Let ssh know the computer."""
        kind, key = (self._folder / "host_key.pub").read_text().split()[:2]
        self.known.write_text(f"[127.0.0.1]:{self._port} {kind} {key}\n")

    def mistake(self) -> None:
        """Let ssh know another key of the computer."""
        kind, key = (self._folder / "user_key.pub").read_text().split()[:2]
        self.known.write_text(f"[127.0.0.1]:{self._port} {kind} {key}\n")

    def lock_out(self, out: bool = True) -> None:
        """Let the computer accept no key, or ours again."""
        (self._folder / "authorized_keys").write_text("" if out else (self._folder / "user_key.pub").read_text())

    def cut(self) -> None:
        """End all connections, and nothing else: only sshd's own processes are killed."""
        for process in psutil.Process(self._server.pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.name().startswith("sshd"):
                    process.kill()

    def processes(self) -> list[psutil.Process]:
        """What runs on the computer: all that has its folder for temporary files."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == str(self.temporary) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def is_clean(self) -> bool:
        """Whether nothing runs on the computer, and it keeps no temporary file."""
        return not self.processes() and list(self.temporary.iterdir()) == []

    def close(self) -> None:
        """Switch the computer off."""
        self.cut()
        self._server.kill()
        self._server.wait()

    def _start(self) -> None:
        self.lock_out(False)
        variables = {"PATH": f"{self._programs}:/usr/bin:/bin", "PYTHONPATH": str(MODULE_FOLDER)}
        variables |= {"HOME": str(self.data)}  # with no file of the user's own that a shell reads
        variables |= {"TMPDIR": str(self.temporary), "XDG_DATA_HOME": str(self.data), "OMP_NUM_THREADS": "1"}
        variables |= {"MOB_UNCERTAINTY_ENGINE": "torch", "MOB_UNCERTAINTY_MODELS": str(self.data / "none")}
        lines = {
            "ListenAddress": "127.0.0.1",
            "Port": self._port,
            "HostKey": f'"{self._folder / "host_key"}"',
            "AuthorizedKeysFile": f'"{self._folder / "authorized_keys"}"',
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in variables.items()),
        }
        config = self._folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as the system does when it starts its own
        log = (self._folder / "sshd.log").open("wb")
        self._server = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=log)
        assert wait_until(self._listens), (self._folder / "sshd.log").read_text()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    @staticmethod
    def _script(path: Path, lines: str) -> None:
        path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        path.chmod(0o755)
