"""The verbs as tools of the Model Context Protocol, driven by the official client."""

import base64
import io
import sys

import anyio
import numpy as np
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from PIL import Image

import sfumato


def talk(folder, *calls):
    """What a server answers to calls of tools, and the names of its tools."""
    command = ["-m", "sfumato", "serve", "--mcp", "--folder", str(folder)]

    async def run():
        async with Client(
            stdio_client(StdioServerParameters(command=sys.executable, args=command))
        ) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            return tools, [await client.call_tool(name, given) for name, given in calls]

    return anyio.run(run)


def test_create_restore_search_and_inspect(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    for k in range(4):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{k}.txt").write_text(f"apples pears plums number{k} fruit")
    sfumato.index(tmp_path / "texts", tmp_path / "ix", "lsa:2")
    photo = str(tmp_path / "photo.png")
    tools, answers = talk(
        tmp_path / "made",
        ("create", {"prompt": "a red apple", "options": {"seed": 7, "steps": 2, "count": 2}}),
        ("restore", {"picture": photo, "options": {"fill_box": "5,6,7,8"}}),
        ("search", {"index": str(tmp_path / "ix"), "words": "apples", "options": {"k": 2}}),
        ("inspect", {"picture": str(tmp_path / "made" / "a-red-apple-7.png")}),
        ("create", {"prompt": "x", "options": {"sampler": "eulr"}}),
        ("restore", {"picture": "/nowhere.png", "options": {"denoise": 9}}),
        ("create", {"prompt": "x", "seed": 7}),
        ("create", {"options": {"steps": 2}}),
        ("create", {"prompt": "x", "options": {"mask": "m.png"}}),
    )
    assert {"create", "restore", "search", "inspect", "models"} <= set(tools)
    created, restored, found, told, *wrong = answers
    alone = sfumato.create("a red apple", sfumato.CreateOptions(seed=7, steps=2, count=2))
    pictures = [part for part in created.content if part.type == "image"]
    for part, made in zip(pictures, alone, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(part.data)))).astype(int)
        assert np.abs(shown - np.asarray(made.picture)).max() <= 1
    with Image.open(tmp_path / "made" / "photo-restored.png") as picture:
        made = np.asarray(picture)
    outside = np.ones((40, 50), bool)
    outside[6:14, 5:12] = False
    assert (made == values)[outside].all() and not restored.is_error
    assert "similarity" in str(found.content)
    assert "a red apple" in str(told.content)
    said = (
        "did you mean",
        "nowhere.png",
        "has no argument seed",
        "prompt is missing",
        "needs source",
    )
    for answer, message in zip(wrong, said, strict=True):
        assert answer.is_error and message in str(answer.content)


def client_of(folder):
    """A client of a server of its own."""
    command = ["-m", "sfumato", "serve", "--mcp", "--folder", str(folder)]
    return Client(stdio_client(StdioServerParameters(command=sys.executable, args=command)))


def test_calls_at_once_write_files_of_their_own(tmp_path):
    answers = []

    async def one(client, scale):
        options = {"seed": 1, "steps": 1, "guidance_scale": scale}
        answers.append(await client.call_tool("create", {"prompt": "pear", "options": options}))

    async def run():
        async with client_of(tmp_path) as client, anyio.create_task_group() as group:
            for scale in (2, 3, 4, 5):
                group.start_soon(one, client, scale)

    anyio.run(run)
    told = {part.text.split(":")[0] for answer in answers for part in answer.content[1:]}
    files = {str(path) for path in tmp_path.glob("*.png")}
    assert len(files) == 4 and told == files
    assert len({path.read_bytes() for path in tmp_path.glob("*.png")}) == 4


def test_a_cancelled_call_stops_after_its_step(tmp_path):
    async def run():
        async with client_of(tmp_path) as client:

            async def many(scope):
                with scope:
                    options = {"seed": 1, "steps": 100, "count": 60, "batch": 1}
                    await client.call_tool("create", {"prompt": "pear", "options": options})

            scope = anyio.CancelScope()
            async with anyio.create_task_group() as group:
                group.start_soon(many, scope)
                while not list(tmp_path.glob("pear*")):  # until the first picture is written
                    await anyio.sleep(0.1)
                scope.cancel()
            quick = {"prompt": "fig", "options": {"seed": 1, "steps": 1}}
            assert not (await client.call_tool("create", quick)).is_error

    anyio.run(run)
    assert (tmp_path / "fig-1.png").exists() and len(list(tmp_path.glob("pear*"))) < 60


def test_a_wrong_option_is_told_once(tmp_path):
    _, answers = talk(tmp_path, ("restore", {"picture": "a.png", "options": {}}))
    message = str(answers[0].content)
    assert "nothing to undo; give denoise" in message and "value error" not in message
