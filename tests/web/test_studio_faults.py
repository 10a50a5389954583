"""The studio when answers fail, come late, or come in another order."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")

ANSWER = {"status": 500, "content_type": "application/json", "body": "{}"}


def opened(page, hash_):
    page.goto(page.url.split("#")[0] + hash_)
    page.wait_for_selector(f"body[data-ready={hash_[1:]}]")


def test_a_page_that_could_not_be_filled_is_filled_later(studio):
    address, browser = studio
    page = browser.new_page()
    fails = [True]
    page.route(
        "**/v1/loras", lambda route: route.fulfill(**ANSWER) if fails.pop() else route.continue_()
    )
    fails += [False] * 5
    fails.append(True)
    page.goto(address)
    playwright.expect(page.locator("#create .status").first).to_contain_text("500")
    opened(page, "#restore")
    opened(page, "#create")
    assert page.locator("#create [name=sampler] option").count() > 5
    page.close()


def test_samplers_are_listed_once(page):
    """Also if a page is opened twice at the same time."""
    page.evaluate(
        "Promise.all([1, 2].map(() => import('/static/explain.js').then((made) => made.open())))"
    )
    names = page.locator("#explain [name=sampler] option").all_inner_texts()
    assert len(names) == len(set(names)) > 5


def test_names_for_an_older_text_are_dropped(page):
    waiting = []

    def answer(route):
        if "near=true" in route.request.url:
            waiting.append(route)
        else:
            route.fulfill(json={"names": ["kitten"], "near": []})

    page.route("**/v1/names?*", answer)
    page.fill("#create textarea", "")
    page.type("#create textarea", "a kitt")
    with page.expect_request("**/v1/names?*near=true*"):
        pass
    page.click("#create .known button")
    for route in waiting:
        route.fulfill(json={"near": ["cat"]})
    page.wait_for_timeout(300)
    assert page.input_value("#create textarea") == "a kitten"
    assert page.locator("#create .names button").count() == 0


def test_the_picture_chosen_last_is_shown(page, tmp_path):
    opened(page, "#restore")
    for name, size in (("large", (3000, 3000)), ("small", (20, 20)), ("thin", (4000, 1))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    for name in ("large", "small"):
        page.set_input_files("#restore [name=file]", tmp_path / f"{name}.png")
    playwright.expect(page.locator("#restore .status").first).to_have_text("20x20 pixels")
    page.set_input_files("#restore [name=file]", tmp_path / "thin.png")
    playwright.expect(page.locator("#restore .status").first).to_have_text("4000x1 pixels")


def test_a_mask_may_come_from_a_file(page, tmp_path):
    """Painting needs a pointer; a file does not."""
    opened(page, "#restore")
    values = np.zeros((40, 60), np.uint8)
    values[10:20, 30:50] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    Image.new("RGB", (60, 40), "gray").save(tmp_path / "photo.png")
    page.set_input_files("#restore [name=file]", tmp_path / "photo.png")
    page.set_input_files("#restore .brush .mask", tmp_path / "mask.png")
    with page.expect_request("**/v1/restore") as sent:
        page.click("#restore [type=submit]")
    hidden = json.loads(sent.value.post_data)["fill"]
    read = Image.open(io.BytesIO(base64.b64decode(hidden.partition(",")[2]))).convert("L")
    assert np.array_equal(read, values)
    page.click("#restore .cancel")


def test_a_stream_that_breaks_off_is_opened_again(stranger):
    """The job goes on, so the page must not say that the server stopped."""
    broken = []

    def cut(route):
        if broken:
            route.continue_()
        else:
            broken.append(route)
            said = 'event: progress\ndata: {"what": "sampling", "done": 1, "total": 8}\n\n'
            route.fulfill(status=200, content_type="text/event-stream", body=said)

    stranger.route("**/events", cut)
    stranger.fill("#create textarea", "a red apple")
    stranger.fill("#create [name=count]", "1")
    stranger.click("#create [type=submit]")
    stranger.wait_for_selector("#create button.tile")
    assert broken and "server stopped" not in stranger.inner_text("#create .status")


def test_a_viewer_says_what_failed(stranger):
    stranger.fill("#create textarea", "a red apple")
    stranger.fill("#create [name=count]", "1")
    stranger.click("#create [type=submit]")
    stranger.click("#create button.tile")
    stranger.route("**/pictures/*", lambda route: route.abort())
    stranger.click("#viewer .start")
    playwright.expect(stranger.locator("#viewer .status")).to_contain_text("fetch")


def test_a_first_explanation_that_failed_leaves_the_page_empty(stranger):
    stranger.route("**/v1/traces", lambda route: route.fulfill(**ANSWER))
    opened(stranger, "#explain")
    stranger.fill("#explain [name=prompt]", "a red apple")
    stranger.click("#explain > form:first-child [type=submit]")
    playwright.expect(stranger.locator("#explain .status").first).to_contain_text("500")
    assert stranger.locator("#explain.empty").count() == 1
    assert stranger.locator("#explain iframe").is_hidden()


def test_a_change_stays_if_another_is_removed_meanwhile(stranger):
    asked = []

    def answer(route):
        asked.append(json.loads(route.request.post_data)["changes"])
        if len(asked) == 1:
            route.continue_()  # the others wait until the page is closed

    opened(stranger, "#explain")
    stranger.route("**/v1/traces", answer)
    stranger.fill("#explain [name=prompt]", "a red apple")
    stranger.fill("#explain [name=steps]", "2")
    stranger.click("#explain > form:first-child [type=submit]")
    playwright.expect(stranger.locator("#explain .status").first).to_contain_text(" s")
    stranger.frame_locator("#explain iframe").locator("#pictures button").first.wait_for()
    stranger.unroute("**/v1/traces")
    for scale in ("3", "5"):
        stranger.fill("#explain [name=guidance_scale]", scale)
        if scale == "5":
            stranger.route("**/v1/traces", answer)
        stranger.click("#explain > form:first-child [type=submit]")
        if scale == "3":
            stranger.frame_locator("#explain iframe").locator(
                "#pictures button >> nth=1"
            ).wait_for()
    stranger.click("#explain .changes li:first-child button")
    playwright.expect(stranger.locator("#explain .changes li")).to_have_count(1)
    stranger.wait_for_timeout(300)
    assert asked[-1] == [{"guidance_scale": 5}]
    assert "guidance scale 5" in stranger.inner_text("#explain .changes li")


def test_a_line_of_the_history_keeps_the_focus(stranger):
    job = {
        "id": "a",
        "kind": "create",
        "status": "generating",
        "created": 0,
        "progress": {"done": 1, "total": 8},
    }
    asked = []

    def answer(route):
        asked.append(1)
        if len(asked) == 2:
            route.fulfill(**ANSWER)
        else:
            job["progress"]["done"] = len(asked)
            route.fulfill(json={"jobs": [job]})

    stranger.route("**/v1/jobs?status=queued*", answer)
    opened(stranger, "#history")
    stranger.focus("#history .changes button")
    playwright.expect(stranger.locator("#history .changes")).to_contain_text("50 %", timeout=15_000)
    assert stranger.evaluate("document.activeElement.textContent") == "Stop"


def test_words_may_be_dragged_into_a_field(page):
    prevented = page.evaluate(
        """() => ["text/plain", "Files"].map((kind) => {
            const dataTransfer = new DataTransfer();
            if (kind === "Files") dataTransfer.items.add(new File(["x"], "a.png"));
            else dataTransfer.setData(kind, "words");
            const how = { bubbles: true, cancelable: true, dataTransfer };
            const event = new DragEvent("dragover", how);
            document.querySelector("#search").dispatchEvent(event);
            return event.defaultPrevented;
        })"""
    )
    assert prevented == [False, True]


def test_a_reload_keeps_what_the_forms_hold(page):
    page.fill("#create textarea", "a blue whale")
    page.select_option("#create [name=style]", index=1)
    style = page.input_value("#create [name=style]")
    page.fill("#create [name=seed]", "7")
    page.check("#create [name=transparent]")
    opened(page, "#restore")
    page.check("#restore [name=dejpeg]")
    page.fill("#restore [name=quality]", "30")
    page.reload()
    page.wait_for_selector("body[data-ready=restore]")
    assert page.is_checked("#restore [name=dejpeg]")
    assert page.locator("#restore [name=quality]").is_visible()
    assert page.input_value("#restore [name=quality]") == "30"
    opened(page, "#create")
    assert page.input_value("#create textarea") == "a blue whale"
    assert page.input_value("#create [name=style]") == style != ""
    assert page.input_value("#create [name=seed]") == "7"
    assert page.is_checked("#create [name=transparent]")
    assert page.input_value("#create [name=file]") == ""


def test_a_found_picture_is_not_downloaded_shrunk(page):
    opened(page, "#search")
    page.fill("#search [name=query]", "")
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(picture, "PNG")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    page.set_input_files("#search [name=file]", file)
    page.click("#search [type=submit]")
    page.locator("#search .tile").first.click()
    playwright.expect(page.locator("#viewer .download")).to_be_hidden()
    page.click("#viewer .close")


def test_a_reload_follows_the_job_that_runs(page):
    """Its places, its progress and its pictures are there again."""
    page.fill("#create textarea", "a green pear")
    page.fill("#create [name=count]", "12")
    page.evaluate("document.querySelector('#create [name=steps]').value = 30")
    page.click("#create > form [type=submit]")
    page.wait_for_selector("#create button.tile")
    page.reload()
    page.wait_for_selector("#create .cancel:not([disabled])")
    assert page.locator("#create h2").inner_text() == "a green pear"
    assert page.locator("#create .tile").count() == 12
    playwright.expect(page.locator("#create > form .status")).to_contain_text("left")
    page.click("#create > form .cancel")
    playwright.expect(page.locator("#create > form .status")).to_have_text("cancelled")
    page.reload()
    page.wait_for_selector("body[data-ready=create]")
    assert page.locator("#create > form .status").inner_text() == ""
    assert page.locator("#create > form [type=submit]").is_enabled()


def test_a_reload_follows_a_comparison(page):
    opened(page, "#reduce")
    page.fill("#reduce [name=limit]", "60")
    page.fill("#reduce [name=epochs]", "60")
    page.click("#reduce [type=submit]")
    page.wait_for_selector("#reduce .cancel:not([disabled])")
    page.reload()
    page.wait_for_selector("#reduce .alone:visible", timeout=120_000)
    assert "empty" not in page.locator("#reduce").get_attribute("class")
    opened(page, "#history")
    line = page.locator("#history .run").first
    playwright.expect(line.locator("a")).to_have_text("Open the report")
    assert line.locator("h2").inner_text() == "compared: digits.npz"
    assert line.locator(".tile").count() > 1


def test_the_jobs_before_one_are_counted_with_the_one_that_runs(page, studio):
    """A place in the queue moves on."""
    for box in page.locator("#create [name=count], #create [name=steps]").all():
        box.evaluate("(box) => { box.value = box.name === 'count' ? 40 : 30; }")
    page.click("#create > form [type=submit]")
    page.wait_for_selector("#create button.tile")
    opened(page, "#learn")
    page.click("#learn [data-preset=moons]")
    page.click("#learn > form [type=submit]")
    waits = page.locator("#learn > form .status")
    playwright.expect(waits).to_have_text("queued: 1 before it")
    opened(page, "#create")
    page.click("#create > form .cancel")
    opened(page, "#learn")
    playwright.expect(waits).not_to_contain_text("queued")


def test_paint_can_be_undone(page, tmp_path):
    Image.new("RGB", (200, 100), "gray").save(tmp_path / "gray.png")
    opened(page, "#restore")
    page.set_input_files("#restore [name=file]", tmp_path / "gray.png")
    undo, canvas = page.locator("#restore .undo"), page.locator("#restore canvas")
    playwright.expect(undo).to_be_disabled()
    shots = [canvas.screenshot()]
    for x in (30, 90):
        canvas.click(position={"x": x, "y": 40})
        shots.append(canvas.screenshot())
    page.click("#restore .clear")
    assert canvas.screenshot() == shots[0]
    undo.click()
    assert canvas.screenshot() == shots[2]
    page.keyboard.press("Control+z")
    assert canvas.screenshot() == shots[1]
    undo.click()
    assert canvas.screenshot() == shots[0]
    playwright.expect(undo).to_be_disabled()
    page.click("#restore [type=submit]")
    playwright.expect(page.locator("#restore .status")).to_contain_text("tick what to repair")


def test_fewer_scratches_may_be_asked_for(page, tmp_path):
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "gray.png")
    opened(page, "#restore")
    page.set_input_files("#restore [name=file]", tmp_path / "gray.png")
    slider = page.locator("#restore [name=sensitivity]")
    playwright.expect(slider).to_be_hidden()
    page.check("#restore [name=fill_scratches]")
    playwright.expect(slider).to_be_visible()
    slider.fill("0.2")
    with page.expect_request("**/v1/restore") as asked:
        page.click("#restore [type=submit]")
    assert asked.value.post_data_json["sensitivity"] == 0.2
