"""What lets the worker begin something: a button, how far it is in words, the folder that it may write."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.base.names import unique_names
from MoBUncertaintyLib.slicer_app.widgets.section import allow, revealLater, shown, write
from MoBUncertaintyLib.slicer_app.worker.client import Job, WorkerClient

BAR = 1000  # steps of the progress bar


class WorkButton:
    """A button that lets the worker begin something and is its Cancel meanwhile, with a bar and a text below it.

    The bar is indeterminate while nobody can know how far the work is: while a model is loaded, until the pace of the
    network is known, and while results are shown. What `onStart` declines by `Cancelled` stands below the button, a
    QPushButton whose dynamic properties StartText and CancelTip, in the .ui file, are the text at first and its tooltip
    as a Cancel. The QProgressBar and the QLabel are hidden while there is nothing to show.
    """

    def __init__(self, button, bar, label, onStart: Callable[[], None], onCancel: Callable[[], None]) -> None:
        self._button, self._bar, self._label = button, bar, label
        self._onStart, self._onCancel, self._text = onStart, onCancel, button.text
        self.running = False
        self._said = self._whyNot = ""  # under the button: a text or, without one, why it cannot be pressed
        self._turned = -math.inf  # when the button last became another one, or had started something
        self._stage = ""  # of the work, as the worker calls it
        self.warnings: list[str] = []  # of the job that is followed, or was the last
        button.clicked.connect(shown(self._onClicked))
        self.say("")

    def follow(self, job: Job) -> None:
        """Show how far a job is from now on."""
        self.running, self._turned = True, time.monotonic()
        self._stage, self.warnings = "", []
        self._bar.maximum, self._bar.value, self._bar.format = 0, 0, "%p %"
        job.progress.connect(self.progress)
        job.warning.connect(self.warnings.append)  # to be shown with the result
        self.say(self._button.property("StartText"))
        revealLater(self._label)  # it may lie below the window

    def progress(self, step: dict) -> None:
        """Show the fields of a `progress` event, see `protocol`."""
        bar, left, self._stage = self._bar, step["seconds_left"], step["stage"]
        isKnown = left is not None or self._stage == "export"
        bar.maximum = BAR if isKnown else 0  # indeterminate
        if isKnown:
            bar.format = "%p %" if left is None else _("%p %, {time} left").format(time=duration(left))
            bar.value = round(BAR * step["fraction"])  # which is drawn at once
        self.update()
        self.say(stageText(step))

    def stop(self, text: str) -> None:
        """Show how the work has ended, and the warnings."""
        self.running, self._turned = False, time.monotonic()
        self.say("\n".join(filter(None, [text, *self.warnings])))

    def say(self, text: str) -> None:
        """Put a text under the button; plain, since it may quote names of files and folders."""
        self._said = text
        self._label.textFormat = qt.Qt.PlainText
        write(self._label, "\n".join(filter(None, (self._said, self._whyNot))))
        self._label.visible = bool(self._said or self._whyNot)

    def update(self, whyNot: str | None = None, isShown: bool = False) -> None:
        """Be a Cancel while the job runs; otherwise start it, unless there is a reason `whyNot`, which may be shown."""
        running = self.running
        self._button.text = _("Cancel") if running else self._text
        self._bar.visible = running
        if running:
            whyNot = _("The results are being shown.") if self._stage == "show" else None
        allow(self._button, whyNot, self._button.property("CancelTip") if running else None)
        shownReason = whyNot if isShown and whyNot and not running else ""
        if shownReason != self._whyNot:
            self._whyNot = shownReason
            self.say(self._said)

    def _onClicked(self, *_args) -> None:
        # The second click of a double click is not meant for what the first has made of the button.
        if time.monotonic() - self._turned < slicer.app.doubleClickInterval / 1000:
            return
        try:
            (self._onCancel if self.running else self._onStart)()
        except Cancelled as declined:
            self.say(str(declined))
        self._turned = time.monotonic()  # the second click waits while a slow start blocks the event loop


def ask(
    client: WorkerClient,
    message: dict[str, Any],
    onFinished: Callable[[Any], None],
    onFailed: Callable[[str, str, str], None],
    receive: Callable[[dict[str, Any]], Iterator[None]] | None = None,
) -> Job:
    """Ask a worker; failures of what follows reach the user. Arguments as for `WorkerClient.request` and `Job`."""
    job = client.request(message, receive)
    job.finished.connect(shown(onFinished))
    job.failed.connect(shown(onFailed))
    return job


def stageText(step: dict) -> str:
    """Say what the worker does, in the user's language."""
    words = {
        "model": _("Loading the model"),
        "read": _("Reading the image"),
        "first_stage": _("Predicting the first stage"),
        "preprocess": _("Preprocessing"),
        "network": _("Predicting tiles"),
        "resample": _("Resampling"),
        "check": _("Comparing the segmentation with the model"),
        "regions": _("Finding doubtful regions"),
        "measure": _("Measuring samples"),
        "write": _("Transferring the results"),
        "export": _("Writing the files"),
        "show": _("Showing the results"),
        "send": _("Sending the image, in MB"),
        "send model": _("Sending the model, in MB"),
        "receive": _("Receiving the results, in MB"),
        "download": _("Downloading, in MB"),
        "install": _("Checking and installing"),
        "calibrate": _("Predicting the cases"),
    }
    text = words[step["stage"]]
    if step["total"] > 1:
        return _("{stage}: {done} of {total}").format(stage=text, done=step["done"], total=step["total"])
    return f"{text}: {step['done']}" if step["done"] and not step["total"] else text  # of how many is not known yet


def duration(seconds: float) -> str:
    """Say seconds as a person does."""
    seconds = max(1, round(seconds))
    if seconds < 90:
        return _("{n} s").format(n=seconds)
    return _("{n} min").format(n=round(seconds / 60))


def newFolder(parent: Path, name: str) -> Path:
    """Name a folder that is not there yet."""
    (name,) = unique_names([name])
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(parent / name for name in names if not os.path.exists(parent / name))
