"""Equations of the pages as MathML, which browsers draw by themselves: no script, nothing fetched. A hook of mkdocs."""

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **of_page: object) -> str:
    """The page's HTML with every equation that arithmatex has marked in its place."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found.group(2)), display="block" if found.group(1) == "div" else "inline")

    return EQUATION.sub(mathml, content)
