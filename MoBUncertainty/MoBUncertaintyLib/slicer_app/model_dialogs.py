"""What brings models: *Find models* installs those of a catalogue, *Recalibrate* fits one to given cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import CalibrationError
from MoBUncertaintyLib.base.resources import installed_models
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.licences import with_meaning
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.pipeline.catalogue.install import Status, remove, status, target_of
from MoBUncertaintyLib.pipeline.catalogue.place import Entry, Place
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, askFolder, loadUI, showError
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown, signalsBlocked
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton, ask, newFolder
from MoBUncertaintyLib.slicer_app.worker.client import Job, WorkerClient
from MoBUncertaintyLib.worker.protocol import Command

CATALOGUE_KEY = "MoBUncertainty/Catalogue"  # of Slicer's settings
PICTURE_WIDTH = 220  # pixels: the card above is what one reads


class WorkDialog:
    """A dialog with a worker of its own, so that a computation can go on meanwhile; `_onStart` lets it begin.

    In its .ui file, which has its name, bar and text are `progressBar` and `statusLabel`; the dynamic property
    CancelledText of the button `start` is said once the user has cancelled.
    """

    def __init__(self, name: str, client: WorkerClient, start: str) -> None:
        self._client = client
        self.window = loadUI(name)
        self.window.setParent(slicer.util.mainWindow(), self.window.windowFlags())
        self.ui = slicer.util.childWidgetVariables(self.window)
        self._button = getattr(self.ui, start)
        self.work = WorkButton(self._button, self.ui.progressBar, self.ui.statusLabel, self._onStart, self._onCancel)
        self.window.finished.connect(shown(self.close))

    def show(self) -> None:
        """Show the dialog, or bring it to the front."""
        self.window.show()
        self.window.raise_()
        self.window.activateWindow()

    def close(self, *_args) -> None:
        """Stop what is going on, and end the worker."""
        self._client.close()
        self._end("")
        self.window.hide()

    def _onCancel(self) -> None:
        self._client.cancel()
        self._end(self._button.property("CancelledText"))

    def _onFailed(self, _code: str, message: str, details: str) -> None:
        self._end("")
        showError(message, details)

    def _end(self, text: str) -> None:
        self.work.stop(text)
        self._update()


class FindModels(WorkDialog):
    """Lists a catalogue, shows the models' cards, and installs one after asking.

    Nothing is contacted before the user lists the models of the address that is shown.
    """

    def __init__(self, client: WorkerClient, onInstalled: Callable[[str], None]) -> None:
        self._onInstalled = onInstalled
        self._place: Place | None = None  # whose models are listed
        self._entries: list[Entry] = []
        self._shown: list[Entry] = []  # those that a search finds
        super().__init__("FindModels", client, "installButton")
        self.ui.addressEdit.text = slicer.util.settingsValue(CATALOGUE_KEY, "")
        self.ui.folderButton.clicked.connect(shown(self._onFolder))
        self.ui.listButton.clicked.connect(shown(self._onList))
        self.ui.addressEdit.returnPressed.connect(shown(self._onList))
        self.ui.searchEdit.textChanged.connect(shown(self._fill))
        self.ui.modelList.currentRowChanged.connect(shown(self._onSelected))
        self.ui.closeButton.clicked.connect(lambda *_args: self.window.close())
        self._update()

    @property
    def _entry(self) -> Entry | None:
        row = self.ui.modelList.currentRow
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def _update(self) -> None:
        ui = self.ui
        for widget in (ui.addressEdit, ui.folderButton, ui.listButton, ui.modelList, ui.searchEdit):
            widget.enabled = not self.work.running
        entry = self._entry
        self.work.update(whyNotInstall(entry) if entry else _("Choose a model first."))

    def _ask(self, message: dict[str, Any], onFinished: Callable, onFailed: Callable, receive=None) -> Job:
        """Let the worker do something, in place of what it does: a picture that nobody waits for any more."""
        self._client.cancel()
        return ask(self._client, {**message, "index": str(self._place.base)}, onFinished, onFailed, receive)

    # The list

    def _onFolder(self, *_args) -> None:
        folder = askFolder(self.window, _("Choose a catalogue"))
        if folder:
            self.ui.addressEdit.text = str(folder)
            self._onList()

    def _onList(self, *_args) -> None:
        self._place = Place.of(self.ui.addressEdit.text)
        self._entries = []
        self._fill()
        self.work.say(_("Contacting the catalogue..."))
        self._ask({"command": Command.LIST}, self._onListed, lambda _code, message, _details: self.work.say(message))

    def _onListed(self, result: dict[str, Any]) -> None:
        slicer.app.userSettings().setValue(CATALOGUE_KEY, str(self._place.base))
        self._entries = [from_json(Entry, entry) for entry in result["models"]]
        self._fill()
        self.work.say("" if self._entries else _("This catalogue is empty."))
        if self._shown:
            self.ui.modelList.currentRow = 0

    def _fill(self, *_args) -> None:
        """List the models that the search finds, and keep the one that is chosen."""
        chosen = self._entry
        self._shown = [entry for entry in self._entries if entry.matches(self.ui.searchEdit.text)]
        offer(self.ui.modelList, (" – ".join(filter(None, [each.title, statusText(each)])) for each in self._shown))
        if chosen in self._shown:
            with signalsBlocked(self.ui.modelList):
                self.ui.modelList.currentRow = self._shown.index(chosen)
        else:
            self._showCard(None)
        self._update()

    # The card

    def _onSelected(self, *_args) -> None:
        self._showCard(self._entry)
        self._update()

    def _showCard(self, entry: Entry | None) -> None:
        label = self.ui.pictureLabel
        self.ui.cardBrowser.setHtml(cardHtml(entry) if entry else "")
        label.clear()
        label.minimumHeight = 0
        if entry is None or entry.preview is None:
            return

        def load(result: dict[str, Any]) -> Iterator[None]:  # while the worker's file is there
            yield
            return qt.QPixmap(result["picture"]) if result["picture"] else None

        def show(picture) -> None:
            if picture is not None and not picture.isNull():
                scaled = picture.scaledToWidth(PICTURE_WIDTH, qt.Qt.SmoothTransformation)
                label.setPixmap(scaled)
                label.minimumHeight = scaled.height()

        def fail(_code: str, text: str, _details: str) -> None:
            label.text = text

        self._ask({"command": Command.PICTURE, "entry": to_json(entry)}, show, fail, load)

    # The installation

    def _onStart(self) -> None:
        entry = self._entry
        target = target_of(entry)
        question = consentText(entry, self._place.address(entry.file), str(target))
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("Find models")):
            return
        message = {"command": Command.INSTALL, "entry": to_json(entry), "output": str(target)}
        self.work.follow(self._ask(message, lambda _result: self._onDone(entry), self._onFailed))
        self._update()

    def _onDone(self, entry: Entry) -> None:
        self._end(_("{title} is installed and selected in the panel.").format(title=entry.title))
        self._fill()
        self._onInstalled(entry.name)


def statusText(entry: Entry) -> str:
    """Say in the user's language whether a model is installed; "" if it can be."""
    return {
        Status.INSTALLED: _("installed"),
        Status.OTHER_VERSION: _("another version is installed"),
        Status.SHIPPED: _("comes with the extension"),
        Status.TOO_NEW: _("needs a newer version"),
    }.get(status(entry), "")


def whyNotInstall(entry: Entry) -> str | None:
    """Say why a model cannot be installed; None if it can."""
    text = {
        Status.INSTALLED: _("{name} is installed; you can choose or remove it in the panel."),
        Status.OTHER_VERSION: _("Another version of {name} is installed; remove that in the panel first."),
        Status.SHIPPED: _("{name} comes with the extension; there is nothing to install."),
        Status.TOO_NEW: _("{name} needs MoB Uncertainty {version}; update the extension."),
    }.get(status(entry))
    return text and text.format(name=entry.name, version=entry.minimum_version)


def cardHtml(entry: Entry) -> str:
    """Describe a model; everything in its entry is text, never markup."""
    facts = {
        _("Labels"): ", ".join(map(readable, entry.labels)),
        _("Licence"): entry.licence,
        _("Size"): entry.megabytes,
    }
    facts |= {readable(name[:1].upper() + name[1:]): text for name, text in entry.scores.items()}
    rows = "".join(
        f"<tr><td><b>{escape(name)}</b>&nbsp;</td><td>{escape(text)}</td></tr>" for name, text in facts.items()
    )
    return f"<h3>{escape(entry.title)}</h3><p>{escape(entry.task)}</p><table>{rows}</table>"


def consentText(entry: Entry, where: str, folder: str) -> str:
    """Ask whether a model is to be downloaded and installed."""
    return _(
        "Install this model?\n\n"  # a first line that cannot be taken for markup, whatever a catalogue says
        "{title}\n"
        "Licence: {licence}\n"
        "Download: {size} from {where}\n"
        "Installed in: {folder}\n\n"
        "None of your data leaves this computer. Press OK to agree to the licence and the download."
    ).format(title=entry.title, licence=with_meaning(entry.licence), size=entry.megabytes, where=where, folder=folder)


class Recalibrate(WorkDialog):
    """Takes folders of cases, shows before and after, and keeps the new model or not."""

    def __init__(self, client: WorkerClient, onKept: Callable[[str], None]) -> None:
        self._onKept = onKept
        self._model: ListedModel | None = None
        super().__init__("Recalibrate", client, "startButton")
        self.ui.folderList.currentRowChanged.connect(shown(lambda *_args: self._update()))
        self.ui.addButton.clicked.connect(shown(self._onAdd))
        self.ui.removeButton.clicked.connect(shown(self._onRemove))
        self._update()

    def showFor(self, model: ListedModel) -> None:
        """Show the dialog for a model, or bring it to the front."""
        if not self.work.running:
            self._model = model
            name = model.card.name if model.card else model.path.name
            self.window.windowTitle = _("Recalibrate {model}").format(model=name)
        self.show()

    def add(self, folder: Path | str) -> None:
        """List a folder of reviews or labelled cases."""
        if str(folder) not in self._folders():
            self.ui.folderList.addItem(str(folder))
        self._update()

    def _folders(self) -> list[str]:
        return [self.ui.folderList.item(row).text() for row in range(self.ui.folderList.count)]

    def _update(self) -> None:
        for widget in (self.ui.folderList, self.ui.addButton):
            widget.enabled = not self.work.running
        self.ui.removeButton.enabled = not self.work.running and self.ui.folderList.currentRow >= 0
        self.work.update(None if self._folders() else _("Add folders of cases first."))

    def _onAdd(self, *_args) -> None:
        folder = askFolder(self.window, _("Choose a folder of reviews or labelled cases"))
        if folder:
            self.add(folder)

    def _onRemove(self, *_args) -> None:
        self.ui.folderList.takeItem(self.ui.folderList.currentRow)
        self._update()

    def _onStart(self) -> None:
        agreeToLicences([self._model])
        name = self._model.card.name if self._model.card else self._model.path.stem
        output = newFolder(installed_models(), _("{model}, calibrated").format(model=name))
        message = {"command": Command.CALIBRATE, "model": str(self._model.path), "cases": self._folders()}
        message["output"] = str(output)
        self.work.follow(ask(self._client, message, partial(self._onFinished, output), self._onFailed))
        self._update()

    def _onFinished(self, output: Path, result: dict[str, Any]) -> None:
        self._end("")
        if slicer.util.confirmOkCancelDisplay(question(result), windowTitle=_("Recalibrate")):
            self.work.say(_("{model} is installed and selected in the panel.").format(model=result["name"]))
            self._onKept(output.name)
        else:
            remove(output.name)
            self.work.say(_("The new model was discarded."))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        """Say why there is no new model; that the cases do not suffice for a better one is a result, and no error."""
        if code == CalibrationError.code:
            self._end(message)
        else:
            super()._onFailed(code, message, details)


def question(result: dict[str, Any]) -> str:
    """Say what became better or worse, which cases were not used, and ask whether the new model is to be kept.

    The worker's result has `name`, `calibration` (as the card has it) and `refused`.
    """
    calibration = result["calibration"]
    text = _("{cases}, temperature {temperature}, p = {p}. Before and after, in a leave-one-out test:")
    counts = {"reviews": _("{n} reviews"), "labelled cases": _("{n} labelled cases")}
    cases = ", ".join(words.format(n=calibration[name]) for name, words in counts.items() if name in calibration)
    lines = [
        text.format(cases=cases, temperature=f"{calibration['temperature']:.3g}", p=f"{calibration['p_value']:.2g}")
    ]
    names = {"nll": _("negative log-likelihood"), "ece": _("calibration error")}
    pairs = {names.get(name, name): value for name, value in calibration.items() if isinstance(value, list)}
    for name, pair in pairs.items():
        first, second = (_("not stated") if value is None else f"{value:.4g}" for value in pair)
        lines.append(f"  {name}: {first} → {second}")
    lines += result["refused"]
    lines.append(_("Press OK to install {model}; the old model remains unchanged.").format(model=result["name"]))
    return "\n".join(lines)
