//! How far a decoder's distributions are from the float model's, over a corpus: Kullback-Leibler divergence and agreement on the likeliest id.

use std::sync::Arc;

use quern_exact::{
    decoder::{Decoder, Workspace},
    kernels::{Operands, Packed, Pool, linear_into},
};

use crate::{Corpus, DecoderReference, ModelError, Package, Stratum};

/// Ids of a text that are compared: float attention of longer ones takes long, and says nothing else.
const IDS: usize = 256;
/// Rows whose logits are in memory at a time.
const ROWS: usize = 32;
/// Largest mean of the divergence, in nats. Random weights, which average least away, have 1.6e-3; trained models less than a tenth of the bound.
const MEAN_BOUND: f64 = 5e-3;
/// Least part of the positions at which both find the same id likeliest. Where they do not, two ids are about equally likely.
const AGREEMENT_BOUND: f64 = 0.97;

/// What one stratum came to.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergenceReport {
    /// Its name.
    pub name: &'static str,
    /// Number of texts.
    pub texts: usize,
    /// Positions that were compared.
    pub positions: usize,
    /// Mean divergence over positions, nats.
    pub mean: f64,
    /// Largest divergence of a position, nats.
    pub worst: f64,
    /// File and line of the text with the largest.
    pub worst_at: String,
    /// Part of the positions where both find the same id likeliest.
    pub agreement: f64,
    /// The bound of the mean.
    pub mean_bound: f64,
    /// The bound of the agreement.
    pub agreement_bound: f64,
}

impl DivergenceReport {
    /// Whether both bounds hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.mean <= self.mean_bound && self.agreement >= self.agreement_bound
    }
}

/// Computes the first 256 ids of every text of the corpus exactly, on the threads of a pool, and in floats, and compares the logits of every position.
///
/// # Errors
/// A package of an encoder, or a reference of another shape than the package.
pub fn divergence(
    package: &Package,
    reference: &DecoderReference,
    corpus: &Corpus,
    pool: &Arc<Pool>,
) -> Result<Vec<DivergenceReport>, ModelError> {
    let model = package.model()?;
    let head = Packed::new(model.weights().logits());
    drop(model);
    let exact = Exact { decoder: package.decoder(Arc::clone(pool))?, head, pool };
    corpus.strata.iter().map(|stratum| measure(package, &exact, reference, stratum)).collect()
}

struct Exact<'a> {
    decoder: Decoder,
    head: Packed,
    pool: &'a Pool,
}

impl Exact<'_> {
    /// Logits of every position.
    fn logits(&self, ids: &[u32]) -> Result<Vec<Vec<i32>>, ModelError> {
        let (dim, vocabulary) = (self.head.cols(), self.head.rows());
        let mut work = Workspace::new(self.decoder.header(), ROWS);
        let mut cache = self.decoder.cache(ids.len())?;
        let mut logits = Vec::with_capacity(ids.len());
        self.decoder.prefill(&mut work, &mut cache, ids, |_, rows| {
            let mut operands = Operands::new(self.pool.isa());
            operands.fill(self.pool, rows, dim);
            let mut out = vec![0; rows.len() / dim * vocabulary];
            linear_into(self.pool, &mut [(&self.head, &mut out)], &operands);
            logits.extend(out.chunks(vocabulary).map(<[i32]>::to_vec));
        })?;
        Ok(logits)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a corpus is small")]
fn measure(package: &Package, exact: &Exact<'_>, reference: &DecoderReference, stratum: &Stratum) -> Result<DivergenceReport, ModelError> {
    let (mut positions, mut sum, mut agree) = (0usize, 0.0, 0usize);
    let (mut worst, mut worst_at) = (0.0, String::new());
    for (place, text) in &stratum.texts {
        let mut ids = package.tokenizer().encode(text)?;
        ids.truncate(IDS.min(package.header().context as usize));
        if ids.is_empty() {
            continue;
        }
        let float = reference.rows(&ids)?.logits;
        for (exact, float) in exact.logits(&ids)?.iter().zip(&float) {
            if exact.len() != float.len() {
                return Err(ModelError::Reference {
                    doing: format!("comparing {place}"),
                    reason: format!("the reference has {} logits, the package {}", float.len(), exact.len()),
                });
            }
            let exact: Vec<f64> = exact.iter().map(|x| f64::from(*x) / 16_384.0).collect();
            let float: Vec<f64> = float.iter().map(|x| f64::from(*x)).collect();
            let distance = nats(&float, &exact);
            positions += 1;
            sum += distance;
            agree += usize::from(likeliest(&exact) == likeliest(&float));
            // A NaN must not pass as small.
            if distance > worst || distance.is_nan() {
                (worst, worst_at) = (distance, place.clone());
            }
        }
    }
    if positions == 0 {
        return Err(ModelError::Corpus { path: stratum.name.into(), reason: "no text has a token".to_owned() });
    }
    Ok(DivergenceReport {
        name: stratum.name,
        texts: stratum.texts.len(),
        positions,
        mean: sum / positions as f64,
        worst,
        worst_at,
        agreement: agree as f64 / positions as f64,
        mean_bound: MEAN_BOUND,
        agreement_bound: AGREEMENT_BOUND,
    })
}

/// The divergence of the distribution of logits `q` from that of `p`.
fn nats(p: &[f64], q: &[f64]) -> f64 {
    let log_softmax = |logits: &[f64]| {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
        logits.iter().map(|x| x - log_sum).collect::<Vec<_>>()
    };
    log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The lowest of the ids with the largest logit.
fn likeliest(logits: &[f64]) -> Option<usize> {
    let best =
        |best: Option<(usize, f64)>, (at, x): (usize, &f64)| if best.is_some_and(|(_, most)| most >= *x) { best } else { Some((at, *x)) };
    logits.iter().enumerate().fold(None, best).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_distributions_by_hand() {
        assert!(nats(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]).abs() < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4): ln 2 - ln 3 / 2.
        let found = nats(&[0.0, 0.0], &[0.0, 3f64.ln()]);
        assert!((found - (2f64.ln() - 3f64.ln() / 2.0)).abs() < 1e-12, "{found}");
        assert!(nats(&[0.0, f64::NAN], &[0.0, 0.0]).is_nan());
    }

    #[test]
    fn the_lowest_of_equal_ids_is_likeliest() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, 2.0]), Some(1));
        assert_eq!(likeliest(&[]), None);
    }
}
