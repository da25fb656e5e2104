"""Tokenizers of the small captioners: a fixed word list for the embedded world, byte-level BPE for everything else.

Both are plain ``PreTrainedTokenizerFast``, so that ``AutoProcessor``, TRL and vLLM read them back without code of ours.
The chat template writes ``<bos>`` and then every part in order (pictures as ``<image>``); an assistant's turn ends with
``<eos>``. It takes content as a string or as a list of parts, which is what TRL makes of every prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<bos>", "<eos>", "<unk>", "<image>"
SPECIAL = [PAD, BOS, EOS, UNK, IMAGE]
MAX_LENGTH = 2048
"""Tokens of prompt, picture and caption together (``max_position_embeddings`` of the text model)."""

CHAT_TEMPLATE = """\
{%- if messages %}{{ bos_token }}{% endif -%}
{%- for message in messages -%}
  {%- if message['content'] is string -%}{{ message['content'] }}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ('image', 'image_url') -%}<image>
      {%- elif part['type'] == 'text' -%}{{ part['text'] }}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}"""


def word_tokenizer(words: Sequence[str], prompt: str) -> PreTrainedTokenizerFast:
    """Lower-cased whole words and ``.``: the word list, plus the words of the prompt.

    Text comes back as ``a red circle sits at the top-left.``; :func:`balcap.policy.generate.restore_capitals` does the
    rest. A word outside the list becomes ``<unk>``.
    """
    plain = [word.lower() for word in [*words, *_words(prompt)]]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *plain]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.,]"), "isolated")]
    )
    # Joins words with spaces and moves full stops back to their word; the prefix is WordPiece's and occurs nowhere.
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return _wrap(core)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``; encodes any text, keeps capitals. At least 256 + the special tokens."""
    smallest = 256 + len(SPECIAL)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size {vocab_size} is too small: bytes and special tokens alone are {smallest}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return _wrap(core)


def _words(text: str) -> list[str]:
    """The tokens that the word tokenizer cuts a text into."""
    return text.replace(".", " . ").replace(",", " , ").split()


def _wrap(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_specific_special_tokens={"image_token": IMAGE},
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
