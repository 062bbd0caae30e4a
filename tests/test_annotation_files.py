"""Annotation files of users' videos: ELAN files and both kinds of tables, and their errors."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pympi.Elan import Eaf

from tests.annotated_people import CODES, FPS, SEGMENTS, TAXONOMY, render_videos, write_eaf, write_eafs, write_table
from training.annotated import AnnotationError, read_annotated


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return render_videos(tmp_path_factory.mktemp("people"))


def test_elan_files_and_tables_read_the_same(videos, tmp_path):
    elan = read_annotated(videos, [write_eafs(tmp_path / "eaf")], TAXONOMY)
    rows = [
        f"{name}{'.mp4' * (name[-1] == '1')}, {start}, {end}, {TAXONOMY.actions[label].name.upper()}"
        for name, segments in SEGMENTS.items()
        for start, end, label in segments
    ]
    plain = read_annotated(videos, 2 * [write_table(tmp_path / "plain.csv", [*rows, "synth000005,,,"])], TAXONOMY)
    with (tmp_path / "frames.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "video_id", "start_frame", "end_frame", "class", "total_frames", "fps"))
        for sample in elan:
            for start_s, end_s, label in SEGMENTS[sample.name]:
                frames = (round(start_s * FPS), round(end_s * FPS), label, round(sample.duration_s * FPS), FPS)
                writer.writerow((0, sample.name, *frames))
    (tmp_path / "none.csv").write_text("video , start_s,end_s ,action\nsynth000005,,,\n")
    by_frames = read_annotated(videos, [tmp_path / "frames.csv", tmp_path / "none.csv"], TAXONOMY)
    assert [sample.name for sample in elan] == list(SEGMENTS)
    for first, *others in zip(elan, plain, by_frames, strict=True):
        assert [(*span, label) for span, label in zip(first.segments.tolist(), first.labels.tolist(), strict=True)] \
            == sorted(SEGMENTS[first.name])  # fmt: skip
        for other in others:
            np.testing.assert_allclose(other.segments, first.segments, atol=1e-9)
            assert other.labels.tolist() == first.labels.tolist()
            assert (other.name, other.path, other.duration_s) == (first.name, first.path, first.duration_s)


def test_elan_linked_media_gives_video_and_time_origin(videos, tmp_path):
    write_eaf(tmp_path / "monday.eaf", [(0.1, 0.6, "nodding")], r"file:///C:/films%20of%20may/synth000002.mp4", 500)
    (sample,) = read_annotated(videos, [tmp_path / "monday.eaf"], TAXONOMY)
    assert sample.name == "synth000002"
    np.testing.assert_allclose(sample.segments, [[0.6, 1.1]])


def test_tiers_can_be_selected_and_name_empty_values(videos, tmp_path):
    path = tmp_path / "synth000000.eaf"
    eaf = Eaf()
    for tier, value in (("B1", ""), ("speech", "well, you know")):
        eaf.add_tier(tier)
        eaf.add_annotation(tier, 100, 900, value)
    eaf.to_file(str(path))
    (sample,) = read_annotated(videos, [path], TAXONOMY, ["B1"])
    assert sample.labels.tolist() == [CODES.index("B1")]
    with pytest.raises(AnnotationError, match=r"tier 'speech', annotation a\d: the action 'well, you know'"):
        read_annotated(videos, [path], TAXONOMY)
    with pytest.raises(AnnotationError, match=r"no tier 'hands'; its tiers are 'default', 'B1', 'speech'"):
        read_annotated(videos, [path], TAXONOMY, ["hands"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("synth000000,0.1,0.5,noding", r"a\.csv: line 2: the action 'noding' is not known.*`mmad labels`.*nodding\?"),
        ("elsewhere,0.1,0.5,B1", r"a\.csv: line 2: there is no video 'elsewhere' in .*videos"),
        ("synth000000.avi,0.1,0.5,B1", r"a\.csv: line 2: there is no video 'synth000000\.avi'"),
        ("synth000000,0.1,99,B1", r"a\.csv: line 2: the end 99 s is beyond the video's end, \d"),
        ("synth000000,98,99,B1", r"a\.csv: line 2: the start 98 s is beyond the video's end, \d"),
        ("synth000000,0.5,0.5,B1", r"a\.csv: line 2: the end 0\.5 s is not after the start 0\.5 s"),
        ("synth000000,-1,0.5,B1", r"a\.csv: line 2: the start -1 s is negative"),
        ("synth000000,0:01,0.5,B1", r"a\.csv: line 2: '0:01' is no number of seconds"),
        ("synth000000,0.1,0.5,", r"a\.csv: line 2: the action '' is not known"),
    ],
)
def test_invalid_table_row_error_names_line(line, message, videos, tmp_path):
    with pytest.raises(AnnotationError, match=message):
        read_annotated(videos, [write_table(tmp_path / "a.csv", [line])], TAXONOMY)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(0.1, 0.5, "B99")], r"synth000000\.eaf: tier 'x', annotation a\d: the action 'B99' is not known"),
        ([(0.1, 99, "B1")], r"synth000000\.eaf: tier 'x', annotation a\d: the end 99 s is beyond the video's end"),
    ],
)
def test_invalid_elan_annotation_error_names_tier(segments, message, videos, tmp_path):
    write_eaf(tmp_path / "synth000000.eaf", segments)
    with pytest.raises(AnnotationError, match=message):
        read_annotated(videos, [tmp_path], TAXONOMY)


def test_unusable_annotation_file_errors_name_file(videos, tmp_path):
    def assert_refused(match: str, *paths: Path, folder: Path = videos) -> None:
        with pytest.raises(AnnotationError, match=match):
            read_annotated(folder, list(paths), TAXONOMY)

    assert_refused("holds no .eaf, .csv or .tsv file", tmp_path)
    assert_refused("there is no .*nowhere", tmp_path / "nowhere")
    write_eaf(tmp_path / "other.eaf", [], "film.mp4")
    assert_refused(r"other\.eaf: there is no video called 'other' or 'film'", tmp_path / "other.eaf")
    (tmp_path / "synth000001.eaf").write_text("<ANNOTATION_DOCUMENT")
    assert_refused(r"synth000001\.eaf is no .eaf file of ELAN", tmp_path / "synth000001.eaf")
    (tmp_path / "b.csv").write_text("file;begin\n")
    assert_refused(r"b\.csv has no column video, start_s.*it names file,begin", tmp_path / "b.csv")
    (tmp_path / "a.txt").touch()
    assert_refused(
        r"annotations are \.eaf, \.csv, \.tsv, \.json files, not '\.txt': export them as one of these",
        tmp_path / "a.txt",
    )
    write_eaf(tmp_path / "synth000000.eaf", [])
    table = write_table(tmp_path / "c.csv", ["synth000000,0.1,0.5,B1"])
    assert_refused(r"'synth000000' is annotated in .*synth000000\.eaf too", tmp_path / "synth000000.eaf", table)
    assert_refused("holds no video", table, folder=tmp_path)
    (tmp_path / "broken.mp4").write_text("no video")
    assert_refused(r"broken\.mp4: cannot be read", write_table(tmp_path / "d.csv", ["broken,,,"]), folder=tmp_path)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "broken.mov").write_text("no video")
    assert_refused("have one name", table, folder=tmp_path)
    frames = (
        "video_id,start_frame,end_frame,class,total_frames,fps\nsynth000000,5,2,9,30,10\nsynth000000,5,9,77,30,10\n"
    )
    (tmp_path / "e.csv").write_text(frames)
    assert_refused(
        r"e\.csv: line 2: the end 0\.2 s is not after(.|\n)*line 3: the class '77' is not", tmp_path / "e.csv"
    )
