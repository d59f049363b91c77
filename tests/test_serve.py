"""The page as it is served: the door, real uploads, many people at once, nothing left behind."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import pytest
from hostile import damaged_bytes
from served import HOST, Person, Served, ask, serving
from test_predict import put, run_folder

from rareshot.bundle import save_bundle
from rareshot.cli import main
from rareshot.data.synthetic import separable
from rareshot.predict import adapt_to, answers
from rareshot.predictions import write_answers
from rareshot.web import limits, places
from rareshot.web.places import private_folder
from rareshot.web.server import Page, _sweep, listen, require_web, sweep
from rareshot.web.sessions import Sessions

needs_web = pytest.mark.skipif(
    find_spec("gradio") is None, reason="the extra `web` is not installed: pip install 'rareshot[web]'"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny learner's run."""
    return run_folder(tmp_path_factory.mktemp("serve") / "run", separable(16, lesions=12, seed=0))


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    """A page; none of what it is sent makes it say anything but its own lines."""
    with serving(run.parent / "page", str(run)) as page:
        yield page
        assert page.stop() == 130
        assert page.errors.read_text().splitlines()[1:] == ["rareshot: stopped"]
        assert page.folders() == []


def whole_way(port: int, run: Path, folder: Path, person: int) -> None:
    """Give photographs of two conditions, learn, judge, download; all of it must be this person's own, to the last byte."""
    names = [f"person {person} dark", f"person {person} light"]
    for at, (name, shade) in enumerate(zip(names, (20, 170), strict=True)):
        for number in range(3):
            put(folder / "photos" / name / f"{number}.png", shade, 1000 * person + 10 * at + number)
    new = [put(folder / "new" / f"{number}.png", 90, 1000 * person + 500 + number) for number in range(3)]
    new.append(put(folder / "new" / "3.png", 90, 7))  # the same bytes and name for everybody
    with Person(port) as somebody:
        for at, name in enumerate(names, 1):
            somebody.drop(f"support_{at}", sorted((folder / "photos" / name).iterdir()))
        somebody.drop("new_images", new)
        learned, judged = somebody.learn(str(run), names), somebody.press("judge")
        assert set(re.findall(r"person \d+ (?:dark|light)", learned + judged)) == set(names)
        predictor = adapt_to(run, folder / "photos")
        own = save_bundle(folder / "own.safetensors", predictor.bundle)
        assert somebody.download(learned, "classifier.safetensors") == own.read_bytes()
        told = list(answers(predictor, [str(file) for file in new]))
        expected = write_answers(folder / "own.csv", predictor.classes, told).read_text().replace(f"{folder}/new/", "")
        assert somebody.download(judged, "predictions.csv").decode() == expected


def at_once(page: Served, run: Path, folder: Path, people: int) -> None:
    with ThreadPoolExecutor(people) as pool:
        jobs = [pool.submit(whole_way, page.port, run, folder / str(person), person) for person in range(people)]
        for job in jobs:
            job.result()
    assert page.files_at_last() == []


@needs_web
def test_three_people_at_once_get_their_own_answers_and_leave_nothing(
    served: Served, run: Path, tmp_path: Path
) -> None:
    at_once(served, run, tmp_path, 3)


@needs_web
@pytest.mark.long
def test_twenty_people_at_once_get_their_own_answers_and_leave_nothing(
    served: Served, run: Path, tmp_path: Path
) -> None:
    at_once(served, run, tmp_path, 20)


@needs_web
def test_sixty_hostile_uploads_are_each_named_on_the_page(served: Served, tmp_path: Path) -> None:
    made = damaged_bytes()
    chosen = dict(list(made.items())[:: len(made) // 60][:60])
    for name, data in chosen.items():
        (tmp_path / name).write_bytes(data)
    with Person(served.port) as person:
        names = sorted(chosen)
        said = "".join(
            person.drop("new_images", [tmp_path / name for name in names[at : at + 15]]) for at in range(0, 60, 15)
        )
        assert [name for name in names if f"<li>{name}: " not in said] == []
        assert {file.name for file in tmp_path.iterdir()} == set(names)
        assert served.files() == []
    assert "Traceback" not in said + served.errors.read_text()


@needs_web
def test_a_mistake_is_said_on_the_page_without_a_traceback(served: Served, run: Path) -> None:
    with Person(served.port) as person:
        assert "Condition 1 has no name: write one into its field in part 1." in person.learn(str(run), ["", ""])
        assert "Nothing is learned yet: give photographs in part 1" in person.press("judge")
        assert "Traceback" not in served.errors.read_text()


@needs_web
def test_files_where_a_text_belongs_are_a_mistake_in_words(served: Served, tmp_path: Path) -> None:
    swapped = (400, b"A field got what belongs into another: reload the page, and do it again.")
    with Person(served.port) as person:
        kept = person.upload([put(tmp_path / "a.png", 80, 0)])
        assert person.call("learn", "", kept, *[""] * 19) == swapped
        assert person.call("remove_1", kept, *[""] * 19) == swapped
        assert person.call("support_1", "a text") == swapped
        for name, *values in (["learn", ""], ["support_1"], ["judge", "more"]):
            assert person.call(name, *values) == (400, b"This is no call of the page.")
        assert "is not a learner of this page" in person.press("learn", *[None] * 21)
        person.press("support_1", None)
    assert "Traceback" not in served.errors.read_text()


@needs_web
def test_a_person_chooses_among_the_learners_of_the_page_only(served: Served, tmp_path: Path) -> None:
    with Person(served.port) as person:
        for at in (1, 2):
            person.drop(f"support_{at}", [put(tmp_path / f"{at}.png", 80 * at, at)])
        assert "is not a learner of this page" in person.learn("/etc", ["a", "b"])


@needs_web
def test_nobody_downloads_by_guessing_and_nothing_of_gradio_gives_files(served: Served) -> None:
    (folder,) = served.folders()
    secret = put(folder / "uploads" / "x" / "secret.png", 50, 0)
    for path in (
        "/download/guess/classifier.safetensors",
        f"/gradio_api/file={secret}",
        f"/file={secret}",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/monitoring/x",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/vibe-code",
    ):
        assert ask(served.port, path)[0] == 404, path
    secret.unlink()


@needs_web
@pytest.mark.parametrize("kind", [{}, {"is_stream": True}], ids=["file", "stream"])
def test_only_what_was_uploaded_is_read_shown_or_deleted(served: Served, tmp_path: Path, kind: dict[str, bool]) -> None:
    outside = put(tmp_path / "outside.png", 50, 0)
    (folder,) = served.folders()
    link = folder / "uploads" / "linked" / "outside.png"
    link.parent.mkdir()
    link.symlink_to(outside)
    with Person(served.port) as person:
        for path in (outside, link, f"{folder}/uploads/../../../../..{outside}", "http://127.0.0.1:1/a.png"):
            file = {"path": str(path), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}, **kind}
            for deed, *values in (
                ["support_1", [file]],
                ["new_images", [file]],
                ["learn", "", file],
                ["remove_1", file],
            ):
                status, told = person.call(deed, *values, *[""] * 20)
                assert (status, outside.exists()) == (400, True), (path, deed, told)
    link.unlink()
    link.parent.rmdir()


@needs_web
def test_a_call_that_is_none_of_the_page_s_is_refused_in_words(served: Served) -> None:
    path = "/gradio_api/queue/join"
    for body, said in (
        (b"hello", b"This is no call of the page."),
        (b"[" * 100_000, b"This is no call of the page."),
        (b'{"data": 1}', b"This is no call of the page."),
        (b'{"data": [], "fn_index": 1000}', b"This is no call of the page."),
        (b'{"data": [], "fn_index": [0]}', b"This is no call of the page."),
        (b'{"data": [{"__type__": "update"}]}', b"The page hands over texts and uploaded files; this is neither."),
        (b" " * (limits.MOST_BYTES_OF_A_CALL + 1), b"More than 4 MB in one call: drop fewer files."),
    ):
        assert ask(served.port, path, "POST", body, Content_Type="application/json")[::2] == (400, said)


@needs_web
def test_other_names_and_other_origins_stay_outside(served: Served) -> None:
    status, headers, page = ask(served.port, "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert b"googleapis" not in page
    assert ask(served.port, "/", Host="evil.example")[0] == 403
    assert ask(served.port, "/", Origin="https://evil.example")[0] == 403
    assert ask(served.port, "/", Origin=served.address)[0] == 200


@needs_web
def test_an_upload_without_sense_is_refused_in_words(served: Served) -> None:
    kind = "multipart/form-data; boundary=x"
    text = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nhello\r\n--x--\r\n'
    assert (
        b"holds text where a file should be"
        in ask(served.port, "/gradio_api/upload", "POST", text, Content_Type=kind)[2]
    )
    file = text.replace(b'"files"', b'"files"; filename="../../../evil\\..\\a b.png"')
    status, _, told = ask(served.port, "/gradio_api/upload", "POST", file, Content_Type=kind)
    assert status == 200
    kept = Path(json.loads(told)[0])
    assert kept.name == "_a b.png"
    assert kept.parent.parent.name == "uploads"
    assert kept.is_relative_to(served.folder)
    kept.unlink()
    status, _, told = ask(served.port, "/gradio_api/upload", "POST", b"", Content_Type=kind, Content_Length=str(2**30))
    assert (status, told) == (413, b"1024 MB at once; at most 512 MB: drop fewer files.")


@needs_web
def test_a_classifier_goes_straight_to_new_images_and_sigterm_leaves_nothing(run: Path, tmp_path: Path) -> None:
    for at, name in enumerate(("dark", "light")):
        put(tmp_path / "photos" / name / "0.png", 20 + 150 * at, at)
    predictor = adapt_to(run, tmp_path / "photos")
    file = save_bundle(tmp_path / "own.safetensors", predictor.bundle)
    new = put(tmp_path / "new.png", 90, 9)
    with serving(tmp_path / "page", str(file)) as page, Person(page.port) as person:
        person.drop("new_images", [new])
        judged = person.press("judge")
        assert page.files()
        assert page.stop(signal.SIGTERM) == 143
        assert page.folders() == []
    (told,) = answers(predictor, [str(new)])
    assert f"{100 * max(told.probabilities):.1f} %" in judged


def test_uploads_that_nobody_took_and_idle_sessions_go(tmp_path: Path) -> None:
    old, fresh = (put(tmp_path / "uploads" / name / "a.png", 50, 0) for name in ("old", "fresh"))
    os.utime(old.parent, (0, 0))
    with Sessions(tmp_path / "sessions").closing() as sessions:
        idle, busy = sessions.of("idle"), sessions.of("busy")
        idle.touched -= 3601
        sweep(Page(None, sessions, tmp_path))
        assert not old.parent.exists()
        assert fresh.exists()
        assert not idle.folder.exists()
        assert busy.folder.exists()


def test_a_folder_that_somebody_cleared_away_does_not_end_the_sweeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rareshot.web.server.SWEEP_S", 0.001)
    stop, swept = threading.Event(), []
    with Sessions(tmp_path / "sessions").closing() as sessions:
        monkeypatch.setattr(Sessions, "end_idle", lambda _: swept.append(1) if len(swept) < 3 else stop.set())
        _sweep(Page(None, sessions, tmp_path), stop)  # there are no uploads
    assert len(swept) == 3


def test_what_a_killed_page_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    left = tmp_path / "rareshot-serve-killed"
    put(left / "sessions" / "000001" / "new" / "000000.png", 50, 0)
    (left / "lock").touch()  # which nobody holds any more
    with private_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.stat().st_mode & 0o77 == 0
        with private_folder(tmp_path) as other:
            assert set(tmp_path.iterdir()) == {folder, other}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_anybody_may_have_made_holds_nothing_up_and_stays(tmp_path: Path) -> None:
    pipe, link, folder = (tmp_path / f"rareshot-serve-{name}" / "lock" for name in ("pipe", "link", "folder"))
    for lock in (pipe, link, folder):
        lock.parent.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(put(tmp_path / "held.png", 50, 0))
    folder.mkdir()
    made: list[Path] = []

    def make() -> None:
        with private_folder(tmp_path) as new:
            made.append(new)

    making = threading.Thread(target=make, daemon=True)  # a pipe that nobody writes to would hold it for ever
    making.start()
    making.join(20)
    assert made
    assert all(os.path.lexists(lock) for lock in (pipe, link, folder))


def test_a_folder_whose_lock_is_another_user_s_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "rareshot-serve-foreign" / "lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setattr(os, "geteuid", lambda: lock.stat().st_uid + 1)
    with private_folder(tmp_path):
        assert lock.exists()


def test_a_server_that_starts_meanwhile_takes_no_folder_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, others = places._hold, ExitStack()

    def slowly(file: TextIO) -> None:
        monkeypatch.setattr(places, "_hold", hold)
        others.enter_context(private_folder(tmp_path))
        hold(file)

    with others:
        monkeypatch.setattr(places, "_hold", slowly)
        with private_folder(tmp_path) as folder:
            assert (folder / "lock").is_file()
            assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_private_folder_is_told_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with private_folder(tmp_path / "link") as folder:
        assert folder.parent == tmp_path / "real"


@needs_web
def test_a_port_that_is_taken_is_said_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} cannot be used"):
            listen(port)
    with pytest.raises(ValueError, match="choose another, or 0 for any that is free"):
        listen(70000)


def test_the_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rareshot.web.server.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the page needs an extra: pip install 'rareshot\[web\]'"):
        require_web()
    assert main(["serve"]) == 2
    assert "the page needs an extra" in capsys.readouterr().err


def test_no_address_of_another_machine_is_listened_on() -> None:
    with listen(0) as server:
        assert server.getsockname()[0] == HOST == "127.0.0.1"
