//! 32-byte identifiers that must not be mixed up.

use std::{fmt, str::FromStr};

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// The text is not 32 bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is 0x and 64 hexadecimal digits, found {found:?}")]
pub struct ParseIdError {
    /// Name of the id that was expected.
    pub what: &'static str,
    /// The text that was given.
    pub found: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `B256` shortens its own `Display`; an id is only useful whole.
                write!(f, "{:?}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let fail = || ParseIdError { what: $what, found: text.chars().take(80).collect() };
                if !text.starts_with("0x") || text.len() != 66 {
                    return Err(fail());
                }
                text.parse().map(Self).map_err(|_| fail())
            }
        }

        impl From<B256> for $name {
            fn from(hash: B256) -> Self {
                Self(hash)
            }
        }

        impl From<$name> for B256 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// A job: the EIP-712 digest of its [`JobSpec`](crate::JobSpec).
    JobId,
    "a job id"
);
id!(
    /// An offer of a model: package root, publisher and royalty (PROTOCOL, section 2).
    ModelId,
    "a model id"
);
id!(
    /// The arithmetic of a model: header, weights and tokenizer hash (PROTOCOL, section 2).
    PackageRoot,
    "a package root"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_text_round_trips_whole() {
        let id = JobId(B256::repeat_byte(0xab));
        assert_eq!(id.to_string().len(), 66);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn id_of_wrong_length_is_refused_by_name() {
        let error = "0xabcd".parse::<ModelId>().expect_err("too short");
        assert_eq!(error.to_string(), "a model id is 0x and 64 hexadecimal digits, found \"0xabcd\"");
        assert!("ab".repeat(33).parse::<JobId>().is_err());
    }
}
