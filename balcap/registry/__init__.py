"""Captioners under a name: one model version per content of the weights, with a card, found under an alias.

    candidate = read_candidate(Path(), params)                # candidate.py: what the stages wrote
    version = ensure_version(client, uri, candidate, ...)     # version.py: find it or create it
    ensure_registered(Path(), params)                         # ensure.py: after a cached stage
    mlflow.pyfunc.load_model("models:/balcap-embedded@challenger").predict([{"image": base64}])   # pyfunc_model.py

``champion`` is moved by promotion only; nothing here touches it.
"""

from balcap.registry.ensure import ensure_registered

__all__ = ["ensure_registered"]
