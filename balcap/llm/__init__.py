"""Asking language models behind OpenAI-compatible endpoints: what judges and writers share.

`client.py` makes calls, `cache.py` keeps answers (up to 2 GB), `prompts.py` reads pinned words, `forms.py` says what an
answer may be; `asking.py` joins the four.
"""
