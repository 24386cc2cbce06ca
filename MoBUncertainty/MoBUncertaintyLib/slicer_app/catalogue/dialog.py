"""The dialog *Find models*: lists a catalogue, shows the models' cards, and installs one after asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.catalogue.index import Entry
from MoBUncertaintyLib.catalogue.install import target_of
from MoBUncertaintyLib.catalogue.place import Place
from MoBUncertaintyLib.files.schema import from_json
from MoBUncertaintyLib.slicer_app.catalogue.card import cardHtml, consentText, statusText, whyNotInstall
from MoBUncertaintyLib.slicer_app.widgets.dialogs import showError
from MoBUncertaintyLib.slicer_app.widgets.section import makeButton, shown
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.slicer_app.worker.job import Job
from MoBUncertaintyLib.worker.protocol import Command

SETTINGS_KEY = "MoBUncertainty/Catalogue"
PICTURE_WIDTH = 220  # pixels: the card above is what one reads


class FindModels:
    """The dialog. It has a worker of its own, so that a computation can go on meanwhile.

    Nothing is contacted before the user lists the models of the address that is shown.

    Args:
        client: Of the worker; closed with the dialog.
        onInstalled: Called with the name of a model that was installed.
    """

    def __init__(self, client: WorkerClient, onInstalled: Callable[[str], None]) -> None:
        self._client = client
        self._onInstalled = onInstalled
        self._place: Place | None = None  # whose models are listed
        self._entries: list[Entry] = []
        self._shown: list[Entry] = []  # those that a search finds
        self._installing = False
        self._build()
        self.work = WorkButton(
            (self.installButton, self._bar, self.statusLabel),
            self._onInstall,
            self._onCancel,
            _("Contacting the catalogue..."),
            _("Stop the download; nothing is left of it."),
        )
        self.folderButton.clicked.connect(shown(self._onFolder))
        self.listButton.clicked.connect(shown(self._onList))
        self.addressEdit.returnPressed.connect(shown(self._onList))
        self.searchEdit.textChanged.connect(shown(self._fill))
        self.modelList.currentRowChanged.connect(shown(self._onSelected))
        self.closeButton.clicked.connect(lambda *_args: self.window.close())
        self.window.finished.connect(shown(self.close))
        self._update()

    def show(self) -> None:
        """Show the dialog, or bring it to the front."""
        self.window.show()
        self.window.raise_()
        self.window.activateWindow()

    def close(self, *_args) -> None:
        """Stop what is going on, and end the worker."""
        self._installing = False
        self._client.close()
        self.work.stop("")
        self.window.hide()
        self._update()

    def _build(self) -> None:
        self.window = window = qt.QDialog(slicer.util.mainWindow())
        window.windowTitle = _("Find models")
        self.addressEdit = qt.QLineEdit()
        self.addressEdit.accessibleName = _("Catalogue")
        self.addressEdit.text = slicer.util.settingsValue(SETTINGS_KEY, "")
        self.addressEdit.placeholderText = _("https://... or a folder; whoever gave you a model can tell it")
        self.addressEdit.toolTip = _("An https address, or a folder, with an index of models.")
        self.folderButton = makeButton(_("Folder..."), _("Choose a folder that holds a catalogue."))
        self.listButton = makeButton(_("List models"), _("Ask this address for its models."))
        note = _label()
        note.text = _(
            "This address is contacted when you list its models, choose one (for its picture) or install it. "
            "Nothing is sent but the request."
        )
        self.searchEdit = qt.QLineEdit()
        self.searchEdit.placeholderText = _("Search by organ, name or licence")
        self.searchEdit.accessibleName = _("Search")
        self.modelList = qt.QListWidget()
        self.modelList.accessibleName = _("Models")
        self.cardBrowser = qt.QTextBrowser()
        self.cardBrowser.openLinks = False
        self.pictureLabel = _label()
        self.pictureLabel.textFormat = qt.Qt.PlainText
        self.installButton = makeButton(_("Install..."), _("Install this model, after you have agreed to its licence."))
        self.closeButton = makeButton(_("Close"), _("Close this dialog; a download that goes on is stopped."))
        self._bar, self.statusLabel = qt.QProgressBar(), _label()
        grid = qt.QGridLayout(window)
        address = qt.QHBoxLayout()
        for widget in (self.addressEdit, self.folderButton, self.listButton):
            address.addWidget(widget)
        grid.addLayout(address, 0, 0, 1, 2)
        grid.addWidget(note, 1, 0, 1, 2)
        grid.addWidget(self.searchEdit, 2, 0)
        grid.addWidget(self.modelList, 3, 0, 2, 1)
        grid.addWidget(self.cardBrowser, 2, 1, 2, 1)
        grid.addWidget(self.pictureLabel, 4, 1)
        grid.addWidget(self.statusLabel, 5, 0, 1, 2)
        grid.addWidget(self._bar, 6, 0)
        buttons = qt.QHBoxLayout()
        for button in (self.installButton, self.closeButton):
            buttons.addWidget(button)
        grid.addLayout(buttons, 6, 1)
        grid.setRowStretch(3, 1)
        grid.setColumnStretch(0, 2)
        grid.setColumnStretch(1, 3)
        window.resize(860, 640)

    @property
    def _entry(self) -> Entry | None:
        row = self.modelList.currentRow
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def _update(self) -> None:
        for widget in (self.addressEdit, self.folderButton, self.listButton, self.modelList, self.searchEdit):
            widget.enabled = not self._installing
        entry = self._entry
        self.work.update(self._installing, whyNotInstall(entry) if entry else _("Choose a model first."))

    def _ask(self, message: dict[str, Any], onFinished: Callable, onFailed: Callable, receive=None) -> Job:
        """Let the worker do something, in place of what it does: a picture that nobody waits for any more."""
        self._client.cancel()
        job = self._client.request({**message, "index": str(self._place.base)}, receive)
        job.finished.connect(shown(onFinished))
        job.failed.connect(shown(onFailed))
        return job

    # The list

    def _onFolder(self, *_args) -> None:
        dialog = qt.QFileDialog(self.window, _("Choose a catalogue"))
        dialog.setFileMode(qt.QFileDialog.Directory)
        if dialog.exec_():
            self.addressEdit.text = dialog.selectedFiles()[0]
            self._onList()

    def _onList(self, *_args) -> None:
        self._place = Place.of(self.addressEdit.text)
        self._entries = []
        self._fill()
        self.work.say(_("Contacting the catalogue..."))
        self._ask({"command": Command.LIST}, self._onListed, self._onListFailed)

    def _onListed(self, result: dict[str, Any]) -> None:
        slicer.app.userSettings().setValue(SETTINGS_KEY, str(self._place.base))
        self._entries = [from_json(Entry, each) for each in result["models"]]
        self._fill()
        self.work.say("" if self._entries else _("This catalogue is empty."))
        if self._shown:
            self.modelList.currentRow = 0

    def _onListFailed(self, _code: str, message: str, _details: str) -> None:
        self.work.say(message)

    def _fill(self, *_args) -> None:
        """List the models that the search finds, and keep the one that is chosen."""
        chosen = self._entry
        self._shown = [entry for entry in self._entries if entry.matches(self.searchEdit.text)]
        blocked = self.modelList.blockSignals(True)
        self.modelList.clear()
        for entry in self._shown:
            self.modelList.addItem(" – ".join(filter(None, [entry.title, statusText(entry)])))
        row = self._shown.index(chosen) if chosen in self._shown else -1
        self.modelList.currentRow = row
        self.modelList.blockSignals(blocked)
        if row < 0:
            self._showCard(None)
        self._update()

    # The card

    def _onSelected(self, *_args) -> None:
        self._showCard(self._entry)
        self._update()

    def _showCard(self, entry: Entry | None) -> None:
        self.cardBrowser.setHtml(cardHtml(entry) if entry else "")
        self.pictureLabel.clear()
        self.pictureLabel.minimumHeight = 0
        if entry is None or entry.preview is None:
            return

        def load(result: dict[str, Any]) -> Iterator[None]:  # while the worker's file is there
            yield
            return qt.QPixmap(result["picture"]) if result["picture"] else None

        message = {"command": Command.PICTURE, "entry": _plain(entry)}
        self._ask(message, self._showPicture, self._sayNoPicture, load)

    def _showPicture(self, picture) -> None:
        if picture is not None and not picture.isNull():
            scaled = picture.scaledToWidth(PICTURE_WIDTH, qt.Qt.SmoothTransformation)
            self.pictureLabel.setPixmap(scaled)
            self.pictureLabel.minimumHeight = scaled.height()

    def _sayNoPicture(self, _code: str, message: str, _details: str) -> None:
        self.pictureLabel.text = message

    # The installation

    def _onInstall(self) -> None:
        entry = self._entry
        target = target_of(entry)
        question = consentText(entry, self._place.address(entry.file), str(target))
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("Find models")):
            return
        message = {"command": Command.INSTALL, "entry": _plain(entry), "output": str(target)}
        job = self._ask(message, lambda _result: self._onDone(entry), self._onFailed)
        self._installing = True
        self.work.follow(job)
        self._update()

    def _onCancel(self) -> None:
        self._client.cancel()
        self._end(_("Cancelled; nothing was installed."))

    def _onDone(self, entry: Entry) -> None:
        self._end(_("{title} is installed, and chosen in the panel.").format(title=entry.title))
        self._onInstalled(entry.name)

    def _onFailed(self, _code: str, message: str, details: str) -> None:
        self._end("")
        showError(message, details)

    def _end(self, text: str) -> None:
        self._installing = False
        self.work.stop(text)
        self._fill()


def _label():
    """Make a label that wraps, and takes no more room than its text or picture."""
    label = qt.QLabel()
    label.wordWrap = True
    label.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Maximum)
    return label


def _plain(entry: Entry) -> dict[str, Any]:
    """Write an entry as the worker's protocol has it."""
    return {**vars(entry), "labels": list(entry.labels)}
