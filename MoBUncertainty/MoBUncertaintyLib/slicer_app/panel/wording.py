"""What the review's section says of the results, of the review and of the list."""

from __future__ import annotations

from slicer.i18n import tr as _

from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.slicer_app.panel.table import RegionTable, statusText
from MoBUncertaintyLib.slicer_app.widgets.section import shortened

MAX_NAME = 21  # characters of the image's and of the model's name in the title


def titleOf(session) -> tuple[str, str]:
    """Name image and model of the results, in a title and a tooltip: the views, and the next run, may be of others."""
    if not session:
        return _("Review"), ""
    model = (session.review.prediction.provenance.get("model") or {}).get("name") or _("unknown model")
    names = {"image": session.results.ctNode.GetName(), "model": model}
    title = _("Review: {image} ({model})").format(**{what: shortened(name, MAX_NAME) for what, name in names.items()})
    return title, _("The results are those of {model} for {image}.").format(**names)


def progressOf(session, table: RegionTable, reader: str) -> str:
    """Say how far the review is, and below it the volumes, where the model states their intervals.

    Args:
        session: The review, if there is one.
        table: That shows it.
        reader: Who will sign it off.
    """
    if not session:
        return _("Doubtful regions are listed here once an image is segmented.")
    review = session.review
    if session.drawing.regionId:
        region = review.region(session.drawing.regionId)
        return _("Region {rank}: {place}").format(rank=region.region.rank, place=table.place(region))
    done, total = review.reviewed
    text = _("{done} of {total} reviewed").format(done=done, total=total)
    if review.signature:
        when = review.signature.time.strftime("%Y-%m-%d %H:%M")
        text = _("Signed off by {name}, {time}").format(name=review.signature.name, time=when)
    elif not total:
        text = _("No doubtful regions at this threshold.")
    elif done == total:
        anonymous = _("All {total} reviewed: enter your name below and sign off.")
        text = (_("All {total} reviewed: sign off below.") if reader else anonymous).format(total=total)
    elif table.unlisted:
        more = _("{count} more, with less expected error, are listed once those above them are decided")
        text = f"{text}; {more.format(count=table.unlisted)}"
    return "\n".join([text, *review.volume_lines()])


def warningsOf(session) -> str:
    """Say what was odd about the image or the prediction and, while it can be changed, about the list."""
    if session is None or session.drawing.regionId:
        return ""
    coverage = None if session.review.signature else session.regions.warning
    return "\n".join([*filter(None, [coverage]), *session.warnings])


def overturned(before: ReviewRegion, now: ReviewRegion) -> str:
    """Say that a region had another verdict, if it had."""
    if before.verdict in (Verdict.PENDING, now.verdict):
        return ""
    text = _("Region {rank} was {before} and is {now} now; Undo takes that back.")
    verdicts = {"before": statusText(before.verdict), "now": statusText(now.verdict)}
    return text.format(rank=now.region.rank, **verdicts)
