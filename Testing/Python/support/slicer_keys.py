"""The keys of Slicer itself, as its sources of August 2026 have them, so that the module takes none of them."""

from __future__ import annotations

MENUS = {"Ctrl+" + key for key in "0123456`CFHOSVWXYZ"} | {"Ctrl+Left", "Ctrl+Right", "Alt+Left", "Alt+Right"}
"""Of the main window: qSlicerMainWindow, qSlicerAppMainWindow, qSlicerModuleSelectorToolBar."""
MARKUPS = {"Ctrl+Shift+A", "Ctrl+Shift+T", "Ctrl+Shift+Space", "S", "Delete", "Shift+Delete", "Backspace"}
"""qMRMLMarkupsToolBar and vtkSlicerMarkupsWidget."""
SLICE_VIEWS = {"G", "T", "V", "Shift+V", "R", "F", "B", "[", "]", "{", "}", "Left", "Right", "Up", "Down"}
"""vtkMRMLSliceIntersectionWidget."""
VIEWS_3D = {"Ctrl+B", "R", "+", "-", "Left", "Right", "Up", "Down", "Home", "End", "PgDown", "Ins", "Clear", "Esc"}
"""vtkMRMLCameraWidget, and the widgets that Escape cancels."""
DIGITS = set("0123456789") | {f"Shift+{digit}" for digit in "0123456789"}
SEGMENT_EDITOR = DIGITS | {"Esc", "Space", "Z", "Y", "Ctrl+Z", "Ctrl+Y", "Q", "W", "/", "*", ",", ".", ">", "<", "I"}
"""qMRMLSegmentEditorWidget, while it is shown."""

ALWAYS = MENUS | MARKUPS | SLICE_VIEWS | VIEWS_3D
"""Those that act whatever module is shown."""
