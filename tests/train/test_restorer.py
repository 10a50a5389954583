"""Training a restorer: what it is told, that it learns, and the command."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.corruption.base import draw, parse
from sfumato.corruption.scratch import Scratches
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import (
    FILLS_MARGIN,
    MARGIN,
    VIEWS,
    Restorer,
    RestorerConfig,
    interpolated,
    restorer_planes,
    self_ensemble,
)
from sfumato.errors import DataError, OptionError, TrainingError
from sfumato.hub.catalog import restorer_folder
from sfumato.hub.files import network_from
from sfumato.progress import result_of
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.train.loop import TrainProgress, train
from sfumato.train.loss import squared, vivid
from sfumato.train.pairs import PairJob, paired, read_pairs
from sfumato.train.restoration import train_restorer
from sfumato.train.restorer import TAUGHT, Measured, RestorerJob, read_photos
from sfumato.train.settings import TrainSettings
from sfumato.types import Condition

PHOTOS = [np.ascontiguousarray(p[::2, ::2].transpose(2, 0, 1)) for p in load_sample_images().images]
SMALL = RestorerConfig(widths=(16, 24), blocks=1)


def measured(spelling, x):
    return Measured(draw(parse(spelling), x, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("spelling", "known", "color", "detail", "quality"),
    [
        ("noise:25", 1, 1, 1, 1),
        ("mask:0.5", 0.5, 1, 1, 1),
        ("gray", 1, 0, 1, 1),
        ("down:2", 1, 1, 0.5, 1),
        ("jpeg:40", 1, 1, 1, 0.4),
        ("mask:box:0.25+gray+down:2+noise:10", 0.75, 0, 0.5, 1),
    ],
)
def test_planes_say_what_is_known(spelling, known, color, detail, quality):
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    seen = measured(spelling, x)
    planes = seen.planes(x).mean(dim=(0, 2, 3))
    assert planes[0] == pytest.approx(known, abs=0.12)
    assert planes[1:].tolist() == pytest.approx([color, detail, quality])
    y = seen(x, generator=torch.Generator().manual_seed(1)).y
    assert y.shape == x.shape
    assert (y * (1 - seen.planes(x)[:, :1]) == 0).all(), (
        "hidden pixels hold nothing, not even noise"
    )


def test_half_precision_is_the_networks_alone():
    job, seen = RestorerJob(SMALL, PHOTOS, ["down:2"], 32, gray=0), []
    job.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        job.loss(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    y, _, condition = seen[0]
    assert (condition.planes[:, 0] == 1).all()
    x = job.batch(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    torch.testing.assert_close(y, measured("down:2", x)(x).y)


def test_the_network_starts_as_the_identity_and_takes_any_size():
    net, x = Restorer(RestorerConfig()), torch.rand(1, 3, 13, 50)
    assert sum(p.numel() for p in net.parameters()) < 3e6
    assert (net(x, torch.zeros(1), Condition()) - x).abs().max() < 0.5
    assert not torch.equal(
        net(x, torch.ones(1), Condition()), net(x, torch.zeros(1), Condition())
    ), "the noise level matters"


def test_it_learns_to_denoise():
    torch.manual_seed(0)
    job = RestorerJob(SMALL, PHOTOS, ["noise:50"], 32, gray=0)
    x = job.batch(torch.tensor([0, 1] * 8), torch.Generator().manual_seed(5))
    y = measured("noise:50", x)(x, generator=torch.Generator().manual_seed(6))
    for _ in train(
        job,
        TrainSettings(
            steps=60, batch=16, learning_rate=5e-3, warmup=5, ema_decay=0.9, dtype="float32"
        ),
    ):
        pass
    with torch.no_grad():
        error = (job.denoiser(y.y, y.sigma, Condition()) - x).square().mean()
    assert error < 0.4 * (y.y - x).square().mean()


@pytest.mark.parametrize("turned", [False, True])
def test_up_stays_up_where_it_says_something(turned):
    # brighter further down
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 60, axis=2).repeat(
        3, axis=0
    )
    job = RestorerJob(SMALL, [ramp], ["gray"], 32, gray=0, turned=turned)
    x = job.batch(torch.zeros(16, dtype=torch.long), torch.Generator().manual_seed(0))
    falls = x[:, :, -1].mean(dim=(1, 2)) > x[:, :, 0].mean(dim=(1, 2))
    assert bool(falls.all()) != turned


def test_a_vivid_error_wants_a_color_rather_than_the_gray_mean():
    red, gray = torch.tensor([0.6, -0.3, -0.3]), torch.zeros(3)
    seen = torch.stack([red, gray, gray])[:, :, None, None]
    guesses = [
        share * red.view(1, 3, 1, 1).expand(3, 3, 1, 1) for share in torch.linspace(0, 1, 101)
    ]
    best = {
        measure: int(np.argmin([float(measure(guess, seen).mean()) for guess in guesses]))
        for measure in (squared, vivid)
    }
    assert best[squared] == 33, "the mean"
    assert best[vivid] == 72, "red counts 0.42 + 0.1, gray 0.1"


def test_the_mean_of_all_views_turns_with_the_picture():
    net = Restorer(SMALL)
    torch.nn.init.normal_(net.tail.weight, std=0.1)
    x = torch.rand(1, 3, 16, 24)

    def answer(y):
        return net(y, torch.zeros(1), Condition())

    def whole(y):
        return self_ensemble(answer, VIEWS, y)

    turned = x.rot90(1, (-2, -1))
    torch.testing.assert_close(whole(turned), whole(x).rot90(1, (-2, -1)), atol=1e-5, rtol=0)
    assert (answer(turned) - answer(x).rot90(1, (-2, -1))).abs().max() > 1e-3, (
        "one view alone doesn't"
    )
    torch.testing.assert_close(self_ensemble(answer, VIEWS[:1], x), answer(x))


@pytest.mark.parametrize("job", ["photos", "pairs"])
def test_a_teacher_stands_for_a_part_of_the_clean_picture(job):
    class Blank(torch.nn.Module):
        def forward(self, x, c_noise, condition):
            assert condition.planes.shape[-2:] == x.shape[-2:]
            return torch.full_like(x, 0.25)

    teacher, rows = Denoiser(Blank(), "direct"), torch.tensor([0, 1])
    pairs = [np.concatenate([p, p // 2]) for p in PHOTOS]
    taught = (
        PairJob(SMALL, pairs, (), 32, teacher=teacher)
        if job == "pairs"
        else RestorerJob(SMALL, PHOTOS, ["noise:25"], 32, 0.0, teacher=teacher)
    )
    torch.nn.init.zeros_(taught.module.tail.weight)  # the network answers with what it sees
    x, corruption, _ = taught.drawn(rows, random := torch.Generator().manual_seed(0))
    y = corruption(x, generator=random).y
    wanted = (y - TAUGHT * 0.25 - (1 - TAUGHT) * x).square().mean(dim=(1, 2, 3)).log().mean()
    loss = taught.loss(rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, wanted)


def test_each_scale_may_have_its_own_blocks():
    net = Restorer(RestorerConfig(widths=(8, 12, 16), blocks=(3, 2, 1)))
    assert [len(stage) for stage in net.down] == [3, 2, 1]
    assert [len(stage) for stage in net.up] == [3, 2]
    with pytest.raises(ValueError, match="blocks are given for 2 scales"):
        Restorer(RestorerConfig(widths=(8, 12, 16), blocks=(3, 2)))


def test_command(tmp_path):
    (tmp_path / "in").mkdir()
    for k, photo in enumerate(PHOTOS):
        Image.fromarray(photo.transpose(1, 2, 0)).save(tmp_path / "in" / f"{k}.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "tiny.png")
    plan = {
        "network": {"widths": [8, 12], "blocks": 1},
        "size": 24,
        "settings": {"preview_every": 2},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = [
        "train",
        "restorer",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "m"),
        "--config",
        str(tmp_path / "plan.json"),
    ]
    result = CliRunner().invoke(
        app,
        [
            *words,
            "--corruption",
            "noise:0-50 | mask:strokes | gray+down:2",
            "--steps",
            "3",
            "--batch",
            "2",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "tiny.png" in result.stderr
    net = network_from(Restorer, RestorerConfig, tmp_path / "m")
    assert net.config.widths == (8, 12)
    words = [
        "train",
        "restorer",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "n"),
        "--start",
        str(tmp_path / "m"),
        "--corruption",
        "noise:9",
    ]
    plan = {"size": 24, "settings": {"learning_rate": 1e-12, "ema_decay": 0}}
    (tmp_path / "other.json").write_text(json.dumps(plan))
    result = CliRunner().invoke(
        app, [*words, "--steps", "1", "--batch", "2", "--config", str(tmp_path / "other.json")]
    )
    assert result.exit_code == 0, result.output
    on = network_from(Restorer, RestorerConfig, tmp_path / "n")
    torch.testing.assert_close(on.state_dict(), net.state_dict())  # it begins where the other ended
    (tmp_path / "other.json").write_text(
        json.dumps({**plan, "network": {"widths": [8], "blocks": 1}})
    )
    words[4] = str(tmp_path / "one")
    result = CliRunner().invoke(
        app, [*words, "--steps", "1", "--batch", "2", "--config", str(tmp_path / "other.json")]
    )
    assert result.exit_code == 0, result.output
    one = network_from(Restorer, RestorerConfig, tmp_path / "one").state_dict()
    # a smaller one takes what it has
    torch.testing.assert_close(one, {k: v for k, v in net.state_dict().items() if k in one})
    words[4] = str(tmp_path / "taught")
    (tmp_path / "other.json").write_text(
        json.dumps(
            {
                **plan,
                "network": {"widths": [8, 12], "blocks": [2, 1]},
                "teacher": str(tmp_path / "m"),
            }
        )
    )
    result = CliRunner().invoke(
        app, [*words, "--steps", "1", "--batch", "2", "--config", str(tmp_path / "other.json")]
    )
    assert result.exit_code == 0, result.output
    assert network_from(Restorer, RestorerConfig, tmp_path / "taught").config.blocks == (2, 1)
    words[4] = str(tmp_path / "none")
    short = {"network": {"widths": [8, 12], "blocks": [2]}}
    for wrong, said in (
        ({"teacher": "nobody"}, "nobody is no restorer"),
        (short, "blocks are given for 1 scales, widths for 2"),
    ):
        (tmp_path / "other.json").write_text(json.dumps({**plan, **wrong}))
        result = CliRunner().invoke(
            app, [*words, "--steps", "1", "--batch", "2", "--config", str(tmp_path / "other.json")]
        )
        assert said in str(result.exception)
    with Image.open(tmp_path / "m/previews/0000002.png") as preview:
        assert preview.height > 6 * 24


def test_wrong_data(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    with pytest.raises(DataError, match="smaller than the crops"):
        result_of(read_photos(tmp_path, 24))
    with pytest.raises(OptionError, match="unknown corruption"):
        RestorerJob(SMALL, PHOTOS, ["nosie:3"], 24)


def test_a_finder_needs_drawn_damage(tmp_path):
    for name in ("clean", "dirty"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "in" / name / "a.png")
    (tmp_path / "c.json").write_text('{"network": {"finds": true}}')
    with pytest.raises(OptionError, match="needs drawn damage"):
        list(train_restorer(tmp_path / "in", tmp_path / "out", None, tmp_path / "c.json", {}))


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_pairs(kind, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for k, photo in enumerate(PHOTOS):
        clean = photo.transpose(1, 2, 0)
        dirty = np.clip(clean * 0.5 + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
        for name, pixels in (("clean", clean), ("dirty", dirty)):
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{k}.png")
        rows.append(
            {n: (tmp_path / "in" / n / f"{k}.png").read_bytes() for n in ("clean", "dirty")}
        )
    source = tmp_path / "in"
    Image.new("RGB", (50, 50)).save(source / "clean" / "odd.png")
    Image.new("RGB", (50, 51)).save(source / "dirty" / "odd.png")
    if kind == "parquet":
        source = tmp_path / "a.parquet"
        pq.write_table(
            pa.table(
                {
                    "clean": [r["clean"] for r in rows],
                    "noisy": [[r["dirty"], r["dirty"]] for r in rows],
                }
            ),
            source,
        )
    assert paired(source)
    pairs, skipped = result_of(read_pairs(source, 24))
    assert len(pairs) == (2 if kind == "folder" else 4)
    assert [s.split(":")[0] for s in skipped] == (["odd.png"] if kind == "folder" else [])
    torch.manual_seed(0)
    job = PairJob(SMALL, pairs, (), 32)
    before = float(job.loss(torch.tensor([0, 1] * 8), torch.Generator().manual_seed(3)).detach())
    for _ in train(
        job,
        TrainSettings(
            steps=40, batch=16, learning_rate=5e-3, warmup=5, ema_decay=0.9, dtype="float32"
        ),
        tmp_path / "m",
    ):
        pass
    after = float(job.loss(torch.tensor([0, 1] * 8), torch.Generator().manual_seed(3)).detach())
    assert after < before - 1.5, "the picture is half as dark and half as noisy"
    assert list((tmp_path / "m/previews").iterdir())


def test_wrong_pairs(tmp_path):
    (tmp_path / "clean").mkdir()
    assert not paired(tmp_path)
    (tmp_path / "dirty").mkdir()
    with pytest.raises(DataError, match="no pair"):
        result_of(read_pairs(tmp_path, 24))
    pq.write_table(pa.table({"clean": [b""]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match='no column "dirty"'):
        result_of(read_pairs(tmp_path / "a.parquet", 24))
    with pytest.raises(DataError, match="the picture cannot be read"):
        pq.write_table(pa.table({"clean": [b""], "dirty": [b"x"]}), tmp_path / "b.parquet")
        result_of(read_pairs(tmp_path / "b.parquet", 24))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "gaps", "photos", "size", "scratches"])
def test_windows_overlap_by_more_than_the_network_sees(name):
    # untrained, so that no path is closed
    net = Restorer(network_from(Restorer, RestorerConfig, restorer_folder(name)).config)
    margin = FILLS_MARGIN if net.config.fills or net.config.finds else MARGIN
    known = (torch.rand(1, 1, 448, 448, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    for place in (224, 231):
        known[..., place, place] = 0
        x = torch.rand(1, 3, 448, 448, requires_grad=True)
        net(x, torch.zeros(1), Condition(planes=restorer_planes(known)))[
            0, :, place, place
        ].sum().backward()
        seen = x.grad.abs().sum(dim=(0, 1)).nonzero()
        assert (seen - place).abs().max() < margin
        assert name == "size" or (seen - place).abs().max() > margin / 2, (
            "a wider margin costs time"
        )


def test_what_fills_leaves_known_pixels_and_begins_with_their_interpolation():
    torch.manual_seed(0)
    net, other = (
        Restorer(RestorerConfig(widths=(8, 16), blocks=1, fills=fills)) for fills in (True, False)
    )
    with torch.no_grad():
        net.tail.weight.mul_(100)  # as if trained: it changes what it may
    x, known = torch.rand(1, 3, 37, 50), (torch.rand(1, 1, 37, 50) > 0.8).float()
    made, plain = (
        n(x * known, torch.zeros(1), Condition(planes=restorer_planes(known))) for n in (net, other)
    )
    assert torch.equal(made * known, x * known)
    assert not torch.equal(plain * known, x * known), (
        "a network for all damage may change known pixels"
    )
    with torch.no_grad():
        net.tail.weight.zero_()
    ramp = torch.linspace(-1, 1, 64)[None, None, None].expand(1, 3, 32, 64)
    known = (torch.rand(1, 1, 32, 64, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    initial = net(ramp * known, torch.zeros(1), Condition(planes=restorer_planes(known)))
    assert torch.equal(initial, interpolated(ramp * known, known))
    assert (initial - ramp).abs().mean() < 0.03 < (ramp * known - ramp).abs().mean() / 10
    nothing = torch.zeros(1, 1, 32, 32)
    assert torch.equal(
        interpolated(torch.ones(1, 3, 32, 32), nothing), torch.zeros(1, 3, 32, 32)
    ), "no known pixel: no number that is none"


def test_a_finder_is_trained_to_see_the_damage(tmp_path):
    (tmp_path / "in").mkdir()
    for k, photo in enumerate(PHOTOS):
        Image.fromarray(photo.transpose(1, 2, 0)).save(tmp_path / "in" / f"{k}.png")
    network = {"widths": [8, 12], "blocks": 1, "finds": True}
    settings = {"preview_every": 2, "steps": 2, "batch": 2}
    plan = {"network": network, "size": 24, "settings": settings}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ["train", "restorer", str(tmp_path / "in"), "--config", str(tmp_path / "plan.json")]
    out = ["--output", str(tmp_path / "m"), "--corruption"]
    result = CliRunner().invoke(app, [*words, *out, "scratches:0.1 | scratches:0.05+jpeg:50-90"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "m/previews").exists()
    share = RestorationNetworks(tmp_path / "m").damage(torch.zeros(1, 3, 17, 30))
    assert share.shape == (1, 1, 17, 30)
    assert 0 <= float(share.min()) <= float(share.max()) <= 1
    for other in ("gray", "scratches:0.1 | noise:25"):
        wrong = CliRunner().invoke(
            app, [*words, "--output", str(tmp_path / "n"), "--corruption", other]
        )
        said = f'must begin with scratches; "{other.split(" | ")[-1]}" does not'
        assert said in str(wrong.exception) and not (tmp_path / "n").exists()
    for key, value in (("vivid", True), ("teacher", "noise")):
        (tmp_path / "plan.json").write_text(json.dumps({**plan, key: value}))
        wrong = CliRunner().invoke(app, [*words, *out, "scratches:0.1"])
        assert f"{key} has no effect on the training of a finder" in str(wrong.exception)


def test_a_run_with_a_teacher_is_not_continued_without_it(tmp_path):
    (tmp_path / "in").mkdir()
    for k, photo in enumerate(PHOTOS):
        Image.fromarray(photo.transpose(1, 2, 0)).save(tmp_path / "in" / f"{k}.png")
    plan = {"network": {"widths": [8, 12], "blocks": 1}, "size": 24}
    (tmp_path / "a.json").write_text(json.dumps(plan))
    (tmp_path / "b.json").write_text(json.dumps({**plan, "teacher": "noise"}))
    settings = {"steps": 4, "batch": 2, "checkpoint_every": 1}
    for first, then in (("a", "b"), ("b", "a")):
        run = train_restorer(
            tmp_path / "in", tmp_path / first, "noise:25", tmp_path / f"{first}.json", settings
        )
        while not (tmp_path / first / "checkpoint.safetensors").exists():
            next(run)
        run.close()
        with pytest.raises(TrainingError, match="its teacher was"):
            list(
                train_restorer(
                    tmp_path / "in",
                    tmp_path / first,
                    "noise:25",
                    tmp_path / f"{then}.json",
                    settings,
                )
            )


def test_the_damage_is_where_it_is_seen():
    """Marks of the picture's own shade are no damage; all that changes much is."""
    x = torch.full((4, 3, 48, 48), -0.2)
    damaged, cover = Scratches(0.2).marked(x, torch.Generator().manual_seed(1))
    change = (damaged.y - x).abs().amax(dim=1, keepdim=True)
    assert cover.shape == (4, 1, 48, 48)
    assert 0 <= float(cover.min()) < float(cover.max()) <= 1
    assert (cover[change == 0] == 0).all()
    assert (cover[change > 0.5] > 0.3).all()
    again = Scratches(0.2)(x, generator=torch.Generator().manual_seed(1)).y
    assert torch.equal(again, damaged.y)


@pytest.mark.parametrize("widths", [(), (0,), (8, -1)])
def test_a_network_needs_channels(widths):
    with pytest.raises(ValueError, match="at least 1 channel"):
        Restorer(RestorerConfig(widths=widths))


@pytest.mark.parametrize(
    ("corruption", "given", "message"),
    [
        ("noise:25 | noise:9999", {}, "9999 is not a level"),
        ("noise:25", {"device": "tpu9"}, "tpu9"),
    ],
)
def test_wrong_options_are_told_before_photos_are_read(tmp_path, corruption, given, message):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    with pytest.raises(OptionError, match=message):
        next(train_restorer(tmp_path / "photos", tmp_path / "out", corruption, None, given))


def test_pictures_without_a_partner_are_listed(tmp_path):
    for kind, names in (("clean", "ab"), ("dirty", "ac")):
        (tmp_path / kind).mkdir()
        for name in names:
            Image.new("RGB", (40, 40)).save(tmp_path / kind / f"{name}.png")
    pairs, skipped = result_of(read_pairs(tmp_path, 24))
    assert len(pairs) == 1
    assert [line.split(":")[0] for line in skipped] == ["clean/b.png", "dirty/c.png"]


def test_a_run_does_not_continue_with_other_photos(tmp_path):
    config = {"network": {"widths": [8], "blocks": [1]}, "size": 16}
    (tmp_path / "c.json").write_text(json.dumps(config))
    given = {"steps": 2, "batch": 2, "warmup": 0, "device": "cpu"}

    def trained(**more):
        steps = train_restorer(
            tmp_path / "in", tmp_path / "o", "noise:25", tmp_path / "c.json", {**given, **more}
        )
        return [event for event in steps if isinstance(event, TrainProgress)]

    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 24), (200, 0, 0)).save(tmp_path / "in" / "a.bmp")
    assert len(trained()) == 2
    Image.new("RGB", (24, 24), (0, 200, 0)).save(tmp_path / "in" / "a.bmp")
    with pytest.raises(TrainingError, match="its data were different"):
        trained()
