"""Patches near organs: where a training for little time looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

NEAR = 8
"""A patch is centred within so many voxels, along each axis, of a random voxel of a random label."""


class NearbyLoader(nnUNetDataLoader):
    """Draw patches near a random voxel of a random label of the case, or, in the other draws, anywhere in it."""

    def get_bbox(
        self,
        data_shape: Sequence[int],
        force_fg: bool,
        class_locations: Mapping[Any, np.ndarray],
        *_: Any,
        **__: Any,
    ) -> tuple[list[int], list[int]]:
        """Return first and last voxel of a patch; within the case, or around it where it is smaller than a patch."""
        shape, patch = np.asarray(data_shape), np.asarray(self.patch_size)
        shown = [voxels for label, voxels in class_locations.items() if not isinstance(label, tuple) and len(voxels)]
        if force_fg and shown:
            voxels = shown[np.random.randint(len(shown))]
            centre = voxels[np.random.randint(len(voxels))][1:] + np.random.randint(-NEAR, NEAR + 1, len(patch))
            start = centre - patch // 2
        else:
            start = np.random.randint(0, np.maximum(shape - patch, 0) + 1)
        start = np.where(shape < patch, (shape - patch) // 2, np.clip(start, 0, np.maximum(shape - patch, 0)))
        return start.tolist(), (start + patch).tolist()


def prepared(loader: nnUNetDataLoader, processes: int, pinned: bool) -> Any:
    """Let some processes prepare batches, or none but this one."""
    if processes == 0:
        return SingleThreadedAugmenter(loader, None)
    cached = max(6, processes // 2)
    return NonDetMultiThreadedAugmenter(
        loader, None, processes, num_cached=cached, seeds=None, pin_memory=pinned, wait_time=0.002
    )
