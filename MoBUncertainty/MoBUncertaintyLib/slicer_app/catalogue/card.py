"""What the dialog shows of a model that a catalogue offers."""

from __future__ import annotations

from html import escape

from slicer.i18n import tr as _

from MoBUncertaintyLib.catalogue.index import Entry
from MoBUncertaintyLib.catalogue.install import Status, status
from MoBUncertaintyLib.model.card import readable


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
        Status.INSTALLED: _("{name} is installed; choose it in the panel, where it can be removed, too."),
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
        "Nothing of your data leaves this computer. Press OK to agree to the licence and the download."
    ).format(title=entry.title, licence=entry.licence, size=entry.megabytes, where=where, folder=folder)
