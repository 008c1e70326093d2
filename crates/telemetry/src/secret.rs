//! Values that must not be shown, and the part of a service's address that may be.

use std::fmt;

/// A value that no `Debug`, `Display` or log line shows. Whoever needs it says so by calling [`Secret::expose`].
///
/// ```
/// use quern_telemetry::Secret;
/// let passphrase = Secret::new(String::from("open sesame"));
/// assert_eq!(format!("{passphrase:?}"), "Secret(…)");
/// assert_eq!(passphrase.expose(), "open sesame");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: for the one call that needs it, never for a message.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: std::str::FromStr> std::str::FromStr for Secret<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The part of a service's URL that may be logged: scheme, host and port. User, path and query are cut, because
/// providers of RPC put their access keys there.
///
/// ```
/// use quern_telemetry::endpoint;
/// assert_eq!(endpoint("https://user:pass@rpc.example:8545/v2/KEY?token=KEY"), "https://rpc.example:8545");
/// assert_eq!(endpoint("127.0.0.1:5001/KEY"), "127.0.0.1:5001");
/// ```
#[must_use]
pub fn endpoint(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, url),
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match scheme {
        Some(scheme) => format!("{scheme}://{host}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_shows_nothing_inside_other_structs() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its Debug form is looked at")]
        struct Config {
            key: Secret<String>,
        }
        let shown = format!("{:?}", Config { key: Secret::new("deadbeef".into()) });
        assert!(!shown.contains("deadbeef"), "{shown}");
    }

    #[test]
    fn endpoint_never_shows_a_key() {
        for url in [
            "https://KEY@host/",
            "https://a:KEY@host",
            "https://host/KEY",
            "wss://host?x=KEY",
            "https://host#KEY",
            "https://a@KEY@host/KEY",
            "https://host\\KEY",
            "https://host:1/KEY@x",
        ] {
            let shown = endpoint(url);
            assert!(!shown.contains("KEY"), "{url} is shown as {shown}");
            assert!(shown.contains("host"), "{url} is shown as {shown}");
        }
        assert_eq!(endpoint(""), "");
    }
}
