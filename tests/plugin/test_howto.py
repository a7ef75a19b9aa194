"""What the how-to pages show, run as a reader would run it."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
import transformers

PAGE = (Path(__file__).parents[2] / "docs" / "howto-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "y'all", "the"]


def test_texts_are_tokenized_in_a_factory_and_audited_by_dialect(pytester):
    (code,) = [text for language, text in BLOCKS if language == "python" and text.startswith("# texts.py")]
    (command,) = [text for _, text in BLOCKS if "texts:test_split" in text]
    (pytester.path / "texts.py").write_text(code)
    (pytester.path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(pytester.path / "vocab.txt")).save_pretrained(pytester.path / "checkpoint-500")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), num_labels=2, **small)
    transformers.BertForSequenceClassification(config).save_pretrained(pytester.path / "checkpoint-500")
    rows = np.random.default_rng(0).choice(WORDS[4:], (200, 5))
    lines = [f"{' '.join(row)},{int('good' in row)},{'south' if chr(39) in ''.join(row) else 'north'}" for row in rows]
    (pytester.path / "reviews.csv").write_text("\n".join(["text,label,dialect", *lines]))
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    ran = pytester.runpytest(*arguments, "-p", "no:cacheprovider")
    ran.stdout.fnmatch_lines(["data *texts:test_split, 200 samples, 2 groups by dialect", "north *", "south *"])
    assert ran.ret in (0, 1)
