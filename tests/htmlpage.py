"""A page as a browser's parser sees it, for tests of what is on it."""

from html.parser import HTMLParser

EMPTY = {"meta", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.references: list[str] = []
        """Whatever the page may load or lead to."""
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.headings: list[tuple[str, str]] = []
        """(tag, text)."""
        self.blocks: list[str] = []
        """The texts of its <pre>s."""
        self.tables: dict[str, list[list[str]]] = {}
        """The cells of its rows, by its caption."""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(named)
        self.references += [named[name] for name in ("href", "src", "xlink:href", "action") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        self.labels += [named["aria-label"]] if "aria-label" in named else []
        if tag not in EMPTY:
            self._open.append(tag)
        if tag == "pre":
            self.blocks.append("")
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, ""))
        elif tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        while tag in self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if "pre" in self._open:
            self.blocks[-1] += data
        elif {"th", "td"} & set(self._open):
            self._rows[-1][-1] += data
        elif "caption" in self._open:
            self._caption += data
        elif self.headings and self.headings[-1][0] in self._open:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
