"""The review session on the real Slicer core: what the review says is what the scene shows, step by step."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.regions.findings import Checked, Finding
from MoBUncertaintyLib.review.review import Review
from support.late import slicer, slicer_app
from support.sessions import SHAPE, begin, begin_again, draw, reopened, same, sign, stored, stray

pytestmark = pytest.mark.own_process


@pytest.fixture
def session(scene):
    return begin(scene)


def decided(review):
    """All that is stored of a review but the regions' numbers, which are described anew when it is opened."""
    record = {key: value for key, value in review.to_dict().items() if key != "sha256"}
    return record | {"regions": [{**entry, "region": None} for entry in record["regions"]]}


def draw_everywhere(session, value: int) -> None:
    """All of the image becomes organ or background, as by a brush that heeds no mask."""
    session.results.organs.update(tuple(slice(0, size) for size in SHAPE), np.full(SHAPE, value, np.uint8))


def saved_and_opened(scene, folder, before=lambda: True):
    """The session of the scene once it is saved, closed and opened; something may have to hold before that."""
    path = str(folder / "scene.mrb")
    assert scene.WriteToMRB(path) and before()
    scene.Clear(False)
    assert scene.ReadFromMRB(path, True)
    (ct,) = slicer_app.scene.results.findResults(scene)
    return slicer_app.review_session.ReviewSession.open(slicer_app.scene.results.ResultScene(ct))


def test_a_map_is_shown_that_the_model_has(scene):
    """Without a covariance there is no variance; another map that the reader has chosen stays."""
    ct = begin(scene).results.ctNode
    results = begin_again(ct, regions={"settings": {"measure": "bernoulli"}}).results
    assert results.overlay.values["kind"] == "variance"
    results = begin_again(ct, covariance="deterministic").results
    assert results.overlay.values["kind"] == "entropy"
    assert results.overlay.kinds == [*slicer_app.scene.maps.OF_PROBABILITY]
    results.overlay.change(threshold=0.3)
    assert results.overlay.values["threshold"] == 0.3
    results.overlay.show(slicer_app.scene.maps.MapKind.VARIANCE)
    assert results.overlay.values["kind"] == "entropy"
    results = begin_again(ct).results
    assert (results.overlay.values["kind"], results.overlay.values["threshold"]) == ("variance", 0.015)
    results.overlay.show(slicer_app.scene.maps.MapKind.PROBABILITY)
    assert begin_again(ct, covariance="deterministic").results.overlay.values["kind"] == "probability"


def test_maps_are_drawn_from_the_threshold_that_the_model_states(scene):
    session = begin(scene)
    assert session.results.overlay.values["threshold"] == 0.015
    session = begin_again(session.results.ctNode, regions={"settings": {"variance_threshold": 0.003}})
    assert session.review.settings.level == session.results.overlay.values["threshold"] == 0.003


@pytest.mark.parametrize("seed", range(3))
def test_any_walk_is_shown_and_undo_leads_back(session, seed):
    chance = random.Random(seed)
    thresholds = [0.015, 0.02, 0.03]
    for _ in range(12):
        region = chance.choice(session.review.regions)
        step = chance.choice(["include", "exclude", "accept", "pending", "comment", "undo", "redo", "doubt"])
        if step == "comment":
            session.comment(region.region_id, chance.choice(["", "vessel", "duodenum?"]))
        elif step in ("undo", "redo"):
            session.step(getattr(Review, step))
        elif step == "doubt":
            session.regions.find(chance.choice(thresholds), chance.choice([20.0, 200.0]))
        else:
            session.step(Review.decide, region.region_id, step)
        same(session)
    while session.review.can_undo:
        session.step(Review.undo)
        same(session)
    assert session.review.reviewed == (0, 3)
    assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)


class TestEdit:
    """Drawing in the segmentation, as the Segment Editor does."""

    def test_the_editor_is_told_where_it_may_draw(self, session):
        region = session.review.regions[0]
        editor = session.drawing.begin(region.region_id)
        segmentation = session.results.node("segmentation")
        exported = session.results.ctNode.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        export = slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode
        assert export(segmentation, [editor.GetMaskSegmentID()], exported, session.results.ctNode)
        mask = slicer.util.arrayFromVolume(exported)
        assert np.array_equal(mask > 0, session.review.listed().whole_map() == region.number)
        assert editor.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
        assert editor.GetSelectedSegmentID() == "Segment_1"
        assert editor.GetSegmentationNode() is segmentation
        assert editor.GetSourceVolumeNode() is session.results.ctNode
        assert not segmentation.GetDisplayNode().GetSegmentVisibility(editor.GetMaskSegmentID())

    def test_the_editor_draws_on_all_grey_values(self, session):
        editor = session.drawing.begin(session.review.regions[0].region_id)
        editor.SetSourceVolumeIntensityMask(True)  # as an earlier version let the key I do
        session.drawing.cancel()
        assert not session.drawing.begin(session.review.regions[0].region_id).GetSourceVolumeIntensityMask()

    def test_what_is_drawn_in_the_region_is_kept_and_no_more(self, session):
        region = session.review.regions[2]
        session.drawing.begin(region.region_id)
        draw_everywhere(session, 1)
        session.drawing.finish()
        assert session.drawing.regionId is None
        assert session.review.region(region.region_id).verdict == "edit"
        labels = session.review.listed().whole_map()
        assert (session.results.organs.array()[labels == region.number] == 1).all()
        changed = session.results.organs.array() != session.review.prediction.segmentation
        assert not changed[labels != region.number].any()
        assert list(session.results.node("segmentation").GetSegmentation().GetSegmentIDs()) == ["Segment_1"]
        same(session)
        session.step(Review.undo)
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)

    @pytest.mark.parametrize("drawn", [True, False])
    def test_a_scene_saved_meanwhile_holds_what_is_drawn(self, session, scene, tmp_path, drawn):
        region = session.review.regions[1]
        session.drawing.begin(region.region_id)
        if drawn:
            draw_everywhere(session, 1)
        again = saved_and_opened(scene, tmp_path, lambda: session.drawing.regionId == region.region_id)  # goes on
        assert again.drawing.regionId is None
        assert again.review.region(region.region_id).verdict == ("edit" if drawn else "pending")
        inside = again.review.listed().whole_map() == region.number
        assert (again.results.organs.array()[inside] == 1).all() or not drawn
        assert list(again.results.node("segmentation").GetSegmentation().GetSegmentIDs()) == ["Segment_1"]
        same(again)

    def test_the_mask_of_a_region_that_is_no_more_goes(self, session):
        drawing = slicer_app.drawing
        session.drawing.begin(session.review.regions[1].region_id)
        segmentation = session.results.node("segmentation").GetSegmentation()
        segmentation.GetSegment(drawing.MASK_SEGMENT).SetTag(drawing.REGION_TAG, "another")
        again = reopened(session)
        assert list(segmentation.GetSegmentIDs()) == ["Segment_1"]
        assert again.drawing.regionId is None
        same(again)

    def test_an_organ_that_is_cleared_meanwhile_leaves_a_review_that_goes_on(self, session):
        """ "Clear selected segments" in the Segment Editor leaves a segment without voxels."""
        first, second, _ = session.review.regions
        session.drawing.begin(first.region_id)
        clear = slicer.vtkSlicerSegmentationsModuleLogic.ClearSegment
        assert clear(session.results.node("segmentation"), "Segment_1")
        session.drawing.finish()
        assert session.review.region(first.region_id).verdict == "edit"
        same(session)
        assert clear(session.results.node("segmentation"), "Segment_1")
        session.step(Review.decide, second.region_id, "include")
        session.segmentation.discardStrayEdits()
        same(session)
        session.step(Review.undo)
        session.step(Review.undo)
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)

    def test_a_signed_review_cannot_be_edited(self, session):
        sign(session)
        with pytest.raises(ReviewError):
            session.drawing.begin(session.review.regions[0].region_id)
        session.step(Review.withdraw)
        session.drawing.begin(session.review.regions[0].region_id)
        assert session.drawing.regionId == session.review.regions[0].region_id


def test_a_saved_scene_goes_on_where_it_was_left(session, scene, tmp_path):
    first, second, third = session.review.regions
    session.step(Review.decide, first.region_id, "include")
    session.comment(second.region_id, "Gefäß?")
    session.drawing.begin(third.region_id)
    draw(session, third)
    session.drawing.finish()
    said, corrected = decided(session.review), session.review.corrected()
    again = saved_and_opened(scene, tmp_path)
    assert decided(again.review) == said
    assert [each.region.location for each in again.review.regions] == ["left", "anterior", "superior"]
    assert np.array_equal(again.review.corrected(), corrected)
    assert [region.verdict for region in again.review.regions] == ["include", "pending", "edit"]
    same(again)
    again.step(Review.decide, second.region_id, "exclude")
    same(again)


def test_a_scene_without_a_review_gets_one(session):
    """That is a scene of the command line."""
    before = decided(session.review)
    session.results.ctNode.GetScene().RemoveNode(session.results.node("state.review"))
    assert session.isComplete()
    again = reopened(session)
    assert decided(again.review) == before
    same(again)


def test_what_is_drawn_outside_of_the_review_is_counted_and_taken_back(session):
    for region, verdict in zip(session.review.regions, ("include", "exclude", "accept"), strict=True):
        session.step(Review.decide, region.region_id, verdict)
    assert session.segmentation.strayEdits() == 0
    stray(session)
    assert session.segmentation.strayEdits() == 8
    again = reopened(session)
    assert again.segmentation.strayEdits() == 8
    again.segmentation.discardStrayEdits()
    assert again.segmentation.strayEdits() == 0
    same(again)


def test_results_that_cannot_be_shown_leave_none(scene, monkeypatch):
    first = begin(scene)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(slicer_app.scene.results.Overlay, "setMaps", fail)
        with pytest.raises(MemoryError):
            begin_again(first.results.ctNode)
    assert not first.isComplete()
    assert slicer_app.scene.nodes.nodesByClass(scene, "vtkMRMLScalarVolumeNode") == [first.results.ctNode]
    assert begin_again(first.results.ctNode).isComplete()


def test_a_verdict_is_kept_though_it_cannot_be_shown(session, monkeypatch):
    region = session.review.regions[0]
    monkeypatch.setattr(type(session.results.organs), "update", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.step(Review.decide, region.region_id, "include")
    assert stored(session)["regions"][0]["verdict"] == "include"


def test_segments_of_the_user_stay_when_the_ct_is_segmented_again(session):
    segmentation = session.results.node("segmentation").GetSegmentation()
    segmentation.AddEmptySegment("", "Tumour")
    again = begin_again(session.results.ctNode)
    names = [segmentation.GetSegment(identifier).GetName() for identifier in segmentation.GetSegmentIDs()]
    assert "Tumour" in names and len(names) == 2
    again.step(Review.decide, again.review.regions[0].region_id, "include")
    same(again)


def test_a_region_is_jumped_to_and_marked(session, scene):
    region = session.review.regions[1]
    session.regions.jumpTo(region)
    display = session.results.node("regions").GetDisplayNode()
    opacities = [display.GetSegmentOpacity2DOutline(f"Segment_{each.number}") for each in session.review.regions]
    assert opacities[1] == 1.0
    assert max(opacities[0], opacities[2]) < 1.0
    for view in slicer_app.scene.nodes.nodesByClass(scene, "vtkMRMLSliceNode"):
        centre = [view.GetSliceToRAS().GetElement(axis, 3) for axis in range(3)]
        assert centre == pytest.approx(region.region.centroid_ras, abs=1e-3)


def test_what_suitability_says_is_not_said_again(scene):
    said = ["The image is an MR image, but the model takes a CT; choose another image or model.", "The CT is odd."]
    found = Suitability().worsened(Level.NOT_USABLE, said[0])
    session = begin_again(begin(scene).results.ctNode, suitability=found.to_dict())
    session.review.prediction.warnings[:] = said
    assert session.review.prediction.suitability.sentence == found.sentence
    assert session.warnings == [said[1]]


def test_what_is_plainly_wrong_in_a_checked_segmentation_is_said(scene):
    session = begin(scene)
    finding = Finding("organ", "It has a stray part.", (0.0, 0.0, 0.0), 8.0)
    checked = Checked("by hand", "0" * 64, {"organ": "organ"}, findings=(finding,))
    session.review.prediction = replace(session.review.prediction, checked=checked)
    assert finding.sentence in session.warnings


# What others draw in, or edit by hand, changes nothing of a review in silence.


@pytest.fixture
def signed(session):
    """A review with one region edited, one excluded, one accepted, signed."""
    first, second, _third = session.review.regions
    session.drawing.begin(first.region_id)
    draw(session, first)
    session.drawing.finish()
    session.step(Review.decide, second.region_id, "exclude")
    sign(session)
    return session


def test_a_stroke_in_an_edited_region_does_not_pass_for_the_readers_edit(signed):
    draw(signed, signed.review.regions[0], 0)
    again = reopened(signed)
    assert np.array_equal(again.review.corrected(), signed.review.corrected())
    assert again.segmentation.strayEdits() > 0
    again.segmentation.discardStrayEdits()
    same(again)
    assert again.review.signature.name == "A. Reader"


def test_regions_that_were_drawn_over_are_as_the_review_has_them(signed):
    moved = np.roll(signed.review.listed().whole_map(), 2, axis=1)
    signed.results.setRegions(moved, [slicer_app.scene.segments.SegmentSpec(1, "1", (0, 220, 255))])
    again = reopened(signed)
    assert np.array_equal(again.results.regions.array(), signed.review.listed().whole_map())
    same(again)


@pytest.mark.parametrize(
    ("document", "edit"),
    [
        ("review", lambda record: record["regions"][0].update(verdict="pending")),
        ("review", lambda record: record["signature"].update(name="B. Reader")),
        ("review", lambda record: record["regions"][0]["region"].update(volume_mm3=852000.0)),
        ("review", lambda record: record.pop("sha256")),
        ("review", lambda record: record.clear()),
        # Sealed anew, it is not signed with regions undecided.
        ("review", lambda record: (record["regions"][0].update(verdict="pending"), record.update(seal(record)))),
        ("prediction", lambda record: record.update(labels=[])),
        ("prediction", lambda record: record["labels"][0].update(value="1")),
        ("prediction", lambda record: record["provenance"].update(regions={"settings": {"threshold": "low"}})),
        ("prediction", lambda record: record.pop("provenance")),
    ],
)
def test_a_record_that_was_edited_is_refused(signed, document, edit):
    record = signed.results.documents.get(document)
    edit(record)
    signed.results.documents.set(document, record)
    with pytest.raises(ReviewError):
        reopened(signed)


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', "[" * 5000, json.dumps({"comment": "\ud800"})])
def test_text_that_is_no_record(signed, text):
    signed.results.node("state.review").SetText(text)
    with pytest.raises(ReviewError):
        reopened(signed)


def test_a_region_stays_marked_when_the_list_is_renewed(scene):
    session = begin(scene)
    region = session.review.regions[1]
    session.step(Review.decide, region.region_id, "accept")
    session.regions.jumpTo(region)
    session.regions.find(0.02, 20.0)
    display = session.results.node("regions").GetDisplayNode()
    regions = session.review.regions
    opacity = {each.region_id: display.GetSegmentOpacity2DOutline(f"Segment_{each.number}") for each in regions}
    assert opacity.pop(region.region_id) == 1.0
    assert max(opacity.values()) < 1.0
