"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Device = Annotated[
    str,
    typer.Option(help="Where to compute: auto (a GPU if there is one), cuda, cuda:1, mps, xpu (Intel's GPU) or cpu."),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    typer.Option(help="What runs the network: auto (on a CPU OpenVINO, if it is installed), torch or openvino."),
]
Scene = Annotated[bool, typer.Option("--scene/--no-scene", help="Write scene.mrb, the results as a Slicer scene.")]
RegionOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        help="What counts as a doubtful region, NAME=NUMBER with one of depth_mm, window_mm, grow_mm, length_mm, "
        "minimum_mm3, variance_threshold; may be repeated. Default: as the model states, else as for abdominal organs.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]
