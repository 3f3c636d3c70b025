"""The papers a reader likes: ids, a BibTeX file, or what Zotero exports (BibTeX, CSV, CSL JSON, RDF)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assay.errors import InputError
from assay.papers.card import ARXIV_ID
from assay.papers.digests.entry import Entry

_ID_ANYWHERE = re.compile(
    rf"(?:arxiv[:./ ]\s*(?:org/(?:abs|pdf)/)?|abs/|pdf/)({ARXIV_ID.pattern})(?!\d)", re.IGNORECASE
)
_BARE_ID = re.compile(rf"\s*({ARXIV_ID.pattern})(?:v\d+)?\s*(?:\[[^\]]*\])?\s*")
_MOST_BYTES = 200 << 20
_CSV_FIELD = 16 << 20


def read_library(path: Path) -> list[Entry]:
    """The papers of a library file, found by looking; those with neither title nor id are left out.

    Raises:
        InputError: the file is missing, too large, of no known format, or holds no paper.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is larger than {_MOST_BYTES >> 20} MB; expected a library of papers")
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    head = text.lstrip()[:4000]
    if head.startswith(("[", "{")):
        found = _csl_json(text, path)
    elif head.startswith("<"):
        found = _rdf(text, path)
    elif re.search(r"(^|\n)\s*@\w+\s*[{(]", text):
        found = _bibtex(text)
    else:
        found = _csv(text)
    found = [entry for entry in found if entry.title or entry.id]
    if not found:
        raise InputError(f"{path} holds no paper; expected BibTeX, or a Zotero export as CSV, CSL JSON or RDF")
    return found


def arxiv_id(*texts: object) -> str:
    """The first arXiv id in some fields: alone in its field, or after `arXiv:` or in an address; "" without one."""
    for text in texts:
        if isinstance(text, str):
            match = _BARE_ID.fullmatch(text[:200]) or _ID_ANYWHERE.search(text[:4000])
            if match:
                return match[1]
    return ""


def _bibtex(text: str) -> Iterable[Entry]:
    import logging

    import bibtexparser

    logger = logging.getLogger("bibtexparser")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # blocks that cannot be read are left out, not told one by one
    try:
        blocks = bibtexparser.parse_string(text).entries
    finally:
        logger.setLevel(before)
    for block in blocks:
        fields = {field.key.lower(): _unbraced(str(field.value)) for field in block.fields}
        yield _entry(
            fields.get("title", ""),
            re.split(r"\s+and\s+", fields.get("author", "")),
            fields.get("abstract", ""),
            arxiv_id(
                *(
                    fields.get(k)
                    for k in ("eprint", "arxivid", "url", "journal", "note", "number", "doi", "howpublished")
                )
            ),
        )


def _csv(text: str) -> Iterable[Entry]:
    csv.field_size_limit(_CSV_FIELD)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:
        return
    for raw in rows:
        row = {str(k).strip().lower(): v for k, v in raw.items() if isinstance(v, str)}
        title = row.get("title", "")
        names = [" ".join(reversed(name.split(", ", 1))) for name in row.get("author", "").split(";")]
        found = arxiv_id(
            *(row.get(k) for k in ("url", "extra", "archive location", "publication title", "doi", "number"))
        )
        yield _entry(title, names, row.get("abstract note", row.get("abstract", "")), found)


def _csl_json(text: str, path: Path) -> Iterable[Entry]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not readable JSON") from None
    items = data.get("items", [data]) if isinstance(data, Mapping) else data
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, Mapping):
            continue
        people = [p for p in _list(item.get("author")) + _list(item.get("creators")) if isinstance(p, Mapping)]
        names = [" ".join(str(p.get(k) or "") for k in keys) for p in people for keys in [_name_keys(p)]]
        fields = ("URL", "url", "note", "extra", "number", "archiveID", "archive_location", "DOI", "container-title")
        found = arxiv_id(*(item.get(k) for k in fields))
        yield _entry(item.get("title"), names, item.get("abstract") or item.get("abstractNote"), found)


def _rdf(text: str, path: Path) -> Iterable[Entry]:
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root = fromstring(text.encode(), forbid_dtd=True)
    except DefusedXmlException:
        raise InputError(f"{path}: XML with a document type or entities of its own is refused") from None
    except (ParseError, ValueError, RecursionError):
        raise InputError(f"{path}: not readable XML") from None
    for node in root:
        values: dict[str, str] = {}
        for child in node:
            values.setdefault(_local(child.tag), " ".join("".join(child.itertext()).split()))
        people = [
            p for child in node if _local(child.tag) == "authors" for p in child.iter() if _local(p.tag) == "Person"
        ]
        names = [" ".join(_part(p, k) for k in ("givenName", "surname")) for p in people]
        about = [value for name, value in node.attrib.items() if _local(name) == "about"]
        found = arxiv_id(*about, *(values.get(k) for k in ("identifier", "description", "isPartOf", "coverage")))
        yield _entry(values.get("title"), names, values.get("abstract"), found)


def _entry(title: object, authors: Iterable[str], abstract: object, paper: str) -> Entry:
    names = tuple(name for author in authors if (name := " ".join(author.split())))
    clean_title, clean_abstract = (" ".join(v.split()) if isinstance(v, str) else "" for v in (title, abstract))
    return Entry(id=paper, title=clean_title or None, authors=names, abstract=clean_abstract or None)


def _unbraced(text: str) -> str:
    return re.sub(r"(?<!\\)[{}]", "", text).replace("\\&", "&").replace("\\%", "%").replace("\\_", "_")


def _name_keys(person: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        ("given", "family")
        if "family" in person
        else ("firstName", "lastName")
        if "lastName" in person
        else ("literal",)
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _local(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def _part(node: Any, name: str) -> str:
    return next((child.text or "" for child in node if _local(child.tag) == name), "")
