"""ErrorMapView: messages in, binary tiles out."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.inspect import ErrorMap, Window
from workbench.inspect.error_map import CELLS_MOST, VIEWS
from workbench.widgets import ErrorMapView


@pytest.fixture
def shown():
    w = torch.randn(90, 130, generator=torch.Generator().manual_seed(0)) * 0.1
    return ErrorMap(w, wb.RTN(bits=3).compress(w), "layers.0.down")


@pytest.fixture
def view(shown):
    return ErrorMapView(shown)


def ask(view, seq, window=(0, 0, 90, 130), kind="error", reduction="max", most=CELLS_MOST):
    message = {
        "type": "tile",
        "seq": seq,
        "view": kind,
        "reduction": reduction,
        "window": list(window),
        "most": most,
    }
    view._handle_custom_msg(message, [])


def test_a_tile_is_answered_with_its_number_and_a_binary_buffer(view, shown, sent):
    kept = sent(view)
    ask(view, 7, (10, 20, 30, 70), "weight")
    [(head, [buffer])] = kept
    assert (head["type"], head["seq"], head["view"]) == ("tile", 7, "weight")
    assert (head["window"], head["shape"], head["cell"], head["exact"]) == (
        [10, 20, 30, 70],
        [20, 50],
        1,
        True,
    )
    assert len(buffer) == 20 * 50 * 2
    values = np.frombuffer(buffer, np.float16).reshape(20, 50) * np.float64(head["unit"])
    np.testing.assert_allclose(values, shown.w[10:30, 20:70].abs(), rtol=2**-10)


def test_the_browser_may_ask_for_fewer_cells_and_never_gets_more_than_the_most(view, sent):
    kept = sent(view)
    ask(view, 1, most=500)
    ask(view, 2, most=10**9)
    (few, [small]), (all_, [large]) = kept
    assert few["cell"] == 8
    assert len(small) == np.prod(few["shape"]) * 2 <= 1000
    assert (all_["cell"], len(large)) == (1, 90 * 130 * 2)


def test_a_window_beyond_the_matrix_is_clipped(view, sent):
    kept = sent(view)
    ask(view, 1, (-50, 100, 40, 9999))
    assert kept[0][0]["window"] == [0, 100, 40, 130]


def test_at_answers_with_the_weight_under_the_cursor(view, shown, sent):
    kept = sent(view)
    view._handle_custom_msg({"type": "at", "seq": 3, "row": 4, "column": 5}, [])
    assert kept[0][0] == {"type": "at", "seq": 3, **shown.at(4, 5)}


def test_fit_takes_the_limits_from_what_is_there_now(view, shown):
    before = dict(view.limits)
    view._handle_custom_msg({"type": "fit"}, [])
    assert view.limits["error"] == shown.largest("error") < before["error"]
    assert view.limits["weight"] == shown.largest("weight") == before["weight"]


def test_limits_stay_put_while_the_method_changes(view, shown):
    before = dict(view.limits)
    shown.change(wb.RTN(bits=2).compress(shown.w))
    view.refresh()
    assert view.limits == before


def test_after_a_change_the_window_in_view_is_sent_again(view, shown, sent):
    kept = sent(view)
    ask(view, 5, (0, 0, 20, 20), "compressed", "mean")
    shown.change(wb.RTN(bits=2).compress(shown.w))
    view.refresh()
    (first, [before]), (again, [after]) = kept
    assert again == {**first, "unit": again["unit"]}
    assert before != after
    assert view.asked == ("compressed", "mean")


def test_another_map_is_shown_whole(view, sent):
    ask(view, 1, (0, 0, 20, 20))
    kept = sent(view)
    view.show(ErrorMap(torch.ones(5, 7), name="other"))
    view.refresh()
    assert (view.rows, view.columns, view.name) == (5, 7, "other")
    assert kept[-1][0]["window"] == [0, 0, 5, 7]
    assert set(view.limits) == set(VIEWS)
    assert min(view.limits.values()) > 0


def test_a_preview_is_sent_as_such(view, shown, sent):
    from dataclasses import replace

    kept = sent(view)
    ask(view, 9)
    view.send_tile(replace(shown.whole("error"), exact=False))
    assert (kept[-1][0]["seq"], kept[-1][0]["exact"]) == (None, False)


def test_before_a_weight_was_read_nothing_is_sent(sent):
    view = ErrorMapView()
    kept = sent(view)
    ask(view, 1)
    view.refresh()
    view.fit()
    assert kept == []
    view._handle_custom_msg({"type": "at", "seq": 2, "row": 0, "column": 0}, [])
    assert kept == [({"type": "at", "seq": 2}, None)]


def test_what_fails_is_said_and_the_next_request_is_answered(view, sent):
    kept = sent(view)
    view._handle_custom_msg({"type": "at", "seq": 1, "row": 5000, "column": 0}, [])
    assert kept[0][0]["type"] == "error"
    ask(view, 2)
    assert kept[1][0]["seq"] == 2
    view._handle_custom_msg({"type": "unheard of"}, [])
    assert len(kept) == 2


def test_of_many_requests_the_newest_is_answered_last_and_few_are_computed(shown, sent, monkeypatch):
    computed, tile, asked_all = [], shown.tile, threading.Event()

    async def main():
        def held(*asked):
            """No tile is answered before the last was asked for."""
            computed.append(asked)
            assert asked_all.wait(60)
            return tile(*asked)

        monkeypatch.setattr(shown, "tile", held)
        view = ErrorMapView(shown)
        kept = sent(view)
        for seq in range(20):
            ask(view, seq, (seq, 0, 90, 130))
        asked_all.set()
        while not kept or kept[-1][0]["seq"] != 19:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        return kept

    kept = asyncio.run(asyncio.wait_for(main(), 120))
    assert [head["seq"] for head, _ in kept] == [19]
    assert kept[-1][0]["window"] == [19, 0, 90, 130]
    assert len(computed) <= 2


def test_an_inspector_shows_itself_as_its_view(shown):
    widget = shown.widget()
    assert isinstance(widget, ErrorMapView)
    assert widget.error_map is shown
    bundle = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (bundle[0] if isinstance(bundle, tuple) else bundle)


def test_windows_are_values():
    assert Window(0, 0, 2, 3) == Window(0, 0, 2, 3)
    assert Window(0, 0, 2, 3).numel == 6
