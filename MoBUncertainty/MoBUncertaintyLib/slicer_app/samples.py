"""The demo CT in Slicer's Sample Data module. It ships with the extension: nothing is downloaded."""

from __future__ import annotations

from MoBUncertaintyLib.base.resources import RESOURCES

CATEGORY = "MoB Uncertainty"
SAMPLE_NAME = "HeadNeckCT"
FILES = {
    "HeadNeckCT.nii.gz": "de5405cb0606f6a4cf64254eeba1aee04cbf1fc9d97bfc01aeb2effa65ca4a08",
    "HeadNeckCT-contours.seg.nrrd": "3a4bf5e7fa57400541e0cfb394357119d417cc65ba4e889fb4497f9c97065ad3",
}
"""With their SHA-256."""


def registerSampleData():
    """Add the demo CT, with the clinical contours, to the Sample Data module."""
    import SampleData

    if hasattr(SampleData.SampleDataLogic, "registerCustomSampleDataCategory"):  # not before Slicer 5.12
        SampleData.SampleDataLogic.registerCustomSampleDataCategory(CATEGORY, title=CATEGORY)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(RESOURCES / "Icons" / f"{SAMPLE_NAME}.png"),
        uris=[(RESOURCES / "SampleData" / name).as_uri() for name in FILES],
        fileNames=list(FILES),
        checksums=[f"SHA256:{digest}" for digest in FILES.values()],
        nodeNames=[SAMPLE_NAME, f"{SAMPLE_NAME} contours"],
        loadFileTypes=["VolumeFile", "SegmentationFile"],  # readers of both know both
    )


def loadSampleData():
    """Load the demo CT, and the clinical contours, which stay hidden; returns its vtkMRMLScalarVolumeNode."""
    import SampleData

    from MoBUncertaintyLib.slicer_app.scene.views import giveWindow

    registerSampleData()
    ct, contours = SampleData.downloadSamples(SAMPLE_NAME)
    contours.GetDisplayNode().SetVisibility(False)
    giveWindow(ct)
    return ct
