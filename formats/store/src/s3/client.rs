//! The S3 client: endpoint, credentials, time limits.

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, HeaderValue, RetryConfig};

use crate::error::StoreError;
use crate::options::{NetworkOptions, S3Options, StoreOptions};

/// Environment variables with which AWS hands a role to a process, and the settings they become.
const ROLE_VARIABLES: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// A client for `bucket`. Keys come from the options, from `AWS_*`, or, on AWS itself, from the role of the process or
/// of the machine.
pub(super) fn build(url: &str, bucket: &str, options: &StoreOptions) -> Result<AmazonS3, StoreError> {
    let variable = |name: &str| std::env::var(name).ok();
    let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
    let s3 = options.s3.clone().or_environment(variable);
    install_tls_provider();

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(s3.virtual_hosted_style)
        .with_retry(retries(options.network))
        .with_client_options(client_options(options.network));
    if let Some(endpoint) = &s3.endpoint {
        let plain = check_endpoint(endpoint).map_err(bad)?;
        builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(plain);
    }
    builder = with_credentials(builder, &s3, variable).map_err(bad)?;
    builder.build().map_err(|error| bad(error.to_string()))
}

/// TLS by rustls with ring. Whoever installed a provider for the process before is left alone.
fn install_tls_provider() {
    // The error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Whether the endpoint is plain HTTP, which it may be only if written so.
fn check_endpoint(endpoint: &str) -> Result<bool, String> {
    // The text itself may hold a password, and is not repeated.
    let parsed = url::Url::parse(endpoint).map_err(|error| format!("the endpoint is not a URL: {error}"))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("user names and passwords do not belong into an endpoint".into());
    }
    // An http URL without a host does not parse.
    match parsed.scheme() {
        "https" => Ok(false),
        "http" => Ok(true),
        other => Err(format!("the endpoint begins with `{other}:`; it must be an https:// or http:// URL")),
    }
}

fn with_credentials(
    builder: AmazonS3Builder,
    s3: &S3Options,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<AmazonS3Builder, String> {
    if s3.anonymous {
        return Ok(builder.with_skip_signature(true));
    }
    match (&s3.access_key_id, &s3.secret_access_key) {
        (Some(id), Some(secret)) => {
            let builder = builder.with_access_key_id(id.reveal()).with_secret_access_key(secret.reveal());
            Ok(match &s3.session_token {
                Some(token) => builder.with_token(token.reveal()),
                None => builder,
            })
        }
        (Some(_), None) => {
            Err("there is an access key (AWS_ACCESS_KEY_ID) but no secret key (AWS_SECRET_ACCESS_KEY)".into())
        }
        (None, Some(_)) => {
            Err("there is a secret key (AWS_SECRET_ACCESS_KEY) but no access key (AWS_ACCESS_KEY_ID)".into())
        }
        (None, None) => {
            let mut roles =
                ROLE_VARIABLES.into_iter().filter_map(|(name, key)| Some((key, variable(name)?))).peekable();
            if roles.peek().is_none() && s3.endpoint.is_some() {
                // Asking the machine for its role makes sense on AWS only, and takes long to fail elsewhere.
                return Err(
                    "there are no keys for this endpoint; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into()
                );
            }
            Ok(roles.fold(builder, |builder, (key, value)| builder.with_config(key, value)))
        }
    }
}

fn retries(network: NetworkOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: std::time::Duration::from_millis(50),
            max_backoff: network.backoff_max,
            base: 2.0,
        },
        max_retries: network.retries_max,
        retry_timeout: network.retry_timeout,
    }
}

fn client_options(network: NetworkOptions) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(network.connect_timeout)
        .with_timeout(network.request_timeout)
        .with_user_agent(HeaderValue::from_static(concat!("featurekv/", env!("CARGO_PKG_VERSION"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;

    fn keys() -> S3Options {
        S3Options {
            endpoint: Some("http://127.0.0.1:1".into()),
            access_key_id: Some(Secret::new("THE-ID")),
            secret_access_key: Some(Secret::new("THE-SECRET")),
            ..Default::default()
        }
    }

    fn built(s3: S3Options) -> Result<AmazonS3, StoreError> {
        build("s3://bucket", "bucket", &StoreOptions { s3, ..Default::default() })
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_refused_without_repeating_a_password() {
        for (endpoint, named) in [
            ("localhost:9000", "must be an https:// or http:// URL"),
            ("ftp://host", "`ftp:`"),
            ("nonsense", "not a URL"),
            ("http://", "not a URL"),
            ("https://user:hunter2@host", "do not belong"),
        ] {
            let error = built(S3Options { endpoint: Some(endpoint.into()), ..keys() }).expect_err(endpoint);
            assert!(error.to_string().contains(named), "{endpoint}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert_eq!(check_endpoint("https://s3.example.com/"), Ok(false));
        assert_eq!(check_endpoint("http://127.0.0.1:9000"), Ok(true));
    }

    #[test]
    fn half_a_key_is_refused_and_so_is_an_endpoint_without_one() {
        let none = |_: &str| None;
        for (id, secret, named) in [
            (true, false, "no secret key"),
            (false, true, "no access key"),
            (false, false, "no keys for this endpoint"),
        ] {
            let mut s3 = keys();
            s3.access_key_id = s3.access_key_id.filter(|_| id);
            s3.secret_access_key = s3.secret_access_key.filter(|_| secret);
            let error = with_credentials(AmazonS3Builder::new(), &s3, none).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
        let s3 = S3Options { anonymous: true, access_key_id: None, secret_access_key: None, ..keys() };
        assert!(with_credentials(AmazonS3Builder::new(), &s3, none).is_ok());
    }
}
