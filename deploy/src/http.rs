//! Short HTTP requests to this machine.

use std::{sync::Arc, time::Duration};

use rustls::crypto::ring;
use serde::de::DeserializeOwned;
use ureq::{Agent, Body, http::Response, tls::TlsConfig};

use crate::error::{Error, Result};

/// Milliseconds do; a machine that is busy building may stall for seconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps its connections open between requests. Under TLS it believes any certificate: the
/// conversations look at that.
pub fn agent() -> Agent {
    let tls = TlsConfig::builder()
        .disable_verification(true)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
    Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build()
        .new_agent()
}

/// Gets an answer of any status.
///
/// # Errors
/// There is none.
pub fn get(agent: &Agent, url: &str) -> Result<Response<Body>> {
    agent.get(url).call().map_err(unanswered(url))
}

/// Gets the body of a 200.
///
/// # Errors
/// Any other answer.
pub fn get_ok(url: &str) -> Result<String> {
    expect_ok(url, get(&agent(), url)?)
}

/// Gets a value out of the body of a 200.
///
/// # Errors
/// Any other answer.
pub fn get_json<T: DeserializeOwned>(url: &str) -> Result<T> {
    serde_json::from_str(&get_ok(url)?).map_err(unanswered(url))
}

/// # Errors
/// Any answer but success.
pub fn post(url: &str) -> Result<String> {
    let answer = agent().post(url).send_empty();
    expect_ok(url, answer.map_err(unanswered(url))?)
}

/// # Errors
/// Any answer but success.
pub fn delete(url: &str) -> Result<String> {
    let answer = agent().delete(url).call();
    expect_ok(url, answer.map_err(unanswered(url))?)
}

fn unanswered<E: std::fmt::Display>(url: &str) -> impl FnOnce(E) -> Error + use<E> {
    let url = url.to_owned();
    |error| Error::Http {
        url,
        answer: error.to_string(),
    }
}

fn expect_ok(url: &str, mut response: Response<Body>) -> Result<String> {
    let status = response.status();
    let body = response.body_mut().read_to_string().unwrap_or_default();
    if status.is_success() {
        Ok(body)
    } else {
        Err(Error::Http {
            url: url.to_owned(),
            answer: format!("{status} {body}"),
        })
    }
}
