//! How a store is opened: what its URL does not say.

use std::fmt;
use std::time::Duration;

/// A value that never appears in Debug output, logs or messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What opening a store needs beyond its URL. The default suits `file://`, and `s3://` with everything in `AWS_*`
/// environment variables.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Settings of `s3://` stores.
    pub s3: S3Options,
    /// Time limits and retries of stores behind a network.
    pub network: NetworkOptions,
    /// How large objects are written in pieces.
    pub write: WriteOptions,
}

/// Settings of `s3://` stores. What is `None` here is taken from the environment variable named.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// URL of the service for anything but AWS (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`). Plain `http://` only if
    /// written so here.
    pub endpoint: Option<String>,
    /// Region (`AWS_REGION`, `AWS_DEFAULT_REGION`; otherwise `us-east-1`).
    pub region: Option<String>,
    /// Access key (`AWS_ACCESS_KEY_ID`).
    pub access_key_id: Option<Secret>,
    /// Secret key (`AWS_SECRET_ACCESS_KEY`).
    pub secret_access_key: Option<Secret>,
    /// Token of a temporary key (`AWS_SESSION_TOKEN`).
    pub session_token: Option<Secret>,
    /// Whether the bucket stands in the host name. By default it stands in the path, which every service takes.
    pub virtual_hosted_style: bool,
    /// Sends no signature, for buckets open to everybody.
    pub anonymous: bool,
}

/// Time limits and retries of stores behind a network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one try of a request may take, its body included.
    pub request_timeout: Duration,
    /// How often a request that failed on the way or with a server's error is tried again.
    pub retries_max: usize,
    /// Time after the first try of a request past which it is not tried again.
    pub retry_timeout: Duration,
    /// Longest pause between two tries. Pauses grow from 50 ms with jitter.
    pub backoff_max: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            retries_max: 6,
            retry_timeout: Duration::from_secs(90),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// How large objects are written in pieces.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Size of a piece in bytes. S3 wants at least 5 MiB and takes at most 10,000 pieces.
    pub part_bytes: usize,
    /// Pieces on their way at once; a writer holds at most `parts_in_flight + 1` pieces in memory.
    pub parts_in_flight: u32,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { part_bytes: 16 << 20, parts_in_flight: 4 }
    }
}

impl S3Options {
    /// These options, with what they leave open taken from `variable(name)`. A key given here is never completed by
    /// half a key from there.
    #[must_use]
    pub(crate) fn or_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        self.endpoint = self.endpoint.or_else(|| first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
        self.region = self.region.or_else(|| first(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        if self.access_key_id.is_none() && self.secret_access_key.is_none() && !self.anonymous {
            self.access_key_id = first(&["AWS_ACCESS_KEY_ID"]).map(Secret);
            self.secret_access_key = first(&["AWS_SECRET_ACCESS_KEY"]).map(Secret);
            self.session_token = first(&["AWS_SESSION_TOKEN"]).map(Secret);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "AWS_ACCESS_KEY_ID" => "env-key",
            "AWS_SECRET_ACCESS_KEY" => "env-secret",
            "AWS_SESSION_TOKEN" => "env-token",
            "AWS_ENDPOINT_URL_S3" => "",
            "AWS_ENDPOINT_URL" => "http://general:1",
            "AWS_DEFAULT_REGION" => "eu-west-1",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let options = StoreOptions { s3: S3Options::default().or_environment(environment), ..Default::default() };
        let shown = format!("{options:?} {options:#?}");
        for secret in ["env-key", "env-secret", "env-token"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("http://general:1"), "what is no secret shows");
    }

    #[test]
    fn options_win_over_the_environment_and_keys_are_never_mixed() {
        let given = S3Options {
            endpoint: Some("https://mine".into()),
            access_key_id: Some(Secret::new("k")),
            secret_access_key: Some(Secret::new("s")),
            ..Default::default()
        }
        .or_environment(environment);
        assert_eq!(given.endpoint.as_deref(), Some("https://mine"));
        assert_eq!(given.region.as_deref(), Some("eu-west-1"));
        assert_eq!(given.secret_access_key, Some(Secret::new("s")));
        assert_eq!(given.session_token, None, "the token belongs to the other key");

        let taken = S3Options::default().or_environment(environment);
        assert_eq!(taken.endpoint.as_deref(), Some("http://general:1"), "an empty variable is an unset one");
        assert_eq!(taken.session_token, Some(Secret::new("env-token")));
    }
}
