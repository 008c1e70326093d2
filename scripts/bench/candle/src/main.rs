//! The peer candle on this machine; one line of JSON. Threads by RAYON_NUM_THREADS and CANDLE_NUM_THREADS.
//!
//! `bench-candle llama FILE PROMPT DECODE`: tokens per second of its quantised Llama on a GGUF file.
//! `bench-candle minilm SENTENCES TOKENS`: sentences per second of its BERT in floats, of MiniLM's shape with random weights, as a batch of
//! sentences of so many tokens each, pooled and normalised as sentence-transformers does.

use std::{fs::File, time::Instant};

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor, quantized::gguf_file};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::{
    bert::{BertModel, Config},
    quantized_llama::ModelWeights,
};

/// Longest measurement of one kind, in seconds.
const BUDGET: f64 = 20.0;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["llama", path, prompt, decode] => llama(path, prompt.parse()?, decode.parse()?),
        ["minilm", sentences, tokens] => minilm(sentences.parse()?, tokens.parse()?),
        _ => bail!("usage: bench-candle llama FILE PROMPT DECODE | minilm SENTENCES TOKENS"),
    }
}

fn llama(path: &str, prompt: u32, decode: u32) -> Result<()> {
    let mut file = File::open(path).with_context(|| path.to_owned())?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let ids = |from: u32, len: u32| Tensor::new((from..from + len).map(|id| id % 1000 + 3).collect::<Vec<_>>(), &Device::Cpu)?.unsqueeze(0);
    // The first pass touches the weights; it does not count.
    model.forward(&ids(0, 8)?, 0)?;
    let prefill = median(5, || {
        let start = Instant::now();
        model.forward(&ids(0, prompt)?, 0)?;
        Ok(f64::from(prompt) / start.elapsed().as_secs_f64())
    })?;
    model.forward(&ids(0, 8)?, 0)?;
    let start = Instant::now();
    for at in 0..decode {
        let logits = model.forward(&ids(at, 1)?, 8 + at as usize)?;
        logits.argmax(1)?.to_vec1::<u32>()?;
    }
    let decoded = f64::from(decode) / start.elapsed().as_secs_f64();
    println!("{{\"prefill_tps\":{prefill:.2},\"decode_tps\":{decoded:.2}}}");
    Ok(())
}

fn minilm(sentences: usize, tokens: usize) -> Result<()> {
    let config = Config { hidden_size: 384, num_hidden_layers: 6, intermediate_size: 1536, ..Config::default() };
    let weights = VarMap::new();
    let model = BertModel::load(VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu), &config)?;
    let ids: Vec<u32> = (0u32..).map(|at| at.wrapping_mul(2_654_435_761) % 30_522).take(sentences * tokens).collect();
    let ids = Tensor::from_vec(ids, (sentences, tokens), &Device::Cpu)?;
    let (types, mask) = (ids.zeros_like()?, ids.ones_like()?);
    let forward = || -> Result<f64> {
        let start = Instant::now();
        let rows = model.forward(&ids, &types, Some(&mask))?;
        let pooled = rows.mean(1)?;
        let vectors = pooled.broadcast_div(&pooled.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?;
        vectors.to_vec2::<f32>()?;
        Ok(sentences as f64 / start.elapsed().as_secs_f64())
    };
    forward()?;
    println!("{{\"sentences_per_second\":{:.2}}}", median(20, forward)?);
    Ok(())
}

/// The median of so many figures, or of those that the budget has time for.
fn median(count: usize, mut figure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let (mut figures, begun) = (Vec::new(), Instant::now());
    while figures.len() < count && (figures.is_empty() || begun.elapsed().as_secs_f64() < BUDGET) {
        figures.push(figure()?);
    }
    figures.sort_by(f64::total_cmp);
    Ok(figures[figures.len() / 2])
}
