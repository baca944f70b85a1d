"""A bench without a browser: messages are handed to the widgets and what they send is kept."""

import pytest

import workbench as wb


@pytest.fixture(scope="session")
def llama(llama_folder):
    return wb.load(llama_folder)


@pytest.fixture(scope="session")
def data(llama, text_file):
    return wb.evaluation(llama, text_file, tokens=1024)


@pytest.fixture
def sent(monkeypatch):
    """sent(widget) -> the list of (content, buffers) that the widget sends from now on."""

    def listen(widget):
        kept = []
        monkeypatch.setattr(widget, "send", lambda content, buffers=None: kept.append((content, buffers)))
        return kept

    return listen
