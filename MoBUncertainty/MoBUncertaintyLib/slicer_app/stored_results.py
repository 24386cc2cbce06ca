"""What the scene holds of an image's results, read as the prediction that is reviewed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np  # noqa: TC002
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ImageError, ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.output.label_record import ElsewhereError
from MoBUncertaintyLib.output.results_record import RecordError, make_prediction
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.slicer_app.scene.nodes import ijkToRas, isPlaced, shape
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene


class _SceneMaps(Sequence):
    """The maps of one kind, looked up at each access: a review keeps no memory of volumes that are replaced."""

    def __init__(self, arrays: Callable[[], dict[int, np.ndarray]]) -> None:
        self._arrays = arrays
        self._held: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._list())

    def __getitem__(self, index: int) -> np.ndarray:
        return self._list()[index]

    def _list(self) -> list[np.ndarray]:
        return list(self._arrays().values()) if self._held is None else self._held

    @contextmanager
    def held(self) -> Iterator[None]:
        """Look them up once for all that is done meanwhile."""
        before, self._held = self._held, self._list()
        try:
            yield
        finally:
            self._held = before


def onItsCt(step: Callable) -> Callable:
    """Make a step of something with `results` and a `review` raise ReviewError if the image is not what was segmented.

    The maps are looked up once for all that is done in it: a click needs them very often.
    """

    @functools.wraps(step)
    def checked(owner, *args, **kwargs):
        prediction = owner.review.prediction
        if not fits(owner.results, prediction):
            raise misfit(owner.results.ctNode)
        with ExitStack() as stack:
            for maps in (prediction.probability, prediction.variance):
                if isinstance(maps, _SceneMaps):  # not where labels overlap: see `Prediction.exclusive`
                    stack.enter_context(maps.held())
            return step(owner, *args, **kwargs)

    return checked


def scenePrediction(results: ResultScene, predicted: np.ndarray) -> Prediction:
    """Read the prediction that a scene holds; raises `ReviewError` if what the scene keeps of it is damaged."""
    maps = (_SceneMaps(functools.partial(results.overlay.maps.arrays, role)) for role in ("probability", "variance"))
    try:
        return make_prediction(
            results.documents.get("prediction"), predicted, *maps, Grid.from_matrix(ijkToRas(results.ctNode))
        )
    except (RecordError, ImageError) as error:
        text = _("The prediction stored in the scene is damaged ({reason}); apply again.")
        raise ReviewError(text.format(reason=error)) from error


def predictedLabels(results: ResultScene) -> np.ndarray:
    """Read the segmentation as predicted.

    Raises `ReviewError` if the scene's copy of it is damaged, or the image was moved.
    """
    try:
        return results.predicted()
    except ElsewhereError as error:
        raise misfit(results.ctNode) from error
    except ValueError as error:
        text = _("The scene's copy of the prediction of {ct} cannot be used ({reason}); apply again.")
        raise ReviewError(text.format(ct=results.ctNode.GetName(), reason=error)) from error


def fits(results: ResultScene, prediction: Prediction) -> bool:
    """Whether an image and its maps are still where the prediction was made."""
    return isPlaced(results.ctNode, prediction.grid.matrix(), prediction.shape) and lieOnCt(results)


def lieOnCt(results: ResultScene) -> bool:
    """Whether an image's maps have its voxels still; a transform that has not been hardened moves both."""
    variance = results.node("variance")
    return variance is None or isPlaced(results.ctNode, ijkToRas(variance), shape(variance))


def misfit(ct) -> ReviewError:
    """Describe to the reader that an image has left its results."""
    text = _(
        "{ct} was moved or changed after it was segmented, so its results no longer fit it: undo that to continue the "
        "review, or apply again."
    )
    return ReviewError(text.format(ct=ct.GetName()))


def areComplete(results: ResultScene) -> bool:
    """Whether an image, and all nodes that a review of it needs, are in the scene."""
    roles = ("segmentation", "state.predicted", "probability", "variance", "regions", "state.prediction")
    return results.ctNode.GetScene() is not None and all(results.node(role) for role in roles)
