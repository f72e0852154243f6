"""The pages of a run and of a study: what is on them, and what a real browser makes of it."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from pages import Page, records
from runs import flags, small_config

from gs_modules.train import cli
from gs_modules.train.chart import Line, line_chart
from gs_modules.train.config import to_yaml
from gs_modules.train.config_file import load
from gs_modules.train.page import document, section, table, text
from gs_modules.train.pictures import Pictures
from gs_modules.train.report import run_page
from gs_modules.train.tune.study_page import study_page

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

SHORT = {
    "training__steps": 30,
    "training__evaluate_every": 10,
    "training__checkpoint_every": 10,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose name must be escaped."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "small.yaml"
    config.write_text("")
    path = folder / 'a <b> & "c"'
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert cli.main(["train", str(config), "--run-dir", str(path), *flags(**SHORT)]) == 0
    return path


def test_the_page_of_a_run_shows_its_numbers_and_its_config(run):
    page = Page((run / "report.html").read_text())
    assert page.texts["h1"] == page.texts["title"][:1] == [run.name]  # others name points
    assert page.texts["h2"] == [
        "At a glance",
        "Over the steps",
        "Reconstructions",
        "Samples",
        "A walk through single latents",
        "Use of the codes",
        "All figures",
        "Config",
        "Parameters",
    ]
    assert (run / "config.yaml").read_text() in page.texts["pre"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters_sha256"] in page.texts["pre"][-1]
    for split in ("train", "validation", "test"):
        assert {f"{summary[split][key]:.2f}" for key in ("neg_elbo", "kl")} <= {*page.texts["td"]}
    assert any("finished" in said and "unfinished" not in said for said in page.texts["p"])


def test_the_page_of_a_run_needs_nothing_but_itself(run):
    content = (run / "report.html").read_text()
    page = Page(content)
    links = [a for _, attributes in page.elements for a in attributes.items()]
    addresses = [value for name, value in links if name in ("src", "href", "srcset", "action")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not re.search(r"@import|url\(|https?://", content)
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed"}
    assert all(image["alt"] for image in page.attributes("img"))
    assert all(drawing["aria-label"] for drawing in page.attributes("svg"))


def test_a_page_escapes_what_it_is_given():
    hostile = "<script>alert(1)</script>&\"'"
    page = Page(
        document(
            hostile,
            hostile,
            [
                section(hostile, text(hostile), note=hostile),
                table([hostile], [[hostile, hostile]]),
                line_chart(hostile, [Line(hostile * n, n, [(0, 1.0)]) for n in (1, 2)]),
            ],
        )
    )
    assert "script" not in {tag for tag, _ in page.elements}
    for tag in ("title", "h1", "h2", "p", "pre", "th", "td", "figcaption", "li"):
        assert "".join(page.texts[tag][:1]) == hostile
    assert page.attributes("svg")[0]["aria-label"].startswith(hostile)


@pytest.mark.parametrize(
    ("steps", "state"), [([], "at step 0 of 30"), ([10, 20], "at step 20 of 30")]
)
def test_the_page_of_an_unfinished_run_says_so(steps, state):
    shown = Pictures(
        originals=np.zeros((4, 10, 4)),
        reconstructed=np.zeros((4, 10, 4)),
        sampled=np.zeros((8, 10, 4)),
        walk=np.zeros((3, 5, 4)),
        counts=np.ones((3, 4), int),
        image_shape=(2, 2),
    )
    config = small_config(**SHORT)
    page = run_page("run", config, records(steps), shown, step=0, sha256="0" * 64)
    assert f"unfinished, {state}" in " ".join(Page(page).texts["p"])


def test_an_evaluation_of_these_parameters_is_on_the_page_and_no_other(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert cli.main(["evaluate", str(copy), "--samples", "20"]) == 0
    found = json.loads((copy / "evaluation.json").read_text())["test"]
    cell = f"{found['neg_importance_weighted']:.2f}"
    assert cell in Page((copy / "report.html").read_text()).texts["td"]
    stale = {"validation": {**found, "split": "validation", "parameters_sha256": "0" * 64}}
    (copy / "evaluation.json").write_text(json.dumps(stale))
    assert cli.main(["evaluate", str(copy), "--samples", "20"]) == 0
    headings = Page((copy / "report.html").read_text()).texts["th"]
    assert [text for text in headings if "samples an image" in text] == [
        "test, 20 samples an image"
    ]


STUDY = {
    "study": "a <study>",
    "trials": [
        {
            "number": number,
            "state": "pruned" if bound is None else "complete",
            "reason": "at step 10" if bound is None else None,
            "bound": bound,
            "step": None if bound is None else 30,
            "seconds": 90.0,
            "params": {"temperature.end": end},
            "bounds": {"10": 30.0 - number, "30": bound or 25.0},
        }
        for number, (bound, end) in enumerate([(22.5, 0.2), (None, 0.3), (21.25, 0.4), (23.0, 0.5)])
    ],
    "importance": {"temperature.end": 0.75, "optimizer.learning_rate": 0.25},
}


def configs_of(study):
    """Of the complete trials, the best first."""
    complete = [trial for trial in study["trials"] if trial["bound"]]
    return {
        trial["number"]: load(None, [(key, str(value)) for key, value in trial["params"].items()])
        for trial in sorted(complete, key=lambda trial: trial["bound"])
    }


def test_the_page_of_a_study_shows_what_was_best_and_what_was_tried():
    configs = configs_of(STUDY)
    content = study_page(STUDY, configs, "study:\n  trials: 4\n")
    page = Page(content)
    assert page.texts["h1"] == ["a <study>"]
    assert page.texts["dd"] == ["21.250", "2", "4", "3", "6"]  # minutes: four times 90 s
    assert page.texts["pre"] == [to_yaml(configs[2]), "study:\n  trials: 4\n"]
    assert page.texts["summary"] == ["all 4 trials"]
    rows = [text for text in page.texts["th"] if text.isdecimal()]
    assert rows == ["2", "0", "3", "0", "1", "2", "3"]  # the best, then all
    assert "pruned: at step 10" in page.texts["td"]
    assert {"75%", "25%"} <= {*page.texts["td"]}
    best_so_far = [
        float(value) for value in re.findall(r"best so far, trial \d: ([\d.]+)", content)
    ]
    assert best_so_far == [22.5, 21.25, 21.25]
    lasts = [chart["aria-label"].partition("last: ")[2] for chart in page.attributes("svg")]
    assert lasts[1] == "trial 3 23, trial 0 22.5, trial 2, the best 21.25"
    # exp(-1.8), at step 9000, is below where each is held.
    assert lasts[2] == "trial 3 0.5, trial 0 0.2, trial 2, the best 0.4"


def test_the_page_of_a_study_without_a_complete_trial_says_so():
    page = Page(study_page({"study": "s", "trials": [], "importance": {}}, {}, "study: {}\n"))
    assert "Study of 0 trials: none yet." in page.texts["p"]
    assert "Best config" not in page.texts["h2"]


def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    names = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    return playwright.sync_playwright, found


def channel(value):
    value /= 255
    return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4


def contrast(one, other):
    """The contrast ratio of two colours as the Web Content Accessibility Guidelines define it."""
    luminances = [
        float(np.dot([0.2126, 0.7152, 0.0722], [channel(float(c)) for c in colour[:3]]))
        for colour in (re.findall(r"[\d.]+", one), re.findall(r"[\d.]+", other))
    ]
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


MEASURE = """() => ({
    fits: document.documentElement.scrollWidth <= innerWidth,
    images: [...document.images].map(image => image.naturalWidth * image.clientHeight),
    charts: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
    letters: [...document.querySelectorAll("svg")].map(svg => svg.getScreenCTM().a * 12),
    ground: getComputedStyle(document.body).backgroundColor,
    inks: ["h1", "p", "dt", "dd", "pre", "th", "td"].map(
        name => getComputedStyle(document.querySelector(name)).color),
})"""


@pytest.fixture
def pages(run, tmp_path):
    """The addresses of a run's page and a study's, with the pictures and charts on them."""
    study = tmp_path / "study.html"
    study.write_text(study_page(STUDY, configs_of(STUDY), "study:\n  trials: 4\n"))
    return {"run": (run / "report.html", 4, 6), "study": (study, 0, 3)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["run", "study"])
def test_a_browser_renders_the_page_and_fetches_nothing(name, scheme, width, pages):
    start, executable = browser()
    file, images, charts = pages[name]
    said, requested = [], []
    with start() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable)
        page = chromium.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, locale="en"
        )
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(file.as_uri())
        seen = page.evaluate(MEASURE)
        chromium.close()
    assert said == [] and requested == [file.as_uri()]
    assert seen["fits"]
    assert len(seen["images"]) == images and all(seen["images"])
    assert len(seen["charts"]) == charts and min(seen["charts"]) > 100
    assert min(seen["letters"]) > 9  # pixels: the size of the letters in a chart
    assert min(contrast(ink, seen["ground"]) for ink in seen["inks"]) >= 4.5
    is_dark = contrast(seen["ground"], "rgb(0, 0, 0)") < contrast(
        seen["ground"], "rgb(255,255,255)"
    )
    assert is_dark == (scheme == "dark")
