//! Muon for the layers' matrices, AdamW for the embedding and the gains; both with their state in the open, which a run that resumes needs.
//!
//! AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. Muon: Jordan and others, "Muon: an optimizer for hidden layers in
//! neural networks", 2024, with the step size of Liu and others, "Muon is scalable for LLM training", 2025 (0.2 sqrt(longer side)), so that one
//! learning rate serves both.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::{TrainError, train::on_threads};

const MOMENTUM: f32 = 0.95;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.98;
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.05;
/// Longer gradients are shortened to this.
const LARGEST_NORM: f64 = 1.0;

/// Steps done, and moments by the weights' names: the first alone for Muon, first and second for AdamW.
#[derive(Debug, Default)]
pub(crate) struct Optimiser {
    pub(crate) steps: i32,
    pub(crate) moments: BTreeMap<String, Vec<Tensor>>,
}

impl Optimiser {
    /// Moves the weights against their gradients. Matrices decay, gains do not. Returns the gradient's norm before it was shortened.
    pub(crate) fn step(
        &mut self,
        weights: &BTreeMap<String, Var>,
        gradients: &BTreeMap<String, Tensor>,
        rate: f32,
        threads: usize,
    ) -> Result<f64, TrainError> {
        self.steps += 1;
        let mut square = 0.0;
        for gradient in gradients.values() {
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = square.sqrt();
        let shorten = if norm > LARGEST_NORM { LARGEST_NORM / norm } else { 1.0 };
        let names: Vec<&String> = weights.keys().filter(|name| gradients.contains_key(*name)).collect();
        let moved = on_threads(&names, threads, |name| {
            let gradient = (gradients[*name].detach() * shorten)?;
            let before = self.moments.get(*name).map(Vec::as_slice);
            if name.contains(".layers.") && weights[*name].rank() == 2 {
                Ok(muon(&weights[*name], &gradient, before, f64::from(rate))?)
            } else {
                Ok(adamw(&weights[*name], &gradient, before, rate, self.steps)?)
            }
        })?;
        for (name, (weight, moments)) in names.into_iter().zip(moved) {
            weights[name].set(&weight)?;
            self.moments.insert(name.clone(), moments);
        }
        Ok(norm)
    }
}

/// The weight and its moments after a step.
type Moved = (Tensor, Vec<Tensor>);

fn muon(weight: &Var, gradient: &Tensor, before: Option<&[Tensor]>, rate: f64) -> candle_core::Result<Moved> {
    let momentum = match before {
        Some([momentum, ..]) => ((momentum * f64::from(MOMENTUM))? + gradient)?,
        _ => gradient.clone(),
    };
    let direction = orthogonal(&(gradient + (&momentum * f64::from(MOMENTUM))?)?)?;
    #[allow(clippy::cast_precision_loss, reason = "widths are small")]
    let step = rate * 0.2 * (weight.dims().iter().copied().max().unwrap_or(1) as f64).sqrt();
    let weight = ((weight.as_tensor().detach() * (1.0 - rate * f64::from(WEIGHT_DECAY)))? - (direction * step)?)?;
    Ok((weight, vec![momentum]))
}

/// The matrix with its singular values moved near 1 (0.7 to 1.2), by five Newton-Schulz steps of the fifth degree.
fn orthogonal(matrix: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let wide = if rows > columns { matrix.t()?.contiguous()? } else { matrix.clone() };
    let norm = wide.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let mut x = (wide / f64::from(norm + 1e-7))?;
    for _ in 0..5 {
        let a = x.matmul(&x.t()?)?;
        let b = ((&a * -4.775)? + (a.matmul(&a)? * 2.0315)?)?;
        x = ((&x * 3.4445)? + b.matmul(&x)?)?;
    }
    if rows > columns { x.t()?.contiguous() } else { Ok(x) }
}

fn adamw(weight: &Var, gradient: &Tensor, before: Option<&[Tensor]>, rate: f32, steps: i32) -> candle_core::Result<Moved> {
    let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let (mut values, gradient) = (flat(weight)?, flat(gradient)?);
    let (mut first, mut second) = match before {
        Some([first, second, ..]) => (flat(first)?, flat(second)?),
        _ => (vec![0.0; values.len()], vec![0.0; values.len()]),
    };
    let (correct1, correct2) = (1.0 - BETA1.powi(steps), 1.0 - BETA2.powi(steps));
    let keep = if weight.rank() > 1 { 1.0 - rate * WEIGHT_DECAY } else { 1.0 };
    for (((value, gradient), m), v) in values.iter_mut().zip(&gradient).zip(&mut first).zip(&mut second) {
        *m = BETA1 * *m + (1.0 - BETA1) * gradient;
        *v = BETA2 * *v + (1.0 - BETA2) * gradient * gradient;
        *value = *value * keep - rate * (*m / correct1) / ((*v / correct2).sqrt() + EPSILON);
    }
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, weight.shape(), &Device::Cpu);
    Ok((tensor(values)?, vec![tensor(first)?, tensor(second)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_moves_every_singular_value_near_one() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for (rows, columns) in [(8, 32), (32, 8)] {
            let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-0.01..0.01)).collect();
            let matrix = Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a matrix");
            let run = || {
                let x = orthogonal(&matrix)?;
                let x = if rows > columns { x.t()? } else { x };
                x.matmul(&x.t()?)?.to_vec2::<f32>()
            };
            // The Gram matrix of a matrix with singular values 0.7 to 1.2 has its eigenvalues in 0.49 to 1.44, and so its diagonal.
            for (i, row) in run().expect("runs").iter().enumerate() {
                assert!((0.45..1.5).contains(&row[i]), "{rows} x {columns}: {}", row[i]);
                assert!(row.iter().enumerate().all(|(j, value)| i == j || value.abs() < 0.5), "{rows} x {columns}: {row:?}");
            }
        }
    }
}
