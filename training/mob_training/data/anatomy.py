"""The phantom's abdomen: positions, densities, and which organ yields where two meet.

Positions are RAS in mm with the origin in the middle of the volume; the patient lies on the back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import label

from mob_training.data.shapes import FAR, FloatArray, Grid, Tube, ellipsoid

PHASES = ("native", "arterial", "portal venous")
HU = {  # per tissue, in each phase
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
GAS = -950.0


@dataclass(eq=False)
class Part:
    """Something to paint: its signed distance (mm, (z, y, x)), its HU, and TotalSegmentator's name if it has one."""

    distance: FloatArray
    hu: float | FloatArray
    label: str | None = None


@dataclass(eq=False)
class Scene:
    """The abdomen's parts, in order of precedence and separated by a little fat.

    Attributes:
        points: RAS coordinates of the voxels in mm after this patient's deformation, (3, z, y, x).
        hu: This patient's HU per tissue, keys as in `HU`.
        cavity, taken: Signed distance in mm to the inside of the abdominal wall, and to everything placed so far.
        outer: Body wall and spine, in the order in which they are painted.
        parts: Organs, in order of precedence.
    """

    grid: Grid
    points: FloatArray
    rng: np.random.Generator
    hu: dict[str, float]
    cavity: FloatArray = field(init=False)
    taken: FloatArray = field(init=False)
    outer: list[Part] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def add(
        self, distance: FloatArray, hu: float | FloatArray, label: str | None = None, gap: float = 2.0
    ) -> FloatArray:
        """Add an organ, minus what lies within `gap` mm of earlier organs or 2 mm of the cavity's wall.

        Return the signed distance in mm to what is left of it.
        """
        distance = _without_small_pieces(np.maximum.reduce([distance, gap - self.taken, self.cavity + 2.0]))
        self.taken = np.minimum(self.taken, distance)
        self.parts.append(Part(distance, hu, label))
        return distance

    def noise(self, scale: float) -> FloatArray:
        """Return a smooth random field, see `Grid.smooth_noise`."""
        return self.grid.smooth_noise(self.rng, scale)

    def at(self, *centre: float, by: float = 4.0) -> tuple[float, ...]:
        """Return a random position (mm) near `centre`."""
        return tuple(np.asarray(centre) + self.rng.normal(0, by, 3))

    def size(self, *radii: float) -> tuple[float, ...]:
        """Return radii (mm) that differ by up to a tenth from `radii`."""
        return tuple(np.asarray(radii) * self.rng.uniform(0.9, 1.1, 3))


def _without_small_pieces(distance: FloatArray) -> FloatArray:
    """Remove pieces smaller than a tenth of the largest one, which carving can leave behind."""
    pieces, number = label(distance < 0)
    if number < 2:
        return distance
    volume = np.bincount(pieces.ravel())
    volume[0] = volume.max()
    return np.where(volume[pieces] < 0.1 * volume[1:].max(), np.float32(FAR), distance)


def add_body(scene: Scene) -> None:
    """Add table, skin, fat, muscle, ribs, lung bases and spine, and set the cavity of the organs."""
    x, y, z = scene.points
    rng, hu = scene.rng, scene.hu
    width, depth = rng.uniform(132, 148), rng.uniform(98, 112)
    table = np.abs(scene.grid.axes[1][:, None] + depth + 12 - scene.grid.axes[0] ** 2 / 2000) - 3
    fat = rng.uniform(7, 18) * (1 + 0.25 * scene.noise(90.0)) + 4 * (y < -40)
    skin = (np.sqrt((x / width) ** 2 + ((y + 4) / depth) ** 2) - 1) * np.float32(0.45 * (width + depth))
    muscle = skin + fat
    thickness = rng.uniform(9, 13)
    scene.cavity = muscle + thickness
    scene.outer += [
        Part(np.broadcast_to(table, x.shape), -200.0),
        Part(skin - 1.5, 0.0),
        Part(skin, -100.0 + 8 * scene.noise(20.0)),
        Part(muscle, hu["muscle"]),
        Part(scene.cavity, -102.0),
    ]
    along = (z + 0.5 * y - rng.uniform(0, 32)) % 32 - 16
    rib = np.maximum(np.hypot(muscle + thickness / 2, along / 1.6) - 3.5, -20 - z)
    scene.outer.append(Part(rib.astype(np.float32), hu["cortex"]))
    for side in (-1, 1):
        scene.outer.append(Part(ellipsoid(scene.points, (side * 36, -78, 0), (30, 24, 400)), hu["muscle"]))
    column = _add_spine(scene)

    diaphragm = ellipsoid(scene.points, (0, 8, 0), (0.82 * width, 0.8 * depth, rng.uniform(115, 130)))
    lung = np.maximum.reduce([4 - diaphragm, scene.cavity + 1, 30 - z])
    scene.outer.append(Part(np.maximum(lung, 4 - column), -840.0))
    scene.taken = np.minimum(column, lung + 2)


def _add_spine(scene: Scene) -> FloatArray:
    """Add vertebrae, discs, spinous processes and canal; return the signed distance (mm) to the column of bodies."""
    x, y, z = scene.points
    rng, hu = scene.rng, scene.hu
    column = np.sqrt(x**2 / 1.35 + (y + 52) ** 2) - 18
    height = rng.uniform(31, 36)
    offset = z - rng.uniform(-height / 2, height / 2)
    level = np.floor(offset / height + 0.5)
    disc = np.abs(offset - level * height) - (height / 2 - 3)  # negative inside a vertebral body
    vertebra = np.maximum(column, disc)
    density = np.where(vertebra > -2.5, hu["cortex"], hu["bone"] + 30 * scene.noise(8.0))
    process = np.maximum(ellipsoid(scene.points, (0, -92, 0), (5, 17, 400)), disc - 2)
    scene.outer += [Part(column + 1, 85.0), Part(process, 0.7 * hu["cortex"])]
    for value, name in zip(range(3, -5, -1), ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"), strict=True):
        body = np.where(level == value, vertebra, FAR).astype(np.float32)
        if (body < 0).any():
            scene.outer.append(Part(body, density, f"vertebrae_{name}"))
    scene.outer.append(Part(ellipsoid(scene.points, (0, -77, 0), (9, 8, 400)), 25.0))
    return column


def add_organs(scene: Scene) -> None:
    """Add all abdominal organs except the pancreas and its neighbours, most important first."""
    points, hu, at, size = scene.points, scene.hu, scene.at, scene.size
    _add_adrenal(scene)
    for name, x, y, tissue in (("aorta", -9, -24, "aorta"), ("inferior_vena_cava", 20, -23, "vein")):
        vessel = Tube.through([at(x, y, z, by=2.0) for z in (130, 60, 0, -60, -130)], scene.rng.uniform(8.5, 11.5))
        scene.add(vessel.distance(points), hu[tissue], name)
    for name, side, z in (("kidney_left", -1, -22), ("kidney_right", 1, -34)):
        centre = at(side * 62, -42, z)
        kidney = ellipsoid(points, centre, size(27, 27, 52)) + 1.0 * scene.noise(25.0)
        sinus = ellipsoid(points, (centre[0] - side * 14, centre[1] + 6, centre[2]), (13, 11, 24))
        scene.add(kidney, np.where(sinus < 0, -60.0, hu["kidney"] - 25 * (kidney < -9)), name)
    for side in (-1, 1):
        scene.add(ellipsoid(points, (side * 38, -46, -110), (19, 21, 95)), hu["muscle"])
    scene.add(ellipsoid(points, at(62, 46, -14), size(16, 20, 28)), hu["gallbladder"], "gallbladder")
    spleen = ellipsoid(points, at(-88, -32, 42), size(27, 42, 46)) + 1.5 * scene.noise(30.0)
    scene.add(spleen, hu["spleen"], "spleen")
    stomach = [at(-52, 5, 88), at(-66, 28, 58), at(-52, 46, 32), at(-18, 58, 16), at(20, 52, 6)]
    _add_bowel(scene, Tube.through(stomach, [24, 28, 26, 21, 13]), "stomach", (0.15, 0.45), wall=4.0)
    _add_liver(scene)
    _add_intestines(scene)


def _add_adrenal(scene: Scene) -> None:
    """Add the left adrenal gland: the two limbs of an inverted Y, each a thin sheet that runs downwards."""
    shift = np.asarray(scene.at(0, 0, 0, by=2.0))
    limbs = []
    for end in ([-28, -36, 8], [-48, -37, 8]):
        for down in (0, 5, 10, 15):
            limb = Tube.through(np.array([[-40, -20, 26], [-36, -28, 18], end]) + shift - [0, 0, down], 2.6, 30)
            limbs.append(limb.distance(scene.points))
    scene.add(np.minimum.reduce(limbs), scene.hu["adrenal"], "adrenal_gland_left", gap=1.5)


def _add_liver(scene: Scene) -> None:
    """Add two lobes with vessels, indented from below by the right kidney and the colon's flexure."""
    right = ellipsoid(scene.points, scene.at(62, 4, 42), scene.size(76, 84, 80)) + 2.0 * scene.noise(40.0)
    left = ellipsoid(scene.points, scene.at(2, 46, 58), scene.size(72, 36, 40))
    hollow = ellipsoid(scene.points, scene.at(52, -52, -52), scene.size(52, 52, 74))
    vessels = np.abs(scene.noise(22.0)) + np.abs(scene.noise(22.0))  # small near the line where both fields vanish
    density = np.where((vessels < 0.12) & (right < -8), scene.hu["vein"], scene.hu["liver"])
    scene.add(np.maximum(np.minimum(right, left), -hollow), density.astype(np.float32), "liver", gap=3.0)


def _add_intestines(scene: Scene) -> None:
    """Add the colon around the abdomen and loops of small bowel below the pancreas."""
    at, uniform = scene.at, scene.rng.uniform
    ascending = [at(92, y, z) for y, z in ((0, -120), (4, -85), (14, -55), (50, -48))]
    transverse = [at(x, y, z) for x, y, z in ((75, 50, -48), (30, 56, -64), (-30, 56, -58), (-80, 30, -20))]
    descending = [at(-94, y, z) for y, z in ((5, -20), (-8, -60), (-5, -120))]
    _add_bowel(scene, Tube.through(ascending, uniform(17, 22)), "colon", (0.1, 0.5))
    _add_bowel(scene, Tube.through(transverse, uniform(14, 18)), "colon", (0.2, 0.8))
    _add_bowel(scene, Tube.through(descending, uniform(11, 15)), "colon", (0.0, 0.4))
    for _ in range(9):
        start = uniform([-75, 0, -115], [75, 55, -55])
        loop = start + scene.rng.normal(0, [22, 14, 12], (4, 3)).cumsum(0)
        _add_bowel(scene, Tube.through(loop, uniform(9, 13)), "small_bowel", (0.0, 0.3))


def _add_bowel(scene: Scene, tube: Tube, name: str, gas: tuple[float, float], wall: float = 2.5) -> None:
    """Add a wall (mm) around fluid, with gas above a level; the gas fraction of the height is drawn from `gas`."""
    shape = tube.distance(scene.points) + np.float32(0.8) * scene.noise(12.0)
    top = (tube.line[:, 1] + tube.radius).max()
    level = top - scene.rng.uniform(*gas) * (top - (tube.line[:, 1] - tube.radius).min())
    fluid = scene.rng.choice([10.0, 25.0, 150.0], p=[0.5, 0.3, 0.2]) + 12 * scene.noise(10.0)
    content = np.where(scene.points[1] > level, GAS, fluid)
    scene.add(shape, np.where(shape < -wall, content, scene.hu["wall"]).astype(np.float32), name)
