//! The bounds of a registrable model. Every proof of integer width beside the ops starts from these numbers (EXACT.md, section 2).

/// Elements of one weight group along K.
pub const GROUP: usize = 128;
/// Greatest vocabulary: 2^24.
pub const VOCABULARY: u32 = 1 << 24;
/// Greatest dim: 2^14.
pub const DIM: u32 = 1 << 14;
/// Most layers.
pub const LAYERS: u32 = 1024;
/// Greatest K of a product: 2^15. Bounds ffn and heads times head dim.
pub const PRODUCT_COLS: u32 = 1 << 15;
/// Greatest head dim: 2^8.
pub const HEAD_DIM: u32 = 256;
/// Greatest context: 2^15 positions.
pub const CONTEXT: u32 = 1 << 15;
/// Greatest E: 2^62 - 1.
pub const EPSILON: u64 = (1 << 62) - 1;
/// Greatest c: 2^25, which is 2 in Q24; head dim 1 needs 1.45.
pub const SCORE_SCALE: u32 = 1 << 25;
/// Most rows of the token type table.
pub const TOKEN_TYPES: u32 = 256;
/// Greatest factor on the word embedding: 2^24, which is 1024 in Q14.
pub const EMBEDDING_SCALE: u32 = 1 << 24;
/// Least shift of a weight row.
pub const ROW_SHIFT_MIN: u8 = 17;
/// Greatest shift of a weight row.
pub const ROW_SHIFT_MAX: u8 = 62;
/// Greatest static shift of a value head: an int32 value shifted by 16 fits int16.
pub const VALUE_SHIFT_MAX: i32 = 16;
