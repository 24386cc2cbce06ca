"""`mob-uncertainty models`: list, install, remove and publish models of a catalogue; `calibrate`, which makes one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.options import AcceptLicence, Device
from MoBUncertaintyLib.cli.programs import Result

if TYPE_CHECKING:
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry, Place

app = typer.Typer(
    no_args_is_help=True,
    help="List the models of a catalogue, install, remove and publish them. Nothing else is downloaded.",
)

SHORT_SCORE = 40  # characters of a score that is shown in a list

Index = Annotated[
    str | None,
    typer.Option(
        "--index", metavar="ADDRESS", envvar="MOB_UNCERTAINTY_INDEX", help="Catalogue: an https address or a folder."
    ),
]


@app.command("list")
def list_models(
    index: Index = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="List what is on this computer; contact no catalogue.")
    ] = False,
) -> Result:
    """List the models of a catalogue, what of them is installed, and weights of TotalSegmentator on this computer."""
    with console.reporting():
        if installed:
            return _list_installed()
        from MoBUncertaintyLib.pipeline.catalogue.install import status
        from MoBUncertaintyLib.pipeline.catalogue.place import Place

        place = Place.of(index or "")
        entries = place.entries()
        for entry in entries:
            _show(entry, status(entry))
        if not entries:
            typer.echo("The catalogue is empty.")
        models = [asdict(entry) | {"status": status(entry)} for entry in entries]
        return Result({"index": str(place.base), "models": models, "totalsegmentator": _list_weights()})


@app.command()
def install(
    name: Annotated[str, typer.Argument(help="Name of the model in the catalogue.")],
    index: Index = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the download and to the licence; do not ask.")] = False,
) -> Result:
    """Download a model of a catalogue, check it and install it, after asking."""
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.base.errors import CatalogueError
        from MoBUncertaintyLib.pipeline.catalogue.install import install as install_model
        from MoBUncertaintyLib.pipeline.catalogue.install import target_of, why_not
        from MoBUncertaintyLib.pipeline.catalogue.place import Place

        place = Place.of(index or "")
        entry = place.entry(name)
        if reason := why_not(entry):
            raise CatalogueError(reason)
        if not yes:
            _ask(place, entry, target_of(entry))
        with console.progress(f"Installing {entry.name}, {entry.megabytes}") as progress:
            path = install_model(place, entry, progress, cancelled)
        typer.echo(f"{entry.name} is installed in {path}.")
        return Result({"name": entry.name, "path": path, "digest": entry.digest})


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of an installed model.")]) -> Result:
    """Remove an installed model and its files."""
    with console.reporting():
        from MoBUncertaintyLib.pipeline.catalogue.install import remove as remove_model

        path = remove_model(name)
        typer.echo(printable(f"{path} is removed."))
        return Result({"removed": path})


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help="Model folder or .zip, or the name of a model.")],
    catalogue: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the catalogue; made if it is missing.")
    ],
    sample: Annotated[
        Path | None, typer.Option(help="Image whose result is shown; slices of it are published, but not its name.")
    ] = None,
) -> Result:
    """Add a model to the folder of a catalogue, or update it there."""
    with console.reporting():
        from MoBUncertaintyLib.base.publishing import make_private_folder, remove_private_folder
        from MoBUncertaintyLib.model.card import NOT_STATED
        from MoBUncertaintyLib.model.folder import load_model
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.pipeline.catalogue.publish import publish as publish_model

        loaded, folder = load_model(find_model(model)), make_private_folder("mob-model")
        try:
            if sample:
                from MoBUncertaintyLib.pipeline.cases import draw_sample

                draw_sample(sample, loaded, folder / "sample.png")
            entry = publish_model(loaded, catalogue, folder / "sample.png" if sample else None)
        finally:
            remove_private_folder(folder)
        typer.echo(printable(f"{entry.name} is published in {catalogue}."))
        if entry.licence == NOT_STATED:
            note = "No licence is given, so nobody knows whether they may use it; export it again with --licence."
            console.show_note(note, important=True)
        return Result({"published": entry})


def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or .zip, or the name of a model that is shipped.")],
    cases: Annotated[
        list[Path],
        typer.Argument(
            metavar="CASES...",
            help="Folders of signed-off reviews, or results folders, or a folder of these, with reviews in them; or "
            "folders of labelled cases, with images/NAME.nii.gz and labels/NAME.nii.gz.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Model folder or .zip file to create.")],
    name: Annotated[str | None, typer.Option(help="Name of the new model. Default: the old one, calibrated.")] = None,
    device: Device = "auto",
    accept_licence: AcceptLicence = False,
) -> Result:
    """Calibrate a model on a site's own cases, 5 or more, signed-off reviews or labelled; the result is a new model.

    Labelled cases are predicted first. Nothing is written if a leave-one-out test does not show that the new model is
    better.
    """
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model

        console.agree_to_licences([find_model(model)], accept_licence)
        with console.progress(f"Calibrating {model}") as progress:
            made, calibration, refused = calibrate_model(model, cases, output, name, progress, cancelled, device)
        console.show_warnings(refused)
        console.show_calibrated(made, calibration)
        facts = {"path": made.path, "digest": made.digest, "refused": refused}
        return Result(facts | {"calibration": made.card.training["calibration"]})


def _list_installed() -> Result:
    from MoBUncertaintyLib.base.resources import installed_models
    from MoBUncertaintyLib.model.listing import MODELS_FOLDER, list_models

    facts = []
    for folder, kind in ((MODELS_FOLDER, "comes with the program"), (installed_models(), "installed")):
        for model in list_models(folder):
            typer.echo(printable(f"{model.path.stem}  {model.problem or kind}"))
            facts.append({"name": model.path.stem, "path": model.path, "problem": model.problem})
    return Result({"models": facts, "totalsegmentator": _list_weights()})


def _list_weights() -> list[dict[str, Any]]:
    """Show the weights that TotalSegmentator has installed."""
    from MoBUncertaintyLib.model.listing import ListedModel
    from MoBUncertaintyLib.model.nnunet.totalsegmentator import installed_weights

    facts = []
    for name, path in installed_weights().items():
        model = ListedModel(path, None)
        typer.echo(printable(f"{name}  {model.name}, weights of TotalSegmentator"))
        typer.echo(printable(f"    labels: {', '.join(model.labels) or 'unknown'}; licence: {model.licence}"))
        facts.append({"name": name, "path": path, "labels": model.labels, "licence": model.licence})
    return facts


def _show(entry: Entry, status: str) -> None:
    typer.echo(printable(f"{entry.name}  {entry.megabytes}, {status}"))
    typer.echo(printable(f"    {entry.task}"))
    typer.echo(printable(f"    labels: {', '.join(entry.labels)}; licence: {entry.licence}"))
    short = [f"{key} {text}" for key, text in entry.scores.items() if len(text) <= SHORT_SCORE]
    if short:
        typer.echo(printable(f"    scores: {', '.join(short)}"))


def _ask(place: Place, entry: Entry, target: Path) -> None:
    from MoBUncertaintyLib.base.errors import SettingsError
    from MoBUncertaintyLib.model.licences import with_meaning

    typer.echo(printable(f"{entry.title} from {place.address(entry.file)}, {entry.megabytes}"), err=True)
    typer.echo(printable(f"Licence: {with_meaning(entry.licence)}"), err=True)
    if not console.can_ask():
        raise SettingsError("There is no terminal to ask in; use --yes to agree to the download and to the licence.")
    typer.confirm(printable(f"Install it in {target}?"), abort=True, err=True)
