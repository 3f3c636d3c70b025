"""What a browser would make of a page, as far as safety and links go."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

VOID = {"meta", "link", "input", "img", "br", "option"}
DRAWN = {"path", "circle", "rect", "line"}


class Reader(HTMLParser):
    """Collects links, ids and text; refuses what a strict content policy would."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice in {tag} {attrs}"
        assert tag not in {"style", "iframe", "object", "embed", "base"}, tag
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"event attribute {name}={value!r}"
            assert name not in {"style", "srcdoc", "formaction", "xlink:href"}, name
            if name in {"href", "src", "action"}:
                scheme = urlsplit(value).scheme
                assert scheme in {"", "http", "https"}, value
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag == "script":
            assert values.get("src"), "inline script"
        if tag == "a" and urlsplit(values.get("href", "")).scheme:
            assert "noreferrer" in values.get("rel", "")
        if tag not in VOID and tag not in DRAWN:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN, tag
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag == "option" or tag in DRAWN:
            return
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data):
        if self._open[-1:] == ["script"]:
            assert not data.strip(), "inline script"
        self.text += data

    @property
    def inner(self) -> list[str]:
        """Links that stay on the site, without query and fragment, as paths."""
        parts = map(urlsplit, self.links)
        return [unquote(p.path) for p in parts if not p.scheme and not p.netloc and p.path]
