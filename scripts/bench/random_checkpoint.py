"""Writes a Llama of a given shape with random bfloat16 weights as a Hugging Face folder: random_checkpoint.py s|a|b|c FOLDER. Tied head.

One tensor is in memory at a time.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

# hidden, layers, heads, kv heads, ffn, vocabulary; s is for trying the script.
SHAPES = {
    "s": (128, 2, 2, 1, 256, 1024),
    "a": (576, 30, 9, 3, 1536, 49152),
    "b": (896, 24, 14, 2, 4864, 151936),
    "c": (2048, 16, 32, 8, 8192, 128256),
}
# Numbers that are made at a time.
CHUNK = 1 << 22


def tensors(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in the order in which they are written."""
    head = hidden // heads
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        found |= {
            name + "input_layernorm.weight": (hidden,),
            name + "self_attn.q_proj.weight": (heads * head, hidden),
            name + "self_attn.k_proj.weight": (kv_heads * head, hidden),
            name + "self_attn.v_proj.weight": (kv_heads * head, hidden),
            name + "self_attn.o_proj.weight": (hidden, heads * head),
            name + "post_attention_layernorm.weight": (hidden,),
            name + "mlp.gate_proj.weight": (ffn, hidden),
            name + "mlp.up_proj.weight": (ffn, hidden),
            name + "mlp.down_proj.weight": (hidden, ffn),
        }
    return found


def bf16(random: np.random.Generator, shape: tuple[int, ...]):
    """The bytes of a tensor, in pieces: gains of one, matrices normal with standard deviation 1 / sqrt(columns)."""
    if len(shape) == 1:
        yield np.full(shape, 0x3F80, dtype="<u2").tobytes()
        return
    left = shape[0] * shape[1]
    while left > 0:
        floats = random.standard_normal(min(left, CHUNK), dtype=np.float32) / np.float32(math.sqrt(shape[1]))
        left -= len(floats)
        yield (floats.view(np.uint32) >> 16).astype("<u2").tobytes()


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SHAPES)} FOLDER")
    shape, folder = SHAPES[sys.argv[1]], Path(sys.argv[2])
    folder.mkdir(parents=True)
    hidden, layers, heads, kv_heads, ffn, vocabulary = shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "max_position_embeddings": 2048,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    words = {"<unk>": 0, "</s>": 1, "the": 2, "mill": 3, "turns": 4}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer) + "\n")

    found = tensors(*shape)
    header, at = {}, 0
    for name, dims in found.items():
        end = at + 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for dims in found.values():
            for piece in bf16(random, dims):
                file.write(piece)


main()
