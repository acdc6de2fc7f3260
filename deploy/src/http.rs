//! Short HTTP requests to this machine.

use std::time::Duration;

use ureq::{Agent, Body, http::Response};

use crate::error::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps its connections open between requests.
pub fn agent() -> Agent {
    Agent::config_builder()
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
    agent.get(url).call().map_err(|error| Error::Http {
        url: url.to_owned(),
        answer: error.to_string(),
    })
}

/// Gets the body of a 200.
///
/// # Errors
/// Any other answer.
pub fn get_ok(url: &str) -> Result<String> {
    let mut response = get(&agent(), url)?;
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
