"""The report of a ranking: what the page says, that it needs nothing else, and what a browser makes of it."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from torch_trf import Score
from torch_trf.metrics import HScore, LogME, as_metric, as_metrics
from torch_trf.ranking import Ranking, Result
from torch_trf.ranking._report import Axis, write_report

HEIGHT, WIDTH = 46, 76  # patches of 3 x 3 pixels: 15 x 25 of them, and one row and column of pixels in none
MAP = [[(row - column) / 10 for column in range(25)] for row in range(15)]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "'; </style></pre><b>")


def scored(name, logme, hscore, **options):
    """A candidate with scores by two metrics, in two samples each."""
    by_class = options.pop("by_class", {"logme": (0.5, -0.25, None)})
    given = {"logme": logme, "hscore": hscore} | options.pop("others", {})
    scores = {
        metric: Score(
            score=score,
            values=(score - 0.01, score + 0.01),
            pixels=1234,
            unit="somethings",
            by_class=by_class.get(metric),
        )
        for metric, score in given.items()
    }
    fields = {"scores": scores, "map": MAP, "settings": {"layer": "neck"}, "seconds": {}}
    return Result(name=name, **fields | options)


def failed(name, failure):
    return Result(name=name, scores={}, map=None, settings={}, seconds={}, failure=failure)


def ranked(*results, metrics=("logme", "hscore"), map_metric="leep"):
    """Three candidates whose order differs by name and by either metric, unless others are given."""
    results = results or (scored("run-2", -0.2, 10.5), scored("run-10", 0.3, 9.5), scored("vit", -0.1, 0.5))
    target = {"dataset": {"class_path": "made.Up", "init_args": {"split": "val"}}, "num_classes": 3}
    metrics, map_metric = as_metrics(metrics), as_metric(map_metric)
    return Ranking(results=results, metrics=metrics, by=metrics[0].name, map_metric=map_metric, target=target, shown=0)


@pytest.fixture
def sample():
    """A gray image whose rows are labeled 0, 1, and ignored."""
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    labels[20:] = 1
    labels[40:] = 255
    return torch.full((3, HEIGHT, WIDTH), 128, dtype=torch.uint8), labels


@pytest.fixture
def written(tmp_path, sample):
    """Writes the report of candidates and returns its path."""

    def write(*results, class_names=None, **options):
        path = tmp_path / "report.html"
        write_report(ranked(*results, **options), *sample, path, class_names)
        return path

    return write


def sha256(text):
    """As a policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


class Page(HTMLParser):
    """What a page consists of: its tags, with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.source = [], [], path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag, **attributes):
        """The attributes of every such tag."""
        return [each for name, each in self.tags if name == tag and attributes.items() <= each.items()]

    def maps(self):
        """The candidates' maps as arrays `[rows, columns, 4]`."""
        shown = [each["src"] for each in self.all("img") if each["alt"].startswith("Map of ")]
        return [np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in shown]


def test_the_page_says_what_was_ranked(written):
    page = Page(written(failed("gone", "gone.pt: no such file")))
    assert "No candidate has a score by logme (nats; higher is better)" in page.text
    page = Page(written(scored("a", 0.1, 1.0), failed("gone", "gone.pt: no such file"), scored("b", -0.2, 12.0)))
    assert "b ranks first" not in page.text
    assert "a ranks first of 2 by logme (nats; higher is better)" in page.text
    assert (
        "Target Up(split=val) Classes 3 Candidates 3, of which 1 failed Pixels 1,234 in each of 2 samples" in page.text
    )
    assert page.text.index("gone : gone.pt: no such file") < page.text.index("Metric")
    assert "0.1000 ± 0.0141" in page.text
    assert "−0.2000 ± 0.0141" in page.text
    assert "Failed" not in Page(written()).text


def test_the_page_needs_nothing_else(written):
    page = Page(written(scored("a", 0.1, 1.0), failed("gone", "no")))
    assert not re.search("https?:|//|@import|@font-face", re.sub('base64,[^")]*|//.*$', "", page.source, flags=re.M))
    addresses = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    addresses += re.findall(r"url\(([^)]*)", page.source)
    assert len(addresses) == 4  # sample image, labels, map, color bar
    assert all(address.startswith("data:image/") for address in addresses)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    hashes = [sha256(re.search(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)[1]) for tag in ("style", "script")]
    sources = "img-src data:; style-src '{}'; script-src '{}'".format(*hashes)
    assert policy["content"] == f"default-src 'none'; {sources}"
    assert not [attributes for _, attributes in page.tags if "style" in attributes]  # of which no hash would tell


def test_the_sample_image_is_there_once(written):
    page = Page(written())
    assert page.source.count("data:image/jpeg") == 1
    assert len(page.maps()) == 3


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1 / 255), (torch.int32, 2**23)])
def test_images_of_any_type_look_alike(written, tmp_path, sample, dtype, scale):
    image, labels = sample
    write_report(ranked(), image.to(dtype) * scale, labels, tmp_path / "other.html")
    assert (tmp_path / "other.html").read_bytes() == written().read_bytes()


def test_the_same_ranking_gives_the_same_bytes(written):
    first = written().read_bytes()
    assert written().read_bytes() == first


def test_text_of_users_is_never_markup(written):
    name, failure, setting = HOSTILE
    path = written(
        scored(name, 0.1, 1.0, settings={failure: setting}),
        scored(failure, 0.2, 1.0, map=None),
        failed(setting, name),
        class_names=HOSTILE,
    )
    page = Page(path)
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert not page.all("b", onerror="alert(1)")
    assert not [attributes for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert all(text in page.text for text in HOSTILE)
    assert f"Map of {name} over the sample image" in [each["alt"] for each in page.all("img")]


def test_maps_share_one_scale_of_colors(written):
    brighter = [[value + 1 for value in row] for row in MAP]
    dark, bright = Page(written(scored("dark", 0.2, 1.0), scored("bright", 0.1, 1.0, map=brighter))).maps()
    maps = np.array([MAP, brighter])
    low, high = np.percentile(maps, (1, 99))
    expected = colormaps["viridis"]((maps - low) / (high - low), bytes=True)
    np.testing.assert_array_equal(np.stack([dark, bright]), expected)


def test_patches_without_a_value_are_clear(written):
    with_hole = [[None if (row, column) == (3, 4) else 0.5 for column in range(25)] for row in range(15)]
    page = Page(written(scored("a", 0.2, 1.0, map=with_hole)))
    clear = page.maps()[0][..., 3] == 0
    assert np.argwhere(clear).tolist() == [[3, 4]]
    assert "too few labeled pixels are left clear" in page.text
    assert "left clear" not in Page(written()).text


def test_candidates_without_a_map_say_why(written):
    page = Page(written(scored("a", 0.2, 1.0), scored("b", 0.1, 1.0, map=None)))
    assert "no class scores: give logits_layer b" in page.text
    assert len(page.maps()) == 1
    page = Page(written(scored("b", 0.1, 1.0, map=None)))
    assert "of a patch" not in page.text


def test_the_map_is_called_by_its_metric(written):
    text = Page(written()).text
    assert "Each candidate's leep over one image, in patches of 3 × 3 pixels, by one scale of colors" in text
    assert "leep looks at pixels twice: first at the drawn pixels, then at each patch." in text
    assert "leep of a patch, nats; higher is better" in text
    text = Page(written(map_metric=HScore(rcond=0.1))).text
    assert "Each candidate's hscore over one image, in patches of 3 × 3 pixels, by one scale of colors" in text
    assert "hscore of a patch, directions; higher is better" in text


def test_a_single_sample_has_no_spread(written):
    alone = {"logme": Score(score=0.5, values=(0.5,), pixels=10, unit="nats")}
    page = Page(written(scored("a", 0.0, 0.0, scores=alone), metrics=("logme",)))
    assert not page.all("line", **{"class": "deviation"})
    assert "Pixels 10 Scores" in page.text
    assert "0.5000 ±" not in page.text
    assert len(Page(written()).all("line", **{"class": "deviation"})) == 6


def test_scores_by_class(written):
    leep = {"logme": (0.5, -0.25, None), "leep": (-1.0, -2.0, None)}
    a = scored("a", 0.1, 1.0, others={"leep": -1.5}, by_class=leep)
    b = scored("b", 0.2, 1.0, others={"leep": -1.0}, by_class={"logme": (1.5, 0.5, None)})
    page = Page(written(a, b, metrics=("logme", "hscore", "leep")))
    assert "class b a class 0 1.5000 0.5000 class 1 0.5000 −0.2500 class 2 – –" in page.text
    assert "class a class 0 −1.0000 class 1 −2.0000 class 2 –" in page.text
    assert "The score of each class, of which logme is the mean, in nats." in page.text
    assert "The mean over the pixels of each class; leep is the mean over all pixels, in nats." in page.text
    places = [each["class"] for each in page.all("td") if "class" in each]
    assert places[:4] == ["at100", "at43", "at43", "at0"]
    assert "sky 0.5000" in Page(written(class_names=["sky", "road", "car"])).text
    assert "Scores by class" not in Page(written(scored("a", 0.1, 1.0, by_class={}))).text


class OfSomebody(LogME):
    """A metric of another package."""

    name, unit, mean_over = "theirs", "points", "classes"


def test_metrics_of_others_are_called_by_their_units(written):
    theirs = scored("a", 0.1, 1.0, others={"theirs": 7.0}, by_class={"theirs": (6.0, 8.0, None)})
    text = Page(written(theirs, metrics=(OfSomebody(), "logme", "hscore"), map_metric=OfSomebody())).text
    assert "a ranks first of 1 by theirs (points; higher is better)" in text
    assert "theirs , points; higher is better" in text
    assert "The score of each class, of which theirs is the mean, in points." in text
    assert "theirs of a patch, points; higher is better" in text


def test_the_legend_names_the_classes_of_the_image(written):
    assert "class 0 class 1 ignored" in Page(written()).text


def test_names_of_classes_may_stand_in_the_settings(tmp_path, sample):
    ranking = ranked()
    named = replace(ranking, target=ranking.target | {"class_names": ["sky", "road", "car"]})
    write_report(named, *sample, tmp_path / "report.html")
    assert "sky road ignored" in Page(tmp_path / "report.html").text


def test_settings_and_versions(written):
    page = Page(written())
    assert '"layer": "neck"' in page.text
    assert '"torch": ' in page.text


def test_what_a_screen_reader_needs(written):
    page = Page(written())
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("title")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(each["alt"] for each in page.all("img"))
    assert all(attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") in ("img", "region"))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(written, scheme):
    block = re.findall(r"--paper: [^}]*", Page(written()).source)[scheme]
    color = {name: np.array(list(bytes.fromhex(value * (6 // len(value))))) for name, value in _colors(block)}
    heated = 0.45 * color["accent"] + 0.55 * color["paper"]
    pairs = [(text, ground) for text in ("ink", "muted", "accent", "alarm") for ground in ("paper", "wash")]
    assert all(_contrast(color[text], color[ground]) >= 4.5 for text, ground in pairs)
    assert _contrast(color["ink"], heated) >= 4.5


def _colors(block):
    return re.findall(r"--(\w+): #(\w+)", block)


def _contrast(one, other):
    """As WCAG 2 defines it."""
    parts = np.stack([one, other]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([-2.3, -0.4], ["−2.0", "−1.5", "−1.0", "−0.5"]),
        ([0.0, 1200.0], ["0", "500", "1,000"]),
        ([-7e-18], ["−0.0004", "−0.0002", "0.0000", "0.0002", "0.0004"]),
        ([], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_round(values, labels):
    axis = Axis.over(values)
    assert [label for _, label in axis.ticks] == labels
    assert all(0 <= float(place.rstrip("%")) <= 100 for place, _ in axis.ticks)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(3, 5, 6)}, r"an image of \[5, 6\] pixels with labels on \[46, 76\]"),
        ({"class_names": ["sky"]}, "1 class_names for num_classes=3"),
        ({"labels": torch.full((HEIGHT, WIDTH), 3)}, r"label 3 is outside \[0, 3\) and not 255"),
        (
            {"ranking": ranked(scored("a", 0.0, 0.0, map=[[0.0]]))},
            "a: its map has 1 x 1 patches.*46 x 76 pixels 15 x 25",
        ),
    ],
)
def test_what_does_not_fit_together_is_an_error(tmp_path, sample, change, message):
    given = {"ranking": ranked(), "image": sample[0], "labels": sample[1], "path": tmp_path / "report.html"}
    with pytest.raises(ValueError, match=message):
        write_report(**given | change)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Opens a page in a browser without a window, and returns what it printed."""
    browsers = [path for name in BROWSERS if (path := shutil.which(name))]
    if not browsers:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}")

    def run(path, *options, complains=False):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000", "--enable-logging=stderr"]
        profile = f"--user-data-dir={tmp_path_factory.getbasetemp() / 'browser'}"
        command = [browsers[0], *flags, profile, *options, path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert ("CONSOLE" in done.stderr) == complains, done.stderr
        return done.stdout

    return run


@pytest.fixture
def evaluate(chromium, tmp_path):
    """What JavaScript returns in a page."""

    def run(source, script, **options):
        path = tmp_path / "scripted.html"
        answer = f"document.title = JSON.stringify((() => {{ {script} }})())"
        script = f"addEventListener('load', () => {{ {answer} }})"
        source = source.replace("script-src ", f"script-src '{sha256(script)}' ", 1)  # the page would not let it run
        path.write_text(f"{source}<script>{script}</script>", encoding="utf-8")
        dump = chromium(path, "--dump-dom", **options)
        return json.loads(html.unescape(re.search("<title>(.*?)</title>", dump, re.DOTALL)[1]))

    return run


@pytest.mark.browser
def test_the_table_sorts_by_any_column(written, evaluate):
    script = """
        const button = k => document.querySelectorAll(".scores button")[k];
        const names = () => [...document.querySelectorAll(".scores tbody th")].map(each => each.textContent);
        const sorts = () => [...document.querySelectorAll(".scores th[scope=col]")].map(each => each.ariaSort);
        const seen = [[names(), sorts()]];
        for (const k of [4, 4, 1, 2, 3, 0, 0]) {
          button(k).focus();
          document.activeElement.click();
          seen.push([names(), sorts()]);
        }
        return seen;
    """
    seen = evaluate(Page(written()).source, script)
    by_logme, by_hscore, by_name = ["run-10", "vit", "run-2"], ["run-2", "run-10", "vit"], ["run-2", "run-10", "vit"]
    orders = [by_logme, by_hscore, by_hscore[::-1], by_name, by_logme, by_logme, by_logme, by_logme[::-1]]
    assert [names for names, _ in seen] == orders
    sorts = [(0, "a"), (4, "de"), (4, "a"), (1, "a"), (2, "de"), (3, "a"), (0, "a"), (0, "de")]
    for (_, directions), (column, direction) in zip(seen, sorts, strict=True):
        assert [(k, each) for k, each in enumerate(directions) if each] == [(column, f"{direction}scending")]


@pytest.mark.browser
def test_what_is_not_of_the_page_does_not_run(written, evaluate):
    """Even where a name found a way into the page's source."""
    foreign = "<script>window.ran = true</script><img src=x onerror='ran = true'><style>h1 { color: red }</style>"
    source = Page(written()).source.replace("<h1>", f"{foreign}<h1 style='opacity: 0'>")
    script = """
        const title = getComputedStyle(document.querySelector("h1"));
        return [window.ran ?? false, title.color === "rgb(255, 0, 0)", title.opacity];
    """
    assert evaluate(source, script, complains=True) == [False, False, "1"]


@pytest.mark.browser
def test_controls(written, evaluate):
    script = """
        const shown = () => [...document.querySelectorAll(".chart")].map(each => each.checkVisibility());
        const choose = (id, value) => {
          const input = document.getElementById(id);
          input.value = value;
          input.dispatchEvent(new Event("input"));
        };
        const opacity = () => getComputedStyle(document.querySelector(".sample img")).opacity;
        const dots = () => [...document.querySelectorAll(".chart:not([hidden]) circle")].map(each =>
          Math.round(each.getBoundingClientRect().x - each.closest("svg").getBoundingClientRect().x));
        const seen = [shown(), dots(), opacity()];
        choose("metric", "hscore");
        choose("opacity", 25);
        const controls = [...document.querySelectorAll(".control")].map(each => each.checkVisibility());
        return [...seen, shown(), dots(), opacity(), controls];
    """
    before, dots, opacity, after, other_dots, other_opacity, controls = evaluate(Page(written()).source, script)
    assert (before, after) == ([True, False], [False, True])
    assert dots == sorted(dots, reverse=True)  # best first, best at the right
    assert other_dots == sorted(other_dots, reverse=True)
    assert dots != other_dots
    assert (opacity, other_opacity) == ("0.6", "0.25")
    assert controls == [True, True]


@pytest.mark.browser
def test_maps_lie_over_the_pixels_of_their_patches(written, evaluate):
    script = """
        const place = element => element.getBoundingClientRect();
        const picture = document.querySelector(".map .sample");
        const under = place(picture), over = place(picture.firstChild);
        const shares = [over.width / under.width, over.height / under.height];
        return [over.x - under.x, over.y - under.y, ...shares, under.height / under.width];
    """
    x, y, width, height, shape = evaluate(Page(written()).source, script)
    assert (x, y) == (0, 0)
    assert (width, height, shape) == pytest.approx((75 / WIDTH, 45 / HEIGHT, HEIGHT / WIDTH), abs=2e-3)


@pytest.mark.browser
def test_nothing_leaves_a_narrow_page(written, evaluate):
    long = [scored(f"{'x' * 60}-{k}", k / 10, float(k)) for k in range(5)]
    source = Page(written(*long, failed("y" * 60, "z" * 60))).source
    frame = f'<title></title><iframe width="380" height="800" frameborder="0" srcdoc="{html.escape(source)}"></iframe>'
    script = """
        const { contentDocument: page, contentWindow: view } = document.querySelector("iframe");
        return [view.innerWidth, page.documentElement.scrollWidth, page.querySelectorAll("circle").length];
    """
    window, needed, dots = evaluate(frame, script)
    assert (window, dots) == (380, 10)
    assert needed <= window


@pytest.mark.browser
def test_everything_is_printed(written, evaluate):
    script = """
        const all = selector => [...document.querySelectorAll(selector)];
        return [all(".chart").map(each => each.checkVisibility()), all(".control").map(each => each.checkVisibility()),
                all("pre").every(each => each.checkVisibility())];
    """
    source = Page(written()).source
    *_, folded = evaluate(source, script)
    [style] = re.findall("<style>(.*?)</style>", source, re.DOTALL)
    printed = style.replace("@media print", "@media all")
    charts, controls, unfolded = evaluate(
        source.replace(style, printed).replace(sha256(style), sha256(printed)), script
    )
    assert (charts, controls) == ([True, True], [False, False])
    assert (folded, unfolded) == (False, True)


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_follows_the_color_scheme(written, chromium, tmp_path, scheme, dark):
    picture = tmp_path / "page.png"
    options = f"--blink-settings=preferredColorScheme={scheme}", "--window-size=800,600", f"--screenshot={picture}"
    chromium(written(), *options)
    with Image.open(picture) as shown:
        pixels = np.array(shown.convert("L"))
    assert (pixels[0, 0] < 40) if dark else (pixels[0, 0] > 240)
    assert (pixels > 128).mean() < 0.2 if dark else (pixels < 128).mean() < 0.2  # of text, and it is there
    assert pixels.std() > 5
