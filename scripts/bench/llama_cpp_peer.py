"""Tokens per second of llama.cpp on a GGUF file: llama_cpp_peer.py FILE THREADS PROMPT DECODE [plain], one line of JSON.

With `plain` weights stay as they are in the file: no AMX, and no repacking for other instructions.
"""

import json
import statistics
import sys
import time

import llama_cpp as llama

# Longest measurement of one kind, in seconds.
BUDGET = 20.0


def main() -> None:
    path, threads, prompt, decode = sys.argv[1], *map(int, sys.argv[2:5])
    # Held until the end: the library calls it later.
    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, None)
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.use_extra_bufts = sys.argv[5:] != ["plain"]
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(2 * prompt, 1024), prompt, prompt
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    batch = llama.llama_batch_init(prompt, 0, 1)

    def run(first: int, count: int) -> None:
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = (first + i) % 1000 + 3
            batch.pos[i] = first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == count - 1
        if llama.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        llama.llama_synchronize(context)

    def forget() -> None:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)

    run(0, 8)
    prefill, begun = [], time.perf_counter()
    while len(prefill) < 5 and (not prefill or time.perf_counter() - begun < BUDGET):
        forget()
        start = time.perf_counter()
        run(0, prompt)
        prefill.append(prompt / (time.perf_counter() - start))
    forget()
    run(0, 8)
    start = time.perf_counter()
    for at in range(decode):
        run(8 + at, 1)
    decoded = decode / (time.perf_counter() - start)
    system = llama.llama_print_system_info().decode().strip()
    print(json.dumps({"prefill_tps": round(statistics.median(prefill), 2), "decode_tps": round(decoded, 2), "system": system}))


main()
