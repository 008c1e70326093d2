use super::BlobError;

/// Reads big-endian numbers; never past the end, never more memory than there are bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], magic: &'static str) -> Result<Self, BlobError> {
        let mut reader = Self { bytes, offset: 0 };
        let [actual] = *reader.numbers::<4>("the magic", 1)? else { return Err(reader.truncated("the magic", 4)) };
        if actual == *magic.as_bytes() { Ok(reader) } else { Err(BlobError::Magic { actual, expected: magic }) }
    }

    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    /// `count` numbers of `WIDTH` bytes each.
    pub(super) fn numbers<const WIDTH: usize>(&mut self, what: &'static str, count: u32) -> Result<&'a [[u8; WIDTH]], BlobError> {
        let needed = u64::from(count) * WIDTH as u64;
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let Some(taken) = usize::try_from(needed).ok().and_then(|needed| rest.get(..needed)) else {
            return Err(self.truncated(what, needed));
        };
        self.offset += taken.len();
        Ok(taken.as_chunks::<WIDTH>().0)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, BlobError> {
        let numbers = self.numbers::<1>(what, 1)?;
        Ok(numbers.iter().fold(0, |_, &[byte]| byte))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, BlobError> {
        let numbers = self.numbers::<4>(what, 1)?;
        Ok(numbers.iter().fold(0, |_, &four| u32::from_be_bytes(four)))
    }

    pub(super) fn end(self) -> Result<(), BlobError> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            extra => Err(BlobError::Trailing { end: self.offset, extra }),
        }
    }

    fn truncated(&self, what: &'static str, needed: u64) -> BlobError {
        BlobError::Truncated { what, offset: self.offset, needed, len: self.bytes.len() }
    }
}
