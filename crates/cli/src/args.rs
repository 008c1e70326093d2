//! Values of command lines that several commands take.

use quern_types::{Address, Amount, Head};

/// A whole number of tokens with at most 18 decimals: `12.5`.
///
/// # Errors
/// Not such a number; nothing.
pub fn tokens(text: &str) -> Result<Amount, String> {
    let amount = price(text)?;
    if amount.is_zero() { Err("nothing is no amount: write more than 0".into()) } else { Ok(amount) }
}

/// As [`tokens`], and 0 is one too.
///
/// # Errors
/// Not such a number.
pub fn price(text: &str) -> Result<Amount, String> {
    Amount::from_tokens(text).map_err(|error| error.to_string())
}

/// An address. Where its letters are of both cases they are a checksum (EIP-55), and a mistyped one is refused: money would go to nobody.
///
/// # Errors
/// Not an address; a wrong checksum.
pub fn address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|_| "not an address: write 0x and 40 hexadecimal digits".to_owned())?;
    let letters = text.trim_start_matches("0x");
    let mixed = letters.bytes().any(|byte| byte.is_ascii_uppercase()) && letters.bytes().any(|byte| byte.is_ascii_lowercase());
    if mixed && address.to_checksum(None).trim_start_matches("0x") != letters {
        return Err("its checksum is wrong, so at least one character is: copy it again, and do not correct it by hand".into());
    }
    Ok(address)
}

/// What a block must stand under: `latest`, `safe`, `finalized`.
///
/// # Errors
/// Another word.
pub fn head(text: &str) -> Result<Head, String> {
    match text {
        "latest" => Ok(Head::Latest),
        "safe" => Ok(Head::Safe),
        "finalized" => Ok(Head::Finalized),
        _ => Err("write latest, safe or finalized".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amount_is_whole_tokens_and_more_than_nothing() {
        assert_eq!(tokens("12.5"), Ok(Amount::from_units(12_500_000_000_000_000_000)));
        assert_eq!(price("0"), Ok(Amount::ZERO));
        for text in ["0", "0.0", "-1", "", "1e3", "1,5", "0.0000000000000000001"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mistyped_address_is_refused_and_one_without_checksum_is_taken() {
        let right = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        let lower = right.to_lowercase();
        assert_eq!(address(right), address(&lower));
        assert!(address(right).is_ok());
        assert!(address(&right.replace("0xf39F", "0xf39f")).is_err_and(|error| error.contains("checksum")));
        for text in ["", "0x", "alice", &right[..41]] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
