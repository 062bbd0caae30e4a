"""The example `emotion_app`: features against counting on a grid, the webhook receiver, and a run with a live service."""

import csv
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from examples.emotion_app.__main__ import main
from examples.emotion_app.features import (
    HEAD,
    LEGS,
    SELF_TOUCH,
    Activity,
    Group,
    compute,
    make_groups,
    seconds_at_least,
)
from examples.emotion_app.plot import draw
from examples.emotion_app.receiver import Receiver, serve_receiver
from mmad.models import ActionLabel, Label, Labels, Result, parse
from model.bundle import Bundle
from tests.client.scripted_service import RESULT
from tests.conftest import start_service

GROUPS = [
    Group("self_touch", frozenset({"F1", "G1"})),
    Group("head", frozenset({"B1", "B3"})),
    Group("legs", frozenset({"D3"})),
]
Actions = list[tuple[str, float, float]]
Coverage = list[tuple[float, float, str]]


def make_result(actions: Actions, duration_s: float, coverage: Coverage | None = None) -> Result:
    """Make a result with the given actions (code, start, end)."""
    covered = coverage or [(0, duration_s, "analysed")]
    document = RESULT | {
        "media": RESULT["media"] | {"duration_s": duration_s},
        "coverage": [{"start_s": start, "end_s": end, "status": status} for start, end, status in covered],
        "detections": [
            {"id": f"p{index}", "start_s": start, "end_s": end, "score": 0.5, "overlaps": [],
             "action": {"id": 1, "code": code, "name": code}, "body": {"id": 1, "code": code[0], "name": code[0]}}
            for index, (code, start, end) in enumerate(actions)
        ],
    }  # fmt: skip
    return parse(Result, json.dumps(document))


def test_features_of_example() -> None:
    actions = [
        ("F1", 10.0, 20.0), ("G1", 15.0, 25.0),  # one episode of 15 s
        ("F1", 50.0, 70.0),                      # crosses the window border: begins in the first minute
        ("B1", 70.0, 73.0), ("B3", 100.0, 103.0), ("C1", 71.0, 72.0),
        ("D3", 130.0, 132.0), ("D3", 132.0, 134.0),  # touching: one episode
    ]  # fmt: skip
    first, second, third = compute(make_result(actions, 150.0), GROUPS)
    assert (first.start_s, first.end_s, third.start_s, third.end_s) == (0, 60, 120, 150)
    assert first.activity == {
        "self_touch": Activity(2, pytest.approx(25 / 60)), "head": Activity(0, 0), "legs": Activity(0, 0),
    }  # fmt: skip
    assert second.activity is not None
    assert second.activity["self_touch"] == Activity(0, pytest.approx(10 / 60))
    assert second.activity["head"] == Activity(2, pytest.approx(6 / 60))
    assert first.concurrency == pytest.approx(30 / 60)
    assert first.overlap_share == pytest.approx(5 / 60)
    assert second.concurrency == pytest.approx(17 / 60)
    assert second.overlap_share == pytest.approx(1 / 60)
    assert third.activity is not None
    assert third.activity["legs"] == Activity(2, pytest.approx(4 / 30))  # once in half a minute
    assert third.concurrency == pytest.approx(4 / 30)
    assert third.overlap_share == 0


def test_windows_without_a_person_have_no_features() -> None:
    coverage = [(0.0, 40.0, "analysed"), (40.0, 125.0, "no_person"), (125.0, 130.0, "analysed")]
    first, second, third = compute(make_result([("D3", 30.0, 45.0)], 130.0, coverage), GROUPS)
    assert first.analysed_s == 40
    assert first.activity is not None
    assert first.activity["legs"] == Activity(1.5, 0.25)  # once in 40 s; 10 s of 40
    assert (second.activity, second.concurrency, second.overlap_share) == (None, None, None)
    assert third.analysed_s == 5


# Whole seconds, so that counting seconds is exact.
INSTANTS = st.integers(0, 40)
INTERVAL = st.tuples(INSTANTS, INSTANTS).filter(lambda pair: pair[0] < pair[1])
CODES = st.sampled_from(["F1", "G1", "B1", "B3", "D3", "C1"])
ACTION = st.tuples(CODES, INTERVAL).map(lambda pair: (pair[0], float(pair[1][0]), float(pair[1][1])))


@given(st.lists(ACTION, max_size=15), st.sets(INSTANTS, max_size=4), st.integers(1, 50), st.integers(1, 50))
def test_features_match_counting(actions: Actions, cuts: set[int], length: int, window: int) -> None:
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    coverage = [
        (float(start), float(end), ("analysed", "no_person")[index % 2])
        for index, (start, end) in enumerate(pairwise(edges))
    ]
    windows = compute(make_result(actions, float(length), coverage), GROUPS, float(window))
    assert [features.start_s for features in windows] == list(range(0, length, window))
    seconds = {
        second for start, end, status in coverage if status == "analysed" for second in range(int(start), int(end))
    }
    for features in windows:
        inside = [second for second in range(int(features.start_s), int(features.end_s)) if second in seconds]
        assert features.analysed_s == len(inside)
        if features.activity is None:
            assert not inside
            continue
        active_counts = [sum(start <= second < end for _, start, end in actions) for second in inside]
        assert features.concurrency == pytest.approx(sum(active_counts) / len(inside))
        assert features.overlap_share == pytest.approx(sum(count > 1 for count in active_counts) / len(inside))
        for group in GROUPS:
            intervals = [(start, end) for code, start, end in actions if code in group.codes]
            busy = [second for second in inside if any(start <= second < end for start, end in intervals)]
            begins = [
                second
                for second in range(int(features.start_s), int(features.end_s))
                if any(start == second for start, _ in intervals) and not any(start < second <= end for start, end in intervals)
            ]  # fmt: skip
            assert features.activity[group.name].share == pytest.approx(len(busy) / len(inside))
            assert features.activity[group.name].per_min == pytest.approx(60 * len(begins) / len(inside))


@given(st.lists(INTERVAL, max_size=12), st.integers(1, 4))
def test_seconds_at_least_matches_counting(intervals: list[tuple[int, int]], count: int) -> None:
    seconds = sum(sum(start <= second < end for start, end in intervals) >= count for second in range(41))
    assert seconds_at_least(((float(start), float(end)) for start, end in intervals), count) == seconds


def test_window_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="a window is 0 s; it must be above 0"):
        compute(make_result([], 10.0), GROUPS, 0)
    assert compute(make_result([], 0.0), GROUPS) == []


def test_groups_match_model_classes(shipped: Bundle) -> None:
    taxonomy = shipped.manifest.taxonomy
    bodies = [Label(id=body.id, code=body.code, name=body.name) for body in taxonomy.bodies]
    actions = [
        ActionLabel(id=action.id, code=action.code, name=action.name, body=bodies[action.body_id])
        for action in taxonomy.actions
    ]
    groups = {group.name: group.codes for group in make_groups(Labels(bodies=bodies, actions=actions))}
    names = {action.code: action.name for action in actions}
    assert {names[code] for code in SELF_TOUCH} >= {"touching nose", "covering mouth", "touching legs"}
    assert all(any(word in names[code] for word in ("touching", "scratching", "patting", "rubbing", "covering", "playing"))
               for code in groups["self_touch"])  # fmt: skip
    assert groups["head"] == frozenset(HEAD) == {code for code in names if code.startswith("B")}
    assert groups["legs"] == frozenset(LEGS) == {code for code in names if code.startswith("D")} - {"D7"}
    with pytest.raises(ValueError, match="no classes D3"):
        make_groups(Labels(bodies=bodies, actions=[action for action in actions if action.code != "D3"]))


def test_plot_is_drawn_with_and_without_person(tmp_path: Path) -> None:
    no_person = make_result([], 30.0, [(0, 30.0, "no_person")])
    with_actions = make_result(
        [("F1", 0.0, 10.0), ("B1", 5.0, 6.0)], 130.0, [(0, 70, "analysed"), (70, 130, "no_person")]
    )
    sizes = set()
    for index, result in enumerate((no_person, with_actions)):
        path = tmp_path / f"{index}.png"
        draw(result, GROUPS, compute(result, GROUPS), path, "note")
        sizes.add(path.stat().st_size)
    assert len(sizes) == 2


SECRET = "whsec_" + "c2VjcmV0" * 5


def sign(body: str, name: str = "msg_1", secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": name, "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, at, body),
    }  # fmt: skip


def test_forged_messages_are_rejected() -> None:
    body = json.dumps({"type": "job.succeeded", "data": {"id": "j1"}})
    receiver = Receiver(SECRET)
    forged = [
        sign(body, secret="whsec_" + "YW5vdGhl" * 5),
        sign(body.replace("j1", "j2")),
        sign(body, at=datetime.now(UTC) - timedelta(hours=1)),
        sign(body) | {"webhook-signature": "v1"},
        sign(body) | {"webhook-signature": "v1,***"},
        {},
    ]
    with serve_receiver(receiver, "127.0.0.1", 0) as address, httpx.Client() as http:
        for headers in forged:
            assert http.post(address, content=body, headers=headers).status_code == 401
        assert http.post(address, content=b"\xff", headers=sign(body)).status_code == 401
        assert http.post(address, content=b" " * 100_000, headers=sign(body)).status_code == 413
        with pytest.raises(TimeoutError, match="j1 came within 0"):
            receiver.wait("j1", 0.01)
        other = body.replace("j1", "other")
        for content, name in ((other, "msg_2"), (body, "msg_1"), (body, "msg_1")):
            assert http.post(address, content=content, headers=sign(content, name)).status_code == 204
    assert receiver.wait("j1", 1)["data"]["id"] == "j1"  # messages of other jobs are ignored
    with pytest.raises(TimeoutError):  # the second delivery was the same message
        receiver.wait("j1", 0.01)


def test_receiver_binds_to_address_and_advertises_host() -> None:
    body = json.dumps({"type": "job.succeeded", "data": {"id": "j1"}})
    with serve_receiver(Receiver(SECRET), "app.example", 0, "127.0.0.1") as address:
        port = address.removeprefix("http://app.example:").removesuffix("/mmad")
        sent = httpx.post(f"http://127.0.0.1:{port}/mmad", content=body, headers=sign(body), trust_env=False)
        assert sent.status_code == 204


def test_api_key_needs_its_own_webhook_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "webhook-secret").write_text(SECRET)
    monkeypatch.setenv("MMAD_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("MMAD_WEBHOOK_SECRET", raising=False)
    arguments = [str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9"]
    assert main(arguments) == 1
    assert "mmad webhook-secret" not in capsys.readouterr().err
    assert main([*arguments, "--api-key", "mmad_0123abcd_x"]) == 1
    assert "mmad webhook-secret --key ID" in capsys.readouterr().err
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", SECRET)
    assert main([*arguments, "--api-key", "mmad_0123abcd_x"]) == 1
    assert "mmad webhook-secret" not in capsys.readouterr().err


def test_app_writes_features_of_a_video(tmp_path: Path, clip: Path) -> None:
    """Uses its own service, with webhooks to private addresses allowed."""
    root = Path(__file__).resolve().parents[1]
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_WEBHOOK_ALLOW_PRIVATE="true")
    environment = os.environ | {"MMAD_DATA_DIR": str(tmp_path / "data"), "MMAD_URL": service.url}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "examples.emotion_app", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)

    try:
        result = run(str(clip), "--out", str(tmp_path / "out"), "--window-s", "2", "--timeout-s", "60")
        assert result.returncode == 0, result.stderr
        (tmp_path / "text").write_text("no video " * 100)
        refused = run(str(tmp_path / "text"), "--out", str(tmp_path / "none"))
        assert refused.returncode == 1
        assert "[not_a_video]" in refused.stderr
    finally:
        service.stop()
    assert "job.succeeded" in result.stderr
    document = json.loads((tmp_path / "out/features.json").read_text())
    assert [window["start_s"] for window in document["windows"]] == [0, 2, 4]
    assert document["model"]["trained_on"] is None
    assert "Not for hiring" in document["limits"]
    with (tmp_path / "out/features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["start_s"]) for row in rows] == [0, 2, 4]
    assert float(rows[0]["concurrency"]) == pytest.approx(document["windows"][0]["concurrency"], abs=0.001)
    assert (tmp_path / "out/features.png").read_bytes()[:4] == b"\x89PNG"
