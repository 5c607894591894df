"""Prints the file tree of README.md from the first sentence of every file; `--write` puts it there.

Knows git and docstrings only. A test holds README.md against it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    *("core", "pipeline", "balancer", "workers", "kernels", "recipes", "chat", "bench", "scripts"),
    *("evaluate.py", "eval.sh"),
)
BEGIN, END = "<!-- file tree: python scripts/readme_tree.py --write -->\n", "<!-- end of file tree -->\n"


def purpose(path: Path) -> str:
    """The first sentence that `path` says about itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    else:
        said = next((line[2:] for line in text.splitlines()[1:] if line.startswith("# ")), "")
    return said.rstrip(".")


def tree() -> str:
    """One line per source file, grouped by folder."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *ROOMS]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    by_folder = sorted(set(names), key=lambda name: (Path(name).parent.parts, name))
    paths = [ROOT / name for name in by_folder if name.endswith((".py", ".sh")) and (ROOT / name).exists()]
    lines, folder = [], Path()
    for path in paths:
        if path.name == "__init__.py" or not path.read_text(encoding="utf-8").strip():
            continue
        inside = path.relative_to(ROOT).parent
        if inside != folder and inside != Path():
            lines.append(f"{inside}/")
        folder = inside
        indent = "  " if inside != Path() else ""
        lines.append(f"{indent}{path.name:<{26 - len(indent)}} {purpose(path)}")
    return BEGIN + "```\n" + "\n".join(lines) + "\n```\n" + END


def main() -> int:
    """Prints or writes the tree."""
    if sys.argv[1:] != ["--write"]:
        sys.stdout.write(tree())
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(before + tree() + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
