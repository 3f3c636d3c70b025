"""Write papers out: both Markdown formats, JSON lines, BibTeX, RSS, and a page of HTML that runs nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from html import escape
from urllib.parse import urlsplit

from assay.errors import UnknownName
from assay.papers.digests import jsonl, markdown_bilingual, markdown_toc
from assay.papers.digests.entry import SUMMARY_FIELDS, Digest, Entry, month_of

# Controls that no page or feed may carry, and those that turn the direction of the text that follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")
_TEX_SPECIAL = re.compile(r"(\\.)|(\$[^$]*\$)|([%&#_])", re.DOTALL)
_SMALL_WORDS = {"a", "an", "the", "on", "of", "in", "to", "for", "and", "from", "with", "towards", "toward"}
FORMATS = ("toc", "bilingual", "html", "rss", "jsonl", "bibtex")
_STYLE = (
    "body{font:1rem/1.55 system-ui,sans-serif;max-width:52rem;margin:auto;padding:1rem;color-scheme:light dark}"
    "article{border-top:1px solid #8886;padding:.6rem 0}h3{margin:.2rem 0}dt{font-weight:600}dd{margin:0 0 .4rem}"
    ".by{opacity:.8;font-size:.9rem}"
)
_NAMES = {
    "tldr": "TL;DR",
    "motivation": "Motivation",
    "method": "Method",
    "result": "Result",
    "conclusion": "Conclusion",
}


def render(
    entries: Iterable[Entry],
    form: str,
    *,
    title: str = "Digest",
    day: str = "",
    categories: Sequence[str] = (),
    address: str = "https://arxiv.org/",
) -> str:
    """Write entries of any source in one of `FORMATS`.

    Args:
        form: name of the format.
        title: title of a feed or page.
        day: ISO day of the digest, shown by feeds and pages.
        categories: categories that come first, in this order (formats "toc" and "html").
        address: where a feed says it lives.

    Raises:
        UnknownName: no such format.
    """
    check_format(form)
    found = list(entries)
    if form == "toc":
        return markdown_toc.render(markdown_toc.compose(found, categories))
    if form == "bilingual":
        return markdown_bilingual.render(markdown_bilingual.compose(found))
    if form == "rss":
        return _rss(found, title, day, address)
    if form == "html":
        return _page(found, title, day, categories)
    return jsonl.render(found) if form == "jsonl" else bibtex(found)


def render_digest(digest: Digest, form: str = "") -> str:
    """Write a digest; in its own Markdown format, the bytes of the file that it was read from."""
    own = digest.format if digest.format in FORMATS else "toc"
    form = check_format(form or own)
    if form == digest.format == "toc":
        return markdown_toc.render(digest)
    if form == digest.format == "bilingual":
        return markdown_bilingual.render(digest)
    order = [section.category for section in digest.sections]
    return render(digest.entries, form, title=f"Digest {digest.day}".strip(), day=digest.day, categories=order)


def check_format(form: str) -> str:
    """The name of a format, if it is one.

    Raises:
        UnknownName: no such format.
    """
    if form not in FORMATS:
        raise UnknownName(f"unknown format {form!r}; choose from: {', '.join(FORMATS)}")
    return form


def bibtex(entries: Iterable[Entry]) -> str:
    """Entries for a bibliography; keys are surname, year and the title's first long word, told apart by a letter."""
    taken: dict[str, int] = {}
    out = []
    for entry in entries:
        key = _bibtex_key(entry)
        taken[key] = taken.get(key, 0) + 1
        if taken[key] > 1:
            key += f"-{taken[key]}"
        fields = {
            "title": "{" + _tex(entry.title or entry.title_zh or "") + "}",
            "author": " and ".join(_tex_name(name) for name in entry.authors),
            "year": _year(entry),
            "eprint": entry.id,
            "archiveprefix": "arXiv" if entry.id else "",
            "primaryclass": entry.categories[0] if entry.id and entry.categories else "",
            "doi": entry.doi or "",
            "journal": _tex(entry.journal or ""),
            "url": safe_address(entry.abs_url or entry.pdf_url),
            "abstract": _tex(entry.abstract or ""),
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value and value != "{}"]
        out.append("\n".join([f"@misc{{{key},", *lines, "}"]) + "\n")
    return "\n".join(out)


def safe_address(address: str) -> str:
    """The address when it is plain http or https, else ""."""
    address = address.strip()
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    wrong = (
        parts.scheme not in {"http", "https"} or not parts.netloc or re.search(r"[\s<>\"'`{}\\^|\x00-\x1f]", address)
    )
    return "" if wrong or _UNSEEN.search(address) else address


def seen(text: str) -> str:
    """A text without control characters and without those that turn the direction of what follows."""
    return _UNSEEN.sub("", text)


def paragraphs(text: str) -> list[str]:
    """Paragraphs of an abstract: parted by blank or indented lines, as arXiv writes them; single breaks are blanks."""
    parts = re.split(r"\n[ \t]*\n|\n[ \t]{2,}", text)
    return [joined for part in parts if (joined := " ".join(part.split()))]


def _rss(entries: list[Entry], title: str, day: str, address: str) -> str:
    def tag(name: str, text: str, attributes: str = "") -> str:
        return f"<{name}{attributes}>{escape(seen(text), quote=False)}</{name}>\n"

    built = day[:10] if re.fullmatch(r"\d{4}-\d{2}-\d{2}.*", day) else ""
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/">\n<channel>\n',
        tag("title", title),
        tag("link", safe_address(address)),
        tag("description", f"{title}: {len(entries)} papers"),
        tag("pubDate", _mail_date(built)) if built else "",
    ]
    for entry in entries:
        out.append("<item>\n")
        out.append(tag("title", entry.title or entry.title_zh or ""))
        if link := safe_address(entry.abs_url or entry.pdf_url):
            out.append(tag("link", link))
        out.append(tag("guid", f"oai:arXiv.org:{entry.id}" if entry.id else entry.key, ' isPermaLink="false"'))
        out.append(tag("description", entry.abstract or entry.tldr or ""))
        out += [tag("category", category) for category in entry.categories]
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}.*", entry.date):
            out.append(tag("pubDate", _mail_date(entry.date[:10])))
        if entry.authors:
            out.append(tag("dc:creator", ", ".join(entry.authors)))
        out.append("</item>\n")
    return "".join([*out, "</channel>\n</rss>\n"])


def _page(entries: list[Entry], title: str, day: str, categories: Sequence[str]) -> str:
    digest = markdown_toc.compose(entries, categories)
    originals = {id_: entry for entry in entries if (id_ := entry.key)}
    heading = escape(seen(" · ".join(filter(None, (title, day if day not in title else "")))))
    out = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n<ul>\n"
    ]
    for place, section in enumerate(digest.sections):
        out.append(f'<li><a href="#c{place}">{escape(seen(section.category))}</a> ({section.entries})</li>\n')
    out.append("</ul>\n")
    at = 0
    for place, section in enumerate(digest.sections):
        out.append(f'<h2 id="c{place}">{escape(seen(section.category))}</h2>\n')
        out += [_article(originals.get(entry.key, entry)) for entry in digest.entries[at : at + section.entries]]
        at += section.entries
    return "".join([*out, "</main>\n</body>\n</html>\n"])


def _article(entry: Entry) -> str:
    title = escape(seen(entry.title or entry.title_zh or entry.id))
    link = safe_address(entry.abs_url or entry.pdf_url)
    named = f'<a href="{escape(link)}">{title}</a>' if link else title
    out = [f'<article>\n<h3 dir="auto">{named}</h3>\n']
    if entry.title and entry.title_zh:
        out.append(f'<p lang="zh">{escape(seen(entry.title_zh))}</p>\n')
    out.append(f'<p class="by"><bdi>{escape(seen(", ".join(entry.authors)))}</bdi></p>\n')
    language = f' lang="{entry.summary_language}"' if entry.summary_language in {"zh", "en"} else ""
    if entry.tldr:
        out.append(f'<p{language} dir="auto">{escape(seen(entry.tldr))}</p>\n')
    told = [(name, value) for name in SUMMARY_FIELDS[1:] if (value := getattr(entry, name))]
    if told or entry.abstract or entry.abstract_zh:
        out.append("<details>\n<summary>Details</summary>\n")
        if told:
            rows = "".join(f'<dt>{_NAMES[n]}</dt><dd{language} dir="auto">{escape(seen(v))}</dd>\n' for n, v in told)
            out.append(f"<dl>\n{rows}</dl>\n")
        for text, lang in ((entry.abstract, ""), (entry.abstract_zh, ' lang="zh"')):
            out += [f'<p{lang} dir="auto">{escape(seen(part))}</p>\n' for part in paragraphs(text or "")]
        out.append("</details>\n")
    return "".join([*out, "</article>\n"])


def _mail_date(day: str) -> str:
    try:
        return format_datetime(datetime.combine(date.fromisoformat(day), time(), UTC))
    except ValueError:
        return ""


def _bibtex_key(entry: Entry) -> str:
    surname = _ascii((entry.authors[0].split() or ["anon"])[-1]) if entry.authors else "anon"
    words = (_ascii(word) for word in re.findall(r"\w+", entry.title or ""))
    word = next((word for word in words if len(word) > 1 and word not in _SMALL_WORDS), "")
    return f"{surname or 'anon'}{_year(entry)}{word}"


def _year(entry: Entry) -> str:
    day = entry.date or month_of(entry.id)
    return day[:4] if re.match(r"\d{4}", day) else ""


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def _tex(text: str) -> str:
    """Escape what TeX would stumble over outside of formulas; braces that do not pair are left out."""
    text = " ".join(seen(text).split())

    def one(match: re.Match[str]) -> str:
        return match[1] or match[2] or "\\" + match[3]

    text = _TEX_SPECIAL.sub(one, text)
    if text.count("$") - text.count(r"\$") & 1:
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return text if _paired(text) else re.sub(r"(?<!\\)[{}]", "", text).rstrip("\\")


def _tex_name(name: str) -> str:
    """A name with a comma or " and " in it is held together by braces."""
    name = _tex(name)
    return f"{{{name}}}" if "," in name or re.search(r"\band\b", name) else name


def _paired(text: str) -> bool:
    depth = 0
    for char in re.sub(r"\\.", "", text):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0 and not re.search(r"(?<!\\)(?:\\\\)*\\$", text)
