"""What tests of figures look for in a file."""

from pathlib import Path

from matplotlib.image import imread


def looks_like_a_picture(path: Path, width: tuple[int, int], height: tuple[int, int]) -> None:
    """Size in pixels within limits, and more than one colour."""
    picture = imread(path)[..., :3]
    assert width[0] <= picture.shape[1] <= width[1]
    assert height[0] <= picture.shape[0] <= height[1]
    assert picture.std() > 0.05
