"""Faults put in on purpose, each judged in a process of its own: killed runs, flipped bits, mutants of files."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_S = 60.0
MEMORY = 12 * 2**30  # bytes of address space for what judges: more must not be needed for files of some kilobytes
LONGEST_SENTENCE = 1000
SEED = 12

Judge = Callable[[Path], str]
"""Uses a damaged file; says in a word what came of it, or raises."""

BAD = ("traceback", "no sentence", "hang", "crash", "lost", "not refused", "wrong", "differs", "left behind")


@dataclass
class Figures:
    """What came of one kind of fault.

    Attributes:
        name: Of the kind.
        outcomes: How often each came.
        failures: What should not have come, with details.
        slowest_s: The longest that one took.
    """

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, outcome: str, detail: str = "", seconds: float = 0.0) -> None:
        self.outcomes[outcome] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if outcome in BAD:
            self.failures.append(f"{outcome}: {detail}")

    @property
    def count(self) -> int:
        return self.outcomes.total()


# --- files ------------------------------------------------------------------------------------------------------------


def judge_all(name: str, path: Path, contents: Iterable[bytes], judge: Judge) -> Figures:
    """Write each content to a file in turn and judge it, in a process that may crash or hang; the file is put back.

    Args:
        name: Of the kind of fault.
        path: The file.
        contents: What is written there.
        judge: What to do with it.
    """
    figures, whole, waiting = Figures(name), path.read_bytes(), list(contents)
    undamaged = Figures(name)
    try:
        _judge_some(undamaged, path, [whole], 0, judge)
        if undamaged.outcomes.keys() & {"refused", *BAD} - {"not refused"}:
            raise RuntimeError(f"{name}: the undamaged file does not pass ({undamaged})")
        start = 0
        while start < len(waiting):
            start += _judge_some(figures, path, waiting[start:], start, judge)
    finally:
        path.write_bytes(whole)
    return figures


def _judge_some(figures: Figures, path: Path, contents: Sequence[bytes], first: int, judge: Judge) -> int:
    """Judge as many as one process can; how many were."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = os.fork()
    if process == 0:
        _in_child(lambda: _work(theirs, path, contents, first, judge))
    theirs.close()
    done = 0
    try:
        while done < len(contents):
            if not ours.poll(LIMIT_S):
                os.kill(process, signal.SIGKILL)
                figures.add("hang", f"number {first + done}", LIMIT_S)
                return done + 1
            figures.add(*ours.recv())
            done += 1
    except EOFError:
        figures.add("crash", f"number {first + done}")
        return done + 1
    finally:
        ours.close()
        os.waitpid(process, 0)
    return done


def _work(
    pipe: multiprocessing.connection.Connection, path: Path, contents: Sequence[bytes], first: int, judge: Judge
) -> None:
    from MoBUncertaintyLib.base.errors import UserError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, content in enumerate(contents, first):
        path.write_bytes(content)
        start = time.monotonic()
        try:
            outcome, detail = judge(path), f"number {number}"
        except UserError as error:
            detail = str(error)
            is_sentence = detail.endswith(".") and "\n" not in detail and len(detail) < LONGEST_SENTENCE
            outcome = "refused" if is_sentence else "no sentence"
        except Exception as error:
            outcome, detail = "traceback", f"number {number}, {type(error).__name__}: {error}"
        pipe.send((outcome, detail[:300], time.monotonic() - start))


def _in_child(work: Callable[[], None]) -> None:
    """Run something and end this process, whatever comes; its output is nobody's."""
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        work()
    finally:
        os._exit(0)


def must_refuse(judge: Judge, *allowed: str) -> Judge:
    """A judge that is content only with a refusal, or with what makes no difference."""

    def strict(path: Path) -> str:
        outcome = judge(path)
        return outcome if outcome in ("unchanged", *allowed) else "not refused"

    return strict


# --- killed runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        arguments: Of `mob-uncertainty`; without `--overwrite` nothing is there when it starts.
        state: Looks at what is there: "nothing", "whole"; raises for anything else.
        clear: Takes away what was made.
        places: Folders in which nothing hidden may be left once the command has run again undisturbed.
    """

    arguments: tuple[str, ...]
    state: Callable[[], str]
    clear: Callable[[], None]
    places: tuple[Path, ...]

    @property
    def overwrites(self) -> bool:
        return "--overwrite" in self.arguments


def start(arguments: Sequence[str], log: Path) -> int:
    """Run the command line in a forked process that has all imported already; its id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            from MoBUncertaintyLib.cli.app import app

            app(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


def run(arguments: Sequence[str], log: Path) -> int:
    """Exit code of the command."""
    return os.waitstatus_to_exitcode(os.waitpid(start(arguments, log), 0)[1])


def kill_all(name: str, command: Command, count: int, folder: Path) -> Figures:
    """Kill a command at random moments, look at what is there, and run it again.

    Args:
        name: Of the kind of fault.
        command: The command.
        count: How often; runs that end before they are killed come on top.
        folder: For its log.
    """
    figures, chance, log = Figures(name), random.Random(f"{SEED} {name}"), folder / "log.txt"
    begun = time.monotonic()
    if code := run(command.arguments, log):
        raise RuntimeError(f"{name} failed with {code} without a kill: {log.read_text()}")
    duration = time.monotonic() - begun
    killed = 0
    while killed < count:
        if not command.overwrites:
            command.clear()
        # Half of the kills at any time, half while things are written, at the end.
        share = chance.uniform(0, 1) if chance.random() < 0.5 else chance.uniform(0.6, 1)
        process = start(command.arguments, log)
        time.sleep(share * duration)
        os.kill(process, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != -signal.SIGKILL
        killed += not ended
        duration *= 0.9 if ended else 1.04  # others may use the computer, too
        begun = time.monotonic()
        outcome, detail = _after_kill(command, log)
        figures.add(f"{outcome}, ended before the kill" if ended and outcome not in BAD else outcome, detail)
        figures.slowest_s = max(figures.slowest_s, time.monotonic() - begun)
    if not command.overwrites:
        command.clear()
    run(command.arguments, log)
    for path in (path for place in command.places for path in place.iterdir() if _is_left(path.name)):
        figures.add("left behind", path.name)
    return figures


def _after_kill(command: Command, log: Path) -> tuple[str, str]:
    """What is there at once, and after another run, which does not overwrite."""
    try:
        at_once = command.state()
        again = run([argument for argument in command.arguments if argument != "--overwrite"], log)
        afterwards = command.state()
    except Exception as error:
        return "wrong", f"half of it is there: {error}"
    said = log.read_text(encoding="utf-8", errors="replace")
    if "Traceback" in said:
        return "traceback", said[-300:]
    # What was there already is refused, so it was kept; else it is made now.
    if afterwards != "whole" or again != 2 * (command.overwrites or at_once == "whole"):
        return "lost", f"{at_once}, then {afterwards} with exit code {again}: {said[-300:]}"
    return f"{at_once} at once", ""


def _is_left(name: str) -> bool:
    return name.startswith((".", "mob-model-", "MoBUncertainty-")) and not name.endswith(".mob-lock")
