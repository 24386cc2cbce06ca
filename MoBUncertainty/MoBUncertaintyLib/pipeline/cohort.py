"""Predict the cases of a cohort: the command and the worklist keep what is done, and make the rest, in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.inference.maps.members import AnyPredictor
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome, read_case
from MoBUncertaintyLib.output.dicom.objects import DicomFormat
from MoBUncertaintyLib.output.results_folder import FOLDER
from MoBUncertaintyLib.pipeline import Analysis, CaseSummary, is_done, run_case
from MoBUncertaintyLib.prediction import CancelledCallback, ProgressCallback
from MoBUncertaintyLib.regions.settings import RegionSettings

OTHER_RESULTS = "Results of an earlier run, with another image, model or other settings, were kept."


@dataclass(frozen=True)
class CohortJob:
    """What is done to each case alike.

    Attributes:
        predictor: Model and settings.
        regions: What counts as a doubtful region.
        series: Series instance UID, where a DICOM folder has several and the case does not name one.
        channels: Files of the model's other input channels, by name, if the user has named them.
        scene: Write the Slicer scene too.
        formats: DICOM objects to write too.
        overwrite: Replace results that are there.
        skip_existing: Keep results that are there, whatever they are of.
    """

    predictor: AnyPredictor
    regions: RegionSettings
    series: str | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    scene: bool = True
    formats: Sequence[DicomFormat] = ()
    overwrite: bool = False
    skip_existing: bool = False

    def run(
        self,
        case: Input,
        folder: Path,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> tuple[CaseSummary, Analysis]:
        """Predict a case into its results folder; errors as for `run_case`."""
        return run_case(
            case.path,
            folder,
            self.predictor,
            self.regions,
            channels=self._channels(case),
            name=case.entry or None,
            series=case.series or self.series,
            scene=self.scene,
            formats=self.formats,
            overwrite=self.overwrite,
            progress=progress,
            cancelled=cancelled,
            warn=warn,
        )

    def kept(self, case: Input, folder: Path) -> CohortCase | None:
        """Describe the results that are there already, if they need not be made again.

        Raises:
            UserError: They cannot be read, or the image cannot.
        """
        if self.overwrite or not FOLDER.recognises(folder):
            return None
        try:
            same = is_done(
                case.path,
                folder,
                self.predictor,
                self.regions,
                channels=self._channels(case),
                series=case.series or self.series,
                formats=self.formats,
            )
        except ImageError:
            if not self.skip_existing:
                raise
            same = False
        if not (same or self.skip_existing):
            return None
        return read_case(case.entry or case.path.name, folder, Outcome.KEPT, () if same else (OTHER_RESULTS,))

    def _channels(self, case: Input) -> Mapping[str, Path]:
        """Name the files of the other channels: as the user has, or as their numbers in nnU-Net's layout say."""
        return self.channels or dict(zip(self.predictor.model.channels[1:], case.channels, strict=False))


def predicted_row(case: Input, folder: Path, summary: CaseSummary) -> CohortCase:
    """Make the row of a case that was predicted, with what was noticed after its record was written."""
    row = read_case(case.entry, folder, Outcome.PREDICTED)
    return replace(row, warnings=tuple(dict.fromkeys((*row.warnings, *summary.warnings))))
