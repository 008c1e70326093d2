//! How fast the rotations of a family turn: the fields of config.json from which the tables are computed.

use super::{Family, fields::Fields};
use crate::{ModelError, convert::Decimal};

/// Frequencies of the rotary dims: theta^(-2i / dims), scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rope {
    pub(crate) theta: Decimal,
    pub(crate) scaling: Scaling,
}

/// What is done to the frequencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// Nothing.
    None,
    /// Each is divided by the factor.
    Linear {
        /// At least 1.
        factor: Decimal,
    },
    /// Llama 3.1 and later: long waves are divided by the factor, short ones stay, and those between are mixed.
    Llama3 {
        factor: Decimal,
        /// Waves longer than the original context over this one are long.
        low: Decimal,
        /// Waves shorter than the original context over this one are short; above `low`.
        high: Decimal,
        /// Positions of the original context.
        original: u32,
    },
    /// Each is divided by its own f32, given as bits: GGUF's rope_freqs.
    Divisors(Vec<u32>),
}

impl Rope {
    /// The fields of the rotation: `rope_theta` and `rope_scaling`, or, as transformers writes since version 5, both in `rope_parameters`.
    /// A field in there that is not known is refused: it would change the arithmetic.
    pub(crate) fn read(fields: &Fields) -> Result<Self, ModelError> {
        let parameters = fields.object("rope_parameters")?;
        let legacy = fields.object("rope_scaling")?;
        if parameters.is_some() && legacy.is_some() {
            return Err(fields.refuse("rope_scaling", fields.raw("rope_scaling").unwrap_or_default(), "null beside rope_parameters"));
        }
        let inner = parameters.as_ref().filter(|parameters| parameters.has("rope_theta"));
        let theta = match (inner, fields.has("rope_theta")) {
            (Some(inner), outer) => {
                let theta = inner.factor("rope_theta")?;
                if outer && fields.factor("rope_theta")? != theta {
                    let found = fields.raw("rope_theta").unwrap_or_default();
                    return Err(fields.refuse("rope_theta", found, "the number that rope_parameters has"));
                }
                theta
            }
            (None, true) => fields.factor("rope_theta")?,
            // What all of these families take where nothing is said.
            (None, false) => Decimal::from(10_000),
        };
        let scaling = match parameters.or(legacy) {
            Some(scaling) => Scaling::read(&scaling)?,
            None => Scaling::None,
        };
        Ok(Self { theta, scaling })
    }

    /// How many dims of a head are rotated: all, or the part of them that `partial_rotary_factor` says, there or in `rope_parameters`.
    pub(crate) fn dims(fields: &Fields, family: Family, head_dim: u32) -> Result<u32, ModelError> {
        const NAME: &str = "partial_rotary_factor";
        let parameters = fields.object("rope_parameters")?;
        let mut dims = head_dim;
        for fields in [Some(fields), parameters.as_ref()].into_iter().flatten().filter(|fields| fields.has(NAME)) {
            let found = fields.raw(NAME).unwrap_or_default();
            let part = Decimal::parse(found).and_then(|part| part.of(head_dim)).filter(|part| (1..=head_dim).contains(part));
            dims = match part {
                Some(part) if part == head_dim || (family == Family::Phi3 && part % 2 == 0) => part,
                _ if family == Family::Phi3 => {
                    return Err(fields.refuse(NAME, found, format!("a part of {head_dim} dims that is an even number")));
                }
                _ => return Err(fields.refuse(NAME, found, "1.0: this family rotates whole heads")),
            };
        }
        Ok(dims)
    }
}

impl Scaling {
    fn read(fields: &Fields) -> Result<Self, ModelError> {
        const KINDS: [&str; 3] = ["default", "linear", "llama3"];
        // Older files say "type".
        let name = if fields.has("rope_type") { "rope_type" } else { "type" };
        let kind = if fields.has(name) || !fields.has("rope_theta") { fields.text(name, &KINDS)? } else { KINDS[0] };
        let known: &[&str] = match kind {
            "linear" => &["factor"],
            "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            _ => &[],
        };
        for (field, found) in fields.iter() {
            // The last one is read by itself.
            if !["rope_type", "type", "rope_theta", "partial_rotary_factor"].contains(&field) && !known.contains(&field) {
                return Err(fields.refuse(field, found, format!("no such field beside {name} {kind:?}")));
            }
        }
        Ok(match kind {
            "linear" => Self::Linear { factor: fields.factor("factor")? },
            "llama3" => {
                let (low, high) = (fields.factor("low_freq_factor")?, fields.factor("high_freq_factor")?);
                if !low.is_less(high) {
                    return Err(fields.refuse(
                        "high_freq_factor",
                        fields.raw("high_freq_factor").unwrap_or_default(),
                        "more than low_freq_factor",
                    ));
                }
                Self::Llama3 { factor: fields.factor("factor")?, low, high, original: fields.count("original_max_position_embeddings")? }
            }
            _ => Self::None,
        })
    }
}
