"""One person's session of the page, without the page."""

import csv
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hostile import damaged_bytes
from test_predict import put, run_folder

from rareshot.bundle import save_bundle
from rareshot.predict import adapt_to, answers, load_classifier
from rareshot.web import limits, view
from rareshot.web import session as session_module
from rareshot.web.deeds import Deeds
from rareshot.web.intake import Upload, base_name, discard, take, uploaded
from rareshot.web.session import EndedError, Session
from rareshot.web.sessions import Sessions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny learner's run."""
    from rareshot.data.synthetic import separable

    return run_folder(tmp_path_factory.mktemp("web") / "run", separable(16, lesions=12, seed=0))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "session")


def uploads(folder: Path, count: int, shade: int, seed: int = 0) -> list[Upload]:
    files = [put(folder / f"{at}.png", shade, seed + at) for at in range(count)]
    return [Upload(str(file), file.name) for file in files]


def filled(session: Session, tmp_path: Path) -> Session:
    """Three photographs each of rosacea and lupus, four new images."""
    session.add_support(0, uploads(tmp_path / "photos" / "rosacea", 3, 170))
    session.add_support(1, uploads(tmp_path / "photos" / "lupus", 3, 20, seed=10))
    session.add_new(uploads(tmp_path / "new", 4, 100, seed=20))
    return session


def test_the_page_gives_the_bits_of_the_command_line(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    told = session.judge()
    predictor = adapt_to(run, tmp_path / "photos")
    expected = list(answers(predictor, sorted(str(file) for file in (tmp_path / "new").iterdir())))
    assert [one.probabilities for one in told] == [one.probabilities for one in expected]
    assert [one.warnings for one in told] == [one.warnings for one in expected]
    kept = session.download("classifier.safetensors")
    assert kept is not None
    assert kept.read_bytes() == save_bundle(tmp_path / "own.safetensors", predictor.bundle).read_bytes()


def test_what_a_session_gives_to_keep_opens_again(session: Session, run: Path, tmp_path: Path) -> None:
    assert session.download("classifier.safetensors") is None
    assert session.download("predictions.csv") is None
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    told = session.judge()
    classifier, table = session.download("classifier.safetensors"), session.download("predictions.csv")
    assert classifier is not None
    assert table is not None
    assert load_classifier(classifier).classes == ("lupus", "rosacea")
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == [one.path for one in told] == ["0.png", "1.png", "2.png", "3.png"]
    assert session.download("../../etc/passwd") is None


def test_sixty_hostile_uploads_are_each_named_and_write_nothing(session: Session, tmp_path: Path) -> None:
    made = damaged_bytes()
    chosen = dict(list(made.items())[:: max(1, len(made) // 60)][:60])
    assert len(chosen) == 60
    folder = tmp_path / "uploads"
    folder.mkdir()
    given = []
    for at, (name, data) in enumerate(chosen.items()):
        (folder / str(at)).write_bytes(data)
        given.append(Upload(str(folder / str(at)), f"../../{name}"))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for refused in (session.add_support(0, given), session.add_new(given)):
        assert len(refused) == 60
        for name, line in zip(chosen, refused, strict=True):
            assert line.startswith(f"{name}: ")
            assert len(line) > len(name) + 10
            assert "Traceback" not in line
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert session.conditions == [[], []]
    assert session.new == []


def test_a_hostile_upload_does_not_spoil_the_good_ones_beside_it(session: Session, tmp_path: Path) -> None:
    good = uploads(tmp_path / "good", 2, 50)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    refused = session.add_new([good[0], Upload(str(bad), "bad.jpg"), good[1]])
    assert [photograph.name for photograph in session.new] == ["0.png", "1.png"]
    assert refused == ["bad.jpg: is not an image: not JPEG, PNG, TIFF, BMP, WEBP, GIF, DICOM or HEIC by its content"]


def test_files_of_one_name_are_both_kept(session: Session, tmp_path: Path) -> None:
    one, other = put(tmp_path / "a" / "image.jpg", 20, 0), put(tmp_path / "b" / "image.jpg", 90, 1)
    session.add_support(0, [Upload(str(one), "image.jpg")])
    session.add_support(0, [Upload(str(other), "C:\\photos\\image.jpg")])
    assert [held.name for held in session.conditions[0]] == ["image.jpg", "image.jpg"]
    assert [held.file.read_bytes() for held in session.conditions[0]] == [one.read_bytes(), other.read_bytes()]


def test_a_file_that_is_too_large_is_named_with_the_limit(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as out:
        out.truncate(limits.MOST_BYTES + 2**20)
    assert session.add_new([Upload(str(file), "large.png")]) == ["large.png: has 21 MiB; at most 20 MiB are read"]


def test_more_photographs_than_there_is_room_for_are_named(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MOST_OF_A_CONDITION", 2)
    monkeypatch.setattr(session_module, "MOST_SUPPORT", 3)
    monkeypatch.setattr(session_module, "MOST_NEW", 1)
    given = uploads(tmp_path / "given", 3, 50)
    assert session.add_support(0, given) == [
        "2.png: not taken, since a condition holds at most 2; remove some, or choose the clearest ones"
    ]
    assert [line.split(",")[1] for line in session.add_support(1, given[:2])] == [
        " since the page holds at most 3; remove some"
    ]
    assert len(session.add_new(given)) == 2
    assert len(list((session.folder / "support").iterdir())) == 3
    assert len(list((session.folder / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("names", "counts", "said"),
    [
        (["", "b"], (1, 1), r"Condition 1 has no name: write one"),
        (["a", "b"], (1, 0), r"Condition 2, “b”, has no photograph: drop at least one"),
        (["a", " a "], (1, 1), r"Two conditions are called “a”: give each its own name"),
        (["a", "x" * 61], (1, 1), r"The name of condition 2 has 61 characters; at most 60 are taken: shorten it"),
        (["a", "b\u202e"], (1, 1), r"The name of condition 2, 'b\\u202e', holds characters that are no text"),
        (["a", "path"], (1, 1), r"'path' cannot be a class's name: predictions.csv has that column; rename it"),
    ],
)
def test_a_mistake_is_said_with_the_way_out(
    session: Session, run: Path, tmp_path: Path, names: list[str], counts: tuple[int, int], said: str
) -> None:
    for at, count in enumerate(counts):
        session.add_support(at, uploads(tmp_path / str(at), count, 50 + 100 * at))
    with pytest.raises(ValueError, match=said):
        session.learn(str(run), names)
    with pytest.raises(ValueError, match="Nothing is learned yet: give photographs in part 1"):
        session.judge()


def test_one_picture_in_two_conditions_is_a_mistake(session: Session, run: Path, tmp_path: Path) -> None:
    given = uploads(tmp_path / "given", 1, 50)
    session.add_support(0, given)
    session.add_support(1, given)
    with pytest.raises(ValueError, match="are the same picture; one of the labels is wrong"):
        session.learn(str(run), ["a", "b"])


def test_judging_needs_an_image_and_checking_needs_two_of_each(session: Session, run: Path, tmp_path: Path) -> None:
    for at in (0, 1):
        session.add_support(at, uploads(tmp_path / str(at), 1, 50 + 100 * at))
    session.learn(str(run), ["a", "b"])
    with pytest.raises(ValueError, match="There is no new image yet: drop at least one into part 3"):
        session.judge()
    with pytest.raises(ValueError, match="only with 2 photographs of each condition or more"):
        session.suspects()


def test_the_most_suspect_photograph_is_the_one_under_the_wrong_name(
    session: Session, run: Path, tmp_path: Path
) -> None:
    wrong = put(tmp_path / "wrong.png", 175, 99)
    session.add_support(0, [*uploads(tmp_path / "a", 4, 20), Upload(str(wrong), wrong.name)])
    session.add_support(1, uploads(tmp_path / "b", 5, 170, seed=10))
    session.learn(str(run), ["a", "b"])
    found = session.suspects()
    assert session.learned().bundle.support.names[int(found.order[0])] == "wrong.png"


def test_new_photographs_undo_what_was_learned(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    session.judge()
    session.add_support(0, uploads(tmp_path / "more", 1, 60, seed=77))
    assert session.predictor is None
    assert session.told == []


def test_answers_to_images_that_went_meanwhile_are_not_shown(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    told = session.judge()
    predictor, photographs = session.judged(told)
    assert predictor is session.predictor
    assert [one.name for one in photographs] == [one.path for one in told]
    session.clear_new()
    with pytest.raises(ValueError, match="The images have changed"):
        session.judged(told)


@pytest.mark.parametrize("conditions", [3, 4])
def test_photographs_for_a_condition_that_moved_up_meanwhile_are_not_taken(
    session: Session, tmp_path: Path, conditions: int
) -> None:
    filled(session, tmp_path)
    while len(session.conditions) < conditions:
        session.add_condition()
    failed: list[str] = []

    def drop() -> None:
        with pytest.raises(ValueError, match="The conditions have changed meanwhile") as caught:
            session.add_support(2, uploads(tmp_path / "late", 1, 90))
        failed.append(str(caught.value))

    waiting = threading.Thread(target=drop)
    with session.alone():
        waiting.start()
        time.sleep(0.2)  # until it waits for the session
        session.remove_condition(1)
    waiting.join()
    assert failed
    assert [len(held) for held in session.conditions] == [3, *[0] * (conditions - 2)]


def test_conditions_come_and_go(session: Session, tmp_path: Path) -> None:
    for _ in range(limits.MOST_CONDITIONS - 2):
        session.add_condition()
    with pytest.raises(ValueError, match="20 conditions, the most that this page takes; for more use `rareshot adapt`"):
        session.add_condition()
    session.add_support(5, uploads(tmp_path / "given", 2, 50))
    for _ in range(limits.MOST_CONDITIONS):
        session.remove_condition(0)
    assert session.conditions == [[], []]
    assert list((session.folder / "support").iterdir()) == []


def test_starting_again_leaves_no_file(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    session.judge()
    session.download("classifier.safetensors")
    session.clear()
    assert [file for file in session.folder.rglob("*") if file.is_file()] == []
    assert session.conditions == [[], []]


def test_starting_again_keeps_the_classifier_that_the_page_began_with(run: Path, tmp_path: Path) -> None:
    for at, name in enumerate(("dark", "light")):
        put(tmp_path / "photos" / name / "0.png", 20 + 150 * at, at)
    start = adapt_to(run, tmp_path / "photos")
    session = Session(tmp_path / "session", start)
    session.add_new(uploads(tmp_path / "new", 2, 50))
    session.judge()
    session.clear()
    assert session.learned() is start
    assert session.told == []


def test_every_answer_has_a_map_and_its_nearest_photographs(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    session.judge()
    found = session.why(0)
    assert found.map.startswith("data:image/png;base64,")
    assert len(found.nearest) == 3
    assert {one.label for one in found.nearest} <= {"rosacea", "lupus"}
    session.report()
    report = (session.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert all(picture in report for picture in (found.map, *(one.image for one in found.nearest)))
    session.add_new(uploads(tmp_path / "more", 1, 50, seed=5))
    with pytest.raises(ValueError, match="The images have changed: press “Judge the new images” again"):
        session.why(0)


def test_a_report_is_made_once_there_are_answers_and_goes_with_them(
    session: Session, run: Path, tmp_path: Path
) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    with pytest.raises(ValueError, match="There is no answer to report yet"):
        session.report()
    session.judge()
    session.report()
    file = session.download("report.html")
    assert file is not None
    assert "3.png" in file.read_text()
    session.clear_new()
    assert session.download("report.html") is None


@pytest.mark.usefixtures("ascii_locale")
def test_a_report_is_in_utf_8_as_it_says_whatever_the_locale(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosácea", "lupus"])
    session.judge()
    session.report()
    file = session.download("report.html")
    assert file is not None
    text = file.read_bytes().decode("utf-8")
    assert '<meta charset="utf-8">' in text
    assert "rosácea" in text


def test_a_session_that_ended_has_no_folder_and_does_nothing_more(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    session.end()
    assert not session.folder.exists()
    for deed in (session.judge, session.clear, session.suspects, lambda: session.download("classifier.safetensors")):
        with pytest.raises(EndedError, match=r"its images are deleted\. Reload the page"):
            deed()
    assert not session.folder.exists()


def test_work_of_somebody_who_left_stops_at_its_next_step(session: Session, run: Path, tmp_path: Path) -> None:
    filled(session, tmp_path).learn(str(run), ["rosacea", "lupus"])
    done = []

    def leave(step: int, total: int) -> None:
        done.append(step)
        session.ended = True

    with pytest.raises(EndedError):
        session.judge(observe=leave)
    assert done == [1]


def test_sessions_are_apart_and_an_ended_key_is_not_opened_again(tmp_path: Path) -> None:
    with Sessions(tmp_path / "all").closing() as sessions:
        one, other = sessions.of("one"), sessions.of("other")
        assert one is sessions.of("one")
        assert one.folder != other.folder
        assert one.token != other.token
        assert sessions.by_token(one.token) is one
        assert sessions.by_token("guessed") is None
        sessions.end("one")
        with pytest.raises(EndedError):
            sessions.of("one")
        assert sessions.by_token(one.token) is None
        assert other.folder.exists()
        sessions.end_idle(-1.0)
        assert len(sessions) == 0
        last = sessions.of("last")
    assert not last.folder.exists()


def test_there_is_room_for_so_many_people(tmp_path: Path) -> None:
    with Sessions(tmp_path / "all").closing() as sessions:
        for number in range(limits.MOST_SESSIONS):
            sessions.of(str(number))
        with pytest.raises(ValueError, match="50 people use this page now, the most that it takes: try again later"):
            sessions.of("one more")


def test_names_keep_their_last_part_only() -> None:
    assert base_name("../../etc/passwd") == "passwd"
    assert base_name("C:\\photos\\1.jpg") == "1.jpg"
    assert base_name("photos/") == "file"
    assert len(base_name("x" * 500)) == 120


def test_uploads_go_with_their_folders(tmp_path: Path) -> None:
    file = put(tmp_path / "token" / "a.png", 50, 0)
    taken, refused = take([Upload(str(file), "a.png")], tmp_path)
    assert refused == []
    discard([Upload(str(file), "a.png"), Upload(str(tmp_path / "gone" / "b.png"), "b.png")])
    assert not file.parent.exists()
    assert taken[0].file.exists()


def test_an_upload_lies_in_a_folder_of_its_own_among_the_uploads(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    own, outside = put(folder / "token" / "a.png", 50, 0), put(tmp_path / "sessions" / "new" / "b.png", 50, 0)
    (folder / "linked.png").symlink_to(outside)
    (folder / "token" / "linked.png").symlink_to(outside)
    (folder / "links").symlink_to(outside.parent)
    assert uploaded([{"path": str(own), "orig_name": "C:\\x.png"}], folder) == [Upload(str(own), "x.png")]
    assert uploaded([{"path": str(own)}], folder) == [Upload(str(own), "a.png")]
    gone = f"{folder}/gone/a.png"
    assert uploaded([{"path": gone}], folder) == [Upload(gone, "a.png")]  # said when it is read
    for path in (
        *(str(outside), f"{folder}/linked.png", f"{folder}/token/linked.png", f"{folder}/links/b.png", str(folder)),
        *(f"{folder}/token", f"{folder}/token/..", f"{folder}/../b.png", f"{folder}/token/../../sessions/new/b.png"),
        *(f"{folder}/token/deep/a.png", "uploads/token/a.png", f"/{own}", f"{own}/", "a.png", "", None, 7, [own]),
        *("http://127.0.0.1/a.png", f"http://{own}", f"file://{own}", f"{own}\0", f"{folder}/token/\ud800"),
    ):
        with pytest.raises(ValueError, match=r"^a\.png was not uploaded to this page: drop it again"):
            uploaded([{"path": str(own)}, {"path": path, "orig_name": "a.png"}], folder)


def test_a_deed_takes_and_deletes_uploads_only(session: Session, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.png", 50, 0)
    deeds = Deeds(cast(Any, None), dict, [], tmp_path / "uploads")
    for deed in (deeds.support(0), deeds.new):
        with pytest.raises(ValueError, match=r"^a\.png was not uploaded to this page"):
            list(deed(session, [{"path": str(outside), "orig_name": "a.png"}]))
    assert outside.exists()
    assert session.conditions == [[], []]
    assert session.new == []


def test_no_text_of_a_person_becomes_markup(session: Session, tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">'
    file = put(tmp_path / "a.png", 50, 0)
    session.add_new([Upload(str(file), evil)])
    from rareshot.predict import Answer

    told = [Answer(evil, evil, (0.5, 0.5), (evil,))]
    for html in (
        view.shelf(session.new),
        view.note(evil),
        view.refusals([evil], [evil]),
        view.answer_cards((evil, "b"), told, [session.new[0].thumbnail]),
    ):
        assert "<img src=x" not in html
        assert 'onerror="' not in html
