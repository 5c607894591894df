"""Puts the files of the chat page together into one HTML document that needs no other file and no network.

`index.html` also opens by itself, beside its files. The document made here holds them inline, and its content policy
lets exactly these scripts and styles run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources

PACKAGE = "trimode.balancer.chat_page"
_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z_]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z_]+\.js)"></script>')
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*(">)')


@functools.cache
def page() -> str:
    """Returns the document."""
    text, policy = _assemble()
    # opened from a file, it may speak with the server that a person names
    return _POLICY.sub(rf"\g<1>{policy.format(connect='http: https:')}\g<2>", text, count=1)


@functools.cache
def served_policy() -> str:
    """Returns the Content-Security-Policy of the document when a server sends it: it speaks with that server alone."""
    return _assemble()[1].format(connect="'self'") + "; frame-ancestors 'none'"


@functools.cache
def _assemble() -> tuple[str, str]:
    """Returns the document and its content policy with a gap for the allowed connections."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}

    def inline(tag: str, name: str) -> str:
        content = f"\n{_read(name)}"
        if f"</{tag}" in content.lower():
            raise ValueError(f"{name}: got a closing {tag} tag; valid: a file without one")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    text = _STYLE.sub(lambda found: inline("style", found[1]), _read("index.html"))
    text = _SCRIPT.sub(lambda found: inline("script", found[1]), text)
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return text, policy


def _read(name: str) -> str:
    return resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")
