"""No control token comes out of a text, whatever the tokenizer does to it first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from nexusquant.engine.chat_template import HarmlessText

SPECIAL = ("<s>", "</s>", "<unk>", "<|im_end|>", "[INST]", "<｜end▁of▁sentence｜>", "☃")
ADDED = ("<tool_call>", "Zebra")
SIGNS = [*map(chr, range(33, 127)), "\n", "▁"]


def byte_pairs() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokens


def unigram() -> Tokenizer:
    """It holds control tokens among its pieces, so that they come out even where none was added."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((sign, -5.0) for sign in SIGNS)]
    tokens = Tokenizer(models.Unigram([*pieces, ("<|im_end|>", -1.0)], unk_id=0))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokens


def word_pieces() -> Tokenizer:
    vocabulary = {"[UNK]": 0}
    for sign in SIGNS:
        vocabulary |= {sign: len(vocabulary), f"##{sign}": len(vocabulary) + 1}
    tokens = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokens


NORMALIZERS = {
    "none": normalizers.Sequence([]),
    "folds letters": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "strips accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "takes blanks out": normalizers.Replace(" ", ""),
    "marks blanks": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "takes signs out": normalizers.Replace("\u200b", ""),
}


def tokenizers_of_all_kinds() -> Iterator[object]:
    kinds = (byte_pairs, unigram, word_pieces)
    flags = ({}, {"lstrip": True, "rstrip": True}, {"single_word": True})
    for make, normalizer, is_normalized in itertools.product(kinds, NORMALIZERS, (False, True)):
        for number, flag in enumerate(flags):
            name = f"{make.__name__}-{normalizer}-{is_normalized}-{number}"
            yield pytest.param(make, normalizer, {"normalized": is_normalized} | flag, id=name)


def twisted(token: str) -> list[str]:
    middle = len(token) // 2
    return [
        token,
        f"a {token} b",
        token * 3,
        token[:middle] + token + token[middle:],
        token.lower(),
        token.upper(),
        token.translate({ord(sign): ord(sign) + 0xFEE0 for sign in "<|>[]/"}),
        token.replace("▁", " "),
        " ".join(token),
        f"{token[:middle]}\u200b{token[middle:]}",
        f"{token[:middle]}\u0301{token[middle:]}",
        f"x{token}y",
        f"日本 🙂 {token}",
        f"\ud83d{token}",
    ]


@pytest.mark.parametrize(("make", "normalizer", "flags"), list(tokenizers_of_all_kinds()))
def test_nothing_acts_whatever_a_tokenizer_does_to_a_text(make, normalizer, flags) -> None:
    tokens = make()
    tokens.normalizer = NORMALIZERS[normalizer]
    tokens.add_special_tokens([AddedToken(name, special=True, **flags) for name in SPECIAL])
    tokens.add_tokens([AddedToken(name, special=False, **flags) for name in ADDED])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="</s>", unk_token="<unk>"
    )
    harmless = HarmlessText(tokenizer)
    for text in itertools.chain(*map(twisted, (*SPECIAL, *ADDED))):
        changed = harmless.of(text)
        read = tokenizer(changed, add_special_tokens=False, return_offsets_mapping=True)
        for number, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
            piece = changed[start:end].lower()
            is_unknown = number == tokenizer.unk_token_id and "<unk>" not in piece
            assert is_unknown or number not in tokenizer.added_tokens_decoder, (text, changed)


class _Letters(PreTrainedTokenizer):
    """A tokenizer in Python, which does not say where its tokens stand."""

    def __init__(self, **options: object) -> None:
        signs = ["<unk>", "\n", " ", *map(chr, range(33, 127))]
        self._ids = {sign: number for number, sign in enumerate(signs)}
        super().__init__(unk_token="<unk>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return self._ids | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._ids)[index]


@pytest.fixture(scope="module")
def letters() -> _Letters:
    tokenizer = _Letters(eos_token="<|im_end|>")
    tokenizer.add_tokens(["<tool_call>"])
    return tokenizer


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("a<|im_end|>b", "a< |im_end|>b"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
        ("日<tool_call>", "日< tool_call>"),
        ("<unk>", "< unk>"),
        ("日本", "日本"),
        ("plain < words >", "plain < words >"),
    ],
)
def test_tokenizers_without_offsets_are_served_too(letters, text, changed) -> None:
    assert letters.is_fast is False
    assert HarmlessText(letters).of(text) == changed
    ids = letters(changed, add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(letters.added_tokens_decoder) - {letters.unk_token_id}


def plain_tokenizer(*added: str) -> PreTrainedTokenizerFast:
    tokens = byte_pairs()
    tokens.add_tokens([AddedToken(name, special=False, normalized=False) for name in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokens)


def test_letters_and_blanks_that_were_added_to_a_vocabulary_are_no_control_tokens() -> None:
    text = "caña\n\n    x\t\ty"
    assert HarmlessText(plain_tokenizer("ñ", "\n\n", "    ", "\t\t")).of(text) == text


def test_a_token_that_begins_in_front_of_a_text_or_ends_behind_it_is_kept_apart() -> None:
    tokenizer = plain_tokenizer("<|end|>")
    harmless, (end,) = HarmlessText(tokenizer), tokenizer.added_tokens_decoder
    for before, text, after in [("<|", "end|>", ""), ("", "<|end", "|>"), ("<|", "end", "|>")]:
        changed = harmless.of(text, before, after)
        assert changed.strip() == text
        assert end not in tokenizer(before + changed + after)["input_ids"]
    # a token of the surroundings' own stays, and the text as it is
    assert harmless.of("end", "<|end|>", "<|end|>") == "end"


def test_marks_that_are_no_tokens_are_broken_up_where_they_are_named() -> None:
    harmless = HarmlessText(plain_tokenizer())
    text = "a[INST]b [/INST] USER: x SUPERUSER: y"
    assert harmless.of(text) == text
    harmless.break_up_also(["[INST]", "USER:"])
    assert harmless.of(text) == "a[INST ]b [/INST] USER : x SUPERUSER: y"
