"""The page: whole in itself, readable without seeing, and drawn by a browser without a word of complaint."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from policypress.errors import PolicypressError
from policypress.studies.report.write import write_report
from policypress.studies.store import Store
from studies.report.whole import PAPER, whole

pytest.importorskip("vl_convert")
CHROMIUM = shutil.which("chromium")
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "paper.csv").write_text(PAPER)
    with Store(whole(folder)) as store:
        size = write_report(store, folder / "report.html", "html", folder / "paper.csv")
    assert size == (folder / "report.html").stat().st_size
    return folder / "report.html"


class Read(HTMLParser):
    """What stands where in a page, and which tags are not closed."""

    EMPTY = ("meta", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_it_asks_for_nothing_and_is_small(written: Path) -> None:
    text = written.read_text()
    read = Read(re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1</script>", text))
    assert written.stat().st_size <= MOST_BYTES
    targets = [value for _, attributes in read.tags for name in ("src", "href") if (value := attributes.get(name))]
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert "default-src 'none'" in text
    assert "url(" not in text.partition("</style>")[0]


def test_it_is_read_without_seeing(written: Path) -> None:
    text = written.read_text()
    read = Read(re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1</script>", text))
    assert read.open == []
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(set(identities)) == len(identities)
    named = {value for _, attributes in read.tags for value in [attributes.get("aria-labelledby")] if value}
    linked = {str(attributes["href"])[1:] for attributes in read.all("a")}
    assert named | linked <= set(identities)
    assert read.all("a")[0]["class"] == "skip"
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(one["alt"] and str(one["src"]).startswith("data:image/jpeg;base64,") for one in read.all("img"))
    assert len(read.all("img")) == 10
    figures, tables = len(read.all("figure")) - 10, len(read.all("table"))
    assert len([one for one in read.all("div") if one.get("role") == "img" and one.get("aria-label")]) == figures
    assert len(read.all("caption")) == tables >= figures
    assert len(read.all("details")) == figures + 1  # the words of the run that failed
    assert read.all("html")[0]["lang"] == "en"


def test_words_of_runs_cannot_become_part_of_the_page(written: Path) -> None:
    text = written.read_text()
    assert "<Hopper>" not in text
    assert "&lt;Hopper&gt;" in text
    assert "<title>toys &amp; &lt;others&gt;</title>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (400, True)])
def test_a_browser_draws_every_chart(written: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """Some seconds each: a browser starts."""
    text = written.read_text()
    head, _, tail = text.rpartition("</body>")
    told = """<script>addEventListener("load", () => setTimeout(async () => {
        const right = [...document.querySelectorAll("body *:not(.table *):not(nav *):not(#tip)")]
            .map((one) => one.getBoundingClientRect().right);
        const drawn = [...document.querySelectorAll("svg.marks")]
            .filter((one) => one.getBoundingClientRect().width > 200);
        const asked = performance.getEntriesByType("resource").length;
        const figure = document.querySelector("[aria-labelledby=bytes] figure");
        const symbol = figure.querySelector(".mark-symbol path");
        const {left: clientX, top: clientY} = symbol.getBoundingClientRect();
        for (const name of ["pointermove", "mousemove"]) {
            symbol.dispatchEvent(new MouseEvent(name, {bubbles: true, clientX, clientY}));
        }
        const hovered = document.getElementById("tip").textContent.includes("policypress train --algo=sac");
        const button = figure.querySelector(".legend button");
        button.click();
        await new Promise((done) => setTimeout(done, 500));
        const dim = figure.querySelectorAll('.mark-symbol path[opacity="0.1"]').length;
        const all = figure.querySelectorAll(".mark-symbol path").length;
        document.documentElement.dataset.told = [Math.max(...right), drawn.length, asked,
            getComputedStyle(document.body).backgroundColor, hovered, button.getAttribute("aria-pressed"),
            all - dim].join("|");
    }, 1000))</script>"""
    # Windows of a browser without a screen are at least 500 pixels wide.
    (tmp_path / "page.html").write_text(f"{head}<style>html {{ max-width: {width}px }}</style>{told}</body>{tail}")
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=5000"),
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            *("--dump-dom", (tmp_path / "page.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    found = re.search('data-told="([^"]*)"', done.stdout)
    assert found is not None
    right, drawn, asked, ground, hovered, pressed, left = found[1].split("|")
    assert float(right) <= width
    assert int(drawn) == text.count("<figure data-chart=")
    assert int(asked) == 0
    assert ground == ("rgb(20, 22, 26)" if dark else "rgb(251, 251, 250)")
    assert (hovered, pressed) == ("true", "true")
    assert int(left) == 2  # the two runs of the method that was picked
    assert "NaN" not in "".join(re.findall(' d="([^"]*)"', done.stdout))


def test_without_the_extra_it_says_what_to_install(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(extra: str) -> None:
        raise PolicypressError(f"this needs {extra}")

    monkeypatch.setattr("policypress.studies.report.write.require", require)
    with Store(written.parent / "study") as store, pytest.raises(PolicypressError, match="this needs report"):
        write_report(store, tmp_path / "r.html", "html")
    assert not (tmp_path / "r.html").exists()
