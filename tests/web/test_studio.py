"""The studio in a real browser."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tests.data.test_foreign import COMFYUI, png
from tests.web.test_serve import serving

from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.explain.experiments import explain
from sfumato.tasks.reduce.compare import reduce
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.reduce.report import write

playwright = pytest.importorskip("playwright.sync_api")


def test_create_view_and_explain(page):
    page.fill("#create textarea", 'a <b>red</b> "apple"')
    page.fill("#create [name=count]", "2")
    page.fill("#create [name=seed]", "7")
    page.select_option("#create [name=size]", "128")
    page.check("#create [name=transparent]")
    page.click("#create [type=submit]")
    page.wait_for_selector("#create button.tile")
    wide = page.locator("#create button.tile img").first.evaluate("(img) => img.naturalWidth")
    assert wide == 128
    assert page.locator("#create button.tile").count() == 2
    assert page.locator("#create .run h2").inner_text() == 'a <b>red</b> "apple"'
    page.click("#create button.tile >> nth=1")
    assert "8" in page.locator("#viewer dl").inner_text()
    page.click("#viewer .again")
    playwright.expect(page.locator("#create [name=seed]")).to_have_value("8")


def test_explain_and_set_other_runs_beside(page):
    page.fill("#create textarea", "a red apple")
    page.fill("#create [name=count]", "1")
    page.fill("#create [name=seed]", "7")
    page.click("#create [type=submit]")
    page.click("#create button.tile")
    page.click("#viewer .explain")
    frame = page.frame_locator("#explain iframe")
    frame.locator("#where", has_text="step 1 of").wait_for(timeout=120_000)
    assert frame.locator("#pictures button").count() == 1
    # a word switched off, from the step on that is looked at
    frame.locator("#forth").click()
    frame.locator("#forth").click()
    page.click("#explain .shown:has-text('step 3')")
    page.click("#explain .words button:has-text('red')")
    assert page.input_value("#explain [name=prompt]") == "a apple"
    page.click("#explain > form:first-child [type=submit]")
    frame.locator("#pictures button >> nth=1").wait_for(timeout=120_000)
    frame.locator("#pictures button >> nth=1").click()
    assert frame.locator("#branch").inner_text() == 'From step 3 on, the text is "a apple".'
    assert "from step 3: a apple" in page.locator("#explain .changes").inner_text()
    # nothing changed is told; a run can be taken away again
    page.fill("#explain [name=prompt]", "a red apple")
    page.click("#explain > form:first-child [type=submit]")
    assert "Change the text" in page.locator("#explain > form:first-child .status").inner_text()
    page.click("#explain .changes button")
    page.wait_for_selector("#explain .changes li", state="detached")


def test_an_explanation_may_not_speak_to_the_server(page):
    page.goto(page.url.split("#")[0] + "#explain")
    page.wait_for_selector("body[data-ready=explain]")
    page.fill("#explain [name=prompt]", "<img src=x onerror=parent.wrong=1>")
    page.fill("#explain [name=steps]", "2")
    page.click("#explain > form:first-child [type=submit]")
    frame = page.frame_locator("#explain iframe")
    frame.locator("#where", has_text="step 1 of 2").wait_for(timeout=120_000)
    inside = page.frames[-1]
    assert inside.evaluate("window.origin") == "null"
    assert page.evaluate("window.wrong") is None


def test_by_the_keyboard_alone(page):
    page.focus("#create textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("a house")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "submit":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#create button.tile")
    page.focus("#create button.tile")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    page.keyboard.press("Escape")
    assert page.locator("#viewer[open]").count() == 0


def test_names_that_the_model_knows_complete_the_prompt(page):
    page.fill("#create textarea", "")
    page.type("#create textarea", "a big fire e")
    page.click("#create .names button:has-text('fire engine')")
    assert page.input_value("#create textarea") == "a big fire engine"
    assert page.locator("#create .names button").count() == 0


def test_names_close_in_meaning_are_offered(page):
    page.fill("#create textarea", "")
    page.type("#create textarea", "a green serpent")
    page.click("#create .near button:has-text('snake')")
    assert page.input_value("#create textarea") == "a green snake"
    assert page.locator("#create .names button").count() == 0


def test_from_the_prompt_to_the_attention_by_the_keyboard_alone(page):
    def tab_to(selector, most=60):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    page.focus("#create textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("a red apple")
    tab_to("[name=count]")
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    tab_to("[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#create button.tile")
    tab_to("button.tile")
    page.keyboard.press("Enter")
    tab_to(".explain")
    page.keyboard.press("Enter")
    frame = page.frame_locator("#explain iframe")
    frame.locator("#where", has_text="step 1 of").wait_for(timeout=120_000)
    tab_to("iframe")
    inside = page.query_selector("#explain iframe").content_frame()
    for _ in range(80):
        page.keyboard.press("Tab")
        if inside.evaluate("document.activeElement.id") == "layer":
            break
    page.keyboard.press("ArrowDown")
    assert inside.evaluate("document.getElementById('layer').value") == "0"
    assert inside.locator("#maps figure").count() > 2
    mean = inside.locator("#maps figcaption").all_inner_texts()
    page.keyboard.press("Tab")
    assert inside.evaluate("document.activeElement.id") == "head"
    page.keyboard.press("ArrowDown")
    assert inside.evaluate("document.getElementById('head').value") == "0"
    assert inside.locator("#maps figcaption").all_inner_texts() != mean


def test_repair_what_was_painted(page, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    page.goto(page.url.split("#")[0] + "#restore")
    page.wait_for_selector("body[data-ready=restore]")
    page.set_input_files("#restore [name=file]", tmp_path / "photo.png")
    page.wait_for_selector("#restore canvas")
    box = page.locator("#restore canvas").bounding_box()
    page.fill("#restore .tools input", "50")
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 110, steps=5)
    page.mouse.up()
    page.click("#restore [type=submit]")
    page.wait_for_selector("#restore .compare .after")
    assert "holes filled by patches" in page.locator("#restore .notes").inner_text()
    assert "largest change elsewhere 0" in page.locator("#restore .notes").inner_text()
    page.goto(page.url.split("#")[0] + "#history")
    page.wait_for_selector("body[data-ready=history]")
    assert "a repaired photo" in page.locator("#history").inner_text()


def test_reduce_a_table_of_ones_own(page, tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 5))
    lines = [",".join("abcde"), *[",".join(f"{value:.4f}" for value in row) for row in rows]]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    page.goto(page.url.split("#")[0] + "#reduce")
    page.wait_for_selector("body[data-ready=reduce]")
    page.set_input_files("#reduce [name=file]", tmp_path / "own.csv")
    page.fill("#reduce [name=codes]", "2")
    page.fill("#reduce [name=epochs]", "2")
    page.click("#reduce [type=submit]")
    frame = page.frame_locator("#reduce iframe")
    frame.locator("h1", has_text="own.csv in a few numbers").wait_for(timeout=120_000)
    assert "With codes of length 2" in frame.locator("body").inner_text()


def test_points_are_learned_while_one_watches(page):
    page.emulate_media(reduced_motion="reduce")
    page.goto(page.url.split("#")[0] + "#learn")
    page.wait_for_selector("body[data-ready=learn]")
    playwright.expect(page.locator("#learn output")).to_have_text("600 points")
    page.click("#learn [data-preset=none]")
    page.click("#learn > form [type=submit]")
    assert "Draw some points" in page.locator("#learn > form .status").inner_text()
    box = page.locator("#learn > .results canvas").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 300, steps=20)
    page.mouse.up()
    assert int(page.locator("#learn output").inner_text().split()[0]) > 40
    page.fill("#learn [name=steps]", "5")
    page.click("#learn > form [type=submit]")
    page.wait_for_selector("#learn .play:not([disabled])", timeout=120_000)
    assert page.locator("#learn output").inner_text() == "the generated points"
    page.focus("#learn [name=step]")
    page.keyboard.press("Home")
    assert "step 1 of 5" in page.locator("#learn output").inner_text()


def test_a_picture_of_ones_own_is_guessed_at(page, tmp_path):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "own.png")
    page.goto(page.url.split("#")[0] + "#explain")
    page.wait_for_selector("body[data-ready=explain]")
    page.click("#explain form.own [type=submit]")
    playwright.expect(page.locator("form.own .status")).to_have_text("Choose a picture first.")
    page.set_input_files("form.own [name=file]", tmp_path / "own.png")
    page.click("#explain form.own [type=submit]")
    page.wait_for_selector(".results.own .channels")
    first = page.locator(".results.own output").inner_text()
    page.focus(".results.own label input[type=range]")
    page.keyboard.press("End")
    assert page.locator(".results.own output").inner_text() != first
    changed = page.locator(".results.own .row img").nth(2)
    before = changed.get_attribute("src")
    page.focus(".results.own .channels input >> nth=0")
    page.keyboard.press("End")
    playwright.expect(changed).not_to_have_attribute("src", before)
    page.select_option("form.own [name=damage]", "noise")
    page.click("#explain form.own [type=submit]")
    playwright.expect(page.locator(".results.own")).to_contain_text("the removed noise")
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


@pytest.mark.parametrize(
    ("name", "said", "canvases"),
    [
        ("outliers", "PCA needs no training", 2),
        ("losses", "the most likely height", 1),
        ("labels", "bit for bit", 2),
        ("denoising", "closer to the original", 0),
    ],
)
def test_a_question_is_answered_by_an_experiment(page, name, said, canvases):
    page.goto(page.url.split("#")[0] + "#learn")
    page.wait_for_selector("body[data-ready=learn]")
    lesson = page.locator(f"[data-lesson={name}]")
    lesson.locator("[type=submit]").click()
    verdict = lesson.locator(".verdict")
    playwright.expect(verdict).to_contain_text(said, timeout=120_000)
    assert lesson.locator("canvas").count() == canvases
    assert lesson.locator(".found img").count() == (name == "denoising")
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_search_by_a_picture(page, tmp_path):
    Image.new("RGB", (20, 20), (0, 0, 230)).save(tmp_path / "blue.png")
    page.goto(page.url.split("#")[0] + "#search")
    page.wait_for_selector("body[data-ready=search]")
    page.set_input_files("#search [name=file]", tmp_path / "blue.png")
    page.click("#search [type=submit]")
    page.wait_for_selector("#search .tiles figure")
    assert "blue.png" in page.locator("#search figcaption").first.inner_text()
    assert page.locator("#search figure").count() == 4


@pytest.mark.parametrize("width", [380, 1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_and_scheme(studio, width, scheme):
    address, browser = studio
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in ("create", "restore", "explain", "reduce", "search", "learn", "history"):
        page.goto(f"{address}/#{name}")
        page.wait_for_selector(f"body[data-ready={name}]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        unnamed = page.evaluate(
            """[...document.querySelectorAll("button, input, select, textarea, a")].filter((n) =>
            !(n.textContent || n.ariaLabel || n.labels?.length || n.querySelector("img[alt]"))
            ).length"""
        )
        assert unnamed == 0
    page.close()


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_used_by_everybody(studio, width, scheme):
    """axe-core finds nothing serious: names, contrast, order of headings, ..."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    address, browser = studio
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in ("create", "restore", "explain", "reduce", "search", "learn", "history"):
        page.goto(f"{address}/#{name}")
        page.wait_for_selector(f"body[data-ready={name}]")
        assert serious(axe.run(page)) == [], name
        assert page.evaluate("scrollY") == 0, f"{name} hides the links"
    page.close()


def serious(results):
    """The rules that a page breaks badly, with the elements that do."""
    return [
        (found["id"], [node["target"] for node in found["nodes"]])
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """The page of a picture of 30 steps, as a file."""
    path = tmp_path_factory.mktemp("explained") / "page.html"
    explain("a red apple", CreateOptions(seed=7, steps=30)).write(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_explanation_can_be_used_by_everybody(studio, explained, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = studio[1].new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    page.goto(explained.as_uri())
    page.wait_for_selector("#where:has-text('step 1 of 30')")
    assert serious(axe.run(page)) == []
    page.close()


def test_thirty_steps_are_looked_through_quickly(studio, explained):
    """The page makes a step forth and lays it out within 50 ms, the median of thirty; when it is
    shown then is up to the screen, and to what else the machine does."""
    page, said = studio[1].new_page(viewport={"width": 1280, "height": 800}), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.goto(explained.as_uri())
    page.wait_for_selector("#where:has-text('step 1 of 30')")
    times = page.evaluate(
        """async () => {
          const shown = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          const times = [];
          for (let step = 0; step < 29; step++) {
            const begun = performance.now();
            document.getElementById("forth").click();
            document.body.getBoundingClientRect();
            times.push(performance.now() - begun);
            await shown();
          }
          return times;
        }"""
    )
    assert "step 30 of 30" in page.locator("#where").inner_text()
    assert said == []
    assert np.median(times) <= 50, times
    page.close()


def test_a_picture_of_another_program_gives_its_settings(page, tmp_path):
    (tmp_path / "comfy.png").write_bytes(png(prompt=json.dumps(COMFYUI)))
    page.click("#create #from summary")
    page.set_input_files("#create [name=file]", tmp_path / "comfy.png")
    playwright.expect(page.locator("#create [name=prompt]")).to_have_value("a glass bottle")
    playwright.expect(page.locator("#create [name=negative_prompt]")).to_have_value("watermark")
    playwright.expect(page.locator("#create [name=sampler]")).to_have_value("dpmpp_2m")
    playwright.expect(page.locator("#create [name=guidance_scale]")).to_have_value("8")


def made(page, count=1, **fields):
    """Generate pictures on the page Create."""
    for name, value in {"count": count, "steps": 2, **fields}.items():
        page.evaluate("([n, v]) => { document.querySelector(`#create [name=${n}]`).value = v }",
                      [name, str(value)])  # fmt: skip
    page.click("#create > form [type=submit]")
    page.wait_for_function(
        "(n) => document.querySelectorAll('#create .run:first-child button.tile').length === n",
        arg=count,
    )


def test_the_settings_of_a_picture_make_it_again(page, tmp_path):
    page.check("#create [name=transparent]")
    made(page, prompt="a red apple", seed=7, size=128)
    with page.expect_download() as saved:
        page.click("#create button.tile")
        page.click("#viewer .download")
    saved.value.save_as(tmp_path / "apple.png")
    assert saved.value.suggested_filename == "a-red-apple-7.png"
    page.reload()
    page.wait_for_selector("body[data-ready=create]")
    page.click("#create #from summary")
    page.set_input_files("#create [name=file]", tmp_path / "apple.png")
    status = page.locator("#create > form .status")
    playwright.expect(status).to_have_text("the settings are those of that picture")
    assert page.locator("#create .brush canvas").count() == 0, "it is not started from"
    with page.expect_request("**/v1/create") as request:
        page.click("#create > form [type=submit]")
    assert "source" not in request.value.post_data_json
    page.wait_for_selector("#create button.tile")
    again = page.evaluate(
        """async () => {
          const answer = await fetch(document.querySelector("#create button.tile img").src);
          return [...new Uint8Array(await answer.arrayBuffer())];
        }"""
    )
    (tmp_path / "again.png").write_bytes(bytes(again))
    first, second = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("apple", "again"))
    assert first.shape == (128, 128, 4) and np.array_equal(first, second)


def test_what_the_form_cannot_hold_is_told(page):
    used = """async (settings) => {
      const { uses } = await import("/static/gallery.js");
      const list = document.querySelector("#create [name=lora]");
      if (list.options.length === 1) list.append(new Option("mine", "mine"));
      await uses.again({ prompt: "a", seed: 3, ...settings });
      return [document.querySelector("#create .status").textContent, list.value,
        document.querySelector("#create [name=size]").value];
    }"""
    said = "the settings are those of that picture"
    for settings, told, lora, size in (
        ({"loras": ["mine"], "size": [64, 64]}, "", "mine", ""),
        ({"loras": ["mine:0.5"], "size": [96, 96]}, "", "mine:0.5", "96"),
        ({"loras": ["other:0.5"], "size": [128, 64]}, ", except the LoRA", "", "128x64"),
        ({"loras": ["mine", "mine:2"], "then": "a cat"}, ", except the LoRA, then", "mine", ""),
        ({"model": "sd", "schedule": "karras"}, ", except the model sd, schedule", "", ""),
    ):
        assert page.evaluate(used, settings) == [said + told, lora, size]


def test_a_start_picture_can_be_removed_and_is_not_explained(page, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "teal.png")
    page.click("#create #from summary")
    page.set_input_files("#create [name=file]", tmp_path / "teal.png")
    page.wait_for_selector("#create .brush canvas")
    assert page.locator("#from summary").inner_text() == "Starts from teal.png"
    made(page)
    page.click("#create button.tile")
    assert page.locator("#viewer .explain").is_hidden()
    page.click("#viewer .again")
    told = "except the picture it started from"
    playwright.expect(page.locator("#create > form .status")).to_contain_text(told)
    page.click("#create .brush .remove")
    assert page.locator("#from summary").inner_text() == "Start from a picture"
    with page.expect_request("**/v1/create") as request:
        page.click("#create > form [type=submit]")
    assert "source" not in request.value.post_data_json


def test_stop_keeps_the_finished_pictures_and_history_stops_others(page, studio):
    page.evaluate("document.querySelector('#create [name=count]').value = 64")
    page.evaluate("document.querySelector('#create [name=steps]').value = 30")
    page.click("#create > form [type=submit]")
    page.wait_for_selector("#create button.tile")
    page.click("#create > form .cancel")
    playwright.expect(page.locator("#create > form .status")).to_have_text("cancelled")
    assert 0 < page.locator("#create button.tile").count() < 64
    assert page.locator("#create div.tile").count() == 0
    page.click("#create button.tile >> nth=0")
    assert page.locator("#viewer img").evaluate("(img) => img.naturalWidth") == 64
    page.click("#viewer .close")
    page.click("#create > form [type=submit]")
    page.wait_for_selector("#create .cancel:not([disabled])")
    page.goto(page.url.split("#")[0] + "#history")
    page.reload()
    page.click("#history .changes button:has-text('Stop')")
    page.wait_for_selector("#history .changes li", state="detached")


def test_a_repair_needs_something_to_repair(page, tmp_path):
    values = np.random.default_rng(0).integers(100, 140, (60, 80, 3), np.uint8)
    for name in ("first.png", "second.png"):
        Image.fromarray(values).save(tmp_path / name)
    page.goto(page.url.split("#")[0] + "#restore")
    page.wait_for_selector("body[data-ready=restore]")
    page.set_input_files("#restore [name=file]", tmp_path / "first.png")
    page.click("#restore [type=submit]")
    playwright.expect(page.locator("#restore .status")).to_contain_text("tick what to repair")
    page.check("#restore [name=dejpeg]")
    assert page.get_attribute("#restore [name=quality]", "placeholder") == "50", "told by no PNG"
    page.click("#restore [type=submit]")
    page.set_input_files("#restore [name=file]", tmp_path / "second.png")
    page.wait_for_selector("#restore .compare .after")
    assert page.get_attribute("#restore .compare a", "download") == "first-restored.png"
    page.goto(page.url.split("#")[0] + "#history")
    page.wait_for_selector("body[data-ready=history]")
    page.click("#history .run:has-text('a repaired photo') button.tile >> nth=0")
    assert (
        page.locator("#viewer .again").is_hidden() and page.locator("#viewer .start").is_visible()
    )


def test_a_wrong_token_is_told(studio, tmp_path):
    with serving(tmp_path, token="secret") as (_, address):
        page = studio[1].new_page()
        page.goto(address)
        for word, said in (("wrong", "does not accept"), ("secret", "")):
            page.fill("#token input", word)
            page.keyboard.press("Enter")
            playwright.expect(page.locator("#token .status")).to_contain_text(said)
        page.wait_for_selector("body[data-ready=create]")
        assert page.locator("#create [name=model] option").count() >= 1
        page.close()


def test_a_map_lists_what_is_inside_a_lasso_and_decodes_what_is_between(studio, tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", images=digits.images[:300].astype(np.uint8) * 15)
    report = reduce(tmp_path / "digits.npz", ReduceOptions(codes=(2,), epochs=2, outliers=0))
    path = write(report, tmp_path, "digits.npz")
    page, said = studio[1].new_page(viewport={"width": 1280, "height": 900}), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.goto(path.as_uri())
    canvas = page.locator(".bk-Figure").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left, top, wide, tall = box["x"] + 40, box["y"] + 30, 380, 380
    page.mouse.move(left + wide / 2, top + tall / 2)
    page.get_by_text("decoded from here").first.wait_for()
    page.locator("[title*='Lasso']").first.click()
    page.mouse.move(left + 2, top + 2)
    page.mouse.down()
    for x, y in ((wide - 2, 2), (wide - 2, tall - 2), (2, tall - 2), (2, 4)):
        page.mouse.move(left + x, top + y, steps=8)
    page.mouse.up()
    chosen = page.get_by_text("chosen").first
    chosen.wait_for()
    assert int(chosen.inner_text().split()[0]) > 20
    assert said == []
    page.close()


def test_a_click_paints_a_dot_and_the_right_button_nothing(page, tmp_path):
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "teal.png")
    page.goto(page.url.split("#")[0] + "#restore")
    page.wait_for_selector("body[data-ready=restore]")
    page.set_input_files("#restore [name=file]", tmp_path / "teal.png")
    canvas = page.locator("#restore .brush canvas")
    canvas.click(button="right")
    page.click("#restore [type=submit]")
    playwright.expect(page.locator("#restore .status")).to_contain_text("paint over what to remove")
    box = canvas.bounding_box()
    assert box["width"] > 300, "a small picture is enlarged to paint on it"
    page.mouse.move(box["x"] - 9, box["y"] + 9)  # a stroke that begins outside paints nothing
    page.mouse.down()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.up()
    canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    with page.expect_request("**/v1/restore") as request:
        page.click("#restore [type=submit]")
    fill = request.value.post_data_json["fill"].partition(",")[2]
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(fill))).convert("L")) > 127
    rows, columns = np.nonzero(mask)
    assert 3 < mask.sum() < 64 and abs(rows.mean() - 24) < 2 and abs(columns.mean() - 32) < 2


def test_a_first_explanation_that_failed_is_forgotten(page):
    page.goto(page.url.split("#")[0] + "#explain")
    page.wait_for_selector("body[data-ready=explain]")
    page.fill("#explain [name=prompt]", "   ")
    page.click("#explain [type=submit]")
    said = page.locator("#explain .status >> nth=0")
    playwright.expect(said).to_contain_text("prompt is empty")
    page.fill("#explain [name=prompt]", "a star")
    page.fill("#explain [name=steps]", "1")
    with page.expect_request("**/v1/traces") as request:
        page.click("#explain [type=submit]")
    assert request.value.post_data_json["prompt"] == "a star"


def test_a_wrong_value_in_a_closed_part_is_shown(page):
    steps = page.locator("#create [name=steps]")
    part = steps.locator("xpath=ancestor::details[1]")
    part.evaluate("(one) => { one.open = true; }")
    steps.fill("5000")
    part.evaluate("(one) => { one.open = false; }")
    page.fill("#create [name=prompt]", "a star")
    page.click("#create > form [type=submit]")
    playwright.expect(steps).to_be_visible()


def test_other_settings_replace_the_start_picture(page, tmp_path):
    made(page)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "teal.png")
    page.set_input_files("#create [name=file]", tmp_path / "teal.png")
    page.wait_for_selector("#create .brush canvas")
    page.click("#create button.tile")
    page.click("#viewer .again")
    playwright.expect(page.locator("#create .brush")).to_be_hidden()
    assert page.locator("#from summary").inner_text() == "Start from a picture"
