use crate::{
    arith::{clamp32, rs},
    bounds::GROUP,
    format::Row,
};

/// The embedding of one position (EXACT.md, section 4.3): the word's row in Q14, plus the position's row, plus token type 0's row;
/// one clamp at the end.
///
/// |w · m| <= 127 · 65535 < 2^23, shifted to Q14 < 2^37; t >= 17, so a word's element is below 2^20 and the sum below 2^33.
///
/// # Panics
/// If the rows differ in length.
#[must_use]
pub fn embed(word: Row<'_>, position: &[i32], token_type: Option<&[i32]>) -> Vec<i32> {
    assert_eq!(word.weights.len(), position.len(), "a word and a position have one width");
    assert!(token_type.is_none_or(|row| row.len() == position.len()), "a token type and a position have one width");
    let word_element = |at: usize| {
        let product = i64::from(word.weights[at]) * i64::from(word.mantissas[at / GROUP]);
        rs(product << 14, u32::from(word.shift))
    };
    let type_element = |at: usize| token_type.map_or(0, |row| i64::from(row[at]));
    (0..position.len()).map(|at| clamp32(word_element(at) + i64::from(position[at]) + type_element(at))).collect()
}

/// The embedding of one position of a decoder (EXACT.md, section 4.3): `rs((w · m) · scale, t)`, `scale` the header's embedding scale in
/// Q14, at most 2^24, where 0 is one.
///
/// |w · m| < 2^23, times the scale < 2^47; t >= 17, so an element is below 2^30.
#[must_use]
pub fn embed_word(word: Row<'_>, scale: u32) -> Vec<i32> {
    let scale = if scale == 0 { 1 << 14 } else { i64::from(scale) };
    let mantissas = word.mantissas.iter().flat_map(|&mantissa| [i64::from(mantissa); GROUP]);
    let elements = word.weights.iter().zip(mantissas);
    elements.map(|(&weight, mantissa)| clamp32(rs(i64::from(weight) * mantissa * scale, u32::from(word.shift)))).collect()
}
