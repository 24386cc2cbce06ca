"""Run `python -m MODULE` in a fork of the test's process, which has imported what takes seconds to import."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from typing import IO, Any

import torch


class Fork(multiprocessing.get_context("fork").Process):
    """Take the place of `subprocess.Popen` for `[sys.executable, "-m", MODULE, ...]`.

    Only the imports are shared: what the program changes stays in its own memory.
    """

    def __init__(self, command: list[str], env: dict[str, str], stdout: IO[str], **_options: Any) -> None:
        super().__init__(target=_run, args=(command, env, stdout.fileno()))
        self.start()

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int:
        self.join()
        return self.exitcode


def _run(command: list[str], env: dict[str, str], output: int) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.execv = lambda _, words: _become(words)
    torch.set_num_threads(1)  # the threads of the parent's pool are not here
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    _become(command)


def _become(command: list[str]) -> None:
    python, option, module, *arguments = command
    assert (python, option) == (sys.executable, "-m")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def child() -> type[Any]:
    """Choose how to start a program: in a fork, unless OpenVINO's threads are in this process, which a fork lacks."""
    return subprocess.Popen if "openvino" in sys.modules else Fork
