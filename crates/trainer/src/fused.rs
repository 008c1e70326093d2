//! The steps between matrix products, each with its gradient, in one pass over memory each: composed of candle's operations they would take longer
//! than the products. All work on contiguous f32 on the CPU.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// An operation of one tensor: values to values, and (argument, result, gradient of the result) to the gradient of the argument.
struct Fused<F, B> {
    name: &'static str,
    shape: Shape,
    forward: F,
    backward: B,
}

impl<F, B> CustomOp1 for Fused<F, B>
where
    F: Fn(&[f32]) -> Vec<f32>,
    B: Fn(&[f32], &[f32], &[f32]) -> Vec<f32>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = (self.forward)(contiguous(storage, layout)?);
        Ok((CpuStorage::F32(values), self.shape.clone()))
    }

    fn bwd(&self, argument: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (a, al) = argument.storage_and_layout();
        let (r, rl) = result.storage_and_layout();
        let (g, gl) = gradient.storage_and_layout();
        let values = (self.backward)(contiguous(cpu(&a)?, al)?, contiguous(cpu(&r)?, rl)?, contiguous(cpu(&g)?, gl)?);
        Ok(Some(Tensor::from_vec(values, argument.shape(), argument.device())?))
    }
}

fn cpu(storage: &candle_core::Storage) -> Result<&CpuStorage> {
    match storage {
        candle_core::Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("training runs on the CPU"),
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::msg("the tensor is not contiguous"))?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

fn apply<F, B>(x: &Tensor, name: &'static str, shape: impl Into<Shape>, forward: F, backward: B) -> Result<Tensor>
where
    F: Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
    B: Fn(&[f32], &[f32], &[f32]) -> Vec<f32> + Send + Sync + 'static,
{
    x.contiguous()?.apply_op1(Fused { name, shape: shape.into(), forward, backward })
}

/// e^x to three units in the last place for x in [-87, 88], 0 below; written so that compilers turn it into vector code.
#[inline]
fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, whose low bits are the float's.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let series =
        1.0 + rest * (1.0 + rest * (0.5 + rest * (0.166_666_67 + rest * (0.041_666_57 + rest * (0.008_333_68 + rest * 0.001_393_14)))));
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000)) * series
}

/// Sum in eight lanes: vector code, and better rounded than one by one.
#[inline]
fn sum(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (index, value) in values.enumerate() {
        lanes[index % 8] += value;
    }
    lanes.iter().sum()
}

/// Rows divided by their root mean square.
#[allow(clippy::cast_precision_loss, reason = "widths are small")]
pub(crate) fn normalise(x: &Tensor, epsilon: f32) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let scale = move |row: &[f32]| (sum(row.iter().map(|v| v * v)) / width as f32 + epsilon).sqrt().recip();
    let forward = move |x: &[f32]| {
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let scale = scale(row);
            out.extend(row.iter().map(|v| v * scale));
        }
        out
    };
    let backward = move |x: &[f32], y: &[f32], g: &[f32]| {
        let mut out = Vec::with_capacity(x.len());
        for ((x, y), g) in x.chunks_exact(width).zip(y.chunks_exact(width)).zip(g.chunks_exact(width)) {
            let (scale, mean) = (scale(x), sum(y.iter().zip(g).map(|(y, g)| y * g)) / width as f32);
            out.extend(y.iter().zip(g).map(|(y, g)| scale * (g - y * mean)));
        }
        out
    };
    apply(x, "normalise", x.shape().clone(), forward, backward)
}

/// Rows of (gate, up) to silu(gate) * up.
pub(crate) fn gated(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = width / 2;
    let forward = move |x: &[f32]| {
        let mut out = Vec::with_capacity(x.len() / 2);
        for row in x.chunks_exact(width) {
            let (gate, up) = row.split_at(half);
            out.extend(gate.iter().zip(up).map(|(gate, up)| gate * up / (1.0 + exp(-gate))));
        }
        out
    };
    let backward = move |x: &[f32], _: &[f32], g: &[f32]| {
        let mut out = vec![0.0; x.len()];
        for ((row, g), out) in x.chunks_exact(width).zip(g.chunks_exact(half)).zip(out.chunks_exact_mut(width)) {
            let ((gate, up), (out_gate, out_up)) = (row.split_at(half), out.split_at_mut(half));
            for ((((gate, up), g), out_gate), out_up) in gate.iter().zip(up).zip(g).zip(out_gate).zip(out_up) {
                let sigmoid = 1.0 / (1.0 + exp(-gate));
                *out_up = g * gate * sigmoid;
                *out_gate = g * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
            }
        }
        out
    };
    apply(x, "gated", (rows, half), forward, backward)
}

/// softmax(scale * x) over each row's visible columns: `seen` and one more for each row of a period of `length` rows.
pub(crate) fn causal_softmax(x: &Tensor, scale: f32, seen: usize, length: usize) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let visible = move |row: usize| seen + row % length + 1;
    let forward = move |x: &[f32]| {
        let mut out = vec![0.0; x.len()];
        for (index, (row, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let row = &row[..visible(index)];
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (out, x) in out.iter_mut().zip(row) {
                *out = exp(scale * (x - largest));
            }
            let share = sum(out[..row.len()].iter().copied()).recip();
            out[..row.len()].iter_mut().for_each(|out| *out *= share);
        }
        out
    };
    let backward = move |_: &[f32], p: &[f32], g: &[f32]| {
        let mut out = Vec::with_capacity(p.len());
        for (p, g) in p.chunks_exact(width).zip(g.chunks_exact(width)) {
            let mean = sum(p.iter().zip(g).map(|(p, g)| p * g));
            out.extend(p.iter().zip(g).map(|(p, g)| scale * p * (g - mean)));
        }
        out
    };
    apply(x, "causal softmax", x.shape().clone(), forward, backward)
}

/// Sum over rows of -ln of the target's share, nats, times `weight`.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32], weight: f32) -> Result<Tensor> {
    let width = logits.dim(1)?;
    let targets: Arc<[u32]> = targets.into();
    let shares = move |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (largest, sum(row.iter().map(|x| exp(x - largest))))
    };
    let own = Arc::clone(&targets);
    let forward = move |x: &[f32]| {
        let losses = x.chunks_exact(width).zip(own.iter()).map(|(row, target)| {
            let (largest, total) = shares(row);
            f64::from(total.ln() + largest - row[*target as usize])
        });
        #[allow(clippy::cast_possible_truncation, reason = "f32 throughout")]
        let loss = losses.sum::<f64>() as f32 * weight;
        vec![loss]
    };
    let backward = move |x: &[f32], _: &[f32], g: &[f32]| {
        let mut out = Vec::with_capacity(x.len());
        for (row, target) in x.chunks_exact(width).zip(targets.iter()) {
            let (largest, total) = shares(row);
            let scale = g[0] * weight / total;
            let start = out.len();
            out.extend(row.iter().map(|x| scale * exp(x - largest)));
            out[start + *target as usize] -= g[0] * weight;
        }
        out
    };
    apply(logits, "cross entropy", (), forward, backward)
}

/// How rows of heads, (batch x positions, key heads x group x head), and heads of rows, (key heads x batch, group x positions, head), correspond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) batch: usize,
    pub(crate) length: usize,
    pub(crate) key_heads: usize,
    pub(crate) group: usize,
    pub(crate) head: usize,
}

/// Cosines and sines of (positions, half a head) from the first position of the batch on.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) cos: Arc<[f32]>,
    pub(crate) sin: Arc<[f32]>,
}

impl Heads {
    /// Each (place in rows, place in heads, position).
    fn places(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let Self { batch, length, key_heads, group, head } = self;
        (0..batch * length).flat_map(move |row| {
            let (b, t) = (row / length, row % length);
            (0..key_heads * group).map(move |h| {
                let (k, g) = (h / group, h % group);
                ((row * key_heads * group + h) * head, (((k * batch + b) * group + g) * length + t) * head, t)
            })
        })
    }

    /// Rows to heads, rotated by position.
    pub(crate) fn split(self, rows: &Tensor, rotation: Option<Rotation>) -> Result<Tensor> {
        let back = rotation.clone();
        let forward = move |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            for (row, heads, position) in self.places() {
                turn(&x[row..row + self.head], &mut out[heads..heads + self.head], rotation.as_ref(), position, 1.0);
            }
            out
        };
        let backward = move |_: &[f32], _: &[f32], g: &[f32]| {
            let mut out = vec![0.0; g.len()];
            for (row, heads, position) in self.places() {
                turn(&g[heads..heads + self.head], &mut out[row..row + self.head], back.as_ref(), position, -1.0);
            }
            out
        };
        apply(rows, "split heads", (self.key_heads * self.batch, self.group * self.length, self.head), forward, backward)
    }

    /// Heads to rows.
    pub(crate) fn join(self, heads: &Tensor) -> Result<Tensor> {
        let forward = move |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            for (row, heads, _) in self.places() {
                out[row..row + self.head].copy_from_slice(&x[heads..heads + self.head]);
            }
            out
        };
        let backward = move |_: &[f32], _: &[f32], g: &[f32]| {
            let mut out = vec![0.0; g.len()];
            for (row, heads, _) in self.places() {
                out[heads..heads + self.head].copy_from_slice(&g[row..row + self.head]);
            }
            out
        };
        apply(heads, "join heads", (self.batch * self.length, self.key_heads * self.group * self.head), forward, backward)
    }
}

/// Rotates (x[i], x[i + half]) by the position's angles, forwards or backwards.
fn turn(x: &[f32], out: &mut [f32], rotation: Option<&Rotation>, position: usize, direction: f32) {
    let Some(Rotation { cos, sin }) = rotation else { return out.copy_from_slice(x) };
    let half = x.len() / 2;
    let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
    let ((x1, x2), (out1, out2)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        out1[i] = x1[i] * cos[i] - direction * x2[i] * sin[i];
        out2[i] = x2[i] * cos[i] + direction * x1[i] * sin[i];
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Var};

    use super::*;

    fn noise(shape: &[usize], seed: u64) -> Tensor {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has")
    }

    /// Largest difference of two functions of x, in value and in the gradient of their values' dot product with noise.
    fn difference(x: &Tensor, ours: impl Fn(&Tensor) -> Result<Tensor>, theirs: impl Fn(&Tensor) -> Result<Tensor>) -> f32 {
        let largest = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        let run = || {
            let x = Var::from_tensor(x)?;
            let (a, b) = (ours(&x)?, theirs(&x)?);
            let weights = noise(a.dims(), 7);
            let gradient =
                |y: &Tensor| Ok::<_, candle_core::Error>((y * &weights)?.sum_all()?.backward()?.get(&x).expect("x has a gradient").clone());
            Ok::<_, candle_core::Error>(largest(&a, &b)?.max(largest(&gradient(&a)?, &gradient(&b)?)?))
        };
        run().expect("both run")
    }

    #[test]
    fn exp_is_within_three_units_of_the_last_place() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) / right - 1.0).abs() < 4e-7, "exp({x}) = {}, not {right}", exp(x));
        }
    }

    #[test]
    fn normalise_agrees_with_candle_in_value_and_gradient() {
        let ones = Tensor::ones(24, candle_core::DType::F32, &Device::Cpu).expect("ones");
        assert!(difference(&noise(&[5, 24], 1), |x| normalise(x, 1e-5), |x| candle_nn::ops::rms_norm_slow(x, &ones, 1e-5)) < 1e-5);
    }

    #[test]
    fn gated_agrees_with_candle_in_value_and_gradient() {
        let theirs = |x: &Tensor| x.narrow(1, 0, 12)?.silu()? * x.narrow(1, 12, 12)?;
        assert!(difference(&noise(&[5, 24], 2), gated, theirs) < 1e-5);
    }

    #[test]
    fn causal_softmax_agrees_with_candle_in_value_and_gradient() {
        let mask: Vec<f32> =
            (0..6).flat_map(|row| (0..5).map(move |column| if column > 2 + row % 3 { f32::NEG_INFINITY } else { 0.0 })).collect();
        let mask = Tensor::from_vec(mask, (6, 5), &Device::Cpu).expect("6 x 5");
        let theirs = |x: &Tensor| candle_nn::ops::softmax(&(x * 0.5)?.broadcast_add(&mask)?, D::Minus1);
        assert!(difference(&noise(&[2, 6, 5], 3), |x| causal_softmax(x, 0.5, 2, 3), theirs) < 1e-5);
    }

    #[test]
    fn cross_entropy_agrees_with_candle_in_value_and_gradient() {
        let targets = Tensor::new(&[3_u32, 0, 9], &Device::Cpu).expect("targets");
        let theirs = |x: &Tensor| candle_nn::loss::cross_entropy(x, &targets)? * 0.75;
        assert!(difference(&noise(&[3, 10], 4), |x| cross_entropy(x, &[3, 0, 9], 0.25), theirs) < 1e-5);
    }

    #[test]
    fn heads_agree_with_candle_in_value_and_gradient() {
        let shape = Heads { batch: 2, length: 3, key_heads: 2, group: 2, head: 4 };
        let angles: Vec<f32> = (0..6).map(|i| i as f32 * 0.3).collect();
        let table = |f: fn(f32) -> f32| angles.iter().map(|angle| f(*angle)).collect::<Vec<_>>();
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let rotation = Rotation { cos: cos.clone().into(), sin: sin.clone().into() };
        let (cos, sin) =
            (Tensor::from_vec(cos, (3, 2), &Device::Cpu).expect("cos"), Tensor::from_vec(sin, (3, 2), &Device::Cpu).expect("sin"));
        let theirs = |x: &Tensor| {
            let heads = x.reshape((2, 3, 4, 4))?.transpose(1, 2)?.contiguous()?;
            let turned = candle_nn::rotary_emb::rope_slow(&heads, &cos, &sin)?;
            turned.reshape((2, 2, 6, 4))?.transpose(0, 1)?.reshape((4, 6, 4))
        };
        assert!(difference(&noise(&[6, 16], 5), |x| shape.split(x, Some(rotation.clone())), theirs) < 1e-6);
        assert_eq!(difference(&noise(&[6, 16], 6), |x| shape.join(&shape.split(x, None)?), |x| x.affine(1.0, 0.0)), 0.0);
    }
}
