"""arXiv's own feeds: the API's Atom, RSS (2.0, and the older RDF), and OAI-PMH with `arXiv` metadata.

Read as a stream; elements are known by their local names, so any prefix or default namespace will do. A document type,
an entity of the document's own or a reference outside the document is refused. What comes before a fault is read.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from assay.errors import InputError
from assay.papers.digests.entry import Digest, Entry, link_kind, split_id

_MOST_DEPTH = 64
_CHUNK = 1 << 16
_FORMATS = {"feed": "atom", "rss": "rss", "RDF": "rss", "OAI-PMH": "oai"}
_UNITS = {"entry", "item", "record"}
_TAG = re.compile(r"<[^<>]{0,1000}>")
_ANNOUNCE = re.compile(r"\s*arXiv:\S{1,40}[ \t]+Announce Type:[ \t]*(\S{1,40})\s*(?:Abstract:[ \t]*)?", re.IGNORECASE)
_OLD_TITLE = re.compile(r"(.*?)\s*\(arXiv:([^\s()]{4,40})\s+\[([^\]]{1,40})\][^()]{0,40}\)\s*", re.DOTALL)


@dataclass(slots=True)
class Node:
    """An element: local name, attributes by local name, own text, children."""

    name: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def all(self, *names: str) -> Iterator[Node]:
        return (child for child in self.children if child.name in names)

    def first(self, *names: str) -> Node | None:
        return next(self.all(*names), None)

    def value(self, *names: str) -> str | None:
        """Text of the first child of that name, None without one."""
        child = self.first(*names)
        return None if child is None else child.text.strip()


def looks_like(text: str) -> bool:
    """Whether a text, or its beginning, is XML."""
    return bool(re.match(r"[\ufeff\s]*<(?:\?xml|[A-Za-z:]{0,20}(?:feed|rss|RDF|OAI-PMH)\b)", text))


def read(data: bytes, name: str = "feed") -> Digest:
    """Read a feed; its kind is found from its root element.

    Raises:
        InputError: the XML declares entities or a document type, is nested beyond reason, or is no feed of arXiv.
    """
    digest = Digest("", name)
    target = _Target(digest)
    parser = DefusedXMLParser(target=target, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    target.line = lambda: int(parser.parser.CurrentLineNumber)
    view = memoryview(data.lstrip())
    try:
        for start in range(0, len(view), _CHUNK):
            parser.feed(view[start : start + _CHUNK].tobytes())
        parser.close()
    except DefusedXmlException as error:
        raise InputError(
            f"{name}: XML with a document type or entities of its own is refused ({_kind(error)})"
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        if not digest.format:
            raise InputError(f"{name}: not readable XML: {_first_line(error)}") from None
        at = getattr(error, "position", (target.line(), 0))[0]
        digest.problem(at, f"the XML breaks off: {_first_line(error)}")
    return digest


class _Target:
    """Builds one entry, item or record at a time and hands it on."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.stack: list[Node] = []
        self.line: Callable[[], int] = lambda: 0
        self.unit = 0
        self.build: Callable[[Digest, Node], Entry | None] = _atom

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = _local(tag)
        if not self.stack:
            if name not in _FORMATS:
                raise InputError(f"{self.digest.name}: not a feed of arXiv: its root is <{name[:40]}>")
            self.digest.format = _FORMATS[name]
            self.build = {"atom": _atom, "rss": _rss, "oai": _oai}[self.digest.format]
        if len(self.stack) >= _MOST_DEPTH:
            raise InputError(
                f"{self.digest.name}:{self.line()}: XML nested deeper than {_MOST_DEPTH} elements is refused"
            )
        node = Node(name, {_local(key): value for key, value in attributes.items()}, self.line())
        if self.unit:
            self.stack[-1].children.append(node)
        elif name in _UNITS:
            self.unit = len(self.stack) + 1
        self.stack.append(node)

    def data(self, text: str) -> None:
        if self.stack:
            self.stack[-1].pieces.append(text)

    def end(self, _tag: str) -> None:
        node = self.stack.pop()
        node.text, node.pieces = "".join(node.pieces), []
        if self.unit == len(self.stack) + 1:
            self.unit = 0
            entry = self.build(self.digest, node)
            if entry is not None and not entry.key:
                self.digest.problem(node.line, f"a <{node.name}> with neither id nor title")
            elif entry is not None:
                entry.line = node.line
                self.digest.entries.append(entry)
        elif not self.unit:
            self._fact(node)

    def close(self) -> None:
        return None

    def _fact(self, node: Node) -> None:
        """What a feed says of itself: its title, dates, counts, resumption token, error."""
        text = node.text.strip()
        if node.name == "error" and self.digest.format == "oai":
            code = node.attributes.get("code", "")
            self.digest.facts["error"] = code
            if code != "noRecordsMatch":
                self.digest.problem(node.line, f"the server answers: {code} {text[:200]}".rstrip())
        elif node.name == "resumptionToken":
            self.digest.facts["resumptionToken"] = text
            self.digest.facts |= {f"resumptionToken.{key}": value for key, value in node.attributes.items()}
        elif text and node.name not in self.digest.facts and len(self.digest.facts) < 40:
            self.digest.facts[node.name] = text
        if node.name in {"pubDate", "updated", "responseDate"} and not self.digest.day:
            self.digest.day = iso_date(text)[:10]


def _atom(digest: Digest, node: Node) -> Entry | None:
    entry = Entry()
    named = node.value("id") or ""
    if "arxiv.org/api/errors" in named[:200]:
        digest.problem(node.line, f"the server answers: {(node.value('summary') or 'an error')[:200]}")
        return None
    entry.id, entry.version = split_id(named)
    if named and not entry.id:
        entry.extra["id"] = named
    entry.title = _joined(node.value("title"))
    _describe(entry, node.value("summary", "content"))
    for author in node.all("author"):
        if name := _joined(author.value("name")):
            entry.authors += (name,)
            if places := [place.text.strip() for place in author.all("affiliation")]:
                entry.extra.setdefault("affiliations", {})[name] = places
    if not entry.authors:
        entry.authors = _creators(node)
    terms = [term.attributes.get("term", "") for term in (*node.all("primary_category"), *node.all("category"))]
    entry.categories = tuple(dict.fromkeys(filter(None, (term.strip() for term in terms))))
    for link in node.all("link"):
        address = link.attributes.get("href", "").strip()
        kind = {"pdf": "pdf", "doi": "doi"}.get(link.attributes.get("title", "")) or link_kind(address)
        if address:
            entry.links.setdefault(kind, address)
    entry.date, entry.updated = iso_date(node.value("published")), iso_date(node.value("updated"))
    entry.comment, entry.journal = node.value("comment"), node.value("journal_ref", "journal_reference")
    entry.doi = node.value("doi", "DOI")
    return _rest(
        entry,
        node,
        {
            "id",
            "title",
            "summary",
            "content",
            "author",
            "creator",
            "primary_category",
            "category",
            "link",
            "published",
            "updated",
            "comment",
            "journal_ref",
            "journal_reference",
            "doi",
            "DOI",
        },
    )


def _rss(_digest: Digest, node: Node) -> Entry | None:
    entry = Entry()
    link = node.value("link") or node.attributes.get("about", "")
    guid = node.value("guid") or ""
    entry.id, entry.version = split_id(guid)
    if not entry.id:
        entry.id, version = split_id(link)
        entry.version = entry.version or version
    if link:
        entry.links[link_kind(link)] = link
    if guid and not split_id(guid)[0]:
        entry.extra["guid"] = guid
    entry.title = _joined(node.value("title"))
    categories = [category.text.strip() for category in node.all("category")]
    old = _OLD_TITLE.fullmatch(entry.title[-2000:]) if entry.title and entry.title.endswith(")") else None
    if old and entry.title:
        entry.title = (entry.title[:-2000] + old[1]).removesuffix(".")
        entry.id, entry.version = entry.id or split_id(old[2])[0], entry.version or split_id(old[2])[1]
        categories.append(old[3])
    _describe(entry, node.value("description"))
    entry.authors = _creators(node)
    entry.categories = tuple(dict.fromkeys(filter(None, categories)))
    entry.date = iso_date(node.value("pubDate", "date"))
    entry.doi, entry.journal = node.value("DOI", "doi"), node.value("journal_reference", "journal_ref")
    return _rest(
        entry,
        node,
        {
            "title",
            "link",
            "guid",
            "category",
            "description",
            "creator",
            "pubDate",
            "date",
            "DOI",
            "doi",
            "journal_reference",
            "journal_ref",
        },
    )


def _oai(digest: Digest, node: Node) -> Entry | None:
    header = node.first("header") or Node("header", {}, node.line)
    if header.attributes.get("status") == "deleted":
        digest.facts["deleted"] = [*digest.facts.get("deleted", []), header.value("identifier") or ""]
        return None
    metadata = node.first("metadata")
    about = metadata.first("arXiv") if metadata else None
    if about is None:
        digest.problem(node.line, f"a record without arXiv metadata: {(header.value('identifier') or '')[:60]!r}")
        return None
    entry = Entry()
    entry.id, entry.version = split_id(about.value("id") or header.value("identifier") or "")
    entry.title, entry.abstract = _joined(about.value("title")), about.value("abstract")
    people = about.first("authors")
    for author in people.all("author") if people else ():
        name = " ".join(filter(None, (_joined(author.value(part)) for part in ("forenames", "keyname", "suffix"))))
        if name:
            entry.authors += (name,)
            if places := [place.text.strip() for place in author.all("affiliation")]:
                entry.extra.setdefault("affiliations", {})[name] = places
    entry.categories = tuple((about.value("categories") or "").split())
    entry.date, entry.updated = about.value("created") or "", about.value("updated") or ""
    entry.comment, entry.journal, entry.doi = about.value("comments"), about.value("journal-ref"), about.value("doi")
    for child in header.children:
        if child.name == "setSpec":
            entry.extra["setSpec"] = [*entry.extra.get("setSpec", []), child.text.strip()]
        elif child.name == "datestamp":
            entry.extra["datestamp"] = child.text.strip()
    return _rest(
        entry,
        about,
        {"id", "title", "abstract", "authors", "categories", "created", "updated", "comments", "journal-ref", "doi"},
    )


def _rest(entry: Entry, node: Node, taken: set[str]) -> Entry:
    """Keep every other field under its own name."""
    for child in node.children:
        text = child.text.strip()
        before = entry.extra.get(child.name)
        if child.name in taken or not text or text == before:
            continue
        entry.extra[child.name] = (
            text if before is None else [*(before if isinstance(before, list) else [before]), text]
        )
    return entry


def _describe(entry: Entry, text: str | None) -> None:
    """The abstract; arXiv's RSS writes id and kind of announcement before it."""
    if text is None:
        return
    if match := _ANNOUNCE.match(text):
        entry.extra["announce_type"] = match[1]
        text = text[match.end() :]
    elif text.startswith("<p>"):
        text = _plain(text)
    entry.abstract = text.strip()


def _creators(node: Node) -> tuple[str, ...]:
    """Names in `dc:creator`: separated by commas, or by line breaks, or as links (older RSS)."""
    names: list[str] = []
    for creator in node.all("creator"):
        text = creator.text.strip()
        text = _plain(text) if "<a " in text else text
        names += re.split(r"\n" if "\n" in text and ", " not in text else r",(?=\s)", text)
    return tuple(name for part in names if (name := " ".join(part.split()).strip(",").strip()))


def iso_date(text: str | None) -> str:
    """ISO form of an ISO or RFC 822 date; "" where it is neither."""
    text = (text or "").strip()[:60]
    if re.match(r"\d{4}-\d{2}-\d{2}", text):
        try:
            date.fromisoformat(text[:10])
        except ValueError:
            return ""
        return text
    try:
        return parsedate_to_datetime(text).date().isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text))


def _joined(text: str | None) -> str | None:
    """A title or name on one line: feeds break long ones."""
    return None if text is None else " ".join(text.split())


def _local(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2]


def _kind(error: Any) -> str:
    return {"DTDForbidden": "document type", "EntitiesForbidden": "entity"}.get(
        type(error).__name__, "outside reference"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0][:150]
