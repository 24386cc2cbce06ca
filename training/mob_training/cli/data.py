"""From labelled images to a data set of nnU-Net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mob_training.cli.options import DatasetId, Workspace, declaring, written
from mob_training.data import CHANNEL
from mob_training.training.settings import Seed
from MoBUncertaintyLib.cli.programs import Result

if TYPE_CHECKING:
    from mob_training.data.split import Split


@dataclass(frozen=True)
class NewDataset:
    """What a new data set of nnU-Net is called, and the workspace that it goes to."""

    name: Annotated[str, typer.Option(help="Name of the nnU-Net data set.")]
    dataset_id: DatasetId
    workspace: Workspace

    def folder(self) -> Path:
        """Point nnU-Net at the workspace; return the folder that the data set will have."""
        from mob_training.data.datasets import new_dataset_folder
        from mob_training.training.workspace import use_workspace

        use_workspace(self.workspace, new=True)
        return new_dataset_folder(self.dataset_id, self.name)


@dataclass(frozen=True)
class SplitOptions:
    """Which cases train, validate and test."""

    test: Annotated[int | None, typer.Option(min=0, max=10**6, help="Cases held out. Default: a fifth.")] = None
    validation: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, help="Cases that choose the best epoch. Default: a fifth of the rest."),
    ] = None
    subjects: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns case,subject, or the name of one beside the workflow's configs: keeps the "
            "cases of one subject together. With a column `group`, train, validation and test get cases of every group."
        ),
    ] = None
    seed: Seed = 0
    fold: Annotated[
        int, typer.Option(min=0, max=999, help="Of a cross-validation: which lot of cases is held out, from 0 on.")
    ] = 0

    def read(self) -> Split:
        """Read who the subjects are, and how cases are split."""
        from mob_training.data.split import Split, read_subjects

        numbers = self.validation, self.test, self.seed
        tables = (read_subjects(self.subjects), read_subjects(self.subjects, "group")) if self.subjects else ()
        return Split(*numbers, *tables, fold=self.fold)


def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write the cases to.")],
    cases: Annotated[int, typer.Option(min=1, max=9999, help="Number of CTs.")] = 60,
    raters: Annotated[int, typer.Option(min=0, max=99, help="Masks of further raters per case.")] = 0,
    seed: Seed = 0,
) -> Result:
    """Make abdominal CT phantoms in TotalSegmentator's layout."""
    from mob_training.data.phantom import write_cohort

    return Result({"folder": output, "cases": write_cohort(output, cases, seed, raters)})


@declaring
def totalsegmentator(
    source: Annotated[Path, typer.Argument(help="Folder in TotalSegmentator's layout.")],
    organ: Annotated[str, typer.Option(help="TotalSegmentator's name of the structure.")],
    dataset: NewDataset,
    split: SplitOptions,
) -> Result:
    """Convert CTs with organ masks into an nnU-Net data set of one organ.

    Cases without the organ and unusable ones are left out; cases.csv in the data set's folder says why.
    """
    from mob_training.data.datasets import write_dataset
    from mob_training.data.totalsegmentator import find_cases

    parts, folder = split.read(), dataset.folder()
    return written(write_dataset(folder, find_cases(source, organ), parts))


def rtstruct(
    source: Annotated[
        Path, typer.Argument(help="Folder with a folder for each patient: a DICOM series and its RTSTRUCT.")
    ],
    output: Annotated[Path, typer.Argument(help="New folder.")],
    label: Annotated[
        list[str], typer.Option(help="NAME or NAME=OTHER,OTHER...: what its contours are called; may be repeated.")
    ],
) -> Result:
    """Convert patients' contours, DICOM RT Structure Sets, into what `labelled` and `attach-head` read.

    A label that a patient has no contours of was not drawn there: it is missing, not absent (labelled.json).
    """
    from mob_training.data.structure_sets import convert, parse_names

    names = parse_names(label)
    left_out = convert(source, output, names)
    labels = " ".join(f"--label {name}={value}" for value, name in enumerate(names, start=1))
    print(f"{len(left_out)} patients left out; next: mob-training labelled {output} {labels} --channel CT ...")
    return Result({"folder": output, "left_out": left_out})


@declaring
def labelled(
    source: Annotated[Path, typer.Argument(help="Folder with images/ and labels/.")],
    label: Annotated[list[str], typer.Option(help="NAME=VALUE[,VALUE...]; may be repeated.")],
    dataset: NewDataset,
    split: SplitOptions,
    channel: Annotated[str, typer.Option(help="CT, or another name for images that are z-scored.")] = CHANNEL,
    absent_is_missing: Annotated[
        bool, typer.Option(help="A label that a case does not show was not drawn there, instead of being absent.")
    ] = False,
) -> Result:
    """Convert a folder of images and label maps into an nnU-Net data set of the given labels.

    If some cases have some of the labels only, SOURCE/labelled.json says which: {"CASE": ["LABEL", ...]}.
    """
    from mob_training.data.datasets import folder_cases, parse_labels, write_dataset

    labels, parts, folder = parse_labels(label), split.read(), dataset.folder()
    return written(write_dataset(folder, folder_cases(source, labels, channel, absent_is_missing), parts))


@declaring
def openkbp(
    source: Annotated[Path, typer.Argument(help="OpenKBP's repository, or its images/, labels/ and doses/.")],
    dataset: NewDataset,
) -> Result:
    """Convert the OpenKBP data set: planning CTs of head and neck with up to seven organs at risk.

    The split is ours, by patient (training/workflow/config/openkbp_split.csv): 120 train, 20 validate, 40 calibrate,
    45 test. An organ that was not contoured is missing, not absent (labelled.json). The planned doses, in Gy, are in
    doses/, for `evaluate --doses`.
    """
    import shutil
    import tempfile

    from mob_training.data.datasets import folder_cases, write_dataset
    from mob_training.data.openkbp import ORGANS, SPLIT, convert
    from mob_training.data.split import StatedSplit, read_subjects

    folder = dataset.folder()
    split = StatedSplit(read_subjects(Path(SPLIT), "part"))
    with tempfile.TemporaryDirectory() as temporary:
        converted = Path(temporary) / "OpenKBP"
        convert(source, converted)
        labels = {organ: [value] for value, organ in enumerate(ORGANS, start=1)}
        data = write_dataset(folder, folder_cases(converted, labels, "CT"), split)
        shutil.move(converted / "doses", folder)
        return written(data)
