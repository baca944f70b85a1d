"""How much memory is free: the machine's, or what a container's limit leaves."""

from __future__ import annotations

import pytest

from workbench.errors import Refused
from workbench.jobs import available, memory, peak, require


@pytest.fixture
def group(tmp_path):
    """Write a control group's files; gives the folder and the file that names the process's own groups."""

    def write(names: dict[str, dict[str, str]], own: str):
        for folder, files in names.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / folder / name).write_text(text)
        (tmp_path / "own").write_text(own)
        return memory._of_groups(tmp_path, tmp_path / "own")

    return write


def test_the_least_of_all_groups_above_counts_and_unused_files_are_free(group):
    two = {
        "a/b": {
            "memory.max": "max\n",
            "memory.current": "70\n",
            "memory.stat": "anon 60\ninactive_file 10\n",
        },
        "a": {"memory.max": "100\n", "memory.current": "80\n", "memory.stat": "anon 60\ninactive_file 20\n"},
    }
    assert group(two, "0::/a/b\n") == [40]


def test_version_1_has_other_names(group):
    one = {
        "memory/a": {
            "memory.limit_in_bytes": "100",
            "memory.usage_in_bytes": "150",
            "memory.stat": "total_inactive_file 20",
        }
    }
    assert group(one, "9:name=systemd:/\n4:memory:/a\n") == [0]


def test_without_groups_or_with_strange_ones_the_machine_counts(group, tmp_path):
    assert group({"a": {"memory.max": "what"}}, "0::/a\n") == []
    assert memory._of_groups(tmp_path, tmp_path / "nothing") == []
    assert 0 < available() < 2**50


def test_what_does_not_fit_is_refused_before_it_starts():
    require(1000, "a little", "")
    with pytest.raises(Refused, match=r"all of it takes about 1000000.0 GB .* free: take less"):
        require(10**15, "all of it", "take less")
    assert peak() > 10_000_000
