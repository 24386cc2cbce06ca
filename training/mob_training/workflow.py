"""The workflow's config, the runs that it describes, and the start of Snakemake.

`workflow/Snakefile` imports this module; only `start` needs Snakemake.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from mob_training.training.settings import Options
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.model.covariance import Scope

FOLDER = Path(__file__).parents[1] / "workflow"
DETERMINISTIC = "deterministic"
"""Name of the first stage among the models."""

LENGTHS = r"^[0-9.]+(,[0-9.]+){2}$"
SPLIT = ("validation", "test")
"""Parts of a split that are stated; the rest trains."""
STATED = (*SPLIT, "fold")
"""What a data set states of its split."""
READ_BY_RATERS = "pancreas"
"""The phantom's only structure with an ambiguous border."""


@dataclass(frozen=True)
class PlannedRun:
    """One model of one data set from one seed.

    Attributes:
        model: `deterministic`, or a name of the config's `models`; with `-bases-M` at the end if of the sweep.
        seed: Of the training; the split has its own.
        options: Of `mob-training finetune`, by their names in the config; empty for the deterministic stage.
        start: The model whose backbone the fine-tuning starts from.
        backbone: The seed of that one: its own, unless the config has fewer `backbones` than seeds.
        members: The model whose seeds, as the folds of one model, are this ensemble; empty: it is none.
    """

    dataset: str
    model: str
    seed: int
    options: Mapping[str, Any]
    regions: Mapping[str, float]
    sweep: bool = False
    start: str = DETERMINISTIC
    backbone: int = 0
    members: str = ""

    @property
    def folder(self) -> str:
        """Where the run lies below `runs`, `scores` and `models`."""
        return f"{self.dataset}/{self.model}/seed_{self.seed}"


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a config file.

    Raises:
        SettingsError: There is no such file, it is no YAML, or not a valid config.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"Cannot read the config {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"The config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        check_config(config)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    return config


def check_config(config: Any) -> None:
    """Validate a config against its schema, and its parts against each other.

    Raises:
        SettingsError: Names the place and what is wrong there.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema()).iter_errors(config))
    if error is not None:
        place = ".".join(map(str, error.absolute_path)) or "the config"
        raise SettingsError(f"{place}: {_describe_error(error)}.")
    _check_data(config)
    _check_models(config)


@cache
def schema() -> dict[str, Any]:
    """Return the config's JSON schema: the file's, with the options of a fine-tuning."""
    whole = yaml.safe_load((FOLDER / "config.schema.yaml").read_text(encoding="utf-8"))
    options = {name: _allowed(default) for name, default in (asdict(Options()) | {"scope": Scope.VOXEL}).items()}
    for name in ("finetuning", "model"):
        whole["$defs"][name]["properties"] |= options
    return whole


def _allowed(default: Any) -> dict[str, Any]:
    """Return the JSON schema of an option, derived from its default; None is that of three numbers, Z,Y,X."""
    if default is None:
        return {"type": "string", "pattern": LENGTHS, "description": "three numbers, Z,Y,X"}
    if isinstance(default, Enum):
        return {"enum": [member.value for member in type(default)]}
    if isinstance(default, bool):
        return {"type": "boolean"}
    return (
        {"type": "integer", "minimum": min(1, default)}
        if isinstance(default, int)
        else {"type": "number", "minimum": 0}
    )


def parse_numbers(value: Any) -> Any:
    """Convert numbers given as text: Snakemake reads those in a list after `--config` so."""
    if isinstance(value, dict):
        return {key: parse_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [parse_numbers(inner) for inner in value]
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def planned_runs(config: Mapping[str, Any]) -> list[PlannedRun]:
    """List every run of a config: of each data set the deterministic stage, each model and ensemble; then the sweep."""
    runs = []
    for dataset in config["datasets"]:
        for model, own in {DETERMINISTIC: None, **config["models"]}.items():
            options, regions = _of_model(config, dataset, own)
            start = (own or {}).get("start", DETERMINISTIC)
            runs += [
                PlannedRun(dataset, model, seed, options, regions, start=start, backbone=backbone)
                for seed, backbone in _seeds(config, options)
            ]
        for name, members in config.get("ensembles", {}).items():
            options, regions = _of_model(config, dataset, config["models"][members])
            seed = config["seeds"][0]
            runs.append(PlannedRun(dataset, name, seed, options, regions, backbone=seed, members=members))
    return runs + list(_sweep(config))


def _seeds(config: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the seeds of a model, and those of their backbones; with `backbones` only heads have more seeds than these.

    The backbones take turns: of nine seeds and three backbones the fourth seed has the first backbone again.
    """
    first = config["seeds"][: config.get("backbones")]
    return zip(config["seeds"] if options.get("heads_only") else first, cycle(first), strict=False)


def _of_model(
    config: Mapping[str, Any], dataset: str, own: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the options of a model's fine-tuning, and its region settings; the deterministic stage has no options."""
    options = {} if own is None else {**config["finetune"], **own}
    options.pop("start", None)
    return options, config["datasets"][dataset].get("regions", {}) | options.pop("regions", {})


def split_of(config: Mapping[str, Any], dataset: str) -> dict[str, int]:
    """Return the split options of a data set: the config's `split`, overridden by the data set's own."""
    options = {**config.get("split", {}), **config["datasets"][dataset]}
    return {key: options[key] for key in STATED if key in options} | {"seed": options.get("seed", 0)}


def in_minutes(config: Mapping[str, Any]) -> bool:
    """Whether the deterministic stage is trained as long as there is time, not for epochs."""
    return "minutes" in config["train"]


def provenance(config: Mapping[str, Any], run: PlannedRun) -> dict[str, Any]:
    """Return what a run's scores are stored with: all that the config says of its data, split and training."""
    entry = config["datasets"][run.dataset]
    made = {
        "data": {key: entry[key] for key in entry if key not in ("id", "regions", *STATED)},
        "split": split_of(config, run.dataset),
        "preset": config.get("preset", "small"),
        "seed": list(config["seeds"]) if run.members else run.seed,
        "train": config["train"],
        "finetune": run.options,
        "start": "" if run.start == DETERMINISTIC else run.start,
        "backbone": None if run.backbone == run.seed else run.backbone,
        "ensemble": run.members,
        "regions": run.regions,
        "phantom": config.get("phantom"),
    }
    return {key: value for key, value in made.items() if value not in (None, "", {})}


def check_source(config: Mapping[str, Any]) -> None:
    """Check, before anything starts, that the data are where the config says, unless they are converted already.

    Raises:
        SettingsError: They are not.
    """
    if "data" not in config or Path(config["data"]).is_dir():
        return
    if not all(Path(f"data/raw/{raw_folder_name(config, name)}").is_dir() for name in config["datasets"]):
        raise SettingsError(f"data: there is no folder {Path(config['data']).resolve()}; see --config data=FOLDER.")


def raw_folder_name(config: Mapping[str, Any], dataset: str) -> str:
    """Return nnU-Net's name of a data set's folder."""
    return f"Dataset{config['datasets'][dataset]['id']:03d}_{dataset}"


def option_line(options: Mapping[str, Any]) -> str:
    """Format options of a command: `{"bases": 4, "heads_only": True}` -> `--bases 4 --heads-only`."""
    words = []
    for key, value in options.items():
        name = key.replace("_", "-")
        words.append(f"--{name if value else f'no-{name}'}" if isinstance(value, bool) else f"--{name} {value}")
    return " ".join(words)


def region_line(run: PlannedRun) -> str:
    """Format the region settings of a run, `--region depth_mm=1 ...`."""
    return " ".join(f"--region {name}={number}" for name, number in run.regions.items())


def start(config: Path, output: Path, profile: str, arguments: Sequence[str]) -> None:
    """Replace this process by Snakemake in the workflow's folder, with a profile of the workflow or a folder with one.

    A killed run can be resumed: the folder is held by a lock of the operating system, which ends with its process,
    instead of Snakemake's, which would have to be removed by hand.

    Raises:
        SettingsError: The config is invalid, Snakemake or the workflow is not installed, the profile is unknown, or
            another run holds the folder.
    """
    snakefile = FOLDER / "Snakefile"
    if not snakefile.exists():
        raise SettingsError("The workflow lies in the repository, install from there: pip install -e '.[training]'")
    try:
        import snakemake  # noqa: F401
    except ImportError:
        raise SettingsError("Snakemake is missing; install it with: pip install -e '.[training]'") from None
    read_config(config)
    profiles = FOLDER / "profiles"
    folder = profiles / profile if (profiles / profile).is_dir() else Path(profile)
    if not folder.is_dir():
        names = ", ".join(sorted(path.name for path in profiles.iterdir()))
        raise SettingsError(f"There is no profile {profile}; choose {names}, or a folder with a config.yaml.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        _lock(output)
    except OSError as error:
        raise SettingsError(f"Cannot write to the folder {output.resolve()}: {error.strerror}.") from None
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--configfile", config.resolve()]
    command += ["--directory", output, "--profile", folder, "--nolock", *_targets_first(arguments)]
    os.execv(sys.executable, [str(word) for word in command])


def _targets_first(arguments: Sequence[str]) -> list[str]:
    """Put targets that stand behind `--config NAME=VALUE ...` in front, since Snakemake takes them for values."""
    targets, others, option = [], [], ""
    for word in arguments:
        option = word if word.startswith("-") else option
        behind = option in ("--config", "-C") and word != option and "=" not in word
        (targets if behind else others).append(word)
    return [*targets, *others]


def _lock(folder: Path) -> None:
    """Lock a folder until this process, also after `exec`, ends."""
    try:
        import fcntl
    except ImportError:
        raise SettingsError("The workflow runs on Linux and macOS.") from None
    descriptor = os.open(folder / ".workflow.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(f"Another workflow is running in {folder.resolve()}; wait for it or stop it.") from None
    except OSError:  # a file system without locks
        return
    os.set_inheritable(descriptor, True)


def _describe_error(error: Any) -> str:
    """Describe a schema error in plain words where possible."""
    if error.validator == "pattern":
        what = error.schema.get("description") or f"letters as in {error.validator_value}"
        return f"{error.instance!r} is not of the form wanted ({what.rstrip('.')})"
    return error.schema["message"] if error.validator in ("oneOf", "anyOf", "not") else error.message


def _check_data(config: Mapping[str, Any]) -> None:
    ids = [dataset["id"] for dataset in config["datasets"].values()]
    for number in ids:
        if ids.count(number) > 1:
            raise SettingsError(f"datasets: the id {number} is given twice.")
    if "phantom" in config:
        for name, dataset in config["datasets"].items():
            if "organ" not in dataset:
                raise SettingsError(f"datasets.{name}: phantoms have an organ, not labels.")
            if config["phantom"].get("raters") and dataset["organ"] != READ_BY_RATERS:
                raise SettingsError(f"datasets.{name}: the phantom's raters read the {READ_BY_RATERS} only.")
            split = split_of(config, name)
            cases, others = config["phantom"]["cases"], sum(split.get(key, 1) for key in SPLIT)
            if cases <= others:
                raise SettingsError(f"phantom.cases: {cases} are too few to validate and test {others}.")


def _check_models(config: Mapping[str, Any]) -> None:
    for name in config["models"]:
        if re.search(r"-bases-\d+$", name):
            raise SettingsError(f"models: {name} ends as the names of a sweep do; choose another.")
        _check_start(config["models"], name)
    for name, members in config.get("ensembles", {}).items():
        if name in config["models"] or members not in config["models"]:
            raise SettingsError(f"ensembles: {name} must be a new name, and {members} a model of the config.")
    if "sweep" not in config:
        return
    sweep = config["sweep"]
    model = config["models"].get(sweep["model"])
    if model is None or model["covariance"] != "mixture-of-bases":
        raise SettingsError(f"sweep.model: {sweep['model']} is not a model of the config with a mixture of bases.")
    for dataset in sweep["datasets"]:
        if dataset not in config["datasets"]:
            raise SettingsError(f"sweep.datasets: {dataset} is not a data set of the config.")


def _check_start(models: Mapping[str, Any], name: str) -> None:
    """Check that a model starts from another one of the config, and in the end from the deterministic stage."""
    line = [name]
    while (start := models[line[-1]].get("start", DETERMINISTIC)) != DETERMINISTIC:
        if start not in models or start in line:
            raise SettingsError(f"models.{line[-1]}.start: {start} is not an earlier model of the config.")
        line.append(start)


def _sweep(config: Mapping[str, Any]) -> Iterator[PlannedRun]:
    """List the runs of the sweep, except for the number of bases that the model itself has."""
    if "sweep" not in config:
        return
    sweep = config["sweep"]
    for dataset in sweep["datasets"]:
        options, regions = _of_model(config, dataset, config["models"][sweep["model"]])
        start = config["models"][sweep["model"]].get("start", DETERMINISTIC)
        for bases in sweep["bases"]:
            if bases != options.get("bases", 3):
                name = f"{sweep['model']}-bases-{bases}"
                for seed, backbone in _seeds(config, options):
                    yield PlannedRun(dataset, name, seed, {**options, "bases": bases}, regions, True, start, backbone)
