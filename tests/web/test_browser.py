"""The pages in headless Chromium: nothing runs that should not, everybody can use them; and pictures to look at.

Screenshots go to the folder that ASSAY_SCREENSHOTS names, else to a temporary one.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.web.conftest import CONTRADICTED, DAY, HOSTILE, SUPPORTED, evidence, verdict

from assay.lab import record
from assay.web import figures, library, site
from assay.web.addresses import paper_path

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = os.environ.get("ASSAY_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `apt-get install chromium` brings it")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
KINDS = {
    "start": "",
    "day": f"day/{DAY}/2/",
    "chinese": f"zh/day/{DAY}/",
    "hostile": "day/2026-02-06/",
    "days": "days/",
    "search": "search/?q=diffusion&category=eess.IV",
    "nothing": "search/?q=nosuchword",
    "paper": paper_path(SUPPORTED),
    "contradicted": paper_path(CONTRADICTED),
    "planned": paper_path("2602.06938"),
    "stranger": paper_path(HOSTILE.key),
    "area": "area/labels/",
    "overview": "overview/",
    "claims": "claims/",
    "trends": "trends/",
    "missing": "nope/",
}
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=180_000)
        yield browser
        browser.close()


@pytest.fixture
def served(home, monkeypatch):
    """Address of a running server."""
    import uvicorn

    from assay.web.app import create_app

    monkeypatch.setattr(library, "PER_PAGE", 6)
    record.write(evidence(CONTRADICTED, [verdict("C1", "contradicted", -0.2), verdict("C2", "inconclusive", 0.0)]))
    (home / "figures").mkdir()
    for row in library.Library(home / "x").judged:
        (home / "figures" / f"{figures.stem_of(row.state.summary)}.png").write_bytes(_picture())
    monkeypatch.setattr(figures, "draw", lambda papers: None)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(home / "digests.sqlite"), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.fixture
def static(home, tmp_path):
    """Address of a plain file server under whose folder `pages/` the static site lies."""
    site.build(home / "digests.sqlite", tmp_path / "web" / "pages", with_figures=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/pages/"
        server.shutdown()


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    named = os.environ.get("ASSAY_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Watched:
    """A browser page that remembers complaints, dialogs and requests to elsewhere."""

    def __init__(self, browser, base: str, **options):
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(120_000)  # of a busy machine
        self.page = self.context.new_page()
        self.base = base
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._note)

    def _note(self, request):
        if not request.url.startswith((self.base, "data:")):
            self.complaints.append(f"request to {request.url}")

    def go(self, path: str):
        self.page.goto(self.base + path)
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_kind_of_page_is_quiet_fits_its_screen_and_is_usable_by_all(chromium, served, shots, size, scheme):
    with Watched(chromium, served, viewport=SIZES[size], color_scheme=scheme) as watched:
        for kind, path in KINDS.items():
            page = watched.go(path)
            page.screenshot(path=shots / f"{kind}-{size}-{scheme}.png")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                f"{kind} is wider than its screen"
            )
            page.evaluate("document.querySelectorAll('details').forEach((d, i) => { d.open = i < 4; })")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{kind}, opened, is too wide"
            found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            grave = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in {"serious", "critical"}]
            assert not grave, (kind, grave)
            told = [c for c in watched.complaints if not (kind == "missing" and "404" in c)]
            assert not told, (kind, told)
            watched.complaints.clear()


def test_the_policy_holds_where_escaping_would_fail(chromium, served):
    """Markup that got into a page against all care still runs nothing and loads nothing."""
    with Watched(chromium, served) as watched:
        page = watched.go("")
        page.evaluate("""() => {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title='run'\\">"
                + "<a id=bad href=\\"javascript:document.title='run'\\">x</a><p id=styled style='color:red'>x</p>");
            const script = document.createElement("script");
            script.textContent = "document.title = 'run'";
            document.body.append(script);
        }""")
        page.click("#bad")
        page.wait_for_timeout(200)
        assert page.title() != "run"
        assert page.evaluate("getComputedStyle(document.getElementById('styled')).color") != "rgb(255, 0, 0)"


def test_search_as_you_type(chromium, served):
    with Watched(chromium, served) as watched:
        page = watched.go(f"day/{DAY}/2/")
        page.fill("input[name=day]", "") if page.is_visible("input[name=day]") else page.evaluate(
            "document.querySelector('input[name=day]').value = ''"
        )
        page.locator("#q").press_sequentially("worldsh", delay=20)
        sync_api.expect(page.locator("#results article")).to_have_count(1, timeout=60_000)
        assert "An old identifier" in page.inner_text("#results")
        assert "1 papers" in page.inner_text("#found")
        page.click("#results h2 a")
        page.wait_for_load_state()
        assert page.url.endswith("paper/hep-th_2f9901001/")
        assert not watched.complaints


def test_hostile_words_typed_are_only_words(chromium, served):
    with Watched(chromium, served) as watched:
        page = watched.go("search/")
        page.fill("#q", "<img src=x onerror=alert(1)> hostile")
        page.wait_for_timeout(800)
        page.fill("#q", "hostile")
        sync_api.expect(page.locator("#results article")).to_have_count(1, timeout=60_000)
        assert "<script>alert(1)</script>" in page.inner_text("#results")
        page.keyboard.press("Enter")
        page.wait_for_load_state("networkidle")
        assert not watched.complaints


def test_without_javascript_everything_is_there(chromium, served):
    with Watched(chromium, served, java_script_enabled=False) as watched:
        page = watched.go("")
        page.fill("#q", "diffusion")
        page.click("summary:has-text('Filters')")
        page.fill("input[name=author]", "Grace Hopper3")
        page.fill("input[name=category]", "eess.IV")
        page.click("button:has-text('Search')")
        page.wait_for_load_state()
        assert "search/?" in page.url
        assert 1 <= page.locator("#results article").count() <= 6
        page.locator("#results article details summary").first.click()
        assert page.locator("#results article details p").first.is_visible()
        page.goto(served + "search/?q=diffusion")
        page.click("a[rel=next]")
        assert "page=2" in page.url
        page.click("a[hreflang=zh]")
        assert "/zh/search/" in page.url
        assert "用于图像分割" in page.inner_text("#results")
        assert not watched.complaints


def test_by_keyboard_alone(chromium, served):
    with Watched(chromium, served) as watched:
        page = watched.go("claims/")
        page.keyboard.press("Tab")
        skip = page.locator(".skip")
        assert skip.evaluate("e => e === document.activeElement")
        assert skip.bounding_box()["x"] >= 0, "seen once it has the focus"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page = watched.go(f"day/{DAY}/")
        summary = page.locator("#results details summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert page.locator("#results details[open]").count() == 1
        reached = set()
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.tagName"))
        assert reached >= {"A", "SUMMARY"}


def test_the_static_site_in_a_folder(chromium, static, shots):
    with Watched(chromium, static) as watched:
        page = watched.go("")
        page.click("a:has-text('Search')")
        page.fill("#q", "worldsheet")
        sync_api.expect(page.locator("#results article")).to_have_count(1, timeout=60_000)
        page.screenshot(path=shots / "static-search.png")
        page.click("#results a")
        page.wait_for_load_state()
        assert "An old identifier" in page.inner_text("h1")
        page = watched.go("search/?q=known&verdict=stale")
        sync_api.expect(page.locator("#results article")).to_have_count(1, timeout=60_000)
        assert "real data" in page.inner_text("#results")
        page = watched.go(f"zh/day/{DAY}/2/")
        page.fill("#q", "hostile")
        page.press("#q", "Enter")
        page.wait_for_timeout(500)
        assert page.url.endswith(f"zh/day/{DAY}/2/")
        assert not watched.complaints


def test_the_static_site_without_javascript(chromium, static):
    with Watched(chromium, static, java_script_enabled=False) as watched:
        page = watched.go("search/")
        assert "searching needs JavaScript" in page.inner_text("form")
        seen = set()
        while True:
            seen |= {link.get_attribute("href") for link in page.locator("#results .title a").all()}
            if not page.locator("#results a[rel=next]").count():
                break
            page.click("#results a[rel=next]")
        assert len(seen) >= 107
        assert not watched.complaints


def _picture() -> bytes:
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure, out = Figure(figsize=(6, 3)), io.BytesIO()
    figure.subplots().plot([0, 1, 2], [0, 1, 4])
    figure.savefig(out, format="png")
    return out.getvalue()
