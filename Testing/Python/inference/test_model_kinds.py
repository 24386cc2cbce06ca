"""Every kind of model that nnU-Net trains gives nnU-Net's own label map."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.base.errors import ImageError, ModelError, ReviewError, SettingsError
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.inference.draws import draws
from MoBUncertaintyLib.inference.predictor import Predictor, predict
from MoBUncertaintyLib.model.folder import Model, load_model, read_card
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.model.nnunet.dataset import check_dataset
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.pipeline.cases import Job, run_case
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.worker import server
from MoBUncertaintyLib.worker.predictions import Predictions
from MoBUncertaintyLib.worker.remote import models
from MoBUncertaintyLib.worker.remote.models import ModelFiles, keep
from support.command_line import run
from support.model_kinds import in_slices, kind_dataset, kind_plans, make_kind, make_mr, stock

SETTINGS = PredictionSettings(device="cpu", precision="float32", engine="torch", tiling="full")


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert len(np.unique(theirs)) > 1, "nothing to see"
    return float((ours == theirs).mean())


# --- several input channels


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Model:
    plans = kind_plans(("ZScoreNormalization", "CTNormalization"))
    return make_kind(tmp_path_factory.mktemp("two") / "model", plans, kind_dataset(("T1", "PET")))


def test_each_channel_is_normalised_its_own_way(two: Model) -> None:
    t1, pet = make_mr(1), make_mr(2)
    found = predict(t1, two, SETTINGS, channels={"pet": pet})
    expected, _ = stock(two.path, [t1, pet])
    assert agreement(found.segmentation, expected) >= 0.999
    assert found.provenance["channels"] == ["T1", "PET"]
    other_way = predict(pet, two, SETTINGS, channels={"T1": t1})
    assert np.array_equal(other_way.segmentation, found.segmentation), "channels are known by name"
    swapped = predict(pet, two, SETTINGS, channels={"PET": t1})
    assert (swapped.segmentation == expected).mean() < 0.999


def test_a_channel_on_another_grid_is_resampled_with_a_note(two: Model) -> None:
    t1, pet = make_mr(1), make_mr(2)
    finer = sitk.Resample(pet, (48, 48, 48), sitk.Transform(), sitk.sitkLinear, (-0.5,) * 3, (1.0,) * 3)
    found = predict(t1, two, SETTINGS, channels={"PET": finer})
    notes = [each for each in found.warnings if "PET" in each]
    assert notes == ["The image of PET has a different grid; it was resampled to the first image's."]
    assert (found.segmentation == predict(t1, two, SETTINGS, channels={"PET": pet}).segmentation).mean() > 0.9
    half = sitk.Image(pet)
    half.SetOrigin((24.0, 0.0, 0.0))
    [note] = [each for each in predict(t1, two, SETTINGS, channels={"PET": half}).warnings if "PET" in each]
    assert note.endswith("of which it covers 50 %.")
    half.SetOrigin((1000.0, 0.0, 0.0))
    with pytest.raises(ImageError):
        predict(t1, two, SETTINGS, channels={"PET": half})


def test_a_missing_or_unknown_channel_is_named(two: Model) -> None:
    for channels, name in (({}, "PET"), ({"CT": make_mr()}, "CT"), ({"T1": make_mr(), "PET": make_mr()}, None)):
        with pytest.raises(SettingsError, match=name):
            predict(make_mr(), two, SETTINGS, channels=channels)


def test_commands_take_channels_by_name_or_in_nnunets_layout(two: Model, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    cases.mkdir()
    for number, name in enumerate(("a_0000", "a_0001", "b_0000", "c")):
        sitk.WriteImage(make_mr(number), cases / f"{name}.nii.gz")
    options = ("--model", two.path, "--no-scene", "--device", "cpu", "--engine", "torch")
    done = run("predict", cases, "--output", tmp_path / "out", *options)
    assert done.exit_code == 2
    problem = "the model takes 2 images of each case, in files CASE_0000, CASE_0001"
    assert f"b_0000.nii.gz: skipped, because {problem}." in done.stderr
    assert f"c.nii.gz: skipped, because {problem}." in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["a"]
    record = json.loads((tmp_path / "out" / "a" / "prediction.json").read_text())
    assert record["channels"] == ["T1", "PET"]
    [channel] = record["input"]["channels"]
    assert channel["name"] == "PET" and channel["path"] == str(cases / "a_0001.nii.gz") and len(channel["sha256"]) == 64
    assert "had these results already" in run("predict", cases, "--output", tmp_path / "out", *options).stderr
    named = ("--channel", f"PET={cases / 'a_0001.nii.gz'}", "--output", tmp_path / "named")
    assert run("predict", cases / "a_0000.nii.gz", *named, *options).exit_code == 0
    maps = [sitk.ReadImage(tmp_path / name / "segmentation.nii.gz") for name in ("named", "out/a")]
    assert np.array_equal(*map(sitk.GetArrayFromImage, maps))
    for wrong in ("PET", "=x", "PET="):
        done = run("predict", cases / "a_0000.nii.gz", "--channel", wrong, "--output", tmp_path / "no", *options)
        assert done.exit_code == 2 and "give a channel's name and its file, NAME=FILE" in done.stderr
    done = run("predict", cases, *named[:2], "--output", tmp_path / "no", *options)
    assert done.exit_code == 2 and "--channel is for one case" in done.stderr


def test_the_worker_is_handed_a_volume_for_each_channel(two: Model, tmp_path: Path) -> None:
    t1, pet = make_mr(1), make_mr(2)
    volumes = []
    for name, image in (("t1", t1), ("pet", pet)):
        np.save(tmp_path / f"{name}.npy", sitk.GetArrayViewFromImage(image))
        matrix = grid_of(image).matrix().tolist()
        volumes.append({"array": str(tmp_path / f"{name}.npy"), "ijk_to_ras": matrix, "name": "Müller^Jürgen"})
    request = {"ct": volumes[0], "channels": {"PET": volumes[1]}, "models": [str(two.path)], "folder": str(tmp_path)}
    settings = {"device": "cpu", "precision": "float32", "engine": "torch"}
    result = Predictions().predict(request | {"settings": settings}, server.Report(lambda *_: None))
    expected = predict(t1, two, SETTINGS, channels={"PET": pet})
    assert np.array_equal(np.load(result["segmentation"]), expected.segmentation)
    [channel] = result["provenance"]["input"]["channels"]
    assert channel["name"] == "PET" and "path" not in channel


# --- folds, labels to ignore, zips and files of training folders


@pytest.mark.parametrize("folds", [(0, 1, 2, 3, 4), ("all",)])
def test_folds_and_ignored_labels_are_nnunets(tmp_path: Path, folds: tuple[int | str, ...]) -> None:
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    model = make_kind(tmp_path / "model", kind_plans(), kind_dataset(labels=labels), folds=folds)
    assert model.folds == folds and [label.name for label in model.card.labels] == ["liver", "spleen"]
    found = predict(make_mr(), model, SETTINGS).segmentation
    expected, _ = stock(model.path, [make_mr()], folds)
    # nnU-Net averages the folds' logits, we their probabilities: where some folds are sure, the others have no say.
    assert agreement(found, expected) >= (0.999 if len(folds) == 1 else 0.98)


def test_a_zip_a_file_and_the_folder_around_it_lead_to_the_training_folder(tmp_path: Path) -> None:
    outer = tmp_path / "nnUNet_results" / "Dataset001_Tiny"
    model = make_kind(outer / "nnUNetTrainer__nnUNetPlans__3d_fullres", kind_plans(), kind_dataset())
    for path in (outer, model.path / "plans.json", model.path / "fold_0" / "checkpoint_final.pth"):
        assert load_model(path).path == model.path
        assert load_model(path).digest == model.digest
    (model.path / "fold_0" / "progress.png").write_bytes(b"png")
    zipped = Path(shutil.make_archive(str(tmp_path / "exported"), "zip", tmp_path / "nnUNet_results"))
    packed = load_model(zipped)
    assert packed.digest == model.digest and packed.path == zipped
    assert read_card(zipped) == packed.card
    assert np.array_equal(*(predict(make_mr(), each, SETTINGS).segmentation for each in (packed, model)))
    done = run("--json", "inspect", zipped)
    assert json.loads(done.stdout)["channels"] == ["MR"]
    shutil.copytree(model.path, outer / "nnUNetTrainer__nnUNetPlans__3d_lowres")
    with pytest.raises(ModelError):
        load_model(outer)
    with pytest.raises(ModelError):
        load_model(shutil.make_archive(str(tmp_path / "two"), "zip", outer))
    (tmp_path / "none.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(ModelError):
        load_model(tmp_path / "none.zip")


# --- other configurations


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_kind(tmp_path_factory.mktemp("2d") / "model", in_slices(kind_plans()), kind_dataset(), "2d")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_2d_network_segments_slice_by_slice(slices: Model, engine: str) -> None:
    """As thick as they are, along the axis that the plans name."""
    image = make_mr(shape=(24, 5, 24))
    image.SetSpacing((2.0, 7.0, 2.0))
    found = predict(image, slices, replace(SETTINGS, engine=engine))
    assert agreement(found.segmentation, stock(slices.path, [image])[0]) >= 0.999
    assert found.provenance["tiles"] == 5 and not any("OpenVINO cannot" in each for each in found.warnings)
    assert found.provenance["input_voxels"] == [5, 24, 24]


def test_a_2d_network_is_exported_and_mirrored_within_its_slices(slices: Model, tmp_path: Path) -> None:
    image = make_mr(shape=(24, 4, 24))
    exported = export(slices.path, tmp_path / "model")
    ours = [predict(image, model, SETTINGS).segmentation for model in (slices, exported)]
    assert np.array_equal(*ours)
    assert exported.card.spacing == slices.card.spacing == (2.0, 2.0, 2.0)
    checkpoint = torch.load(slices.path / "fold_0" / "checkpoint_final.pth", weights_only=False)
    mirrored = Path(shutil.copytree(slices.path, tmp_path / "mirrored"))
    torch.save(checkpoint | {"inference_allowed_mirroring_axes": (0, 1)}, mirrored / "fold_0" / "checkpoint_final.pth")
    assert load_model(mirrored).card.mirror_axes == (1, 2)
    found = predict(image, load_model(mirrored), replace(SETTINGS, mirror=True))
    assert found.provenance["passes_per_tile"] == 4
    flips = []
    for axes in ((), (0,), (2,), (0, 2)):  # the plans' first axis is the image's second
        flipped = sitk.GetImageFromArray(np.flip(sitk.GetArrayFromImage(image), axes).copy())
        flipped.CopyInformation(image)
        flips.append(np.flip(np.asarray(predict(flipped, slices, SETTINGS).probability), [axis + 1 for axis in axes]))
    assert np.asarray(found.probability) == pytest.approx(np.mean(flips, axis=0), abs=5e-3)


def two_stages() -> dict:
    """Plans of a cascade; its second stage works at a spacing of 2 mm, the first at 4 mm."""
    plans = kind_plans()
    full = plans["configurations"]["3d_fullres"]
    plans["configurations"] |= {
        "3d_lowres": full | {"spacing": [4.0, 4.0, 4.0], "next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    return plans


def make_cascade(folder: Path, dataset: dict, trainer: str = "nnUNetTrainer__nnUNetPlans__") -> Model:
    make_kind(folder / f"{trainer}3d_lowres", two_stages(), dataset, "3d_lowres")
    return make_kind(folder / f"{trainer}3d_cascade_fullres", two_stages(), dataset, "3d_cascade_fullres")


def test_a_network_of_low_resolution_predicts(tmp_path: Path) -> None:
    model = make_kind(tmp_path / "lowres", two_stages(), kind_dataset(), "3d_lowres")
    coarse = make_mr(spacing=4.0)
    assert agreement(predict(coarse, model, SETTINGS).segmentation, stock(model.path, [coarse])[0]) >= 0.999
    found = predict(make_mr(shape=(48, 48, 48)), model, SETTINGS)
    assert found.provenance["input_voxels"] == [24, 24, 24] and found.shape == (48, 48, 48)


@pytest.mark.parametrize(("labels", "engine"), [("alone", "torch"), ("alone", "openvino"), ("nested", "torch")])
def test_a_cascade_predicts_its_first_stage_and_then_its_second(tmp_path: Path, labels: str, engine: str) -> None:
    model = make_cascade(tmp_path, kind_dataset(**(NESTED if labels == "nested" else {})))
    assert model.first_stage is not None and model.inputs == len(model.card.labels) + 1
    image, steps = make_mr(), []
    first = predict(image, model.first_stage, replace(SETTINGS, engine=engine)).segmentation
    expected, _ = stock(model.path, [image], first_stage=first)
    found = predict(image, model, replace(SETTINGS, engine=engine), steps.append)
    # Nested logits of random networks lie closer to 0 than half precision, in which nnU-Net sums them, can tell.
    assert agreement(found.segmentation, expected) >= (0.999 if labels == "alone" else 0.99)
    blank, _ = stock(model.path, [image], first_stage=np.zeros_like(first))
    assert agreement(found.segmentation, blank) < 0.99, "the first stage does not matter"
    assert found.provenance["first_stage"] == "3d_lowres"
    assert any("takes the label map of 3d_lowres as given" in each for each in found.warnings)
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["first_stage", "preprocess", "network", "resample"]
    assert found.timings["first_stage"] > 0


@pytest.mark.parametrize("labels", ["alone", "nested"])
def test_a_second_stages_input_is_nnunets(tmp_path: Path, labels: str) -> None:
    """Labels are resampled as nnU-Net does, and each becomes a channel."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    model, image = make_cascade(tmp_path, kind_dataset(**(NESTED if labels == "nested" else {}))), make_mr(spacing=3.1)
    assert model.first_stage is not None
    predictor = Predictor(model, SETTINGS)
    first = predict(image, model.first_stage, SETTINGS).segmentation
    manager = PlansManager(model.plans)
    data, seg, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        sitk.GetArrayFromImage(image)[None],
        first[None].astype(np.float32),
        {"spacing": list(image.GetSpacing())[::-1]},
        manager,
        manager.get_configuration(model.card.configuration),
        model.dataset,
    )
    expected = convert_labelmap_to_one_hot(seg[0], manager.get_label_manager(model.dataset).foreground_labels)
    found = predictor.prepare(image).data
    assert found.shape[1:] == data.shape[1:] != image.GetSize()[::-1]
    assert found[:1] == pytest.approx(data, abs=1e-4)
    assert np.array_equal(found[1:], expected) and expected.any(axis=(1, 2, 3)).sum() >= 2


def test_a_part_of_an_image_has_the_first_stage_of_all_of_it(tmp_path: Path) -> None:
    model, image = make_cascade(tmp_path, kind_dataset()), make_mr(shape=(48, 48, 48))
    predictor = Predictor(model, replace(SETTINGS, region_of_interest=(-60.0, -10.0, -60.0, -10.0, 10.0, 60.0)))
    assert predictor.first_stage is not None and predictor.first_stage.settings.region_of_interest is None
    predictor.use(replace(SETTINGS, labels=("spleen",)))
    assert predictor.first_stage.settings.labels is None
    assert [label.name for label in predictor.predict(image).labels] == ["spleen"]


def test_what_a_cascade_needs_is_verified(tmp_path: Path) -> None:
    model = make_cascade(tmp_path / "Dataset001_Tiny", kind_dataset())
    assert model.first_stage is not None
    facts = json.loads(run("--json", "inspect", model.path).stdout)
    assert facts["first_stage"] == str(model.first_stage.path)
    assert "first stage" in run("inspect", model.path).stdout
    digest = model.digest
    checkpoint = model.first_stage.path / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    name = next(iter(content["network_weights"]))
    content["network_weights"][name] += 1
    torch.save(content, checkpoint)
    assert load_model(model.path).digest != digest
    del content["network_weights"][name]
    torch.save(content, checkpoint)
    broken = run("inspect", model.path)
    assert broken.exit_code == 2 and "do not fit the network" in broken.stderr
    with pytest.raises(ModelError):
        export(model.path, tmp_path / "exported")
    with pytest.raises(ModelError):
        load_model(shutil.make_archive(str(tmp_path / "second"), "zip", model.path))
    other = kind_dataset(labels={"background": 0, "liver": 1})
    (model.first_stage.path / "dataset.json").write_text(json.dumps(other))
    with pytest.raises(ModelError):
        load_model(model.path)
    shutil.rmtree(model.first_stage.path)
    with pytest.raises(ModelError):
        load_model(model.path)


def test_both_stages_of_a_cascade_are_one_model_in_a_folder_in_a_zip_and_when_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image = make_cascade(tmp_path / "Dataset001_Tiny", kind_dataset()), make_mr()
    expected = predict(image, model, SETTINGS)
    assert load_model(model.path.parent).digest == model.digest
    zipped = Path(shutil.make_archive(str(tmp_path / "cascade"), "zip", tmp_path, "Dataset001_Tiny"))
    assert ListedModel(zipped, None).channels == model.channels
    packed = load_model(zipped)
    assert packed.files.trained and packed.digest == model.digest
    assert np.array_equal(predict(image, packed, SETTINGS).segmentation, expected.segmentation)
    sent = ModelFiles.of(model.path)
    monkeypatch.setattr(models, "kept_models", lambda: tmp_path / "kept")
    copies = {name: Path(shutil.copy(file, tmp_path / str(n))) for n, (name, file) in enumerate(sent.files.items())}
    keep(replace(sent, files=copies))
    assert load_model(models.find(sent.digest)).digest == model.digest
    other = make_kind(model.path.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres"), kind_plans(), kind_dataset())
    with pytest.raises(ModelError):
        load_model(shutil.make_archive(str(tmp_path / "three"), "zip", tmp_path, "Dataset001_Tiny"))
    shutil.rmtree(model.path)
    with pytest.raises(ModelError):
        load_model(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path, "Dataset001_Tiny"))
    with pytest.raises(ModelError):
        load_model(other.path.parent)


# --- labels that overlap: region-based training

NESTED = {
    "labels": {"background": 0, "kidney and masses": [1, 2, 3], "masses": [2, 3], "tumour": 2},
    "regions_class_order": [1, 3, 2],
}


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_kind(tmp_path_factory.mktemp("nested") / "model", kind_plans(), kind_dataset(**NESTED))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_overlapping_labels_have_nnunets_label_map_and_a_probability_each(nested: Model, engine: str) -> None:
    image = make_mr()
    found = predict(image, nested, replace(SETTINGS, engine=engine))
    expected, _ = stock(nested.path, [image])
    assert agreement(found.segmentation, expected) >= 0.999
    assert found.labels == nested.card.labels
    assert [(each.value, each.covers) for each in found.labels] == [(1, (1, 2, 3)), (3, (2, 3)), (2, (2,))]
    probability = np.asarray(found.probability)
    assert (probability.sum(axis=0) > 1.5).any(), "each is a probability of its own"
    assert ((expected == 2) == (probability[2] > 0.5)).mean() >= 0.999
    volumes = found.volumes_ml()
    assert volumes["masses"] == pytest.approx(np.isin(found.segmentation, (2, 3)).sum() * 0.008)
    assert any(
        "in the label map kidney and masses is 1 and 2 and 3, masses is 2 and 3" in each for each in found.warnings
    )


def test_one_of_the_overlapping_labels_is_like_any_other(nested: Model) -> None:
    image = make_mr()
    everything, masses = predict(image, nested, SETTINGS), predict(image, nested, replace(SETTINGS, labels=("masses",)))
    assert np.array_equal(masses.probability[0], everything.probability[1])
    assert np.array_equal(masses.segmentation == 3, masses.probability[0] > 0.5)
    assert not masses.overlapping and masses.labels[0].covers == ()
    assert Review(masses, find_regions(masses)).click([masses.grid.to_ras(np.array([12, 12, 12]))], 3)


def test_what_is_left_of_each_overlapping_label_adds_up(nested: Model) -> None:
    """For labels one within the other, by definition."""
    found = predict(make_mr(), nested, SETTINGS)
    outer, middle, inner = (np.sort(np.asarray(found.probability), axis=0)[::-1]).astype(np.float32)
    ordered = replace(found, probability=np.stack([outer, middle, inner]))
    parts = np.asarray(ordered.exclusive().probability)
    assert parts == pytest.approx(np.stack([outer - middle, middle - inner, inner]), abs=1e-6)
    error = (1 - np.maximum(parts.max(axis=0), 1 - outer)).sum(dtype=float) * 8
    assert ordered.expected_error_mm3 == pytest.approx(error, rel=1e-4)
    for name, each in ordered.exclusive().stated_volumes.items():
        assert each.error_ml == pytest.approx(ordered.stated_volumes[name].error_ml, rel=1e-4)


def test_overlapping_labels_go_through_files_and_a_review(nested: Model, tmp_path: Path) -> None:
    exported = export(nested.path, tmp_path / "model.zip")
    assert exported.card.labels == nested.card.labels
    sitk.WriteImage(make_mr(), tmp_path / "mr.nii.gz")
    predictor = Predictor(exported, SETTINGS)
    case, _ = run_case(Job(predictor, scene=False), Input(tmp_path / "mr.nii.gz", "", ""), tmp_path / "results")
    read = read_results(tmp_path / "results").prediction
    assert read.labels == exported.card.labels and read.overlapping
    assert read.volumes_ml() == case.prediction.volumes_ml()
    assert np.array_equal(np.asarray(read.probability), case.prediction.probability)
    review = Review(read, case.regions)
    with pytest.raises(ReviewError):
        review.click([read.grid.to_ras(np.array([12, 12, 12]))], 3)
    review.decide(review.regions[0].region_id, Verdict.EXCLUDE)
    with pytest.raises(SettingsError):
        next(draws(predictor, make_mr(), 1))
    again = Review.from_dict(review.to_dict(), read)
    assert [each.verdict for each in again.regions] == [each.verdict for each in review.regions]


@pytest.mark.parametrize(
    "change",
    [
        {"regions_class_order": None},
        {"regions_class_order": [1, 2, 2]},
        {"regions_class_order": [1, 3, 9]},
        {"labels": {"background": 0, "a": [0, 1], "b": [1]}, "regions_class_order": [1, 2]},
        {"labels": {"background": 0, "a": [1, "x"]}, "regions_class_order": [1]},
        {"labels": {"background": 0, "a": [1, 2], "ignore": 2}, "regions_class_order": [1]},
    ],
)
def test_overlapping_labels_that_contradict_themselves_are_refused(change: dict) -> None:
    with pytest.raises(ModelError):
        check_dataset(kind_dataset(**NESTED | change))
