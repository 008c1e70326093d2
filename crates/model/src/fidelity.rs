//! How far the exact machine is from the float model, over a stratified corpus: 1 - cosine per text.
//!
//! The only place where results are compared with a tolerance, because floats have no exact result to compare with. The bounds are about
//! 1.4 times what the profile measures: a change that costs fidelity breaks them, another CPU's float rounding does not.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use quern_exact::encoder::Output;
use quern_types::FinishReason;

use crate::{ModelError, Package, Reference};

/// The largest 1 - cosine that any text may have.
const WORST_BOUND: f64 = 2e-3;

/// Texts of one kind, under one bound.
#[derive(Clone, Debug)]
pub struct Stratum {
    /// "lines", "words" or "long".
    pub name: &'static str,
    /// The largest mean of 1 - cosine.
    pub mean_bound: f64,
    /// File and line of each text, and the text.
    pub texts: Vec<(String, String)>,
}

/// The strata of tests/corpus.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// lines, words, long.
    pub strata: Vec<Stratum>,
}

/// What one stratum came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StratumReport {
    /// Its name.
    pub name: &'static str,
    /// Number of texts.
    pub texts: usize,
    /// Number of ids of all texts.
    pub ids: usize,
    /// Mean of 1 - cosine.
    pub mean: f64,
    /// Largest 1 - cosine.
    pub worst: f64,
    /// File and line of the text with the largest.
    pub worst_at: String,
    /// The bound of the mean.
    pub mean_bound: f64,
    /// The bound of the largest.
    pub worst_bound: f64,
    /// Time of the exact machine for all texts, on one thread.
    pub exact_time: Duration,
    /// Time of the float reference for all texts.
    pub reference_time: Duration,
}

impl StratumReport {
    /// Whether both bounds hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.mean <= self.mean_bound && self.worst <= self.worst_bound
    }

    /// Texts per second of the exact machine on one thread.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a corpus is small")]
    pub fn texts_per_second(&self) -> f64 {
        self.texts as f64 / self.exact_time.as_secs_f64()
    }
}

impl Corpus {
    /// Reads `lines/` and `words/` (text files, one text per line) and `long/` (one text per file), in the order of the file names.
    ///
    /// # Errors
    /// A folder that is missing or holds no text, a file that is not UTF-8, an empty line.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let stratum = |name: &'static str, mean_bound: f64, per_line: bool| {
            let folder = folder.join(name);
            let mut texts = Vec::new();
            for path in text_files(&folder)? {
                let content = std::fs::read_to_string(&path).map_err(ModelError::read(&path))?;
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if per_line {
                    texts.extend(content.lines().enumerate().map(|(at, line)| (format!("{name}/{file}:{}", at + 1), line.to_owned())));
                } else {
                    texts.push((format!("{name}/{file}"), content));
                }
            }
            if let Some((at, _)) = texts.iter().find(|(_, text)| text.trim().is_empty()) {
                return Err(ModelError::Corpus { path: folder, reason: format!("{at} is empty") });
            }
            if texts.is_empty() {
                return Err(ModelError::Corpus { path: folder, reason: "no .txt file with a text in it".to_owned() });
            }
            Ok(Stratum { name, mean_bound, texts })
        };
        Ok(Self { strata: vec![stratum("lines", 4e-4, true)?, stratum("words", 4e-4, true)?, stratum("long", 6e-4, false)?] })
    }
}

fn text_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let entries = std::fs::read_dir(folder).map_err(ModelError::read(folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(ModelError::read(folder))?;
    let mut paths: Vec<_> = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    paths.sort();
    Ok(paths)
}

/// Embeds every text of the corpus exactly, on one thread, and in floats, and compares.
///
/// # Errors
/// A text that has more tokens than the model reads, or a reference of another shape than the package.
pub fn fidelity(package: &Package, reference: &Reference, corpus: &Corpus) -> Result<Vec<StratumReport>, ModelError> {
    let encoder = package.encoder()?;
    corpus.strata.iter().map(|stratum| measure(package, &encoder, reference, stratum)).collect()
}

fn measure(
    package: &Package,
    encoder: &quern_exact::encoder::Encoder,
    reference: &Reference,
    stratum: &Stratum,
) -> Result<StratumReport, ModelError> {
    let mut items = Vec::with_capacity(stratum.texts.len());
    for (at, (place, text)) in stratum.texts.iter().enumerate() {
        let ids = package.item(at + 1, text).map_err(|error| ModelError::Corpus { path: place.into(), reason: error.to_string() })?;
        items.push(ids);
    }
    let start = Instant::now();
    let outputs = encoder.embed_map(&items, NonZeroUsize::MIN, |_, output: Output| (output.reason, output.vector));
    let exact_time = start.elapsed();

    let start = Instant::now();
    let mut mean = 0.0;
    let mut worst = 0.0;
    let mut worst_at = String::new();
    for ((ids, (reason, vector)), (place, _)) in items.iter().zip(&outputs).zip(&stratum.texts) {
        if *reason != FinishReason::Complete {
            return Err(ModelError::Corpus { path: place.into(), reason: format!("finished as {reason:?}") });
        }
        let distance = 1.0 - cosine(vector, &reference.embed(ids)?);
        mean += distance;
        // A NaN must not pass as small.
        if distance > worst || distance.is_nan() {
            (worst, worst_at) = (distance, place.clone());
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a corpus is small")]
    let texts = items.len() as f64;
    Ok(StratumReport {
        name: stratum.name,
        texts: items.len(),
        ids: items.iter().map(Vec::len).sum(),
        mean: mean / texts,
        worst,
        worst_at,
        mean_bound: stratum.mean_bound,
        worst_bound: WORST_BOUND,
        exact_time,
        reference_time: start.elapsed(),
    })
}

/// NaN for vectors of different lengths or of length zero.
fn cosine(exact: &[i16], float: &[f32]) -> f64 {
    if exact.len() != float.len() {
        return f64::NAN;
    }
    let pairs = || exact.iter().map(|x| f64::from(*x)).zip(float.iter().map(|x| f64::from(*x)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let (a, b) = pairs().fold((0.0, 0.0), |(x, y), (a, b)| (x + a * a, y + b * b));
    dot / (a * b).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_equal_opposite_and_unlike_vectors() {
        assert!((cosine(&[3, 4], &[0.6, 0.8]) - 1.0).abs() < 1e-7);
        assert!((cosine(&[3, 4], &[-0.6, -0.8]) + 1.0).abs() < 1e-7);
        assert!(cosine(&[1, 0], &[0.0, 1.0]).abs() < 1e-12);
        assert!(cosine(&[0, 0], &[1.0, 0.0]).is_nan());
        assert!(cosine(&[1], &[1.0, 0.0]).is_nan());
    }

    #[test]
    fn a_report_with_nan_does_not_hold() {
        let report = StratumReport {
            name: "lines",
            texts: 1,
            ids: 1,
            mean: f64::NAN,
            worst: f64::NAN,
            worst_at: String::new(),
            mean_bound: 1.0,
            worst_bound: 1.0,
            exact_time: Duration::from_secs(1),
            reference_time: Duration::from_secs(1),
        };
        assert!(!report.holds());
        assert!(StratumReport { mean: 0.5, worst: 0.5, ..report.clone() }.holds());
        assert!(!StratumReport { mean: 0.5, worst: 1.5, ..report }.holds());
    }
}
