"""Trains the byte-level BPE tokenizer and writes it in the Hugging Face layout."""

import argparse
import itertools
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from chat import TEMPLATE_PATH
from corpus import mixed_documents

VOCAB_SIZE = 4096
SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
TOOL_TOKENS = ("<tool_call>", "</tool_call>")
# As in Llama 3, except that every digit is a token: sums are easier so.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLE_DOCUMENTS = 60_000
# The tokenizer is the same for every size of the world that a model then learns.
SAMPLE_ENTITIES = 480


def train(seed: int) -> Tokenizer:
    """Trains on a sample of the mixed corpus."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[
            *(AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS),
            *(AddedToken(t, special=False, normalized=False) for t in TOOL_TOKENS),
        ],
    )
    documents = mixed_documents("demo", f"tokenizer-{seed}", SAMPLE_ENTITIES)
    sample = itertools.islice(documents, SAMPLE_DOCUMENTS)
    for special in (*SPECIAL_TOKENS, *TOOL_TOKENS):
        sample = (text.replace(special, " ") for text in sample)
    tokenizer.train_from_iterator(sample, trainer)
    begin = SPECIAL_TOKENS.index("<|begin|>")
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A",
        pair="<|begin|> $A $B",
        special_tokens=[("<|begin|>", begin)],
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path):
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {
        "bos_token": "<|begin|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
    }
    config = {
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        **roles,
        "chat_template": TEMPLATE_PATH.read_text(),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", roles),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = train(args.seed)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"only {tokenizer.get_vocab_size()} tokens were learned")
    save(tokenizer, args.out)


if __name__ == "__main__":
    main()
