"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from MoBUncertaintyLib.model.region_settings import STATED_BY_MODELS

Device = Annotated[
    str,
    typer.Option(help="Where to compute: auto (a GPU if there is one), cuda, cuda:1, mps, xpu (Intel's GPU) or cpu."),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    typer.Option(help="What runs the network: auto (on a CPU OpenVINO), torch or openvino."),
]
Scene = Annotated[bool, typer.Option("--scene/--no-scene", help="Write scene.mrb, the results as a Slicer scene.")]
RegionOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        help=f"What counts as a doubtful region: NAME=NUMBER, with one of {', '.join(STATED_BY_MODELS)}; may be "
        "repeated. Default: that of the model, else that of abdominal organs.",
    ),
]
Measures = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="NAME:LABEL",
        help="Measure a label, with its spread over samples: volume:LABEL, D2%:LABEL, distance:LABEL1:LABEL2 and "
        "so on; may be repeated.",
    ),
]
RankBy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:LABEL",
        help="Rank the regions by what resolving each does to a measurement. Default: by their expected error.",
    ),
]
Dose = Annotated[Path | None, typer.Option(help="Planned dose to measure: DICOM RT Dose, or a volume file in Gy.")]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", help="Agree to a licence that is not permissive; otherwise you are asked, once."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]
