"""Faces are found, and every reason to drop a piece is told apart, on surveys with known answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.prepare.world import bad_videos, face, scene
from tm_jax.data.prepare.clips import cropped
from tm_jax.data.prepare.pieces import REASONS, find_cuts, pieces
from tm_jax.data.prepare.settings import Filters
from tm_jax.data.prepare.sources import Source
from tm_jax.data.prepare.survey import Survey, survey
from tm_jax.errors import InputError
from tm_jax.media.face_finder import FaceFinder, track
from tm_jax.media.framing import FACE_SHARE, in_crop

BOX = (40.0, 60.0, 100.0, 120.0)
FILTERS = Filters(min_seconds=2.0, max_seconds=5.0, look_every=5)


def seen(frames=100, boxes=(BOX,), speaking=True, change=None, sound=True, size=(200, 300)):
    """A survey in which everything is well, but for what is said."""
    looked = np.arange(0, frames, 5)
    return Survey(
        frames=frames,
        sizes={0: size},
        borders={},
        missing=[],
        change=np.full(frames, 1.0) if change is None else change,
        looked=looked,
        faces=[np.array(boxes, np.float64).reshape(-1, 4) for _ in looked],
        sound=np.zeros(640 * frames if sound else 0, np.int16),
        speaking=np.full(2 * frames, speaking),
        thumbnails={},
    )


def test_the_detector_finds_real_faces_and_no_others():
    photo = Path(__file__).parents[3] / "tm_jax" / "assets" / "photo.png"
    shipped = np.asarray(Image.open(photo).convert("RGB"))
    assert len(FaceFinder()(shipped)) == 1
    (box,) = FaceFinder()(face(320))
    # Eyes and mouth of the photograph, by eye.
    assert box[0] < 110 and box[2] > 165 and box[1] < 130 and box[3] > 195
    assert len(FaceFinder()(scene(320))) == 0


def test_a_false_find_does_not_move_the_track():
    true = np.array([BOX])
    looks = [true, true, np.array([[0.0, 200, 90, 290], *true]), true, np.zeros((0, 4)), true]
    result = track(looks)
    assert result.box == BOX and result.share == pytest.approx(5 / 6)
    assert result.others == pytest.approx(1 / 6)


def test_a_good_video_is_kept_whole_and_cropped_round_the_face():
    (piece,) = pieces(seen(), FILTERS, (64, 64))
    assert piece.reason is None and (piece.start, piece.frames) == (0, 97) and piece.speech == 1
    y0, x0, y1, x1 = piece.crop
    assert (BOX[2] - BOX[0]) / (y1 - y0) == pytest.approx(FACE_SHARE)
    assert y1 - y0 == pytest.approx(x1 - x0) and (x0 + x1) / 2 == pytest.approx(90)
    top, left, bottom, right = in_crop(piece.face, piece.crop, (64, 64))
    assert 0 < top < bottom < 64 and left == pytest.approx(64 - right)
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[40:100, 60:120] = 255
    inside = cropped(picture, piece.crop, (64, 64))[..., 0] > 128
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert abs(rows[0] - top) < 1.5 and abs(columns[0] - left) < 1.5 and abs(columns[-1] + 1 - right) < 1.5


def test_long_shots_are_divided_evenly():
    found = pieces(seen(frames=260), FILTERS, (64, 64))
    assert [piece.start for piece in found] == [0, 87, 173]
    assert all(piece.reason is None and piece.frames % 4 == 1 and piece.frames <= 125 for piece in found)


def test_shots_are_divided_at_their_cuts():
    change = np.full(150, 2.0)
    change[[60, 70]] = 30.0
    found = pieces(seen(frames=150, change=change), FILTERS, (64, 64))
    assert [(piece.start, piece.reason) for piece in found] == [(0, None), (60, "cuts"), (70, None)]


def test_steady_motion_is_no_cut():
    assert find_cuts(np.full(50, 15.0), FILTERS) == []
    assert find_cuts(np.r_[np.full(20, 3.0), 9.0, np.full(20, 3.0)], FILTERS) == []
    assert find_cuts(np.r_[0.0, np.full(20, 0.1), 11.0, np.full(20, 0.1)], FILTERS) == [21]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"frames": 40}, "too_short"),
        ({"boxes": ()}, "no_face"),
        ({"boxes": (BOX, (40, 200, 90, 250))}, "several_faces"),
        ({"boxes": ((50, 60, 65, 75),)}, "small_face"),
        ({"sound": False}, "no_sound"),
        ({"speaking": False}, "no_speech"),
    ],
)
def test_each_filter_drops_what_it_must(case, reason):
    assert [piece.reason for piece in pieces(seen(**case), FILTERS, (64, 64))] == [reason]


def test_a_face_that_wanders_off_is_dropped():
    survey = seen()
    for index, boxes in enumerate(survey.faces):
        boxes[:, [1, 3]] += 6 * index
    assert [piece.reason for piece in pieces(survey, FILTERS, (64, 64))] == ["moving_face"]


def test_a_small_other_face_and_a_rare_one_do_no_harm():
    assert pieces(seen(boxes=(BOX, (10, 200, 26, 216))), FILTERS, (64, 64))[0].reason is None
    survey = seen()
    survey.faces[3] = np.array([BOX, (40, 200, 90, 250)])
    assert pieces(survey, FILTERS, (64, 64))[0].reason is None


def test_a_given_box_replaces_the_search():
    survey = seen(boxes=())
    box = (40, 60, 100, 120)
    assert pieces(survey, FILTERS, (64, 64), box)[0].reason is None
    outside = pieces(survey, FILTERS, (64, 64), (40, 60, 100, 301))[0]
    assert outside.reason == "no_face" and "outside the picture of 300×200" in outside.detail


def test_real_files_are_dropped_for_the_same_reasons(tmp_path):
    filters = Filters(min_seconds=1.0, look_every=12)
    for reason, path in bad_videos(tmp_path).items():
        try:
            found = {p.reason for p in pieces(survey(Source(path), 12), filters, (128, 128))}
        except InputError as error:
            found = {"unreadable"}
            assert str(path) in str(error)
        assert found == {reason}
    assert set(REASONS) == {path.stem for path in tmp_path.iterdir()}
