"""A desktop for tests: opens a scripted module of 3D Slicer, its `.ui` file and real MRML nodes, without a display.

Real: the module, `slicer.util`, scene and logics (slicer-core), Qt (PySide6), slice and 3D views (trame-slicer).
Fakes, as small as they can be: the widgets of Slicer and CTK, `slicer.app`, and four Python files of Slicer.
Where the variable `SLICER_SOURCE` names a checkout of Slicer's sources, its own files are used instead of those four.

    from slicer_host.host import open_module      # imports PySide6 and slicer: only in a process of its own

A test with the mark `own_process` runs in one (`slicer_host.isolation`).
"""
