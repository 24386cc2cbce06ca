"""How long the panel takes from a click in a slice view to the new outline, heat map and list.

    python Testing/Benchmarks/panel_click.py [--profile]

Opens the panel on the off-screen desktop, with the phantom CT and with one of 512 x 512 x 300 voxels, and clicks in
listed regions by events of the slice view's interactor. Counts from the event until the scene and the panel show what
has changed and the three slice views are drawn (in software). Ends with 1 where the slowest click takes longer than
`LIMITS` allows, or the surface longer than `SURFACE_S`.
"""

import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "Python"))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np

import scene_push

LARGE = (300, 512, 512)  # z, y, x
CLICKS = 12
LIMITS = {"phantom CT": 0.150, "512 x 512 x 300": 0.300}  # s
SURFACE_S = 1.0


def main() -> int:
    if sys.argv[1:2] == ["--make"]:
        scene_push.make_prediction(Path(sys.argv[2]), LARGE)
        return 0
    from support.small_panel import apply, load_phantom, open_panel

    desktop = open_panel()
    load_phantom(desktop)
    apply(desktop)
    good = measure(desktop, "phantom CT")
    show_large(desktop)
    good &= measure(desktop, "512 x 512 x 300")
    desktop.close()
    return int(not good)


def show_large(desktop) -> None:
    """Show a CT of a usual size, with what the worker would find in it."""
    from support.standalone import add_volume

    matrix = np.diag([*scene_push.SPACING, 1.0])
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([sys.executable, __file__, "--make", name], check=True)  # whose memory is not this one's
        answer = scene_push.load(Path(name))
    ct = add_volume(desktop.scene, np.zeros(LARGE, np.int16), matrix, "CT")
    desktop.ui.ctSelector.setCurrentNode(ct)
    for _step in desktop.logic.sessions.begin(ct, {"ct": {"ijk_to_ras": matrix}}, answer):
        pass
    desktop.widget.panel.refresh()
    desktop.process()


def measure(desktop, name: str) -> bool:
    """Click in one region after the other; print the times, and return whether all are within the limits."""
    from slicer_host.mouse import Mouse

    session = desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())
    mouse, taken, profile = Mouse("Red"), [], cProfile.Profile(time.thread_time)
    draw(desktop)
    for number in range(CLICKS):
        place, label = doubtful(session, number)
        mouse.go(place)
        draw(desktop)
        (desktop.ui.organHereButton if label else desktop.ui.notOrganHereButton).click()
        settle(desktop)
        if "--profile" in sys.argv:
            profile.enable()
        began, own = time.perf_counter(), time.thread_time()
        mouse.stroke([place])
        shown = time.perf_counter()
        desktop.process()
        draw(desktop)
        taken.append((time.perf_counter() - began, shown - began, time.thread_time() - own))
        profile.disable()
        desktop.ui.clicksOffButton.click()
    assert len(session.review.clicks) == CLICKS
    began = time.perf_counter()
    session.segmentation._surfacesAreOld = True
    session.segmentation.updateSurfaces()
    surface = time.perf_counter() - began
    whole, steps, own = (np.array(each) * 1000 for each in zip(*taken, strict=True))
    print(f"{name}: {len(session.review.regions)} regions, {CLICKS} clicks")
    print(f"  first click {whole[0]:.0f} ms; median {np.median(whole):.0f} ms, slowest {whole.max():.0f} ms,")
    print(f"  of which without drawing {np.median(steps):.0f} ms and {steps.max():.0f} ms; surface {surface:.2f} s;")
    print(f"  of this thread's own computing {np.median(own):.0f} ms and {own.max():.0f} ms")
    if "--profile" in sys.argv:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    return whole.max() / 1000 <= LIMITS[name] and surface <= SURFACE_S


def doubtful(session, number: int) -> tuple[tuple[float, ...], int]:
    """Choose the most doubtful voxel of a region, and the label that it does not have."""
    region = session.review.regions[number % len(session.review.regions)]
    p = session.review.maps_in(region.box)[0][0]
    doubt = np.where(region.mask, np.minimum(p, 1 - p), -1)
    at = np.unravel_index(doubt.argmax(), doubt.shape)
    index = [int(a) + part.start for a, part in zip(at, region.box, strict=True)]
    return tuple(session.review.prediction.grid.to_ras(np.array(index)).tolist()), int(p[at] <= 0.5)


def settle(desktop) -> None:
    """Let pass what comes after a pause: the surface, the flash, what each click has changed."""
    end = time.monotonic() + 2.5
    desktop.process(until=lambda: time.monotonic() > end)


def draw(desktop) -> None:
    """Draw the three slice views."""
    manager = desktop.app.layoutManager()
    for name in manager.sliceViewNames():
        manager.sliceWidget(name).view.render_window().Render()


if __name__ == "__main__":
    sys.exit(main())
