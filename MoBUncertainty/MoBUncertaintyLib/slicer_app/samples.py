"""The demo CT in Slicer's Sample Data module. It ships with the extension: nothing is downloaded."""

from __future__ import annotations

from MoBUncertaintyLib.base.resources import RESOURCES

CATEGORY = "MoB Uncertainty"
SAMPLE_NAME = "PhantomCT"
SAMPLE_SHA256 = "6787368456a67f2782a8146c5b888e26e923b9fb989c06a526311fcafa7c8538"


def registerSampleData():
    """Add the demo CT to the Sample Data module."""
    import SampleData

    if hasattr(SampleData.SampleDataLogic, "registerCustomSampleDataCategory"):  # not before Slicer 5.12
        SampleData.SampleDataLogic.registerCustomSampleDataCategory(CATEGORY, title=CATEGORY)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(RESOURCES / "Icons" / "PhantomCT.png"),
        uris=(RESOURCES / "SampleData" / "PhantomCT.nii.gz").as_uri(),
        fileNames="PhantomCT.nii.gz",
        checksums=f"SHA256:{SAMPLE_SHA256}",
        nodeNames=SAMPLE_NAME,
        loadFileTypes="VolumeFile",  # a reader of segmentations knows .nii.gz too
    )


def loadSampleData():
    """Load the demo CT.

    Returns:
        Its vtkMRMLScalarVolumeNode.
    """
    import SampleData

    from MoBUncertaintyLib.slicer_app.scene.views import giveWindow

    registerSampleData()
    ct = SampleData.downloadSample(SAMPLE_NAME)
    giveWindow(ct)
    return ct
