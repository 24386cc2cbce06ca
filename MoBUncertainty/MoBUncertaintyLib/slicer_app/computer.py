"""The computer that the user has chosen, kept in Slicer's settings, and those to which images may be sent."""

from __future__ import annotations

import json

import slicer.util

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.worker.remote.ssh import check_host

HOST_KEY = "MoBUncertainty/Computer"
ALLOWED_KEY = "MoBUncertainty/ComputersAllowed"


class Computer:
    """The computer that segments."""

    @property
    def host(self) -> str:
        """What the user has typed: the computer's name, as ssh knows it; "": this computer."""
        return slicer.util.settingsValue(HOST_KEY, "")

    @property
    def problem(self) -> str | None:
        """Why that is no computer's name; None: it is."""
        try:
            if self.host:
                check_host(self.host)
        except SettingsError as error:
            return str(error)
        return None

    def choose(self, host: str) -> None:
        """Choose a computer."""
        slicer.app.userSettings().setValue(HOST_KEY, host.strip())

    @property
    def allowed(self) -> bool:
        """Whether the user has agreed that images are sent there."""
        return self.host in self._allowed()

    def allow(self, allowed: bool = True) -> None:
        """Remember that the user has agreed to that, or no longer does."""
        hosts = {*self._allowed(), self.host} if allowed else {*self._allowed()} - {self.host}
        slicer.app.userSettings().setValue(ALLOWED_KEY, json.dumps(sorted(hosts)))

    @staticmethod
    def _allowed() -> list[str]:
        return slicer.util.settingsValue(ALLOWED_KEY, [], converter=json.loads)
