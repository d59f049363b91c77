"""The page that a person files: all that it must say, nothing that it must not, the same bytes each time."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_explain import METHODS, blobs, picture, predictor_of
from test_pretrained import needs_weights

from rareshot import answer_page as rooms
from rareshot.answer_page import answer_page
from rareshot.backbones.efficientnet import SHA256
from rareshot.checkpoint import state_hash
from rareshot.cli import main
from rareshot.methods.supervised import Supervised
from rareshot.pictures import map_picture
from rareshot.pictures import picture as picture_of
from rareshot.predict import Predictor, answer
from rareshot.sensitivity import sensitivity, views_of
from rareshot.support_set import SupportSet
from rareshot.trust import leave_one_out

RED, BLUE = (200, 40, 40), (40, 40, 200)


def save(file: Path, colour: tuple[int, int, int], seed: int) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(colour, (24, 24), seed).permute(1, 2, 0).numpy()).save(file)
    return str(file)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A red blob with a name that a page must escape, a blue one, and a file that is no image."""
    folder = tmp_path_factory.mktemp("new")
    bad = folder / "broken.png"
    bad.write_bytes(b"hello")
    return [save(folder / "<i>a&b.png", RED, 70), save(folder / "second.png", BLUE, 71), str(bad)]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of(METHODS["logistic"].blank(64), blobs())


def page_of(predictor: Predictor, files: Sequence[str]) -> str:
    return answer_page(predictor, files, [answer(predictor, file) for file in files])


@pytest.fixture(scope="module")
def page(predictor: Predictor, files: list[str]) -> str:
    return page_of(predictor, files)


def words_of(page: str) -> str:
    """The text of a page, without markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*?</style>", "", page))).split())


def test_the_page_says_what_a_file_must_hold(page: str, predictor: Predictor) -> None:
    words = words_of(page)
    for text in (
        "Classes outside these are not considered: an image of something else gets one of these names too.",
        "For research use. Not a medical device.",
        "2 images judged as red or blue",
        "1 file could not be read",
        "broken.png is not an image",
        "8 adaptations that each leave out one support image and 3 adaptations to turned, scaled and flipped images",
        "They are no confidence intervals",
        "suspicion 1 of 8",
        f"SHA-256 of the weights {state_hash(predictor.bundle.state)}",
        "by statistics that training left (frozen batch norm); an answer depends on no other image",
        "20 % is the smallest error that can be promised at k = 4",
        "Another seed: none would change anything",
        "Seed of the adaptation 0",
        "How frequent the classes are: taken as equal.",
    ):
        assert text in words


def test_the_page_stands_by_itself_and_escapes_what_users_give(page: str) -> None:
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="(.*?)"', page))
    assert "<i>a" not in page
    assert "&lt;i&gt;a&amp;b.png" in page
    assert all(alt.strip() for alt in re.findall(r'<img [^>]*alt="(.*?)"', page))
    assert len(re.findall(r"<img ", page)) == len(re.findall(r'alt="', page)) == 2 * (2 + 3) + 8


def test_same_inputs_give_the_same_bytes(page: str, predictor: Predictor, files: list[str]) -> None:
    again = predictor_of(METHODS["logistic"].blank(64), blobs())
    assert page_of(again, files) == page


def test_unequal_numbers_are_said_with_their_parts(page: str, files: list[str]) -> None:
    whole = blobs()
    few = SupportSet(whole.images[2:], whole.labels[2:], whole.classes, whole.names[2:])  # two red, four blue
    text = page_of(predictor_of(METHODS["logistic"].blank(64), few), files[:1])
    assert "each answer is the mean over 2 parts with 2 images of each class" in words_of(text)
    assert "Unequal numbers of images" not in words_of(page)


@needs_weights
def test_the_weights_of_both_networks_are_named(files: list[str]) -> None:
    learner = Supervised(width=8, classifier="logistic", beside_imagenet=True).blank(64)
    words = words_of(page_of(predictor_of(learner, blobs()), files[:1]))
    assert f"SHA-256 of the weights {state_hash(learner.state())}, and ImageNet's {SHA256}" in words


def test_what_is_said_of_an_image_depends_on_no_other(page: str, predictor: Predictor, files: list[str]) -> None:
    alone = page_of(predictor, files[1:2])
    card = re.compile(r"(?s)second\.png</h3>.*?</article>")
    assert card.search(page)[0] == card.search(alone)[0]  # type: ignore[index]


def test_a_range_holds_the_answer_and_the_answers_without_each_support_image(predictor: Predictor) -> None:
    image = picture(RED, (24, 24), 70).float() / 255
    found = sensitivity(views_of(predictor), image)
    without = leave_one_out(predictor.learner, predictor.bundle.support.support).answers(image[None])[:, 0]
    answers = [predictor(image[None])[0], *without]
    for told in answers:
        assert all(low <= value <= high for low, value, high in zip(found.low, told.tolist(), found.high, strict=True))
    assert found.left_out is not None
    assert found.pivotal is not None
    label = int(answers[0].argmax())
    assert found.without == pytest.approx(float(without[found.pivotal, label]))
    assert found.seeded is None


def test_no_image_is_left_out_where_that_would_take_long() -> None:
    images = torch.stack([picture(RED, (8, 8), at) for at in range(12)])
    labels = torch.tensor([0] * 2 + [1] * 10)
    few = SupportSet(images, labels, ("red", "more"), tuple(f"{at}.png" for at in range(12)))
    told = views_of(predictor_of(METHODS["logistic"].blank(64), few))
    assert told.left_out == ()
    assert told.why_not == "with 12 support images it would take 70 adaptations, more than 60"  # 2 of 10 parts, 10 of 5


def test_temperature_and_prevalence_are_in_the_ranges(predictor: Predictor) -> None:
    image = picture(RED, (24, 24), 70).float() / 255
    rare = replace(predictor, prevalence={"red": 0.01, "blue": 0.99})
    assert sensitivity(views_of(rare), image).high[0] < sensitivity(views_of(predictor), image).low[0]


def test_seeds_are_tried_where_adaptation_draws_at_random(files: list[str]) -> None:
    drawn = predictor_of(METHODS["finetune"].blank(64), blobs())
    found = sensitivity(views_of(drawn), picture(RED, (24, 24), 70).float() / 255)
    assert found.seeded is not None
    assert found.seeded[0] < found.seeded[1]
    words = words_of(page_of(drawn, files[:1]))
    assert "Another seed: the adaptation draws at random, and 3 other seeds are in the ranges." in words
    assert "With 3 other seeds:" in words


def test_one_image_a_class_gives_a_page_that_says_what_is_missing(files: list[str]) -> None:
    whole = blobs()
    single = SupportSet(whole.images[[0, 4, 5]], torch.tensor([0, 1, 1]), whole.classes, ("r.png", "b.png", "c.png"))
    words = words_of(page_of(predictor_of(METHODS["logistic"].blank(64), single), files))
    assert "No support image was left out: there is only one image of red." in words
    assert "The labels were not checked: where a class has a single image" in words
    assert "More photographs: a class has a single one, and the answers hang on it." in words


def test_sets_are_shown_with_their_promise(predictor: Predictor, files: list[str]) -> None:
    words = words_of(page_of(replace(predictor, sets=True), files))
    assert "Prediction sets: a set holds the right class in at least 80 % of images like the support images" in words
    assert words.count("Prediction set:") == 2


def test_images_beyond_the_most_have_probabilities_without_maps(
    predictor: Predictor, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "MOST_MAPS", 1)
    page = page_of(predictor, files)
    assert page.count("<article") == 1
    assert "The first 1 images have a picture and a map" in words_of(page)
    assert re.search(r"second\.png</th><td>(red|blue)</td><td>[0-9.<>]+ \([0-9.]+ to [0-9.]+\)", html.unescape(page))


def test_the_page_is_made_when_nothing_could_be_read(predictor: Predictor, files: list[str]) -> None:
    words = words_of(page_of(predictor, files[2:]))
    assert "0 images judged" in words
    assert "broken.png is not an image" in words
    assert "keep their class" not in words


def test_names_that_are_no_text_do_not_break_the_page(predictor: Predictor, files: list[str]) -> None:
    told = replace(answer(predictor, files[0]), path="odd\udcff\n\u202ename.png")
    page = answer_page(predictor, files[:1], [told])
    assert page.encode()
    assert r"odd\udcff\n\u202ename.png" in html.unescape(page)


def test_a_file_that_changed_since_it_was_judged_is_refused(predictor: Predictor, files: list[str]) -> None:
    told = answer(predictor, files[0])
    with pytest.raises(ValueError, match="is not the image that was judged: it has changed since; judge it again"):
        answer_page(predictor, [files[1]], [told])
    with pytest.raises(ValueError, match="one file for each answer; got 0 files and 1 answers"):
        answer_page(predictor, [], [told])
    with pytest.raises(ValueError, match="draws=0: at least 1"):
        views_of(predictor, draws=0)


def test_progress_is_told_to_its_end(predictor: Predictor, files: list[str]) -> None:
    steps: list[tuple[int, int]] = []
    told = [answer(predictor, file) for file in files]
    answer_page(predictor, files, told, observe=lambda done, total: steps.append((done, total)))
    assert steps == [(at, 5) for at in range(1, 6)]


def test_a_map_is_orange_where_it_speaks_for_and_blue_where_against() -> None:
    found = torch.zeros(64, 64)
    found[:16, :16], found[-16:, -16:] = 2.0, -2.0
    made = decoded(map_picture(torch.full((3, 64, 64), 128, dtype=torch.uint8), found, 2.0)).astype(int)
    assert made[4, 4, 0] > made[4, 4, 2] + 60
    assert made[60, 60, 2] > made[60, 60, 0] + 60
    assert len(set(made[32, 32])) == 1


def test_a_small_picture_keeps_every_pixel_and_nothing_else() -> None:
    pixels = picture(RED, (8, 8), 1)
    assert (decoded(picture_of(pixels)) == pixels.permute(1, 2, 0).numpy()).all()
    assert decoded(picture_of(pixels, 16)).shape == (16, 16, 3)
    large = pixels.repeat(1, 4, 4)
    assert picture_of(large).startswith("data:image/jpeg")
    assert decoded(picture_of(large)).shape == (256, 256, 3)


def decoded(address: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as made:
        assert not made.getexif()
        return np.asarray(made)


def test_the_command_writes_the_page_of_its_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(2):
        save(tmp_path / "photos" / "lupus" / f"{at}.png", RED, at)
        save(tmp_path / "photos" / "rosacea" / f"{at}.png", BLUE, at)
    new = save(tmp_path / "new" / "a.png", RED, 9)
    classifier, report = str(tmp_path / "c.safetensors"), tmp_path / "pages" / "page.html"
    assert main(["adapt", "isic2018", "--support", str(tmp_path / "photos"), "--out", classifier]) == 0
    csv = tmp_path / "a.csv"
    assert main(["predict", classifier, new, "--report", str(report), "--out", str(csv)]) == 0
    out, err = capsys.readouterr()
    assert f"1 images: 1 lupus; answers: {csv}" in out.replace("\n", "")
    assert csv.is_file()
    assert f"report: {report} (shows the photographs" in err.replace("\n", "")
    text = report.read_text()
    assert re.search(r"temperature \d\.\d\d, measured on lesions of common classes: 2 classes, k = 2", words_of(text))
    assert "Licence of those images CC BY-NC 4.0" in words_of(text)
    assert "Normalisation by statistics of the support images (support); an answer depends on no other" in words_of(
        text
    )
    assert "edb85a559d711cf3" in text
    assert main(["predict", classifier, new, "--report", "page.pdf"]) == 2
    assert "--report page.pdf: the page goes into a file whose name ends in .html" in capsys.readouterr().err


def test_a_class_of_any_name_and_more_than_two_of_them(files: list[str]) -> None:
    whole = blobs()
    names = ("<script>alert(1)</script>", "'b\"", "c")
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    support = SupportSet(whole.images, labels, names, whole.names)
    page = page_of(predictor_of(Supervised(width=8, classifier="centroid").blank(64), support), files)
    assert "<script" not in page
    assert "as <script>alert(1)</script>, 'b\" or c" in html.unescape(page)
