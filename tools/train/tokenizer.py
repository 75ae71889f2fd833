#!/usr/bin/env python3
"""Byte-level BPE: a trainer, an encoder and decoder, and the Hugging Face files of ring-tiny.

  tokenizer.py train   [--corpus DIR --out DIR --vocab N]   writes tokenizer.json and tokenizer_config.json
  tokenizer.py encode  [--corpus DIR --out DIR]             corpus -> {split}.{domain}.npz (ids, mask, starts)
  tokenizer.py check   [--corpus DIR --out DIR]             round trip on held-out text and awkward strings

Ids as in the real family: 256 byte symbols, then the merges, then the added tokens. The pre-tokenizer is
Split(regex, isolated), then ByteLevel(use_regex false); digits are always single tokens.
"""
import argparse, json, os, sys
from collections import Counter, defaultdict
import regex, numpy as np

# The pattern of the Bailing/Ling tokenizer. The possessive quantifiers change no match and the (?i:..) group is ASCII letters,
# so for an engine without them this is the same:
#   '(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
RX = regex.compile(PATTERN)
# (text, special): special tokens are dropped by skip_special_tokens; the think tags are kept, as in the real family
ADDED = [
    ("<|startoftext|>", True),
    ("<|endoftext|>", True),
    ("<role>", True),
    ("</role>", True),
    ("<|role_end|>", True),
    ("<think>", False),
    ("</think>", False),
]
ADDED_RX = regex.compile("(" + "|".join(regex.escape(t) for t, _ in ADDED) + ")")

# The Ring shape: a SYSTEM turn that carries the thinking switch, HUMAN and ASSISTANT turns, each closed by <|role_end|>.
# enable_thinking=false writes 'detailed thinking off'. Thinking of earlier rounds is dropped.
CHAT_TEMPLATE = """{%- set thinking_option = 'off' if (enable_thinking is defined and not enable_thinking) else 'on' -%}
{{- '<role>SYSTEM</role>' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n' -}}{%- endif -%}
{{- 'detailed thinking ' + thinking_option + '<|role_end|>' -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '<role>HUMAN</role>' + message.content + '<|role_end|>' -}}
{%- elif message.role == 'system' and not loop.first -%}
{{- '<role>SYSTEM</role>' + message.content + '<|role_end|>' -}}
{%- elif message.role == 'assistant' -%}
{%- set content = message.content -%}
{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
{{- '<role>ASSISTANT</role>' + content + '<|role_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<role>ASSISTANT</role>' -}}{%- endif -%}"""


def byte_symbols():
    """GPT-2's printable stand-in for each byte."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, n = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in out:
            out[b] = chr(256 + n)
            n += 1
    return out


B2S = byte_symbols()
S2B = {s: b for b, s in B2S.items()}


def train_bpe(words, merges_wanted):
    """words: Counter of byte strings. Deterministic: ties go to the pair that sorts first."""
    toks = [([B2S[b] for b in w], c) for w, c in sorted(words.items())]
    count, where = Counter(), defaultdict(set)
    for i, (t, c) in enumerate(toks):
        for p in zip(t, t[1:]):
            count[p] += c
            where[p].add(i)
    merges = []
    while len(merges) < merges_wanted:
        best = min(count, key=lambda p: (-count[p], p))
        if count[best] < 2:
            break
        merges.append(best)
        new = best[0] + best[1]
        for i in list(where[best]):
            t, c = toks[i]
            for p in zip(t, t[1:]):
                count[p] -= c
                if count[p] <= 0:
                    del count[p]
            for p in set(zip(t, t[1:])):
                where[p].discard(i)
            out, j = [], 0
            while j < len(t):
                if j + 1 < len(t) and (t[j], t[j + 1]) == best:
                    out.append(new)
                    j += 2
                else:
                    out.append(t[j])
                    j += 1
            toks[i] = (out, c)
            for p in zip(out, out[1:]):
                count[p] += c
                where[p].add(i)
    return merges


class Tokenizer:
    """Reads tokenizer.json back; independent of the trainer's internals."""

    def __init__(self, path):
        j = json.load(open(path))
        self.vocab = j["model"]["vocab"]
        self.rank = {
            tuple(m.split(" ") if isinstance(m, str) else m): i
            for i, m in enumerate(j["model"]["merges"])
        }
        self.added = {a["content"]: a["id"] for a in j["added_tokens"]}
        self.inv = {i: s for s, i in self.vocab.items()}
        self.added_inv = {i: s for s, i in self.added.items()}
        self.cache = {}

    def _word(self, w):
        if w in self.cache:
            return self.cache[w]
        t = [B2S[b] for b in w.encode("utf-8", "surrogatepass")]
        while len(t) > 1:
            r, i = min((self.rank.get(p, 1 << 30), i) for i, p in enumerate(zip(t, t[1:])))
            if r == 1 << 30:
                break
            p = (t[i], t[i + 1])
            out, j = [], 0
            while j < len(t):
                if j + 1 < len(t) and (t[j], t[j + 1]) == p:
                    out.append(t[j] + t[j + 1])
                    j += 2
                else:
                    out.append(t[j])
                    j += 1
            t = out
        self.cache[w] = [self.vocab[s] for s in t]
        return self.cache[w]

    def encode(self, text):
        ids = []
        for part in ADDED_RX.split(text):
            if part in self.added:
                ids.append(self.added[part])
            elif part:
                for m in RX.finditer(part):
                    ids += self._word(m.group())
        return ids

    def decode(self, ids):
        out = b""
        for i in ids:
            out += (
                self.added_inv[i].encode()
                if i in self.added_inv
                else bytes(S2B[c] for c in self.inv[i])
            )
        return out.decode("utf-8", "replace")


def write_files(out, merges):
    os.makedirs(out, exist_ok=True)
    vocab = {B2S[b]: b for b in range(256)}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    n = len(vocab)
    added = [
        {
            "id": n + i,
            "content": t,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": s,
        }
        for i, (t, s) in enumerate(ADDED)
    ]
    json.dump(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": PATTERN},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": True,
                        "use_regex": False,
                    },
                ],
            },
            "post_processor": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocab,
                "merges": [f"{a} {b}" for a, b in merges],
            },
        },
        open(f"{out}/tokenizer.json", "w"),
        ensure_ascii=False,
        indent=1,
    )
    json.dump(
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(a["id"]): {
                    k: a[k]
                    for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
                }
                for a in added
            },
            "bos_token": "<|startoftext|>",
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|role_end|>",
            "pad_token": "<|endoftext|>",
            "fast_tokenizer": True,
            "model_max_length": 2048,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        open(f"{out}/tokenizer_config.json", "w"),
        ensure_ascii=False,
        indent=1,
    )


def docs(path):
    with open(path) as f:
        for line in f:
            yield json.loads(line)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("cmd")
    ap.add_argument("--corpus", default="build/train/corpus")
    ap.add_argument("--out", default="build/train/tok")
    ap.add_argument("--vocab", type=int, default=1024)
    o = ap.parse_args()
    if o.cmd == "train":
        words = Counter()

        def feed(text, times=1):
            for part in ADDED_RX.split(text):
                if part and not ADDED_RX.fullmatch(part):
                    for m in RX.finditer(part):
                        words[m.group().encode()] += times

        feed(open(f"{o.corpus}/train.prose.txt").read())
        for dom, lim in (("chat", 8000), ("code", 1500)):
            for i, d in enumerate(docs(f"{o.corpus}/train.{dom}.jsonl")):
                if i >= lim:
                    break
                for t, _ in d:
                    feed(t)
        write_files(o.out, train_bpe(words, o.vocab - 256 - len(ADDED)))
    tk = Tokenizer(f"{o.out}/tokenizer.json")
    if o.cmd == "encode":
        for split in ("train", "heldout"):
            ids = np.array(tk.encode(open(f"{o.corpus}/{split}.prose.txt").read()), np.uint16)
            np.savez(
                f"{o.out}/{split}.prose.npz",
                ids=ids,
                mask=np.ones(len(ids), np.uint8),
                starts=np.array([0]),
            )
            print(
                split,
                "prose",
                len(ids),
                "tokens,",
                os.path.getsize(f"{o.corpus}/{split}.prose.txt") / len(ids),
                "bytes/token",
            )
            for dom in ("chat", "code"):
                I, M, S, n, nb = [], [], [], 0, 0
                for d in docs(f"{o.corpus}/{split}.{dom}.jsonl"):
                    S.append(n)
                    for t, m in d:
                        e = tk.encode(t)
                        nb += len(t)
                        I.append(np.array(e, np.uint16))
                        M.append(np.full(len(e), m, np.uint8))
                        n += len(e)
                ids = np.concatenate(I)
                mask = np.concatenate(M)
                np.savez(f"{o.out}/{split}.{dom}.npz", ids=ids, mask=mask, starts=np.array(S))
                print(
                    split,
                    dom,
                    len(ids),
                    "tokens,",
                    nb / len(ids),
                    "bytes/token,",
                    len(S),
                    "docs, trained fraction",
                    mask.mean(),
                )
    if o.cmd == "check":
        bad = n = 0
        texts = [open(f"{o.corpus}/heldout.prose.txt").read()] + [
            "".join(t for t, _ in d)
            for x in ("chat", "code")
            for d in docs(f"{o.corpus}/heldout.{x}.jsonl")
        ]
        texts += [
            "",
            " ",
            "\n\n\n  x",
            "naïve café 東京 🎉\u200d don't DON'T 123456",
            "\t\tif (x)\r\n  y;\r\n",
            "<role>a</role><think>",
            "<|role_end",
            "a  b   c",
            "\u00a0\u2003z",
        ]
        for t in texts:
            n += 1
            bad += tk.decode(tk.encode(t)) != t
        print(
            f"round trip: {n - bad} of {n} texts identical; vocab {len(tk.vocab) + len(tk.added)}"
        )
        sys.exit(bad > 0)


if __name__ == "__main__":
    main()
