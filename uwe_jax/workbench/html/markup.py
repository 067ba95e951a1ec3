"""HTML and SVG as trees of elements: whatever a text holds, it is escaped when the tree is written."""

import re
from collections.abc import Sequence
from typing import TypeAlias
from xml.etree import ElementTree

Element: TypeAlias = ElementTree.Element
Child: TypeAlias = Element | str


def element(tag: str, *children: Child, **attributes: str | float) -> Element:
    """An element with its children.

    Args:
      tag: of HTML or SVG.
      children: elements and texts, in their order.
      attributes: an underscore at the end of a name is dropped (`class_`), another becomes a hyphen (`aria_label`).
    """
    made = ElementTree.Element(
        tag, {name.rstrip('_').replace('_', '-'): str(value) for name, value in attributes.items()}
    )
    before = None
    for child in children:
        if not isinstance(child, str):
            made.append(child)
            before = child
        elif before is None:
            made.text = (made.text or '') + child
        else:
            before.tail = (before.tail or '') + child
    return made


def section(title: str, *children: Child) -> Element:
    """A section with a heading, which gives it its anchor."""
    anchor = re.sub(r'\W+', '-', title.lower())
    return element('section', element('h2', title), *children, id=anchor)


def note(*children: Child) -> Element:
    """A paragraph that says how to read what follows."""
    return element('p', *children, class_='note')


def row(*cells: Child) -> Element:
    """A row of a table; what is no cell yet becomes one."""
    return element('tr', *(cell if _is_cell(cell) else element('td', cell) for cell in cells))


def head(*cells: Child) -> Element:
    """The head of a table: names of columns."""
    return element(
        'thead', element('tr', *(cell if _is_cell(cell) else element('th', cell, scope='col') for cell in cells))
    )


def group(heading: Child, rows: Sequence[Element]) -> Element:
    """Rows of a table under a heading of their own."""
    cells = max(len(cells) for cells in rows)
    return element(
        'tbody', element('tr', left('th', heading, scope='rowgroup', colspan=cells), class_='heading'), *rows
    )


def left(tag: str, *children: Child, **attributes: str | float) -> Element:
    """A cell that holds words: it is aligned to the left, unlike one with a number."""
    return element(tag, *children, class_='words', **attributes)


def table(label: str, *parts: Element, kind: str = 'numbers') -> Element:
    """A table that scrolls by itself where the page is too narrow for it."""
    inner = element('table', *parts, class_=kind, aria_label=label)
    return element('div', inner, class_='scroll', tabindex=0, role='region', aria_label=label)


def write(root: Element) -> str:
    """The document."""
    return '<!DOCTYPE html>\n' + ElementTree.tostring(root, encoding='unicode', method='html') + '\n'


def _is_cell(cell: Child) -> bool:
    return not isinstance(cell, str) and cell.tag in ('td', 'th')
