"""The forms of a selection that tests ask for."""

from sparsejax.projections import _selection


def sample_from(entries, monkeypatch):
    """Take a sample from so many entries on."""
    forms = tuple(form._replace(sampled_from=entries) for form in _selection.FORMS)
    monkeypatch.setattr(_selection, "FORMS", forms)
