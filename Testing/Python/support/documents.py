"""The documents of the project, and pieces of them."""

import re
import textwrap

from support import MODULE_FOLDER, ROOT
from support.repository import tracked

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((MODULE_FOLDER / "Documentation").glob("*.md"))}
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in tracked("*.md")}


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def shell_commands(text: str) -> list[str]:
    """Return the commands of the `sh` blocks, each in one line and without its comment."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines if (command := re.sub(r"\s+# .*", "", line).strip())]


def python_blocks(text: str) -> list[str]:
    """Return the Python examples, without the indentation that a list gives them."""
    return [
        textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    ]
