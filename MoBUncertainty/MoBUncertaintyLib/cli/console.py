"""Show commands' output on a terminal, and end them: progress, warnings, tables, exit codes, Ctrl-C.

Progress, warnings and errors go to stderr, results to stdout. Where stderr is no terminal, progress is plain lines.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from MoBUncertaintyLib.base.errors import Cancelled, SettingsError, UserError, reason_of
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import sweep
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.cli.programs import SHOWN
from MoBUncertaintyLib.measurements.interval import Interval, volume_text
from MoBUncertaintyLib.model.card_text import covariance_text, plain, score_lines, training_lines
from MoBUncertaintyLib.model.fingerprint import Suitability

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.folder import Model
    from MoBUncertaintyLib.output.case import Case
    from MoBUncertaintyLib.output.results_folder import Written
    from MoBUncertaintyLib.output.review_export import Exported
    from MoBUncertaintyLib.pipeline.calibration.fit import Calibration
    from MoBUncertaintyLib.pipeline.demo import DemoScores, OrganScores
    from MoBUncertaintyLib.regions.prediction import Progress

UNEXPECTED, BAD_INPUT, CANCELLED = 1, 2, 130
PLAIN_LINE_EVERY_S = 5.0
CLOSENESS = ((0, "as close as"), (0.05, "nearly as close as"), (0.15, "less close than"), (1, "far less close than"))
"""How much less than the Dice of two clinicians' contours a segmentation may reach, and what that is called."""
SUITABILITY_STYLES = {"unusual": "bold black on yellow", "not usable": "bold white on red"}

debug = False  # whether an unexpected error shows its traceback

STAGES = {
    "cases": "Predicting the cases",
    "read": "Reading",
    "send model": "Sending the model (MB)",
    "send": "Sending the image (MB)",
    "first_stage": "Predicting the first stage",
    "preprocess": "Preprocessing",
    "network": "Predicting tiles",
    "resample": "Resampling",
    "receive": "Receiving the results (MB)",
    "check": "Comparing the segmentation with the model",
    "regions": "Finding doubtful regions",
    "measure": "Measuring samples",
    "write": "Writing",
    "download": "Downloading (MB)",
    "install": "Checking and installing",
}


def _stderr() -> Console:
    return Console(file=sys.stderr, highlight=False)  # made for each use: callers may replace it


@contextmanager
def reporting(steps: bool = False) -> Iterator[Callable[[], bool]]:
    """End a command with one sentence for a user's error, and the exit codes of `cli`.

    Ctrl-C, SIGTERM and SIGHUP interrupt; with `steps`, the command asks what this yields whether it is cancelled, and
    only a second one interrupts at once. First, what killed runs have left among the temporary files is removed.
    """
    sweep(Path(tempfile.gettempdir()))
    try:
        with _interrupts(steps) as cancelled:
            yield cancelled
    except (Cancelled, KeyboardInterrupt, typer.Abort):  # the last at a prompt
        with suppress(OSError):  # the terminal may be gone
            _stderr().print("Cancelled; no incomplete files were left.")
        raise typer.Exit(CANCELLED) from None
    except UserError as error:
        show_error(error)
        raise typer.Exit(BAD_INPUT) from error
    except typer.Exit:
        raise
    except Exception as error:
        show_unexpected(error)
        raise typer.Exit(UNEXPECTED) from error


@contextmanager
def _interrupts(steps: bool) -> Iterator[Callable[[], bool]]:
    cancelled = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread handle signals
        yield cancelled.is_set
        return

    def handle(_number: int, _frame: Any) -> None:
        if cancelled.is_set() or not steps:
            raise KeyboardInterrupt
        cancelled.set()
        with suppress(OSError):  # the terminal may be gone
            _stderr().print("Cancelling after this step; press Ctrl-C again to stop at once.")

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            before[number] = signal.signal(number, handle)
    try:
        yield cancelled.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_error(error: UserError | str, case: str = "") -> None:
    """Print one sentence on stderr."""
    prefix = f"{case}: " if case else ""
    _stderr().print(Text("Error:", "bold red"), _verbatim(prefix + str(error)), soft_wrap=True)


def show_note(text: str, important: bool = False) -> None:
    """Print a sentence on stderr, unless only what is important is wanted."""
    if important or not SHOWN.quiet:
        _stderr().print(_verbatim(text), soft_wrap=True)


def show_unexpected(error: Exception, case: str = "") -> str:
    """Print one sentence on an unexpected error, after its traceback with `--debug`; return the sentence."""
    if debug:
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {reason_of(error, 200)}"
    sentence = f"an unexpected error ({what}); please report it, with what mob-uncertainty --debug shows."
    show_error(sentence, case)
    return sentence[:1].upper() + sentence[1:]


@contextmanager
def progress(title: str, place: str = "") -> Iterator[Callable[[Progress], None]]:
    """Show progress: bars with the time left or, where stderr is no terminal, lines that begin with a case's place."""
    title = f"{place}: {title}" if place else title
    console = _stderr()
    if SHOWN.quiet:
        yield lambda _update: None
        return
    if not console.is_terminal:
        console.print(_verbatim(title), soft_wrap=True)
        yield _PlainProgress(console, place)
        return
    console.print(_verbatim(title, "bold"))
    columns = (
        TextColumn(f"{{task.description:<{max(map(len, STAGES.values())) + 1}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(update: Progress) -> None:
            if update.stage not in tasks:
                tasks[update.stage] = bars.add_task(STAGES.get(update.stage, update.stage), total=None, left="")
            left = _duration_left(update)
            bars.update(tasks[update.stage], completed=update.done, total=update.total or None, left=left)

        yield show


class _PlainProgress:
    """Progress as lines that are readable in a log file: one per stage, and one every few seconds within it."""

    def __init__(self, console: Console, place: str) -> None:
        self._console, self._place, self._stage, self._next = console, f"{place}, " if place else "", "", 0.0

    def __call__(self, update: Progress) -> None:
        begins, ends = update.stage != self._stage, 0 < update.total <= update.done
        if not begins and (update.total == 1 or (time.monotonic() < self._next and not ends)):
            return
        self._stage, self._next = update.stage, time.monotonic() + PLAIN_LINE_EVERY_S
        count = f": {update.done} of {update.total}" if update.total > 1 else ""
        if update.done and not update.total:
            count = f": {update.done} so far"
        left = _duration_left(update)
        stage = STAGES.get(update.stage, update.stage)
        stage = stage[:1].lower() + stage[1:] if self._place else stage
        self._console.print(f"  {self._place}{stage}{count}{', ' + left if left else ''}")


def _duration_left(update: Progress) -> str:
    if update.seconds_left is None or update.done >= update.total:
        return ""
    minutes, seconds = divmod(round(update.seconds_left), 60)
    return f"{minutes} min {seconds:02d} s left" if minutes else f"{seconds} s left"


def can_ask() -> bool:
    """Whether there is a terminal to ask in."""
    return sys.stdin.isatty()


def agree_to_licences(models: Iterable[Path], accepted: bool) -> None:
    """Show the models' licences that are to be agreed to, and ask, unless the user agrees by `--accept-licence`.

    Raises:
        SettingsError: There is no terminal to ask in.
        typer.Abort: The user does not agree.
        ModelError: A model cannot be read.
    """
    from MoBUncertaintyLib.model.licences import Terms, agree, with_meaning

    def ask(terms: Terms) -> None:
        if not (accepted or can_ask()):
            licence = with_meaning(terms.licence)
            raise SettingsError(f"The licence of {terms.model} is {licence}; use --accept-licence to agree to it.")
        for line in [*terms.lines, *(["Agreed to by --accept-licence."] if accepted else [])]:
            show_note(line, important=True)
        if not accepted:
            typer.confirm("Do you agree to this licence?", abort=True, err=True)

    agree(models, ask, lambda sentence: show_warnings([sentence]))


def show_warnings(warnings: Iterable[str]) -> None:
    """Print each warning on a line on stderr."""
    for warning in warnings:
        _stderr().print(Text("Warning:", "bold yellow"), _verbatim(warning), soft_wrap=True)


def show_case(case: Case, written: Written, folder: Path, shown: Sequence[str] = ()) -> dict[str, Any]:
    """Print what became of a case, but for the warnings that were `shown` before; return the facts for `--json`."""
    from MoBUncertaintyLib.regions.prediction import predicted_intervals

    prediction, regions, seconds = case.prediction, case.regions.ranked, case.prediction.timings
    warnings = [*prediction.warnings, *written.warnings]
    suitability = prediction.suitability or Suitability(judged=False)
    volumes, intervals = prediction.volumes_ml(), predicted_intervals(prediction)
    error = prediction.expected_error_mm3 / 1000
    device = "{device}, {precision}, {engine}".format_map(prediction.provenance)
    show_warnings(sentence for sentence in warnings if sentence not in shown)
    table = _Facts(case.source.name)
    table.suitability(suitability)
    checked = prediction.checked
    for name, volume in volumes.items():
        overlap = f"; overlap with the model's own: Dice {checked.overlap[name]:.2f}" if checked else ""
        table.fact(name, volume_text(volume, intervals.get(name)) + overlap)
    agreement = [f"{name}: {expected.text}" for name, expected in prediction.agreement.items()]
    table.fact("expected Dice", *(agreement or ["not known: no label was segmented"]))
    if checked:
        table.fact("not checked", ", ".join(checked.unmatched) or "none: every label is the model's")
        if checked.second:
            dices = (f"{name} {dice:.2f}" for name, dice in checked.second.overlap.items())
            table.fact("compared with", f"{checked.second.name}, Dice: {', '.join(dices)}")
        table.fact("plainly wrong", *([finding.sentence for finding in checked.findings] or ["nothing"]))
    for measured in prediction.measured:
        table.fact(measured.name, measured.text)
    table.fact(f"{prediction.region_kind} regions", _count_regions(case))
    if regions and regions[0].effect:
        table.fact("ranked by effect", f"first: {regions[0].effect.text}")
    table.fact("expected error", f"{volume_text(error)} in total")
    table.fact("computed on", device)
    stages = ", ".join(f"{stage} {taken:.1f}" for stage, taken in seconds.items())
    table.fact("time", f"{sum(seconds.values()):.1f} s ({stages})")
    table.fact("results", str(folder))
    table.show()
    return {
        "name": case.source.name,
        "folder": folder,
        "volumes_ml": volumes,
        "intervals": {name: asdict(interval) for name, interval in intervals.items()},
        "regions": [asdict(region) for region in regions],
        "agreement": {name: asdict(expected) for name, expected in prediction.agreement.items()},
        **({"checked": asdict(checked)} if checked else {}),
        "measurements": [asdict(measured) for measured in prediction.measured],
        "expected_error_ml": error,
        "seconds": seconds,
        "device": device,
        "warnings": warnings,
        "suitability": suitability.to_dict(),
        "problems": written.problems,
    }


def _count_regions(case: Case) -> str:
    from MoBUncertaintyLib.regions.description import organ_names, place_text

    if not (regions := case.regions.ranked):
        return "none"
    first, error = regions[0], volume_text(sum(region.expected_error_mm3 for region in regions) / 1000)
    place = place_text(first, organ_names(case.prediction, replace(case.regions, ranked=(first,))))
    return f"{len(regions)}, {error} of expected error in them; first: {place}, {first.extent_mm:.0f} mm"


def serve_review(case: Case, results: Path, port: int) -> None:
    """Serve the review page until Ctrl-C; each step is in a file beside the results at once."""
    from MoBUncertaintyLib.pipeline.review_server import DecisionsFile, PageReview, serve

    file = DecisionsFile(results)
    tell = "Open {} in a browser on this computer; stop with Ctrl-C."
    serve(PageReview(case, file), port, lambda address: typer.echo(tell.format(address)))
    typer.echo(f"Stopped; the decisions are in {file.path}." if file.path else "Stopped; nothing was decided.")


def show_review(case: Case, exported: Exported) -> None:
    """Print a review's warnings and problems, and then its outcome and files."""
    show_warnings(exported.warnings)
    for problem in exported.problems:
        show_error(problem)
    review, table = case.review, _Facts(case.source.name or "Review")
    origin = "drawn" if case.prediction.checked else "predicted"
    if suitability := case.prediction.suitability:
        show_warnings([suitability.sentence] if suitability.sentence else [])
        table.suitability(suitability)
    for label in exported.report["labels"]:
        volumes = [
            f"{volume_text(label[f'{what}_ml'], Interval.from_dict(label[f'{what}_interval']))} {word}"
            for what, word in (("predicted", origin), ("corrected", "corrected"))
        ]
        table.fact(label["name"], ", ".join(volumes))
    for measured in case.measured:
        table.fact(measured.name, measured.text)
    decided, total = review.reviewed
    if review.drawn:
        table.fact("clicks", str(len(review.drawn)))
    if review.locks:
        table.fact("locked", ", ".join(label["name"] for label in exported.report["labels"] if label["locked"]))
    table.fact("reviewed", f"{decided} of {total} regions")
    predicted, left = (volume_text(mm3 / 1000) for mm3 in review.expected_error_mm3)
    table.fact("expected error", f"{predicted} as {origin}, {left} left")
    signature = review.signature
    table.fact("signed", f"{signature.name}, {signature.time:%Y-%m-%d %H:%M %Z}" if signature else "not signed off")
    table.fact("files", *map(str, exported.files))
    table.show()


def show_verified(folder: Path, signed_off: str | None, files: int) -> None:
    """Print what was verified of a review."""
    table = _Facts(str(folder))
    table.fact("report", f"unchanged, with {files} more files")
    table.fact("signed off", signed_off or "no")
    table.show()


def show_calibrated(model: Model, calibration: Calibration) -> None:
    """Print what the model lacks, and what a site's cases have changed."""
    show_warnings(model.warnings)
    before, after = calibration.fit.before, calibration.fit.after
    table = _Facts(model.card.name)
    for kind, count in calibration.counts.items():
        if count:
            table.fact(kind, str(count))
    table.fact("temperature", f"{calibration.fit.temperature:.3g}")
    table.fact("NLL", f"{before.nll:.4f} before, {after.nll:.4f} after, p = {calibration.fit.p_value:.2g}")
    table.fact("ECE", f"{before.ece:.4f} before, {after.ece:.4f} after")
    if intervals := calibration.intervals:
        first = "not stated" if intervals.before is None else percent(intervals.before)
        text = f"{first} in their intervals before, {percent(intervals.after)} after"
        table.fact(f"{percent(intervals.level)} of volumes", text)
    table.fact("", "all in a leave-one-out test")
    table.fact("regions", plain(model.card.regions))
    table.fact("model", str(model.path))
    table.fact("model's SHA-256", model.digest)
    table.show()


def show_demo(scores: DemoScores, image: Path | None, page: Path) -> None:
    """Print how the demo compares with the clinical contours, and where its image and its page are."""
    table = _Facts("Compared with the clinical contours, which the model has not seen")
    for name, organ in scores.organs.items():
        apart = "" if organ.distance_mm is None else f"{organ.distance_mm:.1f} mm apart; "
        volume = volume_text(organ.volume_ml, organ.interval)
        table.fact(name, _agreement(organ), f"{apart}{volume}, drawn: {volume_text(organ.drawn_ml)}")
    table.show()
    table = _Facts("In this comparison")
    table.fact("Dice", "overlap with the contour, from 0 to 1")
    table.fact("two clinicians", "mean Dice of their contours in 12 other CTs, at full resolution")
    table.fact("mm apart", "mean distance of the two surfaces")
    fractions = {
        "error in the regions": (scores.error_fraction_in_regions, "of the wrongly labelled volume"),
        "thick error in them": (scores.thick_error_fraction_in_regions, "of what is thicker than one voxel"),
    }
    for name, (fraction, whole) in fractions.items():
        table.fact(name, f"none {whole}" if fraction is None else f"{percent(fraction)} {whole}")
    table.fact("computing time", f"{scores.seconds:.0f} s")
    table.show()
    table = _Facts("What next")
    table.fact("review", f"open {page} in a browser")
    table.fact("the image", str(image))
    table.show()


def _agreement(organ: OrganScores) -> str:
    """Say in words how well a segmentation agrees with the contour."""
    if organ.clinicians is None:
        return f"Dice {organ.dice:.2f}; no two clinicians to compare with"
    lacking = organ.clinicians - organ.dice
    how = next(words for most, words in CLOSENESS if lacking <= most)
    return f"{how} two clinicians: Dice {organ.dice:.2f}, theirs {organ.clinicians:.2f}"


def show_model(model: Model) -> None:
    """Print the card of a model, which the caller has verified."""
    card = model.card
    table = _Facts(card.name)
    table.fact("task", card.task)
    for label in card.labels:
        kind = label.terminology["type"]
        covers = f", with {', '.join(map(str, label.covers))}" if label.covers else ""
        table.fact(f"label {label.value}{covers}", label.name + (f" ({kind[0]} {kind[1]}, {kind[2]})" if kind else ""))
    table.fact("input channels", ", ".join(model.channels))
    table.fact("covariance", covariance_text(card.covariance))
    for stage in filter(None, (model, model.first_stage)):
        title = "configuration" if stage is model else "first stage"
        table.fact(title, f"{stage.card.configuration}, folds {', '.join(map(str, stage.folds))}")
    table.fact("input", f"orientation {card.orientation or 'as stored'}, {_numbers(card.spacing)} mm")
    for title, lines in (("training", training_lines(card.training)), ("scores", score_lines(card.scores))):
        for key, text in lines or [("", "not stated")]:
            table.fact(f"{title}: {key}" if key else title, text)
    fingerprint = card.fingerprint
    table.fact("ordinary cases", *(fingerprint.lines if fingerprint else ["none: cases are not compared"]))
    if card.one_piece:
        table.fact("of one piece", *(f"{name}: {card.pieces[name].text}" for name in sorted(card.one_piece)))
    cases = card.volume_calibration
    table.fact("volume intervals", f"by residuals of {cases.data}" if cases else "none")
    if card.regions:
        table.fact("regions", plain(card.regions))
    table.fact("licence", card.licence)
    verified = f"{len(card.files)} files, SHA-256 correct" if card.files else "raw nnU-Net folder, no hashes to check"
    table.fact("verified", f"{verified}; {'runs without' if model.is_light else 'needs'} PyTorch")
    table.fact("model's SHA-256", model.digest)
    table.show()


class _Facts(Table):
    """A table of names and facts, all of it printed verbatim."""

    def __init__(self, title: str) -> None:
        super().__init__(title=_verbatim(title, "table.title"), title_justify="left", show_header=False)
        self.add_column(style="bold", no_wrap=True)
        self.add_column(overflow="fold")

    def fact(self, name: str, *lines: str, style: str = "") -> None:
        """Add a row."""
        self.add_row(_verbatim(name), Text("\n").join(_verbatim(line, style) for line in lines))

    def suitability(self, suitability: Suitability) -> None:
        """Add a row that says how far the case can be trusted."""
        self.fact("case", suitability.text, style=SUITABILITY_STYLES.get(suitability.level, ""))

    def show(self) -> None:
        """Print it on stdout."""
        Console(file=sys.stdout, highlight=False).print(self)


def _verbatim(text: str, style: str = "") -> Text:
    """Make text verbatim that others may have written: without markup and without terminal control characters."""
    return Text(printable(text), style)


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
