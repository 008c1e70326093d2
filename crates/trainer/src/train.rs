//! The training run: batches from the generator, loss on the answers' tokens only, checkpoints that a run cut short goes on from.
//!
//! Each batch is cut into the same shards whatever the machine, shards run on as many threads as there are, and their gradients are added in
//! order: a run gives the same weights with any number of threads, on machines whose matrix products are the same.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Instant,
};

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{
    Generator, Llama, Sample, Shape, Split, TrainError, Vocabulary, folder, fused, generate::ELSEWHERE, optimiser::Optimiser,
    vocabulary::END,
};

/// Parts of a batch whose gradients are summed in order.
const SHARDS: usize = 4;

/// What decides the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Seed of the data and of the first weights.
    pub seed: u64,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Sentences of a step.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Steps before it is reached.
    pub warm_up: usize,
    /// Sentences that the tokenizer learns from.
    pub tokenizer_sentences: u64,
    /// Held-out sentences that the run is watched by; none of them is among those that measure the model.
    pub watched_sentences: u64,
    /// The model's.
    pub shape: Shape,
}

impl Settings {
    /// Linear up to the highest rate, level, then linear down to nothing.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "steps are few, rates are f32")]
    fn rate_at(&self, step: usize) -> f32 {
        let up = (step + 1) as f64 / self.warm_up.max(1) as f64;
        let down = (self.steps - step) as f64 / (self.steps - self.descent()).max(1) as f64;
        (self.rate * up.min(down).min(1.0)) as f32
    }

    /// The step from which on the rate goes down: the last three tenths.
    fn descent(&self) -> usize {
        self.steps - self.steps * 3 / 10
    }

    /// Whether a run of these settings does up to `step` what a run of the other does: all is equal but how long it goes on level,
    /// and how it is watched.
    fn agrees(&self, other: &Self, step: usize) -> bool {
        let same = Self { steps: self.steps, watched_sentences: self.watched_sentences, ..other.clone() } == *self;
        same && (self.steps == other.steps || step <= self.descent().min(other.descent()))
    }
}

/// What does not decide the weights.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Threads.
    pub threads: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Stop behind this step, with a checkpoint; a later run goes on.
    pub stop_after: Option<usize>,
}

/// Tokens of a prompt and its answer; the loss is on the answer's.
struct Sequence {
    ids: Vec<u32>,
    prompt: usize,
}

/// Sequences of a batch, filled up to one length.
struct Shard {
    ids: Tensor,
    /// Rows of the flattened batch that predict a token of an answer.
    rows: Tensor,
    /// The tokens they should predict.
    targets: Vec<u32>,
    /// How many of them each sequence has.
    answers: Vec<usize>,
}

/// Trains in `folder` and leaves the model there; goes on from the folder's checkpoint where there is one. Returns the last step's loss, nats per
/// token of an answer (none if there was nothing left to do).
///
/// # Errors
/// [`TrainError::OtherRun`] if the checkpoint was made with other settings, [`TrainError::Diverged`], and what its parts may say.
pub fn train(settings: &Settings, folder: &Path, pace: Pace) -> Result<Option<f64>, TrainError> {
    let Pace { threads, checkpoint_every, stop_after } = pace;
    let generator = Generator::new(settings.seed, Split::Train)?;
    std::fs::create_dir_all(folder).map_err(|source| TrainError::Write { path: folder.to_owned(), source })?;
    let checkpoint = folder.join("checkpoint.safetensors");
    let (model, vocabulary, mut optimiser) =
        if checkpoint.exists() { resume(&checkpoint, settings, folder)? } else { begin(settings, &generator)? };
    let watched: Vec<Sample> = samples(&Generator::new(settings.seed, Split::HeldOut)?, ELSEWHERE, settings.watched_sentences)?;
    info!(parameters = model.parameters(), vocabulary = vocabulary.size(), from_step = optimiser.steps, "training");

    let (mut began, mut tokens, mut losses) = (Instant::now(), 0, Vec::new());
    let first = usize::try_from(optimiser.steps).unwrap_or(0);
    let end = stop_after.map_or(settings.steps, |stop| stop.min(settings.steps));
    let mut last = None;
    for step in first..end {
        let batch = samples(&generator, (step * settings.batch) as u64, settings.batch as u64)?;
        let shards = shards(&batch, &vocabulary, &model.shape, SHARDS)?;
        let answers: usize = shards.iter().flat_map(|shard| &shard.answers).sum();
        tokens += shards.iter().map(|shard| shard.ids.elem_count()).sum::<usize>();
        let (loss, gradients) = gradients(&model, &shards, answers, threads)?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, loss });
        }
        let norm = optimiser.step(&model.weights, &gradients, settings.rate_at(step), threads)?;
        losses.push(loss);
        last = Some(loss);
        let done = step + 1;
        if done % 25 == 0 || done == end {
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let (mean, speed) = (losses.iter().sum::<f64>() / losses.len() as f64, tokens as f64 / began.elapsed().as_secs_f64());
            info!(step = done, loss = format!("{mean:.4}"), norm = format!("{norm:.2}"), tokens_per_s = format!("{speed:.0}"));
            (began, tokens, losses) = (Instant::now(), 0, Vec::new());
        }
        if done % checkpoint_every == 0 || done == end {
            let right = exact(&model, &vocabulary, &watched, threads)?;
            info!(step = done, exact = format!("{right} of {}", watched.len()), "held-out answers, given their beginnings");
            save_checkpoint(&checkpoint, settings, &model, &optimiser)?;
            folder::save(folder, &model, &vocabulary)?;
            began = Instant::now();
            tokens = 0;
        }
    }
    Ok(last)
}

fn begin(settings: &Settings, generator: &Generator) -> Result<(Llama, Vocabulary, Optimiser), TrainError> {
    let vocabulary = Vocabulary::learn(settings.shape.vocab_size, &samples(generator, ELSEWHERE, settings.tokenizer_sentences)?)?;
    let model = Llama::random(settings.shape.clone(), settings.seed)?;
    Ok((model, vocabulary, Optimiser::default()))
}

fn samples(generator: &Generator, first: u64, count: u64) -> Result<Vec<Sample>, TrainError> {
    (first..first + count).map(|index| generator.sample(index)).collect()
}

/// Cuts sentences into `count` shards of like lengths.
fn shards(samples: &[Sample], vocabulary: &Vocabulary, shape: &Shape, count: usize) -> Result<Vec<Shard>, TrainError> {
    let mut sequences = Vec::with_capacity(samples.len());
    for sample in samples {
        let mut ids = vocabulary.prompt(&sample.sentence)?;
        let prompt = ids.len();
        ids.extend(vocabulary.answer(&sample.facts.answer())?);
        if ids.len() > shape.max_position_embeddings {
            return Err(TrainError::TooLong { found: ids.len(), context: shape.max_position_embeddings });
        }
        sequences.push(Sequence { ids, prompt });
    }
    sequences.sort_by_key(|sequence| sequence.ids.len());
    sequences.chunks(samples.len().div_ceil(count)).map(shard).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "a batch is small")]
fn shard(sequences: &[Sequence]) -> Result<Shard, TrainError> {
    let length = sequences.iter().map(|sequence| sequence.ids.len() - 1).max().unwrap_or(0);
    let (mut ids, mut rows, mut targets, mut answers) = (Vec::<u32>::new(), Vec::<u32>::new(), Vec::<u32>::new(), Vec::new());
    for sequence in sequences {
        let start = ids.len();
        ids.extend(&sequence.ids[..sequence.ids.len() - 1]);
        ids.resize(start + length, END);
        rows.extend((sequence.prompt..sequence.ids.len()).map(|at| (start + at - 1) as u32));
        targets.extend(&sequence.ids[sequence.prompt..]);
        answers.push(sequence.ids.len() - sequence.prompt);
    }
    let count = rows.len();
    Ok(Shard {
        ids: Tensor::from_vec(ids, (sequences.len(), length), &Device::Cpu)?,
        rows: Tensor::from_vec(rows, count, &Device::Cpu)?,
        targets,
        answers,
    })
}

/// Logits of the rows that predict answers.
fn logits(model: &Llama, shard: &Shard) -> Result<Tensor, TrainError> {
    model.logits(&model.hidden(&shard.ids, None, Some(&shard.rows))?)
}

/// Mean loss over the answers' tokens, nats, and its gradients.
#[allow(clippy::cast_precision_loss, reason = "a batch is small")]
fn gradients(model: &Llama, shards: &[Shard], answers: usize, threads: usize) -> Result<(f64, BTreeMap<String, Tensor>), TrainError> {
    let parts = on_threads(shards, threads, |shard| {
        let loss = fused::cross_entropy(&logits(model, shard)?, &shard.targets, 1.0 / answers as f32)?;
        let store = loss.backward()?;
        let own = model.weights.iter().filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone()))).collect();
        Ok((f64::from(loss.to_scalar::<f32>()?), own))
    })?;
    let mut total = 0.0;
    let mut sum: BTreeMap<String, Tensor> = BTreeMap::new();
    for (loss, part) in parts {
        let part: BTreeMap<String, Tensor> = part;
        total += loss;
        for (name, gradient) in part {
            let gradient = match sum.remove(&name) {
                Some(before) => (before + gradient)?,
                None => gradient,
            };
            sum.insert(name, gradient);
        }
    }
    Ok((total, sum))
}

/// How many answers are right in every token, each token given those before it: as many as greedy decoding would get right.
fn exact(model: &Llama, vocabulary: &Vocabulary, samples: &[Sample], threads: usize) -> Result<usize, TrainError> {
    let shards = shards(samples, vocabulary, &model.shape, samples.len().div_ceil(32))?;
    let counts = on_threads(&shards, threads, |shard| {
        let chosen = logits(model, shard)?.detach().argmax(D::Minus1)?.to_vec1::<u32>()?;
        let right: Vec<bool> = chosen.iter().zip(&shard.targets).map(|(chosen, target)| chosen == target).collect();
        let mut rest = right.as_slice();
        let mut count = 0;
        for answer in &shard.answers {
            let (own, others) = rest.split_at(*answer);
            count += usize::from(!own.contains(&false));
            rest = others;
        }
        Ok(count)
    })?;
    Ok(counts.iter().sum())
}

/// Runs `work` on each item, on so many threads; results in the items' order.
pub(crate) fn on_threads<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, TrainError> + Sync,
) -> Result<Vec<R>, TrainError> {
    let next = std::sync::atomic::AtomicUsize::new(items.len());
    let results: Vec<_> = items.iter().map(|_| std::sync::Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // The longest first: they are last in the list.
                while let Ok(left) = next
                    .fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |left| left.checked_sub(1))
                {
                    let result = work(&items[left - 1]);
                    *results[left - 1].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let taken = results.into_iter().filter_map(|result| result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    taken.collect()
}

/// Weights, moments, step and settings in one file, put in place by a rename.
fn save_checkpoint(path: &Path, settings: &Settings, model: &Llama, optimiser: &Optimiser) -> Result<(), TrainError> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for (name, var) in &model.weights {
        tensors.insert(name.clone(), var.as_tensor().clone());
    }
    for (name, moments) in &optimiser.moments {
        tensors.extend(moments.iter().enumerate().map(|(which, moment)| (format!("moment.{which}.{name}"), moment.clone())));
    }
    tensors.insert("steps".to_owned(), Tensor::new(&[i64::from(optimiser.steps)], &Device::Cpu)?);
    let text = serde_json::to_vec(settings).map_err(|source| TrainError::Json { path: path.to_owned(), source })?;
    tensors.insert("settings".to_owned(), Tensor::from_slice(&text, text.len(), &Device::Cpu)?);
    let unfinished = path.with_extension("unfinished");
    candle_core::safetensors::save(&tensors, &unfinished)?;
    std::fs::rename(&unfinished, path).map_err(|source| TrainError::Write { path: path.to_owned(), source })
}

fn resume(path: &Path, settings: &Settings, folder: &Path) -> Result<(Llama, Vocabulary, Optimiser), TrainError> {
    let tensors: BTreeMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
    let get = |name: &str| tensors.get(name).ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() });
    let text = get("settings")?.to_vec1::<u8>()?;
    let found: Settings = serde_json::from_slice(&text).map_err(|source| TrainError::Json { path: path.to_owned(), source })?;
    let steps = get("steps")?.to_dtype(DType::U32)?.to_vec1::<u32>()?.first().copied().unwrap_or(0);
    if !settings.agrees(&found, steps as usize) {
        return Err(TrainError::OtherRun { path: path.to_owned(), found: String::from_utf8_lossy(&text).into_owned() });
    }
    let vocabulary = Vocabulary::open(&folder.join("tokenizer.json"))?;
    let model = Llama::from_weights(settings.shape.clone(), &tensors)?;
    let mut optimiser = Optimiser { steps: i32::try_from(steps).unwrap_or(i32::MAX), moments: BTreeMap::new() };
    for name in model.weights.keys() {
        let moments = (0..2).map_while(|which| tensors.get(&format!("moment.{which}.{name}")).cloned()).collect();
        optimiser.moments.insert(name.clone(), moments);
    }
    Ok((model, vocabulary, optimiser))
}
