//! Tokens per second of candle's quantised Llama on a GGUF file: `bench-candle FILE PROMPT DECODE`, one line of JSON.
//! Threads by RAYON_NUM_THREADS and CANDLE_NUM_THREADS.

use std::{fs::File, time::Instant};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::ModelWeights;

/// Longest measurement of one kind, in seconds.
const BUDGET: f64 = 20.0;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("usage: bench-candle FILE PROMPT DECODE")?;
    let prompt: u32 = args.next().context("no PROMPT")?.parse()?;
    let decode: u32 = args.next().context("no DECODE")?.parse()?;

    let mut file = File::open(&path).context(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let ids = |from: u32, len: u32| Tensor::new((from..from + len).map(|id| id % 1000 + 3).collect::<Vec<_>>(), &Device::Cpu)?.unsqueeze(0);
    // The first pass touches the weights; it does not count.
    model.forward(&ids(0, 8)?, 0)?;
    let mut prefill: Vec<f64> = Vec::new();
    let begun = Instant::now();
    while prefill.len() < 5 && (prefill.is_empty() || begun.elapsed().as_secs_f64() < BUDGET) {
        let start = Instant::now();
        model.forward(&ids(0, prompt)?, 0)?;
        prefill.push(f64::from(prompt) / start.elapsed().as_secs_f64());
    }
    model.forward(&ids(0, 8)?, 0)?;
    let start = Instant::now();
    for at in 0..decode {
        let logits = model.forward(&ids(at, 1)?, 8 + at as usize)?;
        logits.argmax(1)?.to_vec1::<u32>()?;
    }
    let decoded = f64::from(decode) / start.elapsed().as_secs_f64();
    prefill.sort_by(f64::total_cmp);
    println!("{{\"prefill_tps\":{:.2},\"decode_tps\":{decoded:.2}}}", prefill[prefill.len() / 2]);
    Ok(())
}
