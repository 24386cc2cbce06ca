"""`mob-uncertainty`: from an image to its segmentation, the predictive variance and the doubtful regions.

Exit codes: 0 all went well; 2 bad input, model, setting or output; 1 an unexpected error; 130 cancelled. The commands
read their options and present what `pipeline` does. Heavy imports are inside them, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from MoBUncertaintyLib.cli import console, models
from MoBUncertaintyLib.cli.options import (
    AcceptLicence,
    Device,
    Dose,
    Engine,
    Measures,
    Overwrite,
    RankBy,
    RegionOptions,
    Scene,
)
from MoBUncertaintyLib.cli.programs import AsJson, Commands, HelpAll, Quiet, Result, version_option
from MoBUncertaintyLib.output.formats import DEFAULT, OF_A_PREDICTION, Format, option_names, read_formats

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.folder import Model


class Program(Commands):
    """The commands of `mob-uncertainty`."""

    usual: ClassVar = {
        "predict": {"labels", "measure", "dose", "device", "accept_licence", "overwrite", "skip_existing"},
        "check": {"against", "mapped", "channel", "device", "accept_licence", "overwrite"},
    }


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Segment an organ in an image and show where the segmentation is doubtful. Not for clinical use.",
)


@app.callback()
def main(
    _version: Annotated[bool, version_option("mob-uncertainty")] = False,
    _as_json: AsJson = False,
    _quiet: Quiet = False,
    _help_all: HelpAll = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Set the options of the program itself."""
    if debug:
        console.debug = True


@app.command()
def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="NIfTI, NRRD or MHA file, DICOM folder, or a folder with any of these (one results folder for each).",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="Model folder, nnU-Net training folder, .zip of one, a shipped model's name, or "
            "totalsegmentator:NUMBER for weights that TotalSegmentator has installed. Several make an ensemble."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Results folder; for a folder of images, the parent of theirs.")],
    channel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Image of another input channel; may be repeated. In a folder, name files CASE_0000, CASE_0001, ...",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="Monte Carlo samples. Default: a closed form, and 30 samples where there is none."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the Monte Carlo samples.")] = 0,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Fraction of a tile that its neighbour covers.")] = 0.5,
    tiling: Annotated[
        Literal["adaptive", "full"],
        typer.Option(help="adaptive: few tiles, and more around what they find; full: a grid, as in nnU-Net."),
    ] = "adaptive",
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored copies, if trained so.")] = False,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Floating-point format of the network.")
    ] = "auto",
    computer: Annotated[
        str | None, typer.Option(metavar="USER@HOST", help="Predict there, by ssh: images and models are sent to it.")
    ] = None,
    fold: Annotated[list[str] | None, typer.Option(help="Fold to use; may be repeated. Default: all.")] = None,
    roi: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(help="Region of interest in RAS mm: R min, R max, A min, A max, S min, S max."),
    ] = None,
    body_box: Annotated[bool, typer.Option("--body-box/--no-body-box", help="Skip the air around the body.")] = True,
    labels: Annotated[str | None, typer.Option(help="Labels to predict, separated by commas. Default: all.")] = None,
    measure: Measures = None,
    dose: Dose = None,
    rank_by: RankBy = None,
    uncertainty: Annotated[
        Literal["variance", "bernoulli", "entropy"] | None,
        typer.Option(help="Measure of uncertainty; bernoulli is p (1 - p). Default: variance, if the model has one."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=10, help="The measure that a voxel must exceed to be doubtful.")
    ] = None,
    region: RegionOptions = None,
    series: Annotated[str | None, typer.Option(help="Series instance UID, if a DICOM folder has several.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Predict even if the image's modality is not that of the model.")
    ] = False,
    scene: Scene = True,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"Write DICOM objects too, of an image from DICOM: {option_names(OF_A_PREDICTION)}; may be repeated.",
        ),
    ] = None,
    accept_licence: AcceptLicence = False,
    overwrite: Overwrite = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Keep existing results.")] = False,
) -> Result:
    """Segment an image, with probability, variance and doubtful regions.

    In a folder, a case that fails is reported with the reason, and the others continue; the exit code is then 2. Cases
    that already have the same results are not computed again. A table lists all cases, worst first.
    """
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.base.errors import SettingsError
        from MoBUncertaintyLib.cli.cohort import predict_inputs
        from MoBUncertaintyLib.images.inputs import case_folders, list_inputs
        from MoBUncertaintyLib.inference.maps.ensemble import predictor_of
        from MoBUncertaintyLib.measurements.measurement import read_wanted
        from MoBUncertaintyLib.model.folder import load_model
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.model.region_settings import read_stated
        from MoBUncertaintyLib.output.results_folder import FOLDER
        from MoBUncertaintyLib.pipeline.cases import Job
        from MoBUncertaintyLib.regions.prediction import PredictionSettings
        from MoBUncertaintyLib.worker.remote.predictor import RemotePredictor

        if overwrite and skip_existing:
            raise SettingsError("--skip-existing and --overwrite exclude each other; give only one of them.")
        settings = PredictionSettings(
            samples=samples,
            seed=seed,
            overlap=overlap,
            tiling=tiling,
            mirror=mirror,
            device=device,
            engine=engine,
            precision=precision,
            folds=_folds(fold),
            region_of_interest=roi,
            body_box=body_box,
            labels=None if labels is None else tuple(name for text in labels.split(",") if (name := text.strip())),
            force=force,
        )
        FOLDER.check_name(output)
        objects = read_formats(formats or (), OF_A_PREDICTION)
        loaded, named = [load_model(find_model(name)) for name in model], _channels(channel)
        numbered = 1 if named else len(loaded[0].channels)
        cases = case_folders(list_inputs(source, output, numbered), output)
        if named and cases[0][0].entry:
            raise SettingsError("--channel is for one case; in a folder, name files CASE_0000, CASE_0001, and so on.")
        if series and not cases[0][0].entry and cases[0][0].path.is_file():
            raise SettingsError("--series is for DICOM folders, but the input is a file; leave it out.")
        if dose and (cases[0][0].entry or not (measure or rank_by)):
            raise SettingsError(
                "--dose is for one case, with --measure or --rank-by; name what to measure, such as mean_dose:LABEL."
            )
        console.agree_to_licences([model.path for model in loaded], accept_licence)
        predictor = RemotePredictor(computer, loaded, settings) if computer else predictor_of(loaded, settings)
        shown = {"measure": uncertainty, "threshold": threshold}
        chosen = {name: value for name, value in shown.items() if value is not None}
        region_settings = predictor.model.card.region_settings.changed(read_stated(region or ()) | chosen)
        values = ("image", "dose") if dose else ("image",)
        names = [label.name for label in predictor.labels]
        wanted, ranking = (read_wanted(texts, names, values) for texts in (measure or (), [rank_by] if rank_by else ()))
        job = Job(predictor, region_settings, series, named, scene, objects, overwrite, skip_existing)
        measures = tuple(one.text for one in wanted)
        job = replace(job, measurements=measures, dose=dose, rank_by=ranking[0].text if ranking else None)
        with closing(predictor):
            return predict_inputs(cases, source, output, job, cancelled)


@app.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image, or a folder of images, as for predict.")],
    segmentation: Annotated[
        Path,
        typer.Argument(
            help="Its segmentation by any tool or hand: NIfTI, NRRD, DICOM SEG, RTSTRUCT, or a folder with a mask for "
            "each label; for a folder of images, the folder of segmentations with the images' names."
        ),
    ],
    model: Annotated[list[str], typer.Option(help="As for predict.")],
    output: Annotated[Path, typer.Option(help="Results folder; for a folder of images, the folder that holds them.")],
    against: Annotated[
        Path | None,
        typer.Option(metavar="SECOND", help="A second segmentation, or folder of them: regions are where they differ."),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="The model's name of a label there; may be repeated."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Image of another input channel; may be repeated.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    region: RegionOptions = None,
    series: Annotated[str | None, typer.Option(help="Series instance UID, if a DICOM folder has several.")] = None,
    scene: Scene = True,
    accept_licence: AcceptLicence = False,
    overwrite: Overwrite = False,
) -> Result:
    """Hold a segmentation that others have drawn against a model: what is wrong, and where it is improbable.

    The results are of that segmentation, which is not changed, and its review starts from it. That it agrees with a
    model is no proof that it is right.
    """
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.cli.cohort import predict_inputs
        from MoBUncertaintyLib.images.inputs import case_folders, list_inputs, paired
        from MoBUncertaintyLib.inference.maps.ensemble import predictor_of
        from MoBUncertaintyLib.model.folder import load_model
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.model.region_settings import read_stated
        from MoBUncertaintyLib.output.results_folder import FOLDER
        from MoBUncertaintyLib.pipeline.cases import Job
        from MoBUncertaintyLib.regions.prediction import PredictionSettings

        FOLDER.check_name(output)
        loaded, named = [load_model(find_model(name)) for name in model], _channels(channel)
        names = _pairs(mapped, "--map", "a label's name in the segmentation and the model's, THEIRS=OURS")
        inputs = paired(list_inputs(source, output, 1 if named else len(loaded[0].channels)), segmentation, against)
        console.agree_to_licences([each.path for each in loaded], accept_licence)
        predictor = predictor_of(loaded, PredictionSettings(device=device, engine=engine))
        settings = predictor.model.card.region_settings.changed(read_stated(region or ()))
        job = Job(predictor, settings, series, named, scene, overwrite=overwrite, names=names)
        with closing(predictor):
            return predict_inputs(case_folders(inputs, output), source, output, job, cancelled)


@app.command()
def review(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Results folder of predict.")],
    decisions: Annotated[
        Path | None, typer.Option(help="JSON file with clicks and verdicts, or an export's report.json, to begin with.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the review page on this computer, so that each click acts at once.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page. Default: a free one.")] = 0,
    image: Annotated[Path | None, typer.Option(help="The image. Default: the one that predict read.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to create. Default: review, inside RESULTS.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"What to write: {option_names(Format)}; may be repeated. Default: {option_names(DEFAULT)}.",
        ),
    ] = None,
    measure: Measures = None,
    dose: Dose = None,
    rank_by: RankBy = None,
    patient_fields: Annotated[
        bool, typer.Option("--patient-fields", help="Let the report name the patient, as the DICOM files do.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier review.")] = False,
) -> Result:
    """Apply a reader's clicks and verdicts to a prediction: corrected segmentation and report."""
    with console.reporting(steps=bool(measure or rank_by)) as cancelled:
        from MoBUncertaintyLib.base.errors import SettingsError
        from MoBUncertaintyLib.output.review_export import FOLDER, write_export
        from MoBUncertaintyLib.output.review_files import open_case

        if serve and measure:
            raise SettingsError("--measure is for --decisions; leave it out, or leave out --serve.")
        if decisions is None and not serve:
            raise SettingsError("There is nothing to apply; give --decisions FILE, or --serve to decide in a browser.")
        if dose and not (measure or rank_by):
            raise SettingsError(
                "--dose is for what --measure or --rank-by names, such as mean_dose:LABEL; name something."
            )
        folder, wanted = output or results / "review", read_formats(formats or DEFAULT)
        if not serve:
            FOLDER.check_name(folder)
        case = open_case(results, decisions, image)
        if rank_by and case.review.signature:
            raise SettingsError("The review is signed off, so its regions keep their ranks; leave out --rank-by.")
        if measure or rank_by:
            from MoBUncertaintyLib.images.dose import read_dose
            from MoBUncertaintyLib.pipeline.cases import measure_case

            with console.progress(case.source.name) as progress:
                gray = read_dose(dose, case.image, case.source.dicom_files) if dose else None
                made = measure_case(case, measure or (), rank_by, gray, progress, cancelled)
            if rank_by:
                case.review.rank({each.region_id: made.effects[each.number] for each in case.review.regions})
            console.show_warnings(made.warnings)
            case = replace(case, begun=case.review, measured=made.measured)
        if not serve:
            done = write_export(case, folder, wanted, patient_fields=patient_fields, overwrite=overwrite)
            console.show_review(case, done)
            facts = {"files": done.files, "warnings": done.warnings, "problems": done.problems, "report": done.report}
            return Result(facts, console.BAD_INPUT if done.problems else 0)
    with console.reporting():  # the first Ctrl-C stops it
        console.serve_review(case, results, port)
    return Result()


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="REVIEW", help="Folder of an exported review, with all its files.")],
) -> Result:
    """Verify that a review is unchanged, and show who has signed it off."""
    with console.reporting():
        from MoBUncertaintyLib.output.review_export import read_export

        record, signed_off = read_export(folder)
        files = len(record["files"])
        console.show_verified(folder, signed_off, files)
        return Result({"signed_off": signed_off, "files": files})


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Results folder; an earlier demo's is replaced.")] = Path("demo-results"),
    device: Device = "auto",
    engine: Engine = "auto",
    scene: Scene = True,
    accept_licence: AcceptLicence = False,
) -> Result:
    """Predict the shipped CT, of a patient that the model has never seen, and compare it with the clinical contours."""
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.output.results_folder import FOLDER
        from MoBUncertaintyLib.pipeline.demo import DEMO_MODEL, run_demo

        FOLDER.check_name(output)
        console.agree_to_licences([find_model(DEMO_MODEL)], accept_licence)
        with console.progress("HeadNeckCT") as progress:
            case, written, scores = run_demo(
                output, device=device, engine=engine, scene=scene, progress=progress, cancelled=cancelled
            )
        facts = console.show_case(case, written, output)
        console.show_demo(scores, case.source.path, output / "review.html")
        return Result({"case": facts, "scores": asdict(scores)})


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="Model folder, nnU-Net training folder, .zip of one, or a shipped model's name.")
    ],
) -> Result:
    """Verify a model and show what it is, how it was trained and how it scored."""
    with console.reporting():
        from MoBUncertaintyLib.inference.engines import verify
        from MoBUncertaintyLib.model.listing import find_model

        verified = verify(find_model(model))
        console.show_model(verified)
        return _described(verified)


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="nnU-Net training folder (plans.json, dataset.json, fold_K), or a model to rewrite.")
    ],
    output: Annotated[Path, typer.Option(help="Model folder or .zip file to create.")],
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: that of the data set.")] = None,
    task: Annotated[str | None, typer.Option(help="What the model segments in which images, in one sentence.")] = None,
    fold: Annotated[
        list[str] | None, typer.Option(help="Fold to export; may be repeated. Default: all numbered, trained folds.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    training: Annotated[Path | None, typer.Option(help="JSON file with more about the training, for the card.")] = None,
    scores: Annotated[Path | None, typer.Option(help="JSON file with the card's scores.")] = None,
    region: RegionOptions = None,
    clicks: Annotated[
        Path | None, typer.Option(help="JSON file of mob-training evaluate: how a click changes its surroundings.")
    ] = None,
    fingerprint: Annotated[
        Path | None, typer.Option(help="JSON file of mob-training fingerprint: what ordinary cases look like.")
    ] = None,
    pieces: Annotated[
        Path | None, typer.Option(help="JSON file of mob-training pieces: which labels are of one piece.")
    ] = None,
    intervals: Annotated[
        Path | None, typer.Option(help="JSON file of mob-training evaluate: residuals of calibration cases.")
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="Orientation of the training data, such as RAS, if dataset.json has none.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16: half the size.")] = False,
) -> Result:
    """Make a model folder from an nnU-Net training folder, stock or fine-tuned by mob-training, or from a model."""
    with console.reporting():
        from MoBUncertaintyLib.measurements.volumes import VolumeCalibration
        from MoBUncertaintyLib.model.card import read_pieces
        from MoBUncertaintyLib.model.click_settings import ClickSettings
        from MoBUncertaintyLib.model.files import read_file
        from MoBUncertaintyLib.model.fingerprint import Fingerprint
        from MoBUncertaintyLib.model.listing import find_model
        from MoBUncertaintyLib.model.region_settings import read_stated
        from MoBUncertaintyLib.model.terminology import without_code
        from MoBUncertaintyLib.network.export import export as export_model

        def content(path: Path | None, read: Callable[[dict[str, Any]], Any] = dict) -> Any:
            return read(read_file(path).json()) if path else None

        model = export_model(
            find_model(source),
            output,
            name=name,
            task=task,
            folds=_folds(fold),
            licence=licence,
            training=content(training),
            scores=content(scores),
            regions=read_stated(region) if region else None,
            click_settings=content(clicks, ClickSettings.from_dict),
            fingerprint=content(fingerprint, Fingerprint.from_dict),
            pieces=content(pieces, read_pieces),
            volume_calibration=content(intervals, VolumeCalibration.from_dict),
            orientation=orientation,
            half=half,
        )
        console.show_model(model)
        console.show_warnings([*model.warnings, *without_code(model.card.labels)])
        return _described(model)


@app.command(hidden=True)
def worker() -> None:
    """Compute for the application on another computer that starts this over ssh."""
    from MoBUncertaintyLib.worker.remote.host import serve

    serve()


def _described(model: Model) -> Result:
    facts = {"path": model.path, "digest": model.digest, "channels": model.channels}
    if model.first_stage:
        facts["first_stage"] = model.first_stage.path
    return Result({**facts, "card": json.loads(model.card.to_json())})


def _channels(texts: list[str] | None) -> dict[str, Path]:
    """Read the files of input channels, NAME=FILE each."""
    pairs = _pairs(texts, "--channel", "a channel's name and its file, NAME=FILE")
    return {name: Path(file) for name, file in pairs.items()}


def _pairs(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    """Read what an option, which may be repeated, says of different names."""
    from MoBUncertaintyLib.base.errors import SettingsError

    pairs: dict[str, str] = {}
    for text in texts or ():
        name, separator, other = (part.strip() for part in text.partition("="))
        if not (name and separator and other):
            raise SettingsError(f"{option} {text} is not understood; give {form}.")
        if name in pairs:
            raise SettingsError(f"{option} is given twice for {name}; give it once.")
        pairs[name] = other
    return pairs


def _folds(folds: list[str] | None) -> tuple[int | str, ...] | None:
    """Read nnU-Net's folds, which are numbers or `all`."""
    from MoBUncertaintyLib.base.errors import SettingsError

    if not folds:
        return None
    for fold in folds:
        if fold != "all" and not fold.isdecimal():
            raise SettingsError(f"There is no fold {fold!r}; give its number, or all.")
    return tuple(fold if fold == "all" else int(fold) for fold in folds)


app.add_typer(models.app, name="models")
app.command()(models.calibrate)


if __name__ == "__main__":
    app()
