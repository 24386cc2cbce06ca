"""An abdominal CT phantom in TotalSegmentator's layout, with boundaries that nobody can know.

The pancreas is a curved, lobulated tube in fat. In two to five places per case another organ of the same density lies
against it; there the true boundary is one random draw and the image does not depend on it, so that a model can at best
predict a probability. That probability is known exactly (`Site.probability`), as is what other raters would have drawn.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr

from mob_training.shapes import FAR, FloatArray, Grid, Tube, ellipsoid

EXTENT = (320.0, 280.0, 240.0)  # mm, x y z
FAT_GAP = (3.0, 6.0)  # mm of fat around the pancreas wherever it is not ambiguous

# HU per tissue: unenhanced, arterial, portal venous
PHASES = ("native", "arterial", "portal venous")
HU = {
    "pancreas": (42, 112, 98),
    "liver": (57, 72, 112),
    "spleen": (48, 128, 120),
    "kidney": (33, 165, 185),
    "gallbladder": (10, 10, 12),
    "adrenal": (25, 75, 65),
    "muscle": (52, 58, 66),
    "wall": (40, 85, 80),
    "aorta": (42, 310, 160),
    "vein": (42, 75, 165),
    "bone": (170, 175, 180),
    "cortex": (420, 430, 430),
}


@dataclass(frozen=True)
class Site:
    """One place where the pancreas' boundary cannot be seen.

    A draw moves the boundary along the pancreas' own signed distance t by h(x) = reach w(x) (2 Phi(g(x)) - 1), where g is a
    Gaussian process of unit variance, so h is uniform in [-reach w, reach w] at every voxel.

    Attributes:
        centre: On the pancreas' surface, RAS mm.
        radius: Of the ball outside which nothing is ambiguous, mm.
        reach: Largest displacement of the boundary, mm.
        organ: TotalSegmentator's name of the neighbour that takes what the pancreas does not.
        index: Flat voxel indices of the ball.
        position: RAS mm of those voxels, shape (n, 3).
        distance: Signed distance t to the pancreas' undisturbed surface there, mm, shape (n,).
        window: w, 1 in the middle and 0 at the edge, shape (n,).
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
        """One plausible pancreas inside the ball, shape (n,), bool."""
        waves = rng.normal(0, 1 / 14.0, (8, 3))  # rad/mm: the boundary undulates over centimetres
        phase = (self.position - self.centre) @ waves.T
        amplitude = rng.standard_normal((2, 8)) / np.sqrt(8)
        wavy = np.cos(phase) @ amplitude[0] + np.sin(phase) @ amplitude[1]
        offset = 2 * ndtr(np.sqrt(0.7) * rng.standard_normal() + np.sqrt(0.3) * wavy) - 1
        return self.distance < self.reach * self.window * offset

    def probability(self) -> FloatArray:
        """Exact probability that a draw calls the voxel pancreas, shape (n,)."""
        with np.errstate(divide="ignore", over="ignore"):
            ratio = self.distance / (self.reach * self.window)
        return np.clip((1 - ratio) / 2, 0, 1)


@dataclass
class Phantom:
    """One case.

    Attributes:
        ct: HU, int16, RAS.
        labels: Organ name (TotalSegmentator's) to uint8 mask; disjoint.
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


@dataclass
class Part:
    """Something to paint: a shape, its HU, and its label if it has one.

    Attributes:
        distance: Signed distance in mm, (z, y, x).
        hu: One value or an array (z, y, x).
        label: TotalSegmentator's name, or None.
    """

    distance: FloatArray
    hu: float | FloatArray
    label: str | None = None


@dataclass
class Scene:
    """Parts in order of precedence, kept apart by a little fat."""

    grid: Grid
    points: FloatArray
    cavity: FloatArray
    taken: FloatArray
    parts: list[Part] = field(default_factory=list)

    def add(
        self,
        distance: FloatArray,
        hu: float | FloatArray,
        label: str | None = None,
        gap: float = 2.0,
        inside: float = 2.0,
    ) -> FloatArray:
        """Adds a shape, less what lies within `gap` mm of the earlier ones or `inside` mm of the cavity's wall."""
        distance = np.maximum(distance, gap - self.taken)
        distance = np.maximum(distance, self.cavity + inside)
        self.taken = np.minimum(self.taken, distance)
        self.parts.append(Part(distance, hu, label))
        return distance


def make_phantom(seed: int, raters: int = 0, spacing: tuple[float, float, float] = (2.5, 2.5, 3.0)) -> Phantom:
    """Makes one case; the same seed gives the same anatomy, truth and raters.

    Args:
        seed: Non-negative.
        raters: Number of further plausible pancreas masks; the CT and the truth do not depend on it.
        spacing: Voxel size (x, y, z) in mm; the volume is always 320 x 280 x 240 mm.

    Returns:
        The CT and its masks, all RAS with the same geometry.
    """
    anatomy, drawing, rating, noising = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    grid = Grid(EXTENT, spacing)
    points = grid.points()
    for axis in range(3):
        points[axis] += 3.5 * grid.smooth_noise(anatomy, 50.0)
    phase = int(anatomy.choice(3, p=(0.2, 0.2, 0.6)))
    hu = {name: values[phase] + anatomy.normal(0, 0.05 * values[phase] + 3) for name, values in HU.items()}

    scene, outer = _body(grid, points, anatomy, hu)
    pancreas, sites = _pancreas(scene, anatomy, hu)
    _organs(scene, anatomy, hu)
    density = _paint(scene, outer, pancreas, sites, hu, anatomy)
    ct = _scan(density, grid, noising)

    undisturbed = pancreas < 0
    truth = _draw(undisturbed, sites, drawing)
    labels = _labels([*scene.parts, *outer], undisturbed, truth, sites)
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
    """One plausible pancreas, bool (z, y, x)."""
    mask = undisturbed.copy()
    for site in sites:
        mask.flat[site.index] = site.draw(rng)
    return mask


def _body(grid: Grid, points: FloatArray, rng: np.random.Generator, hu: dict[str, float]) -> tuple[Scene, list[Part]]:
    """Skin, fat, muscle and spine; returns the scene of the abdominal cavity and what lies around it."""
    x, y, z = points
    width, depth = rng.uniform(132, 148), rng.uniform(98, 112)
    fat = rng.uniform(7, 18) * (1 + 0.25 * grid.smooth_noise(rng, 90.0)) + 4 * (y < -40)
    radial = np.sqrt((x / width) ** 2 + ((y + 4) / depth) ** 2)
    skin = (radial - 1) * np.float32(0.5 * (width + depth)) * 0.9
    muscle = skin + fat
    cavity = muscle + rng.uniform(8, 12)
    column = np.array([0.0, -52.0])
    outer = [Part(skin, -100.0 + 8 * grid.smooth_noise(rng, 20.0)), Part(muscle, hu["muscle"]), Part(cavity, -102.0)]
    scene = Scene(grid, points, cavity, np.full(x.shape, FAR, np.float32))
    for side in (-1, 1):
        outer.append(Part(ellipsoid(points, (side * 36, -78, 0), (30, 24, 400)), hu["muscle"]))
    height = rng.uniform(31, 36)
    offset = z - rng.uniform(-height / 2, height / 2)
    body = np.sqrt((x - column[0]) ** 2 / 1.35 + (y - column[1]) ** 2) - 18
    disc = np.abs((offset + height / 2) % height - height / 2) - (height / 2 - 3)  # negative inside a vertebral body
    vertebra = np.maximum(body, disc)
    outer.append(Part(body + 1, 85.0))
    spongy = hu["bone"] + 30 * grid.smooth_noise(rng, 8.0)
    density = np.where(vertebra > -2.5, hu["cortex"], spongy)
    spine = ellipsoid(points, (0, -92, 0), (5, 17, 400))
    outer.append(Part(np.maximum(spine, disc - 2), hu["cortex"] * 0.7))
    number = np.round((offset - (offset + height / 2) % height + height / 2) / height).astype(int)
    names = {3: "T10", 2: "T11", 1: "T12", 0: "L1", -1: "L2", -2: "L3", -3: "L4", -4: "L5"}
    for value, name in names.items():
        here = np.where(number == value, vertebra, FAR).astype(np.float32)
        if (here < 0).any():
            outer.append(Part(here, density, f"vertebrae_{name}"))
    outer.append(Part(ellipsoid(points, (0, -77, 0), (9, 8, 400)), 25.0))
    scene.taken = np.minimum(scene.taken, body)
    return scene, outer


def _pancreas(scene: Scene, rng: np.random.Generator, hu: dict[str, float]) -> tuple[FloatArray, list[Site]]:
    """The pancreas' undisturbed signed distance (mm) and its ambiguous sites; their neighbours join the scene."""
    points = scene.points
    knots = np.array([[36, 8, -38], [31, 12, -18], [12, 22, -3], [-12, 24, 5], [-36, 13, 12], [-62, -8, 22]], float)
    knots += rng.normal(0, [3, 2.5, 3], knots.shape) + rng.normal(0, [4, 3, 6], 3)
    radii = np.array([13.0, 17.0, 12.5, 13.0, 13.0, 10.5]) * rng.uniform(0.9, 1.1, 6) * rng.uniform(0.92, 1.08)
    tube = Tube.through(knots, radii)
    distance = tube.distance(points) + np.float32(1.0) * scene.grid.smooth_noise(rng, 9.0)
    gap = rng.uniform(*FAT_GAP)
    scene.taken = np.minimum(scene.taken, distance - gap)

    duodenum = Tube.through(
        knots[1] + [[2, 26, 26], [26, 14, 16], [31, 0, -8], [26, -6, -36], [2, -4, -52], [-40, 0, -50]],
        rng.uniform(10.5, 12.5),
    )
    wanted = [(0.2, (1.0, 0.2, -0.1), "duodenum")]  # along the tube, which way, what lies there
    others = [
        (0.62, (0.1, 0.8, 0.6), "stomach"),
        (0.92, (-0.2, 0.6, -0.8), "small_bowel"),
        (0.55, (0.0, 0.1, -1.0), "small_bowel"),
        (0.80, (0.0, 0.6, 0.8), "stomach"),
        (0.02, (-0.2, 0.2, -1.0), "duodenum"),
    ]
    most = rng.choice([3, 4, 5], p=[0.2, 0.5, 0.3])
    sites: list[Site] = []
    blobs: dict[str, list[FloatArray]] = {"duodenum": [duodenum.distance(points)], "stomach": [], "small_bowel": []}
    for along, direction, organ in wanted + [others[i] for i in rng.permutation(len(others))]:
        site, normal = _site(tube, distance, points, along + rng.normal(0, 0.02), direction, organ, rng)
        apart = all(np.linalg.norm(site.centre - s.centre) > 0.9 * (site.radius + s.radius) for s in sites)
        if apart and len(sites) < most:
            sites.append(site)
            size = rng.uniform(17, 21)
            blobs[organ].append(ellipsoid(points, tuple(site.centre + normal * (size - 3)), (size, size, size)))
    return distance, _abut(scene, distance, sites, blobs, hu, rng)


def _site(
    tube: Tube,
    distance: FloatArray,
    points: FloatArray,
    along: float,
    direction: tuple[float, float, float],
    organ: str,
    rng: np.random.Generator,
) -> tuple[Site, FloatArray]:
    """An ambiguous place at a fraction of the tube's length; also returns the outward normal there."""
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


def _abut(
    scene: Scene,
    distance: FloatArray,
    sites: list[Site],
    blobs: dict[str, list[FloatArray]],
    hu: dict[str, float],
    rng: np.random.Generator,
) -> list[Site]:
    """Puts the neighbours into the scene, in contact with the pancreas at the sites only."""
    collar = collar_distance(distance, sites)
    for organ, shapes in blobs.items():
        if shapes:
            shape = np.minimum.reduce(shapes)
            lumen = rng.choice([8.0, 20.0, 180.0], p=[0.4, 0.4, 0.2]) + 6 * scene.grid.smooth_noise(rng, 15.0)
            density = np.where((shape < -3) & (collar > 3), lumen, hu["wall"])
            scene.add(shape, density.astype(np.float32), organ, gap=0.5 if organ == "duodenum" else 2.0)
    return sites


def collar_distance(distance: FloatArray, sites: list[Site]) -> FloatArray:
    """Signed distance (mm, roughly) to the layers of the pancreas' own density that its neighbours carry at the sites."""
    collar = np.full(distance.shape, FAR, np.float32)
    for site in sites:
        layer = np.where(site.window > 0.02, site.distance - site.reach * site.window - 1.0, FAR)
        collar.flat[site.index] = np.minimum(collar.flat[site.index], layer)
    return collar


def _organs(scene: Scene, rng: np.random.Generator, hu: dict[str, float]) -> None:
    """Everything else in the abdomen, most important first."""
    points, grid = scene.points, scene.grid

    def at(*centre: float, by: float = 4.0) -> tuple[float, ...]:
        return tuple(np.asarray(centre) + rng.normal(0, by, 3))

    def size(*radii: float) -> tuple[float, ...]:
        return tuple(np.asarray(radii) * rng.uniform(0.9, 1.1, 3))

    def bowel(tube: Tube, label: str, gas: float, wall: float = 2.5) -> None:
        """Wall and a content of fluid, or of gas above its level: the patient lies on the back."""
        shape = tube.distance(points) + np.float32(0.8) * grid.smooth_noise(rng, 12.0)
        level = tube.line[:, 1].mean() + (1 - 2 * gas) * (
            tube.line[:, 1].max() - tube.line[:, 1].mean() + tube.radius.mean()
        )
        fluid = rng.choice([10.0, 25.0, 150.0], p=[0.5, 0.3, 0.2]) + 12 * grid.smooth_noise(rng, 10.0)
        content = np.where(points[1] > level, -950.0, fluid)
        scene.add(shape, np.where(shape < -wall, content, hu["wall"]).astype(np.float32), label)

    limbs = [Tube.through([[-40, -20, 26], [-36, -28, 18], end], 2.6) for end in ([-28, -36, 8], [-48, -37, 8])]
    base = np.array(at(0, 0, 0, by=2.0))[:, None, None, None]
    slabs = []
    for limb in limbs:  # the two limbs of an inverted Y, each a thin sheet that runs downwards
        sheets = [limb.distance(points - base + np.array([0, 0, dz])[:, None, None, None]) for dz in (0, 5, 10, 15)]
        slabs.append(np.minimum.reduce(sheets))
    scene.add(np.minimum.reduce(slabs).astype(np.float32), hu["adrenal"], "adrenal_gland_left", gap=1.5)

    aorta = Tube.through([at(-9, -24, z, by=2.0) for z in (130, 60, 0, -60, -130)], rng.uniform(8.5, 11))
    cava = Tube.through([at(20, -23, z, by=2.0) for z in (130, 60, 0, -60, -130)], rng.uniform(9, 12))
    scene.add(aorta.distance(points), hu["aorta"], "aorta")
    scene.add(cava.distance(points), hu["vein"], "inferior_vena_cava")
    for name, side, z in (("kidney_left", -1, -22), ("kidney_right", 1, -34)):
        centre = at(side * 62, -42, z)
        kidney = ellipsoid(points, centre, size(27, 27, 52)) + 1.0 * grid.smooth_noise(rng, 25.0)
        sinus = ellipsoid(points, (centre[0] - side * 14, centre[1] + 6, centre[2]), (13, 11, 24))
        scene.add(kidney, np.where(sinus < 0, -60.0, hu["kidney"] - 25 * (kidney < -9)), name)
    for side in (-1, 1):
        scene.add(ellipsoid(points, (side * 38, -46, -110), (19, 21, 95)), hu["muscle"])
    scene.add(ellipsoid(points, at(62, 46, -14), size(16, 20, 28)), hu["gallbladder"], "gallbladder")
    spleen = ellipsoid(points, at(-92, -32, 42), size(27, 42, 46)) + 1.5 * grid.smooth_noise(rng, 30.0)
    scene.add(spleen, hu["spleen"], "spleen")
    stomach = Tube.through(
        [at(-52, 5, 88), at(-66, 28, 58), at(-52, 50, 32), at(-18, 62, 16), at(20, 56, 6)],
        np.array([24, 28, 26, 21, 13]),
    )
    bowel(stomach, "stomach", rng.uniform(0.15, 0.45), 4.0)
    right = ellipsoid(points, at(66, 2, 42), size(76, 84, 82)) + 2.0 * grid.smooth_noise(rng, 40.0)
    left = ellipsoid(points, at(2, 50, 58), size(72, 36, 40))
    liver = scene.add(np.minimum(right, left), hu["liver"], "liver")
    vessels = np.abs(grid.smooth_noise(rng, 22.0)) + np.abs(grid.smooth_noise(rng, 22.0))
    scene.parts[-1].hu = np.where((vessels < 0.12) & (liver < -8), hu["vein"], hu["liver"]).astype(np.float32)

    ascending = [at(98, y, z) for y, z in ((0, -120), (4, -85), (14, -55), (45, -42))]
    bowel(Tube.through(ascending, rng.uniform(17, 22)), "colon", rng.uniform(0.1, 0.5), 2.5)
    transverse = [at(x, y, z) for x, y, z in ((75, 62, -48), (30, 74, -62), (-30, 72, -55), (-85, 38, -20))]
    bowel(Tube.through(transverse, rng.uniform(14, 18)), "colon", rng.uniform(0.2, 0.8), 2.5)
    descending = [at(-102, y, z) for y, z in ((5, -20), (-8, -60), (-5, -120))]
    bowel(Tube.through(descending, rng.uniform(11, 15)), "colon", rng.uniform(0.0, 0.4), 2.5)
    for _ in range(9):
        start = np.array([rng.uniform(-75, 75), rng.uniform(0, 60), rng.uniform(-115, -55)])
        steps = rng.normal(0, [22, 14, 12], (4, 3)).cumsum(0)
        bowel(Tube.through(start + steps, rng.uniform(9, 13)), "small_bowel", rng.uniform(0.0, 0.3), 2.0)


def _paint(
    scene: Scene,
    outer: list[Part],
    pancreas: FloatArray,
    sites: list[Site],
    hu: dict[str, float],
    rng: np.random.Generator,
) -> FloatArray:
    """HU before blur and noise, float32 (z, y, x). The truth is not an argument: it cannot be seen."""
    grid = scene.grid
    width = np.float32(np.mean(grid.spacing))
    density = np.full(pancreas.shape, -1000.0, np.float32)
    tissue = hu["pancreas"] + 6 * grid.smooth_noise(rng, 7.0)
    visible = np.minimum(pancreas, collar_distance(pancreas, sites))
    for part in [*outer, *scene.parts, Part(visible, tissue)]:
        share = np.clip(0.5 - part.distance / width, 0, 1)  # partial volume
        density += share * (part.hu - density)
    return density


def _scan(density: FloatArray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Blur and noise of a scanner, int16 HU in [-1024, 1500]."""
    spacing = grid.spacing[::-1]
    blurred = gaussian_filter(density, [rng.uniform(0.8, 1.2) / s for s in spacing])
    grain = gaussian_filter(rng.standard_normal(density.shape, dtype=np.float32), [2.0 / s for s in spacing])
    grain *= rng.uniform(7, 12) / grain.std()
    white = rng.uniform(6, 10) * rng.standard_normal(density.shape, dtype=np.float32)
    return np.clip(np.round(blurred + grain + white), -1024, 1500).astype(np.int16)


def _labels(parts: list[Part], undisturbed: np.ndarray, truth: np.ndarray, sites: list[Site]) -> dict[str, np.ndarray]:
    """Disjoint masks uint8 (z, y, x). What the truth leaves of the ambiguous tissue belongs to the neighbour."""
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
    """An image in RAS: index axes run to the patient's right, front and head."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    x, y, z = (float(axis[0]) for axis in grid.axes)
    image.SetOrigin((-x, -y, z))
    return image


def case_seed(seed: int, case: int) -> int:
    """Seed of case number `case` (0, 1, ...) of a cohort; independent of how many cases there are."""
    return int(np.random.SeedSequence([seed, case]).generate_state(1, np.uint64)[0])


def write_cohort(
    folder: str | Path,
    cases: int,
    seed: int,
    raters: int = 0,
    progress: Callable[[int, int], None] | None = None,
    spacing: tuple[float, float, float] = (2.5, 2.5, 3.0),
) -> list[Path]:
    """Writes a cohort as TotalSegmentator does: `s0001/ct.nii.gz`, `s0001/segmentations/<organ>.nii.gz`, `meta.csv`.

    With raters, also `s0001/raters/pancreas_1.nii.gz` and so on, and `s0001/raters/pancreas_probability.nii.gz`.

    Args:
        folder: Created if it does not exist.
        cases: How many; case i is the same whatever their number.
        seed: Of the cohort.
        raters: Further plausible pancreas masks per case.
        progress: Called with (cases done, cases) after each.
        spacing: Voxel size (x, y, z) in mm.

    Returns:
        The case folders, in order.
    """
    folder = Path(folder)
    written, rows = [], []
    for case in range(cases):
        phantom = make_phantom(case_seed(seed, case), raters, spacing)
        target = folder / f"s{case + 1:04d}"
        (target / "segmentations").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(phantom.ct, str(target / "ct.nii.gz"), useCompression=True)
        for organ, mask in phantom.labels.items():
            sitk.WriteImage(mask, str(target / "segmentations" / f"{organ}.nii.gz"), useCompression=True)
        if phantom.probability is not None:
            (target / "raters").mkdir(exist_ok=True)
            for number, mask in enumerate(phantom.raters, 1):
                sitk.WriteImage(mask, str(target / "raters" / f"pancreas_{number}.nii.gz"), useCompression=True)
            sitk.WriteImage(phantom.probability, str(target / "raters" / "pancreas_probability.nii.gz"), True)
        written.append(target)
        rows.append({"image_id": target.name, "study_type": f"ct abdomen phantom, {phantom.phase}", "split": "train"})
        if progress is not None:
            progress(case + 1, cases)
    columns = "image_id age gender institute study_type split manufacturer scanner_model kvp pathology".split()
    with (folder / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=";", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return written
