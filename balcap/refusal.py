"""How a language model sounds that refuses to describe a picture or talks about itself: for writer and gate alike."""

from __future__ import annotations

REFUSAL = (
    r"(?i)^\s*(?:i['’]?m (?:very )?sorry|i am (?:very )?sorry|sorry[,.!]|i apologi[sz]e|unfortunately, i)"
    r"|\bas an ai\b|\bi(?: can(?:no|['’]?)t|['’]?m (?:not able|unable)| am (?:not able|unable)) "
    r"(?:to )?(?:see|view|describe|help|assist|identify|provide|analy[sz]e|process)\b"
    r"|\bno image (?:was|has been|is) (?:provided|attached|given)\b"
    r"|\bplease (?:provide|upload|attach) (?:an|the) image\b"
)
"""A regular expression, searched for."""
