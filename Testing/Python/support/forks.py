"""Run `python -m MODULE` in a fork of the test's process, which has imported what takes seconds to import."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from typing import IO, Any

import torch


class Fork(multiprocessing.get_context("fork" if hasattr(os, "fork") else None).Process):
    """Take the place of `subprocess.Popen` for `[sys.executable, "-m", MODULE, ...]`.

    Only the imports are shared: what the program changes stays in its own memory.
    """

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        stdout: IO[str],
        stderr: IO[str] | int = subprocess.STDOUT,
        **_options: Any,
    ) -> None:
        outputs = stdout.fileno(), stdout.fileno() if isinstance(stderr, int) else stderr.fileno()
        super().__init__(target=_run, args=(command, env, outputs))
        self.start()

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int:
        self.join()
        return self.exitcode


def _run(command: list[str], env: dict[str, str], outputs: tuple[int, int]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.execv = lambda _, words: _become(words)
    torch.set_num_threads(1)  # the threads of the parent's pool are not here
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # nnU-Net's pools too: it spawns processes that import anew
    for output, descriptor in zip(outputs, (1, 2), strict=True):
        os.dup2(output, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(own, "w", buffering=1, encoding="utf-8", closefd=False) for own in (1, 2))
    _become(command)


def _become(command: list[str]) -> None:
    python, option, module, *arguments = command
    assert (python, option) == (sys.executable, "-m")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def child() -> type[Any]:
    """Choose how to start a program: in a fork where this process may be forked."""
    return Fork if may_fork() else subprocess.Popen


def may_fork() -> bool:
    """Whether this process has no threads that a fork would lack: of macOS, OpenVINO, or training on a GPU."""
    return sys.platform == "linux" and "openvino" not in sys.modules and not torch.cuda.is_available()
