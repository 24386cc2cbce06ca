"""An abdominal CT phantom in TotalSegmentator's layout, with boundaries that cannot be seen.

The pancreas is a curved, lobulated tube in fat. In three to five places per case another organ of the same density lies
against it; there the true boundary is one random draw and the image does not depend on it, so that a model can at best
predict a probability. That probability is known exactly (`Site.probability`), as is what other raters would have drawn.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr

from mob_training.data.anatomy import HU, PHASES, Part, Scene, add_body, add_organs
from mob_training.data.datasets import write_image
from mob_training.data.shapes import FAR, FloatArray, Grid, Tube, ellipsoid
from MoBUncertaintyLib.base.publishing import write_file

EXTENT = (320.0, 280.0, 240.0)  # mm, x y z
FAT_GAP = (3.0, 6.0)  # mm of fat around the pancreas wherever it is not ambiguous
NEIGHBOURS = (  # where along the pancreas (0 head, 1 tail), which way (RAS), what lies there; the first always
    (0.20, (1.0, 0.2, -0.1), "duodenum"),
    (0.62, (0.1, 0.8, 0.6), "stomach"),
    (0.92, (-0.2, 0.6, -0.8), "small_bowel"),
    (0.55, (0.0, 0.1, -1.0), "small_bowel"),
    (0.80, (0.0, 0.6, 0.8), "stomach"),
    (0.02, (-0.2, 0.2, -1.0), "duodenum"),
)
META = "image_id age gender institute study_type split manufacturer scanner_model kvp pathology pathology_location"


@dataclass(frozen=True, eq=False)
class Site:
    """One place where the pancreas' boundary cannot be seen.

    A draw moves the boundary along the pancreas' own signed distance t by h(x) = reach w(x) (2 Phi(g(x)) - 1), where g
    is a Gaussian process of unit variance, so h is uniform in [-reach w, reach w] at every voxel.

    Attributes:
        centre: On the pancreas' surface, RAS mm before this patient's smooth deformation (a few mm).
        radius: Of the ball outside which nothing is ambiguous, mm.
        reach: Largest displacement of the boundary, mm.
        organ: TotalSegmentator's name of the neighbour that takes what the pancreas does not.
        index, position: Flat indices of the ball's n voxels, and where they are, in the same frame, (n, 3).
        distance: Signed distance t to the pancreas' undisturbed surface there, mm, (n,).
        window: w, 1 in the middle and 0 at the edge, (n,).
    """

    centre: FloatArray
    radius: float
    reach: float
    organ: str
    index: np.ndarray
    position: FloatArray
    distance: FloatArray
    window: FloatArray

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one plausible pancreas inside the ball, shape (n,), bool."""
        waves = rng.normal(0, 1 / 14.0, (8, 3))  # rad/mm: the boundary undulates over centimetres
        phase = (self.position - self.centre) @ waves.T
        amplitude = rng.standard_normal((2, 8)) / np.sqrt(8)
        wavy = np.cos(phase) @ amplitude[0] + np.sin(phase) @ amplitude[1]
        offset = 2 * ndtr(np.sqrt(0.7) * rng.standard_normal() + np.sqrt(0.3) * wavy) - 1
        return self.distance < self.reach * self.window * offset

    def probability(self) -> FloatArray:
        """Return the exact probability that a draw calls the voxel pancreas, shape (n,)."""
        with np.errstate(divide="ignore", over="ignore"):
            ratio = self.distance / (self.reach * self.window)
        return np.clip((1 - ratio) / 2, 0, 1)


@dataclass
class Phantom:
    """One case: HU, int16, RAS; disjoint masks by TotalSegmentator's names; and what is known of the pancreas.

    Attributes:
        raters: Further plausible masks of the pancreas, drawn as the truth was.
        probability: Of pancreas, float32, exact; None unless raters were asked for.
        sites: The places where the boundary is ambiguous.
        phase: Contrast phase, one of `PHASES`.
    """

    ct: sitk.Image
    labels: dict[str, sitk.Image]
    raters: list[sitk.Image] = field(default_factory=list)
    probability: sitk.Image | None = None
    sites: list[Site] = field(default_factory=list)
    phase: str = ""


def make_phantom(seed: int, raters: int = 0, spacing: tuple[float, float, float] = (2.5, 2.5, 3.0)) -> Phantom:
    """Make one case; the same seed gives the same anatomy, truth and raters.

    The volume is always 320 x 280 x 240 mm; spacing is that of its voxels, (x, y, z) in mm. CT and truth do not depend
    on the number of raters.
    """
    anatomy, drawing, rating, noising = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    grid = Grid(EXTENT, spacing)
    points = grid.points()
    for axis in range(3):
        points[axis] += 3.5 * grid.smooth_noise(anatomy, 50.0)
    phase = int(anatomy.choice(3, p=(0.2, 0.2, 0.6)))
    hu = {name: values[phase] + anatomy.normal(0, 0.05 * values[phase] + 3) for name, values in HU.items()}

    scene = Scene(grid, points, anatomy, hu)
    add_body(scene)
    pancreas, sites = _add_pancreas(scene)
    add_organs(scene)
    density = _paint(scene, pancreas, sites)
    ct = _scanned(density, grid, noising)

    undisturbed = pancreas < 0
    truth = _draw(undisturbed, sites, drawing)
    labels = _labels([*scene.parts, *scene.outer], truth, sites)
    result = Phantom(
        _image(ct, grid), {k: _image(v, grid) for k, v in labels.items()}, sites=sites, phase=PHASES[phase]
    )
    if raters:
        result.raters = [_image(_draw(undisturbed, sites, rating).astype(np.uint8), grid) for _ in range(raters)]
        probability = undisturbed.astype(np.float32)
        for site in sites:
            probability.flat[site.index] = site.probability()
        result.probability = _image(probability, grid)
    return result


def _draw(undisturbed: np.ndarray, sites: list[Site], rng: np.random.Generator) -> np.ndarray:
    """Draw one plausible pancreas, bool (z, y, x)."""
    mask = undisturbed.copy()
    for site in sites:
        mask.flat[site.index] = site.draw(rng)
    return mask


def _add_pancreas(scene: Scene) -> tuple[FloatArray, list[Site]]:
    """Add the pancreas' neighbours; return its undisturbed signed distance (mm) and its ambiguous sites."""
    rng = scene.rng
    knots = np.array([[36, 8, -38], [31, 12, -18], [12, 22, -3], [-12, 24, 5], [-36, 13, 12], [-62, -8, 22]], float)
    knots += rng.normal(0, [3, 2.5, 3], knots.shape) + rng.normal(0, [4, 3, 6], 3)
    radii = np.array([13.0, 17.0, 12.5, 13.0, 13.0, 10.5]) * rng.uniform(0.9, 1.1, 6) * rng.uniform(0.92, 1.08)
    tube = Tube.through(knots, radii)
    distance = tube.distance(scene.points) + np.float32(1.0) * scene.noise(9.0)
    scene.taken = np.minimum(scene.taken, distance - rng.uniform(*FAT_GAP))

    others = rng.permutation(len(NEIGHBOURS) - 1) + 1
    most = rng.choice([3, 4, 5], p=[0.2, 0.5, 0.3])
    loop = knots[1] + [[2, 26, 26], [26, 14, 16], [31, 0, -8], [26, -6, -36], [2, -4, -52], [-40, 0, -50]]
    shapes = {"duodenum": [Tube.through(loop, rng.uniform(10.5, 12.5)).distance(scene.points)]}
    sites: list[Site] = []
    for along, direction, organ in (NEIGHBOURS[i] for i in (0, *others)):
        site, normal = _site(tube, distance, scene, along, direction, organ)
        apart = all(np.linalg.norm(site.centre - s.centre) > site.radius + s.radius for s in sites)
        if apart and len(sites) < most:
            sites.append(site)
            size = rng.uniform(17, 21)
            lump = ellipsoid(scene.points, tuple(site.centre + normal * (size - 3)), (size, size, size))
            shapes.setdefault(organ, []).append(lump)
    _add_neighbours(scene, shapes, collar(distance, sites))
    return distance, sites


def _site(
    tube: Tube, distance: FloatArray, scene: Scene, along: float, direction: tuple[float, float, float], organ: str
) -> tuple[Site, FloatArray]:
    """Return an ambiguous site at a fraction of the tube's length, and the outward normal there."""
    rng, points = scene.rng, scene.points
    along += rng.normal(0, 0.02)
    i = int(np.clip(along, 0.0, 0.97) * (len(tube.line) - 1))
    tangent = tube.line[min(i + 2, len(tube.line) - 1)] - tube.line[max(i - 2, 0)]
    tangent /= np.linalg.norm(tangent)
    normal = np.asarray(direction) + rng.normal(0, 0.15, 3)
    if along > 0.1:  # at the tube's end the neighbour may lie across its mouth
        normal -= (normal @ tangent) * tangent
    normal /= np.linalg.norm(normal)
    centre = tube.line[i] + tube.radius[i] * normal
    radius, reach = rng.uniform(14, 17), min(rng.uniform(8, 10), 0.75 * tube.radius[i])
    away = np.sqrt(sum((p - np.float32(c)) ** 2 for p, c in zip(points, centre, strict=True)))
    index = np.flatnonzero(away < radius)
    edge = np.clip((away.flat[index] / radius - 0.5) / 0.5, 0, 1)
    window = 1 - edge**2 * (3 - 2 * edge)
    position = points.reshape(3, -1)[:, index].T
    return Site(centre, radius, reach, organ, index, position, distance.flat[index], np.maximum(window, 1e-3)), normal


def collar(distance: FloatArray, sites: list[Site]) -> FloatArray:
    """Compute the signed distance (mm, roughly) to the layers of pancreas density on its neighbours at the sites."""
    result = np.full(distance.shape, FAR, np.float32)
    for site in sites:
        layer = np.where(site.window > 0.02, site.distance - site.reach * site.window - 1.0, FAR)
        result.flat[site.index] = np.minimum(result.flat[site.index], layer)
    return result


def _add_neighbours(scene: Scene, shapes: dict[str, list[FloatArray]], layer: FloatArray) -> None:
    """Add the hollow organs that touch the pancreas only at the layer; fluid stays away from the layer."""
    for organ, pieces in shapes.items():
        shape = np.minimum.reduce(pieces)
        lumen = scene.rng.choice([8.0, 20.0, 180.0], p=[0.4, 0.4, 0.2]) + 6 * scene.noise(15.0)
        density = np.where((shape < -3) & (layer > 3), lumen, scene.hu["wall"]).astype(np.float32)
        scene.add(shape, density, organ, gap=0.5 if organ == "duodenum" else 2.0)


def _paint(scene: Scene, pancreas: FloatArray, sites: list[Site]) -> FloatArray:
    """Paint HU before blur and noise, float32 (z, y, x), without the truth, which must not be visible."""
    width = np.float32(np.mean(scene.grid.spacing))
    density = np.full(pancreas.shape, -1000.0, np.float32)
    tissue = Part(np.minimum(pancreas, collar(pancreas, sites)), scene.hu["pancreas"] + 6 * scene.noise(7.0))
    for part in [*scene.outer, *reversed(scene.parts), tissue]:
        fraction = np.clip(0.5 - part.distance / width, 0, 1)  # partial volume
        density += fraction * (part.hu - density)
    return density


def _scanned(density: FloatArray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Add a scanner's blur and noise, int16 HU in [-1024, 1500]."""
    spacing = grid.spacing[::-1]
    blurred = gaussian_filter(density, [rng.uniform(0.8, 1.2) / s for s in spacing])
    grain = gaussian_filter(rng.standard_normal(density.shape, dtype=np.float32), [2.0 / s for s in spacing])
    grain *= rng.uniform(7, 12) / grain.std()
    white = rng.uniform(6, 10) * rng.standard_normal(density.shape, dtype=np.float32)
    return np.clip(np.round(blurred + grain + white), -1024, 1500).astype(np.int16)


def _labels(parts: list[Part], truth: np.ndarray, sites: list[Site]) -> dict[str, np.ndarray]:
    """Make disjoint masks, uint8 (z, y, x). Ambiguous tissue outside the truth belongs to the neighbour."""
    free = ~truth
    labels = {"pancreas": truth.astype(np.uint8)}
    for site in sites:
        rest = np.zeros_like(truth)
        rest.flat[site.index] = site.distance < site.reach * site.window
        rest &= free
        labels.setdefault(site.organ, np.zeros(truth.shape, np.uint8))[rest] = 1
        free &= ~rest
    for part in parts:
        if part.label is not None:
            mask = (part.distance < 0) & free
            labels.setdefault(part.label, np.zeros(truth.shape, np.uint8))[mask] = 1
            free &= ~mask
    return labels


def _image(array: np.ndarray, grid: Grid) -> sitk.Image:
    """Make an RAS image: index axes run to the patient's right, front and head."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    x, y, z = (float(axis[0]) for axis in grid.axes)
    image.SetOrigin((-x, -y, z))
    return image


def case_seed(seed: int, case: int) -> int:
    """Return the seed of case number `case` (0, 1, ...) of a cohort, whatever the number of cases."""
    return int(np.random.SeedSequence([seed, case]).generate_state(1, np.uint64)[0])


def write_cohort(
    folder: str | Path,
    cases: int,
    seed: int,
    raters: int = 0,
    spacing: tuple[float, float, float] = (2.5, 2.5, 3.0),
) -> list[Path]:
    """Write a cohort as TotalSegmentator does: `s0001/ct.nii.gz`, `s0001/segmentations/<organ>.nii.gz`, `meta.csv`.

    With raters, also `s0001/raters/pancreas_1.nii.gz` and so on, and `s0001/raters/pancreas_probability.nii.gz`. Case i
    is the same whatever the number of cases. Spacing is (x, y, z) in mm.

    Return the case folders, in order.
    """
    folder = Path(folder)
    written, rows = [], []
    for case in range(cases):
        phantom = make_phantom(case_seed(seed, case), raters, spacing)
        target = folder / f"s{case + 1:04d}"
        (target / "segmentations").mkdir(parents=True, exist_ok=True)
        write_image(phantom.ct, target / "ct.nii.gz")
        for organ, mask in phantom.labels.items():
            write_image(mask, target / "segmentations" / f"{organ}.nii.gz")
        if phantom.probability is not None:
            (target / "raters").mkdir(exist_ok=True)
            for number, mask in enumerate(phantom.raters, 1):
                write_image(mask, target / "raters" / f"pancreas_{number}.nii.gz")
            write_image(phantom.probability, target / "raters" / "pancreas_probability.nii.gz")
        written.append(target)
        rows.append({"image_id": target.name, "study_type": f"ct abdomen phantom, {phantom.phase}", "split": "train"})
        print(f"{case + 1}/{cases} phantoms")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, META.split(), delimiter=";", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_file(folder / "meta.csv", lambda partial: partial.write_bytes(table.getvalue().encode()))
    return written
