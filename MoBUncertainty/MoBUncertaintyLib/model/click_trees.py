"""What a model has learned of clicks: boosted trees, which correct what conditioning says of a click's surroundings.

They are plain arrays in one file of the model folder; records of results and reviews hold the same file as text. All
trees are symmetric: a level asks one question of all voxels, so that they are evaluated by comparisons of arrays, and
no file can make an endless one. Needs only the standard library to import, as `base.schema`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from MoBUncertaintyLib.base.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

TREES_FILE = "clicks.safetensors"
TREES_LIMIT = 4 * 2**20  # bytes of the file; those of the shipped models have 0.03 MB
MAX_TREES, MAX_LEVELS = 2000, 8  # a leaf's number is one byte
ARRAYS = ("features", "thresholds", "values")

FEATURES = (
    "logit", "conditioned", "fine", "coarse", "slope", "outline_mm", "distance_mm", "inwards_mm", "across_mm", "facing",
    "wrong", "background", "clicked_logit", "logit_difference", "second_mm", "second_same", "second_wrong",
    "rival_mm", "clicks",
)  # fmt: skip
"""What trees ask of a voxel; `review.refinement.extent` computes it."""
OF_LOGITS = ("logit", "conditioned", "fine", "coarse", "slope", "clicked_logit", "logit_difference")
"""Those of them that are proportional to the logits."""


@dataclass(frozen=True)
class ClickTrees:
    """The sum of trees; raises `ModelError` if they are damaged.

    Attributes:
        packed: The file's content in base64. It holds `features`, whole numbers (T, D): which of `FEATURES` the levels
            of T trees ask for; `thresholds` (T, D), above which the answer is yes; and `values` (T, 2^D), of the
            leaves, whose number has a bit for each yes, that of the first level the highest.
    """

    packed: str

    def __post_init__(self) -> None:
        _ = self._trees

    @classmethod
    def of(cls, features: np.ndarray, thresholds: np.ndarray, values: np.ndarray) -> ClickTrees:
        """Pack trees; values are rounded to float16."""
        import numpy as np
        from safetensors.numpy import save

        arrays: list[np.ndarray] = [features.astype(np.int64), thresholds.astype(np.float32), values.astype(np.float16)]
        return cls.read(save(dict(zip(ARRAYS, arrays, strict=True))))

    @classmethod
    def read(cls, content: bytes) -> ClickTrees:
        """Read the content of the file."""
        return cls(base64.b64encode(content).decode())

    @cached_property
    def content(self) -> bytes:
        """The content of the file; raises `ModelError` if the text is no base64."""
        try:
            return base64.b64decode(self.packed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ModelError(f"{TREES_FILE} is damaged ({error}); export the model again.") from error

    def score(self, features: np.ndarray) -> np.ndarray:
        """Sum what the trees say of N voxels, (N,) float32, by their `FEATURES` (F, N), float32."""
        import numpy as np

        total = np.zeros(features.shape[1], np.float32)
        leaf = np.empty(features.shape[1], np.uint8)
        for numbers, thresholds, values in zip(*self._trees, strict=True):
            leaf[:] = 0
            for feature, threshold in zip(numbers, thresholds, strict=True):
                leaf <<= 1
                leaf |= (features[feature] > threshold).view(np.uint8)
            total += values.take(leaf)
        return total

    def divided(self, temperature: float) -> ClickTrees:
        """Return those that say the same, divided by a temperature, of features whose logits it has divided."""
        import numpy as np

        features, thresholds, values = self._trees
        of_logits = np.isin(features, [FEATURES.index(name) for name in OF_LOGITS])
        return self.of(features, np.where(of_logits, thresholds / temperature, thresholds), values / temperature)

    @cached_property
    def _trees(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import numpy as np

        from MoBUncertaintyLib.model.files import ModelFile
        from MoBUncertaintyLib.model.weights import read_weights

        arrays = read_weights(ModelFile(TREES_FILE, "the model", self.content))
        if arrays.keys() == set(ARRAYS):
            features, thresholds, values = (arrays[name] for name in ARRAYS)
            count, levels = (*features.shape, 0, 0)[:2]
            if (
                0 < count <= MAX_TREES
                and 0 < levels <= MAX_LEVELS
                and features.shape == thresholds.shape == (count, levels)
                and values.shape == (count, 2**levels)
                and features.dtype == np.int64
                and thresholds.dtype == values.dtype == np.float32
                and bool(((features >= 0) & (features < len(FEATURES))).all())
            ):
                return features, thresholds, values
        raise ModelError(f"{TREES_FILE} does not hold trees of clicks; export the model again.")
