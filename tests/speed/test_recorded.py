"""Records are read back as what they are: made elsewhere, with device and date; what is no record is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.errors import Refused
from workbench.speed import measure, record
from workbench.speed.recorded import folder, read, recorded_runs
from workbench.speed.roofline import Limits, Roof


@pytest.fixture(scope="module")
def frame():
    return measure((4, 32, 32), "cpu-numba-naive", rounds=1)


@pytest.fixture
def written(frame, tmp_path):
    return record(frame, tmp_path / "one.json")


def test_a_row_says_recorded_where_and_when(written):
    one = read(written)
    assert one.device
    assert one.label == f"recorded on {one.device}, {one.date[:10]}"
    frame = one.frame
    assert set(frame["where"]) == {"recorded"}
    assert frame["note"].str.startswith(one.label).all()
    assert frame["seconds"].notna().all()
    assert one.limits is None  # a CPU has no data sheet here, and this record measured none


def test_a_gpu_is_its_device_and_its_data_sheet_fills_in(written, frame):
    document = json.loads(written.read_text())
    document["machine"]["device"] = "NVIDIA H200"
    document["date"] = "2020-01-01T00:00:00+00:00"
    other = written.with_name("two.json")
    other.write_text(json.dumps(document))
    first, second = recorded_runs(written.parent)
    assert second.device == "NVIDIA H200"  # the older is last
    assert second.limits.where == "data sheet"
    roofs = (Roof("copy", 2.0, "byte"), Roof("product", 9.0, "flop", 32))
    limits = Limits("NVIDIA H200", "measured", "2026-01-01", roofs, "a note")
    record(frame, other, limits)  # measured beside the kernels
    assert read(other).limits.roofs == roofs
    assert read(other).limits.where == "recorded"
    assert first.path == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "'kernels'"),
        ('{"kernels": [], "machine": {}}', "'date'"),
        ('{"kernels": [{"kernel": "x"}], "machine": {}, "date": "2020"}', "no kernel, shape or where"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(Refused, match=said):
        read(path)
    with pytest.raises(Refused, match="no record to read"):
        read(tmp_path / "absent.json")


def test_the_records_of_the_repository_can_be_read():
    kept = Path(__file__).parents[2] / "data" / "measurements"
    files = sorted(kept.glob("*.json"))
    assert ("Empty so far" in (kept / "README.md").read_text(encoding="utf-8")) == (not files)
    if not files:
        pytest.skip("no run has been recorded, as the folder's README says")
    found = recorded_runs(kept)
    assert sorted(one.path for one in found) == files
    assert all(one.frame["seconds"].notna().any() for one in found)


def test_records_are_in_the_checkout_or_where_one_says(monkeypatch, tmp_path):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    assert folder() == Path(__file__).parents[2] / "data" / "measurements"
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert recorded_runs() == []
