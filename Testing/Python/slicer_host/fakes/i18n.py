"""Stands in for `slicer.i18n`: strings stay English."""


def tr(text: str) -> str:
    return text


def translate(_context: str, text: str) -> str:
    return text
