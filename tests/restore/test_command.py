"""The command: files, options, reports, and one sentence for each wrong input."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.restore.common import PHOTO, mask, run

from sfumato.cli import main
from sfumato.data.photo import Photo, read
from sfumato.denoiser.restorer import Restorer, RestorerConfig
from sfumato.errors import OptionError
from sfumato.hub.catalog import restorers
from sfumato.hub.describe import describe
from sfumato.hub.save import save_network
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import UNDOES, RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.run import PATCHES, stream


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"denoise": 25.0}, (110, 80)),
        ({"denoise": "auto"}, (110, 80)),
        ({"clean": True}, (110, 80)),
        ({"enlarge": 2}, (220, 160)),
        ({"enlarge": 1.5, "denoise": 10.0}, (165, 120)),
        ({"enlarge": 2, "colorize": True, "denoise": "auto", "fill_box": (0, 0, 9, 9)}, (220, 160)),
    ],
    ids=str,
)
def test_any_combination(options, size, repairer):
    photo = Photo(PHOTO, alpha=PHOTO[..., 0])
    made = restore(photo, RestoreOptions(**options), repairer)
    assert made.photo.size == size
    assert made.photo.alpha.shape == size[::-1]


@pytest.mark.parametrize(
    "options", [{"denoise": 20.0}, {"enlarge": 2.5, "fill_box": (60, 10, 20, 30)}], ids=str
)
def test_windows_change_nothing(options, repairer, monkeypatch):
    photo = Photo(np.tile(PHOTO, (4, 3, 1)))
    whole = restore(photo, RestoreOptions(**options), repairer).photo.values.astype(int)
    monkeypatch.setattr("sfumato.tasks.restore.run.TILE", 128)
    *windows, last = stream(photo, RestoreOptions(**options), repairer)
    assert len(windows) > 5 and windows[-1].done <= windows[-1].total
    assert np.abs(last.photo.values - whole).max() <= 1
    monkeypatch.setattr("sfumato.tasks.restore.stage.MARGIN", 0)
    # what the margin is for
    assert (
        np.abs(restore(photo, RestoreOptions(**options), repairer).photo.values - whole).max() > 1
    )


def test_the_best_answer_does_not_depend_on_how_a_picture_lies(repairer):
    turned, differences = Photo(np.ascontiguousarray(np.rot90(PHOTO)[:, ::-1])), []
    for ensemble in (False, True):
        a, b = (
            restore(photo, RestoreOptions(denoise=20.0, ensemble=ensemble), repairer).photo.values
            for photo in (Photo(PHOTO), turned)
        )
        differences.append(np.abs(np.rot90(a)[:, ::-1].astype(int) - b).max())
    assert differences[1] <= 1 < differences[0]


def test_the_quality_of_a_jpeg_is_told(repairer, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=31)
    made = restore(read(tmp_path / "a.jpg"), RestoreOptions(dejpeg="auto"), repairer)
    assert made.report["quality"] == 31
    other = restore(read(tmp_path / "a.jpg"), RestoreOptions(dejpeg=80), repairer)
    assert (made.photo.values != other.photo.values).any()
    with pytest.raises(OptionError, match="not a JPEG, so its JPEG quality is not known"):
        restore(Photo(PHOTO), RestoreOptions(dejpeg="auto"), repairer)


def test_wrong_input(repairer, tmp_path):
    photo = Photo(PHOTO)
    cases = [
        ({"fill": mask(tmp_path / "a.png", (9, 9), (0, 0, 3, 3))}, "must agree"),
        ({"fill": mask(tmp_path / "b.png")}, "no white pixels"),
        ({"fill": mask(tmp_path / "c.png", white=(0, 0, 110, 80))}, "no known pixels are left"),
        ({"fill_box": (100, 0, 20, 20)}, "within the picture"),
        ({"fill_box": (0, 0, 0, 4)}, "is empty; give a width and height"),
    ]
    for options, message in cases:
        with pytest.raises(OptionError, match=message):
            restore(photo, RestoreOptions(**options), repairer)


def test_a_folder_with_a_broken_file_and_a_second_run(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    words = [
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--model",
        folder,
        "--denoise",
        "25",
        "--json",
        "--compare",
    ]
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 3, "some failed"
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(tmp_path / "out/a.png"),
        str(tmp_path / "out/b.jpg"),
    ]
    assert "c.png cannot be read" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "a.png",
        "b.jpg",
        "a-compare.png",
        "b-compare.png",
    }
    with (
        Image.open(tmp_path / "out/a.png") as made,
        Image.open(tmp_path / "out/a-compare.png") as both,
    ):
        assert json.loads(made.text["sfumato"])["sigma"] == 25
        assert both.size == (224, 80)
    (tmp_path / "in/c.png").unlink()
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, out) == (0, ""), "a script that repeats the command has not failed"
    assert "nothing to do: all 2 pictures exist already" in err
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "in",
        "--output",
        tmp_path / "new",
        "--model",
        folder,
        "--fill",
        "none.png",
    )
    assert code == 2, "a wrong option is no picture to leave out"
    assert err.strip().splitlines() == ["sfumato: none.png does not exist"]
    assert not (tmp_path / "new").exists()
    (tmp_path / "out/a.png").unlink()
    code, out, _ = run(capsys, monkeypatch, *words)
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(tmp_path / "out/a.png")
    ], "what is done stays"


def test_one_picture_that_fits_not_stops_no_other(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "in/a.png")  # no JPEG: its quality is not known
    Image.fromarray(PHOTO).save(tmp_path / "in/b.jpg")
    words = ["--output", tmp_path / "out", "--model", folder, "--dejpeg"]
    code, out, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert code == 3
    assert out.startswith(str(tmp_path / "out/b.jpg"))
    assert "left out" in err
    assert "a.png" in err
    code, out, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert (code, out) == (3, ""), "the same command again is as successful as before"
    assert "left out" in err
    (tmp_path / "in/b.jpg").unlink()
    code, _, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert code == 2, "nothing could be restored"
    assert "none of the 1 pictures" in err


def test_a_folder_with_folders_and_comparisons_that_are_missing(
    folder, tmp_path, capsys, monkeypatch
):
    (tmp_path / "in/trip/day").mkdir(parents=True)
    for name in ("a.png", "trip/a.png", "trip/day/b.bmp"):
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    words = [tmp_path / "in", "--output", tmp_path / "in/new", "--model", folder, "--denoise", "25"]
    made = {"a.png", "trip/a.png", "trip/day/b.bmp"}
    for more, expected in (([], made), ([], set()), (["--compare"], made), (["--compare"], set())):
        code, out, _ = run(capsys, monkeypatch, *words, *more)
        assert code == 0
        assert {
            str(Path(line.split(" (")[0]).relative_to(tmp_path / "in/new"))
            for line in out.splitlines()
        } == expected
    assert (tmp_path / "in/new/trip/day/b-compare.png").exists()


def test_a_single_picture_is_not_replaced_for_its_comparison(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    words = [
        tmp_path / "a.png",
        "--denoise",
        "10",
        "--model",
        folder,
        "--output",
        tmp_path / "b.png",
    ]
    assert run(capsys, monkeypatch, *words)[0] == 0
    for more in ([], ["--compare"]):
        code, _, err = run(capsys, monkeypatch, *words, *more)
        assert code == 2
        assert "b.png exists already; give --overwrite" in err


def test_the_report_names_the_network_that_was_asked(tmp_path):
    said = {
        o: restore(Photo(PHOTO[:32, :32]), RestoreOptions.build({o: v})).report["model_sha256"]
        for o, v in (("colorize", True), ("denoise", 25.0))
    }
    expected = {"colorize": "tints", "denoise": "noise"}
    assert said == {o: RestorationNetworks().sha256(part) for o, part in expected.items()}


def test_answers_are_not_mistaken_for_pictures(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("IMG.png", "IMG-1.png"):
        Image.fromarray(PHOTO[:16, :16]).save(tmp_path / "in" / name)
    words = ["--output", tmp_path / "out", "--model", folder, "--denoise", "25"]
    assert (
        run(
            capsys,
            monkeypatch,
            tmp_path / "in/IMG-1.png",
            *words[:1],
            tmp_path / "out/",
            *words[2:],
        )[0]
        == 0
    )
    code, out, _ = run(capsys, monkeypatch, str(tmp_path / "in/*.png"), *words)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [str(tmp_path / "out/IMG.png")]


def test_two_pictures_are_not_written_to_one_file(folder, tmp_path, capsys, monkeypatch):
    for name in ("a/x.png", "b/x.png", "c/x.gif", "c/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PHOTO[:8, :8]).save(tmp_path / name)
    words = "--output", tmp_path / "out", "--model", folder, "--denoise", "25"
    code, _, err = run(capsys, monkeypatch, tmp_path / "a", tmp_path / "b", *words)
    assert code == 2
    assert "would both be written" in err
    assert not (tmp_path / "out").exists()
    masked = (*words, "--fill-box", "1,1,3,3", "--save-mask")
    code, _, _ = run(capsys, monkeypatch, tmp_path / "c", *masked[2:], "--output", tmp_path / "two")
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["x-gif-mask.png", "x-gif.png", "x-png-mask.png", "x.png"]
    code, _, _ = run(capsys, monkeypatch, tmp_path / "c", *words, "--compare")
    assert code == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["x-gif-compare.png", "x-gif.png", "x-png-compare.png", "x.png"], (
        "their endings tell them apart"
    )


def test_no_claim_about_pixels_that_jpeg_changes(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    for name, claimed in (("b.png", True), ("b.jpg", False)):
        words = [
            tmp_path / "a.png",
            "--fill-box",
            "5,5,8,8",
            "--output",
            tmp_path / name,
            "--model",
            folder,
            "--json",
        ]
        report = json.loads(run(capsys, monkeypatch, *words)[1])
        assert ("largest_change_elsewhere" in report) == claimed
        assert bool(report["notes"]) != claimed


def test_what_a_shrunk_gray_result_differs_by_is_told(repairer):
    for values in (PHOTO, PHOTO[..., :1], np.repeat(PHOTO[..., :1], 3, axis=2), PHOTO[:1, :2]):
        report = restore(Photo(values), RestoreOptions(enlarge=2.0), repairer).report
        assert report["shrunk_difference"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to undo"),
        (["--denoise=much"], "write auto or a number"),
        (["--noise-level", "much"], "write auto or a number"),
        (["--denoise", "much"], "much does not exist"),
        (["--denoise", "-3"], "above 0 and at most 255"),
        (["--dejpeg", "0"], "within 1 to 100"),
        (["--dejpeg", "2.5"], "auto or a whole number"),
        (["--denoise", "30%"], "auto or a number"),
        (["--fill-color", "raed"], "#rrggbb"),
        (["--colorize", "--hint", "1,2,raed"], "#rrggbb"),
        (["--hint", "1,2,#ff0000"], "need --colorize"),
        (["--denoise", "9", "--saturation", "2"], "need --colorize"),
        (["--colorize", "--like", "no.png"], "no.png"),
        (["--colorize", "--hint", "1,2"], "X,Y,#rrggbb"),
        (["--dejpeg"], "not a JPEG, so its JPEG quality is not known"),
        (["--colorize", "--hint", "500,2,#ff0000"], "within the picture"),
        (["--enlarge", "9"], "enlarge"),
        (["--fill-box", "1,2,3"], "write X,Y,W,H"),
        (["--fill", "none.png"], "does not exist"),
        (["--model", "nowhere", "--colorize"], "no restorer"),
    ],
)
def test_wrong_options(words, message, folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    given = [] if "--model" in words else ["--model", folder]
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "a.png", "--output", tmp_path / "b.png", *given, *words
    )
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert {p.name for p in tmp_path.iterdir()} == {"a.png"}


def test_denoise_needs_no_value(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    words = ["--denoise", tmp_path / "a.png", "--output", tmp_path / "b.png", "--model", folder]
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'b.png'} (noise ")


def test_a_comparison_does_not_replace_what_is_there(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a-compare.png").write_bytes(b"mine")
    (tmp_path / "notes").write_bytes(b"")
    for output, sentence in (
        ("out", "a-compare.png exists already"),
        ("notes", "notes is a file; give a folder"),
    ):
        words = [
            tmp_path / "a.png",
            "--denoise",
            "10",
            "--model",
            folder,
            "--output",
            tmp_path / output,
            "--compare",
        ]
        code, _, err = run(capsys, monkeypatch, *words)
        assert code == 2
        assert sentence in err
    assert (tmp_path / "out/a-compare.png").read_bytes() == b"mine"
    assert not (tmp_path / "out/a.png").exists()


def test_a_picture_is_never_replaced_by_what_is_made_of_it(capsys, monkeypatch, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(PHOTO[:16, :16]).save(tmp_path / name)
    before = (tmp_path / "a.png").read_bytes()
    code, _, err = run(
        capsys, monkeypatch, tmp_path, "--denoise", 5, "--output", tmp_path, "--overwrite"
    )
    assert (code, "give another --output" in err) == (2, True)
    assert (tmp_path / "a.png").read_bytes() == before


def test_clean_needs_a_network_of_ones_own():
    with pytest.raises(OptionError, match="--clean needs --model"):
        restore(Photo(PHOTO), RestoreOptions(clean=True))


def test_several_things_are_undone_in_turn_by_the_network_for_each():
    options = {"fill_box": (4, 4, 8, 8), "denoise": 20.0, "enlarge": 2.0}
    photo, events = (
        Photo(PHOTO[:40, :56]),
        list(stream(Photo(PHOTO[:40, :56]), RestoreOptions.build(options), RestorationNetworks())),
    )
    by_hand = photo
    for name, value in options.items():
        by_hand = restore(by_hand, RestoreOptions.build({name: value})).photo
    last = events[-1]
    assert np.array_equal(last.photo.values, by_hand.values)
    # the way to the end has room for patches; this hole is too narrow
    assert [e.done for e in events[:-1]] == [1, 2 + PATCHES, 3 + PATCHES]
    assert {e.total for e in events[:-1]} == {3 + PATCHES}
    assert last.report["model_sha256"] == {
        part: RestorationNetworks().sha256(part) for part in ("gaps", "noise", "size")
    }
    assert last.report["sigma"] == 20
    assert not {"largest_change_elsewhere", "shrunk_difference"} & last.report.keys(), (
        "they hold of one stage alone"
    )


def test_a_network_of_ones_own_undoes_all_together(repairer):
    asked = []
    repair = repairer.repair
    repairer.repair = lambda *given: asked.append(given[3]) or repair(*given)
    made = restore(Photo(PHOTO[:40, :56]), RestoreOptions(denoise=20.0, enlarge=2.0), repairer)
    assert asked == [None]
    assert made.report["model_sha256"] == repairer.sha256("photos")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoise": 9.0, "sensitivity": 0.7}, "--sensitivity needs --fill-scratches"),
        ({"fill_box": (1, 1, 2, 2), "fill_tolerance": 9.0}, "--fill-tolerance needs --fill-color"),
    ],
    ids=str,
)
def test_options_of_what_is_not_asked_for(options, message):
    with pytest.raises(OptionError, match=message):
        RestoreOptions(**options)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("scratches", ["--denoise", "9"]),
        ("gaps", ["--denoise", "9"]),
        ("photos", ["--clean"]),
        ("photos", ["--colorize"]),
    ],
)
def test_a_bundled_network_is_refused_for_other_damage(model, words, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    given = (tmp_path / "a.png", "--output", tmp_path / "b.png", "--model", model, *words)
    code, _, err = run(capsys, monkeypatch, *given)
    assert code == 2 and f"the bundled network {model} is for" in err
    if words == ["--denoise", "9"]:
        monkeypatch.setattr(sys, "argv", ["sfumato", "evaluate", "restore", str(tmp_path), *words])
        sys.argv += ["--model", model]
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2


def test_options_may_be_a_mapping():
    made = restore(PHOTO, {"denoise": 5})
    assert made.report["sigma"] == 5
    with pytest.raises(OptionError, match="must be a RestoreOptions"):
        restore(PHOTO, 5)


@pytest.mark.parametrize("name", restorers())
def test_every_bundled_restorer_is_described(name):
    about = describe(name)
    assert about["description"].endswith(".") and about["license"] == "Apache-2.0"


def test_every_bundled_restorer_has_its_kinds_of_damage():
    assert UNDOES.keys() == set(restorers())


@pytest.mark.parametrize(
    ("corruption", "able"),
    [("noise:0-50", "--denoise"), ("jpeg:30+down:2 | mask:text", "--dejpeg, --enlarge, --fill")],
)
def test_a_restorer_of_ones_own_says_what_it_learned(corruption, able, tmp_path):
    network = Restorer(RestorerConfig(widths=(8,), blocks=1, corruption=corruption))
    save_network(network, tmp_path / "own")
    own = str(tmp_path / "own")
    wrong = {"colorize": True} if "mask" in corruption else {"fill_box": (0, 0, 2, 2)}
    with pytest.raises(OptionError, match=f"is for {able}, not for"):
        restore(Photo(PHOTO), RestoreOptions(model=own, **wrong))
    right = {"dejpeg": 30} if "jpeg" in corruption else {"denoise": 10.0}
    restore(Photo(PHOTO), RestoreOptions(model=own, **right))


def test_a_mask_that_may_be_inverted_is_told(repairer, tmp_path):
    given = mask(tmp_path / "most.png", white=(0, 0, 110, 75))
    made = restore(Photo(PHOTO), RestoreOptions(fill=given), repairer)
    assert "white pixels of the mask are replaced" in made.notes[0]


def test_the_report_names_the_given_options_only(repairer):
    made = restore(Photo(PHOTO), RestoreOptions(denoise=9, ensemble=True), repairer)
    options = set(RestoreOptions.model_fields) & set(made.report)
    assert options == {"denoise", "ensemble"}


@pytest.mark.parametrize(("suffix", "longest"), [(".webp", "16,383"), (".jpg", "65,500")])
def test_a_result_too_large_for_its_format_is_told_before_the_work(
    suffix, longest, tmp_path, capsys, monkeypatch
):
    Image.new("L", (20_000, 1)).save(tmp_path / "a.png")
    words = ["--enlarge", "4", "--output", tmp_path / f"b{suffix}"]
    monkeypatch.setattr("sfumato.tasks.restore.stage.Stage.__init__", pytest.fail)
    code, _, err = run(capsys, monkeypatch, tmp_path / "a.png", *words)
    assert code == 2
    assert f"at most {longest} pixels per side" in err
