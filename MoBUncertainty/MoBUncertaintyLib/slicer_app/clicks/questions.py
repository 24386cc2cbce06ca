"""Which region is the next to look at: the one whose click is expected to remove most error."""

from __future__ import annotations


class Questions:
    """Goes through the undecided regions; one that was passed over comes again once all others were seen."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def clear(self) -> None:
        """Forget what was passed over."""
        self._passed.clear()

    def next(self, session, selected: str | None):
        """Return the `Suggestion` where to go; None: all regions are decided.

        Args:
            session: The ReviewSession.
            selected: The region that is left.
        """
        pending = [each.region_id for each in session.review.regions if not each.decided]
        self._passed.add(selected)
        left = [each for each in pending if each not in self._passed]
        if not left:
            self._passed = {selected}
            left = [each for each in pending if each != selected] or pending
        return session.suggest(left) if left else None
