"""The frame of a page: a self-contained HTML file for light and dark, wide and narrow screens."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #5c6670;
  --line: #d9dee3; --heat: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181c; --soft: #9aa4ae;
  --line: #2e363d; --heat: #7db4f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .4rem 0; } .note { color: var(--soft); font-size: .9rem; }
"""  # noqa: E501


def framed(title: str, body: str, *, style: str = "", note: str = "") -> str:
    """A complete HTML page.

    Args:
        title: title, plain text.
        body: HTML under the title.
        style: additional CSS.
        note: a line of plain text under the title.
    """
    remark = f"<p class='note'>{escape(note)}</p>\n" if note else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{remark}{body}\n</main>\n</body>\n</html>\n"
    )
