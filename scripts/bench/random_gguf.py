"""Writes a Llama of a given shape with random Q8_0 weights: random_gguf.py a|b|c FILE. Tied head, no tokenizer."""

import sys

import gguf
import numpy as np

# hidden, layers, heads, kv heads, ffn, vocabulary
SHAPES = {
    "a": (576, 30, 9, 3, 1536, 49152),
    "b": (896, 24, 14, 2, 4864, 151936),
    "c": (2048, 16, 32, 8, 8192, 128256),
}
BLOCK = 32


def q8_0(random: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Random Q8_0 rows: per 32 weights a half-precision scale and 32 int8, about normal with standard deviation 1 / sqrt(cols)."""
    blocks = rows * cols // BLOCK
    data = np.empty((blocks, 2 + BLOCK), dtype=np.uint8)
    scale = np.full(blocks, 2.0 / 127 / np.sqrt(cols), dtype=np.float16)
    data[:, :2] = scale.view(np.uint8).reshape(blocks, 2)
    data[:, 2:] = random.integers(-127, 128, size=(blocks, BLOCK), dtype=np.int8).view(np.uint8)
    return data.reshape(rows, cols // BLOCK * (2 + BLOCK))


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SHAPES)} FILE")
    hidden, layers, heads, kv_heads, ffn, vocabulary = SHAPES[sys.argv[1]]
    head = hidden // heads
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(sys.argv[2], "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)

    def matrix(name: str, rows: int, cols: int) -> None:
        writer.add_tensor(name, q8_0(random, rows, cols), raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def gain(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, dtype=np.float32))

    matrix("token_embd.weight", vocabulary, hidden)
    for layer in range(layers):
        name = f"blk.{layer}."
        gain(name + "attn_norm.weight")
        matrix(name + "attn_q.weight", heads * head, hidden)
        matrix(name + "attn_k.weight", kv_heads * head, hidden)
        matrix(name + "attn_v.weight", kv_heads * head, hidden)
        matrix(name + "attn_output.weight", hidden, heads * head)
        gain(name + "ffn_norm.weight")
        matrix(name + "ffn_gate.weight", ffn, hidden)
        matrix(name + "ffn_up.weight", ffn, hidden)
        matrix(name + "ffn_down.weight", hidden, ffn)
    gain("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
