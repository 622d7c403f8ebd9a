//! Requests of other origins: what a trigger's `corsConfig` allows.

use std::sync::Arc;

use farplane_functions_types::CorsConfig;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
};
use http::{HeaderMap, Method};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::route::Route;

/// Whether scripts of this origin may read answers.
fn allows(cors: &CorsConfig, origin: &HeaderValue) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    cors.allow_origins
        .iter()
        .any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
}

/// Lets scripts of this origin read an answer, when they may.
pub(crate) fn allow_origin(cors: &CorsConfig, origin: &HeaderValue, headers: &mut HeaderMap) {
    if !allows(cors, origin) {
        return;
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.allow_credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Ok(list) = HeaderValue::from_str(&cors.expose_headers.join(", "))
        && !list.is_empty()
    {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, list);
    }
}

/// A browser asks before it sends. Without a corsConfig no other origin may.
pub(crate) fn preflight(routes: &[Arc<Route>], asked: &HeaderMap) -> Option<HeaderMap> {
    let origin = asked.get(ORIGIN);
    let method = asked
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .and_then(|it| it.to_str().ok());
    let route = routes.iter().find(|route| {
        method.is_none_or(|wanted| route.methods.iter().any(|it| it.as_str() == wanted))
    });
    let cors = route.and_then(|route| Some((route, route.cors.as_ref()?)));
    let allowed = cors
        .zip(origin)
        .filter(|((_, cors), origin)| allows(cors, origin));
    let ((route, cors), origin) = allowed?;
    let mut headers = HeaderMap::new();
    allow_origin(cors, origin, &mut headers);
    let methods = if cors.allow_methods.is_empty() {
        route.methods.iter().map(Method::to_string).collect()
    } else {
        cors.allow_methods.clone()
    };
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    };
    set(ACCESS_CONTROL_ALLOW_METHODS, methods.join(", "));
    set(ACCESS_CONTROL_ALLOW_HEADERS, cors.allow_headers.join(", "));
    let seconds = match &cors.max_age {
        Some(IntOrString::Int(seconds)) => u64::try_from(*seconds).ok(),
        Some(IntOrString::String(text)) => seconds(text),
        None => None,
    };
    if let Some(seconds) = seconds {
        set(ACCESS_CONTROL_MAX_AGE, seconds.to_string());
    }
    Some(headers)
}

/// Seconds of a number, or of a duration such as `1h30m`.
fn seconds(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, unit) = (rest[..end].parse::<u64>().ok()?, rest.get(end..=end)?);
        let factor = match unit {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_seconds_or_durations() {
        for (text, expected) in [
            ("600", Some(600)),
            ("10m", Some(600)),
            ("1h0m30s", Some(3630)),
            ("", None),
            ("m", None),
            ("5d", None),
            ("10m5", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
