//! The name of a blob: a CIDv1 with sha2-256, cut down to the two words that the chain stores.

use core::{fmt, str::FromStr};

use alloy_primitives::B256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How the bytes behind a [`ContentId`] are to be read. The value is the multicodec number, which is also what `JobSpec` and
/// `Receipt` carry as `inputCodec` and `outputCodec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ContentCodec {
    /// One block that is the content itself.
    Raw = 0x55,
    /// A dag-pb node: the top of a UnixFS file of more than one block.
    DagPb = 0x70,
}

impl From<ContentCodec> for u8 {
    fn from(codec: ContentCodec) -> Self {
        match codec {
            ContentCodec::Raw => 0x55,
            ContentCodec::DagPb => 0x70,
        }
    }
}

impl TryFrom<u8> for ContentCodec {
    type Error = ContentIdError;

    fn try_from(code: u8) -> Result<Self, ContentIdError> {
        match code {
            0x55 => Ok(Self::Raw),
            0x70 => Ok(Self::DagPb),
            other => Err(ContentIdError::Codec(other)),
        }
    }
}

/// The name of a blob: CIDv1, codec raw or dag-pb, multihash sha2-256 (<https://github.com/multiformats/cid>).
///
/// On the chain it is `(codec u8, digest bytes32)`; as text it is base32 in lower case with the prefix `b`, 59 characters. Both forms
/// are lossless, and each id has exactly one text: [`FromStr`] takes no other spelling of it. It serializes as its text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId {
    /// How the block is read.
    pub codec: ContentCodec,
    /// sha2-256 of the block.
    pub digest: B256,
}

/// Why something is not a [`ContentId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentIdError {
    /// A codec that no job or receipt may name.
    #[error("content codec 0x{0:02x} is neither 0x55 (raw) nor 0x70 (dag-pb)")]
    Codec(u8),
    /// Text that is not the base32 of 36 bytes.
    #[error("not a CIDv1 in base32: want `b` and 58 characters of a-z2-7, as in bafkrei… or bafybei…, got {0:?}")]
    Text(String),
    /// 36 bytes that are something else than a CIDv1 with sha2-256.
    #[error("not a CIDv1 with a sha2-256 digest: prefix {0:02x?}")]
    Prefix([u8; 4]),
    /// Not 36 bytes.
    #[error("a CIDv1 with sha2-256 has 36 bytes, got {0}")]
    Length(usize),
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BINARY_BYTES: usize = 36;
const TEXT_BYTES: usize = 59;

impl ContentId {
    /// The id of these two words of the chain. Errors where `codec` is not one of [`ContentCodec`].
    pub fn from_chain(codec: u8, digest: B256) -> Result<Self, ContentIdError> {
        Ok(Self { codec: codec.try_into()?, digest })
    }

    /// The two words that the chain stores.
    #[must_use]
    pub fn to_chain(self) -> (u8, B256) {
        (self.codec.into(), self.digest)
    }

    /// The binary CID: version, codec, hash function, digest length, digest.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BINARY_BYTES] {
        let mut bytes = [0; BINARY_BYTES];
        bytes[..4].copy_from_slice(&[0x01, self.codec.into(), 0x12, 0x20]);
        bytes[4..].copy_from_slice(self.digest.as_slice());
        bytes
    }

    /// Reads a binary CID of exactly 36 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ContentIdError> {
        let bytes: &[u8; BINARY_BYTES] = bytes.try_into().map_err(|_| ContentIdError::Length(bytes.len()))?;
        let (prefix, digest) = bytes.split_at(4);
        match prefix {
            [0x01, codec, 0x12, 0x20] => Self::from_chain(*codec, B256::from_slice(digest)),
            _ => Err(ContentIdError::Prefix([bytes[0], bytes[1], bytes[2], bytes[3]])),
        }
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(TEXT_BYTES);
        text.push('b');
        let (mut bits, mut held) = (0u32, 0u32);
        for byte in self.to_bytes() {
            bits = (bits << 8) | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
            }
            bits &= (1 << held) - 1;
        }
        // 288 bits are 57 characters and three bits more.
        text.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
        f.pad(&text)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentId {
    type Err = ContentIdError;

    fn from_str(text: &str) -> Result<Self, ContentIdError> {
        let wrong = || ContentIdError::Text(text.chars().take(80).collect());
        let digits = text.strip_prefix('b').ok_or_else(wrong)?;
        if digits.len() != TEXT_BYTES - 1 {
            return Err(wrong());
        }
        let mut bytes = Vec::with_capacity(BINARY_BYTES);
        let (mut bits, mut held) = (0u32, 0u32);
        for digit in digits.bytes() {
            let value = match digit {
                b'a'..=b'z' => digit - b'a',
                b'2'..=b'7' => digit - b'2' + 26,
                _ => return Err(wrong()),
            };
            bits = (bits << 5) | u32::from(value);
            held += 5;
            if held >= 8 {
                held -= 8;
                let [_, _, _, byte] = (bits >> held).to_be_bytes();
                bytes.push(byte);
            }
            bits &= (1 << held) - 1;
        }
        // What is left are two padding bits; a spelling where they are set is another text for the same id.
        if bits != 0 {
            return Err(wrong());
        }
        Self::from_bytes(&bytes)
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use alloy_primitives::b256;

    use super::*;

    /// sha2-256("hello world"); the text form was computed with Python, Rust `cid` and JavaScript `multiformats`, all alike.
    const HELLO: B256 = b256!("b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
    const HELLO_RAW: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    #[test]
    fn text_form_of_a_known_id() {
        let id = ContentId::from_chain(0x55, HELLO).unwrap();
        assert_eq!(id.to_string(), HELLO_RAW);
        assert_eq!(HELLO_RAW.parse::<ContentId>().unwrap(), id);
        assert_eq!(format!("{id:?}"), HELLO_RAW);
    }

    #[test]
    fn every_form_round_trips() {
        for code in [0x55, 0x70] {
            for fill in [0x00, 0x01, 0x7f, 0x80, 0xff, 0xa5] {
                let id = ContentId::from_chain(code, B256::repeat_byte(fill)).unwrap();
                assert_eq!(id.to_chain(), (code, B256::repeat_byte(fill)));
                assert_eq!(ContentId::from_bytes(&id.to_bytes()).unwrap(), id);
                assert_eq!(id.to_string().len(), TEXT_BYTES);
                assert_eq!(id.to_string().parse::<ContentId>().unwrap(), id);
            }
        }
    }

    #[test]
    fn a_foreign_codec_is_refused() {
        for code in (0..=255).filter(|code| ![0x55, 0x70].contains(code)) {
            assert_eq!(ContentId::from_chain(code, HELLO), Err(ContentIdError::Codec(code)));
        }
    }

    #[test]
    fn a_second_spelling_of_an_id_is_refused() {
        let upper = HELLO_RAW.to_uppercase();
        let padded = format!("{HELLO_RAW}=");
        let last_bits_set = format!("{}f", &HELLO_RAW[..58]);
        assert_eq!(last_bits_set.len(), HELLO_RAW.len());
        for text in [upper.as_str(), &padded, &last_bits_set, &HELLO_RAW[1..], &HELLO_RAW[..58], "", "b", "../../etc/passwd"] {
            assert!(matches!(text.parse::<ContentId>(), Err(ContentIdError::Text(_))), "{text}");
        }
    }

    #[test]
    fn version_hash_function_and_digest_length_are_checked() {
        let good = ContentId::from_chain(0x70, HELLO).unwrap().to_bytes();
        for place in [0, 2, 3] {
            let mut bad = good;
            bad[place] ^= 1;
            assert!(matches!(ContentId::from_bytes(&bad), Err(ContentIdError::Prefix(_))));
        }
        assert_eq!(ContentId::from_bytes(&good[..35]), Err(ContentIdError::Length(35)));
        // CIDv0: 46 characters of base58.
        assert!("QmaozNR7DZHQK1ZcU9p7QdrshMvXqWK6gpu5rmrkPdT3L4".parse::<ContentId>().is_err());
    }
}
