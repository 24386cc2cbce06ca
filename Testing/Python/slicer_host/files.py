"""Files in and out: what `slicer.util.loadVolume`, `loadScene` and `saveScene` call, and the module SampleData."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import slicer
import slicer.util


class IOManager:
    """`slicer.app.coreIOManager()` for volumes, and scenes in an .mrb file."""

    def __init__(self, core):
        self._core = core

    def loadNodes(self, fileType: str, properties: dict, loaded, _messages) -> bool:
        path = properties["fileName"]
        if fileType == "SceneFile":
            return bool(self._core.scene.ReadFromMRB(path, properties.get("clear", False)))
        if fileType == "SegmentationFile":
            return self._loadSegmentation(path, properties["name"], loaded)
        node = self._core.volumes_logic.AddArchetypeVolume(
            path, properties.get("name") or Path(path).name.split(".")[0]
        )
        if node is None:
            return False
        loaded.AddItem(node)
        if properties.get("show", True):
            slicer.util.setSliceViewerLayers(background=node, fit=True)
        return True

    def _loadSegmentation(self, path: str, name: str, loaded) -> bool:
        node = self._core.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.AddDefaultStorageNode(path)
        loaded.AddItem(node)
        return bool(node.GetStorageNode().ReadData(node))

    def saveNodes(self, fileType: str, properties: dict, _messages) -> bool:
        return fileType == "SceneFile" and bool(self._core.scene.WriteToMRB(properties["fileName"]))


@dataclass(frozen=True)
class Sample:
    uri: str
    fileName: str
    nodeName: str
    checksum: str
    loadFileType: str


class SampleDataLogic:
    """Slicer's SampleData for what lies on this disk."""

    samples: dict[str, list[Sample]] = {}  # noqa: RUF012 - one application, one list
    categories: dict[str, str] = {}  # noqa: RUF012

    @classmethod
    def registerCustomSampleDataCategory(cls, category: str, title: str) -> None:
        cls.categories[category] = title

    @classmethod
    def registerCustomSampleDataSource(
        cls,
        category: str = "Custom",
        sampleName: str = "",
        uris: Sequence[str] = (),
        fileNames: Sequence[str] = (),
        nodeNames: Sequence[str] = (),
        checksums: Sequence[str] = (),
        loadFileTypes: Sequence[str] = (),
        thumbnailFileName: str | None = None,
        sampleDescription: str | None = None,
    ) -> None:
        files = zip(uris, fileNames, nodeNames, checksums, loadFileTypes, strict=True)
        cls.samples[sampleName] = [Sample(*file) for file in files]

    def downloadSamples(self, sampleName: str) -> list:
        return [self._load(sample) for sample in self.samples[sampleName]]

    def _load(self, sample: Sample):
        target = Path(slicer.app.temporaryPath) / sample.fileName
        shutil.copy(url2pathname(urlparse(sample.uri).path), target)
        algorithm, digest = slicer.util.extractAlgoAndDigest(sample.checksum)
        assert slicer.util.computeChecksum(algorithm, target) == digest, f"{sample.fileName} has another checksum"
        return slicer.util.loadNodeFromFile(target, sample.loadFileType, {"name": sample.nodeName})


def downloadSamples(sampleName: str) -> list:
    return SampleDataLogic().downloadSamples(sampleName)
